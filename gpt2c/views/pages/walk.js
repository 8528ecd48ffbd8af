// The walk: one pass through the model, in the order in which things are computed, with the model's numbers.

function walkView(panel) {
  const told = data.walk;
  const { n_embd, n_inner, n_head, n_kv_head, d_head, n_layer, n_vocab } = data.model;
  const { layer, head, shown } = told;
  const n = shown.length;
  const vectors = Object.fromEntries(Object.entries(told.vectors).map(([name, array]) => [name, unpacked(array)]));
  const column = Object.fromEntries(
    ["mean", "scale", "mean_last", "scale_last", "row_max"].map((name) => [name, unpacked(told[name])])
  );
  const scores = unpacked(told.scores);
  const weights = unpacked(told.weights);
  const candidates = {
    ids: unpacked(told.candidates.ids),
    logits: unpacked(told.candidates.logits),
    rest: unpacked(told.candidates.rest),
  };
  let focus = n - 1; // which of the shown tokens is followed

  // A vector as its first numbers, orange below zero and blue above.
  function strip(name, at = focus, options = {}) {
    const width = vectors[name].length / n;
    const values = [...vectors[name].slice(at * width, (at + 1) * width)].slice(0, options.cells ?? width);
    const most = Math.max(...values.map(Math.abs), 1e-9);
    const cells = values.map((value) =>
      make("span", { class: value < 0 ? "cell below" : "cell", "--v": Math.abs(value) / most }, fixed(value))
    );
    const more = told.sizes[name] > values.length ? make("span", { class: "more" }, `… ${whole(told.sizes[name])}`) : null;
    return make("span", { class: "strip", "data-vector": name, "data-token": shown[at] }, cells, more);
  }

  const line = (sign, label, content) =>
    make("div", { class: "line" }, make("span", { class: "sign" }, sign), make("span", { class: "what" }, label), content);
  const current = () => token(tokens[shown[focus]]);
  const para = (...content) => make("p", {}, ...content);

  function step(title, words, figure) {
    return make(
      "li",
      { class: "step" },
      make("div", { class: "words" }, make("h3", {}, title), words),
      make("div", { class: "figure" }, figure)
    );
  }

  // 1 · The text

  function chips() {
    const name = "followed";
    const row = shown.map((position, index) => {
      const input = make("input", { type: "radio", name, value: index });
      input.checked = index === focus;
      input.addEventListener("change", () => {
        focus = index;
        update();
      });
      const face = make(
        "span",
        { class: "chip" },
        token(tokens[position]),
        partOf(position),
        make("small", {}, `row ${whole(tokens[position])}`),
        make("small", {}, `position ${position}`)
      );
      return make("label", {}, input, face);
    });
    const left = T - n;
    return [
      make("fieldset", { class: "chips" }, make("legend", {}, "Follow the token"), make("div", {}, row)),
      left
        ? para(
            make("small", {}, `The text has ${plural(left, "token")} more. They take part in all sums; the pictures show the last token and those to which it attends most.`)
          )
        : null,
    ];
  }

  // 2 · Token and position

  const embedding = () => [
    line("", ["token ", current()], strip("embed")),
    line("+", `position ${shown[focus]}`, strip("pos_embed")),
    layer === 0 ? null : line("⋯", layer === 1 ? "layer 0 adds" : `layers 0 to ${layer - 1} add`, make("span", { class: "more" }, "what steps 3 to 7 show for one layer")),
    line("=", layer === 0 ? "what enters layer 0" : `what enters layer ${layer}`, strip("resid_pre")),
  ];

  // 3 · LayerNorm

  const norm = () => [
    para(
      "mean ", make("b", {}, fixed(column.mean[focus], 4)), " · divided by ", make("b", {}, fixed(column.scale[focus], 4))
    ),
    line("", "before", strip("resid_pre")),
    line("→", "after", strip("normalized")),
  ];

  // 4 · Query, key and value

  function projections() {
    const rows = shown.map((position, at) =>
      make(
        "tr",
        { class: at === focus ? "followed" : at > focus ? "later" : "" },
        make("th", { scope: "row" }, token(tokens[position])),
        make("td", {}, strip("k", at, { cells: 4 })),
        make("td", {}, strip("v", at, { cells: 4 }))
      )
    );
    return [
      line("", ["query of ", current()], strip("q")),
      make(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Keys and values" },
        make(
          "table",
          { class: "plain" },
          make("thead", {}, make("tr", {}, ["token", "key", "value"].map((name) => make("th", { scope: "col" }, name)))),
          make("tbody", {}, rows)
        )
      ),
    ];
  }

  // 5 · Scores, mask, softmax

  function softmax() {
    const row = shown[focus];
    const top = column.row_max[focus];
    let shownWeight = 0;
    let sum = 0;
    const lines = shown.map((position, at) => {
      const score = scores[focus * n + at];
      const hidden = position > row;
      const weight = weights[focus * n + at];
      shownWeight += weight;
      if (!hidden) sum += Math.exp(score - top);
      return make(
        "tr",
        { class: hidden ? "later" : at === focus ? "followed" : "" },
        make("th", { scope: "row" }, token(tokens[position])),
        make("td", { class: "number" }, fixed(score, 3)),
        make("td", { class: "number" }, hidden ? "−∞" : fixed(score, 3)),
        make("td", { class: "number" }, hidden ? "0" : fixed(Math.exp(score - top), 3)),
        make("td", { class: "number" }, hidden ? "0" : fixed(weight, 4)),
        make("td", { class: "bar" }, make("span", { "--v": weight }))
      );
    });
    const others = row + 1 - shown.filter((position) => position <= row).length;
    if (others > 0) {
      const weight = Math.max(0, 1 - shownWeight);
      lines.push(
        make(
          "tr",
          { class: "others" },
          make("th", { scope: "row" }, plural(others, "other token")),
          make("td", {}), make("td", {}), make("td", {}),
          make("td", { class: "number" }, fixed(weight, 4)),
          make("td", { class: "bar" }, make("span", { "--v": weight }))
        )
      );
    }
    const headings = ["key of", `query · key ${scaling()}`, "masked", "exp(score − largest)", "weight", ""];
    return make(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores, mask and softmax" },
      make(
        "table",
        { class: "plain numbers", id: "walk-softmax" },
        make("thead", {}, make("tr", {}, headings.map((name) => (name ? make("th", { scope: "col" }, name) : make("td", {}))))),
        make("tbody", {}, lines)
      )
    );
  }

  function scaling() {
    if (Math.abs(told.scaling * Math.sqrt(d_head) - 1) < 1e-6) return `÷ √${d_head}`;
    return told.scaling === 1 ? "" : `× ${Number(told.scaling.toPrecision(4))}`;
  }

  // 6 · Values fade and are summed

  function values() {
    const row = shown[focus];
    const lines = [];
    const most = Math.max(...weights.slice(focus * n, focus * n + n));
    let others = row + 1;
    shown.forEach((position, at) => {
      if (position > row) return;
      others -= 1;
      const weight = weights[focus * n + at];
      const faded = line(lines.length ? "+" : "", [make("b", {}, fixed(weight, 3)), " × value of ", token(tokens[position])], strip("v", at));
      faded.classList.add("faded");
      faded.style.setProperty("--v", weight / most);
      lines.push(faded);
    });
    if (others) lines.push(line("+", plural(others, "other token"), make("span", { class: "more" }, "each with its weight")));
    return [...lines, line("=", "what this head found", strip("z"))];
  }

  // 7 · Back into the stream, feed-forward

  const feedForward = () => [
    line("", n_head === 1 ? "the head, projected" : `${n_head} heads side by side, projected`, strip("attn_out")),
    line("+", "what entered the layer", strip("resid_pre")),
    line("=", "between the halves", strip("resid_mid")),
    line("→", "normalised", strip("normalized2")),
    line("→", `${whole(n_inner)} numbers wide`, strip("pre")),
    line("→", data.model.activation.startsWith("gelu") ? "through GELU" : `through ${data.model.activation}`, strip("post")),
    line("→", "and narrow again", strip("mlp_out")),
    line("+", "between the halves", strip("resid_mid")),
    line("=", "what leaves the layer", strip("resid_post")),
  ];

  // 8 · Scores over the vocabulary, sampling

  const sampling = { temperature: 10, topK: 0 };
  const count = candidates.ids.length / n;

  function distribution() {
    const at = focus * count;
    const ids = candidates.ids.slice(at, at + count);
    const logits = candidates.logits.slice(at, at + count);
    const steps = told.temperatures.length;
    const kept = sampling.topK === 0 ? count : Math.min(sampling.topK, count);
    if (sampling.temperature === 0) {
      return { ids, logits, p: Array.from(ids, (_, i) => (i === 0 ? 1 : 0)), rest: 0, kept: 1 };
    }
    const temperature = told.temperatures[sampling.temperature - 1];
    const top = logits[0] / temperature;
    const powers = Array.from(logits, (logit, i) => (i < kept ? Math.exp(logit / temperature - top) : 0));
    const rest = sampling.topK === 0 ? Math.exp(candidates.rest[focus * steps + sampling.temperature - 1] - top) : 0;
    const sum = powers.reduce((a, b) => a + b, rest);
    return { ids, logits, p: powers.map((x) => x / sum), rest: rest / sum, kept };
  }

  function vocabulary() {
    const chart = make("div", { class: "distribution" });
    const result = make("p", { class: "drawn", "aria-live": "polite" });
    const next = tokens[shown[focus] + 1];

    function redraw() {
      const { ids, logits, p, rest, kept } = distribution();
      const rows = [...ids.slice(0, 10)].map((id, i) => ({
        id,
        p: p[i],
        kind: i >= kept ? "removed" : "",
        note: `score ${fixed(logits[i], 2)}${id === next ? " · is next in the text" : ""}`,
      }));
      const between = p.slice(10).reduce((a, b) => a + b, 0);
      const others = n_vocab - rows.length;
      rows.push({ name: "all others", p: Math.max(0, between + rest), kind: "others", note: plural(others, "token") });
      chart.replaceChildren(bars(rows, "Probability of the next token"));
    }

    const temperature = slider("Temperature", { min: 0, max: told.temperatures.length, value: sampling.temperature, id: "walk-temperature" }, (value) => {
      sampling.temperature = value;
      redraw();
      return value === 0 ? "0: always the first" : told.temperatures[value - 1].toFixed(1);
    });
    const topK = slider("Top k", { min: 1, max: count + 1, value: sampling.topK || count + 1, id: "walk-top-k" }, (value) => {
      sampling.topK = value > count ? 0 : value;
      redraw();
      return value > count ? `all ${whole(n_vocab)}` : `${value}`;
    });
    temperature.update();
    topK.update();
    const drawOne = make("button", { type: "button", id: "walk-draw" }, "Draw one");
    drawOne.addEventListener("click", () => {
      const { ids, p } = distribution();
      let left = Math.random();
      const i = p.findIndex((x) => (left -= x) < 0);
      result.replaceChildren("Drawn: ", i < 0 ? "one of the others" : token(ids[i]));
    });
    return [
      line("", layer === n_layer - 1 ? "what leaves the last layer" : `after layer ${n_layer - 1}, the last`, strip("resid_last")),
      line("→", "normalised", strip("normalized_last")),
      make("div", { class: "controls" }, temperature.element, topK.element, drawOne, result),
      chart,
    ];
  }

  function update() {
    const at = document.activeElement?.name === "followed";
    const own = `layer ${layer}, head ${head}`;
    list.replaceChildren(
      step("The text in tokens", para(
        "The model reads tokens: pieces of text from a fixed vocabulary of ", whole(n_vocab),
        ". A token is the number of a row in the embedding table. ", make("span", { class: "mark" }, "␣"), " is a space."
      ), chips()),
      step("Token row + position row", para(
        `The token's row of the embedding table, ${whole(n_embd)} numbers of which the first are shown, plus the row of the place where it stands. From here on every token has its own row of ${whole(n_embd)} numbers: the residual stream.`
      ), embedding()),
      step("LayerNorm", para(
        `Layer ${layer} begins: each row is shifted to mean 0 and divided by its standard deviation. (Every number then gets a learned gain and bias, which is not shown.)`
      ), norm()),
      step("Query, key, value", para(
        "Three learned projections of the same row: the ", make("b", {}, "query"), " is what a token looks for, the ", make("b", {}, "key"),
        " what it offers, the ", make("b", {}, "value"), ` what it hands over. Each of the ${plural(n_head, "head")} has ${d_head} numbers of each${n_kv_head < n_head ? ", of which all heads share key and value" : ""}; these are of ${own}.`
      ), projections()),
      step("Score, mask, softmax", para(
        "The query of ", current(), ` times each key, ${scaling() || "not scaled"}, is a score. Keys of later tokens are masked: their score becomes −∞, so their weight is exactly 0. `,
        "Softmax (the exponential, divided by the sum) turns the scores into weights that sum to 1.",
        attention.edited(layer) ? " Here they were edited: the weights do not follow from the scores shown." : ""
      ), softmax()),
      step("Values, weighted and summed", para(
        "Each value row counts as much as its weight says: the paler, the less. Their sum is what the head brings to ", current(), "."
      ), values()),
      step("Projection and feed-forward", para(
        `All heads side by side are projected and added to the stream. Then the second half of the layer: two dense layers with a bend between them, on each token alone, added again. The other ${n_layer > 1 ? plural(n_layer - 1, "layer") : "layers"} do the same with numbers of their own.`
      ), feedForward()),
      step("The next token", [para(
        "The row that leaves the last layer, normalised, times every row of the vocabulary's table: one score for each of ", whole(n_vocab), " tokens. Softmax makes them probabilities of what follows ", current(), "."
      ), para(
        "Sampling divides the scores by the temperature first: below 1 the probable becomes more so, above 1 less. Top k keeps only the k best. Then one token is drawn, appended, and everything begins again for it."
      )], vocabulary())
    );
    if (at) list.querySelector("input[name=followed]:checked").focus();
  }

  const list = make("ol", { class: "walk" });
  panel.append(
    para("One pass through the model, in the order in which things are computed. The numbers are those of this text, in ", make("b", {}, `layer ${layer}, head ${head}`), "."),
    list
  );
  update();
  return () => {};
}
