"""Number formats in NumPy, straight from the rules in gpt2c.h: an oracle without any code of the C core."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PANEL, GROUP, HALF_GROUP, BLOCK = 64, 64, 32, 256
PACKED = ("bfloat16", "int8", "int4")
OWN_BFLOAT16 = ("avx512bf16", "amx")  # instruction sets whose bfloat16 arithmetic is their own
CACHES = {"float32": "float32", "bfloat16": "bfloat16", "int8": "float16", "int4": "float16"}  # by default
WEIGHTS_PER_SCALE = {"int8": 4096, "int4": 256}


def from_bfloat16(bits) -> np.ndarray:
    """uint16 -> float32."""
    return (np.asarray(bits, np.uint32) << 16).view(np.float32)


def to_bfloat16(x) -> np.ndarray:
    """float32 -> uint16: of the two neighbours the nearer one, the even one in the middle.

    Distances are taken in float64. Infinity stands where the next number would be if exponents went on.
    """
    x = np.asarray(x, np.float32)
    below = (x.view(np.uint32) >> 16).astype(np.uint16)  # cut off: towards zero
    finite = np.where(np.isfinite(x), below, 0).astype(np.uint16)

    def size(bits):
        value = np.abs(from_bfloat16(bits).astype(np.float64))
        return np.where(np.isinf(value), 2.0**128, value)

    exact = np.abs(np.where(np.isfinite(x), x, 0).astype(np.float64))
    down, up = exact - size(finite), size(finite + np.uint16(1)) - exact
    upwards = (up < down) | ((up == down) & (finite % 2 == 1))
    rounded = np.where(upwards, finite + np.uint16(1), finite)
    return np.where(np.isnan(x), 0x7FC0, np.where(np.isinf(x), below, rounded)).astype(np.uint16)


def bfloat16(x) -> np.ndarray:
    """float32 rounded to bfloat16, as float32."""
    return from_bfloat16(to_bfloat16(x))


def narrowed(x, dtype: str) -> np.ndarray:
    """What a cache of this dtype keeps of float32 keys and values, as float32."""
    with np.errstate(over="ignore"):
        return bfloat16(x) if dtype == "bfloat16" else np.asarray(x, dtype).astype(np.float32)


def fma(a, b, c) -> np.ndarray:
    """a * b + c rounded once to float32.

    The product is exact in float64. What the sum there loses is known exactly, too, and makes its last bit
    odd, so that the second rounding cannot mistake it for a tie (Boldo & Melquiond 2008).
    """
    with np.errstate(all="ignore"):
        product, c = np.asarray(a, np.float64) * b, np.asarray(c, np.float64)
        total = product + c
        of_c = total - product
        lost = (product - (total - of_c)) + (c - of_c)
        odd = (lost != 0) & np.isfinite(total) & (total.view(np.int64) % 2 == 0)
        away = np.where((lost > 0) == (total > 0), 1, -1)
        return (total.view(np.int64) + np.where(odd, away, 0)).view(np.float64).astype(np.float32)


class Integers(NamedTuple):
    """Rows of inputs of an integer layer: q * scale + offset stands for them."""

    q: np.ndarray  # int64 [rows, n]
    scale: np.ndarray  # float32 [rows], NaN where the row is not finite
    offset: np.ndarray  # float32 [rows]

    @property
    def values(self) -> np.ndarray:
        return self.q * self.scale[:, None].astype(np.float64) + self.offset[:, None]


def integers(x, inputs: str = "signed") -> Integers:
    """Rows [rows, n] as an integer layer rounds them: "signed", "wide" or "shifted"."""
    x = np.asarray(x, np.float32)
    good = np.isfinite(x).all(axis=1)
    x = np.where(good[:, None], x, 0)
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    shifted = inputs == "shifted"
    with np.errstate(over="ignore"):
        most = high - low if shifted else np.maximum(high, -low)
    good &= np.isfinite(most)
    limit = np.float32({"signed": 127, "wide": 4095, "shifted": 254}[inputs])
    counts = good & (most >= np.float32(2.0**-100))
    safe = np.where(counts, most, 1).astype(np.float32)
    scale = np.where(counts, safe / limit, 0).astype(np.float32)
    inverse = np.where(counts, limit / safe, 0).astype(np.float32)
    zero = np.rint(low.astype(np.float64) * inverse) + 128 if shifted else np.zeros_like(low)
    q = np.rint(x.astype(np.float64) * inverse[:, None]) - zero[:, None]  # the products are exact
    q = np.where(good[:, None], q, 0).astype(np.int64)
    return Integers(q, np.where(good, scale, np.nan).astype(np.float32), scale * zero.astype(np.float32))


def linear_bfloat16(x, weight) -> np.ndarray:
    """The sums of a bfloat16 layer, bit by bit; `weight` [n_in, n_out] as it is unpacked."""
    x, weight = bfloat16(x), np.asarray(weight, np.float32)
    if len(weight) % 2:  # words are pairs: adding a zero can turn -0 into 0
        x, weight = np.pad(x, ((0, 0), (0, 1))), np.pad(weight, ((0, 1), (0, 0)))
    total = None
    for start in range(0, len(weight), BLOCK):
        chain = np.zeros((len(x), weight.shape[1]), np.float32)
        for k in range(start, min(start + BLOCK, len(weight))):
            chain = fma(x[:, k, None], weight[k], chain)
        with np.errstate(all="ignore"):
            total = chain if total is None else total + chain
    return total


def linear_bfloat16_tiles(x, weight) -> np.ndarray:
    """The same as the tiles of AMX add, where no subnormal is near (it counts as zero there).

    Per 32 inputs one fma chain over the even and one over the odd ones; their sum is added to the total
    (TDPBF16PS in Intel's "Architecture Instruction Set Extensions Programming Reference").
    """
    x, weight = bfloat16(x), np.asarray(weight, np.float32)
    more = -len(weight) % 32
    x, weight = np.pad(x, ((0, 0), (0, more))), np.pad(weight, ((0, more), (0, 0)))
    total = np.zeros((len(x), weight.shape[1]), np.float32)
    for start in range(0, len(weight), 32):
        chains = np.zeros((2, *total.shape), np.float32)
        for k in range(start, start + 32):
            chains[k % 2] = fma(x[:, k, None], weight[k], chains[k % 2])
        with np.errstate(all="ignore"):
            total = total + (chains[0] + chains[1])
    return total


class Weights(NamedTuple):
    """The weights of an int8 or int4 layer as its panels hold them, of the outputs of all panels."""

    q: np.ndarray  # int64 [n_in rounded up to 64, outputs]
    factors: np.ndarray  # int64 [per 32 inputs, outputs]; of int8 all are 1
    scales: np.ndarray  # float32 [blocks of inputs, outputs]
    shift: np.ndarray  # float32 [outputs]

    @property
    def whole(self) -> np.ndarray:
        """q * factor."""
        return self.q * np.repeat(self.factors, HALF_GROUP, axis=0)

    def values(self, dtype: str) -> np.ndarray:
        """scale * (q * factor), rounded once: float32 [n_in rounded up to 64, outputs]."""
        scales = np.repeat(self.scales, WEIGHTS_PER_SCALE[dtype], axis=0)[: len(self.q)]
        return (self.whole * scales.astype(np.float64)).astype(np.float32)

    def blocks(self, per_scale: int) -> list[np.ndarray]:
        """Of q * factor, those that share a scale."""
        return np.split(self.whole, range(per_scale, len(self.q), per_scale))


def linear_integers(x, weights: Weights, dtype: str, inputs: str) -> np.ndarray:
    """The sums of an int8 or int4 layer, bit by bit."""
    rows = integers(x, inputs)
    q = np.zeros((len(x), len(weights.q)), np.int64)
    q[:, : x.shape[1]] = rows.q
    at = 0
    with np.errstate(all="ignore"):
        total = weights.shift * rows.offset[:, None]
        for block, scale in zip(weights.blocks(WEIGHTS_PER_SCALE[dtype]), weights.scales, strict=True):
            sums = q[:, at : at + len(block)] @ block
            assert np.abs(sums).max(initial=0) < 2**31, "they fit into 32 bits"
            total = fma(sums.astype(np.float32), scale * rows.scale[:, None], total)
            at += len(block)
    return total


# ---- panels, parsed byte by byte


def parse_bfloat16(panels, n_in: int) -> np.ndarray:
    """Bits [n_in rounded up to 32, outputs of all panels]."""
    steps = -(-n_in // 32)
    pairs = panels.view(np.uint16).reshape(len(panels), 2, steps, 2, 16, 16, 2)[..., ::-1]
    # panel, half, step, tile, pair, output, which; the second input of a pair comes first
    return pairs.transpose(2, 4, 6, 0, 1, 3, 5).reshape(32 * steps, -1)


def _header(panels, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shift [outputs], scales [blocks, outputs], the bytes after them [panels, …])."""
    size = 4 * PANEL * (1 + blocks)
    floats = np.ascontiguousarray(panels[:, :size]).view(np.float32).reshape(len(panels), 1 + blocks, PANEL)
    floats = floats.transpose(1, 0, 2).reshape(1 + blocks, -1)
    return floats[0], floats[1:], panels[:, size:]


def parse_int8(panels, n_in: int) -> Weights:
    count, steps = len(panels), -(-n_in // GROUP)
    shift, scales, rest = _header(panels, -(-n_in // WEIGHTS_PER_SCALE["int8"]))
    q = rest.reshape(count, 2, steps, 2, GROUP // 4, 16, 4).astype(np.int64) - 128
    q = q.transpose(2, 4, 6, 0, 1, 3, 5).reshape(steps * GROUP, count * PANEL)  # k: step, row, byte
    return Weights(q, np.ones((2 * steps, count * PANEL), np.int64), scales, shift)


def parse_int4(panels, n_in: int) -> Weights:
    count, steps = len(panels), -(-n_in // GROUP)
    shift, scales, rest = _header(panels, -(-n_in // WEIGHTS_PER_SCALE["int4"]))
    rest = rest.reshape(count, 2, steps, PANEL + GROUP * PANEL // 4)
    factors = np.ascontiguousarray(rest[..., :PANEL]).view(np.int8).reshape(count, 2, steps, 2, PANEL // 2)
    factors = factors.transpose(2, 3, 0, 1, 4).reshape(2 * steps, -1).astype(np.int64)
    packed = rest[..., PANEL:].reshape(count, 2, steps, 2, 2, HALF_GROUP // 8, 16, 4).astype(np.int64)
    q = np.stack([packed & 15, packed >> 4]) - 8  # nibble, panel, half, step, tile, group, i, output, byte
    q = q.transpose(3, 5, 6, 0, 8, 1, 2, 4, 7).reshape(steps * GROUP, count * PANEL)
    return Weights(q, factors, scales, shift)


PARSE = {"int8": parse_int8, "int4": parse_int4}


def int4_block(w) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scale [1, n], factors [per 32 inputs, n], q [inputs, n]) of up to 256 inputs, a multiple of 64.

    Each 32 inputs choose, of 16 quotients for their element of greatest magnitude, the step of least squared
    error. The greatest step is 15 times the scale. Of the factor nearest to each other step and its
    neighbours, again that of least squared error; the first among equals.
    """

    def inverse(scale):
        use = np.abs(scale) >= np.float32(2.0**-120)  # not so for NaN
        return np.where(use, np.float32(1) / np.where(use, scale, 1), 0).astype(np.float32)

    def rounded(group, step):
        scaled = group * inverse(step)
        return np.rint(np.where(np.isnan(scaled), -8, np.clip(scaled, -8, 7))).astype(np.float32)

    def error(group, step):
        total = np.zeros(group.shape[1], np.float32)
        for row, q in zip(group, rounded(group, step), strict=True):
            lost = row - step * q
            total = total + lost * lost
        return total

    def best(group, steps):
        """Which of the steps [candidates, n] has the least error."""
        errors = np.array([error(group, step) for step in steps])
        chosen, least = np.zeros(group.shape[1], int), errors[0]
        for i, some in enumerate(errors):
            better = some < least
            chosen, least = np.where(better, i, chosen), np.where(better, some, least)
        return chosen

    with np.errstate(all="ignore"):
        groups, columns, wanted = w.reshape(-1, HALF_GROUP, w.shape[1]), np.arange(w.shape[1]), []
        for group in groups:
            extreme = group[np.abs(group).argmax(axis=0), columns]
            steps = np.array([extreme / np.float32(-8.5 + 0.125 * i) for i in range(16)], np.float32)
            wanted.append(steps[best(group, steps), columns])
        scale = np.abs(wanted).max(axis=0) / np.float32(15)
        scale = np.where(np.abs(scale) < np.float32(2.0**-120), 0, scale).astype(np.float32)
        factors, q = [], []
        for group, step in zip(groups, wanted, strict=True):
            nearest = np.rint(np.clip(np.abs(step) * inverse(scale), 1, 15))
            some = np.clip(nearest + np.array([[-1], [0], [1]]), 1, 15) * np.where(step < 0, -1, 1)
            chosen = some[best(group, scale * some.astype(np.float32)), columns]
            factors.append(chosen.astype(np.int64))
            q.append(rounded(group, scale * chosen.astype(np.float32)).astype(np.int64))
    return scale[None], np.array(factors), np.concatenate(q)


def inputs_of(name: str) -> str:
    """How the inputs of the dense layer of that name, or its weight's, are rounded to integers."""
    if "c_attn" in name or "q_attn" in name or name.startswith("transform"):
        return "wide"
    return "signed" if name.startswith("h.") and "mlp.c_proj" not in name else "shifted"
