"""Continuing a prompt inside its last word: what may be written until that word is complete."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .covers import Rows, covers_of
from .spelling import spelling_of

__all__ = ["Healing"]


class Healing:
    """The tokens that spell the last word of a prompt, in all ways, weighed so that none is favoured.

    A token that ends inside the word has the probability that the model gives it, times that of the rest of
    the word after it. So every way to write the word is drawn with its own probability, and what follows with
    that of all ways together.

    Parameters
    ----------
    rows : Rows
        Of the tokens before the word.
    word : bytes
    """

    def __init__(self, rows: Rows, word: bytes) -> None:
        self.word = word
        self._spelling = spelling_of(rows.model)
        self._bytes = self._spelling.bytes
        self._shares = covers_of(rows, word).shares()

    def n_inside(self, new_ids: Sequence[int]) -> int:
        """How many of the tokens end inside the word."""
        size, n = 0, 0
        for token in new_ids:
            size += len(self._bytes[token])
            if size >= len(self.word):
                break
            n += 1
        return n

    def restrict(self, logits: np.ndarray, new_ids: Sequence[int]) -> np.ndarray:
        """The logits of the token after ``new_ids``, -inf where it does not go on with the word."""
        n = sum(len(self._bytes[token]) for token in new_ids)
        if n >= len(self.word):
            return logits
        restricted = np.full_like(logits, -np.inf)
        reaching = self._spelling.ids[self._spelling.beginning_with(self.word[n:])]
        restricted[reaching] = logits[reaching]
        for token, _ in self._spelling.inside(self.word[n:]):
            share = self._shares.get((*new_ids, token), 0.0)
            if share > 0:
                restricted[token] = logits[token] + np.float32(math.log(share))
        return restricted
