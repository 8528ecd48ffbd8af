"""Random calls of every kernel of the C core, each given by a seed and a number, and digests of results.

Arrays end where their memory ends: in a process of `sanitizing` no call can read or write beyond one unseen.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
import zlib

import numpy as np

from gpt2c.core import _engine, _ops, _roofs

from .strategies import AROUND_BLOCKS, AROUND_VECTOR, FAMILIES, values

__all__ = ["Draw", "digest", "serve"]

FUNCTIONS = ("identity", "gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh", "exp", "erf", "sigmoid")
EDGES = (*AROUND_VECTOR, *AROUND_BLOCKS)
PRODUCTS = {"generic": 60_000}  # of a call; it emulates fma
MOST_PRODUCTS = 1_000_000
PATIENCE = 120  # seconds; a call that takes longer hangs


class Draw:
    """Random choices of one call."""

    def __init__(self, seed: int, number: int):
        self.rng = np.random.default_rng((seed, number))
        isas = _engine.isas()
        self.isa = isas[number % len(isas)]

    def among(self, choices):
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def size(self, most, least=1):
        """A size, often next to a multiple of what kernels work on at a time."""
        edges = [n for n in EDGES if least <= n <= most]
        return self.among(edges) if edges and self.rng.random() < 0.6 else self.upto(most, least)

    def upto(self, most, least=0):
        """A number."""
        return int(self.rng.integers(least, most + 1))

    def sizes(self, *most):
        """Sizes that do not take long together."""
        sizes = [self.size(each) for each in most]
        while np.prod(sizes) > PRODUCTS.get(self.isa, MOST_PRODUCTS):
            sizes[int(np.argmax(sizes))] //= 2
        return sizes

    def exact(self, array):
        """A copy that ends with its memory, and begins anywhere."""
        array = np.asarray(array)
        lead = self.upto(3) * array.itemsize
        copy = np.empty(lead + array.nbytes, np.uint8)[lead:].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def floats(self, *shape, family=None):
        """An array of one family of values."""
        return self.exact(values(family or self.among(FAMILIES), shape, self.rng, exponents=12))

    def matrix(self, rows, columns):
        """The same, with rows that may be further apart than they are long, but for the last."""
        if rows == 0 or self.rng.random() < 0.5:
            return self.floats(rows, columns)
        apart = columns + self.upto(20)
        memory = self.floats((rows - 1) * apart + columns)
        return np.lib.stride_tricks.as_strided(memory, (rows, columns), (4 * apart, 4))

    @property
    def threads(self):
        """Mostly one: then scratch, too, ends with its memory."""
        return self.among((1, 1, 1, 2, 3))


def digest(results) -> str:
    """Of arrays and numbers; one NaN is like another."""
    found = 0
    for each in results:
        array = np.ascontiguousarray(each)
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
        found = zlib.crc32(f"{array.dtype}{array.shape}".encode() + array.tobytes(), found)
    return f"{found:08x}"


# ---- kernels: each is given a Draw, and returns arrays and numbers


def apply(d):
    x = d.floats(d.size(600))
    out = x if d.rng.random() < 0.3 else d.exact(np.zeros_like(x))
    return [_ops.apply(d.among(FUNCTIONS), x, out, isa=d.isa, threads=d.threads)]


def layer_norm(d):
    rows, n = d.sizes(20, 600)
    x, gain, bias = d.matrix(rows, n), d.floats(n, family="normal"), d.floats(n, family="normal")
    out = x if d.rng.random() < 0.3 else d.matrix(rows, n)
    return [_ops.layer_norm(x, gain, bias, 1e-5, out, isa=d.isa, threads=d.threads)]


def linear(d):
    dtype, inputs = d.among(_engine.DTYPES), d.among(("signed", "wide", "shifted"))
    rows, n_in, n_out = d.sizes(d.among((1, 8, 60)), d.among((100, 700, 5000)), 200)
    transposed, threads = bool(d.upto(1)), d.threads
    weight = d.matrix(*((n_out, n_in) if transposed else (n_in, n_out)))
    panels = _ops.pack(weight, transposed=transposed, dtype=dtype, threads=threads)
    bias, out = d.among((None, d.floats(n_out))), d.matrix(rows, n_out)
    residual = d.among((None, out))
    row0 = 0 if dtype == "float32" else d.among((0, d.upto(40)))
    how = {"dtype": dtype, "inputs": inputs, "row0": row0, "isa": d.isa, "threads": threads}
    function, x = d.among(FUNCTIONS), d.matrix(rows, n_in)
    found = _ops.linear(x, panels, n_out, bias, function, residual, out, **how)
    return [found, _ops.unpack(panels, n_in, n_out, dtype)]


def encode(d):
    rows, n = d.sizes(50, 700)
    _ops.encode(d.matrix(rows, n), d.among(_engine.DTYPES[1:]), row0=d.upto(40), isa=d.isa)
    return []  # its layout is each instruction set's own, with gaps


def attention_operands(d, rows=1):
    positions, width = d.sizes(d.among((40, 400)), 80)
    shared = d.upto(max(0, positions - rows) // 16) * 16 if rows < positions else 0
    return positions, width, {"dtype": d.among(_engine.CACHE_DTYPES), "shared": shared, "isa": d.isa}


def attention(d):
    rows = d.among((1, d.size(24), d.size(60)))
    positions, width, how = attention_operands(d, rows)
    rows = min(rows, positions)
    how |= {"tile": d.upto(24, 1), "one_position": bool(d.upto(1)), "threads": d.threads}
    q, k, v = d.matrix(rows, width), d.matrix(positions, width), d.matrix(positions, width)
    return [_ops.attention(q, k, v, 0.3, d.matrix(rows, width), **how)]


def attention_scores(d):
    positions, width, how = attention_operands(d)
    positions = min(positions, 150)
    how["shared"] = 0
    return [_ops.attention_scores(d.matrix(positions, width), d.floats(positions, width), 0.3, **how)]


def attention_values(d):
    positions, width, how = attention_operands(d)
    return [_ops.attention_values(d.matrix(d.upto(4, 1), positions), d.matrix(positions, width), **how)]


def softmax(d):
    return [_ops.softmax(d.floats(d.size(600)), isa=d.isa)]


def store(d):
    kind, dtype = d.among(("keys", "values")), d.among(_engine.CACHE_DTYPES)
    width, lane = d.size(130), d.upto(15)
    first = d.upto(width - 1)
    rows, n = d.upto(16 - lane, 1), d.upto(min(64, width - first), 1)
    number = 4 if dtype == "float32" else 2
    padded = -(-width // 16) * 16 if kind == "values" else width + width % 2 if dtype == "bfloat16" else width
    group = d.exact(np.zeros(4 * padded * number, np.float32)).view(np.uint8)  # whole words, of two bfloat16
    _ops.store(kind, group, dtype, lane, first, width, d.matrix(rows, n), isa=d.isa)
    return [group]


def logits(d):
    """A row of them, with some that are forbidden and some that are equal."""
    row = d.floats(d.among((d.size(600), d.upto(5000, 1))))
    row[d.rng.random(row.size) < d.among((0.0, 0.3))] = -np.inf
    row[d.upto(row.size - 1)] = 1.0
    return row


def row_sums(d):
    row = logits(d)
    mask = d.rng.random(row.size) < 0.5
    threshold = float(row[d.upto(row.size - 1)])
    return [
        *_ops.log_sum(row, threshold, isa=d.isa),
        *_ops.subset_sum(row, mask, isa=d.isa),
        _ops.count_greater(row, threshold, isa=d.isa),
        _ops.count_greater(row, 0.0, isa=d.isa),
    ]


def top(d):
    row = logits(d)
    k = min(row.size, d.among((1, d.size(300), row.size)))
    return [*_ops.top(row, k, isa=d.isa), _engine.top(row, d.upto(40))]


def sample(d):
    row = logits(d)
    how = {"temperature": d.among((0.0, 0.7, 3.0, 1e30)), "top_k": d.among((0, 1, d.upto(row.size))),
           "top_p": d.among((1.0, 0.9, 1e-6)), "min_p": d.among((0.0, 0.1, 1.0))}  # fmt: skip
    key = {"seed": d.upto(2**62), "stream": d.upto(2**62), "position": d.upto(2**62)}
    other = d.among((None, d.floats(row.size)))
    return [*_engine.sample(row, other, **how, **key, isa=d.isa)]


def roofs(d):
    threads = d.upto(3, 1)
    _roofs.phases(d.upto(50), threads=threads)
    done = _roofs.operations(d.among(_engine.DTYPES), d.upto(100), isa=d.isa, threads=threads)
    x = np.ones(d.size(600), np.float32)
    return [done, _roofs.read_all(x, passes=2, isa=d.isa, threads=threads)]


KERNELS = (
    *(apply, layer_norm, linear, linear, linear, encode, attention, attention, attention_scores),
    *(attention_values, softmax, store, row_sums, top, sample, roofs),
)


def call(seed: int, number: int) -> str:
    """One call of a kernel."""
    d = Draw(seed, number)
    with np.errstate(all="ignore"):
        return digest(d.among(KERNELS)(d))


def serve(answer) -> None:
    """Print an answer to every line of a seed and a number."""
    exact = os.environ.get("EXACT_MEMORY")
    if exact and ctypes.PyDLL(exact).use_exact_memory():
        raise SystemExit("NumPy refused the memory of helpers/exact.c")
    for line in sys.stdin:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        print(answer(*map(int, line.split())), flush=True)
        faulthandler.cancel_dump_traceback_later()
