// The walk: one pass through the model, in the order in which things are computed, with the model's numbers.

// Its steps: names in the map and in links, and titles.
const STEPS = [
  ["tokens", t("The text in tokens")],
  ["embedding", t("Token row + position row")],
  bert ? null : ["norm", t("LayerNorm")],
  ["projections", t("Query, key, value")],
  ["products", t("Query · key, number by number")],
  ["attention", bert ? t("Score and softmax") : t("Score, mask, softmax")],
  ["values", t("Values, weighted and summed")],
  ["all-heads", t("All heads of the layer")],
  ["feed-forward", bert ? t("Projection, feed-forward, LayerNorm") : t("Projection and feed-forward")],
  bert ? data.candidates && ["logits", t("The head and its logits")] : ["logits", t("Last LayerNorm and logits")],
  bert ? null : ["sampling", t("The next token")],
].filter(Boolean);

function walkView(panel) {
  const { n_embd, n_inner, n_head, n_kv_head, d_head, n_layer, n_vocab } = data.model;
  const { shown, n } = numbers;
  const sizes = { pre: n_inner, post: n_inner };
  const next = data.walk.candidates && nextToken();
  let key = null; // of the pair whose products are shown; null: the one with the largest weight

  const strip = (name, layer) => cells(numbers.vector(name, numbers.at(), layer), sizes[name] ?? n_embd, name, shown[numbers.at()]);
  const headStrip = (name, at, count = 8) => cells(numbers.ofHead(name, at, chosen.layer, chosen.head).slice(0, count), d_head, name, shown[at]);
  const lines = (...each) => make("div", {}, each.flat());
  const current = () => token(tokens[shown[numbers.at()]]);
  const count = (tokens) => plural(tokens, "{0} token", "{0} tokens");
  const para = (...content) => make("p", {}, ...content);

  const bold = (text) => make("b", {}, text);

  // What is chosen, always in sight.
  const layers = selection(t("Layer"), data.walk.layers.map((_, layer) => [layer, `${layer}`]), (layer) => choose(layer, chosen.head));
  const heads = selection(t("Head"), headOptions(), (head) => choose(chosen.layer, head));
  const followed = selection(t("Token"), shown.map((position) => [position, `${position}: ${spoken(tokens[position])}`]), follow);
  layers.list.id = "walk-layer";
  heads.list.id = "walk-head";
  followed.list.id = "walk-token";
  const bar = make("div", { class: "controls walk-bar sticky" }, layers.element, heads.element, followed.element);

  function chips() {
    const marks = (position) => [
      data.starts.length && position < data.starts.length && data.starts.every((id, i) => tokens[i] === id) ? t("begins the text") : null,
      position && data.ends.includes(tokens[position]) ? t("ends a text") : null,
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
        make("small", {}, t("row {0}", whole(tokens[position]))),
        make("small", {}, t("position {0}", position)),
        marks(position).map((text) => make("small", {}, text))
      ));
    });
    return [
      make("fieldset", { class: "chips" }, make("legend", {}, t("Follow the token")), make("div", {}, row)),
      T > n ? make("p", { class: "note" }, t("The text has {0} more. They take part in all sums, and the other views show them; the walk has the numbers of {1}: the last, the most telling, and those to which these two attend most where the page opens.", count(T - n), count(n))) : null,
    ];
  }

  function embedding() {
    const { layer } = chosen;
    return [lines(
      line("", mixed("token {0}", current()), strip("embed")),
      line("+", t("position {0}", shown[numbers.at()]), strip("pos_embed")),
      layer === 0 ? null : line("⋯", layer === 1 ? t("layer 0 adds") : t("layers 0 to {0} add", layer - 1), make("span", { class: "more" }, t("what steps 3 to 9 show for one layer"))),
      line("=", t("what enters layer {0}", layer), strip("resid_pre", layer))
    ), ...learned.tables()];
  }

  const norm = () => [
    para(mixed("mean {0} · divided by {1}", ...["mean", "scale"].map((name) => bold(fixed(numbers.column(name, numbers.at(), chosen.layer), 4))))),
    line("", t("before"), strip("resid_pre", chosen.layer)),
    line("→", t("after"), strip("normalized", chosen.layer)),
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
    const head = make("thead", {}, make("tr", {}, [t("token"), t("key"), t("value")].map((name) => make("th", { scope: "col" }, name))));
    return [
      line("", mixed("row of {0}", current()), strip(bert ? "resid_pre" : "normalized", chosen.layer)),
      line("×", t("three learned matrices"), learned.projections(chosen.layer, chosen.head)),
      line("=", mixed("query of {0}", current()), headStrip("q", focus)),
      ...rowTimesColumn(chosen.layer, chosen.head, focus),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("Keys and values") }, make("table", { class: "plain" }, head, make("tbody", {}, rows))),
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
    return [lines(
      line("", n_head === 1 ? t("the head, projected") : t("{0} heads side by side, projected", n_head), strip("attn_out", layer)),
      line("+", t("what entered the layer"), strip("resid_pre", layer)),
      line("=", t("between the halves"), strip("resid_mid", layer)),
      ...(data.cross ? [line("+", t("from the source, by cross-attention"), strip("cross_attn_out", layer)), line("=", t("before feed-forward"), strip(middle, layer))] : []),
      line("→", t("normalised"), strip("normalized2", layer)),
      line("→", t("{0} numbers wide", whole(n_inner)), strip("pre", layer)),
      line("→", t("through {0}", data.model.activation.startsWith("gelu") ? "GELU" : data.model.activation), strip("post", layer)),
      line("→", t("and narrow again"), strip("mlp_out", layer)),
      line("+", data.cross ? t("before feed-forward") : t("between the halves"), strip(middle, layer)),
      line("=", t("what leaves the layer"), strip("resid_post", layer))
    ), ...learned.feedForward(layer, chosen.head)];
  }

  const logits = () => [
    line("", n_layer - 1 === chosen.layer ? t("what leaves the last layer") : t("after layer {0}, the last", n_layer - 1), strip("resid_last")),
    line("→", t("normalised"), strip("normalized_last")),
    next.logits(),
  ];

  const figures = {
    tokens: chips, embedding, norm, projections, products: pair,
    attention: () => [
      ...softmaxTable(chosen.layer, chosen.head, numbers.at()),
      ...(beside ? beside(chosen.layer, chosen.head, numbers.at(), update) : []),
    ],
    values: () => weightedValues(chosen.layer, chosen.head, numbers.at()),
    "all-heads": () => allHeads(chosen.layer, chosen.head, numbers.at()),
    "feed-forward": feedForward, logits, sampling: next?.sampler,
  };

  const others = n_layer > 2 ? t("The other {0} layers do the same with numbers of their own.", n_layer - 1) : n_layer > 1 ? t("The other layer does the same with numbers of its own.") : "";
  const words = {
    tokens: () => para(mixed("The model reads tokens: pieces of text from a fixed vocabulary of {0}. A token is the number of a row in the embedding table. {1} is a space.", whole(n_vocab), make("span", { class: "mark" }, "␣"))),
    embedding: () => para(t("The token's row of the embedding table, {0} numbers of which the first are shown, plus the row of its position. From here on every token has its own row of {0} numbers: the residual stream.", whole(n_embd))),
    norm: () => para(t("Layer {0} begins: each row is shifted to mean 0 and divided by its standard deviation. (Every number then gets a learned gain and bias.)", chosen.layer)),
    projections: () => para(mixed("Three learned projections of the same row: the {0} is what a token looks for, the {1} what it offers, the {2} what it hands over.", bold(t("query")), bold(t("key")), bold(t("value"))), t(" "), eachHas()),
    products: () => para(t("A query and a key are multiplied number by number, and the products are added up: a dot product. It is large where both point the same way.")),
    attention: () => para(mixed("The query of {0} times each key, {1}, is a score. Keys of later tokens are masked: their score becomes −∞, so their weight is exactly 0. Softmax (the exponential, divided by the sum) turns the scores into weights that sum to 1.", current(), scaling(chosen.layer) || t("not scaled")), attention.edited(chosen.layer) ? t(" ") + t("Here they were edited: the weights do not follow from the scores shown.") : ""),
    values: () => para(mixed("Each value row counts as much as its weight says: the paler, the less. Their sum is what the head brings to {0}.", current())),
    "all-heads": () => para(t("The {0} of layer {1} do this at once, each with projections of its own, so each can look elsewhere: multi-head attention.", plural(n_head, "{0} head", "{0} heads"), chosen.layer), hint(t("Choose another head here."))),
    "feed-forward": () => para([
      t("All heads side by side are projected and added to the stream. Then the second half of the layer: two dense layers with a bend between them, on each token alone, added again."),
      ...(data.cross ? [t("In between comes cross-attention, which has a view of its own.")] : []),
      others,
    ].join(t(" "))),
    logits: () => para(mixed("The row that leaves the last layer, normalised, times every row of the vocabulary's table: one logit for each of {0} tokens. The larger it is, the better the token fits behind {1}.", whole(n_vocab), current())),
    sampling: () => [
      para(mixed("Softmax makes the logits probabilities of what follows {0}. Sampling divides them by the temperature first: below 1 the probable becomes more so, above 1 less. Top k keeps only the k most probable, top p the fewest that together reach p.", current())),
      para(t("Then one token is drawn, appended, and everything begins again for it."), ...(data.ends.length ? [t(" "), mixed("If it is {0}, the text ends there.", data.ends.map((id, i) => [i ? t(" or ") : "", token(id)]))] : [])),
    ],
  };

  if (bert) {
    const own = bertWalk({ strip, lines, current, para, others, logits: next?.logits });
    Object.assign(figures, own.figures);
    Object.assign(words, own.words);
  }

  function eachHas() {
    const values = [plural(n_head, "{0} head", "{0} heads"), d_head, chosen.layer, chosen.head];
    if (n_kv_head === n_head) return t("Each of the {0} has {1} numbers of each; these are of layer {2}, head {3}.", ...values);
    return t("Each of the {0} has {1} numbers of each, of which all heads share key and value; these are of layer {2}, head {3}.", ...values);
  }

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
    learned.paint(list);
    layers.list.value = chosen.layer;
    heads.list.value = chosen.head;
    followed.list.value = shown[numbers.at()];
    if (inside) list.querySelector(inside)?.focus();
  }

  // The walk is drawn again when something else is chosen, at once if it is seen.
  let stale = false;
  const redraw = () => {
    if (stale) update();
    else learned.paint(list); // in the colours of the screen, or of paper
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
    para(t("One pass through the model, in the order in which things are computed, with the numbers of this text."), hint(t("Choose the layer, the head and the token here or in the map above."))),
    bar,
    list
  );
  update();
  return redraw;
}
