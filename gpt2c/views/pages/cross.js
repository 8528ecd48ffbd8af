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

  const layerList = selection("Layer", layers.map((one) => [one, `${one}`]), (value) => {
    layer = value;
    update();
  });
  const headList = selection("Head", Array.from({ length: heads }, (_, one) => [one, `${one}`]), (value) => {
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
  const group = make("div", { class: "sentences", role: "group", "aria-label": "Written" }, buttons);
  roving(group);
  const readout = make("p", { class: "readout", "aria-live": "polite" });

  fill(panel, {}, [
    make("p", {}, "The encoder has read the source; the decoder attends to all of it, without a mask, each time it writes a token. Queries come from what is written, keys and values from the encoder. Point at a written token, or move to it with the keyboard."),
    heads < data.model.n_head ? make("p", { class: "note" }, `The texts are long: this is the mean of all ${data.model.n_head} heads${layers.length < data.model.n_layer ? `, of layers ${layers.join(", ")}` : ""}.`) : null,
    make("div", { class: "controls" }, layerList.element, headList.element),
    make("h3", {}, "Source"), make("div", { class: "sentences" }, chips),
    make("h3", {}, "Written"), group,
    make("p", { class: "note" }, "The last token is what the model would write next."),
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
    const parts = order.slice(0, 5).flatMap(([weight, column], i) => [i ? ", " : "", make("bdi", { class: "token" }, ...visible(sources[column])), ` ${percent(weight)}`]);
    const rest = order.slice(5).reduce((sum, [weight]) => sum + weight, 0);
    readout.replaceChildren("Writing ", token(written[row]), ` (position ${row + 1}), ${heads === 1 ? `the heads of layer ${layer} attend` : `layer ${layer}, head ${head} attends`} to `, ...parts, rest ? `; ${plural(order.length - 5, "other")} together ${roughly(rest)}` : "");
  }
  update();
  return () => {};
}
