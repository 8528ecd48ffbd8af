// The map: the whole model in the order of its parts, as the navigation of the page, with where you are.

const map = (() => {
  const { n_layer, n_head } = data.model;
  const nav = make("nav", { class: "map", "aria-label": t("Map of the model") });
  const where = make("span", { id: "here" });
  const here = make("p", { class: "here" }, where, make("button", { type: "button", onclick: toMap }, t("To the map")));
  const stops = []; // { element, is(view, step) }
  let view = "walk";
  let step = STEPS[0][0];
  let go = () => {}; // page.js says how a part is opened
  const telling = data.gallery && unpacked(data.gallery.telling);

  // Steps of the walk inside a head; other views that show the chosen head, or all layers.
  const HEAD_STEPS = ["projections", "products", "attention", "values", "all-heads"];
  const HEAD_VIEWS = ["heads", "scores"];
  const inHead = () => (view === "walk" ? HEAD_STEPS.includes(step) : HEAD_VIEWS.includes(view));
  const inStep = (...names) => view === "walk" && names.includes(step);

  function stop(text, kind, is, attributes) {
    const element = make("button", { type: "button", class: `part ${kind}`, "data-stop": true, ...attributes }, text);
    stops.push({ element, is });
    return element;
  }

  const place = (text, name, is) => stop(text, "wide", is ?? (() => inStep(name)), { "data-part": name, onclick: () => go(name) });
  const arrow = () => make("span", { class: "arrow", "aria-hidden": "true" }, "→");

  function layerBox(layer) {
    const cells = Array.from({ length: n_head }, (_, head) =>
      stop(`${head}`, "cell-head", () => layer === chosen.layer && inHead() && chosen.heads.has(head), {
        "data-layer": layer,
        "data-head": head,
        "aria-label": t("Layer {0}, head {1}", layer, head),
        "--v": telling[layer * n_head + head],
        onclick: () => go("attention", layer, head),
      })
    );
    const feed = stop(t("feed-forward"), "feed", () => layer === chosen.layer && inStep("feed-forward"), {
      "data-part": "feed-forward",
      "aria-label": t("Layer {0}, feed-forward", layer),
      onclick: () => go("feed-forward", layer, chosen.head),
    });
    return make(
      "div",
      { class: "layer", role: "group", "aria-label": t("Layer {0}", layer), "data-layer": layer },
      make("span", { class: "layer-name", "aria-hidden": "true" }, n_layer > 1 ? t("layer {0}", layer) : t("layer")),
      make("div", { class: "layer-heads" }, cells),
      feed
    );
  }

  // What is behind the last layer.
  function ends() {
    if (bert) return data.candidates ? [place(t("head, logits"), "logits", () => inStep("logits") || ["lens", "masks"].includes(view))] : [];
    return [
      place(t("LayerNorm, logits"), "logits", () => inStep("logits") || view === "lens"), arrow(),
      place(t("next token"), "sampling", () => inStep("sampling") || ["generation", "search"].includes(view)),
    ];
  }

  // Arrow keys go to the nearest part in their direction.
  function nearest(from, key) {
    const middle = (element) => {
      const box = element.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const [x, y] = middle(from);
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
    let best = null;
    let least = Infinity;
    for (const { element } of stops) {
      const [a, b] = middle(element);
      const [ahead, aside] = [(a - x) * dx + (b - y) * dy, Math.abs((a - x) * dy) + Math.abs((b - y) * dx)];
      if (element === from || ahead < 2 || ahead + 2 * aside >= least) continue;
      least = ahead + 2 * aside;
      best = element;
    }
    return best;
  }

  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.matches("[data-stop]")) return;
    const ends = { Home: stops[0], End: stops.at(-1) };
    const to = event.key.startsWith("Arrow") ? nearest(event.target, event.key) : ends[event.key]?.element;
    if (!event.key.startsWith("Arrow") && !to) return;
    event.preventDefault();
    if (!to) return;
    enter(to);
    to.focus();
  }
  function toMap() {
    scrollTo({ top: 0 });
    nav.querySelector("[tabindex='0']").focus();
  }
  const enter = (to) => stops.forEach(({ element }) => (element.tabIndex = element === to ? 0 : -1));

  function update() {
    const name = STEPS.find((one) => one[0] === step)[1];
    const number = STEPS.findIndex((one) => one[0] === step) + 1;
    const seen = view === "walk" ? t("step {0} of the walk: {1}", number, name) : document.getElementById(`tab-${view}`).textContent;
    const head = inHead() || (view === "walk" && inStep("norm", "feed-forward"));
    const inside = inHead() ? t("layer {0}, {1}", chosen.layer, headsNamed([...chosen.heads])) : t("layer {0}", chosen.layer);
    where.replaceChildren(...mixed("You are here: {0}", make("b", {}, seen)), head ? ` · ${inside}` : "");
    let current = null;
    for (const { element, is } of stops) {
      const on = is();
      if (on) element.setAttribute("aria-current", "location");
      else element.removeAttribute("aria-current");
      if (on && !current) current = element;
    }
    for (const box of nav.querySelectorAll(".layer")) box.classList.toggle("current", Number(box.dataset.layer) === chosen.layer);
    // The part where one is stays in sight of a map that is wider than the screen.
    const box = (current ?? nav.querySelector(".layer.current"))?.closest(".layer, .part");
    if (box) nav.scrollTo({ left: box.offsetLeft - (nav.clientWidth - box.offsetWidth) / 2 });
    if (current && !nav.contains(document.activeElement)) enter(current);
  }

  if (data.walk) {
    nav.style.setProperty("--columns", Math.ceil(n_head / 6));
    nav.append(
      place(t("tokens"), "tokens", () => inStep("tokens") || view === "text"), arrow(),
      place(t("embedding"), "embedding"), arrow(),
      ...Array.from({ length: n_layer }, (_, layer) => layerBox(layer)), ...(bert && !data.candidates ? [] : [arrow()]),
      ...ends()
    );
    nav.addEventListener("keydown", keys);
    nav.addEventListener("focusin", (event) => event.target.matches("[data-stop]") && enter(event.target));
    enter(stops[0].element);
    watchers.push(update);
  }

  return {
    nav: data.walk ? nav : null,
    here: data.walk ? here : null,
    // Say where the reader is: a step of the walk, or another view.
    at(name) {
      step = name;
      update();
    },
    in(name) {
      view = name;
      update();
    },
    opens(how) {
      go = how;
    },
  };
})();
