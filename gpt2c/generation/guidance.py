"""Classifier-free guidance: away from what would come without the prompt.

Sanchez et al. 2023 (arXiv 2306.17806), as in transformers. With c for the log-probabilities after the text
and u for those after the negative prompt and the same new tokens, tokens are chosen by ``u + guidance_scale *
(c - u)``. Both are computed in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine
from .job import Pending
from .results import FinishReason
from .text import Text

if TYPE_CHECKING:
    from ..core._engine import KVCache

__all__ = ["Guided", "guided"]


def guided(logits: np.ndarray, others: np.ndarray, scale: float) -> np.ndarray:
    """The guided logits, float32 [n_vocab]; ``others`` are the logits after the negative prompt."""
    c, u = (row.astype(np.float64) - _engine.log_sum_exp(row) for row in (logits, others))
    return (u + scale * (c - u)).astype(np.float32)


class Guided(Text):
    """A continuation with guidance."""

    _other: KVCache | None = None  # of the negative prompt and the new tokens

    def start(self) -> None:
        """Choose the first token by the logits after both prompts."""
        negative = self.prompt.negative
        assert negative is not None and self.prompt.logits is not None and negative.logits is not None
        rows = [self.prompt.logits, negative.logits]
        self._tokens = self.prompt.ids
        self.cache, self._other = self.prompt.adopt_cache(), negative.adopt_cache()
        self.advance(rows)

    def pending(self, n_texts: int) -> list[Pending]:
        """The last token, after both."""
        assert self.cache is not None and self._other is not None  # the text has not ended
        last = self._tokens[self._length - 1 : self._length]
        return [Pending(cache, last, 1) for cache in (self.cache, self._other)]

    def advance(self, rows: Sequence[np.ndarray]) -> None:
        """Choose the next token by the logits after both."""
        logits, others = rows
        self._choose(logits, guided(logits, others, self.job.options.guidance_scale))
        if self.done:
            self._other = None

    def cut(self, reason: FinishReason) -> None:
        """See `Text`."""
        super().cut(reason)
        self._other = None
