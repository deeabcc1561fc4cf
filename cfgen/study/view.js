// Pictures on canvases, and the view of them.

const PLAIN = { brightness: 1, contrast: 1, zoom: 1, x: 0.5, y: 0.5 }; // x, y: what is in the middle

async function picture(figure) {
  const bitmap = await createImageBitmap(figure.picture);
  const scale = Math.max(1, Math.ceil(640 / bitmap.width));
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const strip = figure.mark ? Math.round(width / 18) : 0;
  const canvas = el("canvas", { width, height: height + strip, role: "img" });
  canvas.setAttribute("aria-label", figure.mark ? `${figure.alt} (${figure.mark})` : figure.alt);
  const context = canvas.getContext("2d");
  function draw({ brightness, contrast, zoom, x, y }) {
    const [w, h] = [bitmap.width / zoom, bitmap.height / zoom];
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, x * bitmap.width - w / 2, y * bitmap.height - h / 2, w, h, 0, 0, width, height);
    canvas.style.filter = `brightness(${brightness}) contrast(${contrast})`;
    if (!strip) return;
    // Burned in, so that it stays in a screenshot and in a saved picture.
    context.fillStyle = "#000";
    context.fillRect(0, height, width, strip);
    context.fillStyle = "#ffd9a8";
    context.font = `${Math.round(strip * 0.68)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(figure.mark, width / 2, height + strip / 2, width * 0.98);
  }
  draw(PLAIN);
  return { draw, node: el("figure", {}, canvas, el("figcaption", {}, figure.caption)) };
}

// The view is the same for all pictures of a page, and new on every page.
function viewer(pictures) {
  let view = PLAIN;
  const slider = (name, min, max) =>
    el("input", { type: "range", min, max, step: 0.05, value: 1, input: (event) => set({ [name]: +event.target.value }) });
  const inputs = { brightness: slider("brightness", 0.3, 3), contrast: slider("contrast", 0.3, 3), zoom: slider("zoom", 1, 6) };
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  function set(change) {
    view = { ...view, ...change };
    for (const [name, input] of Object.entries(inputs)) view[name] = within(view[name], +input.min, +input.max);
    const edge = 0.5 / view.zoom;
    for (const axis of ["x", "y"]) view[axis] = within(view[axis], edge, 1 - edge);
    for (const [name, input] of Object.entries(inputs)) input.value = view[name];
    for (const one of pictures) one.draw(view);
  }
  const move = (dx, dy) => set({ x: view.x - dx / view.zoom, y: view.y - dy / view.zoom });
  const box = el("div", { class: "figures", tabindex: "0", role: "group", "aria-label": "Pictures",
    pointermove: (event) => {
      if (!event.buttons || !event.target.matches("canvas")) return;
      const width = event.target.clientWidth;
      if (event.shiftKey || event.buttons & 4) move(event.movementX / width, event.movementY / width);
      else set({ contrast: view.contrast + event.movementX / 100, brightness: view.brightness - event.movementY / 100 });
    },
    dblclick: () => set(PLAIN),
    keydown: (event) => {
      const step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      const times = { "+": 1.25, "-": 0.8 }[event.key];
      if (step) move(...step);
      if (times) set({ zoom: view.zoom * times });
      if (step || times) event.preventDefault();
    } }, ...pictures.map((one) => one.node));
  box.addEventListener("wheel", (event) => { // what is under the pointer stays there
    if (!event.target.matches("canvas")) return;
    event.preventDefault();
    const { left, top, width, height } = event.target.getBoundingClientRect();
    const zoom = within(view.zoom * (event.deltaY < 0 ? 1.25 : 0.8), 1, 6);
    const shift = 1 / view.zoom - 1 / zoom;
    set({ zoom, x: view.x + ((event.clientX - left) / width - 0.5) * shift, y: view.y + ((event.clientY - top) / height - 0.5) * shift });
  }, { passive: false });
  const labels = Object.entries(inputs).map(([name, input]) => el("label", {}, name[0].toUpperCase() + name.slice(1), input));
  return el("div", {}, box, el("div", { class: "view" }, ...labels,
    el("button", { type: "button", click: () => set(PLAIN) }, "Reset the view"),
    el("span", {}, "On a picture: drag for brightness and contrast, wheel to zoom, Shift and drag to move.")));
}
