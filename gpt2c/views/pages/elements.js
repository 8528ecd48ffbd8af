// Elements of the page. Text gets in as text only.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// On paper everything is shown at once, as wide as a page.
const printing = () => document.documentElement.classList.contains("printing");
const PAGE_HEIGHT = 640; // CSS pixels that a picture may be high there

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A choice of one: radio buttons in a row. `options` are [value, label].
let groups = 0;
function choice(label, options, value, change) {
  const name = `choice-${groups++}`;
  const buttons = options.map(([option, text]) => {
    const input = make("input", { type: "radio", name, value: option, onchange: () => change(option) });
    input.checked = option === value;
    return make("label", {}, input, make("span", {}, text));
  });
  return make("fieldset", { class: "choice" }, make("legend", {}, label), make("div", {}, buttons));
}

// A list to choose from. `options` are [number, label].
function selection(label, options, change) {
  const list = make("select", { onchange: () => change(Number(list.value)) });
  list.append(...options.map(([value, text]) => make("option", { value }, text)));
  return { element: make("label", { class: "selection" }, label, list), list };
}

// A slider with what its value means, which it also says to those who do not see it.
function slider(label, attributes, change) {
  const output = make("output", { "aria-hidden": "true" });
  const input = make("input", { type: "range", ...attributes });
  const update = () => {
    output.textContent = change(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", update);
  return { element: make("label", { class: "slider" }, make("span", {}, label), input, output), input, update };
}

// What can be done here: of no use on paper.
const hint = (text) => make("span", { class: "hint" }, t(" "), text);

// What has the focus is scrolled out from under what sticks to the edges of the window.
document.addEventListener("focusin", ({ target }) => {
  if (!target.matches(":focus-visible")) return;
  for (const sticky of document.querySelectorAll(".sticky, .readout")) {
    if (!sticky.offsetHeight || sticky.contains(target) || getComputedStyle(sticky).position !== "sticky") continue;
    const [cover, box] = [sticky.getBoundingClientRect(), target.getBoundingClientRect()];
    if (box.bottom <= cover.top || box.top >= cover.bottom || box.height > innerHeight / 2) continue;
    scrollBy(0, cover.top < innerHeight / 4 ? box.top - cover.bottom - 4 : box.bottom - cover.top + 4);
  }
});

// One stop for the tab key in a group; arrow keys go from one to the other. `columns` makes it a grid.
function roving(container, columns = 0) {
  const all = () => [...container.querySelectorAll("[data-stop]")];
  const go = (element) => {
    for (const other of all()) other.tabIndex = other === element ? 0 : -1;
    element.focus();
  };
  all().forEach((element, index) => (element.tabIndex = index ? -1 : 0));
  container.addEventListener("focusin", (event) => {
    const stop = event.target.closest("[data-stop]");
    if (stop && stop.tabIndex) for (const other of all()) other.tabIndex = other === stop ? 0 : -1;
  });
  container.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const stops = all();
    const at = stops.indexOf(document.activeElement);
    if (at < 0) return;
    const across = columns ? columns : 1;
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at + across,
      ArrowUp: at - across,
      Home: columns ? at - (at % columns) : 0,
      End: columns ? at - (at % columns) + columns - 1 : stops.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < stops.length) go(stops[to]);
  });
}

// A canvas that is sharp on this screen; drawing is in CSS pixels.
function sized(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 16000 / Math.max(width, height, 1));
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

// What is left of all tokens behind some rows of bars.
function others(rows, count) {
  const shown = rows.reduce((sum, row) => sum + row.p, 0);
  return { name: t("all others"), p: Math.max(0, 1 - shown), kind: "others", note: plural(count - rows.length, "{0} token", "{0} tokens") };
}

// Bars of probabilities: rows of { id, p, note, kind }, with a name instead of an id where it is not a token. What
// many tokens have together is no bar beside those of one.
function bars(rows, caption) {
  const most = Math.max(...rows.map((row) => (row.kind === "others" ? 0 : row.p)), 1e-9);
  return make(
    "table",
    { class: "bars" },
    make("caption", {}, caption),
    make(
      "tbody",
      {},
      rows.map((row) =>
        make(
          "tr",
          { class: row.kind ?? "" },
          make("th", { scope: "row" }, row.id === undefined ? row.name : token(row.id)),
          make("td", { class: "bar" }, row.kind === "others" ? null : make("span", { "--v": row.p / most })),
          make("td", { class: "number" }, percent(row.p)),
          make("td", { class: "note" }, row.note ?? "")
        )
      )
    )
  );
}

// The colours of a scale, from nothing to all.
function scale(from, to, kind = "heat") {
  return make("p", { class: "scale" }, from, make("span", { class: `ramp ${kind}`, "aria-hidden": "true" }), to);
}
