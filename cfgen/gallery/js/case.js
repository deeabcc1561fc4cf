// The case view: what is open, and what stands still while it is.

const overview = $("#overview");
const caseView = $("#case");
const panes = { x: $("#pane-x"), cf: $("#pane-cf"), d: $("#pane-d") };
let open = null; // { index, data, x, frames, mask, border, maps, stack }
const fresh = () => ({
  frame: 0,
  slice: open?.stack.findIndex(({ offset }) => !offset), // of the stack of neighbours
  window: open?.data.fitted ? presetOf(1) : { level: 127.5, width: 255 },
  invert: false,
  toggled: false,
});
let state = fresh();
const compare = { mode: "side", mix: 0.5, flickered: false };

async function openCase(index) {
  stopAll();
  if (!open) tellNothing("Loading …"); // else the case that is open stays until this one is there
  overview.hidden = true;
  caseView.hidden = false;
  let found;
  try {
    found = await decodeCase(index);
  } catch (error) {
    found = error;
  }
  if (location.hash !== `#case-${index}`) return; // the reader went on meanwhile
  open = found instanceof Error ? null : found;
  if (!open) return tellNothing(found.message);
  $("#reader").hidden = false;
  state = fresh();
  state.frame = Math.max(open.flip, 0);
  Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  probe = null;
  tell();
  render();
  $("#case-name").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function tellNothing(instead) {
  $("#reader").hidden = true;
  $("#case-name").textContent = instead;
  for (const part of ["#case-place", "#case-chip", "#case-cautions", "#case-text", "#case-message"])
    $(part).textContent = "";
}

const frame = () => open.frames[state.frame];
const said = () => open.data.frames[state.frame];
const inUnit = (level) => {
  const { low, high } = open.data.window;
  return low + ((high - low) * level) / 255;
};
const perLevel = () => (open.data.window.high - open.data.window.low) / 255;
function text(v, signed) {
  const digits = perLevel() >= 0.5 ? 0 : Math.min(6, 1 - Math.floor(Math.log10(perLevel())));
  const t = Math.abs(v).toFixed(digits);
  return (v < 0 && Number(t) ? "−" : signed && Number(t) ? "+" : "") + t;
}
const withUnit = (t) => `${t} ${open.data.window.unit}`.trim();

// Say what stands still while the case is open.
function tell() {
  const { data } = open;
  const place = shown.indexOf(open.index);
  $("#place").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
  $("#case-name").textContent = data.name;
  $("#case-place").textContent = data.place && `counterfactual ${data.place}`;
  $("#case-chip").textContent = data.words.title;
  $("#case-chip").className = `chip ${data.words.tone}`;
  $("#case-cautions").textContent = warning();
  $("#case-text").textContent = data.words.text;
  $("#case-message").textContent = data.message;
  $("#case-facts").replaceChildren(...data.facts.map(listed));
  const made = data.frames.length > 0;
  for (const element of [...$$(".made", caseView), panes.d]) element.hidden = !made;
  $("#walk").hidden = $("#save-gif").hidden = data.frames.length < 2;
  $("#outline-label").hidden = !open.border;
  $("#slices").hidden = open.stack.length < 2;
  $("#slice").max = open.stack.length - 1;
  if (made) tellScale();
  tellPresets();
  tellPanels();
  prepareCurve();
}

const warning = () =>
  open.data.cautions.length ? `Read with care: ${open.data.cautions.join(", ")}.` : "";

// A fact of the table below the pictures.
function listed([name, content, note]) {
  const entry = document.createElement("div");
  entry.append(element("dt", name), element("dd", content));
  if (note) entry.lastChild.append(element("small", note));
  return entry;
}

function tellScale() {
  const limit = withUnit(text(open.limit * perLevel()));
  const ends = [`−${limit} darker`, `+${limit} brighter`];
  $("#scale-ends").replaceChildren(...ends.map((end) => element("span", end)));
  paintScale($("#scale"), open.limit);
}

function tellPresets() {
  const buttons = presets().map(({ name }, i) => {
    const button = element("button", `${name} `);
    button.type = "button";
    button.append(element("kbd", i + 1));
    button.addEventListener("click", () => usePreset(i));
    return button;
  });
  $("#presets").replaceChildren(...buttons);
}

function tellPanels() {
  const maps = open.maps.map((_, i) => {
    const pane = panes.x.cloneNode(true);
    pane.id = `pane-map-${i}`;
    $("#slices", pane).remove();
    listen($(".stage", pane), controls);
    return pane;
  });
  $("#attribution .panes").replaceChildren(...maps);
  $("#attribution").hidden = !maps.length;
  const { concepts = [] } = open.data;
  const digits = (v) =>
    v === null ? "–" : Number(v.toPrecision(3)).toString().replace("-", "−");
  const rows = concepts.map(([name, before, after]) => {
    const change = before === null || after === null ? null : after - before;
    const sign = change > 0 ? "+" : "";
    const cells = [digits(before), digits(after), sign + digits(change)].map((t) => element("td", t));
    const head = element("th", name);
    head.scope = "row";
    const row = document.createElement("tr");
    row.append(head, ...cells);
    return row;
  });
  $("#concepts tbody").replaceChildren(...rows);
  $("#concepts").hidden = !rows.length;
}

// Ways to see the levels: those of OHIF for CT, else what the image itself offers.
function presets() {
  const { low, high, unit } = open.data.window;
  if (unit === "HU") {
    const physical = (name, level, width) => ({
      name,
      level: ((level - low) / (high - low)) * 255,
      width: (width / (high - low)) * 255,
    });
    return [
      physical("soft tissue", 40, 400),
      physical("lung", -600, 1500),
      physical("liver", 90, 150),
      physical("bone", 480, 2500),
    ];
  }
  const { from, to } = open.middle;
  const between = (name, a, b) => ({ name, level: (a + b) / 2, width: b - a });
  const half = (from + to) / 2;
  return [
    between("full", 0, 255),
    between("fitted", from, to),
    between("dark parts", from, half),
    between("bright parts", half, to),
  ];
}

function presetOf(i) {
  const { level, width } = presets()[i];
  return { level, width };
}

function usePreset(i) {
  state.window = presetOf(i);
  render();
}
