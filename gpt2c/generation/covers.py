"""The ways to tokenize the end of a text whose last word may be unfinished.

The tokens before the last word stay. For the bytes w of that word, the probability that the text continues
with w is the sum over all sequences of tokens whose last token is the first to reach the end of w. Such a
sequence is a way to cover w. Ways are found in order of probability, over the tokens sorted by their bytes,
until the rest has less than a thousandth of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core import _engine
from .spelling import spelling_of

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..core.lm import LoadedModel

__all__ = ["REMAINING", "CoverSearch", "Covers", "Path", "Rows", "best_of", "covers_of", "log_probabilities"]

REMAINING = 1e-3
"""The share of the probability that may remain unsearched."""

MOST_PASSES = 16  # for unlikely words, of which more then remains unsearched

AT_ONCE = 8  # rows that cost the engine little more than one


class Path(NamedTuple):
    """Tokens that follow the kept start of a text."""

    mass: float
    """Their joint probability, given that start."""
    tokens: tuple[int, ...]
    data: bytes
    """Their bytes."""


Group = tuple[Path, np.ndarray, np.ndarray]
"""A path that ends inside the word, the tokens that reach its end, and their probabilities there."""


class Covers(NamedTuple):
    """The ways to cover the last word of a text."""

    mass: float
    """The sum of their probabilities."""
    left: float
    """The probability of partial ways that were not followed."""
    groups: list[Group]

    def shares(self) -> dict[tuple[int, ...], float]:
        """The probability that a path inside the word is continued to its end, given the path."""
        shares: dict[tuple[int, ...], float] = {}
        for path, _, reached in self.groups:
            mass = path.mass * float(reached.sum())
            for n in range(len(path.tokens) + 1):
                shares[path.tokens[:n]] = shares.get(path.tokens[:n], 0.0) + mass
        masses = {path.tokens: path.mass for path, _, _ in self.groups}
        return {tokens: share / masses[tokens] for tokens, share in shares.items() if masses[tokens] > 0}


def best_of(groups: Sequence[Group], model: LoadedModel, n: int) -> list[Path]:
    """The ``n`` most probable ways among these, the best first."""
    if not groups:
        return []
    masses = np.concatenate([path.mass * reached for path, _, reached in groups])
    ids = np.concatenate([ids for _, ids, _ in groups])
    ends = np.cumsum([len(ids) for _, ids, _ in groups])
    n = min(n, len(masses))
    top = np.argpartition(-masses, n - 1)[:n] if n else np.empty(0, int)
    found = []
    for at in sorted(top.tolist(), key=lambda at: (-masses[at], at)):
        path, token = groups[int(np.searchsorted(ends, at, "right"))][0], int(ids[at])
        data = path.data + spelling_of(model).bytes[token]
        found.append(Path(float(masses[at]), (*path.tokens, token), data))
    return found


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """The log-probabilities of all tokens, float32 [n_vocab], from a row of logits."""
    return logits - np.float32(_engine.log_sum_exp(logits))


class Rows:
    """The model's predictions after paths from one text.

    Parameters
    ----------
    model : LoadedModel
    cache : KVCache
        Holds the text; is branched.
    logits : sequence of float32 [n_vocab]
        The logits after the text, and optionally after each of the tokens of ``own``.
    deadline : Deadline
    own : sequence of int
        The previous tokens of the last word, except the last one.
    room : int, optional
        The number of tokens that may follow the text; default: as many as the model has positions.

    Attributes
    ----------
    own : list of int
        As many of these as fit.
    room : int
    """

    def __init__(
        self,
        model: LoadedModel,
        cache: _engine.KVCache,
        logits: Sequence[np.ndarray],
        deadline: Deadline,
        own: Sequence[int] = (),
        room: int | None = None,
    ) -> None:
        self.model = model
        self._cache, self._deadline, self._logits = cache, deadline, logits
        left = model.config.n_ctx - len(cache)
        self.room = left if room is None else min(room, left)
        self.own = list(own[: self.room])

    def branch(self, room: int) -> _engine.KVCache:
        """A cache that continues the start, with room for ``n`` more tokens."""
        return self._cache.branch(min(len(self._cache) + room, self.model.config.n_ctx))

    def along(self) -> Iterator[np.ndarray]:
        """The log-probabilities after each prefix of ``own``, including the empty one and the whole."""
        rows = list(self._logits[: len(self.own) + 1])
        if len(rows) <= len(self.own):
            part = (self.branch(len(self.own)), np.array(self.own, np.int32))
            found = _engine.forward(
                self.model.weights, [part], threads=self.model.threads, deadline=self._deadline
            )
            rows[1:] = found
        yield from map(log_probabilities, rows)

    def after(self, paths: Sequence[tuple[int, ...]]) -> Iterator[np.ndarray]:
        """The log-probabilities of the token that follows each path, float32 [n_vocab]."""
        inner = [path for path in paths if path]
        logits = iter(())
        if inner:
            sequences = [(self.branch(len(path)), np.array(path, np.int32)) for path in inner]
            logits = iter(
                _engine.forward(
                    self.model.weights, sequences, keep=1, threads=self.model.threads, deadline=self._deadline
                )
            )
        for path in paths:
            yield log_probabilities(next(logits) if path else self._logits[0])


def covers_of(rows: Rows, word: bytes) -> Covers:
    """The ways to cover ``word``, which has at least one byte unless the text is empty."""
    search = CoverSearch(rows, word)
    while batch := search.take():
        for path, logp in zip(batch, rows.after([path.tokens for path in batch]), strict=True):
            search.expand(path, logp)
    return search.found()


class CoverSearch:
    """Paths inside a word; the most probable are followed first.

    Attributes
    ----------
    groups : list
        As of `Covers`.
    """

    def __init__(self, rows: Rows, word: bytes) -> None:
        self._rows, self._word = rows, word
        self._spelling = spelling_of(rows.model)
        self._frontier: list[tuple[float, tuple[int, ...], int]] = []  # minus the mass, tokens, bytes
        self.groups: list[Group] = []
        self._mass, self._dropped, self._passes = 0.0, 0.0, 0
        self._begin()

    def found(self) -> Covers:
        """The ways found so far."""
        return Covers(self._mass, self._left, self.groups)

    @property
    def total(self) -> float:
        """The probability of the word."""
        return self._mass + self._left

    def take(self) -> list[Path]:
        """The paths to follow in the next pass; none if the rest is small enough."""
        if self._left <= REMAINING * self.total or self._passes == MOST_PASSES:
            return []
        self._passes += 1
        batch = [heapq.heappop(self._frontier) for _ in range(min(AT_ONCE, len(self._frontier)))]
        return [Path(-negative, tokens, self._word[:n]) for negative, tokens, n in batch]

    @property
    def _left(self) -> float:
        # Summed anew: for an improbable word, a difference would be only rounding errors.
        return sum((-path[0] for path in self._frontier), self._dropped)

    def _begin(self) -> None:
        """Follow the text's own tokens of the word, usually the likeliest way: one pass."""
        own, mass, n = self._rows.own, 1.0, 0
        for i, logp in enumerate(self._rows.along()):
            following = own[i] if i < len(own) else None
            self.expand(Path(mass, tuple(own[:i]), self._word[:n]), logp, following)
            if following is not None:
                mass *= math.exp(logp[following])
                n += len(self._spelling.bytes[following])

    def expand(self, path: Path, logp: np.ndarray, following: int | None = None) -> None:
        """Record what can follow a path, except a token that is followed anyway."""
        rest = self._word[len(path.data) :]
        ids = self._spelling.ids[self._spelling.beginning_with(rest)]
        reached = np.exp(logp.take(ids), dtype=np.float64)
        self.groups.append((path, ids, reached))
        self._mass += path.mass * float(reached.sum())
        for token, length in self._spelling.inside(rest):
            probability = path.mass * math.exp(logp[token])
            if token == following:
                continue
            if len(path.tokens) < self._rows.room:
                entry = (-probability, (*path.tokens, token), len(path.data) + length)
                heapq.heappush(self._frontier, entry)
            else:
                self._dropped += probability
