// The slider along lambda, the curve of the probability above it, and playing.

const slider = $("#lambda");
const CURVE = { width: 600, height: 100 };
let moving = null; // the timer of what plays
let flickering = null;

const plot = {
  x: (lam) => (lam / slider.max) * CURVE.width,
  y: (p) => (1 - p) * CURVE.height,
};

function svg(name, attributes, content) {
  const element = document.createElementNS($("#curve").namespaceURI, name);
  for (const [key, v] of Object.entries(attributes)) element.setAttribute(key, v);
  if (content) element.textContent = content;
  return element;
}

function prepareCurve() {
  const { frames, goal, wanted } = open.data;
  if (frames.length < 2) return;
  slider.max = frames.at(-1).lam;
  const curve = $("#curve");
  curve.setAttribute("viewBox", `0 0 ${CURVE.width} ${CURVE.height}`);
  const points = frames.filter((f) => f.p !== null).map((f) => `${plot.x(f.lam)},${plot.y(f.p)}`);
  const lines = [0, 0.5, 1].map((p) =>
    svg("line", {
      class: "grid",
      x1: 0,
      x2: CURVE.width,
      y1: plot.y(p),
      y2: plot.y(p),
    }),
  );
  const flip = frames[open.flip];
  const x = plot.x(flip.lam);
  curve.replaceChildren(
    ...lines,
    svg("line", { class: "flip", x1: x, x2: x, y1: 0, y2: CURVE.height }),
    svg("polyline", { class: "line", points: points.join(" ") }),
    svg("line", { class: "now", y1: 0, y2: CURVE.height }),
  );
  curve.setAttribute(
    "aria-label",
    `Probability of ${wanted} from ${frames[0].probability} at λ 0 to ${frames.at(-1).probability} at λ ${frames.at(-1).step}; ${goal[0]} at λ ${flip.step}`,
  );
  $("#flip-label").textContent = `${goal[0]} at λ ${flip.step}`;
  $("#flip-label").style.left = `calc(3.25rem + (100% - 3.25rem - 8px) * ${x / CURVE.width})`;
  $("#flip-label").classList.toggle("before", x > CURVE.width * 0.6);
  $("#curve-title").textContent = `Probability of ${wanted}`;
}

function drawCurve() {
  if (open.data.frames.length < 2) return;
  const { lam, step, probability, met } = said();
  const x = plot.x(lam);
  const now = $("#curve .now");
  now.setAttribute("x1", x);
  now.setAttribute("x2", x);
  slider.value = lam;
  const words = `λ ${step}: ${open.data.wanted} ${probability}${met ? `, ${open.data.goal[1]}` : ""}`;
  slider.setAttribute("aria-valuetext", words);
  $("#now").textContent = words;
}

function stepTo(index) {
  state.frame = clamp(index, 0, open.frames.length - 1);
  state.toggled = false;
  render();
}

slider.addEventListener("input", () => {
  stop();
  const lam = slider.valueAsNumber;
  const far = open.data.frames.map((f) => Math.abs(f.lam - lam));
  stepTo(far.indexOf(Math.min(...far)));
});

function press(button, on, words) {
  button.setAttribute("aria-pressed", on);
  if (words) button.firstChild.textContent = words;
}

function stop() {
  clearInterval(moving);
  moving = null;
  press($("#play"), false, "Play ");
}

// To the end and back again, so that nothing jumps.
function play() {
  let way = state.frame === open.frames.length - 1 ? -1 : 1;
  moving = setInterval(
    () => {
      if (state.frame + way < 0 || state.frame + way >= open.frames.length) way = -way;
      stepTo(state.frame + way);
    },
    1000 / Number($("#speed").value),
  );
  press($("#play"), true, "Pause ");
}
const playOrStop = () => (moving ? stop() : play());

$("#play").addEventListener("click", playOrStop);
$("#speed").addEventListener("change", () => {
  if (moving) {
    stop();
    play();
  }
});
$("#to-flip").addEventListener("click", () => {
  stop();
  stepTo(open.flip);
});

// At most three changes a second (WCAG 2.3.1), never by itself.
function stopFlicker() {
  clearInterval(flickering);
  flickering = null;
  compare.flickered = false;
  press($("#flicker"), false, "Start flicker");
}

function flicker() {
  flickering = setInterval(
    () => {
      compare.flickered = !compare.flickered;
      render();
    },
    1000 / Number($("#flicker-rate").value),
  );
  press($("#flicker"), true, "Stop flicker");
}

$("#flicker").addEventListener("click", () => {
  const on = flickering;
  stopFlicker();
  if (!on) flicker();
  render();
});
$("#flicker-rate").addEventListener("change", () => {
  if (flickering) {
    stopFlicker();
    flicker();
  }
});

function stopAll() {
  stop();
  stopFlicker();
}
