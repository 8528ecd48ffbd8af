// The same tokens seen by the masked model that comes with gpt2c: where its heads look, and what it takes a
// hidden token for, beside what the model of the page expects there from the left alone.

const beside = data.beside && (() => {
  const told = data.beside;
  const { shown, n } = numbers;
  const { k } = told;
  const [weights, sides] = [unpacked(told.weights), unpacked(told.sides)];
  const guesses = Object.fromEntries(Object.entries(told.guesses).map(([name, arrays]) => [name, Object.fromEntries(Object.entries(arrays).map(([key, array]) => [key, unpacked(array)]))]));
  const seen = { ...told.start }; // the masked model's head that is shown
  const rowOf = (query) => (seen.layer * told.heads + seen.head) * n + query;
  const weight = (query, key) => weights[rowOf(query) * n + key];

  function lists(changed) {
    const list = (name, label, count) => {
      const { element, list } = selection(label, Array.from({ length: count }, (_, i) => [i, `${i}`]), (value) => {
        seen[name] = value;
        changed();
      });
      list.id = `beside-${name}`;
      list.value = seen[name];
      return element;
    };
    return make("div", { class: "controls" }, list("layer", t("Layer of the masked model"), told.layers), list("head", t("Its head"), told.heads));
  }

  function table(layer, head, query) {
    const rows = shown.map((position, key) => {
      const [own, other] = [numbers.weight(layer, head, query, key), weight(query, key)];
      const later = numbers.hidden(query, key);
      return make(
        "tr",
        { class: key === query ? "followed" : "" },
        make("th", { scope: "row" }, token(tokens[position])),
        numberCell(later ? "0" : fixed(own, 4)),
        barCell(own),
        numberCell(fixed(other, 4)),
        barCell(other, "without")
      );
    });
    const rest = shown.reduce((left, _, key) => left - weight(query, key), 1);
    const { others, weight: left } = unshown(layer, head, query);
    rows.push(make("tr", { class: "others" }, make("th", { scope: "row" }, t("all others, and the tokens around the text")), numberCell(others ? fixed(left, 4) : "0"), barCell(others ? left : 0), numberCell(fixed(Math.max(0, rest), 4)), barCell(rest, "without")));
    const headings = [t("key of"), t("this model, layer {0}, head {1}", layer, head), "", t("masked model, layer {0}, head {1}", seen.layer, seen.head), ""];
    return numberTable("walk-beside", t("Weights of both models"), headings, rows);
  }

  function chart(name, query, caption) {
    const { ids, logprobs, own } = guesses[name];
    const id = tokens[shown[query]];
    const here = t("in the text");
    const rows = Array.from({ length: k }, (_, i) => query * k + i).map((at) => ({ id: ids[at], p: Math.exp(logprobs[at]), note: ids[at] === id ? here : "" }));
    if (!rows.some((row) => row.id === id)) rows.push({ id, p: Math.exp(own[query]), note: here });
    const found = bars(rows, caption);
    found.id = `beside-${name}`;
    return found;
  }

  function guessed(query) {
    const position = shown[query];
    if (position < data.starts.length && tokens[0] === data.starts[0]) return [];
    const left = position ? chart("left", query, t("This model, from the tokens before it")) : make("p", { class: "note" }, t("No token comes before the first, so this model does not guess it."));
    return [
      make("p", {}, mixed("Which token belongs in the place of {0}? This model sees only the tokens before it. The masked model is given a mask in its place, and sees both sides.", token(tokens[position]))),
      make("div", { class: "guesses" }, make("div", {}, left), make("div", {}, chart("masked", query, t("The masked model, from both sides")))),
    ];
  }

  // `changed` is called when another head of the masked model is chosen.
  return (layer, head, query, changed) => {
    const [before, behind] = sides.subarray(2 * rowOf(query), 2 * rowOf(query) + 2);
    const share = (value, name) => make("b", { "data-number": name }, percent(value));
    return [
      make("h4", {}, t("Seen by a masked model")),
      make("p", {}, t("The masked model that comes with gpt2c is a BERT with the same vocabulary. No token is hidden from another there, and it was trained to guess tokens that a mask replaces."), data.edits ? t(" ") + t("The edits do not apply to it.") : ""),
      lists(changed),
      table(layer, head, query),
      make("p", { class: "note" }, mixed("{0} of its weight goes to tokens before {1}, {2} to tokens after it.", share(before, "before"), token(tokens[shown[query]]), share(behind, "behind"))),
      ...guessed(query),
    ];
  };
})();
