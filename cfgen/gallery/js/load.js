// The files of a case, and their pixels.

// The data of a case: inline, or brought by a script, as a page on a disk may fetch nothing.
const loaded = new Map();
function load(index) {
  const inline = JSON.parse($(`script[data-case="${index}"]`).textContent);
  if (facts.single) return Promise.resolve(inline);
  if (!loaded.has(index)) {
    loaded.set(
      index,
      new Promise((resolve, reject) => {
        const script = document.createElement("script");
        window.cfgen = { give: resolve };
        script.src = inline;
        script.onload = () => script.remove();
        script.onerror = () => reject(new Error(`The file ${decodeURI(inline)} is missing.`));
        document.head.append(script);
      }),
    );
  }
  return loaded.get(index);
}

let queue = Promise.resolve(); // one script at a time: each gives its data to the one who asked
function fetchCase(index) {
  const result = queue.then(() => load(index));
  queue = result.catch(() => {});
  if (loaded.size > 8) loaded.delete(loaded.keys().next().value);
  return result;
}

async function decodeCase(index) {
  const data = await fetchCase(index);
  const all = [
    data.x,
    data.mask,
    ...data.frames.map((frame) => frame.src),
    ...data.attribution.map(([, src]) => src),
  ];
  const [x, mask, ...rest] = await Promise.all(all.map((src) => src && decode(src)));
  const frames = rest.splice(0, data.frames.length);
  return {
    index,
    data,
    x,
    frames,
    maps: rest,
    mask,
    border: mask && borderOf(mask),
    limit: 255 * data.limit,
    flip: data.frames.findIndex((frame) => frame.flip),
    middle: middle(x),
  };
}
