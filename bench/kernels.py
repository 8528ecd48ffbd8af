"""The dense layer alone, by number of rows: shares of the roofs of the same run, and NumPy's BLAS beside it.

    python bench/kernels.py [--threads N] [--isa ISA]

One row is bound by reading weights (they are larger than any cache here), many rows by multiply-adds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from gpt2c import _engine, _ops
from gpt2c.threads import default_threads

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
N_IN, N_OUT = 768, 3072
COPIES = 24  # weights used in turn: 24 x 9.4 MB do not stay in a cache
ROUNDS = 5
STEPS = 3_000_000  # of the multiply-add roof


def seconds(work) -> float:
    time.sleep(0.1)  # until the threads of whoever ran before have stopped spinning
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--isa", choices=_engine.isas(), default=_engine.default_isa())
    options = parser.parse_args()
    how = {"isa": options.isa, "threads": options.threads}

    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((N_IN, N_OUT), dtype=np.float32) for _ in range(COPIES)]
    panels = [_ops.pack(w) for w in weights]
    memory = np.ones(64 << 20, np.float32)
    print(f"{N_IN} inputs, {N_OUT} outputs, {options.threads} threads, {options.isa}; {ROUNDS} rounds")
    print(f"{'rows':>5}{'GFLOP/s':>10}{'GB/s':>8}{'of fma':>8}{'of reads':>10}{'NumPy GFLOP/s':>15}")
    for rows in ROWS:
        x = rng.standard_normal((rows, N_IN), dtype=np.float32)
        ours, theirs, fma, read = [], [], [], []
        for _ in range(ROUNDS):
            ours.append(seconds(lambda x=x: [_ops.linear(x, p, N_OUT, **how) for p in panels]))
            theirs.append(seconds(lambda x=x: [x @ w for w in weights]))
            read.append(memory.nbytes / seconds(lambda: _ops.read_all(memory, **how)))
            fma.append(_ops.multiply_add(STEPS, **how) / seconds(lambda: _ops.multiply_add(STEPS, **how)))
        flop, size = 2.0 * rows * N_IN * N_OUT * COPIES, 4.0 * N_IN * N_OUT * COPIES
        ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
        print(
            f"{rows:>5}{flop / ours_s / 1e9:>10.1f}{size / ours_s / 1e9:>8.1f}"
            f"{flop / ours_s / statistics.median(fma):>8.0%}{size / ours_s / statistics.median(read):>10.0%}"
            f"{flop / theirs_s / 1e9:>15.1f}"
        )


if __name__ == "__main__":
    main()
