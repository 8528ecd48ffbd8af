"""Hidden states for comparison: capturing them in a pass, and their directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine

if TYPE_CHECKING:
    from ..config import Config
    from ..core.lm import LoadedModel

__all__ = ["Directions", "Streams"]


class Streams:
    """Keeps the residual stream after the last layer; see `_engine.forward` for what observers do."""

    def __init__(self, config: Config) -> None:
        self._last = config.n_layer - 1
        self.flags = np.zeros(config.n_layer + 1, np.uint8)
        self.flags[self._last] = _engine.UNFUSED
        self._rows = np.empty((0, config.n_embd), np.float32)

    def wants(self, place: str, layer: int) -> bool:
        return place == "resid_post" and layer == self._last

    def see(self, place: str, layer: int, rows: np.ndarray) -> None:
        self._rows = rows.copy()

    def of(self, lengths: Iterable[int]) -> list[np.ndarray]:
        """The streams of each sequence of the pass, with these lengths."""
        return np.split(self._rows, np.cumsum([*lengths])[:-1])


class Directions:
    """The directions of hidden states: unit vectors, float64, computed row by row."""

    def __init__(self, model: LoadedModel) -> None:
        self._gain, self._bias = model.weights["ln_f.weight"], model.weights["ln_f.bias"]
        self._epsilon = model.config.layer_norm_epsilon

    def __call__(self, stream: np.ndarray) -> np.ndarray:
        """The directions of rows of the residual stream after the last layer, float64 [n, n_embd]."""
        centred = stream - stream.mean(axis=1, keepdims=True, dtype=np.float64)
        variance = (centred**2).mean(axis=1, keepdims=True)
        hidden = centred / np.sqrt(variance + self._epsilon) * self._gain + self._bias
        lengths = np.sqrt((hidden**2).sum(axis=1, keepdims=True))
        return hidden / np.maximum(lengths, np.finfo(np.float64).tiny)
