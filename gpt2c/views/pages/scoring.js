// Attention in the walk: the score of one pair of tokens, the softmax of a row, the sum of values, all heads.

const scaling = (layer) => {
  const { scaling: factor } = data.walk.layers[layer];
  if (Math.abs(factor * Math.sqrt(data.model.d_head) - 1) < 1e-6) return `÷ √${data.model.d_head}`;
  return factor === 1 ? "" : `× ${Number(factor.toPrecision(4))}`;
};

// A table that scrolls where it is wider than the page. A heading "" is above bars.
function numberTable(id, label, headings, rows) {
  const heading = (name) => (name ? make("th", { scope: "col" }, name) : make("td", {}));
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    make("table", { class: "plain numbers", id }, make("thead", {}, make("tr", {}, headings.map(heading))), make("tbody", {}, rows))
  );
}

const barCell = (weight, kind = "") => make("td", { class: `bar ${kind}` }, make("span", { "--v": Math.min(1, weight) }));
const numberCell = (text) => make("td", { class: "number" }, text);

// Which tokens' weights the walk does not show, of `row`: { others, weight, unmasked }.
function unshown(layer, head, query) {
  const row = numbers.shown[query];
  const { shown } = numbers;
  const seen = shown.filter((position) => !attention.causal || position <= row).length;
  const sum = (weight) => shown.reduce((total, _, key) => total + weight(layer, head, query, key), 0);
  return {
    others: (attention.causal ? row + 1 : T) - seen,
    all: T - shown.length,
    weight: Math.max(0, 1 - sum(numbers.weight)),
    unmasked: Math.max(0, 1 - sum(numbers.unmasked)),
  };
}

// Query times key, number by number. `key` is one of the shown tokens; `pick` is called with another one.
function products(layer, head, query, key, pick) {
  const { shown } = numbers;
  const { d_head } = data.model;
  const keys = selection(t("with the key of"), shown.map((position, index) => [index, spoken(tokens[position]) + t(" (position {0})", position)]), pick);
  keys.list.id = "walk-key";
  keys.list.value = key;
  const controls = make("div", { class: "controls" }, make("span", {}, mixed("The query of {0}", token(tokens[shown[query]]))), keys.element);
  const [q, k] = [numbers.ofHead("q", query, layer, head), numbers.ofHead("k", key, layer, head)];
  const each = Array.from(q, (value, i) => value * k[i]);
  const score = numbers.score(layer, head, query, key);
  const sum = score / data.walk.layers[layer].scaling;
  const shownSum = make("b", { "data-number": "sum" }, fixed(sum));
  const shownScore = make("b", { "data-number": "score" }, fixed(score, 3));
  const total = make("p", { class: "sum" }, scaling(layer)
    ? mixed("The sum of all {0} products is {1}; {2} it is the score {3}.", d_head, shownSum, scaling(layer), shownScore)
    : mixed("The sum of all {0} products is {1}, which is the score: {2}.", d_head, shownSum, shownScore));
  const rows = [["", "query", t("query"), q], ["×", "key", t("key"), k], ["=", "product", t("product"), each]].map(([sign, name, label, values]) =>
    line(sign, label, cells(values.slice(0, 8), d_head, `product-${name}`))
  );
  if (!numbers.whole(layer)) {
    return [controls, ...rows, total, make("p", { class: "note" }, t("The text is long: this page has all {0} numbers of queries and keys in layers {1} only; here are the first {2}.", d_head, listed(numbers.wholeLayers), q.length))];
  }
  const positive = each.filter((x) => x > 0).length;
  return [controls, ...rows, productBars(each), make("p", { class: "note" }, t("One bar for each of the {0} products: {1} above zero raise the score, {2} lower it.", d_head, positive, each.length - positive)), total];
}

// How the first number of a query is made, in the layer and head that the page opens with.
function rowTimesColumn(layer, head, at) {
  const { product } = data.walk;
  if (!product) return [];
  if (layer !== product.layer || head !== product.head) {
    return [make("p", { class: "note" }, t("Layer {0}, head {1}, with which the page opens, also has a row times a column of its matrix here, number by number.", product.layer, product.head))];
  }
  const [rows, column] = [unpacked(product.rows), unpacked(product.column)];
  const row = rows.subarray(at * column.length, (at + 1) * column.length);
  const each = Array.from(row, (value, i) => value * column[i]);
  const sum = each.reduce((a, b) => a + b, 0);
  const first = (name, values) => cells(values.slice(0, 8), column.length, `made-${name}`);
  const number = (name, value) => make("b", { "data-made": name }, fixed(value, 3));
  const total = data.model.dtype === "float32"
    ? mixed("The sum of all {0} products is {1}; plus the bias {2} it is the first number of the query: {3}.", whole(column.length), number("sum", sum), number("bias", product.bias), number("query", sum + product.bias))
    : mixed("The sum of all {0} products and the bias {1} is {2}; the model has {3}, since with {4} weights the row is rounded before it is multiplied.", whole(column.length), number("bias", product.bias), number("sum", sum + product.bias), number("query", numbers.ofHead("q", at, layer, head)[0]), data.model.dtype);
  return [
    make("h4", {}, t("The first number of the query")),
    line("", bert ? t("the row") : t("the row, with gain and bias"), first("row", row)),
    line("×", t("first column of the head"), first("column", column)),
    line("=", t("product"), first("product", each)),
    productBars(each),
    make("p", { class: "sum" }, total),
  ];
}

function productBars(each) {
  const [width, half] = [10 * each.length, 48];
  const most = Math.max(...each.map(Math.abs), 1e-9);
  const picture = draw("svg", { class: "products", viewBox: `0 0 ${width} ${2 * half}`, role: "img", preserveAspectRatio: "none", "aria-label": t("The {0} products, from {1} to {2}", each.length, fixed(Math.min(...each)), fixed(Math.max(...each))) });
  each.forEach((value, i) => {
    const height = (half * Math.abs(value)) / most;
    picture.append(draw("rect", { x: 10 * i + 1, width: 8, y: value < 0 ? half : half - height, height, class: value < 0 ? "below" : "above", "data-product": value.toPrecision(6) }, draw("title", {}, t("number {0}: {1}", i, fixed(value, 3)))));
  });
  picture.append(draw("line", { x1: 0, x2: width, y1: half, y2: half, class: "zero" }));
  return picture;
}

// What is done to a vector, its name, and the vector.
function line(sign, label, content) {
  return make("div", { class: "line" }, make("span", { class: "sign" }, sign), make("span", { class: "what" }, label), content);
}

// A vector as its first numbers, orange below zero and blue above.
function cells(values, size, name, position = null) {
  const most = Math.max(...[...values].map(Math.abs), 1e-9);
  const each = [...values].map((value) => make("span", { class: value < 0 ? "cell below" : "cell", "--v": Math.abs(value) / most }, fixed(value)));
  const more = size > values.length ? make("span", { class: "more" }, `… ${whole(size)}`) : null;
  return make("span", { class: "strip", "data-vector": name, ...(position === null ? {} : { "data-token": position }) }, each, more);
}

// From scores to weights, and beside them the weights that the same scores would give without a mask.
function softmaxTable(layer, head, query) {
  const { shown } = numbers;
  const top = numbers.ofRow("largest", layer, head, query);
  const { causal } = attention;
  const rows = shown.map((position, key) => {
    const [score, weight, unmasked] = ["score", "weight", "unmasked"].map((name) => numbers[name](layer, head, query, key));
    const hidden = numbers.hidden(query, key);
    return make(
      "tr",
      { class: hidden ? "later" : key === query ? "followed" : "" },
      make("th", { scope: "row" }, token(tokens[position])),
      numberCell(fixed(score, 3)),
      causal ? numberCell(hidden ? "−∞" : fixed(score, 3)) : null,
      numberCell(hidden ? "0" : fixed(Math.exp(score - top), 3)),
      numberCell(hidden ? "0" : fixed(weight, 4)),
      barCell(weight),
      ...(causal ? [numberCell(fixed(unmasked, 4)), barCell(unmasked, "without")] : [])
    );
  });
  const rest = unshown(layer, head, query);
  if (rest.all) {
    const all = plural(rest.all, "{0} other token", "{0} other tokens");
    const name = rest.others < rest.all ? t("{0}, {1} of them later", all, whole(rest.all - rest.others)) : all;
    const blank = () => make("td", {});
    rows.push(make("tr", { class: "others" }, make("th", { scope: "row" }, name), blank(), blank(), causal ? blank() : null, numberCell(fixed(rest.weight, 4)), barCell(rest.weight), ...(causal ? [numberCell(fixed(rest.unmasked, 4)), barCell(rest.unmasked, "without")] : [])));
  }
  const headings = [t("key of"), t("query · key {0}", scaling(layer)), causal ? t("masked") : null, t("exp(score − largest)"), t("weight"), "", ...(causal ? [t("without a mask"), ""] : [])].filter((one) => one !== null);
  const table = numberTable("walk-softmax", causal ? t("Scores, mask and softmax") : t("Scores and softmax"), headings, rows);
  // The exponentials are left out for lack of room.
  for (const row of table.querySelectorAll("tr")) row.children[causal ? 3 : 2].classList.add("spare");
  if (!causal) return [table];
  const later = shown.reduce((sum, _, key) => sum + (numbers.hidden(query, key) ? numbers.unmasked(layer, head, query, key) : 0), 0);
  const last = shown[query] === T - 1;
  return [
    table,
    make("p", { class: "note" }, t("Right: the same scores without a mask."), t(" "), last
      ? t("Nothing follows the last token, so it is the same; follow another one to see what the mask changes.")
      : mixed("The tokens behind {0} that are shown would take {1} of the weight. (Only this layer's mask is taken away: what reaches the layer was computed with masks.)", token(tokens[shown[query]]), make("b", { "data-number": "later" }, percent(later)))),
  ];
}

// Values count as much as their weights say.
function weightedValues(layer, head, query) {
  const { shown } = numbers;
  const weights = shown.map((_, key) => numbers.weight(layer, head, query, key));
  const most = Math.max(...weights, 1e-9);
  const lines = [];
  shown.forEach((position, key) => {
    if (numbers.hidden(query, key)) return;
    const strip = cells(numbers.ofHead("v", key, layer, head).slice(0, 8), data.model.d_head, "v", position);
    const faded = line(lines.length ? "+" : "", mixed("{0} × value of {1}", make("b", {}, fixed(weights[key], 3)), token(tokens[position])), strip);
    faded.classList.add("faded");
    faded.style.setProperty("--v", weights[key] / most);
    lines.push(faded);
  });
  const { others, weight } = unshown(layer, head, query);
  if (others) lines.push(line("+", plural(others, "{0} other token", "{0} other tokens"), make("span", { class: "more" }, t("each with its weight, together {0}", fixed(weight, 3)))));
  return [...lines, line("=", t("what this head found"), cells(numbers.ofHead("z", query, layer, head), data.model.d_head, "z", shown[query]))];
}

// All heads of a layer for one token: small bars, one for each shown token, on one scale.
function allHeads(layer, head, query) {
  const { shown, n } = numbers;
  const cards = headOptions().map(([other]) => {
    const weights = shown.map((_, key) => numbers.weight(layer, other, query, key));
    const best = numbers.strongest(layer, other, query);
    const picture = draw("svg", { viewBox: `0 0 ${10 * n} 40`, preserveAspectRatio: "none", "aria-hidden": "true" });
    weights.forEach((weight, key) => picture.append(draw("rect", { x: 10 * key + 1, width: 8, y: 40 - 40 * weight, height: 40 * weight, class: key === best ? "best" : "", "data-weight": weight.toPrecision(5) })));
    return make(
      "button",
      { type: "button", class: "small-head", "data-stop": true, "data-head": other, "aria-pressed": `${other === head}`, onclick: () => choose(layer, other) },
      make("span", { class: "name" }, t("head {0}", other)),
      picture,
      make("span", { class: "best" }, token(tokens[shown[best]]), ` ${percent(weights[best])}`)
    );
  });
  const group = make("div", { class: "small-heads", role: "group", "aria-label": t("Heads of layer {0}", layer) }, cards);
  roving(group);
  const rest = unshown(layer, head, query);
  return [group, make("p", { class: "note" }, [
    t("One bar for each token shown, as high as its weight (the full height is 100%); the strongest is named."),
    ...(rest.others ? [t("The weight of {0} is not in the picture.", plural(rest.others, "{0} other token", "{0} other tokens"))] : []),
  ].join(t(" ")))];
}
