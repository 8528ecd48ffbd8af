"""BERT in plain NumPy, in float64: the specification of the compiled engine and the oracle of its tests.

Like `reference` for GPT-2, with which it shares the common parts: attention,
the feed-forward network, LayerNorm and the activations. What differs:

- Every token attends to the whole text, not only to earlier tokens.
- LayerNorm follows each sum instead of preceding each part, so the stream is normalized at every step.
- A token also has a type: the text of a pair that it belongs to.
- The model predicts not the next token, but the one at each position: mask a token, and read its row.

RoBERTa and DistilBERT are the same model with other sizes, the latter without token types.

Letters used for shapes are those of `reference`; n_types is the number of token types. `weights` maps the
canonical tensor names to arrays of any float type::

    wte.weight                  [n_vocab, n_embd]       wpe.weight              [n_ctx, n_embd]
    wtt.weight                  [n_types, n_embd]       ln_emb.weight .bias     [n_embd]
    h.{i}.attn.c_attn.weight    [n_embd, 3 n_embd]      .bias                   [3 n_embd]
    h.{i}.attn.c_proj.weight    [n_embd, n_embd]        .bias                   [n_embd]
    h.{i}.ln_1.weight .bias     [n_embd]                after attention
    h.{i}.mlp.c_fc.weight       [n_embd, n_inner]       .bias                   [n_inner]
    h.{i}.mlp.c_proj.weight     [n_inner, n_embd]       .bias                   [n_embd]
    h.{i}.ln_2.weight .bias     [n_embd]                after the feed-forward network
    transform.weight            [n_embd, n_embd]        .bias                   [n_embd], to predict tokens
    ln_head.weight .bias        [n_embd]                lm_head.bias            [n_vocab]
    lm_head.weight              [n_vocab, n_embd], if not tied
    pooler.weight               [n_embd, n_embd]        .bias                   [n_embd], to label texts
    classifier.weight           [labels, n_embd]        .bias                   [labels], or tokens

The matrices of a classifier are [outputs, inputs], as transformers has them; all others [inputs, outputs].

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(2018), and the code published with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .config import Config
from .errors import ConfigError
from .reference import (
    Look,
    Weights,
    _check_ids,
    _float64,
    _part,
    activation,
    attention,
    feed_forward,
    layer_norm,
    of_text,
    unseen,
)

__all__ = ["attention_patterns", "classify", "embed", "forward", "hidden_states", "layer_of"]

Ids = Sequence[int] | np.ndarray


def embed(
    config: Config, weights: Weights, ids: np.ndarray, types: np.ndarray, look: Look = unseen
) -> np.ndarray:
    """Token, position and type embeddings, summed and normalized: ``[T] -> [T, n_embd]``."""
    token = look("hook_embed", _float64(weights["wte.weight"][ids]))  # [T, n_embd]
    position = look("hook_pos_embed", _float64(weights["wpe.weight"][: len(ids)]))  # [T, n_embd]
    x = token + position  # [T, n_embd]
    if config.n_types:
        x = x + look("hook_token_type_embed", _float64(weights["wtt.weight"][types]))  # [T, n_embd]
    return look("hook_full_embed", _norm(config, weights, "ln_emb", x, look, "ln_embed"))  # [T, n_embd]


def layer_of(config: Config, weights: Weights, layer: int, x: np.ndarray, look: Look = unseen) -> np.ndarray:
    """Attention over the whole text, then the feed-forward network: ``[T, n_embd] -> [T, n_embd]``."""
    block = f"blocks.{layer}."
    x = look(block + "hook_resid_pre", x)  # [T, n_embd]
    stream = np.broadcast_to(x[:, None], (len(x), config.n_head, config.n_embd))  # [T, n_head, n_embd]
    read = look(block + "hook_attn_in", stream)  # [T, n_head, n_embd]  what each head reads
    inputs = [look(f"{block}hook_{part}_input", read) for part in "qkv"]  # 3 x [T, n_head, n_embd]
    inputs = [x[:, None] if each is stream else each for each in inputs]
    h = attention(config, weights, layer, inputs, look, causal=False)  # [T, n_embd]
    x = look(block + "hook_resid_mid", x + look(block + "hook_attn_out", h))  # [T, n_embd]
    x = _norm(config, weights, f"h.{layer}.ln_1", x, look, block + "ln1")  # [T, n_embd]
    x = look(block + "hook_normalized_resid_mid", x)  # [T, n_embd]  what is added to next
    h = feed_forward(config, weights, layer, look(block + "hook_mlp_in", x), look)  # [T, n_embd]
    x = look(block + "hook_resid_post", x + look(block + "hook_mlp_out", h))  # [T, n_embd]
    x = _norm(config, weights, f"h.{layer}.ln_2", x, look, block + "ln2")  # [T, n_embd]
    return look(block + "hook_normalized_resid_post", x)  # [T, n_embd]


@of_text
def hidden_states(
    config: Config, weights: Weights, ids: Ids, types: Ids | None = None, look: Look = unseen
) -> np.ndarray:
    """The whole model except its head: ``[T] -> [T, n_embd]``, one vector for each token.

    ``hidden_states(model, ids or text)`` is the same for a loaded model; likewise for the functions below.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array
        Canonical names (see the top of this file); converted to float64 as they are used.
    ids : sequence of int, shape [T]
        Token ids, with those that the tokenizer puts around a text, such as [CLS] and [SEP].
    types : sequence of int, shape [T], optional
        Which text of a pair each token belongs to; by default all to the first.
    look : callable, optional
        As for `reference.forward`: called with the name and the value of named values; its return value is
        used instead.

    Raises
    ------
    ContextLengthError
        More ids than the model has positions.
    ValueError
        No ids, an id outside the vocabulary, or types that do not fit.
    """
    ids = _check_ids(config, ids)  # [T]
    types = _check_types(config, ids, types)  # [T]
    x = embed(config, weights, ids, types, look)  # [T, n_embd]
    for layer in range(config.n_layer):
        x = layer_of(config, weights, layer, x, look)  # [T, n_embd]
    return x  # [T, n_embd]


@of_text
def forward(
    config: Config, weights: Weights, ids: Ids, types: Ids | None = None, look: Look = unseen
) -> np.ndarray:
    """For each position, one logit per token of the vocabulary for the token there: ``[T, n_vocab]``.

    Softmax turns a row into probabilities. A masked token's row predicts that token. ConfigError if the model
    has no head that predicts tokens; otherwise as `hidden_states`.
    """
    if not config.masked_head:
        raise ConfigError("the model has no head that predicts tokens: use hidden_states or classify")
    x = hidden_states(config, weights, ids, types, look)  # [T, n_embd]
    x = x @ _float64(weights["transform.weight"]) + weights["transform.bias"]  # [T, n_embd]
    x = activation(config.activation, x)  # [T, n_embd]
    x = _norm(config, weights, "ln_head", x, look, "ln_final")  # [T, n_embd]
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    return x @ _float64(weights[head]).T + weights["lm_head.bias"]  # [T, n_vocab]


@of_text
def classify(
    config: Config, weights: Weights, ids: Ids, types: Ids | None = None, look: Look = unseen
) -> np.ndarray:
    """The logits of the labels of a text, ``[T] -> [labels]``, or of each token, ``[T] -> [T, labels]``.

    A text is classified at its first token, after one more dense layer. ConfigError if the model has no such
    head; otherwise as `hidden_states`.
    """
    if config.head is None:
        raise ConfigError("the model has no head that labels texts or tokens")
    x = hidden_states(config, weights, ids, types, look)  # [T, n_embd]
    if config.head.pooled:
        x = x[0] @ _float64(weights["pooler.weight"]).T + weights["pooler.bias"]  # [n_embd]
        x = activation(str(config.head.activation), x)  # [n_embd]
    return (
        x @ _float64(weights["classifier.weight"]).T + weights["classifier.bias"]
    )  # [labels] or [T, labels]


@of_text
def attention_patterns(config: Config, weights: Weights, ids: Ids, types: Ids | None = None) -> np.ndarray:
    """Attention patterns: ``[T] -> [n_layer, n_head, T, T]``, rows of probabilities over the whole text."""
    found = []

    def look(name: str, value: np.ndarray) -> np.ndarray:
        if name.endswith("attn.hook_pattern"):
            found.append(value)  # [n_head, T, T]
        return value

    hidden_states(config, weights, ids, types, look)
    return np.stack(found)  # [n_layer, n_head, T, T]


def _norm(config: Config, weights: Weights, part: str, x: np.ndarray, look: Look, name: str) -> np.ndarray:
    return layer_norm(x, **_part(weights, part), epsilon=config.layer_norm_epsilon, look=look, name=name)


def _check_types(config: Config, ids: np.ndarray, types: Ids | None) -> np.ndarray:
    if types is None:
        return np.zeros(len(ids), np.int64)  # [T]
    types = np.asarray(types, np.int64)  # [T]
    if types.shape != ids.shape:
        raise ValueError(f"types must be one for each of the {len(ids)} ids, not shape {types.shape}")
    if not config.n_types:
        raise ValueError("the model has no token types: leave types out")
    if types.min() < 0 or types.max() >= config.n_types:
        raise ValueError(f"types must lie in 0 ... {config.n_types - 1}, not {types.min()} ... {types.max()}")
    return types
