// Controls, keys and the way between the overview and a case.

const controls = {
  image: () => open.x,
  change: render,
  curtain: (stage) =>
    compare.mode === "curtain" && stage.parentElement === panes.cf && open.frames.length > 0,
  split(share) {
    if (share === undefined) return compare.mix;
    compare.mix = share;
    return share;
  },
  probe({ x, y }) {
    const at = { x: Math.floor(x), y: Math.floor(y) };
    if (at.x < 0 || at.y < 0 || at.x >= open.x.width || at.y >= open.x.height) return;
    if (probe && probe.x === at.x && probe.y === at.y) return;
    probe = at;
    render();
  },
  window(dx, dy) {
    state.window.width = clamp(state.window.width + 255 * dx, 1, 1020);
    state.window.level = clamp(state.window.level + 255 * dy, -255, 510);
  },
};
for (const pane of Object.values(panes)) listen($(".stage", pane), controls);

// The controls say what the state is.
function settings() {
  const rounded = (v) => Number(v.toPrecision(4));
  if (document.activeElement !== $("#level"))
    $("#level").value = rounded(inUnit(state.window.level));
  if (document.activeElement !== $("#width"))
    $("#width").value = rounded(state.window.width * perLevel());
  $("#zoom").textContent = `${Math.round(100 * view.zoom)} %`;
  press($("#invert"), state.invert);
  press($("#toggle"), state.toggled);
  $("#mix").value = 100 * compare.mix;
  $("#slice").value = state.slice;
  $("#slice").setAttribute("aria-valuetext", sliceText());
  for (const element of $$("#modes .mode"))
    element.hidden = !element.classList.contains(compare.mode) || !open.frames.length;
  for (const pane of $$(".stage", caseView))
    pane.style.aspectRatio = `${open.x.width} / ${open.x.height}`;
  $("#panes").dataset.mode = open.frames.length ? compare.mode : "side";
}

function on(selector, event, act) {
  $(selector).addEventListener(event, () => {
    act();
    render();
  });
}
const invert = () => {
  state.invert = !state.invert;
};
const toggle = () => {
  state.toggled = !state.toggled;
};
function reset() {
  stopAll();
  Object.assign(state, fresh(), { frame: Math.max(open.flip, 0) });
  Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  compare.mix = 0.5;
  probe = null;
}
function setMode(mode) {
  stopFlicker();
  compare.mode = mode;
  state.toggled = false;
  $(`input[name=mode][value=${mode}]`).checked = true;
}
on("#invert", "click", invert);
on("#toggle", "click", toggle);
on("#reset", "click", reset);
on("#zoom-in", "click", () => zoomBy(Math.SQRT2));
on("#zoom-out", "click", () => zoomBy(Math.SQRT1_2));
on("#mix", "input", () => {
  compare.mix = $("#mix").valueAsNumber / 100;
});
on("#slice", "input", () => {
  state.slice = $("#slice").valueAsNumber;
});
for (const name of ["#opacity", "#under", "#outline"]) on(name, "input", () => {});
on("#level", "input", () => {
  const { low, high } = open.data.window;
  const v = $("#level").valueAsNumber;
  if (Number.isFinite(v)) state.window.level = ((v - low) / (high - low)) * 255;
});
on("#width", "input", () => {
  const v = $("#width").valueAsNumber / perLevel();
  if (v > 0) state.window.width = v;
});
for (const radio of $$("input[name=mode]"))
  radio.addEventListener("change", () => {
    setMode(radio.value);
    render();
  });

const readable = () => shown.filter((i) => rows[i].opens);
function go(way) {
  const list = readable();
  const at = list.indexOf(open?.index);
  const next = list[at < 0 ? 0 : at + way];
  if (next !== undefined) location.replace(`#case-${next}`);
}
$("#previous").addEventListener("click", () => go(-1));
$("#next").addEventListener("click", () => go(1));

function moveProbe(dx, dy) {
  const { width, height } = open.x;
  probe ??= { x: Math.floor(view.x * width), y: Math.floor(view.y * height) };
  probe = { x: clamp(probe.x + dx, 0, width - 1), y: clamp(probe.y + dy, 0, height - 1) };
  if (view.zoom > 1) moveView((probe.x + 0.5) / width, (probe.y + 0.5) / height);
}

function sliceText() {
  const { offset } = open.stack[state.slice];
  return offset ? `${Math.abs(offset)} ${offset < 0 ? "before" : "after"}` : "the original";
}
function scrollSlices(by) {
  if (panes.x.hidden) setMode("side");
  state.slice = clamp(state.slice + by, 0, open.stack.length - 1);
}

const modes = ["side", "fade", "curtain", "flicker"];
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const keys = {
  i: invert,
  t: toggle,
  " ": reset,
  p: () => {
    if (open.frames.length > 1) playOrStop();
  },
  f: () => {
    stop();
    if (open.flip >= 0) stepTo(open.flip);
  },
  m: () => {
    if (open.frames.length) setMode(modes[(modes.indexOf(compare.mode) + 1) % 4]);
  },
  o: () => {
    $("#outline").checked = !$("#outline").checked;
  },
  j: () => scrollSlices(-1),
  k: () => scrollSlices(1),
  "+": () => zoomBy(Math.SQRT2),
  "-": () => zoomBy(Math.SQRT1_2),
  ArrowLeft: () => {
    stop();
    if (open.frames.length) stepTo(state.frame - 1);
  },
  ArrowRight: () => {
    stop();
    if (open.frames.length) stepTo(state.frame + 1);
  },
  ArrowUp: () => go(-1),
  ArrowDown: () => go(1),
};
for (let i = 0; i < 4; i++) keys[i + 1] = () => usePreset(i);

const help = $("#help");
$("#help-open").addEventListener("click", () => help.showModal());
$("#help-close").addEventListener("click", () => help.close());

// Keys that the focused control needs itself are left to it; not after a click, which only happens
// to leave the focus there.
let clicked = false;
document.addEventListener("pointerdown", () => (clicked = true), true);
function taken(event) {
  const target = event.target;
  if (clicked && target.matches("button, input[type=radio], input[type=checkbox]")) return false;
  if (target.matches("input[type=number], input[type=search]")) return event.key !== "Escape";
  if (target.matches("select, input[type=radio]"))
    return event.key.startsWith("Arrow") || event.key === " ";
  if (target.matches("button, a, summary, input")) {
    if (event.key === " ") return true;
    return target.type === "range" && target.id !== "lambda" && event.key.startsWith("Arrow");
  }
  return false;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Tab") clicked = false;
  if (event.ctrlKey || event.metaKey || event.altKey || help.open || taken(event)) return;
  if (event.key === "Escape" && !caseView.hidden) return void (location.hash = "");
  const { checked } = $("#shortcuts");
  if (event.key === "?" && checked) help.showModal();
  else if (!open) return;
  else if (event.shiftKey && event.key in arrows) moveProbe(...arrows[event.key]);
  else if (event.key in keys && (checked || event.key.length > 1)) keys[event.key]();
  else return;
  event.preventDefault();
  if (open) render();
});

function route() {
  const index = Number(/^#case-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  if (rows[index]?.opens) return void openCase(index);
  const last = open?.index;
  stopAll();
  open = null;
  caseView.hidden = true;
  overview.hidden = false;
  if (last === undefined) fillNear();
  else reveal(last);
}
new ResizeObserver(render).observe($("#panes"));
begin().then(() => {
  window.addEventListener("hashchange", route);
  route();
});
