"""Analyses of captured values: the logit lens, attribution of logits, and head scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..core import _engine
from ..core.batching import calls_of
from ..core.checks import check_integer
from ..core.prompts import token_ids
from ..core.roles import check_predicts_tokens
from ..errors import ConfigError, counted
from .activations import Activations, output_matrices
from .results import Attribution, LogitLens

__all__ = ["attribution", "logit_lens"]


def logit_lens(cache: Activations, k: int = 5, tokens: int | Sequence[int] | None = None) -> LogitLens:
    """See :meth:`gpt2c.introspection.passes.ActivationCache.logit_lens`."""
    model, ids, n_layer = cache.model, cache.token_ids, cache.model.config.n_layer
    check_predicts_tokens(model.config, model.name)
    n_text = model.n_text_tokens
    k = check_integer("k", k, 1, n_text, ", the size of the vocabulary")
    targets = _asked(cache, tokens)
    after = "normalized_resid_post" if model.config.is_bert else "resid_post"
    streams = [cache["resid_pre", 0], *(cache[after, layer] for layer in range(n_layer))]
    rows = np.arange(len(ids))
    found = []
    for part in calls_of([len(ids)] * len(streams)):
        some = streams[part]
        found.append(
            _engine.score(
                model.weights,
                [(model.new_cache(len(ids)), ids) for _ in some],
                [(rows, targets)] * len(some),
                top=k,
                n_text=n_text,
                threads=model.threads,
                start=(n_layer, np.concatenate(some)),
            )
        )
    logprobs, ranks, entropies, _, top_ids, top_logprobs, _ = (
        np.concatenate(parts).reshape(len(streams), len(ids), *parts[0].shape[1:])
        for parts in zip(*found, strict=True)
    )
    texts = {token: model.token_text(token) if token >= 0 else "" for token in np.unique(top_ids).tolist()}
    return LogitLens(
        names=["embed", *(f"layer {layer}" for layer in range(n_layer))],
        input_ids=ids,
        tokens=cache.tokens,
        token_ids=targets,
        logprobs=logprobs,
        ranks=ranks,
        entropies=entropies,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        top_tokens=[[[texts[token] for token in best] for best in layer] for layer in top_ids.tolist()],
        in_place=model.config.is_bert,
    )


def _asked(cache: Activations, tokens: int | Sequence[int] | None) -> np.ndarray:
    """A token for each position, int32 [T]: the given one, the given ones, or the text's next ones.

    Positions of a BERT are often masks: there, the default is the model's most probable token at each.
    """
    ids, n_vocab = cache.token_ids, cache.model.config.n_vocab
    if tokens is None and cache.model.config.is_bert:
        if len(cache.logits) < len(ids):
            raise ValueError(
                f"logits of the last {len(cache.logits)} of {counted(len(ids), 'token')} were kept, so not "
                "every position has a most probable token: give tokens, or run with logits_to_keep=0"
            )
        return cache.logits[:, : cache.model.n_text_tokens].argmax(axis=1).astype(np.int32)
    if tokens is None:
        return np.append(ids[1:], np.int32(_most_probable(cache, -1)))
    if np.ndim(tokens) == 0:
        return np.full(len(ids), check_integer("tokens", tokens, 0, n_vocab - 1), np.int32)
    given = token_ids(tokens, n_vocab, "tokens")
    if len(given) != len(ids):
        raise ValueError(
            f"tokens holds {len(given)} token ids, but the text has {len(ids)} positions: give one id for "
            "each, or a single one for all"
        )
    return given


def attribution(
    cache: Activations, token: int | None = None, against: int | None = None, position: int = -1
) -> Attribution:
    """See :meth:`gpt2c.introspection.passes.ActivationCache.attribution`."""
    model, config, n = cache.model, cache.model.config, len(cache.token_ids)
    if config.is_bert:
        raise ConfigError(
            "in a BERT, LayerNorm follows every sum, so a logit is not the sum of its components: find the "
            "effect of a component by patching or by edits"
        )
    model.check_language_model()
    position = check_integer("position", position, -n, n - 1, f" for a text of {n} tokens") % n
    row = position - n  # from the end: the first rows may have no logits
    if -row > len(cache.logits):
        raise ValueError(
            f"position {position} has no logits: those of the last {len(cache.logits)} of {n} tokens were "
            "kept; run with logits_to_keep=0, which keeps all"
        )
    if token is None:
        token = _most_probable(cache, row)
    chosen = [check_integer("token", token, 0, config.n_vocab - 1)]
    if against is not None:
        chosen.append(check_integer("against", against, 0, config.n_vocab - 1))

    def difference(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        return values[0] if against is None else values[0] - values[1]

    # For the output and the input of the last LayerNorm. (Centring one factor of a product is enough.)
    after = difference(model.weights.unembedding(chosen))
    before = after * model.weights["ln_f.weight"]
    before = (before - before.mean()) / cache["ln_final.hook_scale"][row, 0]

    parts = {"embed": cache["embed"], "pos_embed": cache["pos_embed"]}
    heads = np.empty((config.n_layer, config.n_head), np.float32)
    attn_bias = np.empty(config.n_layer, np.float32)
    for layer in range(config.n_layer):
        parts[f"attn {layer}"], parts[f"mlp {layer}"] = cache["attn_out", layer], cache["mlp_out", layer]
        if config.add_cross_attention:
            parts[f"cross_attn {layer}"] = cache["cross_attn_out", layer]
        heads[layer] = _head_results(cache, layer, position, before)
        attn_bias[layer] = model.weights[f"h.{layer}.attn.c_proj.bias"] @ before
    components = {name: float(values[position] @ before) for name, values in parts.items()}
    components["bias"] = float(after @ model.weights["ln_f.bias"])
    logit = float(difference(cache.logits[row, chosen]))
    components["rest"] = logit - math.fsum(components.values())
    return Attribution(
        token_id=chosen[0],
        against_id=None if against is None else chosen[1],
        token=model.token_text(chosen[0]),
        against=None if against is None else model.token_text(chosen[1]),
        position=position,
        logit=logit,
        components=components,
        heads=heads,
        attn_bias=attn_bias,
    )


def _head_results(cache: Activations, layer: int, position: int, direction: np.ndarray) -> np.ndarray:
    """The product of each head's result at a position and a direction: [n_head]."""
    if f"blocks.{layer}.attn.hook_result" in cache:
        return cache["result", layer][position] @ direction
    outward = output_matrices(cache.model, layer) @ direction  # [n_head, d_head]
    return (cache["z", layer][position] * outward).sum(axis=1)


def _most_probable(cache: Activations, row: int) -> int:
    return int(cache.logits[row, : cache.model.n_text_tokens].argmax())
