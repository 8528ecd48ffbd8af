// The frame of the page: what made it, the tabs, and when to draw.

(function start() {
  const { model, version } = data;
  const name = model.name === "the bundled model" ? t("the bundled model") : model.name;
  const views = [
    ["masks", t("Masks"), masksView, bert],
    ["walk", t("Walk"), walkView, Boolean(data.walk)],
    ["cross", t("Cross-attention"), crossView, Boolean(data.cross)],
    ["gallery", t("Gallery"), galleryView, Boolean(data.gallery)],
    ["heads", t("Heads"), headsView, true],
    ["overview", t("All heads"), overviewView, true],
    ["scores", data.walk && !bert ? t("Scores") : t("Matrix"), scoresView, true],
    ["lens", t("Logit lens"), lensView, Boolean(data.lens)],
    ["text", t("Text"), textView, data.scores !== undefined],
    ["generation", t("Generation"), generationView, Boolean(data.generation)],
    ["search", t("Search"), searchView, Boolean(data.search)],
  ].filter((view) => view[3]);

  document.getElementById("top").append(
    ...(data.gallery ? [make("p", { class: "brand" }, "gpt2c explain")] : []),
    make("h1", {}, ...(data.source === undefined ? [] : [make("bdi", {}, visible(data.source, false)), " → "]), make("bdi", {}, visible(data.text, false))),
    make(
      "p",
      { class: "made" },
      [name, shape(), model.dtype, plural(T, "{0} token", "{0} tokens")].join(" · ")
    ),
    ...(data.edits ? [editsNote(data.edits.told)] : [])
  );
  function shape() {
    const [layers, heads] = [plural(model.n_layer, "{0} layer", "{0} layers"), plural(model.n_head, "{0} head", "{0} heads")];
    return t("{0} of {1}, {2} wide, vocabulary of {3}", layers, heads, model.n_embd, whole(model.n_vocab));
  }

  const told = data.attention;
  const roughError = (x) => `${Number(x.toPrecision(1))}`;
  const precision = [
    t("This page stores each attention weight in {0} bits: accurate to ±{1}, small ones to {2} of their value", told.bits, roughError(attention.error), roughly(Math.expm1(attention.error / told.knee), 1)),
    attention.score ? t("scores behind the mask to ±{0}", roughError(attention.hiddenError)) : null,
    data.walk ? t("queries, keys and values of the walk to ±{0}", roughError(numbers.error)) : null,
    t("all other numbers are the model's float32."),
  ];
  const sentences = [
    t("Made by gpt2c {0} (arithmetic {1}).", version, model.numerics),
    precision.filter(Boolean).join(t("; ")),
    told.layers.length === model.n_layer ? null : t("Attention is kept for {0} only.", layersNamed(told.layers)),
    told.kept ? t("Of each token, only the {0} largest weights are kept.", told.kept) : null,
    t("Layers, heads and positions are counted from 0."),
  ];
  document.getElementById("foot").append(
    make("p", {}, sentences.filter(Boolean).join(t(" ")))
  );

  function editsNote(told) {
    return make(
      "div",
      { class: "edited", role: "note" },
      make("p", {}, [
        told.length === 1 ? t("This is not the model as it is: an edit changes what it computes.") : t("This is not the model as it is: edits change what it computes."),
        t("An edited value does not follow from those before it; what comes after follows from it."),
      ].join(t(" "))),
      make("ul", {}, told.map((one) => make("li", {}, make("code", {}, visible(one, false)))))
    );
  }

  const list = make("div", { role: "tablist", "aria-label": t("Views"), class: "tabs" });
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
