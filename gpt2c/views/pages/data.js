// The data of the page: arrays and attention as codes.py writes them, and what the views show together.

const data = JSON.parse(document.getElementById("data").textContent);
const tokens = data.tokens;
const T = tokens.length;

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

function unpacked(array) {
  if (array.type === "digits") {
    const values = new Map([...data.attention.digits].map((digit, value) => [digit, value]));
    return Uint8Array.from(array.data, (digit) => values.get(digit));
  }
  const bytes = Uint8Array.from(atob(array.data), (character) => character.charCodeAt(0));
  const values = new ARRAYS[array.type](bytes.buffer);
  if (array.low === undefined) return values;
  const step = (array.high - array.low) / 65535;
  return Float64Array.from(values, (code) => array.low + code * step);
}

// The attention weight of every code of so many bits, and the step from one code to the next.
function weightsBy(bits) {
  const { knee, depth } = data.attention;
  const largest = 2 ** bits - 1;
  const step = (depth + 1 / knee - 1) / largest;
  const weightOf = Float64Array.from({ length: largest + 1 }, (_, code) => {
    const position = code * step - depth;
    if (code === 0) return 0;
    return knee * (position >= 0 ? position + 1 : Math.exp(position));
  });
  return { weightOf, step };
}

// Attention weights and scores of all heads. Row: who asks; column: who answers.
const attention = (() => {
  const told = data.attention;
  const heads = data.model.n_head;
  const codes = unpacked(told.weights);
  const { weightOf, step } = weightsBy(told.bits);
  const cells = told.causal ? (T * (T + 1)) / 2 : T * T;
  const hiddenCells = (T * (T - 1)) / 2;
  const place = new Map(told.layers.map((layer, index) => [layer, index]));

  function codeAt(layer, head, row, column) {
    const base = (place.get(layer) * heads + head) * cells;
    return codes[base + (told.causal ? (row * (row + 1)) / 2 : row * T) + column];
  }

  function allWeights(layer, head, row, column) {
    if (!place.has(layer) || (told.causal && column > row)) return 0;
    return weightOf[codeAt(layer, head, row, column)];
  }

  // Of a long text only the largest weights of each row are kept: any other is 0 here.
  const keys = told.kept && unpacked(told.keys);
  function largestWeights(layer, head, row, column) {
    if (!place.has(layer) || (told.causal && column > row)) return 0;
    const first = ((place.get(layer) * heads + head) * T + row) * told.kept;
    for (let i = first; i < first + told.kept; i++) if (keys[i] === column) return weightOf[codes[i]];
    return 0;
  }
  const weight = told.kept ? largestWeights : allWeights;
  // Of a row, the smallest weight that is kept: any other is at most as large.
  const least = (layer, head, row) => weightOf[codes[((place.get(layer) * heads + head) * T + row + 1) * told.kept - 1]];

  let score = null;
  let hiddenError = 0;
  let hasScores = () => false;
  if (told.scores) {
    const scorePlace = new Map(told.scores.layers.map((layer, index) => [layer, index]));
    const sums = unpacked(told.scores.sums);
    const hidden = unpacked(told.scores.hidden);
    const ends = unpacked(told.scores.ends);
    for (let i = 0; i < ends.length; i += 2) {
      hiddenError = Math.max(hiddenError, (ends[i + 1] - ends[i]) / (told.scores.levels - 1) / 2);
    }
    hasScores = (layer) => scorePlace.has(layer);
    // Before the mask and the softmax. Visible ones follow from the weight: softmax is exp(score - sum).
    score = (layer, head, row, column) => {
      const index = scorePlace.get(layer) * heads + head;
      if (column <= row) {
        const code = codeAt(layer, head, row, column);
        const found = code === 0 ? told.knee * Math.exp(-told.depth) : weightOf[code];
        return Math.log(found) + sums[index * T + row];
      }
      const at = index * hiddenCells + row * T - (row * (row + 1)) / 2 + (column - row - 1);
      const low = ends[2 * index];
      return low + (hidden[at] / (told.scores.levels - 1)) * (ends[2 * index + 1] - low);
    };
  }
  const error = (told.knee * step) / 2;
  const edited = (layer) => Boolean(data.edits?.attention.includes(layer));
  const has = (layer) => place.has(layer);
  return { layers: told.layers, heads, causal: told.causal, bits: told.bits, kept: told.kept, has, weight, least, score, hasScores, edited, error, hiddenError };
})();

// What the page does not tell of the attention in a layer, as a sentence; "" where it tells everything.
function untold(layer) {
  if (attention.has(layer)) {
    if (!attention.kept) return "";
    return t("The text is long: of each token, this page tells the {0} largest weights; smaller ones are left out.", attention.kept);
  }
  return t("The text is long: this page tells all attention of layers {0} only; of layer {1}, what the walk and \"All heads\" show. Choose others with --layers.", listed(attention.layers), layer);
}

// The layer, the heads and the token that are looked at, in all views.
const chosen = { layer: data.start.layer, head: data.start.head, heads: new Set([data.start.head]), token: data.start.token };
const watchers = [];

function choose(layer, head, heads = [head]) {
  chosen.layer = layer;
  chosen.head = head;
  chosen.heads = new Set(heads);
  for (const watcher of watchers) watcher();
}

function follow(token) {
  chosen.token = token;
  for (const watcher of watchers) watcher();
}
