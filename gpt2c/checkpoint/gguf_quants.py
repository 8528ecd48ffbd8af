"""The quantized types of GGUF as float32: each block of integers has a scale, and some have a minimum.

All numbers are little-endian, scales float16. In a block of 32 the low halves of 16 bytes are the first 16
integers, their high halves the others; fifth bits are together in 32 bits before them. A block of 256 (the
types "K") is split into groups of 32, or of 16 in Q6_K, with their own integer scales. Products are rounded
to float32 from left to right, as written below, so that values are those of gguf-py bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["dequantize"]


def dequantize(blocks: np.ndarray, dtype: str) -> np.ndarray:
    """The values of whole blocks.

    Parameters
    ----------
    blocks : ndarray
        uint8, [blocks, bytes per block].
    dtype : str
        "Q4_0" and so on.

    Returns
    -------
    ndarray
        float32, flat.
    """
    return _OF[dtype](blocks).reshape(-1)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """A float16 of every block as float32, [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """The low halves of n bytes, then their high halves: [..., n] -> [..., 2n]."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """32 bits of every block, as the amount they add to an integer."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _centred(integers: np.ndarray, middle: int) -> np.ndarray:
    return integers.astype(np.float32) - np.float32(middle)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _centred(_nibbles(blocks[:, 2:]), 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * _centred(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2), 16)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)) + _half(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _groups(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales and the minima of the 8 groups of Q4_K and Q5_K, [blocks, 8, 1] each.

    Twelve bytes hold 6 bits of each: four scales, four minima, then the low halves of the other scales and
    minima, whose upper two bits are in the first eight bytes.
    """
    scale, minimum, low = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([scale & 63, low & 15 | scale >> 6 << 4], axis=1)
    minima = np.concatenate([minimum & 63, low >> 4 | minimum >> 6 << 4], axis=1)
    return (_half(blocks, 0) * scales)[..., None], (_half(blocks, 2) * minima)[..., None]


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    scales, minima = _groups(blocks)
    return scales * _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32) - minima


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    scales, minima = _groups(blocks)
    # Bit g of byte i belongs to element i of group g.
    fifth = np.unpackbits(blocks[:, None, 16:48], axis=1, bitorder="little") << 4
    return scales * (_nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32) | fifth) - minima


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    # Two halves of 128: 64 bytes of low bits; 32 of upper ones, two bits for each quarter of the half.
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    upper = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8) & 3
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return scales[..., None] * _centred(low | upper << 4, 32).reshape(-1, 16, 16)


_OF: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
