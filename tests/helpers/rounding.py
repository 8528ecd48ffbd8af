"""Number formats in NumPy, straight from the rules in gpt2c.h: an oracle without any code of the C core."""

from __future__ import annotations

import numpy as np

PANEL, GROUP, HALF_GROUP, BLOCK = 64, 64, 32, 256
PACKED = ("bfloat16", "int8", "int4")
OWN_BFLOAT16 = ("avx512bf16", "amx")  # instruction sets whose bfloat16 arithmetic is their own
WEIGHTS_PER_SCALE = {"int8": GROUP, "int4": HALF_GROUP}


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


def grouped(x, size: int = GROUP) -> np.ndarray:
    """Rows [rows, n] as [rows, groups, size], with zeros behind the last input."""
    rows, n = x.shape
    groups = -(-n // size)
    wide = np.zeros((rows, groups * size), x.dtype)
    wide[:, :n] = x
    return wide.reshape(rows, groups, size)


def activations_int8(x) -> tuple[np.ndarray, np.ndarray]:
    """(q [rows, groups, 64], scale [rows, groups]) of rows: q * scale stands for x."""
    x = grouped(np.asarray(x, np.float32))
    good = np.isfinite(x).all(axis=-1)
    most = np.where(good, np.abs(np.where(np.isfinite(x), x, 0)).max(axis=-1), 0).astype(np.float32)
    counts = most >= np.float32(2.0**-100)
    safe = np.where(counts, most, 1).astype(np.float32)
    scale = np.where(counts, safe / np.float32(127), 0).astype(np.float32)
    inverse = np.where(counts, np.float32(127) / safe, 0).astype(np.float32)
    q = np.rint(np.where(good[..., None], x, 0) * inverse[..., None]).astype(np.int64)
    return q, np.where(good, scale, np.nan).astype(np.float32)


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


def linear_integers(x, q, scales) -> np.ndarray:
    """The sums of an int8 or int4 layer, bit by bit.

    q [n_in rounded up to 64, n_out] and scales [groups of weights, n_out] are what the panels hold.
    """
    inputs, of_inputs = activations_int8(x)
    per_scale = len(q) // len(scales)
    inputs = inputs.reshape(len(x), len(scales), per_scale)
    of_inputs = np.repeat(of_inputs, GROUP // per_scale, axis=1)
    weights = q.reshape(len(scales), per_scale, -1)
    total = np.zeros((len(x), q.shape[1]), np.float32)
    for g, scale in enumerate(scales):
        sums = inputs[:, g] @ weights[g].astype(np.int64)
        assert np.abs(sums).max(initial=0) < 2**24, "exact as a float32"
        with np.errstate(all="ignore"):
            total = fma(sums.astype(np.float32), scale * of_inputs[:, g, None], total)
    return total


# ---- panels, parsed byte by byte


def parse_bfloat16(panels, n_in: int) -> np.ndarray:
    """Bits [n_in rounded up to 2, outputs of all panels]."""
    pairs = panels.view(np.uint16).reshape(len(panels), -(-n_in // 2), PANEL, 2)
    return (
        pairs[..., ::-1].transpose(1, 3, 0, 2).reshape(-1, len(panels) * PANEL)
    )  # the second input comes first


def parse_int8(panels, n_in: int) -> tuple[np.ndarray, np.ndarray]:
    """(q [n_in rounded up to 64, outputs of all panels], bits of scales [groups, outputs of all panels])."""
    count, groups = len(panels), -(-n_in // GROUP)
    blocks = panels.reshape(count, groups, 2 * PANEL + GROUP * PANEL)
    scales = np.ascontiguousarray(blocks[..., : 2 * PANEL]).view(np.uint16)
    q = blocks[..., 2 * PANEL :].reshape(count, groups, GROUP // 4, PANEL, 4).astype(np.int64) - 128
    return (
        q.transpose(1, 2, 4, 0, 3).reshape(groups * GROUP, count * PANEL),
        scales.transpose(1, 0, 2).reshape(groups, count * PANEL),
    )


def parse_int4(panels, n_in: int) -> tuple[np.ndarray, np.ndarray]:
    """The same; there are two groups of 32 inputs for every 64, or part of 64, inputs."""
    count, groups = len(panels), -(-n_in // GROUP) * 2
    blocks = panels.reshape(count, groups, 2 * PANEL + HALF_GROUP * PANEL // 2)
    scales = np.ascontiguousarray(blocks[..., : 2 * PANEL]).view(np.uint16)
    packed = blocks[..., 2 * PANEL :].reshape(count, groups, HALF_GROUP // 8, PANEL, 4).astype(np.int64)
    q = np.stack([packed & 15, packed >> 4]) - 8  # nibble, panel, group, i, output, …
    return (
        q.transpose(2, 3, 0, 5, 1, 4).reshape(groups * HALF_GROUP, count * PANEL),
        scales.transpose(1, 0, 2).reshape(groups, count * PANEL),
    )


PARSE = {"int8": parse_int8, "int4": parse_int4}
