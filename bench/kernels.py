"""The dense layer alone, by number of rows: shares of the roofs of the same run, and NumPy's BLAS beside it.

    python bench/kernels.py [--dtype DTYPE] [--threads N] [--isa ISA]

One row is bound by reading weights, many rows by arithmetic. Rounding the rows to the number format is part
of the time. NumPy multiplies float32, whatever the format.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from gpt2c import _engine, _ops
from gpt2c.benchmark import operation_rate, read_rate
from gpt2c.threads import default_threads

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
N_IN, N_OUT = 768, 8 * 3072  # eight layers side by side: a call takes long beside what Python does around it
COPIES = 3  # weights used in turn
ROUNDS = 5


def seconds(work) -> float:
    time.sleep(0.1)  # until the threads of whoever ran before have stopped spinning
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=_engine.DTYPES, default="float32")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--isa", choices=_engine.isas(), default=_engine.default_isa())
    options = parser.parse_args()
    how = {"isa": options.isa, "threads": options.threads}

    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((N_IN, N_OUT), dtype=np.float32) for _ in range(COPIES)]
    panels = [_ops.pack(w, dtype=options.dtype, threads=options.threads) for w in weights]
    size = sum(p.nbytes for p in panels)
    memory = _engine.aligned_empty(size // 4)
    memory.fill(1)
    print(f"{options.dtype}: {N_IN} inputs, {N_OUT} outputs, {size / 1e6:.0f} MB of weights in turn, "
          f"{options.threads} threads, {options.isa}; {ROUNDS} rounds")  # fmt: skip
    print(f"{'rows':>5}{'Gop/s':>10}{'GB/s':>8}{'of arithmetic':>15}{'of reads':>10}{'NumPy GFLOP/s':>15}")
    for rows in ROWS:
        x = rng.standard_normal((rows, N_IN), dtype=np.float32)

        def ours_once(x=x):
            for p in panels:
                _ops.linear(x, p, N_OUT, dtype=options.dtype, **how)

        ours, theirs, arithmetic, read = [], [], [], []
        for _ in range(ROUNDS):
            read.append(read_rate(memory, **how))
            ours.append(seconds(ours_once))
            arithmetic.append(operation_rate(options.dtype, **how))
            theirs.append(seconds(lambda x=x: [x @ w for w in weights]))
        flop = 2.0 * rows * N_IN * N_OUT * COPIES
        ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
        print(
            f"{rows:>5}{flop / ours_s / 1e9:>10.1f}{size / ours_s / 1e9:>8.1f}"
            f"{flop / ours_s / max(arithmetic):>15.0%}{size / ours_s / statistics.median(read):>10.0%}"
            f"{flop / theirs_s / 1e9:>15.1f}"
        )


if __name__ == "__main__":
    main()
