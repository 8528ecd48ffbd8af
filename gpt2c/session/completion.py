"""Completions of a text: a beam search over its spellings in tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine
from ..errors import DeadlineError
from ..generation.covers import REMAINING, Path, Rows, best_of, covers_of, log_probabilities
from ..generation.spelling import n_characters
from .results import Completion, Ranked

if TYPE_CHECKING:
    from ..core._engine import KVCache
    from ..core.deadline import Deadline
    from ..core.lm import LoadedModel

__all__ = ["complete"]

WAYS = 64  # most probable candidates, among which equal spellings are merged


@dataclass(slots=True)
class _Way:
    """Tokens that follow the kept start of the text."""

    mass: float
    tokens: tuple[int, ...]
    cache: KVCache
    seen: int = 0  # number of these tokens in the cache


@dataclass(slots=True)
class _Hypothesis:
    """A text, as all spellings of its first word, and the tokens after it."""

    data: bytes
    ways: list[_Way]
    probabilities: tuple[float, ...]
    finish_reason: str | None = None
    probability: float = field(init=False)  # joint

    def __post_init__(self) -> None:
        self.probability = math.prod(self.probabilities)

    def after(self, rows: np.ndarray) -> np.ndarray:
        """The probabilities of the next token, from those after each spelling, float32 [ways, n_vocab]."""
        masses = np.array([way.mass for way in self.ways])
        return (masses / masses.sum()).astype(np.float32) @ rows


def complete(
    model: LoadedModel, typed: bytes, rows: Callable[[Deadline], Rows], n: int, most: int, deadline: Deadline
) -> Ranked[Completion]:
    """The ``n`` most probable texts of ``most`` tokens; the others are as for `words.suggest_words`."""
    search = _Search(model, typed, n, most)
    try:
        search.run(rows(deadline), deadline)
    except DeadlineError:
        search.cut(deadline.reason or "deadline")
    return search.results()


class _Search:
    def __init__(self, model: LoadedModel, typed: bytes, n: int, most: int) -> None:
        self.model, self.typed, self.n, self.most = model, typed, n, most
        self.eos = frozenset(self.model.config.eos_token_ids)
        self.hypotheses: list[_Hypothesis] = []
        self.total, self.left, self.finished = 1.0, 1.0, True

    def run(self, rows: Rows, deadline: Deadline) -> None:
        """Run the search to its end."""
        covers = covers_of(rows, self.typed)
        self.total, self.left = covers.mass + covers.left, covers.left
        paths = best_of(covers.groups, self.model, max(WAYS, self.n))
        # Those that leave room for the tokens after them; the last one needs none.
        self._begin(rows, [path for path in paths if len(path.tokens) + self.most <= rows.room + 2])
        while any(hypothesis.finish_reason is None for hypothesis in self.hypotheses):
            self._advance(deadline)

    def cut(self, reason: str) -> None:
        """End all texts that have not ended."""
        self.finished = False
        for hypothesis in self.hypotheses:
            hypothesis.finish_reason = hypothesis.finish_reason or reason

    def results(self) -> Ranked[Completion]:
        typed = n_characters(self.typed)
        found = [
            Completion(
                text=hypothesis.data.decode("utf-8", "ignore")[typed:],
                probability=hypothesis.probability,
                probabilities=hypothesis.probabilities,
                token_ids=max(hypothesis.ways, key=lambda way: way.mass).tokens,
                finish_reason=hypothesis.finish_reason or "length",
            )
            for hypothesis in self.hypotheses
        ]
        return Ranked(found, remaining=self.left / self.total, finished=self.finished)

    def _begin(self, rows: Rows, paths: Sequence[Path]) -> None:
        """The most probable ends of the last word, each with its spellings."""
        spelled: dict[bytes, list[Path]] = {}
        for path in paths:
            spelled.setdefault(path.data, []).append(path)
        best = sorted(spelled.items(), key=lambda item: -sum(path.mass for path in item[1]))[: self.n]
        for data, ways in best:
            mass = sum(path.mass for path in ways)
            kept = [
                _Way(path.mass, path.tokens, rows.branch(len(path.tokens) + self.most))
                for path in ways
                if path.mass >= REMAINING * mass
            ]
            reason = "length" if self.most == 1 else None
            self.hypotheses.append(_Hypothesis(data, kept, (mass / self.total,), reason))

    def _advance(self, deadline: Deadline) -> None:
        """Extend every unfinished text by one token; the best ``n`` continue."""
        active = [hypothesis for hypothesis in self.hypotheses if hypothesis.finish_reason is None]
        ways = [way for hypothesis in active for way in hypothesis.ways]
        logits = iter(self._logits(ways, deadline))
        candidates: list[tuple[float, _Hypothesis, int | None]] = [
            (h.probability, h, None) for h in self.hypotheses if h.finish_reason is not None
        ]
        rows: dict[int, np.ndarray] = {}
        for hypothesis in active:
            p = np.exp([log_probabilities(next(logits)) for _ in hypothesis.ways])
            rows[id(hypothesis)] = p
            following = hypothesis.after(p)
            candidates += [
                (hypothesis.probability * float(following[token]), hypothesis, token)
                for token in _engine.top(following[: self.model.n_text_tokens], self.n).tolist()
            ]
        candidates.sort(key=lambda candidate: -candidate[0])
        taken: set[int] = set()
        self.hypotheses = [
            parent if token is None else self._child(parent, token, rows[id(parent)], taken)
            for _, parent, token in candidates[: self.n]
        ]

    def _logits(self, ways: Sequence[_Way], deadline: Deadline) -> np.ndarray:
        sequences = [(way.cache, np.array(way.tokens[way.seen :], np.int32)) for way in ways]
        model = self.model
        logits = _engine.forward(model.weights, sequences, keep=1, threads=model.threads, deadline=deadline)
        for way in ways:
            way.seen = len(way.tokens)
        return logits

    def _child(self, parent: _Hypothesis, token: int, rows: np.ndarray, taken: set[int]) -> _Hypothesis:
        """A hypothesis with one more token. The first child takes its parent's caches; others copy."""
        ways = []
        for way, p in zip(parent.ways, rows, strict=True):
            cache = way.cache if id(parent) not in taken else way.cache.fork()
            ways.append(_Way(way.mass * float(p[token]), (*way.tokens, token), cache, way.seen))
        taken.add(id(parent))
        following = float(parent.after(rows[:, token : token + 1])[0])
        child = _Hypothesis(parent.data, ways, (*parent.probabilities, following))
        if token in self.eos:
            child.finish_reason = "eos"
            return child
        child.data += self.model.tokenizer.bytes_inside(token)
        if len(child.probabilities) == self.most:
            child.finish_reason = "length"
        return child
