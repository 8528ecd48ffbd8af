// The steps of the walk that differ in a BERT: LayerNorm follows each sum, no key is masked, and its head says
// what stands in a place.

const bert = Boolean(data.sides);

function bertWalk({ strip, lines, current, para, others, logits }) {
  const { n_layer, n_inner, n_embd, n_vocab, activation } = data.model;

  const figures = {
    embedding: () => [lines(
      line("", mixed("token {0}", current()), strip("embed")),
      line("+", t("position {0}", numbers.shown[numbers.at()]), strip("pos_embed")),
      data.walk.stream.token_type_embed ? line("+", t("token type"), strip("token_type_embed")) : null,
      line("→", t("normalised, into layer 0"), strip("resid_pre", 0)),
      chosen.layer ? line("⋯", t("what enters layer {0}", chosen.layer), strip("resid_pre", chosen.layer)) : null
    ), ...learned.tables()],
    "feed-forward": () => {
      const { layer, head } = chosen;
      return [lines(
        line("", t("all heads, projected"), strip("attn_out", layer)),
        line("+", t("what entered the layer"), strip("resid_pre", layer)),
        line("=", t("between the halves"), strip("resid_mid", layer)),
        line("→", t("normalised"), strip("normalized", layer)),
        line("→", t("{0} numbers wide", whole(n_inner)), strip("pre", layer)),
        line("→", t("through {0}", activation.startsWith("gelu") ? "GELU" : activation), strip("post", layer)),
        line("→", t("and narrow again"), strip("mlp_out", layer)),
        line("+", t("what entered this half"), strip("normalized", layer)),
        line("=", t("their sum"), strip("resid_post", layer)),
        line("→", t("normalised: what leaves the layer"), strip("normalized2", layer))
      ), ...learned.feedForward(layer, head)];
    },
    logits: () => [
      line("", t("after layer {0}, the last", n_layer - 1), strip("resid_last")),
      line("→", t("in the head, normalised"), strip("normalized_last")),
      logits(),
    ],
  };

  const words = {
    embedding: () => para(t("The token's row of the embedding table, {0} numbers of which the first are shown, plus the row of its position, and where the model has token types, that of its type. LayerNorm follows. From here on every token has its own row of {0} numbers: the residual stream.", whole(n_embd))),
    attention: () => para(mixed("The query of {0} times each key, {1}, is a score. No key is masked: a token attends to both sides. Softmax (the exponential, divided by the sum) turns the scores into weights that sum to 1.", current(), scaling(chosen.layer) || t("not scaled")), attention.edited(chosen.layer) ? t(" ") + t("Here they were edited: the weights do not follow from the scores shown.") : ""),
    "feed-forward": () => para([
      t("All heads side by side are projected and added to the stream. Then the second half of the layer: two dense layers with a bend between them, on each token alone, added again. After each sum comes LayerNorm: the row is shifted to mean 0, divided by its standard deviation, and gets a learned gain and bias."),
      others,
    ].join(t(" "))),
    logits: () => para(mixed("The row that leaves the last layer goes through the head, a dense layer and LayerNorm, and then times every row of the vocabulary's table: one logit for each of {0} tokens. The larger it is, the better the token fits in the place of {1}. \"Masks\" has the probabilities.", whole(n_vocab), current())),
  };

  return { figures, words };
}
