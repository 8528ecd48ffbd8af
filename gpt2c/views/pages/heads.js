// Heads: who attends to whom, as lines.

// Colours that also differ for eyes that see red and green alike (after Okabe and Ito), in order of use.
const HEAD_COLOURS = ["#2b7bba", "#d9660a", "#0f9b74", "#c9609c", "#b98a00", "#3fa9dc", "#8468cf", "#7d7d7d"];
const headColour = (head) => HEAD_COLOURS[head % HEAD_COLOURS.length];
const dashed = (head) => Math.floor(head / HEAD_COLOURS.length) % 2 === 1; // where colours come again
// Lines of less than this share of the strongest are left out: of all tokens, of the token that is looked at.
const FAINTEST = { all: 0.5, one: 0.05 };

const layerOptions = () => attention.layers.map((layer) => [layer, `${layer}`]);
const headOptions = () => Array.from({ length: attention.heads }, (_, head) => [head, `${head}`]);

function headsView(panel) {
  let held = chosen.token === undefined ? null : { side: "asks", index: chosen.token }; // the token that was clicked
  let active = held; // the one that is looked at
  let rowHeight = 0;

  // Of a pair of sentences, A and B, those between which lines are drawn; null: between all.
  const { second } = data;
  let between = null;
  const sentence = (index) => (index < second ? "A" : "B");
  const within = (row, column) => !between || between === sentence(row) + sentence(column);
  const seen = (head, row, column) => (within(row, column) ? attention.weight(chosen.layer, head, row, column) : 0);
  const filter = second === undefined ? null : choice(
    t("Sentences"),
    [["", t("all")], ...["AA", "AB", "BA", "BB"].map((ends) => [ends, [...ends].join(" → ")])],
    "",
    (ends) => {
      between = ends || null;
      redraw();
    }
  );

  const layers = selection(t("Layer"), layerOptions(), (layer) => choose(layer, chosen.head, chosen.heads));
  layers.list.id = "heads-layer";
  const toggles = headOptions().map(([head]) =>
    make(
      "button",
      { type: "button", class: dashed(head) ? "head dashed" : "head", "--head": headColour(head), "data-head": head, "data-stop": true, "aria-label": t("Head {0}", head), onclick: () => toggle(head) },
      `${head}`
    )
  );
  const group = make("div", { class: "toggles", role: "group", "aria-label": t("Heads") }, make("span", {}, t("Heads")), toggles);
  roving(group);
  const every = make("button", { type: "button", onclick: () => choose(chosen.layer, chosen.head, headOptions().map(([head]) => head)) }, t("All"));
  const one = make("button", { type: "button", onclick: () => choose(chosen.layer, chosen.head) }, t("One"));

  function toggle(head) {
    const heads = new Set(chosen.heads);
    if (heads.has(head) && heads.size > 1) heads.delete(head);
    else heads.add(head);
    choose(chosen.layer, heads.has(head) ? head : [...heads].at(-1), heads);
  }

  const canvas = make("canvas", { "aria-hidden": "true" });
  const sides = ["asks", "answers"].map((side) => {
    const buttons = tokens.map((id, index) =>
      make(
        "button",
        {
          type: "button", class: "side-token", "data-stop": true, "data-index": index, "aria-pressed": "false",
          onmouseenter: () => look(side, index),
          onmouseleave: () => look(held?.side, held?.index),
          onfocus: () => look(side, index),
          onblur: () => look(held?.side, held?.index),
          onclick: () => {
            held = held && held.side === side && held.index === index ? null : { side, index };
            if (held && side === "asks") follow(index);
            look(held?.side, held?.index);
          },
        },
        token(id),
        make("span", { class: "share" })
      )
    );
    const list = make("div", { class: `side ${side}`, role: "group", "aria-label": side === "asks" ? t("Tokens that ask") : t("Tokens that answer") }, grouped(tokens, buttons));
    roving(list);
    return { list, buttons };
  });
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const left = make("p", { class: "note", id: "heads-left-out" });
  const board = make(
    "div",
    { class: "board" },
    make("span", { class: "side-name asks" }, t("asks (query)")),
    make("span"),
    make("span", { class: "side-name" }, t("answers (key, value)")),
    sides[0].list,
    canvas,
    sides[1].list
  );

  fill(panel, {}, [
    make("p", {}, t("Each token on the left asks; the lines go to the tokens that answer, the thicker the more weight."), hint(t("Point at a token, or move to it with the keyboard; a click keeps it."))),
    make("div", { class: "controls" }, layers.element, group, every, one, filter),
    filter && make("p", { class: "note" }, t("Sentence A has positions 0 to {0}, sentence B the rest. A → B shows the lines from queries in A to keys in B.", second - 1)),
    board,
    left,
    readout,
  ]);

  function look(side, index) {
    active = side === undefined ? null : { side, index };
    redraw();
  }

  // Pairs of the token that is looked at: [other token, weight], the strongest first.
  function partners(head) {
    const found = [];
    for (let other = 0; other < T; other++) {
      const weight = active.side === "asks"
        ? seen(head, active.index, other)
        : seen(head, other, active.index);
      if (weight > 0) found.push([other, weight]);
    }
    return found.sort((a, b) => b[1] - a[1]);
  }

  function tell() {
    const heads = [...chosen.heads].sort((a, b) => a - b);
    if (!active) {
      readout.replaceChildren(t("Layer {0}, {1}. No token is chosen.", chosen.layer, headsNamed(heads)));
      return;
    }
    const lines = heads.slice(0, 4).map((head) => {
      const found = partners(head);
      const parts = found.slice(0, 5).flatMap(([other, weight], i) => [i ? t(", ") : "", token(tokens[other]), ` ${percent(weight)}`]);
      const rest = found.slice(5).reduce((sum, [, weight]) => sum + weight, 0);
      if (rest) parts.push(make("span", { class: "rest" }, t("; {0} together {1}", plural(found.length - 5, "{0} other", "{0} others"), roughly(rest))));
      const others = parts.length ? parts : t("none");
      const said = active.side === "asks" ? mixed("head {0} attends to {1}", head, others) : mixed("head {0} is attended to by {1}", head, others);
      return make("span", { class: "told" }, make("i", { class: dashed(head) ? "dot dashed" : "dot", "--head": headColour(head) }), said);
    });
    readout.replaceChildren(make("b", {}, token(tokens[active.index]), t(" (position {0})", active.index)), ...lines);
  }

  // The largest weight of a token, as one that asks or that answers.
  const known = new Map();
  function largest(head, side, index) {
    const name = `${chosen.layer} ${head} ${side} ${index} ${between}`;
    if (!known.has(name)) known.set(name, findLargest(head, side, index));
    return known.get(name);
  }
  function findLargest(head, side, index) {
    let most = 0;
    for (let other = 0; other < T; other++) {
      const [row, column] = side === "asks" ? [index, other] : [other, index];
      most = Math.max(most, seen(head, row, column));
    }
    return most;
  }

  // Between the token that is looked at and another one, of the heads that are shown.
  function meanWeight(other) {
    const [row, column] = active.side === "asks" ? [active.index, other] : [other, active.index];
    return [...chosen.heads].reduce((sum, head) => sum + seen(head, row, column), 0) / chosen.heads.size;
  }

  function redraw() {
    rowHeight = T > 40 ? 24 : 26;
    if (printing()) rowHeight = Math.min(rowHeight, PAGE_HEIGHT / T);
    board.style.setProperty("--row", `${rowHeight}px`);
    const width = Math.max(60, canvas.parentElement.clientWidth - sides[0].list.offsetWidth - sides[1].list.offsetWidth);
    const context = sized(canvas, width, T * rowHeight);
    const middle = (index) => (index + 0.5) * rowHeight;
    const heads = [...chosen.heads].sort((a, b) => a - b);
    const line = (head, row, column, strength) => {
      const weight = seen(head, row, column);
      // Lines of several heads run side by side.
      const aside = (heads.indexOf(head) - (heads.length - 1) / 2) * Math.min(3, (0.6 * rowHeight) / heads.length);
      const [from, to] = [middle(row) + aside, middle(column) + aside];
      context.globalAlpha = Math.min(1, active ? 0.2 + 0.8 * Math.sqrt(weight) : 0.08 + 0.92 * weight) * strength;
      context.strokeStyle = headColour(head);
      context.lineWidth = 0.75 + 3.5 * weight;
      context.setLineDash(dashed(head) ? [7, 4] : []);
      context.beginPath();
      context.moveTo(0, from);
      context.bezierCurveTo(width * 0.4, from, width * 0.6, to, width, to);
      context.stroke();
    };
    let omitted = 0;
    for (const head of heads) {
      const most = active ? largest(head, active.side, active.index) : 0;
      for (let row = 0; row < T; row++) {
        const clear = FAINTEST.all * largest(head, "asks", row);
        const least = active ? FAINTEST.one * most : clear;
        for (let column = 0; column < (attention.causal ? row + 1 : T); column++) {
          const on = !active || (active.side === "asks" ? active.index === row : active.index === column);
          const weight = seen(head, row, column);
          if (on && weight >= least && weight > 0) line(head, row, column, 1);
          else if (on) omitted += weight > 0 ? 1 : 0;
          else if (weight >= clear && weight > 0) line(head, row, column, 0.12);
        }
      }
    }
    const of = active ? t("{0}% of the strongest line of the token", 100 * FAINTEST.one) : t("half of the strongest line of the same token");
    left.replaceChildren(
      omitted ? t("Not drawn: {0} with less weight than {1}.", plural(omitted, "{0} line", "{0} lines"), of) + t(" ") : "",
      untold(chosen.layer)
    );
    sides.forEach(({ buttons }, i) => {
      const mine = active && (active.side === "asks") === (i === 0);
      const shares = buttons.map((_, index) => (active && !mine ? meanWeight(index) : 0));
      const strongest = Math.max(...shares);
      buttons.forEach((button, index) => {
        const share = shares[index];
        button.style.setProperty("--v", share);
        button.classList.toggle("active", Boolean(mine && active.index === index));
        const pressed = Boolean(held && (held.side === "asks") === (i === 0) && held.index === index);
        button.setAttribute("aria-pressed", `${pressed}`);
        button.lastChild.textContent = share && share >= FAINTEST.one * strongest ? roughly(share) : "";
      });
    });
    tell();
  }

  let followed = chosen.token;
  function update() {
    layers.list.value = chosen.layer;
    if (chosen.token !== followed) {
      followed = chosen.token;
      active = held = { side: "asks", index: followed };
    }
    for (const button of toggles) button.setAttribute("aria-pressed", `${chosen.heads.has(Number(button.dataset.head))}`);
    if (!panel.hidden) redraw();
  }
  watchers.push(update);
  update();
  return redraw;
}
