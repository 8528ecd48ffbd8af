"""Continuing a prompt inside its last word: the tokens allowed until that word is complete."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .covers import Rows, covers_of
from .spelling import spelling_of

__all__ = ["Healing"]


class Healing:
    """All spellings of the last word of a prompt in tokens, weighted so that none is favoured.

    A token that ends inside the word has the probability that the model gives it, times that of the rest of
    the word after it. So every spelling of the word is sampled with its own probability, and the text after
    it with that of all spellings together.

    Parameters
    ----------
    rows : Rows
        The rows after the tokens before the word.
    word : bytes
    """

    def __init__(self, rows: Rows, word: bytes) -> None:
        self.word = word
        self._spelling = spelling_of(rows.model)
        self._bytes = self._spelling.bytes
        self._shares = covers_of(rows, word).shares()

    def n_inside(self, new_ids: Sequence[int]) -> int:
        """The number of tokens that end inside the word."""
        size, n = 0, 0
        for token in new_ids:
            size += len(self._bytes[token])
            if size >= len(self.word):
                break
            n += 1
        return n

    def restrict(self, logits: np.ndarray, new_ids: Sequence[int]) -> np.ndarray:
        """The logits of the token after ``new_ids``, -inf for tokens that do not continue the word."""
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
