// An animated GIF: 256 greys, or 128 greys and a cube of 125 colours where there is colour.

function palette(grey) {
  const greys = grey ? 256 : 128;
  const colours = Array.from({ length: greys }, (_, k) =>
    Array(3).fill(Math.round((255 * k) / (greys - 1))),
  );
  for (let k = 0; !grey && k < 125; k++)
    colours.push(
      [Math.floor(k / 25), Math.floor(k / 5) % 5, k % 5].map((c) => Math.round(63.75 * c)),
    );
  while (colours.length < 256) colours.push([0, 0, 0]);
  return colours.flat();
}

function indices(rgba, grey) {
  const out = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < out.length; i++) {
    const [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (grey) out[i] = r;
    else if (Math.max(r, g, b) - Math.min(r, g, b) < 16) out[i] = Math.round((g * 127) / 255);
    else
      out[i] = 128 + 25 * Math.round(r / 63.75) + 5 * Math.round(g / 63.75) + Math.round(b / 63.75);
  }
  return out;
}

// LZW with codes of growing width, in blocks of at most 255 bytes.
function compress(pixels) {
  const bytes = [];
  let bits = 0,
    held = 0,
    width = 9,
    next = 258,
    codes = new Map();
  const put = (code) => {
    bits |= code << held;
    for (held += width; held >= 8; held -= 8, bits >>>= 8) bytes.push(bits & 255);
  };
  put(256);
  let prefix = pixels[0];
  for (let i = 1; i < pixels.length; i++) {
    const key = (prefix << 8) | pixels[i];
    const code = codes.get(key);
    if (code !== undefined) {
      prefix = code;
      continue;
    }
    put(prefix);
    prefix = pixels[i];
    if (next === 4096) {
      put(256);
      width = 9;
      next = 258;
      codes = new Map();
    } else {
      codes.set(key, next);
      if (next++ === 1 << width) width++;
    }
  }
  put(prefix);
  put(257);
  if (held) bytes.push(bits & 255);
  const blocks = [8];
  for (let i = 0; i < bytes.length; i += 255)
    blocks.push(Math.min(255, bytes.length - i), ...bytes.slice(i, i + 255));
  return [...blocks, 0];
}

// Frames are ImageData of one size, delays are in seconds. Returns the file.
function gif(frames, delays) {
  const { width, height } = frames[0];
  const grey = frames.every(({ data }) => {
    for (let i = 0; i < data.length; i += 4)
      if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) return false;
    return true;
  });
  const word = (v) => [v & 255, v >> 8];
  const ascii = (t) => [...t].map((c) => c.charCodeAt(0));
  const parts = [ascii("GIF89a"), word(width), word(height), [0xf7, 0, 0], palette(grey)];
  parts.push([0x21, 0xff, 11], ascii("NETSCAPE2.0"), [3, 1, 0, 0, 0]);
  parts.push([0x21, 0xfe, facts.mark.length], ascii(facts.mark), [0]);
  frames.forEach(({ data }, k) => {
    parts.push([0x21, 0xf9, 4, 4], word(Math.round(100 * delays[k])), [0, 0]);
    parts.push([0x2c, 0, 0, 0, 0], word(width), word(height), [0], compress(indices(data, grey)));
  });
  parts.push([0x3b]);
  return new Blob(
    parts.map((part) => Uint8Array.from(part)),
    { type: "image/gif" },
  );
}
