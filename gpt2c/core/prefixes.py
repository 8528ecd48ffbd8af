"""Keys and values that are kept, so that a text which begins like an earlier one goes on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ._engine import KVCache

__all__ = ["Model", "NothingKept", "Prefixes", "common_length"]


class Model(Protocol):
    """What is needed of a LoadedModel."""

    def new_cache(self, n_ctx: int | None = None) -> KVCache:
        """An empty cache with room for so many tokens."""


class Prefixes(Protocol):
    """What is kept of earlier texts. It changes how much is computed, never a result."""

    borrowed: bool
    """Whether the caches that `begin` gives stay in use here: who goes on from one makes a branch of it."""

    def begin(self, model: Model, ids: np.ndarray, capacity: int) -> KVCache:
        """A cache with room for ``capacity`` tokens that holds none, or the first ones of ``ids``.

        At least one token of ``ids`` is left to be computed: its logits are what is wanted.
        """

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """Take note that ``cache``, from `begin`, now holds ``ids``."""


class NothingKept:
    """Every text is computed from its beginning."""

    borrowed = False

    def begin(self, model: Model, ids: np.ndarray, capacity: int) -> KVCache:
        """An empty cache."""
        return model.new_cache(capacity)

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """Nothing is kept."""


def common_length(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens at their beginning two texts have in common."""
    n = min(len(one), len(other))
    different = (one[:n] != other[:n]).nonzero()[0]
    return int(different[0]) if len(different) else n
