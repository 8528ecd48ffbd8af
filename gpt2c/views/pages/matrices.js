// The learned matrices, reduced to small pictures: a pixel is the mean of a block of numbers.

const learned = data.matrices && (() => {
  const told = data.matrices;
  const known = new Map();
  const pictures = new WeakMap(); // what each canvas shows
  const shadesOf = (picture) => known.get(picture) ?? known.set(picture, unpacked(picture.shades)).get(picture);
  const named = (layer, name) => (layer === null ? told.tables : told.layers[layer])[name];

  // `part`, where it is given: the share of the rows (axis 0) or columns (axis 1) that the chosen head has.
  function figure(layer, name, caption, part = null) {
    const { shape, size, most } = named(layer, name);
    const [rows, columns] = size;
    const canvas = make("canvas", { width: columns, height: rows, role: "img", "data-matrix": name, "aria-label": t("{0}: a picture of a matrix of {1} by {2} numbers", caption, ...shape.map(whole)) });
    pictures.set(canvas, { picture: named(layer, name), part });
    return make("figure", { class: "learned" }, canvas, make("figcaption", {}, make("b", {}, caption), make("small", {}, t("{0} × {1} numbers", ...shape.map(whole))), make("small", {}, t("strongest pixel ±{0}", Number(most.toPrecision(2))))));
  }

  function paint(canvas) {
    const { picture, part } = pictures.get(canvas);
    const [heat, cold] = [colour("--heat-rgb"), colour("--cold-rgb")].map(channels);
    const [, columns] = picture.size;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, picture.size[0]);
    shadesOf(picture).forEach((code, i) => {
      const place = [Math.floor(i / columns), i % columns];
      const away = part && ((place[part.axis] + 1) / picture.size[part.axis] <= part.from || place[part.axis] / picture.size[part.axis] >= part.to);
      image.data.set([...(code < 127 ? cold : heat), Math.round(((away ? 0.25 : 1) * 255 * Math.abs(code - 127)) / 127)], 4 * i);
    });
    context.putImageData(image, 0, 0);
  }

  const row = (...figures) => make("div", { class: "matrices-learned" }, figures);
  const share = (axis, head, count) => ({ axis, from: head / count, to: (head + 1) / count });
  const ofHead = (head) => share(1, Math.floor((head * data.model.n_kv_head) / data.model.n_head), data.model.n_kv_head);
  const note = (text) => make("p", { class: "note" }, text, t(" "), t("Pictures of matrices are reduced: a pixel is the mean of a block of numbers, blue above zero and orange below."));

  return {
    tables: () => [row(figure(null, "tokens", t("token table")), figure(null, "positions", t("position table"))), note(t("A row of a table is what a token, or a position, begins with."))],
    projections: (layer, head) => make(
      "div",
      {},
      row(
        figure(layer, "query", t("query matrix"), share(1, head, data.model.n_head)),
        figure(layer, "key", t("key matrix"), ofHead(head)),
        figure(layer, "value", t("value matrix"), ofHead(head))
      ),
      note(t("The row times a matrix, plus a bias: each column makes one number. The columns of head {0} stand out.", head))
    ),
    feedForward: (layer, head) => [
      row(
        figure(layer, "projection", t("projection"), share(0, head, data.model.n_head)),
        figure(layer, "widening", t("first dense layer")),
        figure(layer, "narrowing", t("second dense layer"))
      ),
      note(t("The rows of the projection that head {0} is multiplied with stand out.", head)),
    ],
    paint: (panel) => panel.querySelectorAll("canvas[data-matrix]").forEach(paint),
  };
})();
