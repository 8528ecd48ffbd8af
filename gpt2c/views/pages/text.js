// The text, coloured by how well the model foresaw each token.

function textView(panel) {
  const told = data.scores;
  const { n_vocab } = data.model;
  const arrays = told && {
    logprobs: unpacked(told.logprobs),
    ranks: unpacked(told.ranks),
    entropies: unpacked(told.entropies),
    ids: unpacked(told.top_ids),
    tops: unpacked(told.top_logprobs),
  };
  const shades = {
    probability: (i) => Math.min(1, -arrays.logprobs[i] / Math.log(n_vocab)),
    rank: (i) => Math.min(1, Math.log(arrays.ranks[i] + 1) / Math.log(n_vocab)),
    entropy: (i) => arrays.entropies[i] / Math.log(n_vocab),
  };
  const meanings = {
    probability: [t("certain"), t("1 in {0}", whole(n_vocab))],
    rank: [t("first choice"), t("last choice")],
    entropy: [t("decided"), t("undecided")],
  };
  let shade = "probability";

  const words = tokens.map((id, position) =>
    make(
      "button",
      { type: "button", class: "word", "data-stop": true, "data-position": position, onmouseenter: () => tell(position), onfocus: () => tell(position), onclick: () => tell(position) },
      token(id)
    )
  );
  // A line ends where the text's line ends.
  const ended = new Set(words.filter((_, position) => data.pieces[tokens[position]]?.endsWith("\n")));
  const lines = grouped(tokens, words).flatMap((node) => (ended.has(node) ? [node, make("br")] : [node]));
  const running = make("div", { class: "running", role: "group", "aria-label": t("Text") }, lines);
  roving(running);
  const details = make("div", { class: "details", tabindex: 0, role: "region", "aria-label": t("The chosen token"), "aria-live": "polite" });
  const scaleBox = make("div");
  const choices = choice(t("Colour"), [["probability", t("probability")], ["rank", t("rank")], ["entropy", t("entropy")]], shade, (value) => {
    shade = value;
    recolour();
  });

  panel.append(
    make("p", {}, t("How well the model foresaw each token, given those before it: orange is unexpected (or, by entropy, undecided). The first token has nothing before it and is not judged."), hint(t("Point at a token, or move with the arrow keys, for what was most probable in its place."))),
    make("div", { class: "controls" }, choices, scaleBox),
    ...(told ? [make("p", { class: "note" }, t("Perplexity {0}, over {1}.", told.perplexity.toLocaleString("en", { maximumSignificantDigits: 5 }), plural(T - 1, "{0} token", "{0} tokens")))] : []),
    make("div", { class: "reading" }, running, details)
  );

  function tell(position) {
    words.forEach((word, index) => word.classList.toggle("active", index === position));
    if (position === 0 || !told) {
      details.replaceChildren(make("p", {}, mixed("{0} comes first: there is nothing to predict it from.", token(tokens[position]))));
      return;
    }
    const i = position - 1;
    const rows = Array.from({ length: told.k }, (_, j) => {
      const id = arrays.ids[i * told.k + j];
      return { id, p: Math.exp(arrays.tops[i * told.k + j]), note: id === tokens[position] ? t("in the text") : "" };
    });
    if (!rows.some((row) => row.id === tokens[position])) {
      rows.push({ id: tokens[position], p: Math.exp(arrays.logprobs[i]), note: t("in the text, rank {0}", whole(arrays.ranks[i])) });
    }
    rows.push(others(rows, n_vocab));
    details.replaceChildren(
      make(
        "p",
        {},
        mixed("{0} probability {1}", token(tokens[position]), make("b", { "data-number": "probability" }, percent(Math.exp(arrays.logprobs[i])))), " · ",
        mixed("rank {0}", make("b", { "data-number": "rank" }, whole(arrays.ranks[i]))), " · ",
        mixed("entropy {0} nats", make("b", { "data-number": "entropy" }, fixed(arrays.entropies[i])))
      ),
      bars(rows, t("Most probable here"))
    );
  }

  function recolour() {
    words.forEach((word, position) => word.style.setProperty("--v", position && told ? shades[shade](position - 1).toFixed(4) : 0));
    scaleBox.replaceChildren(scale(...meanings[shade], "hot"));
  }
  recolour();
  tell(Math.min(1, T - 1));
  return () => {};
}
