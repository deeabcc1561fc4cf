// What leaves the page: a picture, an animation, paper. The marks are part of each.

const tileOf = ({ width, height }) => Math.max(1, Math.round(384 / Math.max(width, height)));

// Pictures in a row with words below them, as large as whole pixels allow.
function row(tiles, words) {
  const { width, height } = tiles[0].layers[0].image;
  const scale = tileOf({ width, height });
  const [w, h, line] = [Math.max(width * scale, 300), height * scale, 20];
  const below = line * (Math.max(...tiles.map((tile) => tile.words.length)) + 0.5);
  const canvas = blank(tiles.length * w + (tiles.length - 1) * 8, h + below + words.length * line);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  tiles.forEach(({ layers, words: said, mark, border, scaleBar }, i) => {
    const part = blank(w, h);
    const inner = part.getContext("2d");
    inner.fillRect(0, 0, w, h);
    drawLayers(
      inner,
      layers,
      { scale, left: (w - width * scale) / 2, top: 0 },
      { border, mark, ratio: 1.3 },
    );
    const left = i * (w + 8);
    context.drawImage(part, left, 0);
    if (scaleBar) {
      paintScale(part, open.limit);
      context.drawImage(part, left, h + line * 2.3, w, 10);
    }
    write(context, said, left, h + 4, w, line);
  });
  write(context, words, 0, h + below, canvas.width, line);
  return canvas;
}

function write(context, lines, left, top, width, line) {
  context.fillStyle = "#000";
  context.textAlign = "left";
  context.textBaseline = "top";
  lines.forEach((t, i) => {
    context.font = `${i ? 400 : 600} 14px system-ui, sans-serif`;
    context.fillText(t, left + 2, top + i * line, width - 4);
  });
}

// A case as one picture: what the panes show, whole and side by side.
function strip(words) {
  const { data, x } = open;
  const table = windowTable(state.window, state.invert);
  const border = shownBorder();
  const mark = markOf(true);
  const original = [{ image: paint(x, table) }];
  const tiles = [
    { layers: original, words: ["Original", saidBefore()], mark: markOf(false), border },
  ];
  if (data.frames.length) {
    const limit = withUnit(text(open.limit * perLevel()));
    const scale = ["Difference", `blue −${limit}, orange +${limit}`, ""];
    const result = [{ image: paint(frame(), table) }];
    tiles.push(
      { layers: result, words: [titleNow(), saidNow()], mark, border },
      { layers: [{ image: difference(table) }], words: scale, mark, border, scaleBar: true },
    );
  }
  return row(tiles, words);
}

function fileName(suffix) {
  const stem = open.data.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}.-]+/gu, "_");
  const number = open.data.place && `-${open.data.place.split(" ")[0]}`;
  return `${stem}-counterfactual${number}.${suffix}`;
}

$("#save-png").addEventListener("click", () => {
  const { name, words } = open.data;
  const never = "What a model reacts to; not a finding, not for diagnosis.";
  const status = open.frames.length && !said().flip ? "" : `: ${words.title}`;
  strip([name + status, warning(), never].filter(Boolean)).toBlob((blob) => save(fileName("png"), blob));
});

$("#save-gif").addEventListener("click", () => {
  const { data } = open;
  const table = windowTable(state.window, state.invert);
  const [border, mark] = [shownBorder(), markOf(true)];
  const pictures = open.frames.map((image, i) => {
    const { step, probability, flip } = data.frames[i];
    const words = [`λ ${step}${flip ? `: ${data.goal[1]}` : ""}`, `${data.wanted} ${probability}`];
    const layers = [{ image: paint(image, table) }];
    const canvas = row([{ layers, words, mark, border }], []);
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  });
  const pause = 1 / Number($("#speed").value);
  const delays = data.frames.map(({ flip }) => (flip ? 3 * pause : pause));
  const inner = [...pictures.keys()].slice(1, -1).reverse(); // and back again
  const order = [...pictures.keys(), ...inner];
  save(
    fileName("gif"),
    gif(
      order.map((i) => pictures[i]),
      order.map((i) => delays[i]),
    ),
  );
});

// A case on one sheet of paper.
function sheet() {
  const { data } = open;
  const page = document.createElement("article");
  page.append(
    element("h2", `${data.name}: ${data.words.title}`),
    element("p", `${warning()} ${data.words.text} ${data.message}`),
    strip([]),
  );
  if (data.frames.length > 1) {
    const figure = $("#curve-box").cloneNode(true);
    for (const part of [figure, ...$$("[id]", figure)]) part.removeAttribute("id");
    page.append(figure);
  }
  const list = document.createElement("dl");
  list.className = "facts";
  list.append(...data.facts.map(listed));
  const foot = `Made by cfgen. The pictures show what a model reacts to: ${facts.mark}.`;
  page.append(list, element("footer", foot));
  return page;
}

window.addEventListener("beforeprint", () => {
  if (open) $("#sheets").replaceChildren(sheet());
});
window.addEventListener("afterprint", () => $("#sheets").replaceChildren());
$("#print").addEventListener("click", () => window.print());

// All cases that are shown, one after the other; a browser's memory holds some hundred sheets.
$("#print-all").addEventListener("click", async () => {
  const sheets = [];
  if (readable().length > 200) {
    $("#found").textContent += ". Filter first: at most 200 cases are printed at once.";
    return;
  }
  for (const index of readable()) {
    open = await decodeCase(index);
    state = fresh();
    state.frame = Math.max(open.flip, 0);
    tell();
    drawCurve();
    sheets.push(sheet());
    $("#found").textContent = `Preparing ${sheets.length} of ${readable().length} pages`;
  }
  open = null;
  arrange();
  $("#sheets").replaceChildren(...sheets);
  window.print();
});
