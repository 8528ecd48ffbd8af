// The gallery: heads that do what heads are known to do, each the one of this model that does it most.

function galleryView(panel, open) {
  // Of every kind its name, what such a head does, what the score is, and what a text needs for it.
  const kinds = {
    telling: [t("Most telling"), t("Its tokens give most weight to one other token: not to themselves, to their neighbours or to the first token, where heads look in any text."), t("mean of the largest quarter of these weights"), t("a text of four tokens")],
    previous_token: [t("Previous token"), t("Each token looks at the one before it: such heads pass on what the previous token was."), t("mean weight of the token before"), t("two tokens")],
    itself: [t("The token itself"), t("Each token looks at itself."), t("mean weight of the token itself"), t("two tokens")],
    first_token: [t("First token"), t("Tokens that have no use for the head leave their weight on the first token, an attention sink."), t("mean weight of the first token"), t("two tokens")],
    duplicate_token: [t("Duplicate token"), t("A token looks at earlier occurrences of itself."), t("mean weight of all earlier occurrences"), t("a token that occurs twice")],
    induction: [t("Induction"), t("A token looks at what followed it where it stood before, and so foresees that it follows again."), t("mean weight of the tokens that followed"), t("a token that occurs twice")],
    pronoun: [t("From a pronoun back"), t("A pronoun looks back at a word that it may mean."), t("largest weight that a pronoun gives such a word"), t("an English pronoun, with a noun before it that is not the first token")],
  };
  const pictures = [];

  const cards = data.gallery.heads.map((told) => {
    const [name, does, measure, needs] = kinds[told.kind];
    if (told.layer === undefined) {
      return make("li", { class: "exhibit missing", "data-kind": told.kind }, make("h3", {}, name), make("p", {}, does), make("p", { class: "note" }, t("Not in this text: it takes {0}.", needs)));
    }
    const { layer, head, score, weight } = told;
    const canvas = headPicture.blank();
    pictures.push({ canvas, layer, head });
    const show = make(
      "button",
      {
        type: "button", class: "open", "data-kind": told.kind,
        onclick: () => {
          choose(layer, head);
          follow(told.token);
          open(attention.has(layer) ? "heads" : "walk");
        },
      },
      t("Open layer {0}, head {1}", layer, head)
    );
    return make(
      "li",
      { class: "exhibit", "data-kind": told.kind },
      make("h3", {}, name),
      canvas,
      make("div", { class: "about" },
        make("p", {}, does),
        make("p", {}, token(tokens[told.token]), " → ", token(tokens[told.key]), " ", make("b", { "data-number": "weight" }, percent(weight))),
        make("p", { class: "note" }, mixed("Score {0}: {1}.", make("b", { "data-number": "score" }, percent(score)), measure))),
      show
    );
  });

  panel.append(
    make("p", {}, t("Of the {0} of the model, the one that scores highest in each kind, in this text. Rows of the pictures ask, columns answer. Whether a head is always of a kind, one text does not tell.", plural(data.model.n_layer * data.model.n_head, "{0} head", "{0} heads"))),
    make("ul", { class: "gallery" }, cards)
  );

  return () => pictures.forEach(({ canvas, layer, head }) => headPicture.paint(canvas, layer, head));
}
