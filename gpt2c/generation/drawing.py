"""Sampling with options that the compiled sampler lacks: they are applied here, before it samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine
from .processors import filtered

if TYPE_CHECKING:
    from .options import SamplingOptions
    from .watermark import Watermark

__all__ = ["Shape"]


class Shape:
    """The distributions from which the tokens of one call are chosen."""

    def __init__(self, options: SamplingOptions, seed: int, watermark: Watermark | None = None) -> None:
        self.options, self.seed, self._watermark = options, seed, watermark

    def draw(self, stream: int) -> Draw:
        """The sampler of the continuation with this number."""
        return Draw(self, stream)

    def __call__(
        self,
        processed: np.ndarray,
        ids: np.ndarray,
        stream: int,
        removed: dict[int, str] | None,
        most_bits: float = math.inf,
    ) -> np.ndarray:
        """The effective logits for the token after ``ids``, with -inf for tokens left out.

        ``stream`` is the number of the continuation or beam; the others are as for `filtered`.
        """
        row = processed
        if not self.options.greedy:
            coin = _coin(self.seed, stream, len(ids)) if self.options.xtc_probability else 1.0
            row = filtered(processed, self.options, removed, coin=coin, most_bits=most_bits)
        return row if self._watermark is None else self._watermark.add(row, ids)


class Draw:
    """The sampler of one text.

    Mirostat 2 (Basu et al. 2021, arXiv 2007.14966) keeps the surprisal of tokens near ``mirostat_tau`` bits:
    tokens above a limit are left out, and every token moves the limit. The limit belongs to the text, as its
    tokens do.
    """

    def __init__(self, shape: Shape, stream: int) -> None:
        self._shape, self._stream = shape, stream
        self._options = shape.options
        self._most_bits = 2 * shape.options.mirostat_tau if shape.options.mirostat else math.inf

    def __call__(
        self, logits: np.ndarray, processed: np.ndarray, ids: np.ndarray, removed: dict[int, str] | None
    ) -> tuple[int, float]:
        """Choose the token after ``ids``, as `_engine.sample` does; ``removed`` is as for `filtered`."""
        row = self.row(processed, ids, removed)
        token, logprob = _engine.sample(
            logits,
            row,
            temperature=0.0 if self._options.greedy else 1.0,
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            seed=self._shape.seed,
            stream=self._stream,
            position=len(ids),
        )
        self.observe(row, token)
        return token, logprob

    def row(self, processed: np.ndarray, ids: np.ndarray, removed: dict[int, str] | None) -> np.ndarray:
        """The logits that the token is sampled from, float32 [n_vocab]."""
        if not -np.inf < processed.max() < np.inf:
            return processed  # the sampler refuses NaN, infinities and empty choices
        row = self._shape(processed, ids, self._stream, removed, self._most_bits)
        with np.errstate(over="ignore"):  # a very low temperature takes them beyond float32
            return (row - row.max()).astype(np.float32)

    def observe(self, row: np.ndarray, token: int) -> None:
        """Move the limit by the sampled token."""
        if self._options.mirostat:
            bits = (_engine.log_sum_exp(row) - float(row[token])) / math.log(2)
            self._most_bits -= self._options.mirostat_eta * (bits - self._options.mirostat_tau)


def _coin(seed: int, stream: int, position: int) -> float:
    """A number in [0, 1): the second of the block whose first one `_engine.sample` uses."""
    key, counter = np.array([seed, stream], np.uint64), np.array([position - 1, 0, 0, 0], np.uint64)
    word = np.random.Philox(key=key, counter=counter).random_raw(2)[1]  # it counts before it draws
    return (int(word) >> 11) * 2.0**-53
