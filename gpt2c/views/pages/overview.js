// All heads: one small picture each.

// Where heads look, drawn into a canvas: a pixel for each weight, or for several where the text is long.
const headPicture = (() => {
  const told = data.attention.pictures;
  const shades = told && unpacked(told.shades);
  const size = told ? told.size : T;
  const place = new Map((told ? told.layers : attention.layers).map((layer, index) => [layer, index]));

  function shade(layer, head, row, column) {
    if (!told) return Math.round(255 * Math.sqrt(attention.weight(layer, head, row, column)));
    return shades[((place.get(layer) * attention.heads + head) * size + row) * size + column];
  }

  function paint(canvas, layer, head) {
    const [red, green, blue] = colour("--heat-rgb").split(" ").map(Number);
    const context = canvas.getContext("2d");
    const image = context.createImageData(size, size);
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        image.data.set([red, green, blue, shade(layer, head, row, column)], 4 * (row * size + column));
      }
    }
    context.putImageData(image, 0, 0);
  }

  const blank = () => make("canvas", { width: size, height: size, "aria-hidden": "true", class: size > 48 ? "" : "pixels" });
  return { blank, paint, layers: [...place.keys()], several: size < T ? Math.ceil(T / size) : 1 };
})();

function overviewView(panel, open) {
  const grid = make("div", { class: "overview", role: "group", "aria-label": t("All heads"), "--columns": attention.heads });
  const pictures = [];
  grid.append(make("span", { class: "corner", "aria-hidden": "true" }));
  for (let head = 0; head < attention.heads; head++) grid.append(make("span", { class: "across", "aria-hidden": "true" }, `${head}`));
  for (const layer of headPicture.layers) {
    grid.append(make("span", { class: "down", "aria-hidden": "true" }, `${layer}`));
    for (let head = 0; head < attention.heads; head++) {
      const canvas = headPicture.blank();
      const button = make(
        "button",
        {
          type: "button", class: "thumb", "data-stop": true, "data-layer": layer, "data-head": head,
          "aria-label": t("Layer {0}, head {1}", layer, head),
          onclick: () => {
            choose(layer, head);
            open(attention.has(layer) ? "heads" : "walk");
          },
          onmouseenter: () => tell(layer, head),
          onfocus: () => tell(layer, head),
        },
        canvas
      );
      pictures.push({ canvas, layer, head, button });
      grid.append(button);
    }
  }
  roving(grid, attention.heads);
  const readout = make("p", { class: "readout", "aria-live": "polite" });

  // Where a head looks on average, over the tokens that have such a neighbour.
  function tell(layer, head) {
    const name = make("b", {}, t("Layer {0}, head {1}", layer, head));
    if (!attention.has(layer)) {
      readout.replaceChildren(name, ` · ${untold(layer)}`);
      return;
    }
    let [before, first, itself] = [0, 0, 0];
    for (let row = 1; row < T; row++) {
      before += attention.weight(layer, head, row, row - 1);
      first += attention.weight(layer, head, row, 0);
      itself += attention.weight(layer, head, row, row);
    }
    const mean = (sum) => {
      const share = roughly(sum / Math.max(1, T - 1));
      return attention.kept ? t("at least {0}", share) : share;
    };
    readout.replaceChildren(
      name,
      T > 1 ? ` · ${t("on average {0} to the token itself, {1} to the one before, {2} to the first", mean(itself), mean(before), mean(first))}` : ""
    );
  }

  fill(panel, {}, [
    make("p", {}, t("One picture for each head: rows ask, columns answer, as in the score matrix; layers go down, heads across. Strong colour is much weight (its square root)."), hint(t("A click opens the head."))),
    headPicture.several > 1 ? make("p", { class: "note" }, t("The text is long: each pixel stands for about {0} by {0} tokens, and has the colour of the largest weight among them.", headPicture.several)) : null,
    make("div", { class: "scroll wide" }, grid),
    readout,
  ]);

  function redraw() {
    for (const { canvas, layer, head, button } of pictures) {
      headPicture.paint(canvas, layer, head);
      button.classList.toggle("current", layer === chosen.layer && chosen.heads.has(head));
    }
  }
  watchers.push(() => !panel.hidden && redraw());
  tell(chosen.layer, chosen.head);
  return redraw;
}
