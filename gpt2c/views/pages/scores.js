// The matrix of one head: scores before the mask, behind it, and the weights after the softmax.

const FINE = 200; // tokens whose matrix is drawn large enough for labels, even where it has to be scrolled
const HALF_PAGE = 370; // CSS pixels of a matrix of which two fit on paper, with their labels
const LABELLED = 9; // CSS pixels of a cell that has room for the name of its token, and
const numbered = () => (printing() ? 28 : 34); // for its number: print is finer

function scoresView(panel) {
  const names = { raw: t("query · key"), masked: t("after the mask"), weights: t("after the softmax") };
  const stages = attention.score ? ["raw", "masked", "weights"] : ["weights"];
  let stage = stages[0];
  let cell = { row: T - 1, column: 0 };

  const layers = selection(t("Layer"), layerOptions(), (layer) => choose(layer, chosen.head));
  const heads = selection(t("Head"), headOptions(), (head) => choose(chosen.layer, head));
  layers.list.id = "scores-layer";
  heads.list.id = "scores-head";
  const stageChoice = choice(t("Show"), stages.map((name) => [name, names[name]]), stage, (value) => {
    stage = value;
    redraw();
  });
  const figures = stages.map(figure);
  const frame = make("div", { class: "matrices" }, figures.map((one) => one.element));
  const readout = make("p", { class: "readout", id: "scores-readout", "aria-live": "polite" });
  const note = make("p", { class: "note" });

  panel.append(
    make("p", {}, introduction(), hint(t("Point at a cell, or move with the arrow keys."))),
    make("div", { class: "controls" }, layers.element, heads.element, stageChoice),
    frame,
    readout,
    note
  );

  function introduction() {
    if (attention.score) return t("Rows ask, columns answer. Before the mask every query meets every key; the mask puts −∞ where the key is later; the softmax makes each row sum to 1.");
    return data.edits ? t("Rows ask, columns answer; each row sums to 1, but for what was edited.") : t("Rows ask, columns answer; each row sums to 1.");
  }

  const hidden = (row, column) => attention.causal && column > row;
  const hasScores = () => attention.hasScores(chosen.layer);

  // One matrix with its labels: { element, draw(size) }.
  function figure(name) {
    let size = 0;
    const labels = () => grouped(tokens, tokens.map((id) => make("span", { class: "label" }, token(id))));
    const left = make("div", { class: "matrix-left", "aria-hidden": "true" }, labels());
    const top = make("div", { class: "matrix-top", "aria-hidden": "true" }, labels());
    const canvas = make("canvas", { tabindex: 0, role: "application", id: `matrix-${name}`, "aria-describedby": "scores-readout" });
    const cursor = make("span", { class: "cursor", "aria-hidden": "true" });
    const cells = make("div", { class: "matrix-cells" }, canvas, cursor);
    const matrix = make("div", { class: "matrix" }, make("span", { class: "corner" }, t("asks ↓ answers →")), top, left, cells);
    const scroll = make("div", { class: "scroll tall" }, matrix);
    const element = make("figure", {}, make("figcaption", {}, names[name]), scroll);

    canvas.addEventListener("mousemove", (event) => {
      const box = canvas.getBoundingClientRect();
      move(Math.floor((event.clientY - box.top) / size), Math.floor((event.clientX - box.left) / size));
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(cell.row + step[0], cell.column + step[1]);
      scroll.scrollTo({ left: cell.column * size - scroll.clientWidth / 2, top: cell.row * size - scroll.clientHeight / 2 });
    });

    const value = (row, column) =>
      name === "weights"
        ? attention.weight(chosen.layer, chosen.head, row, column)
        : attention.score(chosen.layer, chosen.head, row, column);

    function strongest() {
      let most = 1e-9;
      for (let row = 0; row < T; row++) {
        for (let column = 0; column < T; column++) {
          if (name === "raw" || !hidden(row, column)) most = Math.max(most, Math.abs(value(row, column)));
        }
      }
      return most;
    }

    function redrawAt(cellSize) {
      size = cellSize;
      matrix.style.setProperty("--cell", `${size}px`);
      matrix.classList.toggle("dense", size < LABELLED);
      const context = sized(canvas, size * T, size * T);
      const [heat, cold] = [colour("--heat-rgb"), colour("--cold-rgb")].map(channels);
      const [ink, line] = [colour("--ink"), colour("--line")];
      const paper = channels(getComputedStyle(frame.closest(".panel")).backgroundColor);
      const gap = size > 4 ? 1 : 0;
      const most = name === "weights" ? 1 : strongest();
      context.font = `${Math.min(13, size / 3.4)}px ${colour("--mono")}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineWidth = 1;
      for (let row = 0; row < T; row++) {
        for (let column = 0; column < T; column++) {
          const [x, y] = [column * size, row * size];
          let text = name === "masked" ? "−∞" : "0";
          let letters = ink;
          if (name === "raw" || !hidden(row, column)) {
            const number = value(row, column);
            const alpha = name === "weights" ? Math.sqrt(number) : Math.abs(number) / most;
            const rgb = number < 0 ? cold : heat;
            context.fillStyle = `rgb(${rgb.join(" ")} / ${alpha})`;
            context.fillRect(x, y, size - gap, size - gap);
            text = fixed(number);
            letters = legible(rgb, alpha, paper);
          } else if (gap) {
            context.strokeStyle = line;
            context.strokeRect(x + 0.5, y + 0.5, size - 2, size - 2);
          }
          if (size >= numbered()) {
            context.fillStyle = letters;
            context.fillText(text, x + (size - 1) / 2, y + size / 2);
          }
        }
      }
      canvas.setAttribute("aria-label", t("{0}, layer {1}, head {2}: {3} by {3} cells; arrow keys move", names[name], chosen.layer, chosen.head, T));
    }
    function point() {
      cursor.style.setProperty("--column", cell.column);
      cursor.style.setProperty("--row", cell.row);
    }
    return { name, element, left, redrawAt, point, size: () => size };
  }

  function tell() {
    for (const one of figures) one.point();
    const { row, column } = cell;
    const weight = attention.weight(chosen.layer, chosen.head, row, column);
    const parts = [token(tokens[row]), " → ", token(tokens[column]), " · "];
    if (hasScores()) {
      const score = attention.score(chosen.layer, chosen.head, row, column);
      const number = weight === 0 && !hidden(row, column) ? t("below {0}", fixed(score)) : fixed(score);
      const masked = hidden(row, column) ? "−∞" : number;
      parts.push(...mixed("score {0} · masked {1}", make("b", { "data-number": "score" }, number), make("b", { "data-number": "masked" }, masked)), " · ");
    }
    parts.push(...mixed("weight {0}", make("b", { "data-number": "weight" }, hidden(row, column) ? "0" : weightText(weight, row))));
    readout.replaceChildren(...parts);
  }

  function weightText(weight, row) {
    if (!attention.has(chosen.layer)) return t("not in this page");
    const number = weight || !attention.kept ? weight : attention.least(chosen.layer, chosen.head, row);
    const text = `${Number(number.toPrecision(3))}`;
    return number === weight ? text : t("at most {0}", text);
  }

  // Two matrices lie on a page, and where they have no labels, side by side.
  function onPaper() {
    const size = Math.min(36, HALF_PAGE / T);
    return size < LABELLED ? (0.85 * HALF_PAGE) / T : size;
  }

  // What is not in the picture.
  function notes(shown) {
    const found = [];
    if (attention.edited(chosen.layer)) {
      found.push(t("Scores or weights of this layer were edited, so the weights do not follow from query and key: they alone are shown, those below 0 as 0 and those above 1 as 1."), t(" "));
    } else if (attention.score && !hasScores()) {
      found.push(t("The text is long: this page has the scores of {0} only.", layersNamed(data.attention.scores.layers)), t(" "));
    }
    if (untold(chosen.layer)) found.push(untold(chosen.layer), t(" "));
    const size = shown[0].size();
    if (size < LABELLED) found.push(t("The cells are too small for numbers and for the names of tokens: only colours are drawn."));
    else if (size < numbered()) found.push(t("The cells are too small for numbers: only colours are drawn."));
    if (size < numbered()) found.push(hint(t("Point at one to read what it is.")));
    return found;
  }

  // All stages side by side where there is room for them, else the one that was chosen.
  function redraw() {
    const usable = figures.filter((one) => one.name === "weights" || hasScores());
    const gap = 32;
    for (const one of figures) one.element.hidden = !usable.includes(one);
    const labels = usable.at(-1).left.offsetWidth + 2;
    const fitting = ((frame.clientWidth - (usable.length - 1) * gap) / usable.length - labels) / T;
    const together = usable.length === 1 || fitting >= 28;
    const shown = together || printing() ? usable : usable.filter((one) => one.name === stage);
    for (const one of figures) one.element.hidden = !shown.includes(one);
    stageChoice.hidden = together;
    const size = together ? fitting : (frame.clientWidth - labels) / T;
    const [least, most] = printing() ? [0, onPaper()] : [T > FINE ? 3 : 14, 56];
    for (const one of shown) one.redrawAt(Math.max(least, Math.min(most, printing() ? size : Math.floor(size))));
    note.replaceChildren(...notes(shown));
    tell();
  }

  function move(row, column) {
    if (row < 0 || column < 0 || row >= T || column >= T) return;
    if (row === cell.row && column === cell.column) return;
    cell = { row, column };
    tell();
  }

  function update() {
    layers.list.value = chosen.layer;
    heads.list.value = chosen.head;
    if (!panel.hidden) redraw();
  }
  watchers.push(update);
  update();
  return redraw;
}

// Red, green and blue of a colour as CSS writes it.
const channels = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);

// Black or white, whichever has more contrast with `rgb` laid over `paper` with `alpha`: at least 4.58, which no
// other two colours can promise.
function legible(rgb, alpha, paper) {
  const [red, green, blue] = paper
    .map((x, i) => x + alpha * (rgb[i] - x))
    .map((x) => (x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff";
}
