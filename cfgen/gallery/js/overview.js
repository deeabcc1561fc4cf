// The overview: which cards are shown, and in which order.

const cards = $$(".card");
const rows = facts.rows.map((cells) =>
  Object.fromEntries(facts.columns.map((name, i) => [name, cells[i] ?? ""])),
);
const filters = $("#filters");
let shown = cards.map((_, i) => i);

const value = (text) => (text === "" || text === undefined ? NaN : Number(text));

// Whether a row passes the filters as they stand.
function passing() {
  const { elements } = filters;
  const ticked = $$("input[name=status]", filters)
    .filter((box) => box.checked)
    .map((box) => box.value);
  const asked = elements.prediction.selectedOptions[0].dataset;
  const part = elements.text.value.trim().toLowerCase();
  const bounds = ["lam", "plausibility"].map((column) => [
    column,
    ...["from", "to"].map((end) => value(elements[`${column}-${end}`].value)),
  ]);
  return (row) =>
    ticked.includes(row.status) &&
    (asked.source === undefined || (row.source === asked.source && row.target === asked.target)) &&
    `${row.file} ${row.case}`.toLowerCase().includes(part) &&
    bounds.every(([column, from, to]) => {
      const v = value(row[column]);
      return (Number.isNaN(from) || v >= from) && (Number.isNaN(to) || v <= to);
    });
}

function order(a, b) {
  const { sort, descending } = filters.elements;
  if (!sort.value) return descending.checked ? b - a : a - b;
  const [u, v] = [rows[a][sort.value] ?? "", rows[b][sort.value] ?? ""];
  if ((u === "") !== (v === "")) return u === "" ? 1 : -1; // what has no value comes last
  const words = sort.value === "status" || sort.value === "file";
  const by = words ? u.localeCompare(v, undefined, { numeric: true }) : value(u) - value(v);
  return (descending.checked ? -by : by) || a - b;
}

// An image can have several rows, one for each counterfactual.
const images = (list) => new Set(list.map((i) => rows[i].file || i)).size;

function arrange() {
  const sorted = cards.map((_, i) => i).sort(order);
  const passes = passing();
  shown = sorted.filter((i) => passes(rows[i]));
  const visible = new Set(shown);
  cards.forEach((card, i) => {
    card.hidden = !visible.has(i);
  });
  $("#cards").append(...sorted.map((i) => cards[i]));
  const [some, all] = [images(shown), images(rows.map((_, i) => i))];
  $("#found").textContent =
    some === all ? `${all} image${all === 1 ? "" : "s"}` : `${some} of ${all} images`;
}

filters.addEventListener("input", arrange);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(arrange));

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A cell as it stands in results.csv: no spreadsheet may run its text, see table.py.
const schema = facts.columns.includes("schema");
const formula = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;
const numeral = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
function cell(text) {
  const safe = schema && formula.test(text) && !numeral.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

$("#csv").addEventListener("click", () => {
  const table = [facts.columns, ...shown.map((i) => facts.rows[i])];
  const text = table.map((cells) => cells.map(cell).join(",")).join("\r\n");
  save("results.csv", new Blob([`${text}\r\n`], { type: "text/csv" }));
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
