// Heads: who attends to whom, as lines. All heads: one small picture each.

// Colours that also differ for eyes that see red and green alike (after Okabe and Ito), in order of use.
const HEAD_COLOURS = ["#2b7bba", "#d9660a", "#0f9b74", "#c9609c", "#b98a00", "#3fa9dc", "#8468cf", "#7d7d7d"];
const headColour = (head) => HEAD_COLOURS[head % HEAD_COLOURS.length];
const dashed = (head) => Math.floor(head / HEAD_COLOURS.length) % 2 === 1; // where colours come again
const FAINTEST = 0.02; // lines of less weight are left out

const layerOptions = () => attention.layers.map((layer) => [layer, `${layer}`]);
const headOptions = () => Array.from({ length: attention.heads }, (_, head) => [head, `${head}`]);

function headsView(panel) {
  let active = null; // the token that is looked at: { side, index }
  let held = null; // the one that was clicked
  let rowHeight = 0;

  const layers = selection("Layer", layerOptions(), (layer) => choose(layer, chosen.head, chosen.heads));
  layers.list.id = "heads-layer";
  const toggles = headOptions().map(([head]) =>
    make(
      "button",
      { type: "button", class: dashed(head) ? "head dashed" : "head", "--head": headColour(head), "data-head": head, "data-stop": true, "aria-label": `Head ${head}`, onclick: () => toggle(head) },
      `${head}`
    )
  );
  const group = make("div", { class: "toggles", role: "group", "aria-label": "Heads" }, make("span", {}, "Heads"), toggles);
  roving(group);
  const every = make("button", { type: "button", onclick: () => choose(chosen.layer, chosen.head, headOptions().map(([head]) => head)) }, "All");
  const one = make("button", { type: "button", onclick: () => choose(chosen.layer, chosen.head) }, "One");

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
            look(side, index);
          },
        },
        token(id),
        make("span", { class: "share" })
      )
    );
    const list = make("div", { class: `side ${side}`, role: "group", "aria-label": side === "asks" ? "Tokens that ask" : "Tokens that answer" }, grouped(tokens, buttons));
    roving(list);
    return { list, buttons };
  });
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const board = make(
    "div",
    { class: "board" },
    make("span", { class: "side-name asks" }, "asks (query)"),
    make("span"),
    make("span", { class: "side-name" }, "answers (key, value)"),
    sides[0].list,
    canvas,
    sides[1].list
  );

  panel.append(
    make("p", {}, "Each token on the left asks; the lines go to the tokens that answer, the thicker the more weight.", hint("Point at a token, or move to it with the keyboard; a click keeps it.")),
    make("div", { class: "controls" }, layers.element, group, every, one),
    board,
    readout
  );

  function look(side, index) {
    active = side === undefined ? null : { side, index };
    redraw();
  }

  // Pairs of the token that is looked at: [other token, weight], the strongest first.
  function partners(head) {
    const found = [];
    for (let other = 0; other < T; other++) {
      const weight = active.side === "asks"
        ? attention.weight(chosen.layer, head, active.index, other)
        : attention.weight(chosen.layer, head, other, active.index);
      if (weight > 0) found.push([other, weight]);
    }
    return found.sort((a, b) => b[1] - a[1]);
  }

  function tell() {
    const heads = [...chosen.heads].sort((a, b) => a - b);
    if (!active) {
      readout.replaceChildren(`Layer ${chosen.layer}, ${heads.length === 1 ? "head" : "heads"} ${heads.join(", ")}. No token is chosen.`);
      return;
    }
    const verb = active.side === "asks" ? " attends to " : " is attended to by ";
    const lines = heads.slice(0, 4).map((head) => {
      const parts = partners(head).slice(0, 5).flatMap(([other, weight], i) => [i ? ", " : "", token(tokens[other]), ` ${percent(weight)}`]);
      return make("span", { class: "told" }, make("i", { class: dashed(head) ? "dot dashed" : "dot", "--head": headColour(head) }), `head ${head}`, verb, ...(parts.length ? parts : ["none"]));
    });
    readout.replaceChildren(make("b", {}, token(tokens[active.index]), ` (position ${active.index})`), ...lines);
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
      const weight = attention.weight(chosen.layer, head, row, column);
      if (weight < FAINTEST) return;
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
    for (const head of heads) {
      for (let row = 0; row < T; row++) {
        for (let column = 0; column < (attention.causal ? row + 1 : T); column++) {
          const on = !active || (active.side === "asks" ? active.index === row : active.index === column);
          if (on) line(head, row, column, 1);
          else if (T <= 40) line(head, row, column, 0.12);
        }
      }
    }
    sides.forEach(({ buttons }, i) => {
      const mine = active && (active.side === "asks") === (i === 0);
      buttons.forEach((button, index) => {
        let share = 0;
        if (active && !mine) {
          for (const head of chosen.heads) {
            const [row, column] = active.side === "asks" ? [active.index, index] : [index, active.index];
            share += attention.weight(chosen.layer, head, row, column) / chosen.heads.size;
          }
        }
        button.style.setProperty("--v", share);
        button.classList.toggle("active", Boolean(mine && active.index === index));
        const pressed = Boolean(held && (held.side === "asks") === (i === 0) && held.index === index);
        button.setAttribute("aria-pressed", `${pressed}`);
        button.lastChild.textContent = share >= 0.005 ? roughly(share) : "";
      });
    });
    tell();
  }

  function update() {
    layers.list.value = chosen.layer;
    for (const button of toggles) button.setAttribute("aria-pressed", `${chosen.heads.has(Number(button.dataset.head))}`);
    if (!panel.hidden) redraw();
  }
  watchers.push(update);
  update();
  return redraw;
}

function overviewView(panel, open) {
  const grid = make("div", { class: "overview", role: "group", "aria-label": "All heads", "--columns": attention.heads });
  const pictures = [];
  grid.append(make("span", { class: "corner", "aria-hidden": "true" }));
  for (let head = 0; head < attention.heads; head++) grid.append(make("span", { class: "across", "aria-hidden": "true" }, `${head}`));
  for (const layer of attention.layers) {
    grid.append(make("span", { class: "down", "aria-hidden": "true" }, `${layer}`));
    for (let head = 0; head < attention.heads; head++) {
      const canvas = make("canvas", { width: T, height: T, "aria-hidden": "true", class: T > 48 ? "" : "pixels" });
      const button = make(
        "button",
        {
          type: "button", class: "thumb", "data-stop": true, "data-layer": layer, "data-head": head,
          "aria-label": `Layer ${layer}, head ${head}`,
          onclick: () => {
            choose(layer, head);
            open("heads");
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
    let [before, first, itself] = [0, 0, 0];
    for (let row = 1; row < T; row++) {
      before += attention.weight(layer, head, row, row - 1);
      first += attention.weight(layer, head, row, 0);
      itself += attention.weight(layer, head, row, row);
    }
    const mean = (sum) => roughly(sum / Math.max(1, T - 1));
    readout.replaceChildren(
      make("b", {}, `Layer ${layer}, head ${head}`),
      T > 1 ? ` · on average ${mean(itself)} to the token itself, ${mean(before)} to the one before, ${mean(first)} to the first` : ""
    );
  }

  panel.append(
    make("p", {}, "One picture for each head: rows ask, columns answer, as in the score matrix; layers go down, heads across. Strong colour is much weight (its square root).", hint("A click opens the head.")),
    make("div", { class: "scroll wide" }, grid),
    readout
  );

  function redraw() {
    const [red, green, blue] = colour("--heat-rgb").split(" ").map(Number);
    for (const { canvas, layer, head, button } of pictures) {
      const context = canvas.getContext("2d");
      const image = context.createImageData(T, T);
      for (let row = 0; row < T; row++) {
        for (let column = 0; column < T; column++) {
          const alpha = Math.sqrt(attention.weight(layer, head, row, column));
          image.data.set([red, green, blue, Math.round(255 * alpha)], 4 * (row * T + column));
        }
      }
      context.putImageData(image, 0, 0);
      button.classList.toggle("current", layer === chosen.layer && chosen.heads.has(head));
    }
  }
  watchers.push(() => !panel.hidden && redraw());
  tell(chosen.layer, chosen.head);
  return redraw;
}
