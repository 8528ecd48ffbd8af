// Generation, step by step: what a step computes, and what it reuses of the steps before.

const LATEST = 40; // tokens that the line above the picture shows
const COLUMNS = 48; // read tokens with a column of their own, at most: the first, and the last ones
const AHEAD = 12; // columns of tokens to come, at most
const FAINT = 1 / 50; // lines with less than this part of the largest weight of one token in their layer are not drawn

function generationView(panel) {
  const told = data.generation;
  const { n_layer, n_embd, n_vocab } = data.model;
  const ids = [...tokens, ...told.token_ids];
  const steps = told.steps.length;
  const positions = ids.length - 1; // the last token is written, but not read any more
  const codes = unpacked(told.attention);
  const { weightOf } = weightsBy(8);
  const average = (layer, step, position) => weightOf[codes[(layer * steps + step) * positions + position]];
  let step = 0;
  let timer = 0;

  const range = slider(t("Step"), { min: 1, max: steps, value: 1, id: "generation-step" }, (value) => {
    step = value - 1;
    update();
    return t("{0} of {1}", value, steps);
  });
  const go = (to) => {
    range.input.value = to + 1;
    range.update();
  };
  const back = make("button", { type: "button", onclick: () => go(step - 1) }, t("Back"));
  const forth = make("button", { type: "button", id: "generation-next", onclick: () => go(step + 1) }, t("Next"));
  const play = make("button", { type: "button", onclick: () => (timer ? stop() : start()) }, t("Play"));

  function start() {
    if (step === steps - 1) go(0);
    timer = setInterval(() => (step < steps - 1 ? go(step + 1) : stop()), 1200);
    play.textContent = t("Pause");
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = t("Play");
  }

  const sentence = make("p", { class: "sentence" });
  const picture = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("Picture of the step") });
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const left = make("p", { class: "note" });
  const chart = make("div");
  const { temperature, top_k, top_p, seed } = told.options;
  const how = temperature === 0
    ? t("The text goes on, chosen greedily: always the most probable token.")
    : t("The text goes on, chosen with temperature {0}, top k {1}, top p {2}, seed {3}.", temperature, top_k || t("off"), top_p, seed);

  panel.append(
    make("p", {}, how, t(" "), mixed("Each step computes the columns that are lit, from the embedding at the bottom to the next token at the top. {0} (grey): they are read, not computed again; blue shows how much the column of the last token reads of each, averaged over the heads.", make("b", {}, t("Keys and values of earlier tokens are kept")))),
    make("div", { class: "controls" }, back, forth, play, range.element),
    sentence,
    make("div", { class: "legend" },
      make("span", {}, make("i", { class: "key computed" }), t("computed now")),
      make("span", {}, make("i", { class: "key kept" }), t("keys and values, kept")),
      make("span", {}, make("i", { class: "key read" }), t("read with much weight"))),
    make("div", { class: "side-by-side" }, make("div", {}, picture, left), chart),
    readout,
    make(
      "table",
      { class: "plain paper" },
      make("thead", {}, make("tr", {}, [t("step"), t("chosen"), t("most probable")].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, told.steps.map((candidates, i) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, `${i + 1}`),
          make("td", {}, token(told.token_ids[i]), ` ${percent(Math.exp(told.logprobs[i]))}`),
          make("td", {}, candidates.slice(0, 4).flatMap((one, j) => [j ? t(", ") : "", token(one.id), ` ${percent(Math.exp(one.logprob))}`]))
        )
      ))
    )
  );

  function update() {
    back.disabled = step === 0;
    forth.disabled = step === steps - 1;
    const length = told.prompt + step; // tokens that are read in this step
    const from = Math.max(0, length - LATEST);
    const words = ids.slice(from, length).map((id, i) => make("span", { class: from + i < told.prompt ? "old" : "added" }, token(id)));
    words.push(make("span", { class: "new" }, token(told.token_ids[step])));
    sentence.replaceChildren(
      ...(from ? [make("small", { class: "before" }, t("after {0}: …", plural(from, "{0} token", "{0} tokens")), "\u2060")] : []),
      ...grouped(ids.slice(from, length + 1), words)
    );
    const rows = told.steps[step].map((candidate) => ({
      id: candidate.id,
      p: Math.exp(candidate.logprob),
      kind: candidate.fate === "chosen" ? "chosen" : candidate.removed_by ? "removed" : "",
      note: candidate.fate === "chosen" ? t("chosen") : candidate.removed_by ? t("left out: {0}", candidate.removed_by) : "",
    }));
    chart.replaceChildren(bars([...rows, others(rows, n_vocab)], t("Candidates, by the model's own probabilities")));
    const kept = step === 0 ? 0 : length - 1;
    const fresh = step === 0 ? length : 1;
    const name = make("b", {}, t("Step {0}", step + 1));
    const computed = plural(fresh, "{0} column", "{0} columns");
    readout.replaceChildren(
      ...(step === 0 ? mixed("{0}: {1} computed, the whole prompt at once", name, computed) : mixed("{0}: {1} computed", name, computed)), t("; "),
      kept ? t("keys and values of {0} reused ({1})", plural(kept, "{0} token", "{0} tokens"), plural(kept * n_layer * 2 * n_embd, "{0} number", "{0} numbers")) : t("nothing to reuse yet"), t("; "),
      ...mixed("chosen: {0} ({1}).", token(told.token_ids[step]), percent(Math.exp(told.logprobs[step])))
    );
    drawPicture(length);
  }

  // The columns of the picture: a token each, { from, to }, but for those between the first and the last ones,
  // which share one.
  function columnsOf(length) {
    const start = length > COLUMNS ? length - COLUMNS + 2 : 0;
    const single = (position) => ({ from: position, to: position });
    const end = Math.min(positions, length + AHEAD);
    const shown = Array.from({ length: end - start }, (_, i) => single(start + i));
    return start ? [single(0), { from: 1, to: start - 1 }, ...shown] : shown;
  }

  function readOf(layer, { from, to }) {
    let sum = 0;
    for (let position = from; position <= to; position++) sum += average(layer, step, position);
    return sum;
  }

  // The columns that are lit, with their labels. `at` has the places: see drawPicture.
  function drawColumns(columns, length, at) {
    const parts = [];
    columns.forEach((column, index) => {
      const seen = column.to < length;
      const fresh = seen && (step === 0 || column.to === length - 1);
      const centre = at.x(index) + at.cell / 2;
      const state = !seen ? "unseen" : fresh ? "computed" : "kept";
      for (let layer = 0; layer <= n_layer; layer++) {
        const y = at.y(layer);
        if (layer < n_layer) {
          // keys and values stand between the stream that enters the layer and the one that leaves it
          const box = { x: centre - at.cell * 0.36, y: at.keys(layer) - 4, width: at.cell * 0.72, height: 8, rx: 2 };
          if (fresh) parts.push(draw("line", { class: "path", x1: centre, x2: centre, y1: y, y2: at.y(layer + 1) }));
          parts.push(draw("rect", { class: `kv ${state}`, ...box }));
          if (state === "kept") parts.push(draw("rect", { class: "kv read", ...box, "--v": Math.sqrt(readOf(layer, column)) }));
        }
        parts.push(draw("circle", { class: `stream ${state === "kept" ? "gone" : state}`, cx: centre, cy: y, r: Math.min(5, at.cell / 4) }));
      }
      if (!seen) return;
      const label = draw("foreignObject", { x: at.x(index), y: at.y(0) + 8, width: at.cell, height: at.labels });
      const name = column.from === column.to ? token(ids[column.from]) : `… ${plural(column.to - column.from + 1, "{0} token", "{0} tokens")}`;
      label.append(make("span", { class: fresh ? "under fresh" : "under" }, name));
      parts.push(label);
    });
    return parts;
  }

  // Under the labels the characters that lie in several tokens.
  function drawCharacters(columns, length, at) {
    const place = new Map(columns.flatMap(({ from, to }, index) => (from === to ? [[from, index]] : [])));
    return charactersOf(ids.slice(0, length)).flatMap(({ from, to, text }) => {
      if (!place.has(from) || !place.has(to)) return [];
      const [x1, x2, y] = [at.x(place.get(from)) + 2, at.x(place.get(to)) + at.cell - 2, at.y(0) + 10 + at.labels];
      const name = draw("foreignObject", { x: x1, y: y + 2, width: x2 - x1, height: 24 });
      name.append(make("div", { class: "answer" }, character(text)));
      return [draw("line", { class: "bracket", x1, x2, y1: y, y2: y }), name];
    });
  }

  // What the last column reads, as lines; those too faint to be drawn are counted.
  function drawLines(columns, length, at) {
    const active = columns.findIndex(({ to }) => to === length - 1);
    const lines = [];
    const hidden = { lines: 0, weight: 0, of: n_layer * active };
    for (let layer = 0; layer < n_layer; layer++) {
      const weights = columns.slice(0, active).map((column) => readOf(layer, column));
      const most = Math.max(...weights.filter((_, index) => columns[index].from === columns[index].to));
      weights.forEach((weight, index) => {
        if (weight < FAINT * most) {
          hidden.lines += 1;
          hidden.weight += weight / n_layer;
          return;
        }
        lines.push(draw("line", {
          class: "reads", x1: at.x(index) + at.cell / 2, y1: at.keys(layer) - 4, x2: at.x(active) + at.cell / 2, y2: at.y(layer + 1),
          "--v": Math.min(1, 0.15 + weight), "stroke-width": 0.75 + 3 * weight,
        }));
      });
      lines.push(draw("text", { class: "label", x: at.x(0) - 8, y: at.keys(layer) + 4, "text-anchor": "end" }, t("layer {0}", layer)));
    }
    lines.push(draw("text", { class: "label", x: at.x(0) - 8, y: at.y(0) + 4, "text-anchor": "end" }, t("embed")));
    return { lines, hidden, active };
  }

  function drawPicture(length) {
    const columns = columnsOf(length);
    const [aside, above, high] = [58, 34, n_layer > 16 ? 30 : 44];
    const cell = columns.length > 40 ? 16 : columns.length > 24 ? 20 : 30;
    const y = (layer) => above + (n_layer - layer) * high; // the stream that enters the layer; n_layer: what leaves the last
    const at = { cell, labels: 96, y, x: (index) => aside + index * cell, keys: (layer) => y(layer) - high * 0.36 };
    const { lines, hidden, active } = drawLines(columns, length, at);
    const characters = drawCharacters(columns, length, at);
    const [width, height] = [aside + columns.length * cell + 70, y(0) + 12 + at.labels + (characters.length ? 26 : 0)];
    const answer = draw("foreignObject", { x: Math.max(0, at.x(active) + cell / 2 - 80), y: 2, width: 160, height: 26 });
    answer.append(make("div", { class: "answer" }, token(told.token_ids[step])));
    picture.replaceChildren(
      draw(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "steps", "aria-label": t("Step {0}: {1} of {2} columns computed", step + 1, step === 0 ? length : 1, length) },
        lines, drawColumns(columns, length, at), characters, answer
      )
    );
    // The names of the layers are seen, too, where there is room for both.
    picture.scrollLeft = at.x(active) + 2 * cell > picture.clientWidth ? at.x(active) - picture.clientWidth / 2 : 0;
    left.textContent = hidden.lines
      ? t("Lines of less than a fiftieth of the largest weight of one token in their layer are not drawn: {0} of {1}, with {2} of all that is read.", whole(hidden.lines), whole(hidden.of), roughly(hidden.weight))
      : "";
  }

  range.update();
  return () => drawPicture(told.prompt + step);
}
