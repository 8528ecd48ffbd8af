// The logit lens: what each layer would answer if it were the last: the next token, or in a BERT the one in the place.

function lensView(panel) {
  const told = data.lens;
  const { k, asked } = told;
  const names = told.names.map((_, at) => (at ? t("layer {0}", at - 1) : t("embed")));
  const [topIds, topLogprobs] = [unpacked(told.top_ids), unpacked(told.top_logprobs)];
  const [entropies, ranks, logprobs] = [unpacked(told.entropies), unpacked(told.ranks), unpacked(told.logprobs)];
  const mostEntropy = Math.log(data.model.n_vocab);

  const shades = {
    probability: (at) => Math.exp(topLogprobs[at * k]),
    rank: (at) => 1 - Math.min(1, Math.log(ranks[at] + 1) / Math.log(data.model.n_vocab)),
    entropy: (at) => entropies[at] / mostEntropy,
  };
  const meanings = {
    probability: ["0", "1"],
    rank: [bert ? t("rank {0} of the model's choice", whole(data.model.n_vocab - 1)) : t("rank {0} of the next token", whole(data.model.n_vocab - 1)), t("rank {0}", 0)],
    entropy: [t("certain"), t("undecided")],
  };
  let shade = "probability";
  const shadeChoice = choice(
    t("Colour"),
    [["probability", t("probability of the first")], ["rank", bert ? t("rank of the model's choice") : t("rank of the next token")], ["entropy", t("entropy")]],
    shade,
    (value) => {
      shade = value;
      recolour();
    }
  );

  // Characters in several tokens, by the columns above which their tokens are asked for.
  const later = bert ? [] : charactersOf([tokens[0], ...asked]).map(({ from, to, text }) => ({ from: from - 1, to: to - 1, text }));

  // The table of some positions: all of them on a screen, as many as fit on paper.
  const PAPER_COLUMNS = 11;
  let cells = [];
  function table(from, to) {
    const positions = Array.from({ length: to - from }, (_, i) => from + i);
    const rows = names.map((name, layer) => {
      const line = positions.map((position) => {
        const at = layer * T + position;
        const cell = make(
          "td",
          { role: "gridcell", "data-stop": true, "data-layer": layer, "data-position": position, onmouseenter: () => tell(layer, position), onfocus: () => tell(layer, position) },
          token(topIds[at * k])
        );
        if (topIds[at * k] === asked[position]) cell.classList.add("hit");
        cells.push([cell, at]);
        return cell;
      });
      return make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, name), line);
    });
    const header = (label, ids) =>
      make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, label), positions.map((position) => make("th", { scope: "col", role: "columnheader" }, token(ids[position]))));
    const element = make(
      "table",
      { class: "lens", role: "grid", "aria-label": t("Logit lens"), "--columns": positions.length },
      make("thead", {}, together(later, from, to), header(bert ? t("chosen") : t("next"), asked)),
      make("tbody", {}, rows.reverse()),
      make("tfoot", {}, header(t("token"), tokens), together(spelled, from, to))
    );
    roving(element, positions.length);
    return element;
  }

  // A row of the characters that lie in several tokens, each over its columns; nothing where there are none.
  function together(characters, from, to) {
    const cells = [];
    let next = from;
    const empty = (end) => end > next && cells.push(make("td", { class: "none", colspan: end - next }));
    for (const one of characters) {
      const [first, end] = [Math.max(one.from, from), Math.min(one.to + 1, to)];
      if (first >= end) continue;
      empty(first);
      cells.push(make("th", { scope: "colgroup", class: "joined", colspan: end - first }, character(one.text)));
      next = end;
    }
    if (!cells.length) return null;
    empty(to);
    return make("tr", { class: "characters", "aria-hidden": "true" }, make("td", { class: "none" }), cells);
  }
  const tables = make("div", { class: "scroll lenses" });

  let columns = 0;
  function arrange() {
    const wanted = printing() ? PAPER_COLUMNS : T;
    if (wanted === columns) return;
    columns = wanted;
    cells = [];
    tables.replaceChildren();
    for (let from = 0; from < T; from += columns) tables.append(table(from, Math.min(T, from + columns)));
    recolour();
  }
  const scaleBox = make("div");
  const readout = make("p", { class: "readout", "aria-live": "polite" });

  panel.append(
    make("p", {}, bert ? t("After every layer the residual stream is sent through the head that predicts tokens, as if no layer followed. Read a column from below: how the model comes to choose a token for this place. A ring marks where the first choice is the one of the whole model.") : t("After every layer the residual stream is sent through the last LayerNorm and the vocabulary's table, as if no layer followed. Read a column from below: how the answer for the next token comes to be. A ring marks where the first choice is the token that is next (above the last token: the model's own answer)."), hint(t("Point at a cell, or move with the arrow keys, for the first choices there."))),
    make("div", { class: "controls" }, shadeChoice, scaleBox),
    tables,
    readout
  );

  function tell(layer, position) {
    const at = layer * T + position;
    const p = Array.from({ length: k }, (_, i) => Math.exp(topLogprobs[at * k + i]));
    const top = p.flatMap((share, i) => [i ? t(", ") : "", token(topIds[at * k + i]), ` ${percent(share)}`]);
    const rest = Math.max(0, 1 - p.reduce((sum, share) => sum + share, 0));
    readout.replaceChildren(
      ...(bert
        ? mixed("{0} in the place of {1}: {2}", make("b", {}, names[layer]), token(tokens[position]), top)
        : mixed("{0} after {1}: {2}", make("b", {}, names[layer]), token(tokens[position]), top)),
      ` · ${t("all {0} others {1}", whole(data.model.n_vocab - k), percent(rest))}`,
      make(
        "span",
        { class: "told" },
        mixed("entropy {0} nats", make("b", {}, fixed(entropies[at]))), " · ",
        bert
          ? mixed("chosen {0}: rank {1}, {2}", token(asked[position]), make("b", {}, whole(ranks[at])), percent(Math.exp(logprobs[at])))
          : mixed("next {0}: rank {1}, {2}", token(asked[position]), make("b", {}, whole(ranks[at])), percent(Math.exp(logprobs[at])))
      )
    );
  }

  function recolour() {
    for (const [cell, at] of cells) cell.style.setProperty("--v", shades[shade](at).toFixed(4));
    scaleBox.replaceChildren(scale(...meanings[shade]));
  }
  arrange();
  tell(names.length - 1, bert ? data.masks[0] ?? T - 1 : T - 1);
  return arrange;
}
