"""The same tokens seen by the bundled masked model, beside a GPT-2 of the same vocabulary, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checkpoint.bundled import BUNDLED_MASKED
from ...checkpoint.loading import load
from ...core import _engine
from ...core.lm import LoadedModel
from ...introspection.head_scores import opening
from ...introspection.passes import capture
from .codes import float32, packed
from .explanation import log_softmax

if TYPE_CHECKING:
    from ...introspection.passes import ActivationCache

__all__ = ["SIZE", "beside", "masked_for"]

Json = dict[str, Any]

SIZE = 45_000  # characters, at most: of 16 tokens
CANDIDATES = 5  # of each model for a token


def masked_for(cache: ActivationCache) -> LoadedModel | None:
    """The bundled masked model, where it can read the same tokens.

    None where the ids of the two models mean different texts, where the text is longer than its positions,
    for a BERT, and for a decoder, which also sees a source.
    """
    model = cache.model
    if model.cross is not None or model.config.is_bert:
        return None
    masked = load([LoadedModel], BUNDLED_MASKED, threads=model.threads)
    if not _same_tokens(model, masked) or len(_around(masked, cache.token_ids)[0]) > masked.config.n_ctx:
        return None
    return masked


def beside(
    cache: ActivationCache, masked: LoadedModel, token: int, shown: Sequence[int], used: set[int]
) -> Json:
    """Where the masked model's heads look in the same text, and how both models guess each token.

    The masked model guesses a token that a mask replaces, from both sides; GPT-2 guesses it from those before
    it.

    Parameters
    ----------
    cache : ActivationCache
    masked : LoadedModel
        What `masked_for` returns.
    token : int
        The position of the token that the page opens with. The masked model's head is the one in which it
        gives most weight to a token behind it, other than its neighbour.
    shown : sequence of int
        The positions of the tokens that the page shows, n of them.
    used : set of int
        The tokens that are named are added.

    Returns
    -------
    dict
        ``weights`` [layers, heads, n, n] from each of these tokens to each other one, ``sides``
        [layers, heads, n, 2] to all before it and all behind it, and the guesses: ids and log-probabilities
        [n, k], and the log-probability of the token itself [n]. GPT-2 has none for the first token of a text.
    """
    ids, first = _around(masked, cache.token_ids)
    [seen] = capture(masked, [ids], "attn.hook_pattern")
    rows = np.array(shown) + first
    patterns = np.stack([seen["pattern", i] for i in range(masked.config.n_layer)])[:, :, rows]
    places = np.arange(len(ids))
    both = [
        np.where(side, patterns, 0).sum(axis=3) for side in (places < rows[:, None], places > rows[:, None])
    ]
    guesses = {"masked": _hidden(masked, ids, rows), "left": _following(cache, shown)}
    for ids_of, *_ in guesses.values():
        used.update(ids_of.ravel().tolist())
    return {
        "layers": masked.config.n_layer,
        "heads": masked.config.n_head,
        "start": _start(seen, token + first, first + len(cache.token_ids)),
        "weights": packed(float32(patterns[..., rows])),
        "sides": packed(float32(np.stack(both, axis=3))),
        "k": CANDIDATES,
        "guesses": {
            name: {
                "ids": packed(best.astype(np.uint32)),
                "logprobs": packed(float32(logprobs)),
                "own": packed(float32(own)),
            }
            for name, (best, logprobs, own) in guesses.items()
        },
    }


def _start(seen: ActivationCache, row: int, end: int) -> Json:
    """The head that gives most weight from a token to one behind it, before ``end`` and no neighbour.

    The most telling head without such a token.
    """
    layer, head, _ = opening(seen)
    behind = [seen["pattern", i][:, row, row + 2 : end] for i in range(seen.model.config.n_layer)]
    if behind[0].size:
        most = np.stack(behind).max(axis=2)
        layer, head = divmod(int(most.argmax()), most.shape[1])
    return {"layer": layer, "head": head}


def _same_tokens(model: LoadedModel, masked: LoadedModel) -> bool:
    """Whether the ids of a model mean the same texts in the masked model, which also has a mask."""
    n = model.n_text_tokens
    if not model.has_tokenizer or masked.mask_token_id != n:
        return False
    return all(model.token_bytes(token) == masked.token_bytes(token) for token in range(n))


def _around(masked: LoadedModel, token_ids: np.ndarray) -> tuple[np.ndarray, int]:
    """A text as the masked model reads it, between its start and its end, and where its first token is."""
    before, after = list(masked.tokenizer.prefix), list(masked.tokenizer.suffix)
    ids = token_ids.tolist()
    if ids[: len(before)] == before:
        before = []
    if len(ids) > len(after) and ids[-len(after) :] == after:
        after = []
    return np.array([*before, *ids, *after], np.int32), len(before)


Guesses = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids and log-probabilities [n, k], and the log-probability of the token that is there [n]."""


def _hidden(masked: LoadedModel, ids: np.ndarray, rows: np.ndarray) -> Guesses:
    """What the masked model takes each token for, when a mask stands in its place."""
    places = np.arange(len(ids))
    hidden = [np.where(places == row, masked.mask_token_id, ids).astype(np.int32) for row in rows]
    own, _, _, _, best, logprobs, _ = _engine.score(
        masked.weights,
        [(masked.new_cache(len(ids)), one) for one in hidden],
        [(np.array([row], np.intp), ids[[row]]) for row in rows],
        top=CANDIDATES,
        n_text=masked.mask_token_id,
        threads=masked.threads,
    )
    return best, logprobs, own


def _following(cache: ActivationCache, shown: Sequence[int]) -> Guesses:
    """What GPT-2 expects in the place of each token, after those before it."""
    rows = cache.logits[[max(0, at - 1) for at in shown]]
    logprobs = log_softmax(rows)
    best = np.array([_engine.top(row[: cache.model.n_text_tokens], CANDIDATES) for row in rows])
    own = np.take_along_axis(logprobs, cache.token_ids[shown][:, None].astype(np.int64), axis=1)[:, 0]
    return best, np.take_along_axis(logprobs, best, axis=1), own
