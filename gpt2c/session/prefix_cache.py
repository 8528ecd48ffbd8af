"""Keys and values of the starts of texts, shared by all calls of a model."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import shown

if TYPE_CHECKING:
    import numpy as np

    from ..core._engine import KVCache, Weights
    from ..core.prefixes import Model

__all__ = ["PrefixCache"]

BLOCK = 128  # positions; as many as in the engine's attention
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class PrefixCache:
    """Blocks of 128 positions, each identified by all tokens of its text up to its end.

    A text that starts with the tokens of an earlier one reuses its blocks and computes the rest; results are
    the same, byte for byte. The least recently used blocks are evicted first. It belongs to one model; calls
    from several threads share it.

    Parameters
    ----------
    size : int or str
        The maximum size of all blocks in bytes: 268435456 or "256MB".

    Attributes
    ----------
    size : int
    n_reused, n_computed : int
        Tokens of all texts so far that were and were not found here.
    """

    borrowed = False

    def __init__(self, size: int | str) -> None:
        self.size = _bytes(size)
        self.n_reused = self.n_computed = 0
        self._blocks: OrderedDict[bytes, KVCache] = OrderedDict()
        self._lock = threading.Lock()
        self._weights: Weights | None = None
        _caches.add(self)

    def __repr__(self) -> str:
        return (
            f"<PrefixCache: {len(self._blocks)} blocks, {self.nbytes:,} of {self.size:,} bytes; "
            f"{self.n_reused:,} tokens reused, {self.n_computed:,} computed>"
        )

    @property
    def nbytes(self) -> int:
        """The bytes that the blocks take."""
        # Summed anew: a separate count could stay wrong after an interrupt.
        return sum(block.nbytes for block in [*self._blocks.values()])

    def belong_to(self, weights: Weights) -> None:
        """Bind to a model and its copies; ValueError if it belongs to another model."""
        if weights.config.add_cross_attention:
            raise ValueError(
                "a model with cross-attention has no prefix cache: keys and values depend on the encoder's "
                "output"
            )
        if self._weights is None:
            self._weights = weights
        elif self._weights is not weights:
            raise ValueError(
                "this PrefixCache belongs to another model, whose keys and values are wrong here; "
                'give each model its own: model.prefix_cache = "256MB"'
            )

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()

    # ---- core/prefixes.py

    def begin(self, model: Model, ids: np.ndarray, capacity: int) -> KVCache:
        """A new cache with the blocks that match the start of ``ids``."""
        cache = model.new_cache(capacity)
        with self._lock:
            keys = []
            for end in range(BLOCK, len(ids), BLOCK):
                key = ids[:end].tobytes()
                block = self._blocks.get(key)
                if block is None or block.dtype != cache.dtype:
                    break
                keys.append(key)
                cache.take(block, 0, BLOCK)
            self._use(keys)
            self.n_reused += len(cache)
            self.n_computed += len(ids) - len(cache)
        return cache

    def keep(self, ids: np.ndarray, cache: KVCache) -> None:
        """Copy the blocks of a text that are not stored yet."""
        keys = [ids[:end].tobytes() for end in range(BLOCK, len(ids) + 1, BLOCK)]
        # No loop here: from CPython 3.12 on, an interrupt where a loop skips the rest of its body leaves a
        # with block without its __exit__, and the lock would be held forever.
        with self._lock:
            self._keep(keys, cache)

    def _keep(self, keys: Sequence[bytes], cache: KVCache) -> None:
        self._use([key for key in keys if key in self._blocks])
        nbytes = self.nbytes
        for i, key in enumerate(keys):
            known = self._blocks.get(key)
            if known is not None and known.dtype == cache.dtype:
                continue
            block = type(cache)(cache.weights, BLOCK, cache.dtype)
            nbytes += block.nbytes - (0 if known is None else self._blocks.pop(key).nbytes)
            while nbytes > self.size:
                oldest = next(iter(self._blocks), None)
                if oldest is None or oldest in keys[:i]:
                    return  # nothing else is left to evict
                nbytes -= self._blocks.pop(oldest).nbytes
            block.take(cache, i * BLOCK, (i + 1) * BLOCK)
            self._blocks[key] = block
            self._use(keys[: i + 1])

    def _use(self, keys: Sequence[bytes]) -> None:
        """Mark the blocks of a text as used: its first is evicted last, as the others need it."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)


_caches: WeakSet[PrefixCache] = WeakSet()


def _after_fork_in_child() -> None:
    """After a fork, a thread that no longer exists may hold the lock: start empty."""
    for cache in _caches:
        cache._lock = threading.Lock()
        cache.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _bytes(size: Any) -> int:
    found = size
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", size.upper())
        unit = None if match is None else _UNITS.get(match[2])
        found = None if match is None or unit is None else int(float(match[1]) * unit)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise ValueError(
            f"prefix_cache is {shown(size)}; allowed: a number of bytes, 268435456 or '256MB', or None"
        )
    return found
