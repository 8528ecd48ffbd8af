"""Stored keys and values, from which a text that starts like an earlier one continues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ._engine import KVCache

__all__ = ["Model", "NothingKept", "Prefixes", "common_length"]


class Model(Protocol):
    """The part of a LoadedModel used here."""

    def new_cache(self, n_ctx: int | None = None) -> KVCache:
        """An empty cache with room for ``n_ctx`` tokens."""


class Prefixes(Protocol):
    """A store of earlier texts. It changes how much is computed, never a result."""

    borrowed: bool
    """Whether the caches from `begin` stay in use here, so that callers must branch from them."""

    def begin(self, model: Model, ids: np.ndarray, capacity: int) -> KVCache:
        """A cache with room for ``capacity`` tokens, empty or with the first ones of ``ids``.

        At least one token of ``ids`` is left to compute, for its logits.
        """

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """Record that ``cache``, from `begin`, now holds ``ids``."""


class NothingKept:
    """Stores nothing: every text is computed from its start."""

    borrowed = False

    def begin(self, model: Model, ids: np.ndarray, capacity: int) -> KVCache:
        """An empty cache."""
        return model.new_cache(capacity)

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """Does nothing."""


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """The length of the common prefix of two texts, in tokens."""
    n = min(len(one), len(other))
    different = (one[:n] != other[:n]).nonzero()[0]
    return int(different[0]) if len(different) else n
