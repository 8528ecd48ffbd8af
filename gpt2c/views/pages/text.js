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
    probability: ["certain", `1 in ${whole(n_vocab)}`],
    rank: ["first choice", "last choice"],
    entropy: ["decided", "undecided"],
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
  const running = make("div", { class: "running", role: "group", "aria-label": "Text" }, lines);
  roving(running);
  const details = make("div", { class: "details", tabindex: 0, role: "region", "aria-label": "The chosen token", "aria-live": "polite" });
  const scaleBox = make("div");
  const choices = choice("Colour", [["probability", "probability"], ["rank", "rank"], ["entropy", "entropy"]], shade, (value) => {
    shade = value;
    recolour();
  });

  panel.append(
    make("p", {}, "How well the model foresaw each token, given those before it: orange is unexpected (or, by entropy, undecided). The first token has nothing before it and is not judged.", hint("Point at a token, or move with the arrow keys, for what was most probable in its place.")),
    make("div", { class: "controls" }, choices, scaleBox),
    ...(told ? [make("p", { class: "note" }, `Perplexity ${told.perplexity.toLocaleString("en", { maximumSignificantDigits: 5 })}, over ${plural(T - 1, "token")}.`)] : []),
    make("div", { class: "reading" }, running, details)
  );

  function tell(position) {
    words.forEach((word, index) => word.classList.toggle("active", index === position));
    if (position === 0 || !told) {
      details.replaceChildren(make("p", {}, token(tokens[position]), " stands first: nothing to foresee it from."));
      return;
    }
    const i = position - 1;
    const rows = Array.from({ length: told.k }, (_, j) => {
      const id = arrays.ids[i * told.k + j];
      return { id, p: Math.exp(arrays.tops[i * told.k + j]), note: id === tokens[position] ? "stands here" : "" };
    });
    if (!rows.some((row) => row.id === tokens[position])) {
      rows.push({ id: tokens[position], p: Math.exp(arrays.logprobs[i]), note: `stands here, rank ${whole(arrays.ranks[i])}` });
    }
    rows.push(others(rows, n_vocab));
    details.replaceChildren(
      make(
        "p",
        {},
        token(tokens[position]), " probability ", make("b", { "data-number": "probability" }, percent(Math.exp(arrays.logprobs[i]))),
        " · rank ", make("b", { "data-number": "rank" }, whole(arrays.ranks[i])),
        " · entropy ", make("b", { "data-number": "entropy" }, fixed(arrays.entropies[i])), " nats"
      ),
      bars(rows, "Most probable here")
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
