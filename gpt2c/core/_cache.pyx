# cython: language_level=3
"""The keys and values of a text."""

import math
import os

import numpy as np

from gpt2c.core._kernels import DEFAULT_CACHE_DTYPES
from gpt2c.errors import CacheInUseError

cimport cython

from gpt2c.core._kernels cimport GPT2C_KEY_BLOCK, GPT2C_LANES, cache_dtype_of, keys_bytes, memory_of, values_bytes


cdef ptrdiff_t groups_of(ptrdiff_t positions) noexcept:
    return (positions + GPT2C_LANES - 1) // GPT2C_LANES


@cython.no_gc_clear  # __dealloc__ needs its attributes
cdef class KVCache:
    """Keys and values of one sequence, so that no earlier token is computed again.

    ``len(cache)`` is the number of positions filled.

    Parameters
    ----------
    weights : Weights
        The model it belongs to; other models refuse it. A new cache reuses the memory of a dropped one.
    n_ctx : int, optional
        Positions it has room for, 1 to the model's n_ctx (the default). Pages are committed as positions are filled.
    dtype : {"float32", "float16", "bfloat16"}, optional
        The number format of keys and values; None: the one that goes with the weights' format. float16 needs half the
        memory and rounds to nearest (beyond 65520 to infinity); so does bfloat16, with fewer digits and no such limit.
        With bfloat16, queries and attention weights are rounded, too, so that CPUs with an instruction for pairs of
        bfloat16 multiply twice as fast. Sums are float32.
    prefix : KVCache, optional
        A cache that this one continues: its positions are read in place instead of copied (except up to 15). While
        other caches read them it is frozen: it may be the prefix of more caches, but neither grow nor shrink. Both have
        the same ``cross``.
    cross : KVCache, optional
        For a model with cross-attention: keys and values of the output of an encoder, from ``cross_keys``.
    of_encoder : bool
        Whether it holds keys and values of an encoder's output: then n_ctx is unlimited.

    Attributes
    ----------
    n_ctx : int
    cross : KVCache, optional
    branches : int
        The number of caches that read its positions; above 0 it is frozen.
    nbytes : int
        Bytes allocated: 2 * n_layer * n_kv_head * head_dim * 4 (for 16 bits: * 2) per position, n_ctx rounded up to 16
        or 128; some more if the width of a head is not a multiple of 16.
    """

    def __cinit__(self, Weights weights not None, n_ctx=None, dtype=None, KVCache prefix=None,
                  KVCache cross=None, *, bint of_encoder=False):
        most = max(n_ctx or 0, weights.config.n_ctx) if of_encoder else weights.config.n_ctx
        if n_ctx is None:
            n_ctx = most
        if isinstance(n_ctx, bool) or not isinstance(n_ctx, (int, np.integer)) or not 1 <= n_ctx <= most:
            raise ValueError(f"n_ctx of a cache is {n_ctx!r}; allowed: 1 to {most}, the positions of the model")
        if dtype is None:
            dtype = DEFAULT_CACHE_DTYPES[weights.dtype]
        self.c.dtype = cache_dtype_of(dtype)
        self.weights, self.n_ctx, self.dtype = weights, n_ctx, dtype
        if prefix is not None:
            self.adopt(prefix)
            cross = prefix.cross
        if cross is not None and cross.weights is not weights:
            raise ValueError("cross must be keys and values of an encoder's output for the same model")
        self.cross = cross
        # Few sizes, so that memory is reused, but small ones for the many caches of short texts.
        cdef ptrdiff_t own = max(1, n_ctx - self.c.shared)
        cdef ptrdiff_t step = GPT2C_LANES if own < GPT2C_KEY_BLOCK else GPT2C_KEY_BLOCK
        cdef ptrdiff_t capacity = (own + step - 1) // step * step
        cdef ptrdiff_t d_head = weights.model.d_head
        shape = (weights.model.n_layer * weights.model.n_kv_head, capacity // GPT2C_LANES)
        self.k = weights.acquire_memory(math.prod(shape) * keys_bytes(self.c.dtype, d_head)).reshape(*shape, -1)
        self.v = weights.acquire_memory(math.prod(shape) * values_bytes(self.c.dtype, d_head)).reshape(*shape, -1)
        self.c.k, self.c.v, self.c.capacity = memory_of(self.k), memory_of(self.v), capacity
        if prefix is not None:
            self.copy_positions(prefix)

    def __dealloc__(self):
        if self.prefix is not None:
            self.prefix.branches -= 1
        if self.v is not None:  # else the constructor failed
            self.weights.dropped = [self.k.reshape(-1), self.v.reshape(-1)]

    def __len__(self):
        return self.length

    def __repr__(self):
        return f"KVCache({self.length} of {self.n_ctx} positions)"

    @property
    def nbytes(self):
        return self.k.nbytes + self.v.nbytes

    cdef int acquire(self) except -1:
        if self.busy_in is not None and self.busy_in == os.getpid():
            raise CacheInUseError("this KVCache is in use by another call (or was passed twice to one call); "
                                  "give every sequence its own cache, e.g. cache.fork()")
        self.busy_in = os.getpid()
        return 0

    cdef void release(self):
        self.busy_in = None

    cdef int acquire_to_change(self) except -1:
        if self.branches:
            raise ValueError("this KVCache is the prefix of others and cannot change while they exist; use a fork() of "
                             "it")
        return self.acquire()

    cdef int adopt(self, KVCache prefix) except -1:
        """Freeze a prefix, whose positions are then read in place, up to a multiple of 16."""
        if prefix.weights is not self.weights or prefix.dtype != self.dtype or prefix.prefix is not None:
            raise ValueError("the prefix of a cache must be of the same model and dtype, and have none itself")
        prefix.acquire()
        try:
            if self.n_ctx < prefix.length:
                raise ValueError(f"n_ctx of a cache is {self.n_ctx!r}, but its prefix has {prefix.length} positions")
            self.prefix, self.length = prefix, prefix.length - prefix.length % GPT2C_LANES
            prefix.branches += 1
            self.c.k0, self.c.v0, self.c.capacity0 = prefix.c.k, prefix.c.v, prefix.c.capacity
            self.c.shared = self.length
        finally:
            prefix.release()
        return 0

    cdef int copy_groups(self, KVCache other, ptrdiff_t here, ptrdiff_t there, ptrdiff_t n) except -1:
        """Copy ``n`` times 16 positions from the memory that ``other`` owns."""
        self.k[:, here:here + n] = other.k[:, there:there + n]
        self.v[:, here:here + n] = other.v[:, there:there + n]
        return 0

    cdef int copy_positions(self, KVCache other) except -1:
        """Copy the positions of ``other`` beyond this cache's length."""
        cdef ptrdiff_t first = self.length // GPT2C_LANES, n = groups_of(other.length) - first
        self.copy_groups(other, first - self.c.shared // GPT2C_LANES, first - other.c.shared // GPT2C_LANES, n)
        self.length = other.length
        return 0

    def take(self, KVCache other not None, begin, end):
        """Copy positions ``begin`` to ``end`` of ``other`` to the end of this cache.

        ``begin`` and the length of this cache are multiples of 16. Nothing is copied beyond the length of ``other``.
        """
        cdef ptrdiff_t first = begin, last = end, n
        if other is self or other.weights is not self.weights or other.dtype != self.dtype or \
                other.cross is not self.cross:
            raise ValueError("a cache can only take positions of one with the same model, dtype and encoder output")
        if first % GPT2C_LANES or self.length % GPT2C_LANES or not 0 <= first <= last <= other.length or \
                self.length + last - first > self.n_ctx:
            raise ValueError(f"take({begin!r}, {end!r}) of {other!r} into {self!r}: must go from one multiple of 16 to "
                             "another, with room for the positions")
        while first < last:  # a part of them may be in the prefix of the other
            n = last - first
            if other.prefix is not None and first < other.c.shared:
                n = min(n, other.c.shared - first)
                self.take_own(other.prefix, first, first + n)
            else:
                self.take_own(other, first, last)
            first += n

    cdef int take_own(self, KVCache other, ptrdiff_t first, ptrdiff_t last) except -1:
        cdef ptrdiff_t here = self.length - self.c.shared, there = first - other.c.shared, n = last - first
        self.acquire_to_change()
        try:
            other.acquire()
            try:
                self.copy_groups(other, here // GPT2C_LANES, there // GPT2C_LANES, groups_of(n))
                self.length += n
            finally:
                other.release()
        finally:
            self.release()
        return 0

    def state(self):
        """Keys and values of the filled positions, uint8 [n] each, for ``restore``."""
        cdef ptrdiff_t groups = groups_of(self.length), rest = self.length % GPT2C_LANES
        if self.prefix is not None:
            raise ValueError("a cache with a prefix holds only a part of its text; use a copy without a prefix")
        keys, values = self.k[:, :groups].copy(), self.v[:, :groups].copy()
        if rest:  # beyond the filled positions, arbitrary bytes
            number = "u2" if self.dtype == "float16" else "u4"
            keys[:, -1].view(number).reshape(keys.shape[0], -1, GPT2C_LANES)[:, :, rest:] = 0
            last = values[:, -1].view("u4" if self.dtype == "float32" else "u2")
            if self.dtype == "bfloat16":
                pairs = last.reshape(keys.shape[0], GPT2C_LANES // 2, -1, 2)
                pairs[:, (rest + 1) // 2:] = 0
                if rest % 2:
                    pairs[:, rest // 2, :, 0] = 0
            else:
                last.reshape(keys.shape[0], GPT2C_LANES, -1)[:, rest:] = 0
        return keys.reshape(-1), values.reshape(-1)

    def restore(self, keys, values, n):
        """Fill an empty cache with ``n`` positions from ``state`` of a cache of this model and dtype."""
        cdef ptrdiff_t length = n, groups = groups_of(length)
        if self.length or self.prefix is not None or not 0 <= length <= self.n_ctx:
            raise ValueError(f"restore needs an empty cache with room for {n!r} positions; this is {self!r}")
        k, v = self.k[:, :groups], self.v[:, :groups]
        if (keys.size, values.size) != (k.nbytes, v.nbytes):
            raise ValueError(f"{keys.size} and {values.size} bytes are not the keys and values of {n} positions; "
                             f"needed: {k.nbytes} and {v.nbytes}")
        k[...] = keys.reshape(k.shape)
        v[...] = values.reshape(v.shape)
        self.length = length

    def truncate(self, n):
        """Forget all but the first ``n`` positions, 0 <= n <= len(cache); at least those of a prefix."""
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not self.c.shared <= n <= self.length:
            raise ValueError(f"truncate({n!r}); allowed: {self.c.shared} to {self.length}, the filled positions"
                             f"{' (a prefix holds the others)' if self.c.shared else ''}")
        self.acquire_to_change()
        self.length = n
        self.release()

    def follow(self, KVCache other not None, n):
        """Become equal to ``other``; the first ``n`` positions agree already and are not copied.

        Both must have the same prefix, or none; ``n`` is at most the length of either.
        """
        if other is self or other.weights is not self.weights or other.dtype != self.dtype or \
                other.prefix is not self.prefix or other.cross is not self.cross or other.length > self.n_ctx:
            raise ValueError("a cache can only follow one with the same model, dtype, prefix and encoder output, which "
                             "fits into it")
        if not self.c.shared <= n <= min(self.length, other.length):
            raise ValueError(f"n is {n}; allowed: {self.c.shared} to {min(self.length, other.length)}")
        self.acquire_to_change()
        try:
            other.acquire()
            try:
                self.length = n
                self.copy_positions(other)
            finally:
                other.release()
        finally:
            self.release()

    def branch(self, n_ctx):
        """A cache that continues this one, with room for ``n_ctx`` positions: this is its ``prefix``."""
        return KVCache(self.weights, n_ctx, self.dtype, self)

    def fork(self, n_ctx=None):
        """An independent copy.

        Parameters
        ----------
        n_ctx : int, optional
            Positions that the copy has room for, at least len(cache); None: as many as this one.
        """
        cdef KVCache copy = KVCache(self.weights, self.n_ctx if n_ctx is None else n_ctx, self.dtype, self.prefix,
                                    self.cross)
        if copy.n_ctx < self.length:
            raise ValueError(f"fork(n_ctx={n_ctx!r}); allowed: {self.length} (the filled positions) or more")
        self.acquire()
        try:
            copy.length = self.c.shared
            copy.copy_positions(self)
        finally:
            self.release()
        return copy
