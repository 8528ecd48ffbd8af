"""Numbers inside a page: arrays as text, attention in as few bits as show it well.

What is written here is read in data.js.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

__all__ = [
    "DEPTH",
    "DIGITS",
    "KNEE",
    "digits",
    "float32",
    "hidden_codes",
    "packed",
    "stepped",
    "strongest_codes",
    "visible_codes",
    "weight_codes",
]

# Codes of attention weights are evenly spaced in the weight from KNEE up, and in its logarithm below, down to
# KNEE * exp(-DEPTH), which is code 0: large weights are right to an absolute error and small ones to a
# relative error, from which the score before the softmax follows too. At KNEE both have the same slope.
KNEE = 1 / 16
DEPTH = 12.0

# The printable characters that stand for themselves in HTML and in JSON: each says a number below 90, in
# three quarters of the text that 8 bits take in base64.
DIGITS = bytes(sorted(set(range(32, 127)) - set(b'"&<>\\'))).decode("ascii")


def packed(array: np.ndarray) -> dict[str, str]:
    """An array of unsigned integers or of float32 as a JSON value: its type and its bytes, without shape."""
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"type": array.dtype.name, "data": base64.b64encode(little_endian.tobytes()).decode("ascii")}


def float32(array: np.ndarray) -> np.ndarray:
    """An array as contiguous float32."""
    return np.ascontiguousarray(array, np.float32)


def stepped(array: np.ndarray) -> dict[str, Any]:
    """An array of finite numbers as a JSON value: 65,536 even steps from the lowest to the highest."""
    low, high = (float(end) for end in (array.min(), array.max()))
    codes = np.round((array.astype(np.float64) - low) * (65535 / ((high - low) or 1)))
    return {**packed(codes.astype(np.uint16)), "low": low, "high": high}


def digits(codes: np.ndarray) -> dict[str, str]:
    """An array of numbers below len(DIGITS) as a JSON value, a character each."""
    alphabet = np.frombuffer(DIGITS.encode("ascii"), np.uint8)
    return {"type": "digits", "data": alphabet[codes].tobytes().decode("ascii")}


def weight_codes(weights: np.ndarray, bits: int) -> np.ndarray:
    """Attention weights as codes from 0 to 2**bits - 1; any shape. Edited ones may lie beyond 0 and 1."""
    exact = np.clip(np.asarray(weights, np.float64), 0, 1)
    with np.errstate(divide="ignore"):
        place = np.where(exact >= KNEE, exact / KNEE - 1, np.log(exact / KNEE)) + DEPTH
    largest = 2**bits - 1
    codes = np.clip(place, 0, None) * (largest / (DEPTH + 1 / KNEE - 1))
    return np.minimum(np.round(codes), largest).astype(f"uint{bits}")


def visible_codes(pattern: np.ndarray, bits: int, causal: bool) -> np.ndarray:
    """Codes of the weights of heads, [n_head, T, T] -> [n_head, cells]: rows up to the diagonal, or whole."""
    T = pattern.shape[-1]
    cells = np.tril_indices(T) if causal else np.divmod(np.arange(T * T), T)
    return weight_codes(pattern[:, cells[0], cells[1]], bits)


def strongest_codes(pattern: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``kept`` largest weights of each row, [n_head, T, T] -> keys, uint16, and codes in 8 bits.

    Both are [n_head, T, kept], the largest weight first; ``kept`` is at most T.
    """
    keys = np.argpartition(pattern, -kept, axis=2)[:, :, -kept:]
    weights = np.take_along_axis(pattern, keys, axis=2)
    order = np.argsort(-weights, axis=2, kind="stable")
    keys, weights = (np.take_along_axis(values, order, axis=2) for values in (keys, weights))
    return keys.astype(np.uint16), weight_codes(weights, 8)


def hidden_codes(scores: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the scores that the mask hides, and what they mean.

    Parameters
    ----------
    scores : np.ndarray, [n_head, T, T]
        Before the mask.
    levels : int
        How many codes there are, at most 65536.

    Returns
    -------
    codes : np.ndarray, uint16 [n_head, T (T - 1) / 2]
        Row by row what stands right of the diagonal, evenly spaced between the two ends of each head.
    ends : np.ndarray, float32 [n_head, 2]
    """
    later = scores[:, *np.triu_indices(scores.shape[-1], 1)]
    if not later.size:
        return later.astype(np.uint16), np.zeros((len(scores), 2), np.float32)
    ends = np.stack([later.min(axis=1), later.max(axis=1)], axis=1).astype(np.float32)
    low, high = ends.astype(np.float64).T[:, :, None]
    span = np.where(high > low, high - low, 1)
    codes = np.round((later - low) / span * (levels - 1))
    return np.clip(codes, 0, levels - 1).astype(np.uint16), ends
