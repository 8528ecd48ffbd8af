// Cross-attention: where the decoder looks in the source when it writes a token.

function crossView(panel) {
  const told = data.cross;
  const { sources, written, layers, heads } = told;
  const S = sources.length;
  const codes = unpacked(told.weights);
  const { weightOf } = weightsBy(16);
  let { layer, head } = told.start;
  // The row that looks most at one place is the first that is shown.
  const at = (row, column) => weightOf[codes[((layers.indexOf(layer) * heads + head) * written.length + row) * S + column]];
  const strongest = (row) => Math.max(...sources.map((_, column) => at(row, column)));
  let row = written.reduce((best, _, other) => (strongest(other) > strongest(best) ? other : best), 0);

  const layerList = selection(t("Layer"), layers.map((one) => [one, `${one}`]), (value) => {
    layer = value;
    update();
  });
  const headList = selection(t("Head"), Array.from({ length: heads }, (_, one) => [one, `${one}`]), (value) => {
    head = value;
    update();
  });
  layerList.list.id = "cross-layer";
  headList.list.id = "cross-head";
  headList.element.hidden = heads === 1;

  const chips = sources.map((text) => make("span", { class: "source" }, make("bdi", { class: "token" }, ...visible(text)), make("small", { class: "share" })));
  const buttons = written.map((id, index) => {
    const show = () => {
      row = index;
      update();
    };
    return make("button", { type: "button", class: "written", "data-stop": true, "data-row": index, onclick: show, onfocus: show, onmouseenter: show }, token(id));
  });
  const group = make("div", { class: "sentences", role: "group", "aria-label": t("Written") }, buttons);
  roving(group);
  const readout = make("p", { class: "readout", "aria-live": "polite" });

  function leftOut() {
    const count = data.model.n_head;
    if (layers.length === data.model.n_layer) return t("The texts are long: this is the mean of all {0} heads.", count);
    return t("The texts are long: this is the mean of all {0} heads, of {1}.", count, layersNamed(layers));
  }

  fill(panel, {}, [
    make("p", {}, t("The encoder has read the source; the decoder attends to all of it, without a mask, each time it writes a token. Queries come from what is written, keys and values from the encoder."), hint(t("Point at a written token, or move to it with the keyboard."))),
    heads < data.model.n_head ? make("p", { class: "note" }, leftOut()) : null,
    make("div", { class: "controls" }, layerList.element, headList.element),
    make("h3", {}, t("Source")), make("div", { class: "sentences" }, chips),
    make("h3", {}, t("Written")), group,
    make("p", { class: "note" }, t("The last token is what the model would write next.")),
    readout,
  ]);

  function update() {
    layerList.list.value = layer;
    headList.list.value = head;
    const weights = sources.map((_, column) => at(row, column));
    const most = Math.max(...weights);
    chips.forEach((chip, column) => {
      chip.style.setProperty("--v", weights[column] / most);
      chip.lastChild.textContent = weights[column] >= FAINTEST.one * most ? roughly(weights[column]) : "";
    });
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", `${index === row}`));
    const order = weights.map((weight, column) => [weight, column]).sort((a, b) => b[0] - a[0]);
    const parts = order.slice(0, 5).flatMap(([weight, column], i) => [i ? t(", ") : "", make("bdi", { class: "token" }, ...visible(sources[column])), ` ${percent(weight)}`]);
    const rest = order.slice(5).reduce((sum, [weight]) => sum + weight, 0);
    readout.replaceChildren(
      ...(heads === 1
        ? mixed("Writing {0} (position {1}), the heads of layer {2} attend to {3}", token(written[row]), row + 1, layer, parts)
        : mixed("Writing {0} (position {1}), layer {2}, head {3} attends to {4}", token(written[row]), row + 1, layer, head, parts)),
      rest ? t("; {0} together {1}", plural(order.length - 5, "{0} other", "{0} others"), roughly(rest)) : ""
    );
  }
  update();
  return () => {};
}
