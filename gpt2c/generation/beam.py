"""Beam search: the most probable continuations of a prompt, found side by side.

As in transformers (``generate`` with ``num_beams``): a text's score is the sum of the log-probabilities of
its tokens after the options that change them; in every step the continuations of all live texts compete;
those that end are kept, with their score divided by their number of new tokens to the power of
``length_penalty``, and the best ``num_beams`` of the others live on. With a temperature, continuations are
drawn without replacement instead of taken from the top (Kool et al. 2019, arXiv 1903.06059: the greatest
values after adding Gumbel noise are such a draw).

All live texts read one cache of the prompt and have one of their own for what follows. A text that goes on in
two ways needs another of these: that of a text which died, in which only what the two do not have in common
is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..core import _engine
from .job import Job, Pending
from .processors import filtered
from .results import FinishReason, Generation
from .text import ComputedPrompt
from .trace import new_trace

__all__ = ["Search"]


@dataclass(slots=True)
class Beam:
    """A text that lives."""

    new_ids: list[int]
    logprobs: list[float]  # of the raw logits
    score: float  # sum of log-probabilities after the options
    cache: _engine.KVCache


class Hypothesis(NamedTuple):
    """A text that has ended."""

    score: float  # with the length penalty
    new_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Candidate(NamedTuple):
    """A token that could follow a beam."""

    score: float  # of the text with it
    beam: int
    token: int


class Search:
    """The search of one prompt: what the loop (loop.py) continues as if it were one text."""

    def __init__(self, job: Job, prompt: ComputedPrompt, prompt_index: int) -> None:
        self.job, self.prompt, self.prompt_index = job, prompt, prompt_index
        self.done = False
        self.trace = new_trace(job)
        self._beams: list[Beam] = []
        self._hypotheses: list[Hypothesis] = []  # the best first

    def start(self) -> None:
        """Take the first tokens from the prompt's logits."""
        logits = self.prompt.logits
        assert logits is not None  # the loop has computed the prompt
        self._beams = [Beam([], [], 0.0, self.prompt.adopt_cache())]
        self.advance([logits])

    def pending(self, n_texts: int) -> list[Pending]:
        """What every beam wants to be computed next; nothing is guessed."""
        n_prompt = len(self.prompt.ids)
        length = n_prompt + len(self._beams[0].new_ids)
        begin, seen = self.job.window(length), length - 1
        if begin == self.job.window(seen):
            return [Pending(beam.cache, np.array(beam.new_ids[-1:], np.int32), 1) for beam in self._beams]
        for beam in self._beams:  # the positions of all that is kept change
            beam.cache = self.job.model.new_cache()
        return [Pending(beam.cache, self._ids(beam)[begin:], 1) for beam in self._beams]

    def advance(self, rows: Sequence[np.ndarray]) -> None:
        """Go one token further, by the logits that follow each beam: float32 [beams, n_vocab]."""
        options = self.job.options
        n_new = len(self._beams[0].new_ids) + 1
        normalisers = [_engine.log_sum_exp(row) for row in rows]
        removed: list[dict[int, str] | None] = [None if self.trace is None else {} for _ in rows]
        logprobs = self._processed(rows, normalisers, removed)

        live: list[tuple[Beam, int]] = []  # with the place of the parent
        ended: list[Hypothesis] = []
        fates: list[dict[int, str]] = [{} for _ in rows]
        for place, (score, at, token) in enumerate(self._candidates(logprobs)):
            parent = self._beams[at]
            new_ids = [*parent.new_ids, token]
            raw = [*parent.logprobs, float(rows[at][token]) - normalisers[at]]
            reason = self._end(new_ids)
            if reason is None:
                live.append((Beam(new_ids, raw, score, parent.cache), at))
            elif place < options.num_beams:
                fates[at][token] = "ended"
                ended.append(Hypothesis(score / n_new**options.length_penalty, new_ids, raw, reason))
        live = sorted(live, key=lambda pair: -pair[0].score)[
            : options.num_beams
        ]  # if drawn, in another order
        for number, (beam, at) in enumerate(live):
            fates[at][beam.new_ids[-1]] = f"beam {number}"
        self._hypotheses = sorted(self._hypotheses + ended, key=lambda h: -h.score)[: options.num_beams]
        if self.trace is not None:
            beams = [(beam.new_ids, beam.score) for beam in self._beams]
            left_out = [out or {} for out in removed]
            self.trace.add_search(
                self.job, self.prompt.ids, beams, rows, normalisers, logprobs, left_out, fates
            )
        self.done = not live or not self._can_improve(live[0][0].score, n_new)
        if self.done:
            if not self._hypotheses:
                raise ValueError(
                    "no token can be chosen: every text of the search came to where all tokens are forbidden"
                )
            self._beams = []
        else:
            self._give_caches(live)
            self._beams = [beam for beam, _ in live]

    def cut(self, reason: FinishReason) -> None:
        """End the search, unless it has ended already; the live texts count as they are."""
        if not self.done:
            penalty = self.job.options.length_penalty
            live = [
                Hypothesis(beam.score / len(beam.new_ids) ** penalty, beam.new_ids, beam.logprobs, reason)
                for beam in self._beams
                if beam.new_ids
            ] or [Hypothesis(0.0, [], [], reason)]
            self._hypotheses = sorted(self._hypotheses + live, key=lambda h: -h.score)
            self.done, self._beams = True, []

    def results(self) -> list[Generation]:
        """The best texts, the best first: as many as were asked for, if so many were found."""
        results = []
        for index, found in enumerate(self._hypotheses[: self.job.options.num_return_sequences]):
            writer = self.job.written(self.prompt.ids, found.new_ids)
            writer.finish()
            results.append(
                Generation(
                    text=writer.text,
                    token_ids=found.new_ids,
                    logprobs=found.logprobs,
                    finish_reason=found.finish_reason,
                    prompt_index=self.prompt_index,
                    sample_index=index,
                    prompt_token_ids=self.prompt.ids.tolist(),
                    seed=self.job.seed,
                    score=found.score,
                    trace=self.trace,
                )
            )
        return results

    def _ids(self, beam: Beam) -> np.ndarray:
        return np.concatenate([self.prompt.ids, np.array(beam.new_ids, np.int32)])

    def _processed(
        self, rows: Sequence[np.ndarray], normalisers: list[float], removed: list[dict[int, str] | None]
    ) -> list[np.ndarray]:
        """The log-probabilities that count, of each beam's next token."""
        processed = []
        for place, (beam, row, normaliser, out) in enumerate(
            zip(self._beams, rows, normalisers, removed, strict=True)
        ):
            ids = self._ids(beam)
            logprobs = self.job.process(row - np.float32(normaliser), ids, len(self.prompt.ids), out)
            if self.job.shape is not None:
                logprobs = self.job.shape(logprobs, ids, place, out)
            elif not self.job.options.greedy:
                logprobs = filtered(logprobs, self.job.options, out)
            processed.append(logprobs)
        return processed

    def _candidates(self, logprobs: list[np.ndarray]) -> list[Candidate]:
        """The best continuations of all beams by one token, or those that are drawn; the best first.

        Enough that ``num_beams`` of them do not end the text.
        """
        options = self.job.options
        n = max(2, 1 + len(self.job.eos)) * options.num_beams
        found: list[tuple[float, Candidate]] = []
        for index, (beam, values) in enumerate(zip(self._beams, logprobs, strict=True)):
            keys = values if options.greedy else (values + self._noise(index, len(values))).astype(np.float32)
            for token in _engine.top(keys, n).tolist():
                if np.isfinite(keys[token]):
                    candidate = Candidate(beam.score + float(values[token]), index, token)
                    found.append((beam.score + float(keys[token]), candidate))
        found.sort(key=lambda pair: (-pair[0], pair[1].beam, pair[1].token))
        return [candidate for _, candidate in found[:n]]

    def _noise(self, beam: int, n: int) -> np.ndarray:
        """Gumbel noise of a beam's continuations, keyed by the seed, the position and the beam."""
        position = len(self.prompt.ids) + len(self._beams[0].new_ids)
        philox = np.random.Philox(key=[self.job.seed or 0, 0], counter=[0, 0, position, beam])
        return -np.log(np.random.Generator(philox).standard_exponential(n))

    def _end(self, new_ids: list[int]) -> FinishReason | None:
        options = self.job.options
        if new_ids[-1] in self.job.eos:
            return "eos"
        if options.stop:
            writer = self.job.written(self.prompt.ids, new_ids)
            if len(new_ids) == options.max_new_tokens:
                writer.finish()
            if writer.stopped:
                return "stop"
        return "length" if len(new_ids) == options.max_new_tokens else None

    def _can_improve(self, best: float, n_new: int) -> bool:
        """Whether a live text, the best of which has the score ``best``, may yet beat one that ended."""
        options = self.job.options
        if len(self._hypotheses) < options.num_beams:
            return True
        if options.early_stopping is True:
            return False
        longest = options.early_stopping == "never" and options.length_penalty > 0
        length = options.max_new_tokens if longest else n_new
        return best / length**options.length_penalty > self._hypotheses[-1].score

    def _give_caches(self, live: list[tuple[Beam, int]]) -> None:
        """A cache of its own for each of the beams, which hold those of their parents."""
        free = list(set(range(len(self._beams))) - {parent for _, parent in live})
        taken = set()
        for beam, parent in live:
            if parent not in taken:
                taken.add(parent)
                continue
            cache = beam.cache
            if free:
                index = free.pop()
                beam.cache = self._beams[index].cache
                beam.cache.follow(cache, self._common(index, parent, len(cache)))
            else:
                beam.cache = cache.fork()

    def _common(self, one: int, other: int, n_cached: int) -> int:
        """How many positions at the start of the caches of two beams are the same."""
        pairs = zip(self._beams[one].new_ids, self._beams[other].new_ids, strict=True)
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), len(self._beams[one].new_ids))
        length = len(self.prompt.ids) + len(self._beams[one].new_ids)
        return max(0, len(self.prompt.ids) + same - (length - n_cached))
