"""Completions: words and texts that could come next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

__all__ = ["Completion", "Ranked", "WordSuggestion"]

Item = TypeVar("Item")


class WordSuggestion(NamedTuple):
    """A word that could come next, or that the text could end with.

    Attributes
    ----------
    text : str
        Its addition to the text: empty if the word is already complete.
    word : str
        The whole word, without the space before it.
    probability : float
        That the text continues with it and the word ends there, 0 to 1, given all of the text: the sum over
        all its spellings in tokens.
    """

    text: str
    word: str
    probability: float


class Completion(NamedTuple):
    """A text that could come next.

    Attributes
    ----------
    text : str
        Its addition to the text, in whole characters.
    probability : float
        Joint probability of this continuation, given all of the text.
    probabilities : tuple of float
        For the token that completes the word at the end of the text (the sum over its spellings), and for
        every token after it, given those before: their product is ``probability``.
    token_ids : tuple of int
        The tokens from the start of that word on, in the most probable spelling.
    finish_reason : str
        "length", "eos", "deadline" or "cancelled".
    """

    text: str
    probability: float
    probabilities: tuple[float, ...]
    token_ids: tuple[int, ...]
    finish_reason: str


class Ranked(list[Item]):
    """The results of a search, the most probable first.

    Attributes
    ----------
    remaining : float
        The probability that was left unsearched, 0 to 1: no missing result has more.
    finished : bool
        False if a deadline ended the search: there may be better results.
    """

    def __init__(self, items: Iterable[Item], *, remaining: float, finished: bool) -> None:
        super().__init__(items)
        self.remaining, self.finished = remaining, finished
