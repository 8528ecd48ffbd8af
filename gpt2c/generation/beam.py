"""Beam search: the most probable continuations of a prompt, found side by side.

As in transformers (``generate`` with ``num_beams``): a text's score is the sum of the log-probabilities of
its tokens after the options that change them; in every step the continuations of all live texts compete;
those that end are kept, with their score divided by their number of new tokens to the power of
``length_penalty``, and the best ``num_beams`` of the others live on. With a temperature, continuations are
sampled without replacement instead of taken from the top (Kool et al. 2019, arXiv 1903.06059: the greatest
values after adding Gumbel noise are such a sample).

All live texts read one cache of the prompt and have their own for the rest. A text that is continued in two
ways needs another cache: it reuses that of a dead text, copying only the part in which the two differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """A live text."""

    new_ids: list[int]
    logprobs: list[float]  # by the raw logits
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

    score: float  # score of the text with it
    beam: int
    token: int


@dataclass(slots=True)
class Group:
    """Beams that compete with each other."""

    live: list[tuple[Beam, int]] = field(default_factory=list)
    """Each with the index of its parent among the beams of all groups."""
    hypotheses: list[Hypothesis] = field(default_factory=list)  # the best first
    done: bool = False


class Search:
    """The search of one prompt: the loop (loop.py) continues it like one text."""

    def __init__(self, job: Job, prompt: ComputedPrompt, prompt_index: int) -> None:
        self.job, self.prompt, self.prompt_index = job, prompt, prompt_index
        self.done = False
        self.trace = new_trace(job)
        self._groups: list[Group] = []
        self._size = job.options.num_beams // job.options.num_beam_groups

    def start(self) -> None:
        """Take the first tokens from the prompt's logits."""
        logits = self.prompt.logits
        assert logits is not None  # the loop has computed the prompt
        cache = self.prompt.adopt_cache()
        self._groups = [
            Group([(Beam([], [], 0.0, cache), 0)]) for _ in range(self.job.options.num_beam_groups)
        ]
        self.advance([logits] * len(self._groups))

    @property
    def _open(self) -> list[Group]:
        """The unfinished groups."""
        return [group for group in self._groups if not group.done]

    @property
    def _beams(self) -> list[Beam]:
        """The live texts of all groups."""
        return [beam for group in self._open for beam, _ in group.live]

    def pending(self, n_texts: int) -> list[Pending]:
        """The tokens to compute next for every beam; nothing is guessed."""
        beams = self._beams
        length = len(self.prompt.ids) + len(beams[0].new_ids)
        begin, seen = self.job.window(length), length - 1
        if begin == self.job.window(seen):
            return [Pending(beam.cache, np.array(beam.new_ids[-1:], np.int32), 1) for beam in beams]
        for beam in beams:  # the positions of everything kept change
            beam.cache = self.job.model.new_cache()
        return [Pending(beam.cache, self._ids(beam)[begin:], 1) for beam in beams]

    def advance(self, rows: Sequence[np.ndarray]) -> None:
        """Advance by one token, from the logits after each beam: float32 [beams, n_vocab]."""
        before = self._beams
        normalisers = [_engine.log_sum_exp(row) for row in rows]
        removed: list[dict[int, str] | None] = [None if self.trace is None else {} for _ in rows]
        fates: list[dict[int, str]] = [{} for _ in rows]
        logprobs: list[np.ndarray] = []
        taken: list[int] = []  # tokens of earlier groups
        for group in self._open:
            at = len(logprobs)
            for place, (beam, _) in enumerate(group.live, at):
                row = rows[place] - np.float32(normalisers[place])
                np.subtract.at(row, taken, np.float32(self.job.options.diversity_penalty))
                logprobs.append(self._processed(beam, row, place, removed[place]))
            taken += self._extend(group, at, rows, normalisers, logprobs, fates)
        live = [pair for group in self._open or self._groups for pair in group.live]
        for number, (beam, origin) in enumerate(live):
            fates[origin][beam.new_ids[-1]] = f"beam {number}"
        if self.trace is not None:
            left_out = [out or {} for out in removed]
            texts = [(beam.new_ids, beam.score) for beam in before]
            self.trace.add_search(
                self.job, self.prompt.ids, texts, rows, normalisers, logprobs, left_out, fates
            )
        self.done = not self._open
        for group in self._groups:
            if group.done:  # its caches are free
                group.live = []
        if not self.done:
            self._give_caches(before, self._beams)
        elif not any(group.hypotheses for group in self._groups):
            raise ValueError("no token can be chosen: all tokens are forbidden for every text of the search")

    def _extend(
        self,
        group: Group,
        at: int,
        rows: Sequence[np.ndarray],
        normalisers: list[float],
        logprobs: list[np.ndarray],
        fates: list[dict[int, str]],
    ) -> list[int]:
        """Continue the beams of a group, the first of which has the index ``at``, by a token.

        Returns the chosen tokens that did not end a text.
        """
        options, size, beams = self.job.options, self._size, [beam for beam, _ in group.live]
        live: list[tuple[Beam, int]] = []
        ended: list[Hypothesis] = []
        taken: list[int] = []
        candidates = self._candidates(beams, at, logprobs)
        n_new = len(beams[0].new_ids) + 1
        for place, (score, index, token) in enumerate(candidates):
            parent = beams[index - at]
            new_ids = [*parent.new_ids, token]
            raw = [*parent.logprobs, float(rows[index][token]) - normalisers[index]]
            reason = self._end(new_ids)
            if reason in (None, "length") and len(taken) < size:
                taken.append(token)
            if reason is None:
                live.append((Beam(new_ids, raw, score, parent.cache), index))
            elif place < size:
                fates[index][token] = "ended"
                ended.append(Hypothesis(score / n_new**options.length_penalty, new_ids, raw, reason))
        group.live = sorted(live, key=lambda pair: -pair[0].score)[:size]  # if drawn, in another order
        best = group.live[0][0].score if group.live else -np.inf
        if options.num_beam_groups > 1 and candidates:  # two rules of transformers that apply only to groups
            best = candidates[0].score  # also of a text that has just ended
            whole = [one for one in ended if one.finish_reason != "length"]
            if options.early_stopping is True and len(group.hypotheses) + len(whole) >= size:
                ended = whole
        group.hypotheses = sorted(group.hypotheses + ended, key=lambda h: -h.score)[:size]
        group.done = not group.live or not self._can_improve(group, best, n_new)
        return taken

    def cut(self, reason: FinishReason) -> None:
        """End the search, unless it has ended; live texts count as they are."""
        if self.done:
            return
        penalty = self.job.options.length_penalty
        for group in self._open:
            group.hypotheses += [
                Hypothesis(beam.score / len(beam.new_ids) ** penalty, beam.new_ids, beam.logprobs, reason)
                for beam, _ in group.live
            ]
        self.done = True
        if not self._groups:  # nothing is computed yet
            self._groups = [Group(hypotheses=[Hypothesis(0.0, [], [], reason)])]
        for group in self._groups:
            group.live, group.done = [], True

    def results(self) -> list[Generation]:
        """The best texts, the best first: as many as requested, or fewer if fewer were found."""
        results = []
        best = sorted((one for group in self._groups for one in group.hypotheses), key=lambda h: -h.score)
        for index, found in enumerate(best[: self.job.options.num_return_sequences]):
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
        self, beam: Beam, logprobs: np.ndarray, place: int, removed: dict[int, str] | None
    ) -> np.ndarray:
        """The effective log-probabilities of a beam's next token."""
        ids = self._ids(beam)
        logprobs = self.job.process(logprobs, ids, len(self.prompt.ids), removed)
        if self.job.shape is not None:
            return self.job.shape(logprobs, ids, place, removed)
        return logprobs if self.job.options.greedy else filtered(logprobs, self.job.options, removed)

    def _candidates(self, beams: list[Beam], at: int, logprobs: list[np.ndarray]) -> list[Candidate]:
        """The best, or sampled, one-token continuations of the beams from index ``at`` on.

        The best first, and so many that enough of them do not end the text.
        """
        options = self.job.options
        n = max(2, 1 + len(self.job.eos)) * self._size
        found: list[tuple[float, Candidate]] = []
        for index, beam in enumerate(beams, at):
            values = logprobs[index]
            keys = values if options.greedy else (values + self._noise(index, len(values))).astype(np.float32)
            for token in _engine.top(keys, n).tolist():
                if np.isfinite(keys[token]):
                    candidate = Candidate(beam.score + float(values[token]), index, token)
                    found.append((beam.score + float(keys[token]), candidate))
        found.sort(key=lambda pair: (-pair[0], pair[1].beam, pair[1].token))
        return [candidate for _, candidate in found[:n]]

    def _noise(self, beam: int, n: int) -> np.ndarray:
        """Gumbel noise of a beam's continuations, keyed by the seed, the position and the beam."""
        position = len(self.prompt.ids) + len(self._groups[0].live[0][0].new_ids)
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

    def _can_improve(self, group: Group, best: float, n_new: int) -> bool:
        """Whether a live text, the best of which has the score ``best``, may still beat a finished one."""
        options = self.job.options
        if len(group.hypotheses) < self._size:
            return True
        if options.early_stopping is True:
            return False
        longest = options.early_stopping == "never" and options.length_penalty > 0
        length = options.max_new_tokens if longest else n_new
        return best / length**options.length_penalty > group.hypotheses[-1].score

    def _give_caches(self, before: list[Beam], live: list[Beam]) -> None:
        """A separate cache for each of the beams, from those of their parents."""
        held = {id(beam.cache) for beam in live}
        free = [beam for beam in before if id(beam.cache) not in held]
        taken = set()
        for beam in live:
            cache = beam.cache
            if id(cache) not in taken:
                taken.add(id(cache))
            elif free:
                dead = free.pop()
                beam.cache = dead.cache
                beam.cache.follow(cache, _common(dead.new_ids, beam.new_ids, len(cache)))
            else:
                beam.cache = cache.fork()


def _common(one: list[int], other: list[int], n_cached: int) -> int:
    """The number of equal positions in the caches of two texts; the last token of ``other`` has none."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return max(0, same + n_cached - len(one))
