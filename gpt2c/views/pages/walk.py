"""The walk through a pass: the numbers of every layer and head for some tokens, as JSON values.

Queries, keys and values are in 16 bits, everything else in float32 (see codes.py).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core import _engine
from ...introspection.head_scores import Opening
from .attention import scores_of
from .codes import float32, packed, stepped
from .crossing import CROSS_STREAM

if TYPE_CHECKING:
    from ...config import Config
    from ...introspection.passes import ActivationCache

__all__ = ["names", "predicts", "walk"]

Json = dict[str, Any]

FEWEST, SHOWN = 4, 16  # tokens that the walk follows, at least and at most
WIDTH = 8  # numbers of each vector that it shows
CANDIDATES = 40  # tokens that may be next, or of a BERT in the place, by name
TEMPERATURES = [round(0.1 * i, 1) for i in range(1, 21)]

# Of each layer, by their names in the page.
STREAM = {
    "resid_pre": "hook_resid_pre",
    "normalized": "ln1.hook_normalized",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "normalized2": "ln2.hook_normalized",
    "pre": "mlp.hook_pre",
    "post": "mlp.hook_post",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}


# Of a BERT, where LayerNorm follows each sum, the same, and what LayerNorm makes of the sums.
BERT_STREAM = STREAM | {
    "normalized": "hook_normalized_resid_mid",
    "normalized2": "hook_normalized_resid_post",
}


def names(config: Config) -> list[str]:
    """What has to be captured for a page with a walk."""
    of_layers = [
        *_stream(config).values(),
        "ln1.hook_scale",
        *(f"attn.hook_{name}" for name in ("pattern", *"qkvz")),
    ]
    if config.add_cross_attention:
        of_layers.append("cross_attn.hook_pattern")
    ends = ["hook_embed", "hook_pos_embed"]
    if config.is_bert and config.n_types:
        ends.append("hook_token_type_embed")
    if predicts(config):
        ends.append("ln_final.*")
    return [*ends, *(f"blocks.*.{name}" for name in of_layers)]


def predicts(config: Config) -> bool:
    """Whether the model has a head that predicts tokens: the next ones, or those of masks."""
    return config.masked_head or not config.is_bert


def _stream(config: Config) -> dict[str, str]:
    if config.is_bert:
        return BERT_STREAM
    return {**STREAM, **CROSS_STREAM} if config.add_cross_attention else STREAM


def walk(
    cache: ActivationCache,
    opening: Opening,
    used: set[int],
    *,
    without: Collection[int] = (),
    edited: bool = False,
    room: int,
) -> Json:
    """One pass through all layers and heads with numbers, for the tokens that the page shows.

    Parameters
    ----------
    cache : ActivationCache
    opening : Opening
        Its token is among those shown; where not all can be, so are those to which it and the last attend.
    used : set of int
        The tokens that are named are added.
    without : collection of int
        Layers whose weights do not follow from query and key, and are kept themselves.
    edited : bool
        Whether numbers of the pass were edited: a query need not follow from its row then.
    room : int
        Characters. There are as many tokens as fit (4 to 16), and the queries and keys of as many layers are
        whole; the others have their first numbers only.
    """
    config = cache.model.config
    shown = _shown(cache, opening, max(FEWEST, *(n for n in range(SHOWN + 1) if _size(config, n) <= room)))
    layers = [_layer(cache, i, shown, whole=i in without) for i in range(config.n_layer)]
    found = {
        "shown": shown.tolist(),
        "stream": {name: packed(float32(value[shown, :WIDTH])) for name, value in _ends(cache).items()},
        "layers": layers,
        "product": None if edited else _product(cache, opening, shown),
        **(_next(cache, shown, used) if predicts(config) else {}),
    }
    whole = len(shown) * (config.n_head + config.n_kv_head) * config.head_dim * 2 * 4 // 3
    nearest = sorted(range(config.n_layer), key=lambda i: (abs(i - opening.layer), i))
    for i in nearest[: max(1, (room - _size(config, len(shown))) // whole)]:
        layers[i]["heads"] |= {name: stepped(cache[name, i][shown]) for name in "qk"}
    return found


def _product(cache: ActivationCache, opening: Opening, shown: np.ndarray) -> Json:
    """How the first number of the opening head's queries is made: a row times a column, plus a bias."""
    model, (layer, head, _) = cache.model, opening
    weights, at = model.weights, head * model.config.head_dim
    rows = cache["resid_pre" if model.config.is_bert else "ln1.hook_normalized", layer][shown]
    if not model.config.is_bert:
        rows = rows * weights[f"h.{layer}.ln_1.weight"] + weights[f"h.{layer}.ln_1.bias"]
    return {
        "layer": layer,
        "head": head,
        "rows": packed(float32(rows)),
        "column": packed(float32(weights[f"h.{layer}.attn.c_attn.weight"][:, at])),
        "bias": float(weights[f"h.{layer}.attn.c_attn.bias"][at]),
    }


def _ends(cache: ActivationCache) -> dict[str, np.ndarray]:
    """What is before the layers and behind them, by the names in the page."""
    config = cache.model.config
    found = {"embed": cache["embed"], "pos_embed": cache["pos_embed"]}
    if config.is_bert and config.n_types:
        found["token_type_embed"] = cache["token_type_embed"]
    if predicts(config):
        found["resid_last"] = cache["normalized_resid_post" if config.is_bert else "resid_post", -1]
        found["normalized_last"] = cache["ln_final.hook_normalized"]
    return found


def _size(config: Config, n: int) -> int:
    """About how many characters the walk takes with ``n`` tokens, and the first numbers of each vector."""
    vectors = 4 * WIDTH * len(_stream(config)) + (3 * 4 + 4 * 2 * WIDTH) * config.n_head
    candidates = 8 * CANDIDATES + 4 * len(TEMPERATURES)
    tokens = n * (config.n_layer * vectors + candidates + 4 * config.n_embd)
    return (tokens + n * n * 4 * config.n_layer * config.n_head) * 4 // 3


def _shown(cache: ActivationCache, opening: Opening, n: int) -> np.ndarray:
    """The positions of the ``n`` tokens that are followed, ascending: all of a short text."""
    T = len(cache.token_ids)
    if n >= T:
        return np.arange(T)
    pattern = cache["pattern", opening.layer][opening.head]
    found = {opening.token, T - 1}
    best = [_engine.top(pattern[row], n).tolist() for row in (opening.token, T - 1)]
    for pair in zip(*best, strict=True):
        for position in pair:
            if len(found) < n:
                found.add(position)
    return np.array(sorted(found))


def _layer(cache: ActivationCache, layer: int, shown: np.ndarray, *, whole: bool) -> Json:
    T = len(cache.token_ids)
    scores = scores_of(cache, layer, shown)  # [n_head, shown, T]
    masked = np.where(np.arange(T) <= shown[:, None], scores, -np.inf) if cache.causal else scores
    before = cache["resid_mid" if cache.model.config.is_bert else "resid_pre", layer]
    norm = {"mean": before.mean(axis=1), "scale": cache["ln1.hook_scale", layer][:, 0]}
    found = {
        **{
            name: packed(float32(cache[full, layer][shown, :WIDTH]))
            for name, full in _stream(cache.model.config).items()
        },
        **{name: packed(float32(value[shown])) for name, value in norm.items()},
        "scaling": cache.model.config.attention_scale(layer),
        "heads": {name: stepped(cache[name, layer][shown, :, :WIDTH]) for name in "qkvz"},
        "scores": packed(float32(scores[:, :, shown])),
        "largest": packed(float32(masked.max(axis=-1))),
        "sum": packed(log_sum_exp(masked)),
        "unmasked_sum": packed(log_sum_exp(scores)),
    }
    if whole:
        found["weights"] = packed(float32(cache["pattern", layer][:, shown][:, :, shown]))
    return found


def _next(cache: ActivationCache, shown: np.ndarray, used: set[int]) -> Json:
    """What may follow each shown token, or of a BERT stand in its place."""
    rows = cache.logits[shown]
    best = np.array([_engine.top(row[: cache.model.n_text_tokens], CANDIDATES) for row in rows])
    used.update(best.ravel().tolist())
    logits = rows.astype(np.float64)
    rest = logits.copy()
    np.put_along_axis(rest, best, -np.inf, axis=1)
    return {
        "temperatures": TEMPERATURES,
        "candidates": {
            "ids": packed(best.astype(np.uint32)),
            "logits": packed(float32(np.take_along_axis(logits, best, axis=1))),
            "rest": packed(np.stack([log_sum_exp(rest / t) for t in TEMPERATURES], axis=1)),
        },
    }


def log_sum_exp(x: np.ndarray) -> np.ndarray:
    """Of the last axis, as float32; minus infinity, of nothing, is written as the lowest finite number."""
    top = x.max(axis=-1)
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(x - np.where(np.isfinite(top), top, 0)[..., None]).sum(axis=-1))
    return np.maximum(top + sums, np.finfo(np.float32).min).astype(np.float32)
