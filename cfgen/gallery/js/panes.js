// Panes: canvases that share one view. A layer is { image, alpha, from, to }, from and to being
// shares of the width of the picture on the screen.

const view = { zoom: 1, x: 0.5, y: 0.5 }; // x and y: the place of the image in the middle of the pane
let probe = null; // a pixel of the image

function frameOf(canvas, image) {
  const scale = Math.min(canvas.width / image.width, canvas.height / image.height) * view.zoom;
  return {
    scale,
    left: canvas.width / 2 - view.x * image.width * scale,
    top: canvas.height / 2 - view.y * image.height * scale,
  };
}

function fitCanvas(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((s) =>
    Math.round(s * ratio),
  );
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return ratio;
}

// Draw layers at a place; shared by the panes and by what is saved.
function drawLayers(context, layers, { scale, left, top }, { border, mark, ratio = 1 }) {
  const { canvas } = context;
  const { width, height } = layers[0].image;
  context.imageSmoothingEnabled = scale < 8 * ratio;
  context.imageSmoothingQuality = "high";
  const visible = [Math.max(left, 0), Math.min(left + width * scale, canvas.width)];
  for (const { image, alpha = 1, from = 0, to = 1 } of layers) {
    context.save();
    const edge = (share) => visible[0] + share * (visible[1] - visible[0]);
    context.beginPath();
    context.rect(edge(from), 0, edge(to) - edge(from), canvas.height);
    context.clip();
    context.globalAlpha = alpha;
    context.drawImage(image, left, top, width * scale, height * scale);
    context.restore();
  }
  if (border) {
    context.save();
    context.translate(left, top);
    context.scale(scale, scale);
    for (const [colour, thick] of [
      ["#000", 3],
      ["#ffe800", 1.4],
    ]) {
      context.lineWidth = (thick * ratio) / scale;
      context.strokeStyle = colour;
      context.stroke(border);
    }
    context.restore();
  }
  const box = { left: visible[0], right: visible[1], top: Math.max(top, 0) };
  box.bottom = box.foot = Math.min(top + height * scale, canvas.height);
  if (mark) box.foot -= burn(context, mark, box.left, box.bottom, box.right - box.left, ratio);
  const { geometry } = open.data;
  if (geometry) drawMarks(context, box, geometry, (width * scale) / open.x.width, ratio);
}

// Write a mark over the foot of an image, in as many lines as it takes; returns its height.
function burn(context, mark, left, bottom, width, ratio) {
  const size = 12 * ratio;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const lines = context.measureText(mark).width < width - size ? [mark] : mark.split(/(?<=,) /);
  const height = lines.length * size * 1.25 + size * 0.5;
  context.fillStyle = "rgb(0 0 0 / 75%)";
  context.fillRect(left, bottom - height, width, height);
  context.fillStyle = "#fff";
  context.textAlign = "center";
  context.textBaseline = "top";
  lines.forEach((line, i) => {
    context.fillText(line, left + width / 2, bottom - height + size * (0.35 + 1.25 * i), width);
  });
  return height;
}

function drawPane(canvas, layers, more) {
  const ratio = fitCanvas(canvas);
  if (!canvas.width || !canvas.height) return;
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const place = frameOf(canvas, layers[0].image);
  drawLayers(context, layers, place, { ...more, ratio });
  context.lineWidth = ratio;
  if (more.split !== undefined) {
    const { width } = layers[0].image;
    const edges = [
      Math.max(place.left, 0),
      Math.min(place.left + width * place.scale, canvas.width),
    ];
    const x = edges[0] + more.split * (edges[1] - edges[0]);
    context.fillStyle = "#fff";
    context.fillRect(x - ratio, 0, 2 * ratio, canvas.height);
    context.fillRect(x - 5 * ratio, canvas.height / 2 - 14 * ratio, 10 * ratio, 28 * ratio);
  }
  if (probe) {
    const [x, y] = [
      place.left + (probe.x + 0.5) * place.scale,
      place.top + (probe.y + 0.5) * place.scale,
    ];
    const r = Math.max(place.scale / 2, 4 * ratio);
    for (const [colour, grow] of [
      ["#000", 1],
      ["#fff", 0],
    ]) {
      context.strokeStyle = colour;
      context.strokeRect(
        x - r - grow * ratio,
        y - r - grow * ratio,
        2 * (r + grow * ratio),
        2 * (r + grow * ratio),
      );
    }
  }
}

// Where an event is: in pixels of the image, and its share of the picture's width on the screen.
function locate(event, canvas, image) {
  const box = canvas.getBoundingClientRect();
  const ratio = canvas.width / box.width;
  const { scale, left, top } = frameOf(canvas, image);
  const [x, y] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  const edges = [Math.max(left, 0), Math.min(left + image.width * scale, canvas.width)];
  return {
    x: (x - left) / scale,
    y: (y - top) / scale,
    share: Math.min(Math.max((x - edges[0]) / (edges[1] - edges[0]), 0), 1),
  };
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
function moveView(x, y) {
  view.x = clamp(x, 0, 1);
  view.y = clamp(y, 0, 1);
}

// Zoom so that the given place of the image, in shares, stays where it is.
function zoomBy(factor, x = view.x, y = view.y) {
  const before = view.zoom;
  view.zoom = clamp(before * factor, 1, 32);
  const kept = before / view.zoom;
  moveView(x + (view.x - x) * kept, y + (view.y - y) * kept);
  if (view.zoom === 1) moveView(0.5, 0.5);
}

// Drag: window. Shift or the middle button: move. Right button: zoom. `on` is told what to do.
function listen(stage, on) {
  const canvas = $("canvas", stage);
  let last = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" && !event.isPrimary) return;
    const curtain =
      on.curtain(stage) && Math.abs(locate(event, canvas, on.image()).share - on.split()) < 0.04;
    const action = curtain
      ? "curtain"
      : event.button === 1 || event.shiftKey
        ? "move"
        : event.button === 2
          ? "zoom"
          : "window";
    last = { x: event.clientX, y: event.clientY, action };
    stage.setPointerCapture(event.pointerId);
    stage.focus({ preventScroll: true });
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    const at = locate(event, canvas, on.image());
    if (!last) return on.probe(at);
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    const box = canvas.getBoundingClientRect();
    if (last.action === "curtain") on.split(at.share);
    else if (last.action === "window") on.window(dx / box.width, dy / box.height);
    else if (last.action === "zoom") zoomBy(2 ** (-dy / 100));
    else {
      const { scale } = frameOf(canvas, on.image());
      const ratio = canvas.width / box.width;
      moveView(
        view.x - (dx * ratio) / scale / on.image().width,
        view.y - (dy * ratio) / scale / on.image().height,
      );
    }
    Object.assign(last, { x: event.clientX, y: event.clientY });
    on.change();
  });
  for (const name of ["pointerup", "pointercancel"])
    stage.addEventListener(name, () => {
      last = null;
    });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dblclick", (event) => {
    const at = locate(event, canvas, on.image());
    if (view.zoom === 1) view.zoom = 2;
    moveView(at.x / on.image().width, at.y / on.image().height);
    on.change();
  });
  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const at = locate(event, canvas, on.image());
      zoomBy(
        2 ** (-Math.sign(event.deltaY) / 4),
        at.x / on.image().width,
        at.y / on.image().height,
      );
      on.change();
    },
    { passive: false },
  );
}
