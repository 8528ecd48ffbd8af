// The numbers of the walk: vectors, scores and weights of the tokens that the page shows, in every layer.

const numbers = data.walk && (() => {
  const told = data.walk;
  const { n_head, n_kv_head } = data.model;
  const { shown } = told;
  const n = shown.length;
  const known = new Map(); // arrays are unpacked when they are asked for
  const array = (key, packed) => known.get(key) ?? known.set(key, unpacked(packed)).get(key);
  const ofLayer = (name, layer) => array(`${name} ${layer}`, told.layers[layer][name]);
  const row = (values, at, rows = n) => {
    const width = values.length / rows;
    return values.subarray(at * width, (at + 1) * width);
  };

  // Of the residual stream and what is added to it; of the ends of the model without a layer.
  const vector = (name, at, layer) => row(layer === undefined ? array(name, told.stream[name]) : ofLayer(name, layer), at);
  const column = (name, at, layer) => (layer === undefined ? array(name, told[name]) : ofLayer(name, layer))[at];

  // Query, key, value or sum of values of a head; heads may share keys and values.
  function ofHead(name, at, layer, head) {
    const count = name === "k" || name === "v" ? n_kv_head : n_head;
    const values = array(`head ${name} ${layer}`, told.layers[layer].heads[name]);
    return row(values, at * count + Math.floor((head * count) / n_head), n * count);
  }

  const score = (layer, head, query, key) => ofLayer("scores", layer)[(head * n + query) * n + key];
  const ofRow = (name, layer, head, query) => ofLayer(name, layer)[head * n + query];
  const hidden = (query, key) => attention.causal && shown[key] > shown[query];

  function weight(layer, head, query, key) {
    if (told.layers[layer].weights) return ofLayer("weights", layer)[(head * n + query) * n + key];
    if (hidden(query, key)) return 0;
    return Math.exp(score(layer, head, query, key) - ofRow("sum", layer, head, query));
  }
  // What it would be if no key were hidden.
  const unmasked = (layer, head, query, key) =>
    Math.exp(score(layer, head, query, key) - ofRow("unmasked_sum", layer, head, query));

  const whole = (layer) => ofHead("q", 0, layer, 0).length === data.model.d_head;
  const wholeLayers = told.layers.map((_, layer) => layer).filter(whole);
  const error = Math.max(...told.layers.flatMap(({ heads }) => Object.values(heads).map(({ low, high }) => (high - low) / 131070)));

  // Which of the shown tokens is followed: the one that was chosen, or the last.
  const at = () => (shown.includes(chosen.token) ? shown.indexOf(chosen.token) : n - 1);
  // The shown token with the largest weight, of all or of those that `may` be it.
  const strongest = (layer, head, query, may = () => true) => {
    const keys = shown.map((_, key) => key).filter(may);
    return keys.reduce((best, key) => (weight(layer, head, query, key) > weight(layer, head, query, best) ? key : best), keys[0]);
  };

  return { shown, n, vector, column, ofHead, score, ofRow, hidden, weight, unmasked, whole, wholeLayers, error, at, strongest };
})();
