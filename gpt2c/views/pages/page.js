// The frame of the page: what made it, the tabs, and when to draw.

(function start() {
  const { model, version } = data;
  const views = [
    ["walk", "Walk", walkView, Boolean(data.walk)],
    ["masks", "Masks", masksView, Boolean(data.sides)],
    ["cross", "Cross-attention", crossView, Boolean(data.cross)],
    ["gallery", "Gallery", galleryView, Boolean(data.gallery)],
    ["heads", "Heads", headsView, true],
    ["overview", "All heads", overviewView, true],
    ["scores", data.walk ? "Scores" : "Matrix", scoresView, true],
    ["lens", "Logit lens", lensView, Boolean(data.lens)],
    ["text", "Text", textView, Boolean(data.walk)],
    ["generation", "Generation", generationView, Boolean(data.generation)],
    ["search", "Search", searchView, Boolean(data.search)],
  ].filter((view) => view[3]);

  document.getElementById("top").append(
    ...(data.gallery ? [make("p", { class: "brand" }, "gpt2c explain")] : []),
    make("h1", {}, ...(data.source === undefined ? [] : [make("bdi", {}, visible(data.source, false)), " → "]), make("bdi", {}, visible(data.text, false))),
    make(
      "p",
      { class: "made" },
      `${model.name} · ${plural(model.n_layer, "layer")} of ${plural(model.n_head, "head")}, ${model.n_embd} wide, vocabulary of ${whole(model.n_vocab)} · ${model.dtype} · ${plural(T, "token")}`
    ),
    ...(data.edits ? [editsNote(data.edits.told)] : [])
  );
  const told = data.attention;
  const roughError = (x) => `${Number(x.toPrecision(1))}`;
  const layers = told.layers.length === model.n_layer ? "" : ` Attention is told for ${told.layers.length === 1 ? "layer" : "layers"} ${told.layers.join(", ")} only.`;
  const kept = told.kept ? ` Of each token, only the ${told.kept} largest weights are told.` : "";
  const walked = data.walk ? `queries, keys and values of the walk to ±${roughError(numbers.error)}; ` : "";
  document.getElementById("foot").append(
    make(
      "p",
      {},
      `Made by gpt2c ${version} (arithmetic ${model.numerics}). Attention weights stand in this page with ${told.bits} bits each: right to ±${roughError(attention.error)}, small ones to ${roughly(Math.expm1(attention.error / told.knee), 1)} of themselves${attention.score ? `; scores behind the mask to ±${roughError(attention.hiddenError)}` : ""}; ${walked}all other numbers are the model's float32.${layers}${kept} Layers, heads and positions are counted from 0.`
    )
  );

  function editsNote(told) {
    return make(
      "div",
      { class: "edited", role: "note" },
      make("p", {}, `This is not the model as it is: ${told.length === 1 ? "an edit changes" : "edits change"} what it computes. An edited value does not follow from those before it; what comes after follows from it.`),
      make("ul", {}, told.map((one) => make("li", {}, make("code", {}, visible(one, false)))))
    );
  }

  const list = make("div", { role: "tablist", "aria-label": "Views", class: "tabs" });
  const main = document.getElementById("main");
  const open = {};
  const built = {};

  for (const [id, name] of views) {
    const tab = make("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, "aria-selected": "false", "data-stop": true, onclick: () => show(id) }, name);
    const panel = make("section", { role: "tabpanel", id: `panel-${id}`, class: "panel", "aria-labelledby": `tab-${id}`, hidden: true }, make("h2", {}, name));
    list.append(tab);
    open[id] = { tab, panel };
  }
  main.append(...[map.nav].filter(Boolean), make("div", { class: "guide sticky" }, map.here, list), ...views.map(([id]) => open[id].panel));

  function build(id) {
    built[id] ??= views.find((view) => view[0] === id)[2](open[id].panel, show);
    return built[id];
  }

  function show(id) {
    for (const [other, { tab, panel }] of Object.entries(open)) {
      const on = other === id;
      panel.hidden = !on;
      tab.setAttribute("aria-selected", `${on}`);
      tab.tabIndex = on ? 0 : -1;
    }
    const { tab } = open[id];
    list.scrollTo({ left: tab.offsetLeft - (list.clientWidth - tab.offsetWidth) / 2 });
    build(id)();
    if (data.walk) map.in(id);
  }

  // A part of the map was chosen: a head is shown by the view that is open, if it shows heads.
  map.opens((step, layer, head) => {
    if (layer !== undefined) choose(layer, head);
    const seen = Object.keys(open).find((id) => !open[id].panel.hidden);
    if (step === "attention" && (seen === "heads" || seen === "scores") && attention.has(layer)) return;
    if (seen !== "walk") show("walk");
    open.walk.panel.dispatchEvent(new CustomEvent("go", { detail: step }));
  });

  roving(list);
  list.addEventListener("focusin", (event) => {
    const id = event.target.id.replace("tab-", "");
    if (open[id]?.panel.hidden) show(id);
  });

  const redraw = () => {
    for (const [id, { panel }] of Object.entries(open)) if (!panel.hidden) build(id)();
  };
  let width = main.clientWidth;
  new ResizeObserver(() => {
    if (main.clientWidth === width || printing()) return;
    width = main.clientWidth;
    requestAnimationFrame(redraw);
  }).observe(main);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // On paper all views stand one below the other, in light colours.
  let before = views[0][0];
  addEventListener("beforeprint", () => {
    before = Object.keys(open).find((id) => !open[id].panel.hidden);
    document.documentElement.classList.add("printing");
    for (const { panel } of Object.values(open)) panel.hidden = false;
    for (const [id] of views) build(id)();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    show(before);
  });

  const wanted = location.hash.slice(1);
  show(open[wanted] ? wanted : views[0][0]);
  document.documentElement.classList.add("ready");
})();
