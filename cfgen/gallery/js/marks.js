// What a file says of the place of an image: letters at its edges and a scale bar. They are drawn
// over the visible part of the image, in the size of the screen, at any zoom.

// The largest of 1, 2, 5, 10, 20, ... millimetres that is no longer than `most`.
function roundLength(most) {
  const ten = 10 ** Math.floor(Math.log10(most));
  return ten * [5, 2, 1].find((n) => n * ten <= most * (1 + 1e-9));
}

function lengthText(mm) {
  const plain = (v) => Number(v.toPrecision(3)).toString();
  if (mm >= 10) return `${plain(mm / 10)} cm`;
  return mm >= 0.1 ? `${plain(mm)} mm` : `${plain(1000 * mm)} µm`;
}

// What a bar of some millimetres is true for.
function barText(mm, { mm_per_pixel: [down, across], measured }) {
  const only = Math.abs(down / across - 1) > 0.02 ? " across" : "";
  const where = { detector: " at the detector", film: " on the film" }[measured] ?? "";
  return lengthText(mm) + only + where;
}

function outlined(context, t, x, y, ratio) {
  context.lineJoin = "round";
  context.lineWidth = 3 * ratio;
  context.strokeStyle = "#000";
  context.strokeText(t, x, y);
  context.fillStyle = "#fff";
  context.fillText(t, x, y);
}

// Marks in a box { left, top, right, bottom } of the canvas that is free down to its foot; a pixel
// of the image that was explained is `scale` wide there.
function drawMarks(context, box, geometry, scale, ratio) {
  const size = 14 * ratio;
  const inset = 5 * ratio;
  const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  context.save();
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const [side, align, left, top] of [
    ["left", "left", box.left + inset, y],
    ["right", "right", box.right - inset, y],
    ["top", "center", x, box.top + inset + size / 2],
    ["bottom", "center", x, box.foot - inset - size / 2],
  ]) {
    if (!geometry.sides) break;
    context.textAlign = align;
    outlined(context, geometry.sides[side], left, top, ratio);
  }
  if (geometry.mm_per_pixel && box.right > box.left) {
    const perMm = scale / geometry.mm_per_pixel[1];
    const mm = roundLength((0.3 * (box.right - box.left)) / perMm);
    const [start, end] = [box.left + 2 * inset, box.left + 2 * inset + mm * perMm];
    const foot = box.foot - 2 * inset;
    for (const [colour, thick] of [
      ["#000", 4],
      ["#fff", 2],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = thick * ratio;
      context.lineCap = colour === "#000" ? "square" : "butt";
      context.beginPath();
      for (const [to, by] of [
        [start, foot - 5 * ratio],
        [start, foot],
        [end, foot],
        [end, foot - 5 * ratio],
      ])
        context.lineTo(to, by);
      context.stroke();
    }
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = "left";
    outlined(context, barText(mm, geometry), start, foot - 14 * ratio, ratio);
  }
  context.restore();
}

// The same in words, for those who do not see the pictures.
function marksText({ geometry }) {
  if (!geometry?.sides) return "";
  const edges = ["left", "right", "top", "bottom"].map((side) => `${side} ${geometry.sides[side]}`);
  return `; sides of the patient: ${edges.join(", ")}`;
}
