// Tokens and numbers as text. Whatever has no shape of its own is shown by a mark, which knows its bytes.

const MARKS = { " ": ["␣", t("space")], "\n": ["⏎", t("new line")], "\t": ["⇥", t("tab")] };
// Names of the other controls and of characters that only say how those around them are set. Few fonts have
// the pictures that Unicode has of controls, so a name in a frame is the picture.
const CONTROLS = "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split(" ");
const INVISIBLE = {
  "\x7f": "DEL", "\x85": "NEL", "\xa0": "NBSP", "\xad": "SHY", "\u061c": "ALM", "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ",
  "\u200e": "LRM", "\u200f": "RLM", "\u2028": "LS", "\u2029": "PS", "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF",
  "\u202d": "LRO", "\u202e": "RLO", "\u202f": "NNBSP", "\u2060": "WJ", "\u2066": "LRI", "\u2067": "RLI", "\u2068": "FSI",
  "\u2069": "PDI", "\u3000": "IDSP", "\ufe0e": "VS15", "\ufe0f": "VS16", "\ufeff": "BOM",
};
// Bytes that are no UTF-8 by themselves; separators, controls and whatever is ignored when text is drawn; a
// combining character without what it combines with.
const UNSEEN = /[\udc80-\udcff]+|[\p{C}\p{Z}\p{DI}]|^\p{M}/gu;
// What makes one picture of several characters of emoji: it is seen in that picture.
const EMOJI = /\p{Extended_Pictographic}[\p{EMod}\ufe0f\u{e0020}-\u{e007f}]*$/u;
const JOINS = /^(?:[\ufe0f\u{e0020}-\u{e007f}]|\u200d\p{Extended_Pictographic})/u;
const hexadecimal = (number, digits) => number.toString(16).toUpperCase().padStart(digits, "0");

function bytesOf(text) {
  return [...new TextEncoder().encode(text)].map((byte) => hexadecimal(byte, 2)).join(" ");
}

// A mark in the place of what cannot be seen. In the name of a button or a cell, a space before a word is
// nothing, as in any text; without a word it is named.
function mark(text, beforeWord = false) {
  const code = text.codePointAt(0);
  if (code >= 0xdc80 && code <= 0xdcff) {
    const bytes = [...text].map((unit) => hexadecimal(unit.charCodeAt(0) - 0xdc00, 2)).join(" ");
    return make("span", { class: "mark", "data-bytes": bytes }, `⟨${bytes}⟩`);
  }
  const attributes = { class: "mark", "data-bytes": bytesOf(text) };
  if (MARKS[text]) {
    const [sign, name] = MARKS[text];
    return make("span", { ...attributes, ...(beforeWord ? { "aria-hidden": "true" } : { role: "img", "aria-label": name }) }, sign);
  }
  const name = CONTROLS[code] ?? INVISIBLE[text];
  if (name) return make("span", { ...attributes, class: "mark named" }, name);
  return make("span", attributes, `⟨${hexadecimal(code, 4)}⟩`);
}

// The nodes of a text, with marks; spaces may be left as they are.
function visible(text, spaces = true) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (found[0] === " " && !spaces) continue;
    if (JOINS.test(text.slice(found.index)) && EMOJI.test(text.slice(0, found.index))) continue;
    nodes.push(text.slice(end, found.index));
    if (/^\p{M}$/u.test(found[0])) nodes.push(make("span", { class: "mark", "data-bytes": "" }, "◌"), found[0]);
    else nodes.push(mark(found[0], /^ [^\s\udc80-\udcff]/.test(text.slice(found.index))));
    end = found.index + found[0].length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

function token(id) {
  const text = data.pieces[id];
  return make("bdi", { class: "token" }, ...(text ? visible(text) : [`#${id}`]));
}

// What a screen reader makes of an element with marks.
function heard(element) {
  const named = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.ariaHidden === "true") return " "; // the mark of a space before a word
    return node.ariaLabel ? ` ${node.ariaLabel} ` : [...node.childNodes].map(named).join("");
  };
  return named(element).replace(/ +/g, " ").trim();
}

// A token where only plain text can stand, as in the name of a button.
const spoken = (id) => heard(token(id));

const minus = (text) => text.replace("-", "−");
const fixed = (x, digits = 2) => minus((Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits));
const whole = (x) => x.toLocaleString("en");

function percent(p) {
  if (p === 0) return "0%";
  if (p < 1e-6) return minus(`${(100 * p).toExponential(0)}%`);
  if (p === 1) return "100%";
  return `${p < 1e-4 ? Number((100 * p).toPrecision(2)) : (100 * p).toPrecision(p > 0.99 ? 4 : 3)}%`;
}

// The same with fewer digits, for what is not exact.
const roughly = (p, digits = 2) => `${Number((100 * p).toPrecision(digits))}%`;
