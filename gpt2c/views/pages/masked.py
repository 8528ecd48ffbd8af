"""The page of a BERT: what may stand in each place, and how it attends to both sides, as JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core import _engine
from ...introspection.edits import Edit
from ...introspection.head_scores import opening
from ...introspection.passes import capture, encoded
from ...masks.filling import fill
from ...scoring.options import check_outcome
from . import explanation
from .attention import attention
from .codes import float32, packed
from .document import assembled
from .gallery import gallery
from .language import ENGLISH, words_of

if TYPE_CHECKING:
    from ...core.lm import LoadedModel
    from ...core.prompts import Prompt
    from ...introspection.passes import ActivationCache

__all__ = ["candidates", "explain_masked_page", "mask_id", "read_masked", "sides"]

Json = dict[str, Any]

CANDIDATES = 10  # tokens of each place
WAYS = 5  # to fill several masks together


def read_masked(model: LoadedModel, text: Prompt, edits: Iterable[tuple[str, Edit]] = ()) -> ActivationCache:
    """The patterns of all heads of a BERT, captured of a text, and its logits."""
    ids, types = encoded(model, [text])
    [cache] = capture(model, ids, "attn.hook_pattern", edits, types=types)
    check_outcome(tuple(edits), cache.logits)
    return cache


def explain_masked_page(
    model: LoadedModel,
    text: Prompt,
    *,
    layer: int | None = None,
    head: int | None = None,
    layers: Sequence[int] | None = None,
    edits: explanation.Edits = (),
    lang: str = ENGLISH,
) -> str:
    """A page that shows what a BERT finds for the masks of a text, and where its heads look.

    Parameters
    ----------
    model : LoadedModel
        A BERT, with or without a head that predicts tokens.
    text : str or token ids
    layer, head, layers, edits, lang
        As for :func:`gpt2c.views.pages.explain_page`.
    """
    layer, head = explanation.checked_head(model, layer, head)
    layers = explanation.checked_layers(model, layers)
    cache = read_masked(model, text, edits)
    place = opening(cache, layer, head)
    used = set(cache.token_ids.tolist())
    data = {
        **explanation.about(model, cache.token_ids),
        "words": words_of(lang),
        **explanation.edited(model, edits),
        "start": place._asdict(),
        "gallery": gallery(cache, place),
        "attention": attention(cache, place.layer, hidden=False, layers=layers),
        "sides": packed(float32(sides(cache))),
        "masks": np.flatnonzero(cache.token_ids == mask_id(model)).tolist(),
    }
    if model.config.masked_head:
        data["candidates"] = candidates(cache, used)
        if len(data["masks"]) > 1 and not edits:
            ways: Any = fill(model, text, WAYS)
            data["ways"] = [{"text": way.text, "p": way.probability} for way in ways]
    data |= {"text": text} if isinstance(text, str) and text else {}
    data["pieces"] = explanation.pieces(model, used)
    return assembled(data, lang)


def mask_id(model: LoadedModel) -> int:
    """The token of a mask; -1 where the tokenizer names none."""
    found = model.tokenizer.mask_id if model.has_tokenizer else None
    return -1 if found is None else found


def candidates(cache: ActivationCache, used: set[int]) -> Json:
    """The most probable tokens of every place, and what stands there: [T, k] and [T]."""
    n = cache.model.n_text_tokens
    k = min(CANDIDATES, n)
    logits = cache.logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    logprobs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    best = np.array([_engine.top(row[:n], k) for row in cache.logits])
    used.update(best.ravel().tolist())
    own = logprobs[np.arange(len(best)), cache.token_ids]
    return {
        "k": k,
        "ids": packed(best.astype(np.uint32)),
        "logprobs": packed(float32(np.take_along_axis(logprobs, best, axis=1))),
        "own": packed(float32(own)),
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
