// The overview: which cards are shown, and in which order.

const filters = $("#filters");
const collator = new Intl.Collator(undefined, { numeric: true });
let rows = []; // what is filtered and sorted by
let all = 0; // images
let shown = []; // indices of rows

const value = (text) => (text === "" ? NaN : Number(text));

// A row of the index, see write.py.
function keyed([file, name, status, prediction, ...more]) {
  const [lam, plausibility, prob_before, prob_after] = more.map((number) => number ?? NaN);
  return {
    file,
    case: name,
    status: facts.statuses[status],
    prediction: String(prediction),
    lam,
    plausibility,
    prob_before,
    prob_after,
    opens: more[4] === 1,
    names: `${file} ${name}`.toLowerCase(),
  };
}

// Whether a row passes the filters as they stand.
function passing() {
  const { elements } = filters;
  const ticked = $$("input[name=status]", filters)
    .filter((box) => box.checked)
    .map((box) => box.value);
  const prediction = elements.prediction.value;
  const part = elements.text.value.trim().toLowerCase();
  const bounds = ["lam", "plausibility"].map((column) => [
    column,
    ...["from", "to"].map((end) => value(elements[`${column}-${end}`].value)),
  ]);
  return (row) =>
    ticked.includes(row.status) &&
    (prediction === "" || row.prediction === prediction) &&
    row.names.includes(part) &&
    bounds.every(([column, from, to]) => {
      const v = row[column];
      return (Number.isNaN(from) || v >= from) && (Number.isNaN(to) || v <= to);
    });
}

const missing = (v) => v === "" || Number.isNaN(v);
function order() {
  const sort = filters.elements.sort.value;
  const way = filters.elements.descending.checked ? -1 : 1;
  if (!sort) return (a, b) => way * (a - b);
  return (a, b) => {
    const [u, v] = [rows[a][sort], rows[b][sort]];
    if (missing(u) || missing(v)) return missing(u) - missing(v) || a - b; // they come last
    return way * (typeof u === "string" ? collator.compare(u, v) : u - v) || a - b;
  };
}

// An image can have several rows, one for each counterfactual.
const images = (list) => new Set(list.map((i) => rows[i].file || i)).size;

function arrange() {
  const passes = passing();
  shown = [...rows.keys()].filter((i) => passes(rows[i])).sort(order());
  build();
  const some = images(shown);
  $("#found").textContent =
    some === all ? `${all} image${all === 1 ? "" : "s"}` : `${some} of ${all} images`;
  $("#paper").hidden = shown.length <= facts.chunk;
}

async function begin() {
  try {
    rows = (await bring("page/index.js")).map(keyed);
  } catch (error) {
    $("#found").textContent = error.message;
    return;
  }
  all = images([...rows.keys()]);
  arrange();
  filters.addEventListener("input", arrange);
  filters.addEventListener("reset", () => setTimeout(arrange));
}

filters.addEventListener("submit", (event) => event.preventDefault());

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The lines of results.csv that are shown, chunk by chunk.
$("#csv").addEventListener("click", async () => {
  const text = Array(shown.length);
  for (const [k, i] of [...shown.entries()].sort(([, i], [, j]) => i - j)) {
    const chunk = chunkOf(i);
    if (!chunk.lines) await chunk.here;
    if (chunk.trouble) return void ($("#found").textContent = chunk.trouble);
    text[k] = chunk.lines[i % facts.chunk];
  }
  save("results.csv", new Blob([facts.head, ...text], { type: "text/csv" }));
});

// Dark or light: what the system says, until the reader says otherwise.
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = (name) => {
  document.documentElement.dataset.theme = name;
};
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
$("#theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
});
