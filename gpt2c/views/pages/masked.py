"""The page of a BERT: what may stand in each place, and how it attends to both sides, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core import _engine
from ...heads.reading import Options, Reading, is_pair, read_all
from ...introspection.head_scores import Opening
from ...introspection.passes import capture
from ...masks.filling import fill
from ...scoring.options import check_outcome
from . import document, explanation
from .codes import float32, packed
from .language import ENGLISH, words_of
from .walk import names

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...introspection.passes import ActivationCache

__all__ = ["best_tokens", "masked_page", "masks_of", "read_masked", "reading_of", "second_of", "sides"]

Json = dict[str, Any]

CANDIDATES = 10  # tokens of each place
WAYS = 5  # to fill several masks together


def reading_of(model: LoadedModel, text: Any) -> Reading:
    """A text as a BERT reads it: whole, with masks and the tokens around it."""
    _, [reading] = read_all(model, [text], Options(None, special=True))
    return reading


def read_masked(model: LoadedModel, reading: Reading, edits: explanation.Edits = ()) -> ActivationCache:
    """What a page shows, captured of a text, and its logits."""
    types = reading.types if model.config.n_types else None
    [cache] = capture(model, [reading.ids], names(model.config), edits, types=[types])
    check_outcome(edits, cache.logits)
    return cache


def masked_page(
    cache: ActivationCache,
    place: Opening,
    *,
    given: Any,
    second: int | None = None,
    layers: Sequence[int] | None = None,
    edits: explanation.Edits = (),
    lang: str = ENGLISH,
) -> str:
    """A page that shows what a BERT finds for the masks of a text, and where its heads look.

    Parameters
    ----------
    cache : ActivationCache
        What `read_masked` returns.
    place : Opening
        What the page opens with.
    given : str, token ids, or a pair of either
        The text.
    second : int, optional
        Of a pair, the position where its second text begins.
    layers, edits, lang
        As for :func:`gpt2c.views.pages.explain_page`; the edits are those in the pass.
    """
    used = set(cache.token_ids.tolist())
    data: dict[str, Any] = {
        "words": words_of(lang),
        "sides": packed(float32(sides(cache))),
        "masks": masks_of(cache),
    }
    data |= {} if second is None else {"second": second}
    if cache.model.config.masked_head:
        data["candidates"] = candidates(cache, used)
        if len(data["masks"]) > 1 and second is None and not edits:
            ways: Any = fill(cache.model, given, WAYS)
            data["ways"] = [{"text": way.text, "p": way.probability} for way in ways]
    data |= document.reading(cache, place, layers, data, used, edits)
    texts = [given] if second is None else given
    if all(isinstance(text, str) and text for text in texts):
        data["text"] = " / ".join(texts)
    return document.assembled(data, lang)


def second_of(model: LoadedModel, given: Any, reading: Reading) -> int | None:
    """Where the second text of a pair begins; None for a single text."""
    if not is_pair(given):
        return None
    between = model.tokenizer.between if isinstance(given[0], str) else ()
    return reading.own.stop + len(between)


def masks_of(cache: ActivationCache) -> list[int]:
    """The positions of the masks; none where the tokenizer names no mask."""
    model = cache.model
    mask = model.tokenizer.mask_id if model.has_tokenizer else None
    return [] if mask is None else np.flatnonzero(cache.token_ids == mask).tolist()


def best_tokens(cache: ActivationCache, rows: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most probable tokens of some places, and the logarithms of their probabilities: [rows, k]."""
    n = cache.model.n_text_tokens
    best = np.array([_engine.top(row[:n], min(k, n)) for row in cache.logits[rows]])
    return best, np.take_along_axis(explanation.log_softmax(cache.logits[rows]), best, axis=1)


def candidates(cache: ActivationCache, used: set[int]) -> Json:
    """The most probable tokens of every place, [T, k], and what stands there, [T]."""
    rows = range(len(cache.token_ids))
    best, logprobs = best_tokens(cache, rows, CANDIDATES)
    used.update(best.ravel().tolist())
    return {
        "k": best.shape[1],
        "ids": packed(best.astype(np.uint32)),
        "logprobs": packed(float32(logprobs)),
    }


def sides(cache: ActivationCache) -> np.ndarray:
    """How much each token attends to those before it, to itself, to those behind it: [n_layer, T, 3].

    The mean of the heads of a layer; the three sum to 1.
    """
    layers = []
    for i in range(cache.model.config.n_layer):
        mean = cache["pattern", i].mean(axis=0, dtype=np.float64)
        parts = np.tril(mean, -1).sum(axis=1), np.diag(mean), np.triu(mean, 1).sum(axis=1)
        layers.append(np.stack(parts, axis=1))
    return np.stack(layers)
