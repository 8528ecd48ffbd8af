"""Heads that do what heads are known to do, each the one that does it most, as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...introspection.head_scores import Opening, kinds_of_keys, selectivity, telling_weights
from .codes import float32, packed

if TYPE_CHECKING:
    from ...introspection.passes import ActivationCache

__all__ = ["gallery"]

Json = dict[str, Any]

_PRONOUNS = "he him his himself she her hers herself it its itself they them their theirs themselves"
# Words of three letters and more that no pronoun means.
_FUNCTION_WORDS = """
the and but nor yet not that this these those which who what was were are been being have has had did didn
does doesn don would could should might must can may will shall wasn couldn because since when where while
until than then though although there for from with without into onto over under about after before upon
too very also only just all any some each our your you
"""
PRONOUNS, FUNCTION_WORDS = (frozenset(words.split()) for words in (_PRONOUNS, _FUNCTION_WORDS))


def gallery(cache: ActivationCache, opening: Opening) -> Json:
    """For every kind of head the one with the highest score, and the token whose row shows it best.

    The score is the mean weight on keys of the kind, as in `gpt2c.introspection.results.HeadScores`; of the
    head that looks back from a pronoun the largest weight; of the most telling head its `selectivity`. A kind
    of which the text has no key has no head.
    """
    config, ids = cache.model.config, cache.token_ids
    T = len(ids)
    kinds = {**kinds_of_keys(ids), "itself": np.eye(T, dtype=bool) & (np.arange(T) > 0)}
    names = ("previous_token", "itself", "first_token", "duplicate_token", "induction")
    patterns = [cache["pattern", i] for i in range(config.n_layer)]
    telling = np.stack([selectivity(telling_weights(one, causal=cache.causal)) for one in patterns])
    heads: list[Json] = [_entry(cache, "telling", opening, float(telling[opening.layer, opening.head]))]
    heads += [_most(cache, name, kinds[name]) if kinds[name].any() else {"kind": name} for name in names]
    heads.append(_pronoun(cache))
    return {"heads": heads, "telling": packed(float32(telling))}


def _most(cache: ActivationCache, kind: str, wanted: np.ndarray) -> Json:
    """The head with the largest mean weight on the wanted keys [T, T], of the queries that have one."""
    config, rows = cache.model.config, wanted.any(axis=1)
    scores = np.stack(
        [
            np.where(wanted, cache["pattern", i], 0).sum(axis=2, dtype=np.float64)[:, rows].mean(axis=1)
            for i in range(config.n_layer)
        ]
    )
    layer, head = divmod(int(scores.argmax()), config.n_head)
    weights = np.where(wanted, cache["pattern", layer][head], 0).sum(axis=1)
    # Of the first tokens there are few keys to choose from: the last that shows it well is taken.
    shows = np.flatnonzero(weights >= 0.9 * weights.max())
    return _entry(cache, kind, Opening(layer, head, int(shows[-1])), float(scores[layer, head]), wanted)


def _pronoun(cache: ActivationCache) -> Json:
    """The head that gives most weight from a pronoun to an earlier noun, or what may be one.

    That is a word of three letters or more, no function word, and neither the first token nor the one before.
    """
    words = [token.strip().lower() for token in cache.tokens]
    T = len(words)
    asks = np.array([word in PRONOUNS for word in words])
    others = PRONOUNS | FUNCTION_WORDS
    answers = np.array([word.isalpha() and len(word) > 2 and word not in others for word in words])
    wanted = np.tri(T, k=-2, dtype=bool) & asks[:, None] & answers
    wanted[:, 0] = False
    if not wanted.any():
        return {"kind": "pronoun"}
    best = np.stack(
        [np.where(wanted, cache["pattern", i], 0).max(axis=(1, 2)) for i in range(cache.model.config.n_layer)]
    )
    layer, head = divmod(int(best.argmax()), best.shape[1])
    token = int(np.where(wanted, cache["pattern", layer][head], 0).argmax()) // T
    return _entry(cache, "pronoun", Opening(layer, head, token), float(best[layer, head]), wanted)


def _entry(
    cache: ActivationCache, kind: str, place: Opening, score: float, wanted: np.ndarray | None = None
) -> Json:
    row = cache["pattern", place.layer][place.head, place.token]
    if wanted is not None:
        row = np.where(wanted[place.token], row, 0)
    else:
        others = np.abs(np.arange(len(row)) - place.token) > 1
        others[0] = False
        row = np.where(others, row, 0) if others.any() else row
    key = int(row.argmax())
    weight = float(row[key])
    return {"kind": kind, **place._asdict(), "score": score, "key": key, "weight": weight}
