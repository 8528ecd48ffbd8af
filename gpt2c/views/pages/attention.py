"""Attention in a page: as many weights and scores as there is room for, as JSON values (see codes.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...introspection.hooks import full_name
from .codes import (
    DEPTH,
    DIGITS,
    KNEE,
    digits,
    hidden_codes,
    packed,
    strongest_codes,
    visible_codes,
)

if TYPE_CHECKING:
    from ...introspection.passes import ActivationCache

__all__ = ["PICTURES", "ROOM", "attention", "scores_of"]

Json = dict[str, Any]

FINE_CODES = 110_000  # up to so many attention weights take 16 bits each, more take 8
ROOM = 1_500_000  # characters
PICTURES = 180_000  # of them for small pictures of all heads, where not all weights are there
FEWEST = 8  # weights of each token, before layers are left out for more
WIDEST = 32  # rows and columns of a small picture


def attention(
    cache: ActivationCache,
    first: int,
    *,
    hidden: bool,
    without: Iterable[int] = (),
    layers: Sequence[int] | None = None,
    room: int = ROOM,
) -> Json:
    """The attention of the layers that were captured.

    For lack of room, only the largest weights of each token are kept ("kept" of them), of as many layers as
    fit, together with a small picture of every head.

    Parameters
    ----------
    cache : ActivationCache
    first : int
        The layer that the page opens with, which is always kept.
    hidden : bool
        Also tell the scores behind the mask and each row's log-sum-exp, from which the visible scores follow:
        of all layers, or of the first alone, or of none, as there is room.
    without : iterable of int
        Layers whose scores are left out, since weights do not follow from query and key there.
    layers : sequence of int, optional
        Tell only of these, and the first.
    room : int
        Characters, about.
    """
    config, T = cache.model.config, len(cache.token_ids)
    captured = [i for i in range(config.n_layer) if full_name(config, "pattern", i) in cache]
    wanted = captured if layers is None else sorted({first, *layers})
    codes_of_layer = config.n_head * (T * (T + 1) // 2 if cache.causal else T * T)
    codes = len(wanted) * codes_of_layer
    common = {"causal": cache.causal, "knee": KNEE, "depth": DEPTH, "digits": DIGITS}
    if codes * 4 // 3 > room:
        return {**common, **_strongest(cache, captured, wanted, first, room, chosen=layers is not None)}
    bits = 16 if codes <= FINE_CODES else 8
    weights = np.stack([visible_codes(cache["pattern", i], bits, cache.causal) for i in wanted])
    found = {**common, "layers": wanted, "bits": bits, "weights": packed(weights)}
    if len(wanted) < len(captured):
        found["pictures"] = _pictures(cache, captured)
    if hidden:
        told = (
            wanted if codes * 7 // 3 <= room else [first] if codes * 4 // 3 + codes_of_layer <= ROOM else []
        )
        found |= _hidden(cache, [i for i in told if i not in without], bits)
    return found


def _strongest(
    cache: ActivationCache,
    captured: Sequence[int],
    wanted: Sequence[int],
    first: int,
    room: int,
    *,
    chosen: bool,
) -> Json:
    """The largest weights of each token, of the layers for which there is room, and pictures of all heads."""
    config, T = cache.model.config, len(cache.token_ids)
    most = (room - PICTURES) * 3 // 4 // (3 * config.n_head * T)  # weights of a token, in all layers
    layers = list(wanted)
    if not chosen and most // len(layers) < FEWEST:
        n = max(1, most // FEWEST)
        spread = [wanted[i] for i in np.linspace(0, len(wanted) - 1, n).round().astype(int)]
        layers = sorted({first, *[i for i in spread if i != first][: n - 1]})
    kept = min(T, max(1, most // len(layers)))
    keys, codes = zip(*(strongest_codes(cache["pattern", i], kept) for i in layers), strict=True)
    return {
        "layers": layers,
        "bits": 8,
        "kept": kept,
        "keys": packed(np.stack(keys)),
        "weights": packed(np.stack(codes)),
        "pictures": _pictures(cache, captured),
    }


def _pictures(cache: ActivationCache, layers: Sequence[int]) -> Json:
    """A small picture of each head of some layers."""
    n_heads = len(layers) * cache.model.config.n_head
    size = int(min(WIDEST, len(cache.token_ids), (PICTURES * 3 / 4 / n_heads) ** 0.5))
    shades = [_picture(cache["pattern", i], size) for i in layers]
    return {"layers": list(layers), "size": size, "shades": packed(np.stack(shades))}


def _picture(pattern: np.ndarray, size: int) -> np.ndarray:
    """Small pictures of heads, [n_head, T, T] -> uint8 [n_head, size, size]: roots of the largest weights."""
    starts = np.arange(size) * pattern.shape[-1] // size
    largest = np.maximum.reduceat(np.maximum.reduceat(pattern, starts, axis=1), starts, axis=2)
    return np.round(255 * np.sqrt(np.clip(largest, 0, 1))).astype(np.uint8)


def _hidden(cache: ActivationCache, layers: Sequence[int], bits: int) -> Json:
    """The scores behind the mask, and each row's log-sum-exp of the others."""
    if not layers:
        return {}
    levels, text = (2**16, packed) if bits == 16 else (len(DIGITS), digits)
    codes, ends, sums = zip(*(_scores(cache, i, levels) for i in layers), strict=True)
    return {
        "scores": {
            "layers": list(layers),
            "sums": packed(np.stack(sums)),
            "levels": levels,
            "hidden": text(np.stack(codes)),
            "ends": packed(np.stack(ends)),
        }
    }


def _scores(cache: ActivationCache, layer: int, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a layer: codes of the scores behind the mask, their ends, and log-sum-exp of the others by row."""
    scores = scores_of(cache, layer)
    seen = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    top = seen.max(axis=-1, keepdims=True)
    sums = top[..., 0] + np.log(np.exp(seen - top).sum(axis=-1))
    return *hidden_codes(scores, levels), sums.astype(np.float32)


def scores_of(cache: ActivationCache, layer: int, rows: Any = slice(None)) -> np.ndarray:
    """Query times key, scaled, before the mask: float64 [n_head, rows, T]."""
    q, k = (cache[name, layer].astype(np.float64) for name in ("q", "k"))
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return np.einsum("qhd,khd->hqk", q[rows], k) * cache.model.config.attention_scale(layer)
