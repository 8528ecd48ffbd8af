"""The ways to write the end of a text in tokens, where its last word may be unfinished.

The tokens before the last word stay. For the bytes w of that word, the probability that the text goes on with
w is the sum over all sequences of tokens of which the last one is the first to reach the end of w. Such a
sequence is a way to cover w. Ways are found in the order of their probability, over the tokens sorted by
their bytes, until what is left has less than a thousandth of it.
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

__all__ = ["REMAINING", "Covers", "Path", "Rows", "covers_of", "log_probabilities"]

REMAINING = 1e-3
"""The share of the probability that may be left unsearched."""

MOST_PASSES = 16  # for words that nothing makes likely, of which more is left unsearched then

AT_ONCE = 8  # rows of the engine that cost little more than one


class Path(NamedTuple):
    """Tokens that follow the kept beginning of a text."""

    mass: float
    """Their joint probability, given that beginning."""
    tokens: tuple[int, ...]
    data: bytes
    """Their bytes."""


class Covers(NamedTuple):
    """The ways to cover the last word of a text."""

    mass: float
    """The sum of their probabilities."""
    left: float
    """That of the beginnings of ways that were not followed."""
    groups: list[tuple[Path, np.ndarray, np.ndarray]]
    """A path that ends inside the word, the tokens that reach its end, and their probabilities there."""

    def shares(self) -> dict[tuple[int, ...], float]:
        """The probability that a path inside the word is continued to its end, given the path."""
        shares: dict[tuple[int, ...], float] = {}
        for path, _, reached in self.groups:
            mass = path.mass * float(reached.sum())
            for n in range(len(path.tokens) + 1):
                shares[path.tokens[:n]] = shares.get(path.tokens[:n], 0.0) + mass
        masses = {path.tokens: path.mass for path, _, _ in self.groups}
        return {tokens: share / masses[tokens] for tokens, share in shares.items() if masses[tokens] > 0}

    def best(self, model: LoadedModel, n: int) -> list[Path]:
        """The ``n`` most probable ones, the best first."""
        masses = np.concatenate([path.mass * reached for path, _, reached in self.groups])
        ids = np.concatenate([ids for _, ids, _ in self.groups])
        ends = np.cumsum([len(ids) for _, ids, _ in self.groups])
        n = min(n, len(masses))
        top = np.argpartition(-masses, n - 1)[:n] if n else np.empty(0, int)
        found = []
        for at in sorted(top.tolist(), key=lambda at: (-masses[at], at)):
            path, token = self.groups[int(np.searchsorted(ends, at, "right"))][0], int(ids[at])
            data = path.data + model.tokenizer.token_bytes(token)
            found.append(Path(float(masses[at]), (*path.tokens, token), data))
        return found


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Those of all tokens, float32 [n_vocab], by a row of logits."""
    return logits - np.float32(_engine.log_sum_exp(logits))


class Rows:
    """What the model says of the token after paths from one text.

    Parameters
    ----------
    model : LoadedModel
    cache : KVCache
        It holds the text; branches are made of it.
    logits : float32 [n_vocab]
        Of the token that follows the text.
    deadline : Deadline
    """

    def __init__(
        self, model: LoadedModel, cache: _engine.KVCache, logits: np.ndarray, deadline: Deadline
    ) -> None:
        self.model = model
        self._cache, self._root, self._deadline = cache, logits, deadline

    def branch(self, room: int) -> _engine.KVCache:
        """A cache that goes on from the beginning, with room for so many tokens more."""
        return self._cache.branch(min(len(self._cache) + room, self.model.config.n_ctx))

    @property
    def room(self) -> int:
        """How many tokens may follow the text."""
        return self.model.config.n_ctx - len(self._cache)

    def along(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """The log-probabilities after each beginning of a path, the empty one and the whole included."""
        tokens = tokens[: self.room]
        rows = [self._root]
        if tokens:
            part = (self.branch(len(tokens)), np.array(tokens, np.int32))
            found = _engine.forward(
                self.model.weights, [part], threads=self.model.threads, deadline=self._deadline
            )
            rows += list(found)
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
            yield log_probabilities(next(logits) if path else self._root)


def covers_of(rows: Rows, word: bytes) -> Covers:
    """The ways to cover ``word``, of which there is at least one byte unless the text is empty."""
    search = _Search(rows, word)
    search.begin()
    for _ in range(MOST_PASSES):
        if not search.frontier or search.left <= REMAINING * (search.mass + search.left):
            break
        batch = [heapq.heappop(search.frontier) for _ in range(min(AT_ONCE, len(search.frontier)))]
        following = rows.after([tokens for _, tokens, _ in batch])
        for (negative, tokens, n), logp in zip(batch, following, strict=True):
            search.expand(Path(-negative, tokens, word[:n]), logp)
    return Covers(search.mass, search.left, search.groups)


class _Search:
    """Paths inside a word, the most probable of which are followed first."""

    def __init__(self, rows: Rows, word: bytes) -> None:
        self._rows, self._word = rows, word
        self._spelling = spelling_of(rows.model)
        self.frontier: list[tuple[float, tuple[int, ...], int]] = []  # minus the mass, tokens, bytes
        self.groups: list[tuple[Path, np.ndarray, np.ndarray]] = []
        self.mass, self._dropped = 0.0, 0.0

    @property
    def left(self) -> float:
        # Added up anew: for a word of little probability, a difference would be nothing but rounding errors.
        return sum((-path[0] for path in self.frontier), self._dropped)

    def begin(self) -> None:
        """Follow the way in which the tokenizer writes the word, mostly the likeliest: one pass."""
        tokenizer = self._rows.model.tokenizer
        try:
            own = tokenizer.encode(self._word.decode("utf-8"), continued=True)
        except ValueError:  # the word cannot be written by itself
            own = []
        if b"".join(map(tokenizer.token_bytes, own)) != self._word:
            own = []
        mass, n = 1.0, 0
        found = list(self._rows.along(own[:-1]))
        for i, logp in enumerate(found):
            following = own[i] if i + 1 < len(found) else None
            self.expand(Path(mass, tuple(own[:i]), self._word[:n]), logp, following)
            if following is not None:
                mass *= math.exp(logp[following])
                n += len(tokenizer.token_bytes(following))

    def expand(self, path: Path, logp: np.ndarray, following: int | None = None) -> None:
        """Take note of what can follow a path, but for a token that is followed anyway."""
        rest = self._word[len(path.data) :]
        ids = self._spelling.ids[self._spelling.beginning_with(rest)]
        reached = np.exp(logp[ids], dtype=np.float64)
        self.groups.append((path, ids, reached))
        self.mass += path.mass * float(reached.sum())
        for token, length in self._spelling.inside(rest):
            probability = path.mass * math.exp(logp[token])
            if token == following:
                continue
            if len(path.tokens) < self._rows.room:
                entry = (-probability, (*path.tokens, token), len(path.data) + length)
                heapq.heappush(self.frontier, entry)
            else:
                self._dropped += probability
