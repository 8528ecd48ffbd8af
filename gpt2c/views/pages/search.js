// The tree of a beam search, and what greedy decoding finds beside it.

const WIDEST = 240; // CSS pixels of a box

function searchView(panel) {
  const told = data.search;
  const best = told.found[0];
  const same = (a, b) => a.length === b.length && a.every((id, i) => id === b[i]);
  const begins = (path, ids) => path.every((id, i) => id === ids[i]);

  // Nodes by their path of tokens; the root is the text itself.
  const root = { ids: [], children: [], depth: 0 };
  const known = new Map([["", root]]);
  told.steps.forEach((branches, depth) => {
    for (const branch of branches) {
      const parent = known.get(branch.ids.join(" "));
      if (!parent) continue;
      for (const candidate of branch.candidates) {
        const node = { ...candidate, ids: [...branch.ids, candidate.id], children: [], depth: depth + 1, parent };
        node.lives = Boolean(candidate.fate);
        parent.children.push(node);
        if (node.lives) known.set(node.ids.join(" "), node);
      }
    }
  });

  // Greedy decoding can go where the search has dropped a text.
  let greedy = root;
  told.greedy.ids.forEach((id, i) => {
    let child = greedy.children.find((node) => node.id === id);
    if (!child) {
      child = { id, logprob: told.greedy.logprobs[i], ids: [...greedy.ids, id], children: [], depth: i + 1, parent: greedy, outside: true };
      greedy.children.push(child);
    }
    greedy = child;
  });

  const [gap, high, left] = [20, 28, 64];
  // A column for each step: below each other in the order of where they come from, the best first.
  const order = (node) => (begins(node.ids, best.ids) ? 0 : begins(node.ids, told.greedy.ids) ? 1 : node.lives ? 2 : 3);
  const columns = [[root]];
  while (columns.at(-1).length) {
    columns.push(columns.at(-1).flatMap((node) => [...node.children].sort((a, b) => order(a) - order(b))));
  }
  // Boxes are as wide as the longest token of their column needs, since others may begin alike.
  const ruler = make("canvas").getContext("2d");
  ruler.font = `13px ${colour("--mono")}`;
  const lengthOf = (text) => ruler.measureText(text).width;
  const placeOf = (node) => told.found.findIndex((result) => same(result.ids, node.ids));
  const widthOf = (node) =>
    lengthOf(token(node.id).textContent) + 0.8 * lengthOf(percent(Math.exp(node.logprob))) + (placeOf(node) < 0 ? 26 : 42);
  let right = 0;
  columns.forEach((column, depth) => {
    const width = depth ? Math.ceil(Math.min(WIDEST, Math.max(...column.map(widthOf)))) : left - gap;
    column.forEach((node, row) => Object.assign(node, { x: right, y: row * high + high / 2, width }));
    if (column.length) right += width + gap;
  });
  const nodes = columns.flat();

  const kindOf = (node) => {
    const kinds = [];
    if (node.lives || node === root) kinds.push("lives");
    if (begins(node.ids, best.ids)) kinds.push("best");
    if (begins(node.ids, told.greedy.ids)) kinds.push("greedy");
    if (node.fate === "ended") kinds.push("ended");
    return kinds.join(" ");
  };
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  // The tokens of a path with their borders: the same text may be cut in several ways.
  const path = (ids) => make("span", { class: "way" }, reading(ids));

  // What is not drawn of the tokens that could follow.
  function unseen(node) {
    const shown = node.children.filter((child) => !child.outside);
    if (!shown.length) return "";
    const p = shown.reduce((sum, child) => sum + Math.exp(child.logprob), 0);
    return t("Of {0} tokens that could follow, {1} are drawn; the others have {2} together.", whole(data.model.n_vocab), shown.length, percent(Math.max(0, 1 - p)));
  }

  function fateOf(node) {
    if (node.outside) return t("greedy decoding only: the search does not go here");
    if (node.fate === "ended") return t("the text ends here");
    return node.lives ? t("kept: no. {0} of its step", Number(node.fate.split(" ")[1]) + 1) : t("not among the best: dropped");
  }

  // The whole path to the node is highlighted: boxes with the same token differ by what stands before.
  function tell(node) {
    for (const one of nodes) {
      for (const element of [one.button, one.line]) element?.classList.toggle("lit", node !== root && begins(one.ids, node.ids));
    }
    if (node === root) {
      readout.replaceChildren(t("The text itself: the search goes on from here."), t(" "), unseen(node));
      return;
    }
    readout.replaceChildren(
      path(node.ids),
      make(
        "span",
        { class: "told" },
        mixed("step {0}: probability {1}", node.depth, make("b", { "data-number": "probability" }, percent(Math.exp(node.logprob)))), " · ",
        ...(node.score === undefined ? [] : [mixed("joint log-probability {0} ({1})", make("b", { "data-number": "joint" }, fixed(node.score, 3)), percent(Math.exp(node.score))), " · "]),
        fateOf(node)
      ),
      make("span", { class: "told" }, unseen(node))
    );
  }

  const height = Math.max(...columns.map((column) => column.length)) * high;
  const width = right;
  const lines = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const tree = make("div", { class: "tree", role: "group", "aria-label": t("Search tree"), "--width": `${width}px`, "--height": `${height}px`, "--fit": Math.min(0.62, 690 / width).toFixed(3) }, lines);
  // In order of drawing: what matters lies on top.
  for (const node of [...nodes].sort((a, b) => kindOf(a).length - kindOf(b).length)) {
    if (node === root) continue;
    const from = node.parent.x + node.parent.width;
    const middle = (from + node.x) / 2;
    node.line = draw("path", { class: kindOf(node), d: `M${from} ${node.parent.y} C${middle} ${node.parent.y} ${middle} ${node.y} ${node.x} ${node.y}` });
    lines.append(node.line);
  }
  for (const node of nodes) {
    const place = placeOf(node);
    const number = place < 0 ? null : make("b", { class: "place", "aria-hidden": "true" }, `${place + 1}`);
    const face = node === root ? [t("text")] : [token(node.id), make("small", {}, percent(Math.exp(node.logprob))), number];
    const button = make(
      "button",
      { type: "button", class: `node ${kindOf(node)}`, "data-stop": true, "data-path": node.ids.join(" "), "--x": `${node.x}px`, "--y": `${node.y}px`, "--wide": `${node.width}px`, onmouseenter: () => tell(node), onfocus: () => tell(node), onclick: () => tell(node) },
      face
    );
    node.button = button;
    if (node === root) button.classList.add("root");
    else button.setAttribute("aria-description", descriptionOf(node, place));
    tree.append(button);
  }
  roving(tree);

  // What tells a box from others with the same token.
  function descriptionOf(node, place) {
    const before = node.ids.length > 1 ? t("after {0}", heard(path(node.ids.slice(0, -1)))) : t("first");
    return place < 0 ? before : t("{0}, end of text no. {1}", before, place + 1);
  }

  const factor = Math.exp(best.joint - told.greedy.joint);
  const textOf = (result) => result.ids.map((id) => data.pieces[id]).join("");
  const twin = (result) => told.found.findIndex((other) => other !== result && !same(other.ids, result.ids) && textOf(other) && textOf(other) === textOf(result));
  const notes = (result) => [
    result.finish_reason === "eos" ? t(" (ends)") : "",
    twin(result) < 0 ? "" : make("small", { class: "note" }, " ", t("the text of no. {0}, cut into other tokens", twin(result) + 1)),
  ];
  const row = (name, result, kind) =>
    make(
      "tr",
      { class: kind },
      make("th", { scope: "row" }, name),
      make("td", { class: "path" }, path(result.ids), notes(result)),
      make("td", { class: "number", "data-number": "joint" }, fixed(result.joint, 4)),
      make("td", { class: "number" }, percent(Math.exp(result.joint)))
    );
  const summary = make(
    "table",
    { class: "plain found" },
    make("thead", {}, make("tr", {}, ["", t("continuation"), t("joint log-probability"), t("probability")].map((name) => (name ? make("th", { scope: "col" }, name) : make("td"))))),
    make("tbody", {}, told.found.map((result, i) => row(i ? t("no. {0}", i + 1) : t("no. 1, the best"), result, i ? "" : "best")), row(t("greedy"), told.greedy, "greedy"))
  );
  const verdict = same(best.ids, told.greedy.ids)
    ? t("Here greedy decoding, the most probable token at every step, finds the same text.")
    : factor >= 1
      ? t("The best text found is {0} times as probable as the greedy one: the most probable next token need not begin the most probable text.", Number(factor.toPrecision(3)))
      : t("Here greedy decoding finds a more probable text: a beam search keeps few texts and can lose the best.");

  panel.append(
    make("p", {}, t("Beam search keeps the {0} most probable texts at every step. Each box is a token that was considered: solid lines lead to those that were kept, dotted lines to the best of the rest. The path to the best text is blue, the greedy path orange. A number at the end of a path is that of its text. Of the tokens that were dropped, two are drawn for each text.", told.num_beams), hint(t("Point at a box, or move with the arrow keys, to highlight its path and to see what is not drawn."))),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("Texts found") }, summary),
    make("p", { class: "verdict" }, verdict),
    make("div", { class: "scroll" }, tree),
    readout
  );
  tell(nodes.find((node) => same(node.ids, best.ids.slice(0, 1))) ?? root);
  return () => {};
}
