// The end of the walk: logits over the vocabulary, and the next token drawn from them.

const SAMPLED = 10; // tokens that are shown by name

// What temperature, top k and top p make of the logits of one token: probabilities of the candidates, of all
// others together, and how many are kept. In the order of gpt2c.generate: temperature, top k, top p.
function distribution(ids, logits, restOf, sampling) {
  const count = ids.length;
  if (sampling.temperature === 0) return { p: Array.from(ids, (_, i) => (i === 0 ? 1 : 0)), rest: 0, kept: 1 };
  const kept = sampling.topK === 0 ? count : Math.min(sampling.topK, count);
  const temperature = data.walk.temperatures[sampling.temperature - 1];
  const top = logits[0] / temperature;
  const powers = Array.from(logits, (logit, i) => (i < kept ? Math.exp(logit / temperature - top) : 0));
  let rest = sampling.topK === 0 ? Math.exp(restOf(sampling.temperature - 1) - top) : 0;
  let sum = powers.reduce((a, b) => a + b, rest);
  let nucleus = kept;
  if (sampling.topP < 1) {
    let reached = 0;
    nucleus = 0;
    while (nucleus < kept && reached < sampling.topP * sum) reached += powers[nucleus++];
    const beyond = reached < sampling.topP * sum; // it ends among tokens that the page does not name
    powers.fill(0, nucleus);
    rest = beyond ? sampling.topP * sum - reached : 0;
    sum = reached + rest;
  }
  return { p: powers.map((x) => x / sum), rest: rest / sum, kept: nucleus, more: rest > 0 };
}

function nextToken() {
  const told = data.walk;
  const { n_vocab } = data.model;
  const { n } = numbers;
  const candidates = Object.fromEntries(Object.entries(told.candidates).map(([name, array]) => [name, unpacked(array)]));
  const count = candidates.ids.length / n;
  const steps = told.temperatures.length;
  const sampling = { temperature: 10, topK: 0, topP: 1 };

  const of = (at) => ({
    ids: candidates.ids.subarray(at * count, (at + 1) * count),
    logits: candidates.logits.subarray(at * count, (at + 1) * count),
    restOf: (step) => candidates.rest[at * steps + step],
  });

  const notes = (id, next) =>
    [id === next ? t("is next in the text") : "", data.ends.includes(id) ? t("would end the text") : ""].filter(Boolean).join(" · ");

  // The largest logits of the followed token.
  function logits() {
    const { ids, logits } = of(numbers.at());
    const rows = [...ids.subarray(0, SAMPLED)].map((id, i) =>
      make("tr", {}, make("th", { scope: "row" }, token(id)), make("td", { class: "number" }, fixed(logits[i])), make("td", { class: "number" }, t("row {0}", whole(id))))
    );
    return make(
      "table",
      { class: "plain numbers", id: "walk-logits" },
      make("caption", {}, t("The {0} largest of {1} logits", rows.length, whole(n_vocab))),
      make("thead", {}, make("tr", {}, [t("token"), t("logit"), t("of the table")].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, rows)
    );
  }

  function sampler() {
    const chart = make("div", { class: "distribution" });
    const note = make("p", { class: "note", id: "walk-kept" });
    const result = make("p", { class: "drawn", "aria-live": "polite" });
    const { ids, logits, restOf } = of(numbers.at());
    const next = tokens[numbers.shown[numbers.at()] + 1];

    function redraw() {
      const { p, rest, kept, more } = distribution(ids, logits, restOf, sampling);
      const rows = [...ids.subarray(0, SAMPLED)].map((id, i) => ({ id, p: p[i], kind: i >= kept ? "removed" : "", note: notes(id, next) }));
      const between = p.slice(rows.length).reduce((a, b) => a + b, 0);
      rows.push({ name: t("all others"), p: Math.max(0, between + rest), kind: "others", note: plural(n_vocab - rows.length, "{0} token", "{0} tokens") });
      chart.replaceChildren(bars(rows, t("Probability of the next token")));
      note.textContent = saysKept(kept, more);
    }
    function saysKept(kept, more) {
      if (sampling.temperature === 0) return t("Temperature 0 takes the token with the largest logit: nothing is drawn.");
      if (!more) return t("{0} can be drawn; the others are left out.", plural(kept, "{0} token", "{0} tokens"));
      if (sampling.topP < 1) return t("Top p keeps more than the {0} tokens that this page has the logits of, so the probabilities are right to about {1} of themselves.", count, percent(distribution(ids, logits, restOf, sampling).p.at(-1)));
      return t("All {0} tokens can be drawn.", whole(n_vocab));
    }

    const temperature = slider(t("Temperature"), { min: 0, max: steps, value: sampling.temperature, id: "walk-temperature" }, (value) => {
      sampling.temperature = value;
      redraw();
      return value === 0 ? t("0: always the first") : told.temperatures[value - 1].toFixed(1);
    });
    const topK = slider(t("Top k"), { min: 1, max: count + 1, value: sampling.topK || count + 1, id: "walk-top-k" }, (value) => {
      sampling.topK = value > count ? 0 : value;
      redraw();
      return value > count ? t("all {0}", whole(n_vocab)) : `${value}`;
    });
    const topP = slider(t("Top p"), { min: 1, max: 20, value: Math.round(20 * sampling.topP), id: "walk-top-p" }, (value) => {
      sampling.topP = value / 20;
      redraw();
      return value === 20 ? t("1: off") : sampling.topP.toFixed(2);
    });
    for (const one of [temperature, topK, topP]) one.update();
    const drawOne = make("button", { type: "button", id: "walk-draw" }, t("Draw one"));
    drawOne.addEventListener("click", () => {
      const { p } = distribution(ids, logits, restOf, sampling);
      let left = Math.random();
      const i = p.findIndex((x) => (left -= x) < 0);
      const ends = i >= 0 && data.ends.includes(ids[i]);
      const drawn = i < 0 ? t("one of the others") : token(ids[i]);
      result.replaceChildren(...(ends ? mixed("Drawn: {0}, which ends the text", drawn) : mixed("Drawn: {0}", drawn)));
    });
    return [make("div", { class: "controls" }, temperature.element, topK.element, topP.element, drawOne, result), chart, note];
  }

  return { logits, sampler };
}
