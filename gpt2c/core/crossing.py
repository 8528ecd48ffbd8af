"""Models with cross-attention, which read the output of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ..config import Config
from ..errors import ConfigError, shown
from . import _engine
from .prefixes import NothingKept

__all__ = ["Beginning", "Encoded", "check_given", "given", "given_each"]


class Encoded(NamedTuple):
    """The output of an encoder, as a model attends to it."""

    keys: _engine.KVCache
    """Keys and values of every layer."""
    tokens: Sequence[str] | None
    """Labels of its positions in plots."""


class Reader(Protocol):
    """The part of a LoadedModel used here."""

    name: str
    config: Config
    weights: _engine.Weights
    cache_dtype: Any
    threads: Any
    cross: Encoded | None

    def new_cache(self, n_ctx: int | None = None) -> _engine.KVCache:
        """An empty cache with room for ``n_ctx`` tokens."""


Model = TypeVar("Model", bound=Reader)


class Beginning(NothingKept):
    """Starts the texts of calls that several such models share with a cache of this model."""

    def __init__(self, model: Reader) -> None:
        self._model = model

    def begin(self, model: object, ids: np.ndarray, capacity: int) -> _engine.KVCache:
        """An empty cache of the named model, whichever model computes."""
        return self._model.new_cache(capacity)


def check_given(config: Config, name: str, cross: Encoded | None) -> None:
    """Raise ConfigError if a model needs the output of an encoder but has none."""
    if config.add_cross_attention and cross is None:
        raise ConfigError(
            f"{name} attends to the output of an encoder, but has none: use model.given(states) with an "
            "array [positions, n_embd]; gpt2c.EncoderDecoder loads models together with their encoder"
        )


def given(model: Model, states: Any, tokens: Any = None) -> Model:
    """See :meth:`gpt2c.GPT2.given`."""
    return given_each(model, [states], [tokens])[0]


def given_each(model: Model, states: Sequence[Any], tokens: Sequence[Any]) -> list[Model]:
    """Copies of a model, each with one encoder output; all keys and values are computed in one call."""
    if not model.config.add_cross_attention:
        raise ConfigError(
            f"{model.name} has no cross-attention (add_cross_attention is false in its configuration), so it "
            "cannot read the output of an encoder"
        )
    checked = [_checked(rows, model.config.n_embd) for rows in states]
    for rows, names in zip(checked, tokens, strict=True):
        _check_tokens(names, len(rows))
    found = _engine.cross_keys(model.weights, checked, dtype=model.cache_dtype, threads=model.threads)
    return [_with(model, Encoded(keys, names)) for keys, names in zip(found, tokens, strict=True)]


def _with(model: Model, encoded: Encoded) -> Model:
    other = copy(model)
    other.cross = encoded
    return other


def _check_tokens(tokens: Any, n: int) -> None:
    if tokens is None:
        return
    if not isinstance(tokens, list | tuple) or not all(isinstance(token, str) for token in tokens):
        raise TypeError(f"tokens must be a list of str, one per position, not {shown(tokens)}")
    if len(tokens) != n:
        raise ValueError(
            f"tokens must have one label for each of the {n} positions of the states, not {len(tokens)}"
        )


def _checked(states: Any, n_embd: int) -> np.ndarray:
    """The output of an encoder as float32 [positions, n_embd]."""
    needed = f"an array [positions, {n_embd}] of finite numbers with at least one position"
    try:
        found = np.asarray(states)
    except ValueError:  # lists of different lengths
        raise TypeError(f"the encoder's states must be {needed}, not {shown(states)}") from None
    if found.dtype.kind not in "fiu":
        raise TypeError(
            f"the encoder's states must be {needed}, not {type(states).__name__} of {found.dtype}"
        )
    if found.ndim != 2 or not len(found) or found.shape[1] != n_embd:
        raise ValueError(f"the encoder's states must be {needed}, not {list(found.shape)}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"the encoder's states must be {needed}; these hold NaN or infinity")
    return rows
