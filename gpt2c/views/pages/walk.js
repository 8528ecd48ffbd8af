// The walk: one pass through the model, in the order in which things are computed, with the model's numbers.

// Its steps: names in the map and in links, and titles.
const STEPS = [
  ["tokens", "The text in tokens"],
  ["embedding", "Token row + position row"],
  ["norm", "LayerNorm"],
  ["projections", "Query, key, value"],
  ["products", "Query · key, number by number"],
  ["attention", "Score, mask, softmax"],
  ["values", "Values, weighted and summed"],
  ["all-heads", "All heads of the layer"],
  ["feed-forward", "Projection and feed-forward"],
  ["logits", "Last LayerNorm and logits"],
  ["sampling", "The next token"],
];

function walkView(panel) {
  const { n_embd, n_inner, n_head, n_kv_head, d_head, n_layer, n_vocab } = data.model;
  const { shown, n } = numbers;
  const sizes = { pre: n_inner, post: n_inner };
  const next = nextToken();
  let key = null; // of the pair whose products are shown; null: the one with the largest weight

  const strip = (name, layer) => cells(numbers.vector(name, numbers.at(), layer), sizes[name] ?? n_embd, name, shown[numbers.at()]);
  const headStrip = (name, at, count = 8) => cells(numbers.ofHead(name, at, chosen.layer, chosen.head).slice(0, count), d_head, name, shown[at]);
  const line = (sign, label, content) =>
    make("div", { class: "line" }, make("span", { class: "sign" }, sign), make("span", { class: "what" }, label), content);
  const current = () => token(tokens[shown[numbers.at()]]);
  const para = (...content) => make("p", {}, ...content);

  // What is chosen, always in sight.
  const layers = selection("Layer", data.walk.layers.map((_, layer) => [layer, `${layer}`]), (layer) => choose(layer, chosen.head));
  const heads = selection("Head", headOptions(), (head) => choose(chosen.layer, head));
  const followed = selection("Token", shown.map((position) => [position, `${position}: ${spoken(tokens[position])}`]), follow);
  layers.list.id = "walk-layer";
  heads.list.id = "walk-head";
  followed.list.id = "walk-token";
  const bar = make("div", { class: "controls walk-bar sticky" }, layers.element, heads.element, followed.element);

  function chips() {
    const marks = (position) => [
      data.starts.length && position < data.starts.length && data.starts.every((id, i) => tokens[i] === id) ? "begins the text" : null,
      position && data.ends.includes(tokens[position]) ? "ends a text" : null,
    ].filter(Boolean);
    const row = shown.map((position) => {
      const input = make("input", { type: "radio", name: "followed", value: position });
      input.checked = position === shown[numbers.at()];
      input.addEventListener("change", () => follow(position));
      return make("label", {}, input, make(
        "span",
        { class: "chip" },
        token(tokens[position]),
        partOf(position),
        make("small", {}, `row ${whole(tokens[position])}`),
        make("small", {}, `position ${position}`),
        marks(position).map((text) => make("small", {}, text))
      ));
    });
    return [
      make("fieldset", { class: "chips" }, make("legend", {}, "Follow the token"), make("div", {}, row)),
      T > n ? make("p", { class: "note" }, `The text has ${plural(T - n, "token")} more. They take part in all sums, and the other views show them; the walk has the numbers of ${plural(n, "token")}: the last, the most telling, and those to which these two attend most where the page opens.`) : null,
    ];
  }

  function embedding() {
    const { layer } = chosen;
    return [
      line("", ["token ", current()], strip("embed")),
      line("+", `position ${shown[numbers.at()]}`, strip("pos_embed")),
      layer === 0 ? null : line("⋯", layer === 1 ? "layer 0 adds" : `layers 0 to ${layer - 1} add`, make("span", { class: "more" }, "what steps 3 to 9 show for one layer")),
      line("=", `what enters layer ${layer}`, strip("resid_pre", layer)),
    ];
  }

  const norm = () => [
    para("mean ", make("b", {}, fixed(numbers.column("mean", numbers.at(), chosen.layer), 4)), " · divided by ", make("b", {}, fixed(numbers.column("scale", numbers.at(), chosen.layer), 4))),
    line("", "before", strip("resid_pre", chosen.layer)),
    line("→", "after", strip("normalized", chosen.layer)),
  ];

  function projections() {
    const focus = numbers.at();
    const rows = shown.map((position, at) =>
      make(
        "tr",
        { class: at === focus ? "followed" : numbers.hidden(focus, at) ? "later" : "" },
        make("th", { scope: "row" }, token(tokens[position])),
        make("td", {}, headStrip("k", at, 4)),
        make("td", {}, headStrip("v", at, 4))
      )
    );
    const head = make("thead", {}, make("tr", {}, ["token", "key", "value"].map((name) => make("th", { scope: "col" }, name))));
    return [
      line("", ["query of ", current()], headStrip("q", focus)),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Keys and values" }, make("table", { class: "plain" }, head, make("tbody", {}, rows))),
    ];
  }

  function pair() {
    const [query, may] = [numbers.at(), (at) => !numbers.hidden(numbers.at(), at)];
    const at = key ?? numbers.strongest(chosen.layer, chosen.head, query, may);
    return products(chosen.layer, chosen.head, query, at, (picked) => {
      key = picked;
      update();
    });
  }

  function feedForward() {
    const { layer } = chosen;
    const middle = data.cross ? "resid_mid_cross" : "resid_mid";
    return [
      line("", n_head === 1 ? "the head, projected" : `${n_head} heads side by side, projected`, strip("attn_out", layer)),
      line("+", "what entered the layer", strip("resid_pre", layer)),
      line("=", "between the halves", strip("resid_mid", layer)),
      ...(data.cross ? [line("+", "from the source, by cross-attention", strip("cross_attn_out", layer)), line("=", "before feed-forward", strip(middle, layer))] : []),
      line("→", "normalised", strip("normalized2", layer)),
      line("→", `${whole(n_inner)} numbers wide`, strip("pre", layer)),
      line("→", data.model.activation.startsWith("gelu") ? "through GELU" : `through ${data.model.activation}`, strip("post", layer)),
      line("→", "and narrow again", strip("mlp_out", layer)),
      line("+", data.cross ? "before feed-forward" : "between the halves", strip(middle, layer)),
      line("=", "what leaves the layer", strip("resid_post", layer)),
    ];
  }

  const logits = () => [
    line("", n_layer - 1 === chosen.layer ? "what leaves the last layer" : `after layer ${n_layer - 1}, the last`, strip("resid_last")),
    line("→", "normalised", strip("normalized_last")),
    next.logits(),
  ];

  const figures = {
    tokens: chips, embedding, norm, projections, products: pair,
    attention: () => softmaxTable(chosen.layer, chosen.head, numbers.at()),
    values: () => weightedValues(chosen.layer, chosen.head, numbers.at()),
    "all-heads": () => allHeads(chosen.layer, chosen.head, numbers.at()),
    "feed-forward": feedForward, logits, sampling: next.sampler,
  };

  const others = n_layer > 2 ? `The other ${n_layer - 1} layers do the same with numbers of their own.` : n_layer > 1 ? "The other layer does the same with numbers of its own." : "";
  const bold = (text) => make("b", {}, text);
  const words = {
    tokens: () => para("The model reads tokens: pieces of text from a fixed vocabulary of ", whole(n_vocab), ". A token is the number of a row in the embedding table. ", make("span", { class: "mark" }, "␣"), " is a space."),
    embedding: () => para(`The token's row of the embedding table, ${whole(n_embd)} numbers of which the first are shown, plus the row of the place where it stands. From here on every token has its own row of ${whole(n_embd)} numbers: the residual stream.`),
    norm: () => para(`Layer ${chosen.layer} begins: each row is shifted to mean 0 and divided by its standard deviation. (Every number then gets a learned gain and bias, which is not shown.)`),
    projections: () => para("Three learned projections of the same row: the ", bold("query"), " is what a token looks for, the ", bold("key"), " what it offers, the ", bold("value"), ` what it hands over. Each of the ${plural(n_head, "head")} has ${d_head} numbers of each${n_kv_head < n_head ? ", of which all heads share key and value" : ""}; these are of layer ${chosen.layer}, head ${chosen.head}.`),
    products: () => para("A query and a key are multiplied number by number, and the products are added up: a dot product. It is large where both point the same way."),
    attention: () => para("The query of ", current(), ` times each key, ${scaling(chosen.layer) || "not scaled"}, is a score. Keys of later tokens are masked: their score becomes −∞, so their weight is exactly 0. Softmax (the exponential, divided by the sum) turns the scores into weights that sum to 1.`, attention.edited(chosen.layer) ? " Here they were edited: the weights do not follow from the scores shown." : ""),
    values: () => para("Each value row counts as much as its weight says: the paler, the less. Their sum is what the head brings to ", current(), "."),
    "all-heads": () => para(`The ${plural(n_head, "head")} of layer ${chosen.layer} do this at once, each with projections of its own, so each can look elsewhere: multi-head attention. Choose another head here.`),
    "feed-forward": () => para(`All heads side by side are projected and added to the stream. Then the second half of the layer: two dense layers with a bend between them, on each token alone, added again.${data.cross ? " In between comes cross-attention, which has a view of its own." : ""} ${others}`),
    logits: () => para("The row that leaves the last layer, normalised, times every row of the vocabulary's table: one logit for each of ", whole(n_vocab), " tokens. The larger it is, the better the token fits behind ", current(), "."),
    sampling: () => [
      para("Softmax makes the logits probabilities of what follows ", current(), ". Sampling divides them by the temperature first: below 1 the probable becomes more so, above 1 less. Top k keeps only the k most probable, top p the fewest that together reach p."),
      para("Then one token is drawn, appended, and everything begins again for it.", ...(data.ends.length ? [" If it is ", ...data.ends.flatMap((id, i) => [i ? " or " : "", token(id)]), ", the text ends there."] : [])),
    ],
  };

  const list = make("ol", { class: "walk" });
  const items = Object.fromEntries(STEPS.map(([name, title]) => {
    const item = make("li", { class: "step", id: `step-${name}` });
    list.append(item);
    return [name, { item, title }];
  }));

  function update() {
    const focused = document.activeElement;
    const inside = list.contains(focused) && (focused.name ? `input[name=${focused.name}]:checked` : focused.id ? `#${focused.id}` : focused.dataset.head ? `.small-head[data-head="${chosen.head}"]` : null);
    for (const [name, { item, title }] of Object.entries(items)) {
      item.replaceChildren(
        make("div", { class: "words" }, make("h3", {}, title), words[name]()),
        make("div", { class: "figure" }, figures[name]())
      );
    }
    layers.list.value = chosen.layer;
    heads.list.value = chosen.head;
    followed.list.value = shown[numbers.at()];
    if (inside) list.querySelector(inside)?.focus();
  }

  // The walk is drawn again when something else is chosen, at once if it is seen.
  let stale = false;
  const redraw = () => {
    if (stale) update();
    stale = false;
  };
  watchers.push(() => {
    key = null;
    stale = true;
    if (!panel.hidden) redraw();
  });
  // The map knows which step is read: the one that was gone to while it is in sight, else the topmost.
  const READING = 190; // pixels below the top of the window, behind what stays there
  let landed = null;
  function reading() {
    if (panel.hidden || printing()) return;
    const top = (name) => items[name].item.getBoundingClientRect().top;
    if (landed && (top(landed) < 0 || top(landed) > innerHeight - 80)) landed = null;
    map.at(landed ?? STEPS.findLast(([name]) => top(name) <= READING)?.[0] ?? STEPS[0][0]);
  }
  addEventListener("scroll", () => requestAnimationFrame(reading), { passive: true });
  panel.addEventListener("go", (event) => {
    landed = event.detail;
    items[landed].item.scrollIntoView({ block: "start" });
    reading();
  });

  panel.append(
    para("One pass through the model, in the order in which things are computed, with the numbers of this text. Choose the layer, the head and the token here or in the map above."),
    bar,
    list
  );
  update();
  return redraw;
}
