"""Contrastive search: probable tokens that do not repeat the text.

Su et al. 2022 (arXiv 2202.06417). Among the ``top_k`` most probable tokens, the candidates, it chooses the
one that maximizes ``(1 - penalty_alpha) * p - penalty_alpha * s``: p is its probability, s the greatest
cosine similarity of its hidden state, the output of the last LayerNorm, to those of the text so far.

So candidates are computed before one is chosen: a pass has a row for each, and the chosen one's row has the
logits for the next candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine
from .hidden import Directions
from .job import Job, Pending
from .results import FinishReason
from .text import ComputedPrompt, Text

if TYPE_CHECKING:
    from ..core._engine import KVCache

__all__ = ["Contrastive"]


class Contrastive(Text):
    """A continuation by contrastive search."""

    def __init__(self, job: Job, prompt: ComputedPrompt, prompt_index: int, sample_index: int) -> None:
        super().__init__(job, prompt, prompt_index, sample_index)
        self._directions = Directions(job.model)
        self._caches: list[KVCache] = []  # one per candidate; they hold the same text
        self._text_directions = np.empty((0, job.model.config.n_embd))  # with room for those to come
        self._streams: list[np.ndarray] = []  # of the candidates, from the latest pass
        self._logits = np.empty(0, np.float32)  # of the next token
        self._removed: dict[int, str] | None = None
        self._candidates = np.empty(0, np.int32)
        self._probabilities = np.empty(0)

    def start(self) -> None:
        """Find the first candidates from the prompt's logits."""
        logits = self.prompt.logits
        assert logits is not None  # the loop has computed the prompt
        self._tokens = self.prompt.ids
        found = self._directions(np.concatenate(self.prompt.streams))
        self._text_directions = np.empty((len(found) + self.job.options.max_new_tokens, found.shape[1]))
        self._text_directions[: len(found)] = found
        cache = self.prompt.adopt_cache()
        n = min(self.job.options.n_candidates, self.job.model.n_text_tokens)
        self._caches = [cache, *(cache.fork() for _ in range(n - 1))]
        self._find_candidates(logits)

    def pending(self, n_texts: int) -> list[Pending]:
        """All candidates."""
        self._streams = []
        return [
            Pending(cache, self._candidates[at : at + 1], 1, self._streams.append)
            for at, cache in enumerate(self._caches[: len(self._candidates)])
        ]

    def advance(self, rows: Sequence[np.ndarray]) -> None:
        """Choose one of the candidates; the rows are the logits after each."""
        alpha, n = self.job.options.penalty_alpha, self._length
        directions = self._directions(np.concatenate(self._streams))
        known = self._text_directions[:n]
        similarities = [np.einsum("nd,d->n", known, own).max() for own in directions]
        scores = (1 - alpha) * self._probabilities - alpha * np.array(similarities)
        at = int(scores.argmax())
        token = int(self._candidates[at])
        logprob = float(self._logits[token]) - _engine.log_sum_exp(self._logits)
        by_token = dict(zip(self._candidates.tolist(), scores.tolist(), strict=True))
        self._text_directions[n] = directions[at]
        self._append(token, logprob, self._logits, self._removed, by_token.get)
        if self.done:
            self._caches = []
            return
        chosen = self._caches[at]
        for cache in self._caches:
            if cache is not chosen:
                cache.follow(chosen, len(chosen) - 1)
        self._find_candidates(rows[at])

    def _find_candidates(self, logits: np.ndarray) -> None:
        """The most probable tokens, and their probabilities after the options that change them."""
        job, ids = self.job, self._tokens[: self._length]
        self._logits = logits.copy()  # so that the rest of its pass can be freed
        self._removed = None if self.trace is None else {}
        processed = job.process(logits, ids, len(self.prompt.ids), self._removed)
        if job.shape is not None:
            processed = job.shape(processed, ids, self.sample_index, self._removed).astype(np.float32)
        self._candidates = _engine.top(processed, len(self._caches))
        if not len(self._candidates):
            raise ValueError(
                "no token can be chosen: every one is forbidden, or the logits hold NaN or infinities"
            )
        logprobs = processed.take(self._candidates).astype(np.float64) - _engine.log_sum_exp(processed)
        self._probabilities = np.exp(logprobs)
        if self._removed is not None:
            others = np.setdiff1d(np.flatnonzero(processed > -np.inf), self._candidates)
            self._removed.update(dict.fromkeys(others.tolist(), "top_k"))

    def cut(self, reason: FinishReason) -> None:
        """See `Text`."""
        super().cut(reason)
        self._caches = []
