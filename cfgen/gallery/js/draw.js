// What moves: the pictures of the panes, with their captions.

// The layers of the pane that compares.
function compared(x, y) {
  const { mode, mix, flickered } = compare;
  if (mode === "fade") return [{ image: x }, { image: y, alpha: mix }];
  if (mode === "curtain")
    return [
      { image: x, to: mix },
      { image: y, from: mix },
    ];
  if (mode === "flicker") return [{ image: flickered ? x : y }];
  return [{ image: y }];
}

function draw() {
  pending = false;
  if (!open || caseView.hidden) return;
  settings();
  const { data } = open;
  const made = data.frames.length > 0;
  panes.x.hidden = made && compare.mode !== "side";
  panes.cf.hidden = !made;
  const table = windowTable(state.window, state.invert);
  const border = shownBorder();
  const original = paint(open.x, table);
  if (!panes.x.hidden) drawOriginal(original, table, border);
  if (made) {
    drawCompared(original, paint(frame(), table), border);
    const mark = markOf(true);
    show(
      panes.d,
      [{ image: difference(table) }],
      { border, mark },
      "Difference",
      `from ${extent()}`,
    );
  }
  $$("#attribution .pane").forEach((pane, i) => {
    const mark = "computed map, not for diagnosis";
    show(pane, [{ image: open.maps[i].canvas }], { border, mark }, data.attribution[i][0], "");
  });
  drawCurve();
  tellProbe();
}

// The original, or the slice beside it that the reader scrolled to.
function drawOriginal(original, table, border) {
  const { offset, image } = open.stack[state.slice];
  if (!offset) {
    show(panes.x, [{ image: original }], { border, mark: markOf(false) }, "Original", saidBefore());
    return;
  }
  const words = `${Math.abs(offset)} ${offset < 0 ? "before" : "after"} the original`;
  show(panes.x, [{ image: paint(image, table) }], {}, "Neighbouring slice", words);
}

// What is painted and said of the open case; what is saved takes it from here too.
const shownBorder = () => ($("#outline").checked ? open.border : null);
const markOf = (made) => open.data.marks[made ? 1 : 0];
const saidBefore = () => {
  const { answer, wanted, before } = open.data;
  return `${answer ? `model says “${answer}”; ` : ""}${wanted} ${before}`;
};
const saidNow = () => `λ ${said().step}; ${open.data.wanted} ${said().probability}`;
// Only the picture at the flip is the counterfactual that the run asked for.
const titleNow = () => {
  const { flip, past } = said();
  if (flip) return open.data.words.made;
  return past ? "Past the counterfactual" : "Not yet the counterfactual";
};
function difference(table) {
  const opacity = $("#opacity").valueAsNumber / 100;
  return paintDifference(open.x, frame(), table, open.limit, opacity, $("#under").checked);
}

// The pane in which original x and counterfactual y take turns.
function drawCompared(x, y, border) {
  const { mode, mix, flickered } = compare;
  const onlyOriginal = state.toggled || (mode === "flicker" && flickered);
  const mixed = { fade: "Crossfade", curtain: "Original | counterfactual" }[mode];
  const title = onlyOriginal ? "Original" : (mixed ?? titleNow());
  const layers = state.toggled ? [{ image: x }] : compared(x, y);
  const split = mode === "curtain" && !state.toggled ? mix : undefined;
  const more = { border, mark: markOf(!onlyOriginal), split };
  show(panes.cf, layers, more, title, onlyOriginal ? saidBefore() : saidNow());
}

// The least and the largest difference, in the image's own units.
function extent() {
  let [low, high] = [0, 0];
  const [x, y] = [open.x.mean, frame().mean];
  for (let k = 0; k < x.length; k++) {
    low = Math.min(low, y[k] - x[k]);
    high = Math.max(high, y[k] - x[k]);
  }
  return `${text(low * perLevel(), true)} to ${withUnit(text(high * perLevel(), true))}`;
}

function show(pane, layers, more, title, words) {
  const canvas = $("canvas", pane);
  drawPane(canvas, layers, more);
  const caption = $("figcaption", pane);
  if (caption.textContent !== `${title} ${words}`) {
    const number = element("span", words);
    number.className = "num";
    caption.replaceChildren(element("b", title), " ", number);
  }
  const label = `${open.data.name}, ${title.toLowerCase()}; ${words}${marksText(open.data)}`;
  canvas.setAttribute("aria-label", label);
  $(".stage", pane).setAttribute("aria-label", `${title}: arrows with Shift move the probe`);
}

function tellProbe() {
  const line = $("#probe");
  if (!probe) {
    line.textContent = "Point at an image, or use Shift and the arrows, to read its values.";
    return;
  }
  const k = probe.y * open.x.width + probe.x;
  const values = [`original ${text(inUnit(open.x.mean[k]))}`];
  if (open.frames.length) {
    const d = frame().mean[k] - open.x.mean[k];
    values.push(
      `${open.data.words.made.toLowerCase()} ${text(inUnit(frame().mean[k]))}`,
      `difference ${text(d * perLevel(), true)}`,
    );
  }
  line.textContent = `Pixel ${probe.x}, ${probe.y}: ${values.join(", ")} ${open.data.window.unit}`;
}

let pending = false;
function render() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(draw);
}
