// The places of a text as a BERT sees them: what may stand in each, and how much it looks to both sides.

function masksView(panel) {
  const told = data.candidates;
  const arrays = told && { ids: unpacked(told.ids), logprobs: unpacked(told.logprobs) };
  const sides = unpacked(data.sides);
  const masked = new Set(data.masks);
  let position = data.masks[0] ?? chosen.token;

  const words = tokens.map((id, index) =>
    make(
      "button",
      {
        type: "button", class: masked.has(index) ? "written masked" : "written", "data-stop": true, "data-position": index,
        onclick: () => tell(index), onfocus: () => tell(index),
      },
      token(id)
    )
  );
  const group = make("div", { class: "sentences", role: "group", "aria-label": t("Text") }, words);
  roving(group);
  const details = make("div", { class: "side-by-side", "aria-live": "polite" });

  fill(panel, {}, [
    make("p", {}, t("A BERT sees the whole text at once: no token is hidden from another, so each place is judged by what comes before and after it."), hint(t("Choose a place with the mouse or the keyboard."))),
    masked.size ? null : make("p", { class: "note" }, t("This text has no mask. The model sees each token that it is asked about, so these are hardly guesses: put a mask where it should find a word.")),
    group,
    details,
    ...(data.ways ? [ways()] : []),
  ]);

  // Several masks, filled together.
  function ways() {
    return make("div", { class: "ways" }, bars(data.ways.map(({ text, p }) => ({ name: make("bdi", {}, visible(text, false)), p })), t("All masks filled together, one after the other")));
  }

  function guesses() {
    if (!told) return make("p", { class: "note" }, t("This model has no head that predicts tokens."));
    const rows = Array.from({ length: told.k }, (_, i) => {
      const id = arrays.ids[position * told.k + i];
      return { id, p: Math.exp(arrays.logprobs[position * told.k + i]), note: id === tokens[position] ? t("in the text") : "" };
    });
    const chart = bars(rows, masked.has(position) ? t("What the mask may stand for") : t("Candidates for this place"));
    chart.id = "masks-candidates";
    return chart;
  }

  // A bar for each layer: before, itself, behind.
  function looks() {
    const rows = Array.from({ length: data.model.n_layer }, (_, layer) => {
      const [before, itself, behind] = sides.subarray(3 * (layer * T + position), 3 * (layer * T + position + 1));
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, t("layer {0}", layer)),
        make("td", { class: "number" }, percent(before)),
        make("td", { class: "bar" }, make("div", { class: "both", "aria-hidden": "true" }, [["before", before], ["itself", itself], ["behind", behind]].map(([kind, share]) => make("span", { class: kind, "--v": share })))),
        make("td", { class: "number" }, percent(behind))
      );
    });
    return make(
      "table",
      { class: "plain", id: "masks-sides" },
      make("caption", {}, t("Attention to tokens before it, to itself (grey), and to tokens after it; mean of the heads")),
      make("thead", {}, make("tr", {}, make("td", {}), make("th", { scope: "col" }, t("before")), make("td", {}), make("th", { scope: "col" }, t("after")))),
      make("tbody", {}, rows)
    );
  }

  function tell(index) {
    position = index;
    words.forEach((word, other) => word.setAttribute("aria-pressed", `${other === index}`));
    details.replaceChildren(make("div", {}, guesses()), make("div", {}, looks()));
  }
  tell(position);
  return () => {};
}
