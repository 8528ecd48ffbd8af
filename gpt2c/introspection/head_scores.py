"""How much each head attends to keys of a kind, and which head has the most telling pattern."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .activations import Activations
from .results import HeadScores

__all__ = ["Opening", "head_scores", "kinds_of_keys", "opening", "selectivity", "telling_weights"]


def kinds_of_keys(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Which keys are of which kind, for every query: bool [T, T] each, by the names of `HeadScores`."""
    n = len(ids)
    earlier = np.tri(n, k=-1, dtype=bool) & (ids[:, None] == ids)  # key: the same token, before
    return {
        "previous_token": np.eye(n, k=-1, dtype=bool),
        "duplicate_token": earlier,
        "induction": np.pad(earlier, ((0, 0), (1, 0)))[:, :-1],  # key: one after it
        "first_token": np.tri(n, k=-1, dtype=bool) & (np.arange(n) == 0),
    }


def head_scores(cache: Activations) -> HeadScores:
    """What :meth:`gpt2c.introspection.passes.ActivationCache.head_scores` does."""
    config = cache.model.config
    kinds = kinds_of_keys(cache.token_ids)
    scores = {name: np.full((config.n_layer, config.n_head), np.nan, np.float32) for name in kinds}
    entropy = np.empty((config.n_layer, config.n_head), np.float32)
    for layer in range(config.n_layer):
        pattern = cache["pattern", layer]  # [n_head, T, T]
        for name, wanted in kinds.items():
            rows = wanted.any(axis=1)
            if rows.any():
                weights = np.where(wanted, pattern, 0).sum(axis=2, dtype=np.float64)
                scores[name][layer] = weights[:, rows].mean(axis=1)
        nats = -pattern * np.log(pattern, out=np.zeros_like(pattern), where=pattern > 0)
        entropy[layer] = nats.sum(axis=2, dtype=np.float64).mean(axis=1)
    return HeadScores(**scores, entropy=entropy)


class Opening(NamedTuple):
    """A head to begin with, and the token whose row of its pattern tells most; all counted from 0."""

    layer: int
    head: int
    token: int


def telling_weights(pattern: np.ndarray, *, causal: bool = True) -> np.ndarray:
    """For every query the largest weight on a key that is not where heads look in any text.

    Those keys are the token itself, its neighbours, and the first token, on which heads leave the weight that
    they have no use for ("attention sink", Xiao et al. 2023); without a causal mask also the last one.

    Parameters
    ----------
    pattern : np.ndarray, [n_head, T, T]
    causal : bool
        Whether later tokens are hidden.

    Returns
    -------
    np.ndarray, [n_head, T]
        0 without another key.
    """
    T = pattern.shape[-1]
    places = np.arange(T)
    other = np.abs(places[:, None] - places) > 1
    other[:, 0] = False
    if causal:
        other &= np.tri(T, dtype=bool)
    else:
        other[:, -1] = False
    return np.where(other, pattern, 0).max(axis=2)


def selectivity(weights: np.ndarray) -> np.ndarray:
    """How telling the pattern of each head is, from its `telling_weights`: [n_head, T] -> [n_head].

    The mean of the largest quarter of them, so that a few tokens with a clear picture count for more than
    many with a faint one; 0 to 1.
    """
    quarter = -(-weights.shape[1] // 4)
    return np.sort(weights, axis=1)[:, -quarter:].mean(axis=1, dtype=np.float64)


def opening(cache: Activations, layer: int | None = None, head: int | None = None) -> Opening:
    """The most telling head of those whose pattern was captured, and its most telling token.

    With ``layer`` or ``head`` (0 or more), only of those. Where no key tells anything, as in a text of three
    tokens, it is the head whose last token attends most to a token other than itself, and that token.
    """
    config = cache.model.config
    layers = [i for i in range(config.n_layer) if f"blocks.{i}.attn.hook_pattern" in cache]
    if layer is not None:
        layers = [layer]
    heads = slice(None) if head is None else slice(head, head + 1)
    rows = [telling_weights(cache["pattern", i][heads], causal=cache.causal) for i in layers]
    scores = np.stack([selectivity(weights) for weights in rows])  # [layers, heads]
    if not scores.any():
        scores = np.stack([cache["pattern", i][heads, -1, :-1].max(axis=1, initial=0) for i in layers])
        rows = [np.zeros_like(weights) for weights in rows]
    i, j = divmod(int(scores.argmax()), scores.shape[1])
    row = rows[i][j]
    token = int(row.argmax()) if row.any() else len(row) - 1
    return Opening(layers[i], j if head is None else head, token)
