// The gallery: heads that do what heads are known to do, each the one of this model that does it most.

function galleryView(panel, open) {
  // Of every kind its name, what such a head does, what the score is, and what a text needs for it.
  const kinds = {
    telling: ["Most telling", "Its tokens give most weight to one other token: not to themselves, to their neighbours or to the first token, where heads look in any text.", "mean of the largest quarter of these weights", "a text of four tokens"],
    previous_token: ["Previous token", "Each token looks at the one before it. Such heads copy to a token what stands before it.", "mean weight of the token before", "two tokens"],
    itself: ["The token itself", "Each token looks at itself.", "mean weight of the token itself", "two tokens"],
    first_token: ["First token", "Tokens that have no use for the head leave their weight on the first token, an attention sink.", "mean weight of the first token", "two tokens"],
    duplicate_token: ["Duplicate token", "A token looks at earlier places where the same token stands.", "mean weight of all earlier occurrences", "a token that occurs twice"],
    induction: ["Induction", "A token looks at what followed it where it stood before, and so foresees that it follows again.", "mean weight of the tokens that followed", "a token that occurs twice"],
    pronoun: ["From a pronoun back", "A pronoun looks back at a word that it may mean.", "largest weight that a pronoun gives such a word", "an English pronoun, with a noun before it that is not the first token"],
  };
  const pictures = [];

  const cards = data.gallery.heads.map((told) => {
    const [name, does, measure, needs] = kinds[told.kind];
    if (told.layer === undefined) {
      return make("li", { class: "exhibit missing", "data-kind": told.kind }, make("h3", {}, name), make("p", {}, does), make("p", { class: "note" }, `Not in this text: it takes ${needs}.`));
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
      `Open layer ${layer}, head ${head}`
    );
    return make(
      "li",
      { class: "exhibit", "data-kind": told.kind },
      make("h3", {}, name),
      canvas,
      make("div", { class: "about" },
        make("p", {}, does),
        make("p", {}, token(tokens[told.token]), " → ", token(tokens[told.key]), " ", make("b", { "data-number": "weight" }, percent(weight))),
        make("p", { class: "note" }, "Score ", make("b", { "data-number": "score" }, percent(score)), `: ${measure}.`)),
      show
    );
  });

  panel.append(
    make("p", {}, `Of the ${plural(data.model.n_layer * data.model.n_head, "head")} of the model, the one that scores highest in each kind, in this text. Rows of the pictures ask, columns answer. Whether a head is always of a kind, one text does not tell.`),
    make("ul", { class: "gallery" }, cards)
  );

  return () => pictures.forEach(({ canvas, layer, head }) => headPicture.paint(canvas, layer, head));
}
