"""The cost of a number format: models with the same weights side by side on a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from .. import reference
from ..core.lm import LoadedModel
from ..errors import ConfigError

__all__ = ["SAMPLE", "Cost", "compare", "windows"]

SAMPLE = Path(__file__).parent.parent / "data" / "model" / "sample.txt"
"""Passages that the bundled model never saw."""

ROWS = 128  # of logits to compute at a time


class Cost(TypedDict):
    """The distance of a model from the one it is compared with."""

    delta_percent: float  # of the mean log-loss
    agreement_percent: float  # how often both have the same most probable token
    kl: float  # mean Kullback-Leibler divergence from the other, in nats


def windows(model: LoadedModel, text: str) -> list[np.ndarray]:
    """The text as windows of token ids, int32 [2 to n_ctx + 1] each, which start with the start tokens."""
    try:
        start = model.start_ids
    except ConfigError:  # it has none
        start = ()
    size, found = model.config.n_ctx + 1 - len(start), []
    for document in text.split("<|endoftext|>"):
        ids = model.tokenizer.encode(document.strip("\n"))
        found += [[*start, *ids[i : i + size]] for i in range(0, len(ids), size)]
    return [np.array(ids, np.int32) for ids in found if len(ids) > 1]


def logits(model: LoadedModel, ids: np.ndarray) -> Iterator[np.ndarray]:
    """The logits after each token of a window, float32 [up to ROWS, n_vocab] at a time."""
    cache = model.new_cache(len(ids))
    for start in range(0, len(ids), ROWS):
        yield model.forward(ids[start : start + ROWS], cache)


def compare(
    texts: Sequence[np.ndarray], expected: LoadedModel, others: Mapping[str, LoadedModel]
) -> tuple[float, dict[str, Cost]]:
    """Run models side by side.

    Parameters
    ----------
    texts : list of int32 arrays
        See `windows`.
    expected : LoadedModel
        The model in float32.
    others : mapping
        Name -> the same model in another format.

    Returns
    -------
    loss : float
        Of the float32 model: the mean of -log p(token), in nats.
    found : dict
        Name -> Cost.
    """
    n, loss = 0, 0.0
    sums = {name: np.zeros(3) for name in others}
    for text in texts:
        targets = text[1:]
        streams = [logits(model, text[:-1]) for model in (expected, *others.values())]
        for start, chunks in zip(range(0, len(targets), ROWS), zip(*streams, strict=True), strict=True):
            wanted = targets[start : start + ROWS, None]
            log_p, *log_qs = (reference.log_softmax(chunk) for chunk in chunks)
            p, top = np.exp(log_p), log_p.argmax(-1)
            right = np.take_along_axis(log_p, wanted, -1)
            loss -= float(right.sum())
            for name, log_q in zip(others, log_qs, strict=True):
                worse = (right - np.take_along_axis(log_q, wanted, -1)).sum()
                sums[name] += worse, np.count_nonzero(log_q.argmax(-1) == top), (p * (log_p - log_q)).sum()
        n += len(targets)
    return loss / n, {
        name: {"delta_percent": 100 * worse / loss, "agreement_percent": 100 * same / n, "kl": kl / n}
        for name, (worse, same, kl) in ((name, values.tolist()) for name, values in sums.items())
    }
