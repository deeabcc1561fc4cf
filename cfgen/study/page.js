// One reader's study: shows the pages in their order and keeps the answers in this browser.

const study = JSON.parse(document.getElementById("study").textContent);
const KEY = `cfgen-study-${study.study}-${study.reader}`;
const OWNER = `${KEY}-window`;
const me = String(Math.random());
const last = study.pages.length;
const main = document.getElementById("main");

// place: -1 is the start, `last` is the end; rested: the last part for which the reader was ready.
let state = { place: -1, rested: 1, pages: {} };
let clock = null; // runs while a page is seen
let stopped = false;

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/* What is kept */

function save() {
  if (stopped) return;
  let kept = true;
  try {
    if (localStorage.getItem(OWNER) !== me) return stop();
    localStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    kept = false;
  }
  document.getElementById("kept").textContent = kept
    ? "Your answers are kept in this browser and sent nowhere."
    : "This browser keeps no answers: download them before you close the page.";
}

// A second window with the same study would overwrite the answers of this one.
function stop() {
  stopped = true;
  clock = null;
  show("Open in another window", el("p", {}, "Go on there, or reload this page to go on here."));
}

function tick() {
  if (!clock) return;
  const now = performance.now();
  clock.record.seconds += (now - clock.since) / 1000;
  clock.since = now;
}

function startClock(record) {
  clock = document.visibilityState === "visible" ? { record, since: performance.now() } : null;
}

function current() {
  const page = study.pages[state.place];
  return page && (state.pages[page.page] ??= { seconds: 0, done: false, answers: {} });
}

document.addEventListener("visibilitychange", () => {
  tick();
  clock = null;
  if (document.visibilityState === "visible" && main.querySelector("form")) startClock(current());
  save();
});
window.addEventListener("pagehide", () => { tick(); save(); });
setInterval(() => { if (clock) { tick(); save(); } }, 5000);

window.addEventListener("storage", save);

/* The contents of a page */

function keystream(seed, length) {
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let i = 0; i < words.length; i++) {
    let h = (seed + Math.imul(i, 0x9e3779b9)) >>> 0;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    words[i] = h ^ (h >>> 16);
  }
  return new Uint8Array(words.buffer, 0, length);
}

function unveil(page) {
  const bytes = Uint8Array.from(atob(page.data), (c) => c.charCodeAt(0));
  const stream = keystream(parseInt(page.page, 16), bytes.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] ^= stream[i];
  let from = bytes.indexOf(10) + 1;
  const words = JSON.parse(new TextDecoder().decode(bytes.subarray(0, from)));
  return words.figures.map((figure, i) => {
    const png = bytes.subarray(from, (from += words.sizes[i]));
    return { ...figure, picture: new Blob([png], { type: "image/png" }) };
  });
}

/* Questions */

function radios(name, options, chosen, pick) {
  return el("div", { class: "options" }, ...options.map((option) => el("label", {},
    el("input", { type: "radio", name, value: option, checked: option === chosen, change: () => pick(option) }), option)));
}

function ends([low, high]) {
  return low || high ? el("div", { class: "ends" }, el("span", {}, low), el("span", {}, high)) : "";
}

function asked(question, record) {
  const given = (record.answers[question.id] ??= {});
  const note = (name) => (value) => {
    tick();
    given[name] = value;
    given.seconds = record.seconds;
    save();
  };
  const words = [question.ask, question.optional ? el("span", { class: "soft" }, " (may be left empty)") : ""];
  if (question.type === "text") {
    const area = el("textarea", { id: `q-${question.id}`, input: (event) => note("answer")(event.target.value) });
    area.value = given.answer ?? "";
    return el("fieldset", {}, el("label", { class: "ask", for: area.id }, ...words), area);
  }
  const box = el("fieldset", {}, el("legend", {}, ...words),
    radios(`q-${question.id}`, question.options, given.answer, note("answer")), ends(question.ends));
  if (question.confidence) {
    box.append(el("fieldset", {}, el("legend", {}, "How sure are you?"),
      radios(`c-${question.id}`, ["1", "2", "3", "4", "5"], given.confidence, note("confidence")),
      ends(["a guess", "certain"])));
  }
  return box;
}

function missing(questions, record) {
  return questions.find((q) => {
    const given = record.answers[q.id];
    if (!given.answer?.trim()) return !q.optional || given.confidence;
    return q.confidence && !given.confidence;
  });
}

/* Screens */

function show(heading, ...children) {
  main.replaceChildren(el("div", { class: "text" }, el("h1", {}, heading), ...children));
  main.focus();
  window.scrollTo(0, 0);
}

function go(place) {
  tick();
  clock = null;
  state.place = place;
  save();
  render();
}

function next(text, place) {
  return el("div", { class: "buttons" }, el("button", { type: "button", class: "next", click: () => go(place) }, text));
}

async function showPage(place) {
  const page = study.pages[place];
  const questions = study.questions[page.kind];
  const record = current();
  const pictures = await Promise.all(unveil(page).map(picture));
  if (place !== state.place || stopped) return;
  const alert = el("p", { class: "alert", role: "alert" });
  const form = el("form", { novalidate: true, input: () => { alert.textContent = ""; }, submit: (event) => {
    event.preventDefault();
    const open = missing(questions, record);
    if (open) {
      alert.textContent = `Please answer: ${open.ask}${record.answers[open.id].answer ? " – how sure are you?" : ""}`;
      const field = form.elements[(record.answers[open.id].answer ? "c-" : "q-") + open.id];
      (field?.length ? field[0] : field)?.focus();
      return;
    }
    record.done = true;
    go(place + 1);
  } }, ...questions.map((question) => asked(question, record)), alert,
    el("div", { class: "buttons" },
      el("button", { class: "next" }, place + 1 < last ? "Next image" : "Finish"),
      study.allow_back && place > 0 ? el("button", { type: "button", click: () => go(place - 1) }, "Back") : ""));
  main.style.setProperty("--columns", study.columns);
  main.replaceChildren(el("h1", {}, `Image ${place + 1} of ${last}`), el("div", { class: "page" }, viewer(pictures), form));
  main.focus();
  window.scrollTo(0, 0);
  startClock(record);
}

function render() {
  const { place } = state;
  const parts = study.pages[last - 1].part;
  const part = study.pages[place]?.part;
  document.getElementById("place").textContent =
    part ? (parts > 1 ? `Part ${part} of ${parts}` : "") : place < 0 ? "Before you start" : "Finished";
  main.replaceChildren();
  if (place < 0) {
    const back = study.allow_back ? "You can go back to earlier images." : "You cannot go back to an image.";
    show(study.title, study.introduction ? el("p", {}, study.introduction) : "",
      el("p", {}, `You will see ${last} pages in ${parts} part${parts > 1 ? "s" : ""}; the time for each is noted. ${back} `
        + "An image may come more than once. You can close this page and go on later, in the same browser."),
      el("p", {}, "Nothing is sent anywhere. At the end, download your answers and give the file to the organiser of the study. "
        + "The images are for this study and not for diagnosis."),
      next("Start", 0));
  } else if (place >= last) {
    show("Thank you", el("p", {}, "All questions are answered. Download your answers and give the file to the organiser of the study."),
      el("div", { class: "buttons" }, el("button", { type: "button", class: "next", click: download }, "Download the answers"),
        study.allow_back ? el("button", { type: "button", click: () => go(last - 1) }, "Back") : ""));
  } else if (part > state.rested) {
    const ready = () => { state.rested = part; go(place); };
    show(`Part ${part} of ${parts}`, el("p", {}, "A good moment to rest your eyes. The next part starts when you are ready."),
      el("div", { class: "buttons" }, el("button", { type: "button", class: "next", click: ready }, "Go on")));
  } else {
    showPage(place);
  }
}

/* Answers as CSV: the pages that are finished */

function csv() {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = [["study", "reader", "page", "position", "question", "answer", "confidence", "seconds", "page_seconds"]];
  study.pages.forEach((page, i) => {
    const record = state.pages[page.page];
    if (!record?.done) return;
    for (const { id } of study.questions[page.kind]) {
      const given = record.answers[id];
      if (!given?.answer?.trim()) continue;
      rows.push([study.study, study.reader, page.page, i + 1, id, given.answer.trim(), given.confidence ?? "",
        given.seconds.toFixed(1), record.seconds.toFixed(1)]);
    }
  });
  return rows.map((row) => row.map((value) => cell(String(value))).join(",") + "\r\n").join("");
}

function download() {
  const link = el("a", { download: `answers-reader-${study.reader}.csv` });
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

document.getElementById("download").addEventListener("click", download);
try {
  state = JSON.parse(localStorage.getItem(KEY)) ?? state;
  localStorage.setItem(OWNER, me);
} catch { /* nothing kept: start anew */ }
save();
render();
