"""Texts as vectors, pooled from their last hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import POOLINGS, Pooling
from ..core.checks import check_flag
from ..core.deadline import Deadline
from ..core.prompts import listed
from ..errors import ConfigError, shown
from .reading import Options, Reading, check_options, hidden_rows, read_all

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["check_pooling", "embed", "embeddings", "hidden", "lowered"]

_SMALLEST = 1e-12  # a vector is divided by this, if it is shorter: as torch does


def embed(
    model: LoadedModel,
    texts: Any,
    *,
    pooling: Any = None,
    normalize: Any = None,
    deadline: Any = None,
    **how: Any,
) -> np.ndarray:
    """See :meth:`gpt2c.GPT2.embed` and :meth:`gpt2c.BERT.embed`."""
    asked, options = check_pooling(model, pooling, normalize, **how)
    several, readings = read_all(model, lowered(texts, asked), options)
    found = np.empty((len(readings), model.config.n_embd), np.float32)
    for i, (_, vector) in enumerate(embeddings(model, readings, asked, Deadline.of(deadline))):
        found[i] = vector
    return found if several else found[0]


def hidden(
    model: LoadedModel, texts: Any, *, deadline: Any = None, **how: Any
) -> np.ndarray | list[np.ndarray]:
    """See :meth:`gpt2c.BERT.hidden`."""
    several, readings = read_all(model, texts, check_options(model, **how))
    found = [rows for _, rows in hidden_rows(model, readings, _all, Deadline.of(deadline))]
    return found if several else found[0]


def check_pooling(
    model: LoadedModel, pooling: Any = None, normalize: Any = None, **how: Any
) -> tuple[Pooling, Options]:
    """How texts become vectors: as requested, else as the model's files say, else the mean."""
    own = model.config.pooling or Pooling()
    if pooling is not None and pooling not in POOLINGS:
        *names, last = map(repr, POOLINGS)
        raise ValueError(f"pooling must be {', '.join(names)} or {last}, not {shown(pooling)}")
    if pooling is None and own.problem:
        raise ConfigError(f"{model.name}: {own.problem}. pooling= (--pooling) chooses a supported one")
    options = check_options(model, **how)
    if options.max_tokens is None:
        options = options._replace(max_tokens=own.max_tokens)
    asked = own if pooling is None else replace(own, mode=pooling)
    if normalize is not None:
        asked = replace(asked, normalize=check_flag("normalize", normalize))
    return asked, options


def lowered(texts: Any, pooling: Pooling) -> Any:
    """The texts in the form that the model expects."""
    if not pooling.lower:
        return texts
    if isinstance(texts, str):
        return texts.lower()
    column = listed(texts)
    return [lowered(text, pooling) for text in column] if isinstance(column, list) else texts


def embeddings(
    model: LoadedModel, readings: Iterable[Reading], pooling: Pooling, deadline: Deadline | None = None
) -> Iterator[tuple[Reading, np.ndarray]]:
    """The vectors of texts, float32 [n_embd] each, in order."""
    wanted, pooled = _POOLED[pooling.mode]
    for reading, rows in hidden_rows(model, readings, wanted, deadline):
        vector = pooled(rows.astype(np.float64))
        if pooling.normalize:
            vector = vector / max(float(np.sqrt((vector * vector).sum())), _SMALLEST)
        yield reading, vector.astype(np.float32)


def _all(reading: Reading) -> np.ndarray:
    return np.arange(len(reading.ids))


def _first(reading: Reading) -> np.ndarray:
    return np.zeros(1, np.intp)


def _last(reading: Reading) -> np.ndarray:
    return np.array([len(reading.ids) - 1])


def _weighted(rows: np.ndarray) -> np.ndarray:
    weights = np.arange(1.0, len(rows) + 1)
    return np.asarray((rows * weights[:, None]).sum(axis=0) / weights.sum())


# Pooling -> the rows of a text, and their combination, in float64.
_POOLED: dict[str, tuple[Callable[[Reading], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "mean": (_all, lambda rows: rows.mean(axis=0)),
    "cls": (_first, lambda rows: rows[0]),
    "last": (_last, lambda rows: rows[0]),
    "max": (_all, lambda rows: rows.max(axis=0)),
    "mean_sqrt_len": (_all, lambda rows: rows.sum(axis=0) / np.sqrt(len(rows))),
    "weighted_mean": (_all, _weighted),
}
