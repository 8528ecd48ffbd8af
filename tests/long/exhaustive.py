"""Every float32 there is, through the elementwise functions, on every instruction set.

    python tests/long/exhaustive.py [--functions exp tanh erf …] [--isas …] [--part i/n] [--stride n]

Demands that all instruction sets give the same bytes (any NaN equals any other) and that the result is within
the bound of tolerance.py of a float64 oracle (NumPy, and SciPy for the error function), with the signs of
zeros, the infinities and NaN as they should be. Prints the greatest error, where it is and the time; progress
goes to stderr. Status 1 if anything is wrong. A function over all 2^32 patterns takes some minutes on two
cores.
"""

import argparse
import math
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
import numpy as np
from helpers import tolerance

from gpt2c.core import _engine, _ops

BLOCK = 2**16  # patterns taken at a time, so that arrays stay in a cache and need no new pages
THREADS = 2
SHOWN = 5  # violations printed for each kind
PATTERNS = 2**32
INFINITE = 2.0**128  # the number after the largest float32, where infinity stands when errors are measured


def special():
    try:
        from scipy import special
    except ImportError:
        raise SystemExit("this needs the error function in float64: pip install scipy") from None
    return special


def gate(of_x):
    """x sigmoid(of_x(x)): without the cancellation of 1 + tanh."""
    return lambda x: x * special().expit(of_x(x))


ORACLES = {
    "exp": np.exp,
    "tanh": np.tanh,
    "erf": lambda x: special().erf(x),
    "sigmoid": lambda x: special().expit(x),
    "gelu_new": gate(lambda x: 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "gelu": lambda x: 0.5 * x * special().erfc(x * -math.sqrt(0.5)),  # 1 + erf would lose the left tail
    "quick_gelu": gate(lambda x: 1.702 * x),
    "silu": gate(lambda x: x),
    "relu": lambda x: np.where(x < 0, 0.0, x),  # of -0: -0
}
DEFAULT = ("exp", "tanh", "erf")
WITHIN_ULPS = ("exp", "tanh", "erf")  # activations may be off by more: tolerance.elementwise_bound
FLUSHED = 2.0**-128  # sigmoids below this may be 0
MEASURES = ("greatest error, ulp", "the same, normal results", "greatest share of allowed")


def ulp(exact):
    """The distance of float32 numbers at ``exact`` (float64), by its own exponent; 2^-149 if subnormal."""
    exponent = np.maximum(exact.view(np.uint64) >> np.uint64(52) & np.uint64(0x7FF), np.uint64(1023 - 126))
    return (exponent - np.uint64(23) << np.uint64(52)).view(np.float64)


def allowed(name, x, unit):
    """How many ulp (of ``unit``) the results for ``x`` may be off."""
    most = np.full(x.shape, float(tolerance.FUNCTION_ULP))
    if name == "sigmoid":  # 1 / (1 + exp(-x)) is 0 where exp(-x) overflows
        np.maximum(most, FLUSHED / unit, out=most)
    elif name not in WITHIN_ULPS:
        np.maximum(most, 2.0**-23 * np.abs(x) / unit, out=most)
    most[np.isinf(x)] = 0  # nothing is rounded there
    return most


def examine(name, isas, bits):
    """One function of some patterns: what is wrong, as (kind, pattern, explanation), and the worst errors, as
    (size, pattern, result, exact) for each of MEASURES."""
    x = bits.view(np.float32)
    results = {isa: _ops.apply(name, x, isa=isa) for isa in isas}
    first, actual = next(iter(results.items()))
    with np.errstate(all="ignore"):
        exact = ORACLES[name](x.astype(np.float64))
        limited = np.clip(exact, -INFINITE, INFINITE)
        unit = ulp(limited)
        ulps = np.abs(np.clip(actual.astype(np.float64), -INFINITE, INFINITE) - limited) / unit
        most = allowed(name, x.astype(np.float64), unit)
    nan, nan_is_right = np.isnan(actual), np.isnan(exact)
    ulps[nan | nan_is_right] = 0

    wrong = []

    def note(kind, where, explain):
        wrong.extend((kind, int(bits[i]), explain(i)) for i in np.flatnonzero(where)[:SHOWN])

    def both(i):
        return f"{actual[i]!s}, exactly {exact[i]!s}"

    for isa, other in results.items():
        differs = (other.view(np.uint32) != actual.view(np.uint32)) & ~(np.isnan(other) & nan)
        note(f"{isa} differs from {first}", differs, lambda i, y=other: f"{y[i]!s} and {actual[i]!s}")
    note("NaN", nan != nan_is_right, both)
    note("sign", (np.signbit(actual) != np.signbit(exact)) & ~nan_is_right, both)
    note("overflow", (np.abs(limited) == INFINITE) & np.isfinite(actual), both)
    note("error", ulps > most, lambda i: f"{both(i)}: off by {ulps[i]:.6g} ulp, allowed {most[i]:.6g}")

    normal = np.where(np.abs(exact) >= 2.0**-126, ulps, 0)
    share = np.divide(ulps, most, out=np.zeros_like(ulps), where=most > 0)
    worst = []
    for size in (ulps, normal, share):
        i = int(np.argmax(size))
        worst.append((float(size[i]), int(bits[i]), actual[i], exact[i]))
    return wrong, worst


def blocks(part, parts, stride):
    """Arrays of patterns: the part-th of so many equal parts, every stride-th of it."""
    begin, end = PATTERNS * (part - 1) // parts, PATTERNS * part // parts
    begin = -(-begin // stride) * stride  # the same patterns, however many parts
    for at in range(begin, end, BLOCK * stride):
        yield np.arange(at, min(at + BLOCK * stride, end), stride, dtype=np.uint32)


def run(name, isas, part, parts, stride):
    """Report on one function; returns whether all was right."""
    ORACLES[name](np.zeros(1))  # fails here and not in a thread if SciPy is missing
    started = shown = time.perf_counter()
    total, count, wrong, worst = -(-PATTERNS // (parts * stride)), 0, {}, None
    source, waiting = blocks(part, parts, stride), deque()
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            while len(waiting) < 2 * THREADS and (bits := next(source, None)) is not None:
                waiting.append((bits.size, pool.submit(examine, name, isas, bits)))
            if not waiting:
                break
            size, found = waiting.popleft()
            wrong_here, worst_here = found.result()
            count += size
            worst = [
                max(pair, key=itemgetter(0)) for pair in zip(worst or worst_here, worst_here, strict=True)
            ]
            for kind, pattern, explanation in wrong_here:
                wrong.setdefault(kind, []).append((pattern, explanation))
                del wrong[kind][SHOWN:]
            if time.perf_counter() - shown > 10:
                shown = time.perf_counter()
                print(f"{name}: {count / total:.0%} after {shown - started:.0f} s", file=sys.stderr)

    print(f"{name}: {count:,} patterns on {' '.join(isas)} in {time.perf_counter() - started:.0f} s")
    for measure, (size, pattern, actual, exact) in zip(MEASURES, worst, strict=True):
        print(f"  {measure:26}{size:<10.4f} {place(pattern)}: {actual!s}, exactly {exact:.9g}")
    for kind, examples in wrong.items():
        for pattern, explanation in examples:
            print(f"  WRONG ({kind}) {place(pattern)}: {explanation}")
    sys.stdout.flush()
    return not wrong


def place(pattern):
    return f"at {pattern:#010x} = {np.uint32(pattern).view(np.float32)!s}"


def part_of(text):
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts) <= PATTERNS // BLOCK):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: i/n, the i-th of n parts, n up to {PATTERNS // BLOCK}"
        )
    return int(part), int(parts)


def positive(text):
    if not text.isdigit() or not 1 <= int(text) <= BLOCK:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: 1 to {BLOCK}")
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", nargs="+", choices=ORACLES, default=DEFAULT, metavar="NAME",
                        help=f"out of {', '.join(ORACLES)}; default: {', '.join(DEFAULT)}")  # fmt: skip
    parser.add_argument("--isas", nargs="+", choices=_engine.isas(), default=_engine.isas(), metavar="ISA",
                        help=f"out of {', '.join(_engine.isas())}; default: all")  # fmt: skip
    parser.add_argument(
        "--part", type=part_of, default=(1, 1), metavar="I/N", help="only the I-th of N parts"
    )
    parser.add_argument("--stride", type=positive, default=1, metavar="N", help="only every N-th pattern")
    options = parser.parse_args()
    right = [run(name, options.isas, *options.part, options.stride) for name in options.functions]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
