// Generation, step by step: what a step computes, and what it reuses of the steps before.

const LATEST = 40; // tokens that the line above the picture shows

function generationView(panel) {
  const told = data.generation;
  const { n_layer, n_embd } = data.model;
  const ids = [...tokens, ...told.token_ids];
  const steps = told.steps.length;
  const positions = ids.length - 1; // the last token is written, but not read any more
  const codes = unpacked(told.attention);
  const { weightOf } = weightsBy(8);
  const average = (layer, step, position) => weightOf[codes[(layer * steps + step) * positions + position]];
  let step = 0;
  let timer = 0;

  const range = slider("Step", { min: 1, max: steps, value: 1, id: "generation-step" }, (value) => {
    step = value - 1;
    update();
    return `${value} of ${steps}`;
  });
  const go = (to) => {
    range.input.value = to + 1;
    range.update();
  };
  const back = make("button", { type: "button", onclick: () => go(step - 1) }, "Back");
  const forth = make("button", { type: "button", id: "generation-next", onclick: () => go(step + 1) }, "Next");
  const play = make("button", { type: "button", "aria-pressed": "false", onclick: () => (timer ? stop() : start()) }, "Play");

  function start() {
    if (step === steps - 1) go(0);
    timer = setInterval(() => (step < steps - 1 ? go(step + 1) : stop()), 1200);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  const sentence = make("p", { class: "sentence" });
  const picture = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Picture of the step" });
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const chart = make("div");
  const { temperature, top_k, top_p, seed } = told.options;
  const how = temperature === 0
    ? "greedily: always the most probable token"
    : `with temperature ${temperature}, top k ${top_k || "off"}, top p ${top_p}, seed ${seed}`;

  panel.append(
    make("p", {}, `The text goes on, chosen ${how}. Each step computes the columns that are lit, from the embedding at the bottom to the next token at the top. `, make("b", {}, "Keys and values of earlier tokens are kept"), " (grey): they are read, not computed again; blue shows how much the lit column reads of each, averaged over the heads."),
    make("div", { class: "controls" }, back, forth, play, range.element),
    sentence,
    make("div", { class: "legend" },
      make("span", {}, make("i", { class: "key computed" }), "computed now"),
      make("span", {}, make("i", { class: "key kept" }), "keys and values, kept"),
      make("span", {}, make("i", { class: "key read" }), "read with much weight")),
    make("div", { class: "side-by-side" }, picture, chart),
    readout,
    make(
      "table",
      { class: "plain paper" },
      make("thead", {}, make("tr", {}, ["step", "chosen", "most probable"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, told.steps.map((candidates, i) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, `${i + 1}`),
          make("td", {}, token(told.token_ids[i]), ` ${percent(Math.exp(told.logprobs[i]))}`),
          make("td", {}, candidates.slice(0, 4).flatMap((one, j) => [j ? ", " : "", token(one.id), ` ${percent(Math.exp(one.logprob))}`]))
        )
      ))
    )
  );

  function update() {
    back.disabled = step === 0;
    forth.disabled = step === steps - 1;
    const length = told.prompt + step; // tokens that are read in this step
    const from = Math.max(0, length - LATEST);
    sentence.replaceChildren(
      from ? "…\u2060" : "",
      ...ids.slice(from, length).map((id, i) => make("span", { class: from + i < told.prompt ? "old" : "added" }, token(id))),
      make("span", { class: "new" }, token(told.token_ids[step]))
    );
    chart.replaceChildren(
      bars(
        told.steps[step].map((candidate) => ({
          id: candidate.id,
          p: Math.exp(candidate.logprob),
          kind: candidate.fate === "chosen" ? "chosen" : candidate.removed_by ? "removed" : "",
          note: candidate.fate === "chosen" ? "chosen" : candidate.removed_by ? `left out: ${candidate.removed_by}` : "",
        })),
        "Candidates, by the model's own probabilities"
      )
    );
    const kept = step === 0 ? 0 : length - 1;
    const fresh = step === 0 ? length : 1;
    readout.replaceChildren(
      make("b", {}, `Step ${step + 1}`), `: ${plural(fresh, "column")} computed${step === 0 ? ", the whole prompt at once" : ""}; `,
      kept ? `keys and values of ${plural(kept, "token")} reused (${plural(kept * n_layer * 2 * n_embd, "number")}); ` : "nothing to reuse yet; ",
      "chosen: ", token(told.token_ids[step]), ` (${percent(Math.exp(told.logprobs[step]))}).`
    );
    drawPicture(length);
  }

  function drawPicture(length) {
    const cell = positions > 60 ? 14 : positions > 24 ? 20 : 30;
    const [left, labels, high] = [58, 84, n_layer > 16 ? 30 : 44];
    const height = 34 + n_layer * high + 8 + labels;
    const width = left + positions * cell + 70;
    const active = length - 1;
    const x = (position) => left + position * cell;
    const y = (layer) => 34 + (n_layer - layer) * high; // the stream that enters the layer; n_layer: what leaves the last
    const parts = [];
    const box = 10;
    for (let position = 0; position < positions; position++) {
      const seen = position < length;
      const fresh = step === 0 ? seen : position === active;
      const centre = x(position) + cell / 2;
      for (let layer = 0; layer <= n_layer; layer++) {
        if (layer < n_layer) {
          // keys and values stand between the stream that enters the layer and the one that leaves it
          const at = y(layer) - high * 0.36;
          if (fresh && seen) parts.push(draw("line", { class: "path", x1: centre, x2: centre, y1: y(layer), y2: y(layer + 1) }));
          const state = !seen ? "unseen" : fresh ? "computed" : "kept";
          parts.push(draw("rect", { class: `kv ${state}`, x: centre - cell * 0.36, y: at - 4, width: cell * 0.72, height: 8, rx: 2 }));
          if (seen && !fresh) {
            parts.push(draw("rect", { class: "kv read", x: centre - cell * 0.36, y: at - 4, width: cell * 0.72, height: 8, rx: 2, "--v": Math.sqrt(average(layer, step, position)) }));
          }
        }
        const state = !seen ? "unseen" : fresh ? "computed" : "gone";
        parts.push(draw("circle", { class: `stream ${state}`, cx: centre, cy: y(layer), r: Math.min(5, cell / 4) }));
      }
      const label = draw("foreignObject", { x: x(position), y: y(0) + 8, width: cell, height: labels });
      label.append(make("span", { class: `under ${seen ? "" : "unseen"} ${fresh ? "fresh" : ""}` }, seen ? token(ids[position]) : ""));
      parts.push(label);
    }
    const lines = [];
    for (let layer = 0; layer < n_layer; layer++) {
      for (let position = 0; position < active; position++) {
        const weight = average(layer, step, position);
        if (weight < 0.01) continue;
        lines.push(draw("line", {
          class: "reads", x1: x(position) + cell / 2, y1: y(layer) - high * 0.36 - 4, x2: x(active) + cell / 2, y2: y(layer + 1),
          "--v": Math.min(1, 0.15 + weight), "stroke-width": 0.75 + 3 * weight,
        }));
      }
      lines.push(draw("text", { class: "label", x: left - 8, y: y(layer) - high * 0.36 + 4, "text-anchor": "end" }, `layer ${layer}`));
    }
    lines.push(draw("text", { class: "label", x: left - 8, y: y(0) + 4, "text-anchor": "end" }, "embed"));
    const answer = draw("foreignObject", { x: Math.max(0, x(active) + cell / 2 - 80), y: 2, width: 160, height: 26 });
    answer.append(make("div", { class: "answer" }, token(told.token_ids[step])));
    picture.replaceChildren(
      draw(
        "svg",
        { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "steps", "aria-label": `Step ${step + 1}: ${step === 0 ? length : 1} of ${length} columns computed` },
        lines, parts, answer
      )
    );
    picture.scrollLeft = x(active) - picture.clientWidth / 2;
  }

  range.update();
  return () => drawPicture(told.prompt + step);
}
