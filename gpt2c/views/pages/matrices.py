"""The learned matrices of a model as small pictures, as JSON values."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .codes import packed

if TYPE_CHECKING:
    from ...core.lm import LoadedModel

__all__ = ["matrices"]

Json = dict[str, Any]

SMALLEST, WIDEST = 16, 32  # rows and columns of a picture, at least and at most
ROOM = 40_000  # pixels of all pictures, about
LARGEST = 127  # shades on either side of 0


def matrices(model: LoadedModel) -> Json:
    """Pictures of the embedding tables, and of the matrices of every layer.

    A matrix has rows for its inputs and columns for its outputs. A pixel is the mean of a block of numbers,
    as a share of the largest mean of the picture: codes from 0 to 254, of which 127 is 0.
    """
    config, weights = model.config, model.weights
    n = 6 * config.n_layer + 2
    size = int(min(WIDEST, max(SMALLEST, (ROOM / n) ** 0.5)))
    ends = np.cumsum([config.n_head, config.n_kv_head]) * config.head_dim
    layers = []
    for i in range(config.n_layer):
        query, key, value = np.split(weights[f"h.{i}.attn.c_attn.weight"], ends, axis=1)
        found = {
            "query": query,
            "key": key,
            "value": value,
            "projection": weights[f"h.{i}.attn.c_proj.weight"],
            "widening": weights[f"h.{i}.mlp.c_fc.weight"],
            "narrowing": weights[f"h.{i}.mlp.c_proj.weight"],
        }
        layers.append({name: _picture(matrix, size) for name, matrix in found.items()})
    tables = {"tokens": weights["wte.weight"], "positions": weights["wpe.weight"]}
    return {"tables": {name: _picture(table, size) for name, table in tables.items()}, "layers": layers}


def _picture(matrix: np.ndarray, size: int) -> Json:
    """The means of at most size x size blocks of a matrix."""
    counts = [min(size, length) for length in matrix.shape]
    means = _means(_means(matrix, counts[0]).T, counts[1]).T
    most = float(np.abs(means).max())
    shades = np.round(LARGEST + LARGEST * means / (most or 1)).astype(np.uint8)
    return {"shape": list(matrix.shape), "size": counts, "most": most, "shades": packed(shades)}


def _means(rows: np.ndarray, n: int) -> np.ndarray:
    """The means of ``n`` blocks of neighbouring rows, in float64."""
    ends = np.arange(n + 1) * len(rows) // n
    return np.array([rows[begin:end].mean(axis=0, dtype=np.float64) for begin, end in pairwise(ends)])
