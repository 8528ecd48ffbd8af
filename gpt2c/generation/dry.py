"""DRY ("don't repeat yourself", p-e-w 2024): the longer a repetition, the less probable its continuation."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from .options import SamplingOptions

__all__ = ["Dry"]

LARGEST_PENALTY = 3.4e38  # still finite as float32


class Dry:
    """A stage of `LogitsProcessors`, as in llama.cpp.

    If the last n tokens occur earlier in the text, and n is at least ``dry_allowed_length``, the token that
    followed them loses ``dry_multiplier * dry_base ** (n - dry_allowed_length)``, for the longest such n.
    Repetitions do not extend back over a sequence breaker, and a token that contains one loses nothing.
    """

    def __init__(self, model: LoadedModel, options: SamplingOptions) -> None:
        self._options = options
        self._breakers = [breaker.encode() for breaker in options.dry_sequence_breakers]
        self._bytes = cache(model.token_bytes)

    def __call__(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        """Lower the logits of tokens that would continue a repetition at the end of ``ids``."""
        options = self._options
        n = len(ids) if options.dry_penalty_last_n < 0 else min(len(ids), options.dry_penalty_last_n)
        backwards = ids[len(ids) - n :][::-1]
        longest = {}
        places = np.arange(1, n)  # counted from the end: other positions of the last tokens
        for length in range(1, self._n_after_breaker(backwards) + 1):
            places = places[: np.searchsorted(places, n - length, "right")]
            places = places[backwards[places + length - 1] == backwards[length - 1]]
            if not len(places):
                break
            if length >= options.dry_allowed_length:
                longest.update(dict.fromkeys(backwards[places - 1].tolist(), length))
        for token, length in longest.items():
            if not any(breaker in self._bytes(token) for breaker in self._breakers):
                row[token] -= np.float32(self._penalty(length - options.dry_allowed_length))

    def _penalty(self, more: int) -> float:
        """The penalty for the next token of a repetition that exceeds the allowed length by this much."""
        multiplier, base = self._options.dry_multiplier, self._options.dry_base
        logarithm = math.log(multiplier) + more * math.log(base)
        return math.exp(logarithm) if logarithm < math.log(LARGEST_PENALTY) else LARGEST_PENALTY

    def _n_after_breaker(self, backwards: np.ndarray) -> int:
        """The number of tokens after the last one that overlaps a sequence breaker."""
        pieces = [self._bytes(token) for token in backwards.tolist()]
        text = b"".join(reversed(pieces))
        end = max((text.rfind(b) + len(b) for b in self._breakers if b in text), default=0)
        n, left = 0, len(text) - end
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            n += 1
        return n
