// The matrix of one head: scores before the mask, behind it, and the weights after the softmax.

function scoresView(panel) {
  const stages = [
    ["raw", "query · key"],
    ["masked", "after the mask"],
    ["weights", "after the softmax"],
  ];
  let stage = attention.score ? "raw" : "weights";
  let cell = { row: T - 1, column: 0 };
  let size = 20;

  const layers = selection("Layer", layerOptions(), (layer) => choose(layer, chosen.head));
  const heads = selection("Head", headOptions(), (head) => choose(chosen.layer, head));
  layers.list.id = "scores-layer";
  heads.list.id = "scores-head";
  const stageChoice = choice("Show", attention.score ? stages : stages.slice(2), stage, (value) => {
    stage = value;
    redraw();
  });
  const canvas = make("canvas", { tabindex: 0, role: "img", id: "scores-canvas", "aria-describedby": "scores-readout" });
  const left = make("div", { class: "matrix-left", "aria-hidden": "true" }, tokens.map((id) => make("span", {}, token(id))));
  const top = make("div", { class: "matrix-top", "aria-hidden": "true" }, tokens.map((id) => make("span", {}, token(id))));
  const matrix = make("div", { class: "matrix" }, make("span", { class: "corner" }, "asks ↓ answers →"), top, left, canvas);
  const frame = make("div", { class: "scroll tall" }, matrix);
  const readout = make("p", { class: "readout", id: "scores-readout", "aria-live": "polite" });
  const note = make("p", { class: "note" });

  panel.append(
    make("p", {}, "Rows ask, columns answer. Before the mask every query meets every key; the mask puts −∞ where the key is later; the softmax makes each row sum to 1. Point at a cell, or move with the arrow keys."),
    make("div", { class: "controls" }, layers.element, heads.element, stageChoice),
    frame,
    readout,
    note
  );

  const hidden = (row, column) => attention.causal && column > row;
  const shownStage = () => (attention.score && attention.hasScores(chosen.layer) ? stage : "weights");

  function tell() {
    const { row, column } = cell;
    const weight = attention.weight(chosen.layer, chosen.head, row, column);
    const parts = [token(tokens[row]), " → ", token(tokens[column]), " · "];
    if (attention.score && attention.hasScores(chosen.layer)) {
      const score = attention.score(chosen.layer, chosen.head, row, column);
      const least = weight === 0 && !hidden(row, column) ? "below " : "";
      parts.push("score ", make("b", { "data-number": "score" }, `${least}${fixed(score)}`), " · masked ", make("b", {}, hidden(row, column) ? "−∞" : fixed(score)), " · ");
    }
    parts.push("weight ", make("b", { "data-number": "weight" }, hidden(row, column) ? "0" : `${Number(weight.toPrecision(3))}`));
    readout.replaceChildren(...parts);
  }

  function redraw() {
    const { layer, head } = chosen;
    const space = frame.clientWidth - left.offsetWidth - 4;
    size = Math.max(14, Math.min(60, Math.floor(space / T)));
    matrix.style.setProperty("--cell", `${size}px`);
    const context = sized(canvas, size * T, size * T);
    const [heat, cold] = [colour("--heat-rgb"), colour("--cold-rgb")];
    const [ink, paper, line] = [colour("--ink"), colour("--panel"), colour("--line")];
    const now = shownStage();
    let most = 1;
    if (now !== "weights") {
      most = 1e-9;
      for (let row = 0; row < T; row++) {
        for (let column = 0; column < T; column++) {
          if (now === "raw" || !hidden(row, column)) most = Math.max(most, Math.abs(attention.score(layer, head, row, column)));
        }
      }
    }
    context.font = `${Math.min(13, size / 3.4)}px ${colour("--mono")}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let row = 0; row < T; row++) {
      for (let column = 0; column < T; column++) {
        const [x, y] = [column * size, row * size];
        const masked = hidden(row, column) && now !== "raw";
        let text = masked ? (now === "masked" ? "−∞" : "0") : "";
        let alpha = 0;
        if (!masked) {
          const value = now === "weights" ? attention.weight(layer, head, row, column) : attention.score(layer, head, row, column);
          alpha = now === "weights" ? Math.sqrt(value) : Math.abs(value) / most;
          context.fillStyle = `rgb(${value < 0 ? cold : heat} / ${alpha})`;
          context.fillRect(x, y, size - 1, size - 1);
          text = fixed(value);
        } else {
          context.strokeStyle = line;
          context.lineWidth = 1;
          context.strokeRect(x + 0.5, y + 0.5, size - 2, size - 2);
        }
        if (size >= 34) {
          context.fillStyle = alpha > 0.6 ? paper : ink;
          context.fillText(text, x + (size - 1) / 2, y + size / 2);
        }
      }
    }
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.strokeRect(cell.column * size + 1, cell.row * size + 1, size - 3, size - 3);
    canvas.setAttribute("aria-label", `Matrix of layer ${layer}, head ${head}: ${T} by ${T} cells`);
    note.textContent = attention.score && !attention.hasScores(layer)
      ? "The text is long: scores are told for the layer of the walk alone, weights for every layer."
      : "";
    tell();
  }

  function move(row, column) {
    if (row < 0 || column < 0 || row >= T || column >= T) return;
    cell = { row, column };
    redraw();
  }

  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [row, column] = [Math.floor((event.clientY - box.top) / size), Math.floor((event.clientX - box.left) / size)];
    if (row !== cell.row || column !== cell.column) move(row, column);
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    move(cell.row + down, cell.column + right);
    const [y, x] = [cell.row * size, cell.column * size];
    const reach = { left: x - frame.clientWidth / 2, top: y - frame.clientHeight / 2 };
    frame.scrollTo(reach);
  });

  function update() {
    layers.list.value = chosen.layer;
    heads.list.value = chosen.head;
    if (!panel.hidden) redraw();
  }
  watchers.push(update);
  update();
  return redraw;
}
