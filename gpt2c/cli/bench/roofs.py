"""What this machine can do at best: the roofs that every speed is divided by."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core import _engine, _roofs

__all__ = ["median_and_spread", "operation_rate", "read_rate", "roofline", "waiting"]

# Medians and spreads are of this many rounds.
ROUNDS = 5
# Seconds that each measurement of a roof takes.
ROOF_SECONDS = 0.05
# Enough steps to make the start of the threads negligible.
ROOF_STEPS = 400_000
# In bytes: more than most caches; what the second-level cache of a thread holds; the least that a call reads.
MEMORY = 256 << 20
NEAR = 512 << 10
SMALLEST_CALL = 64 << 20
PHASES = 2_000


def median_and_spread(values: Sequence[float]) -> dict[str, float]:
    """Repeated measurements as ``median``, ``low`` and ``high``."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def read_rate(memory: np.ndarray, *, isa: str | None = None, threads: int = 1) -> float:
    """Bytes per second of reading all of `memory` (float32) again and again."""
    # A call reads a small buffer several times, because Python takes longer to make a call than to read it.
    passes = -(-SMALLEST_CALL // memory.nbytes)
    how: dict[str, Any] = {"passes": passes, "isa": isa, "threads": threads}
    # The caches still hold what ran before.
    _roofs.read_all(memory, **how)
    begin, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - begin < ROOF_SECONDS:
        _roofs.read_all(memory, **how)
        calls += 1
    return calls * passes * memory.nbytes / (time.perf_counter() - begin)


def operation_rate(dtype: str, *, isa: str | None = None, threads: int = 1) -> float:
    """Operations per second in a number format, two per weight multiplied, out of registers.

    bfloat16 is multiplied in pairs by an instruction of its own, or widened to float32: the faster counts.
    """
    if dtype == "bfloat16":
        instruction = _rate_of_steps(dtype, isa, threads)
        return max(instruction, _rate_of_steps("float32", isa, threads))
    return _rate_of_steps(dtype, isa, threads)


def _rate_of_steps(dtype: str, isa: str | None, threads: int) -> float:
    """The best of many short runs: registers have no neighbours, so what is slower was disturbed."""
    until, best = time.perf_counter() + ROOF_SECONDS, 0.0
    while best == 0 or time.perf_counter() < until:
        begin = time.perf_counter()
        done = _roofs.operations(dtype, ROOF_STEPS, isa=isa, threads=threads)
        best = max(best, done / (time.perf_counter() - begin))
    return best


def waiting(threads: int) -> tuple[float, float]:
    """Seconds to open and close a parallel region, and of a phase in it that ends with a barrier."""

    def seconds(phases: int) -> float:
        begin = time.perf_counter()
        _roofs.phases(phases, threads=threads)
        return time.perf_counter() - begin

    # The first call starts the threads.
    seconds(1)
    region = min(seconds(0) for _ in range(20))
    return region, max(0.0, seconds(PHASES) - region) / PHASES


def roofline(isa: str, threads: int) -> list[dict[str, Any]]:
    """Measure the roofs by number of threads, in `ROUNDS` rounds, the numbers alternating.

    Parameters
    ----------
    isa : str
        The instruction set.
    threads : int
        The largest number; smaller powers of two are measured too.

    Returns
    -------
    list of dict
        For each number of ``threads``: ``read_memory`` and ``read_cache`` (bytes per second, of 256 MiB, and
        of half a MiB for each thread), ``float32``, ``bfloat16`` and ``int8`` (operations per second, two
        per weight multiplied), ``region`` and ``phase`` (seconds, see `waiting`): each with its ``median``,
        ``low`` and ``high``.
    """
    memory = _engine.aligned_empty(MEMORY // 4)
    memory.fill(1)
    counts = sorted({threads, *(1 << i for i in range(threads.bit_length()) if 1 << i <= threads)})
    found: list[dict[str, list[float]]] = [{} for _ in counts]

    for _ in range(ROUNDS):
        for n, roofs in zip(counts, found, strict=True):
            how: dict[str, Any] = {"isa": isa, "threads": n}
            region, phase = waiting(n)
            values = {
                "read_memory": read_rate(memory, **how),
                "read_cache": read_rate(memory[: n * NEAR // 4], **how),
                **{dtype: operation_rate(dtype, **how) for dtype in ("float32", "bfloat16", "int8")},
                "region": region,
                "phase": phase,
            }
            for name, value in values.items():
                roofs.setdefault(name, []).append(value)
    return [
        {"threads": n, **{name: median_and_spread(values) for name, values in roofs.items()}}
        for n, roofs in zip(counts, found, strict=True)
    ]
