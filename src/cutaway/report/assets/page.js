// Small tools that every view uses: elements, numbers, arrays, saving.

const DRAW = {}; // how each kind of view is drawn: (view, stage) => undefined
const TABLES = {}; // its numbers as a table: view => [header, ...rows]
const repaint = []; // what to draw again when the colour scheme changes

/** An element: `on…` properties are listeners, the others are attributes; text is never read as markup. */
function make(tag, attributes = {}, ...children) {
  const space = ["svg", "g", "path", "line", "circle", "text", "rect"].includes(tag) && "http://www.w3.org/2000/svg";
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

const missing = (value) => value == null || Number.isNaN(value);
const plain = (value, digits) => String(Number(value.toPrecision(digits)));

const isShare = (unit) => /^share\b/.test(unit ?? "");
const isChance = (unit) => /^probability\b/.test(unit ?? "");

/**
 * A number for people, with a true minus sign: three decimals, fewer for large numbers; a share in percent. `size` is
 * the largest number beside it, so that those of one kind are written alike. What would read 0.000 is written with a
 * power of ten: all such numbers where the largest is one of them, each such probability. As `number` of views/words.py.
 */
function say(value, unit = "", size = Math.abs(value)) {
  if (missing(value)) return "not measured";
  const fixed = (number, digits) => number.toFixed(digits).replace(/^-(?=[0.]*$)/, "");
  const least = isChance(unit) ? Math.abs(value) : size;
  const tiny = least > 0 && least < 5e-4;
  const text = isShare(unit)
    ? `${fixed(value * 100, 1)}%`
    : tiny || size >= 1e6
      ? value.toExponential(2)
      : fixed(value, size < 10 ? 3 : size < 100 ? 1 : 0);
  return text.replace("-", "−");
}

function sayBetween(value, low, high, ...how) {
  return say(value, ...how) + (missing(low) || missing(high) ? "" : ` [${say(low, ...how)}, ${say(high, ...how)}]`);
}

/** The largest distance from zero. */
const sizeOf = ({ low, high, empty }) => (empty ? 0 : Math.max(Math.abs(low), Math.abs(high)));

/** Turn every packed array of a view into {shape, data}, in place, and picture keys into addresses. */
function unpack(value, pictures) {
  if (Array.isArray(value)) return value.map((item) => unpack(item, pictures));
  if (value === null || typeof value !== "object") return value;
  if ("float32" in value) {
    const bytes = Uint8Array.from(atob(value.float32), (character) => character.charCodeAt(0));
    return { shape: value.shape, data: new Float32Array(bytes.buffer) };
  }
  const out = {};
  for (const [name, item] of Object.entries(value)) out[name] = unpack(item, pictures);
  if (out.$type === "Picture") out.uri = pictures[out.uri];
  return out;
}

/** The part of an array at the first indices: slice(a, 2) of a (text, row, column) array is the third map. */
function slice(array, ...indices) {
  let size = array.data.length,
    start = 0;
  indices.forEach((index, axis) => {
    size /= array.shape[axis];
    start += index * size;
  });
  return array.data.subarray(start, start + size);
}

function extent(...arrays) {
  let low = Infinity,
    high = -Infinity,
    holes = false;
  for (const array of arrays) {
    for (const value of array ?? []) {
      if (missing(value)) holes = true;
      else {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
  }
  return { low, high, holes, empty: low > high };
}

function csv(table) {
  const cell = (value) => {
    if (missing(value)) return "";
    const text = typeof value === "number" ? plain(value, 7) : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return table.map((row) => row.map(cell).join(",") + "\n").join("");
}

function save(name, text) {
  const link = make("a", {
    download: name,
    href: URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" })),
  });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // no permission, or a browser that gives local files no clipboard
    const area = make("textarea", { readonly: true, class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const empty = (text) => make("p", { class: "empty", text });
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
let lastId = 0;
const newId = (word) => `${word}-${++lastId}`;

/** Call `draw(width)` with the width of `box` in pixels now, and whenever it changes. */
function onWidth(box, draw) {
  let last = 0;
  const look = () => {
    const width = Math.floor(box.clientWidth);
    if (width && width !== last) draw((last = width));
  };
  new ResizeObserver(look).observe(box);
  repaint.push(() => last && draw(last));
  return look;
}

/** One of several, as native radio buttons: arrow keys and screen readers work by themselves. */
function choose(legend, options, onChoose, { decorate = () => null, chosen = 0, kind = "" } = {}) {
  const name = newId("choice");
  const items = options.map((text, index) =>
    make(
      "label",
      { class: "option", title: text },
      make("input", { type: "radio", name, checked: index === chosen, onchange: () => onChoose(index) }),
      decorate(index),
      make("span", { text: text || "(empty text)", dir: "auto" }),
    ),
  );
  return make(
    "fieldset",
    { class: `choose ${kind}` },
    make("legend", { text: legend }),
    make("div", { class: "options" }, items),
  );
}

function check(text, checked, onChange) {
  const box = make("input", { type: "checkbox", checked, onchange: () => onChange(box.checked) });
  return make("label", { class: "check" }, box, make("span", { text }));
}

/** A labelled slider over named places. Returns the element and `set`. */
function slider(label, places, at, onMove) {
  const id = newId("slider");
  const said = make("output", { for: id, class: "at" });
  const input = make("input", { id, type: "range", min: 0, max: Math.max(places.length - 1, 0), step: 1 });
  const show = (index) => {
    input.value = index;
    said.textContent = places[index];
    input.setAttribute("aria-valuetext", `${label} ${places[index]}`);
  };
  input.addEventListener("input", () => {
    show(Number(input.value));
    onMove(Number(input.value));
  });
  said.style.minWidth = `${Math.min(9, Math.max(...places.map((place) => String(place).length)))}ch`;
  show(at);
  return { node: make("div", { class: "slider" }, make("label", { for: id, text: label }), input, said), set: show };
}
