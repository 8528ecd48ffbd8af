"""The words of scored texts, and their probabilities."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import TokenizerError
from .vocabulary import text_limits, word_edges

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from .passages import Passage

__all__ = ["Word", "find_words"]


class Word(NamedTuple):
    """A word of a text: between white space or, in vocabularies without it, between word starts.

    Attributes
    ----------
    text : str
    start, end : int
        Its position in the text, in characters [start, end).
    logprob : float
        The natural logarithm of the probability that this word, and no longer one, follows the text before
        it.
    surprisal : float
        The same in bits: -log2 of the probability.
    first_token, n_tokens : int
        Its tokens, with the white space before it: ``n_tokens`` of the scored tokens from ``first_token`` on.
        An end-of-text token inside given ids does not start a word: like white space, it belongs to the next.

    Examples
    --------
    >>> word = model.score("The king had three daughters.", words=True).words()[-1]
    >>> word.text, word.start, word.end, round(word.surprisal, 2), word.n_tokens
    ('daughters.', 19, 29, 7.66, 2)
    """

    text: str
    start: int
    end: int
    logprob: float
    surprisal: float
    first_token: int
    n_tokens: int


def find_words(
    model: LoadedModel, passage: Passage, logprobs: np.ndarray, ends: np.ndarray
) -> tuple[Word, ...]:
    """The words; ends[i] is the log-probability that scored token i starts with white space, [n + 1]."""
    ids, tokenizer = passage.ids[passage.skipped :], model.tokenizer
    text = tokenizer.decode(passage.ids) if passage.text is None else passage.text
    given = passage.text is not None
    offsets = passage.find_offsets(model) if given else tokenizer.offsets(text, passage.ids)
    starts, stops = word_edges(model)
    if offsets is None or any(
        text[start:end][:1].isspace() and not starts[token] and not _is_partial(tokenizer.token_bytes(token))
        for token, (start, end) in zip(passage.ids, offsets, strict=True)
    ):
        raise TokenizerError(
            f"{passage.name}: {tokenizer.name} does not show which of its tokens start with white space, "
            "so word boundaries are unknown; score without words=True"
        )
    offsets = offsets[passage.skipped :]
    # Before token i, and after the last: whether a word ends, and the probability that it does.
    before = passage.tokens[passage.first - 1 :]
    ended = stops.take(before)
    begins = np.append(starts.take(ids), True)
    gains = np.where(begins & ~ended, ends, np.float32(0)).astype(np.float64)
    cuts = np.flatnonzero(begins | ended).tolist()

    limits = text_limits(model)
    words, first = [], 0  # the first token of the next word, or of the white space before it
    for begin, end in itertools.pairwise([0, *(cut for cut in cuts if cut > 0)]):
        # A white-space token may have the position of the word after it, if it was inserted.
        shown = [i for i in range(begin, end) if not _is_blank(tokenizer.token_bytes(ids[i]))]
        if not shown or ids[begin] in limits:
            continue
        start = offsets[shown[0]][0]
        piece = text[start : offsets[shown[-1]][1]]
        word = piece.strip()
        if not word:
            continue
        start += len(piece) - len(piece.lstrip())
        logprob = float(logprobs[first:end].sum(dtype=np.float64) + gains[end] - gains[first])
        surprisal = logprob / -math.log(2)
        words.append(Word(word, start, start + len(word), logprob, surprisal, first, end - first))
        first = end
    return tuple(words)


def _is_blank(token: bytes) -> bool:
    """Whether it is white space or empty."""
    return not token.decode("utf-8", "replace").strip()


def _is_partial(token: bytes) -> bool:
    """Whether it starts with only a part of a character."""
    return token.decode("utf-8", "replace").startswith("\ufffd")
