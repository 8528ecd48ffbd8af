"""Whole words that could continue a text, and their probabilities."""

from __future__ import annotations

import codecs
import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..core import _engine
from ..errors import DeadlineError
from ..generation.covers import AT_ONCE, CoverSearch, Path, best_of
from ..generation.spelling import APOSTROPHES, end_of_word, is_word, n_characters, spelling_of
from .results import Ranked, WordSuggestion

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..core.lm import LoadedModel
    from ..generation.covers import Rows

__all__ = ["LONGEST", "suggest_words"]

CANDIDATES = 64  # ways, and tokens after a path, to consider
ENOUGH = 1e-2  # of the probability may remain, if fewer words were found than wanted
IGNORED = 1e-4  # less probable paths are not followed
FOLLOWED = 20  # paths to follow, the most probable ones known at the time
LONGEST = 32  # tokens of a word
SURE = 0.1  # of the last word's probability: less probable paths are not followed


def suggest_words(
    model: LoadedModel, typed: bytes, rows: Callable[[Deadline], Rows], k: int, deadline: Deadline
) -> Ranked[WordSuggestion]:
    """The ``k`` most probable words at the end of a text.

    Parameters
    ----------
    model : LoadedModel
    typed : bytes
        The last word so far.
    rows : function
        Returns the model's predictions after the tokens before that word, unless time is up.
    k : int
    deadline : Deadline
    """
    search = _Search(model, typed, k)
    finished = True
    try:
        search.run(rows(deadline))
    except DeadlineError:
        finished = False
    return search.results(finished)


def _complete(data: bytes) -> str:
    """The text of bytes, without an incomplete character. UnicodeDecodeError if they are not UTF-8."""
    return codecs.utf_8_decode(data, "strict", False)[0]


class _Search:
    """Follow paths, the most probable first, until their words end."""

    def __init__(self, model: LoadedModel, typed: bytes, k: int) -> None:
        self.model, self.typed, self.k = model, typed, k
        self.spelling = spelling_of(model)
        self.n_typed = n_characters(self.typed)
        self.found: defaultdict[bytes, float] = defaultdict(float)
        self.frontier: list[tuple[float, tuple[int, ...], bytes]] = []
        self.total, self.mass = 1.0, 0.0
        self.longest = LONGEST

    def run(self, rows: Rows) -> None:
        self.longest = min(LONGEST, rows.room + 1)  # the last token of a path is not computed
        covers = CoverSearch(rows, self.typed)
        followed = n_known = 0
        while True:
            self.total = covers.total
            for path in best_of(covers.groups[n_known:], self.model, CANDIDATES):
                self._add(path)
            n_known = len(covers.groups)
            inside = covers.take()
            batch = self._take(min(AT_ONCE - len(inside), FOLLOWED - followed))
            if not inside and not batch:
                break
            followed += len(batch)
            following = rows.after([path.tokens for path in inside + batch])
            for path in inside:
                covers.expand(path, next(following))
            for path in batch:
                self._follow(path, np.exp(next(following)))

    @property
    def left(self) -> float:
        """The probability of the words that were not found."""
        return self.total - self.mass

    def _take(self, n: int) -> list[Path]:
        """Up to ``n`` paths to follow; none if they can hardly change the result."""
        batch: list[Path] = []
        if self.left > ENOUGH * self.total:
            while self.frontier and len(batch) < n and not self._is_settled():
                mass, tokens, data = heapq.heappop(self.frontier)
                batch.append(Path(-mass, tokens, data))
        return batch

    def results(self, finished: bool) -> Ranked[WordSuggestion]:
        ranked = sorted(self.found.items(), key=lambda item: (-item[1], item[0]))[: self.k]
        suggestions = []
        for data, mass in ranked:
            word = data.decode("utf-8")
            added = word[self.n_typed :]
            if added[:1].isspace():  # it follows the typed text
                word = added
            suggestions.append(WordSuggestion(added, word.strip(), mass / self.total))
        return Ranked(suggestions, remaining=max(0.0, self.left) / self.total, finished=finished)

    def _is_settled(self) -> bool:
        """Whether the rest can hardly change the ranking."""
        if len(self.found) < self.k:
            return False
        last = heapq.nlargest(self.k, self.found.values())[-1]
        return -self.frontier[0][0] <= SURE * last

    def _end(self, data: bytes) -> int | None:
        """The end of the word, in bytes, which starts with the typed text and continues with ``data``."""
        text = _complete(data)
        end = end_of_word(text, self.n_typed)
        return None if end is None else len(text[:end].encode("utf-8"))

    def _add(self, path: Path) -> None:
        """Handle a path that may have reached the end of its word."""
        try:
            end = self._end(path.data)
        except UnicodeDecodeError:
            return  # not text
        if end is None and len(path.tokens) < self.longest:
            heapq.heappush(self.frontier, (-path.mass, path.tokens, path.data))
        elif end is not None:
            self._find(path.data[:end], path.mass)

    def _find(self, data: bytes, mass: float) -> None:
        self.found[data] += mass
        self.mass += mass

    def _follow(self, path: Path, p: np.ndarray) -> None:
        """Continue a path by the probabilities of its next token."""
        text = _complete(path.data)
        last = text[-1:] if len(text.encode("utf-8")) == len(path.data) else ""
        goes_on = None
        if last and is_word(last):
            goes_on = self.spelling.in_word
        elif last and len(text) > self.n_typed and not last.isspace() and last not in APOSTROPHES:
            goes_on = self.spelling.in_marks
        if goes_on is not None:
            # Tokens that do not continue the word end it.
            p = p[: len(goes_on)] * goes_on
            self._find(path.data, path.mass * (1 - float(p.sum(dtype=np.float64))))
        for token in _engine.top(p[: self.model.n_text_tokens], CANDIDATES).tolist():
            mass, data = path.mass * float(p[token]), self.spelling.bytes[token]
            if mass < IGNORED * self.total:
                break  # so are those that follow
            if data:
                self._add(Path(mass, (*path.tokens, token), path.data + data))
