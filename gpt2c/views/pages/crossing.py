"""Cross-attention in a page: where each token that is written looks in the source, as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .codes import packed, weight_codes

if TYPE_CHECKING:
    from ...introspection.passes import ActivationCache

__all__ = ["CROSS_STREAM", "crossing"]

Json = dict[str, Any]

# Of each layer with cross-attention, by their names in the page.
CROSS_STREAM = {"cross_attn_out": "hook_cross_attn_out", "resid_mid_cross": "hook_resid_mid_cross"}
ROOM = 300_000  # weights, at most: the mean of the heads where there are more


def crossing(cache: ActivationCache, used: set[int]) -> Json:
    """The weights of all layers and heads, 16 bits each, in ``weights`` [layers, heads, T, S].

    The layer and the head to begin with are those whose rows have the largest weights, on average. Where the
    heads are too many, there is their mean alone, and "heads" is 1; where that is too much, of the last
    layers.
    """
    config = cache.model.config
    patterns = [cache["cross_attn.pattern", i] for i in range(config.n_layer)]  # [n_head, T, S] each
    selective = np.stack([pattern.max(axis=2).mean(axis=1) for pattern in patterns])
    layer, head = divmod(int(selective.argmax()), config.n_head)
    if sum(pattern.size for pattern in patterns) > ROOM:
        patterns = [pattern.mean(axis=0, keepdims=True) for pattern in patterns]
        head = 0
    first = max(0, len(patterns) - max(1, ROOM // patterns[0].size))
    following = int(cache.logits[-1, : cache.model.n_text_tokens].argmax())
    used.add(following)
    names = cache.model.cross.tokens if cache.model.cross else None
    n_sources = patterns[0].shape[2]
    return {
        "sources": [str(at) for at in range(n_sources)] if names is None else list(names),
        "written": [*cache.token_ids[1:].tolist(), following],
        "layers": list(range(first, len(patterns))),
        "heads": patterns[0].shape[0],
        "start": {"layer": max(layer, first), "head": head},
        "weights": packed(weight_codes(np.stack(patterns[first:]), 16)),
    }
