// Tokens and numbers as text. Whatever has no shape of its own is shown by a mark, which knows its bytes.

const MARKS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
// Bytes that are no UTF-8 by themselves; separators, controls and whatever is ignored when text is drawn; a
// combining character without what it combines with.
const UNSEEN = /[\udc80-\udcff]+|[\p{C}\p{Z}\p{DI}]|^\p{M}/gu;
const hexadecimal = (number, digits) => number.toString(16).toUpperCase().padStart(digits, "0");

function bytesOf(text) {
  return [...new TextEncoder().encode(text)].map((byte) => hexadecimal(byte, 2)).join(" ");
}

function mark(text) {
  const code = text.codePointAt(0);
  if (code >= 0xdc80 && code <= 0xdcff) {
    const bytes = [...text].map((unit) => hexadecimal(unit.charCodeAt(0) - 0xdc00, 2)).join(" ");
    return make("span", { class: "mark", "data-bytes": bytes }, `⟨${bytes}⟩`);
  }
  return make("span", { class: "mark", "data-bytes": bytesOf(text) }, MARKS[text] ?? `⟨${hexadecimal(code, 4)}⟩`);
}

// The nodes of a text, with marks; spaces may be left as they are.
function visible(text, spaces = true) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (found[0] === " " && !spaces) continue;
    nodes.push(text.slice(end, found.index));
    if (/^\p{M}$/u.test(found[0])) nodes.push(make("span", { class: "mark", "data-bytes": "" }, "◌"), found[0]);
    else nodes.push(mark(found[0]));
    end = found.index + found[0].length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

function token(id) {
  const text = data.pieces[id];
  return make("bdi", { class: "token" }, ...(text ? visible(text) : [`#${id}`]));
}

// The same where only plain text can stand, as in the name of a button.
const spoken = (id) => token(id).textContent;

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

const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
