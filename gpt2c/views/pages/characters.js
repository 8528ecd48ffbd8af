// Characters that are spread over several tokens, as those of Chinese and emoji often are.

const encoder = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const segmenter = Intl.Segmenter ? new Intl.Segmenter("en", { granularity: "grapheme" }) : null;

// The bytes of a token's text, in which a byte that is not UTF-8 by itself is a lone surrogate.
function bytesOfPiece(piece) {
  return [...piece].flatMap((character) => {
    const code = character.codePointAt(0);
    return code >= 0xdc80 && code <= 0xdcff ? [code - 0xdc00] : [...encoder.encode(character)];
  });
}

// The character that begins at a byte, and how many bytes it has; a byte that begins none is a lone surrogate.
function characterAt(bytes, start) {
  const first = bytes[start];
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  try {
    return [strict.decode(Uint8Array.from(bytes.slice(start, start + length))), length];
  } catch {
    return [String.fromCharCode(0xdc00 + first), 1];
  }
}

// Bytes as text, and of each of its units of UTF-16 the byte where its character begins.
function decoded(bytes) {
  let text = "";
  const begins = [];
  for (let at = 0; at < bytes.length; ) {
    const [character, length] = characterAt(bytes, at);
    text += character;
    for (let unit = 0; unit < character.length; unit++) begins.push(at);
    at += length;
  }
  return { text, begins: [...begins, bytes.length] };
}

// Where characters, as a reader counts them, lie in several tokens: { from, to, text }, `to` included. Tokens
// that hold parts of two characters join these.
function charactersOf(ids) {
  const pieces = ids.map((id) => bytesOfPiece(data.pieces[id] ?? ""));
  const owner = pieces.flatMap((bytes, index) => bytes.map(() => index));
  const { text, begins } = decoded(pieces.flat());
  const segments = segmenter ? [...segmenter.segment(text)].map((one) => one.segment) : [...text];
  const found = [];
  let unit = 0;
  for (const segment of segments) {
    const [from, to] = [owner[begins[unit]], owner[begins[unit + segment.length] - 1]];
    unit += segment.length;
    if (from === to || /^[\p{C}\p{Z}]+$/u.test(segment)) continue;
    if (found.length && found.at(-1).to >= from) found.at(-1).to = to;
    else found.push({ from, to });
  }
  for (const one of found) one.text = decoded(pieces.slice(one.from, one.to + 1).flat()).text;
  return found;
}

const character = (text) => make("bdi", { class: "character" }, ...visible(text));

// Elements, one for each token, in which those of one character lie together under it.
function grouped(ids, elements) {
  const nodes = [];
  let next = 0;
  for (const { from, to, text } of charactersOf(ids)) {
    nodes.push(...elements.slice(next, from));
    nodes.push(make("span", { class: "joined" }, character(text), make("span", { class: "parts" }, elements.slice(from, to + 1))));
    next = to + 1;
  }
  return [...nodes, ...elements.slice(next)];
}

// A row of tokens to read.
const reading = (ids) => grouped(ids, ids.map((id) => token(id)));

// Of a token of the text that has only a part of a character: which one.
const spelled = charactersOf(tokens);
function partOf(position) {
  const found = spelled.find(({ from, to }) => from <= position && position <= to);
  return found ? make("small", { class: "of-character" }, mixed("part of {0}", character(found.text))) : null;
}
