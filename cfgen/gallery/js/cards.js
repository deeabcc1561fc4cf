// The cards of a list that may be long. Those near the screen are in the page, in blocks; they come
// in chunks when they are needed.

const BLOCK = 24; // cards of a block: full rows, be they of one, two, three or four
const list = $("#cards");
const opening = $$(".card", list).map((card) => card.outerHTML); // the first chunk's
let blocks = []; // { element, from, to }: places in `shown`

// A chunk is { here, cards, lines }: the latter two are there once `here` is done.
const chunks = new Map();
function chunkOf(index) {
  const number = Math.floor(index / facts.chunk);
  const found = chunks.get(number) ?? askFor(number);
  chunks.delete(number); // what was used last is kept longest
  chunks.set(number, found);
  if (chunks.size > 256) chunks.delete(chunks.keys().next().value);
  return found;
}

function askFor(number) {
  const chunk = number ? {} : { cards: opening };
  const address = `page/rows-${String(number + 1).padStart(4, "0")}.js`;
  chunk.here = bring(address)
    .catch(({ message }) => ({ cards: [], lines: [], trouble: message }))
    .then((data) => {
      Object.assign(chunk, data, number ? {} : { cards: opening });
      soon();
    });
  return chunk;
}

function cardOf(index) {
  const { cards, trouble } = chunkOf(index);
  const template = document.createElement("template");
  template.innerHTML = cards[index % facts.chunk] ?? "";
  if (template.content.firstElementChild) return template.content.firstElementChild;
  const { file, opens } = rows[index];
  const card = Object.assign(element("div", ""), { id: `card-${index}`, className: "card" });
  card.setAttribute("role", "listitem");
  const name = element(opens ? "a" : "span", file);
  if (opens) name.href = `#case-${index}`;
  const head = element("h2", "");
  head.append(name);
  card.append(head, element("p", trouble));
  return card;
}

// Show the cards of `shown`, in its order.
function build() {
  const former = new Map($$(".card", list).map((card) => [card.id, card]));
  blocks = Array.from({ length: Math.ceil(shown.length / BLOCK) }, (_, k) => {
    const block = { element: element("div", ""), from: k * BLOCK };
    block.to = Math.min(block.from + BLOCK, shown.length);
    block.element.className = "block";
    block.element.style.setProperty("--share", (block.to - block.from) / BLOCK);
    return block;
  });
  list.replaceChildren(...blocks.map((block) => block.element));
  forget();
  fillNear(former);
}

// How tall a block is that was not filled yet is told by one that was.
let tall = 0;
function forget() {
  tall = 0;
  for (const { element } of blocks) element.style.height = "";
}

// Fill the blocks within a screen of the screen, and empty the others. A list of no more than a
// chunk stays whole, so that it can be searched by the browser and printed.
const paper = matchMedia("print"); // has no place for an empty block
function fillNear(former = new Map()) {
  if (overview.hidden || paper.matches) return;
  const whole = shown.length <= facts.chunk;
  const places = blocks.map(({ element }) => element.getBoundingClientRect());
  let filled = false;
  blocks.forEach((block, k) => {
    const near = places[k].bottom > -innerHeight && places[k].top < 2 * innerHeight;
    const used = block.element.contains(document.activeElement);
    if (whole || near || used) filled = fill(block, former) || filled;
    else if (block.element.firstChild) {
      block.element.style.height = `${places[k].height}px`;
      empty(block.element);
    }
  });
  const full = tall ? null : blocks.find(({ element }) => element.childElementCount === BLOCK);
  if (full) {
    tall = full.element.offsetHeight;
    list.style.setProperty("--tall", `${tall}px`);
  }
  if (filled) soon(); // it may be lower than it was thought to be
}

function fill({ element, from, to }, former) {
  const indices = shown.slice(from, to);
  if (element.firstChild || indices.map(chunkOf).some(({ cards }) => !cards)) return false;
  const cards = indices.map((index) => former.get(`card-${index}`) ?? cardOf(index));
  cards.forEach((card, k) => {
    card.setAttribute("aria-posinset", from + k + 1);
    card.setAttribute("aria-setsize", shown.length);
  });
  element.style.height = "";
  element.append(...cards);
  return true;
}

// Pictures are let go at once, not when the browser collects what is left.
function empty(element) {
  for (const image of $$("img", element)) image.removeAttribute("src");
  element.replaceChildren();
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    fillNear();
  });
}
window.addEventListener("scroll", soon, { passive: true });
let wide = 0;
new ResizeObserver(() => {
  if (wide !== list.clientWidth) forget();
  wide = list.clientWidth;
  soon();
}).observe(list);

// Come back to a card.
async function reveal(index) {
  const block = blocks[Math.floor(shown.indexOf(index) / BLOCK)];
  if (!block) return fillNear();
  block.element.scrollIntoView();
  await Promise.all(shown.slice(block.from, block.to).map((i) => chunkOf(i).here));
  fillNear();
  $(`#card-${index} a`)?.focus();
}
