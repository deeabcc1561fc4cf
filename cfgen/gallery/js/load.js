// What the page reads when it is needed: the cards of a chunk, the files of a case, their pixels.

// A page on a disk may fetch nothing: a part stands in the page, or a script brings it.
const inline = new Map($$("script[data-part]").map((part) => [part.dataset.part, part]));
window.cfgen = {
  give(data) {
    document.currentScript.given = data;
  },
};
function bring(address) {
  if (inline.has(address)) return Promise.resolve(JSON.parse(inline.get(address).textContent));
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address.split("/").map(encodeURIComponent).join("/");
    script.onload = () => {
      resolve(script.given);
      script.remove();
    };
    script.onerror = () => {
      reject(new Error(`The file ${address} is missing.`));
      script.remove();
    };
    document.head.append(script);
  });
}

const loaded = new Map(); // the cases opened last
function fetchCase(index) {
  if (!loaded.has(index)) loaded.set(index, bring(`cases/${rows[index].case}/case.js`));
  if (loaded.size > 8) loaded.delete(loaded.keys().next().value);
  return loaded.get(index);
}

async function decodeCase(index) {
  const data = await fetchCase(index);
  const near = data.geometry?.neighbours ?? [];
  const all = [
    data.x,
    data.mask,
    ...data.frames.map((frame) => frame.src),
    ...data.attribution.map(([, src]) => src),
    ...near.map(({ src }) => src),
  ];
  const [x, mask, ...rest] = await Promise.all(all.map((src) => src && decode(src)));
  const frames = rest.splice(0, data.frames.length);
  const beside = rest.splice(rest.length - near.length);
  const stack = near.map(({ offset }, i) => ({ offset, image: beside[i] }));
  stack.push({ offset: 0, image: x });
  stack.sort((a, b) => a.offset - b.offset);
  return {
    index,
    data,
    x,
    frames,
    maps: rest,
    mask,
    stack,
    border: mask && borderOf(mask),
    limit: 255 * data.limit,
    flip: data.frames.findIndex((frame) => frame.flip),
    middle: middle(x),
  };
}
