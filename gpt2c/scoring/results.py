"""The result of scoring a text, and suggestions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core.checks import check_integer
from ..core.display import Displayed
from ..errors import counted
from ..json_values import plain

if TYPE_CHECKING:
    from .words import Word

__all__ = ["SUMMARY", "Score", "Suggestion", "pieces", "summary"]


class Suggestion(NamedTuple):
    """A token that could come next.

    Attributes
    ----------
    text : str
        The token as text; part of a character appears as U+FFFD.
    probability : float
        From the model's raw logits, 0 to 1, computed in float64.
    token_id : int
    bytes : bytes
        The token's exact bytes.

    Examples
    --------
    >>> best = model.suggest("The king and the", k=1)[0]
    >>> best.text, best.token_id, best.bytes, round(best.probability, 4)
    (' king', 635, b' king', 0.1866)
    """

    text: str
    probability: float
    token_id: int
    bytes: bytes


@dataclass(frozen=True, eq=False, repr=False)
class Score(Displayed):
    """The score of a text; ``len()`` is n, the number of scored tokens.

    Attributes
    ----------
    token_ids : list of int
        The scored tokens: all of the text, or all but the first if nothing precedes it.
    logprobs : np.ndarray, float32 [n]
        The natural logarithm of each token's probability, given the tokens before it: all of them, or with a
        stride those that `contexts` counts.
    ranks : np.ndarray, int64 [n]
        The number of tokens that the model considers more probable; 0 is its first choice.
    entropies : np.ndarray, float32 [n]
        The entropy of the model's prediction at each token, in nats.
    variances : np.ndarray, float32 [n]
        The variance of the log-probability of a token sampled from the model's prediction at each position,
        in nats²; its mean is minus the entropy.
    contexts : np.ndarray, int64 [n]
        The number of tokens before it that the model saw, including the begin-of-text token.
    offsets : list of (int, int), optional
        The position of each token in the text, in characters [start, end); a token that is part of a
        character spans the whole character. None for a text given as token ids.
    n_bytes, n_chars : int, optional
        The size of the scored tokens' text in UTF-8 and in characters. None if unknown: token ids
        and no tokenizer.
    text : str, optional
        The text as it was given; None for token ids.
    top_ids : np.ndarray, int32 [n, top], optional
        The most probable tokens at the position of each token, the best first, equal ones by id.
    top_logprobs : np.ndarray, float32 [n, top], optional
        The natural logarithms of their probabilities.
    masses : np.ndarray, float32 [n], optional
        The natural logarithm of the probability that a token of the ``mask`` is at the position of each
        token; None without a mask.

    Examples
    --------
    >>> score = model.score("The king had three daughters.")
    >>> len(score), round(score.logprob, 4), round(score.bits_per_byte, 4), score.offsets[1]
    (6, -32.6291, 1.6232, (3, 8))
    """

    token_ids: list[int]
    logprobs: np.ndarray
    ranks: np.ndarray
    entropies: np.ndarray
    variances: np.ndarray
    contexts: np.ndarray
    offsets: list[tuple[int, int]] | None = None
    n_bytes: int | None = None
    n_chars: int | None = None
    text: str | None = None
    top_ids: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None
    masses: np.ndarray | None = None
    _words: tuple[Word, ...] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def logprob(self) -> float:
        """The logarithm of the probability of all scored tokens together, in nats (a sum in float64)."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def surprisals(self) -> np.ndarray:
        """Each token's surprisal in bits, float64 [n]: -log2 of its probability."""
        return self.logprobs.astype(np.float64) / -math.log(2)

    @property
    def bits(self) -> float:
        """The text's surprisal in bits: its size under an ideal coder with this model."""
        return self.logprob / -math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(-mean log-probability per token)."""
        return _exp(-self.logprob / len(self))

    def word_perplexity(self, n_words: int | None = None) -> float:
        """exp(-`logprob` / n_words): a perplexity per word, comparable between vocabularies.

        Parameters
        ----------
        n_words : int, optional
            The number of words; by default the number of pieces between white space, ``len(text.split())``.
            If the scored text is an edited form of another one, such as WikiText without the spaces before
            its punctuation, published figures divide by the original's number.

        Raises
        ------
        ValueError
            No number was given, and the text is unknown (token ids were scored) or has no words.

        Examples
        --------
        >>> score = model.score("The king had three daughters.")
        >>> round(score.word_perplexity(), 2), round(score.word_perplexity(6), 2)
        (682.53, 230.02)
        """
        if n_words is None:
            if self.text is None:
                raise ValueError("token ids have no words to count: pass n_words")
            n_words = len(self.text.split())
            if n_words == 0:
                raise ValueError("the text is only white space: pass the number of words, n_words")
        return _exp(-self.logprob / check_integer("n_words", n_words, 1))

    @property
    def curvature(self) -> float:
        """How much more probable the text is than the model's samples, in standard deviations.

        The conditional probability curvature of Fast-DetectGPT (Bao et al., 2024), in its analytic form: the
        excess of `logprob` over its mean, had every token been sampled given those before it, over the square
        root of the sum of `variances`. It is greater for machine-written texts than for human ones. NaN if
        sampling could only give the text itself: all variances are 0.
        """
        variance = float(self.variances.sum(dtype=np.float64))
        if variance == 0:
            return math.nan
        return (self.logprob + float(self.entropies.sum(dtype=np.float64))) / math.sqrt(variance)

    @property
    def is_greedy(self) -> bool:
        """Whether every token was the model's first choice (or no other was more probable)."""
        return not self.ranks.any()

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of surprisal per byte of UTF-8: comparable between models with different vocabularies."""
        return self.bits / self.n_bytes if self.n_bytes else None

    @property
    def bits_per_char(self) -> float | None:
        """Bits of surprisal per character (Unicode code point)."""
        return self.bits / self.n_chars if self.n_chars else None

    def words(self) -> list[Word]:
        """The words of the text with their probabilities, if it was scored with ``words=True``.

        Words are the stretches between white space; punctuation belongs to the word that it touches. (With
        WordPiece, and where every token is a word, a token that does not continue a word starts one.) A
        word's probability is the product of those of its tokens and of the white space before it, corrected
        for word ends: times the probability that the next token starts with white space or ends the text,
        given the word, divided by that of the same, given the text before the word (T. Pimentel and C.
        Meister, "How to Compute the Probability of a Word", 2024). So it is the probability of this word
        among all, however many tokens they take. Where no word must end, nothing is divided: at the start of
        a text, after white space, and where the scored text continues a word of its context (the first word
        is then only its scored part).

        Raises
        ------
        ValueError
            The text was scored without ``words=True``.

        Examples
        --------
        >>> score = model.score("The king had three daughters.", words=True)
        >>> [(word.text, round(word.surprisal, 2)) for word in score.words()]
        [('The', 17.53), ('king', 6.77), ('had', 3.11), ('three', 12.01), ('daughters.', 7.66)]
        """
        if self._words is None:
            raise ValueError("the text was scored without words: pass words=True")
        return list(self._words)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per token, for ``pandas.DataFrame(score.rows())`` and similar.

        The keys: ``token_id``, ``text``, ``start``, ``end`` (None without `offsets`), ``logprob``,
        ``surprisal`` (bits), ``rank``, ``entropy``, ``variance``, ``context``; ``mass`` with a mask;
        ``top_ids`` and ``top_logprobs`` (lists) with a top.

        Examples
        --------
        >>> row = model.score("The king had three daughters.").rows()[1]
        >>> row["text"], row["rank"], row["start"], row["end"]
        (' king', 10, 3, 8)
        """
        places: list[tuple[int | None, int | None]] = [(None, None)] * len(self)
        texts: list[str | None] = [None] * len(self)
        if self.offsets is not None and self.text is not None:
            places = [*self.offsets]
            texts = [self.text[start:end] for start, end in self.offsets]
        columns: dict[str, list[Any]] = {
            "token_id": self.token_ids,
            "text": texts,
            "start": [start for start, _ in places],
            "end": [end for _, end in places],
            "logprob": self.logprobs.tolist(),
            "surprisal": self.surprisals.tolist(),
            "rank": self.ranks.tolist(),
            "entropy": self.entropies.tolist(),
            "variance": self.variances.tolist(),
            "context": self.contexts.tolist(),
        }
        if self.masses is not None:
            columns["mass"] = self.masses.tolist()
        if self.top_ids is not None and self.top_logprobs is not None and self.top_ids.size:
            columns |= {"top_ids": self.top_ids.tolist(), "top_logprobs": self.top_logprobs.tolist()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __repr__(self) -> str:
        per_byte = "" if self.bits_per_byte is None else f", bits_per_byte={self.bits_per_byte:.4g}"
        return f"Score({counted(len(self), 'token')}, perplexity={self.perplexity:.5g}{per_byte})"


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


SUMMARY = {
    "n_tokens": int,
    "n_bytes": int,
    "logprob": float,
    "perplexity": float,
    "bits_per_byte": float,
    "bits_per_char": float,
}
"""The columns for every row of a table of texts, and their types."""


def summary(score: Score | None) -> dict[str, Any]:
    """A score as `SUMMARY`. None, with nothing to score, has no tokens; non-finite values are None."""
    if score is None:
        return {**dict.fromkeys(SUMMARY), "n_tokens": 0, "n_bytes": 0}
    values = {name: len(score) if name == "n_tokens" else getattr(score, name) for name in SUMMARY}
    return plain(values)


def pieces(score: Score) -> Iterator[tuple[str, slice]]:
    """The scored text in pieces, each with its tokens: one, or all that share a character.

    Text between two tokens that is part of neither, such as a space between words, goes with the second.
    For token ids, or if the tokens' positions in the text are unknown, the pieces are empty strings.
    """
    if score.offsets is None or score.text is None:
        yield from (("", slice(i, i + 1)) for i in range(len(score)))
        return
    begin, first, reached = None, 0, 0
    for i, (start, end) in enumerate(score.offsets):
        if begin is not None and start >= reached:
            yield score.text[begin:reached], slice(first, i)
            begin = None
        if begin is None:
            begin, first = reached if i else start, i
        reached = max(reached, end)
    if begin is not None:
        yield score.text[begin:reached], slice(first, len(score))
