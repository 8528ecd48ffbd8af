"""What could come next, as words and as texts."""

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
        What it adds to the text: empty where the word is complete as it stands.
    word : str
        The whole word, without the space before it.
    probability : float
        That the text goes on with it and that it ends there, 0 to 1, given all of the text: the sum over all
        ways to write it in tokens.
    """

    text: str
    word: str
    probability: float


class Completion(NamedTuple):
    """A text that could come next.

    Attributes
    ----------
    text : str
        What it adds to the text, in whole characters.
    probability : float
        Joint: that the text goes on in this way, given all of it.
    probabilities : tuple of float
        Of the token that completes the word at the end of the text (the sum over the ways to write it), and
        of every token after it, given those before: their product is ``probability``.
    token_ids : tuple of int
        The tokens from the beginning of that word on, in the most probable way.
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
        How much of the probability was left unsearched, 0 to 1: nothing that is missing has more.
    finished : bool
        False where a deadline ended the search: there may be better ones.
    """

    def __init__(self, items: Iterable[Item], *, remaining: float, finished: bool) -> None:
        super().__init__(items)
        self.remaining, self.finished = remaining, finished
