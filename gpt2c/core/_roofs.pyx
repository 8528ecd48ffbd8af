# cython: language_level=3
"""The limits of a machine, for benchmarks: reading memory, arithmetic, and synchronizing threads.

``isa`` is the name of an instruction set in ``gpt2c.core._engine.isas()`` (None: the engine's default).
"""

import numpy as np

from gpt2c.core._kernels cimport (
    dtype_of, empty_phases, find_kernels, gpt2c_dtype, gpt2c_kernels, memory_of, parallel_for, threads_now,
)

cdef enum:
    LINE = 16  # floats in a cache line: each thread writes its own


cdef struct RoofWork:
    const gpt2c_kernels *kernels
    const float *x
    gpt2c_dtype dtype
    ptrdiff_t steps
    float *sums
    double *done


cdef void read_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef RoofWork *w = <RoofWork *>work
    cdef ptrdiff_t _
    for _ in range(w.steps):
        w.sums[LINE * thread] = w.kernels.read_all(w.x + begin, end - begin)


cdef void operations_range(void *work, ptrdiff_t begin, ptrdiff_t end, int thread) noexcept nogil:
    cdef RoofWork *w = <RoofWork *>work
    w.done[LINE * thread] = w.kernels.operations(w.dtype, w.steps, &w.sums[LINE * thread])


def read_all(x, *, ptrdiff_t passes=1, isa=None, threads=1):
    """Read the vector repeatedly, each thread its part; returns the sum, so that no read is optimized away."""
    if x.dtype != np.float32 or x.ndim != 1:
        raise ValueError("x must be a float32 vector")
    cdef int team = threads_now(threads)
    cdef ptrdiff_t n = len(x)
    sums = np.zeros(LINE * team, np.float32)
    cdef RoofWork work
    work.kernels, work.x, work.steps = find_kernels(isa), <const float *>memory_of(x), passes
    work.sums = <float *>memory_of(sums)
    with nogil:
        parallel_for(team, n, read_range, &work)
    return float(sums.sum())


def phases(ptrdiff_t n, *, threads=1):
    """A parallel region of ``n`` phases without work, after each of which all threads synchronize."""
    cdef int team = threads_now(threads)
    with nogil:
        empty_phases(team, n)


def operations(str dtype, ptrdiff_t steps, *, isa=None, threads=1):
    """Run ``steps`` steps of a number format's arithmetic on every thread, without reading memory.

    Returns the number of operations, two per weight multiplied.
    """
    cdef int team = threads_now(threads)
    sums, done = np.zeros(LINE * team, np.float32), np.zeros(LINE * team)
    cdef RoofWork work
    work.kernels, work.dtype, work.steps = find_kernels(isa), dtype_of(dtype), steps
    work.sums, work.done = <float *>memory_of(sums), <double *>memory_of(done)
    with nogil:
        parallel_for(team, team, operations_range, &work)
    return float(done.sum())
