// From data URLs to pixels, and from pixels to what a pane shows. Levels are the stored 0 ... 255.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const facts = JSON.parse($("#facts").textContent);

function element(name, content) {
  return Object.assign(document.createElement(name), { textContent: content });
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// Pictures come as data URLs: a canvas with a file from the disk could not be read again.
async function decode(src) {
  const element = new Image();
  element.src = src;
  await element.decode();
  const canvas = blank(element.naturalWidth, element.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(element, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  const mean = new Float32Array(width * height);
  for (let i = 0; i < mean.length; i++)
    mean[i] = (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3;
  return { canvas, data, mean, width, height };
}

function filled(width, height, fill) {
  const canvas = blank(width, height);
  const context = canvas.getContext("2d");
  const target = context.createImageData(width, height);
  fill(target.data);
  context.putImageData(target, 0, 0);
  return canvas;
}

// What each stored level looks like under a window.
function windowTable({ level, width }, invert) {
  return Uint8ClampedArray.from({ length: 256 }, (_, k) => {
    const share = Math.min(Math.max((k - level) / width + 0.5, 0), 1);
    return 255 * (invert ? 1 - share : share);
  });
}

const paint = (image, table) =>
  filled(image.width, image.height, (out) => {
    for (let i = 0; i < out.length; i += 4) {
      for (let c = 0; c < 3; c++) out[i + c] = table[image.data[i + c]];
      out[i + 3] = 255;
    }
  });

// Oklab, as in difference.py: a straight way from a grey to one of two colours, in 256 steps.
const linear = (v) => (v > 0.04045 ? ((v + 0.055) / 1.055) ** 2.4 : v / 12.92);
const encoded = (v) => (v > 0.0031308 ? 1.055 * v ** (1 / 2.4) - 0.055 : 12.92 * v);
function srgb(lightness, a, b) {
  const long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
    -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
    -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
  ].map((v) => 255 * encoded(Math.min(Math.max(v, 0), 1)));
}
const tints = (() => {
  let table = null;
  return () => {
    if (table) return table;
    table = new Uint8ClampedArray(2 * 256 * 256 * 3);
    const lightness = Array.from({ length: 256 }, (_, k) => Math.cbrt(linear(k / 255)));
    facts.ends.forEach(([l, a, b], sign) => {
      for (let share = 0; share < 256; share++) {
        for (let grey = 0; grey < 256; grey++) {
          const s = share / 255,
            from = lightness[grey];
          table.set(
            srgb(from + s * (l - from), s * a, s * b),
            3 * ((sign * 256 + share) * 256 + grey),
          );
        }
      }
    });
    return table;
  };
})();

const NEUTRAL = 72; // the grey under the scale, and under the difference without its image
function tint(out, i, d, limit, grey) {
  const share = Math.round(255 * Math.min(Math.abs(d) / limit, 1));
  const from = 3 * (((d > 0 ? 256 : 0) + share) * 256 + Math.round(grey));
  for (let c = 0; c < 3; c++) out[i + c] = tints()[from + c];
  out[i + 3] = 255;
}

// The signed difference y - x of the channel means over grey x; limit in levels has full colour.
const paintDifference = (x, y, table, limit, opacity, under) =>
  filled(x.width, x.height, (out) => {
    for (let k = 0; k < x.mean.length; k++) {
      const grey = under ? table[Math.round(x.mean[k])] : NEUTRAL;
      tint(out, 4 * k, opacity * (y.mean[k] - x.mean[k]), limit, grey);
    }
  });

function paintScale(canvas, limit) {
  const scale = filled(256, 1, (out) => {
    for (let k = 0; k < 256; k++) tint(out, 4 * k, ((k - 127.5) / 127.5) * limit, limit, NEUTRAL);
  });
  canvas.getContext("2d").drawImage(scale, 0, 0, canvas.width, canvas.height);
}

// The border of a mask along the edges of its pixels, in pixels of the image.
function borderOf(mask) {
  const path = new Path2D();
  const inside = (i, j) =>
    i >= 0 && j >= 0 && i < mask.width && j < mask.height && mask.mean[j * mask.width + i] > 127;
  for (let j = 0; j <= mask.height; j++) {
    for (let i = 0; i <= mask.width; i++) {
      if (inside(i, j) !== inside(i - 1, j)) {
        path.moveTo(i, j);
        path.lineTo(i, j + 1);
      }
      if (inside(i, j) !== inside(i, j - 1)) {
        path.moveTo(i, j);
        path.lineTo(i + 1, j);
      }
    }
  }
  return path;
}

// Levels that 98 % of the pixels lie between, or all where these are almost one; see case.py.
function middle(image) {
  const sorted = Float32Array.from(image.mean).sort();
  const at = (q) => sorted[Math.round(q * (sorted.length - 1))];
  if (at(0.99) - at(0.01) > 8) return { from: at(0.01), to: at(0.99) };
  return { from: at(0), to: Math.max(at(1), at(0) + 1) };
}
