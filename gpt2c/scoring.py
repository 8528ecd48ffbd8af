"""How probable texts are to the model: scores of given texts, and suggestions of what could come next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import _engine
from .errors import ContextLengthError
from .generation import ROWS_PER_CALL

if TYPE_CHECKING:
    from .model import GPT2

__all__ = ["Score", "Suggestion", "score", "suggest"]


class Suggestion(NamedTuple):
    """A token that could come next.

    Attributes
    ----------
    text : str
        The token as text; part of a character appears as U+FFFD.
    probability : float
        By the model's raw logits, 0 to 1, computed in float64.
    token_id : int
    bytes : bytes
        The token exactly.
    """

    text: str
    probability: float
    token_id: int
    bytes: bytes


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """What the model thinks of a text; ``len()`` is n, the number of tokens that were scored.

    Attributes
    ----------
    token_ids : list of int
        The scored tokens: all of the text with ``bos=True``, all but the first otherwise.
    logprobs : np.ndarray, float32 [n]
        The natural logarithm of each token's probability, given the tokens before it: all of them, or with a
        stride those that `contexts` counts.
    ranks : np.ndarray, int64 [n]
        How many tokens the model held for more probable; 0 is its first choice.
    entropies : np.ndarray, float32 [n]
        How undecided the model was at each token, in nats.
    contexts : np.ndarray, int64 [n]
        How many tokens before it the model saw, the begin-of-text token included.
    offsets : list of (int, int), optional
        Where each token stands in the text, in characters [start, end); a token that is part of a character
        spans the whole character. None for a text given as token ids.
    n_bytes : int, optional
        The size of the scored tokens' text in UTF-8. None where it is not known: token ids and no tokenizer.
    """

    token_ids: list[int]
    logprobs: np.ndarray
    ranks: np.ndarray
    entropies: np.ndarray
    contexts: np.ndarray
    offsets: list[tuple[int, int]] | None = None
    n_bytes: int | None = None

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
        """The text's surprisal in bits: the size that an ideal coder with this model would make of it."""
        return self.logprob / -math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(-mean log-probability per token)."""
        try:
            return math.exp(-self.logprob / len(self))
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of surprisal per byte of UTF-8: comparable between models with different vocabularies."""
        return self.bits / self.n_bytes if self.n_bytes else None

    def __repr__(self) -> str:
        per_byte = "" if self.bits_per_byte is None else f", bits_per_byte={self.bits_per_byte:.4g}"
        return f"Score({len(self)} tokens, perplexity={self.perplexity:.5g}{per_byte})"


def score(
    model: GPT2,
    texts: Sequence[tuple[str | None, np.ndarray]],
    bos: bool,
    window: int,
    stride: int | None,
) -> list[Score]:
    """Score documents, several in one call of the engine.

    Parameters
    ----------
    model : GPT2
    texts : sequence of (text, ids)
        The text, None if it was given as tokens, and its token ids, int32 [at least 1].
    bos : bool
        Whether the first token is scored too, as what follows the begin-of-text token.
    window : int
        How many tokens the model sees at once.
    stride : int or None
        As for ``GPT2.score``.
    """
    start = np.array([model.bos_token_id], np.int32) if bos else np.empty(0, np.int32)
    pieces: list[_Piece] = []
    for index, (_, ids) in enumerate(texts):
        name = f"text {index}" if len(texts) > 1 else "the text"
        n_rows = len(ids) - (not bos)
        if n_rows == 0:
            raise ValueError(
                f"{name} is a single token, and without bos nothing stands before it: nothing can be "
                "scored; use bos=True or a longer text"
            )
        if n_rows > window and stride is None:
            n_ctx = model.config.n_ctx
            seen = f"the model has {n_ctx} positions" if window == n_ctx else f"the window is {window}"
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens, but {seen}: at most {window + (not bos)} tokens can be "
                "scored in one piece; give a stride, or split the text"
            )
        rows = np.concatenate([start, ids[:-1]])  # the last token predicts nothing that is asked for
        pieces += _pieces(index, rows, ids if bos else ids[1:], window, stride or window)

    found: list[list[list[np.ndarray]]] = [[[], [], [], []] for _ in texts]
    for part in _calls([len(piece.rows) for piece in pieces]):
        values = _engine.score(
            model.weights,
            [(model.new_cache(len(piece.rows)), piece.rows) for piece in pieces[part]],
            [piece.targets for piece in pieces[part]],
            threads=model.threads,
        )
        ends = np.cumsum([len(piece.contexts) for piece in pieces[part]])[:-1]
        cut = zip(*(np.split(array, ends) for array in values), strict=True)
        for piece, arrays in zip(pieces[part], cut, strict=True):
            for column, array in zip(found[piece.text], (*arrays, piece.contexts), strict=True):
                column.append(array)

    results = []
    for (text, ids), columns in zip(texts, found, strict=True):
        logprobs, ranks, entropies, contexts = (np.concatenate(column) for column in columns)
        first = 0 if bos else 1
        offsets, n_bytes = _extent(model, text, ids, first)
        results.append(Score(ids[first:].tolist(), logprobs, ranks, entropies, contexts, offsets, n_bytes))
    return results


class _Piece(NamedTuple):
    """A window of a text."""

    text: int  # its index
    rows: np.ndarray
    targets: np.ndarray  # -1 where an earlier window has scored the token
    contexts: np.ndarray  # of the others: how many rows each has seen


def _pieces(text: int, rows: np.ndarray, targets: np.ndarray, window: int, stride: int) -> Iterator[_Piece]:
    """Windows that score every target once: the first all of its own, each other the next ``stride``."""
    done = 0
    while done < len(rows):
        end = min(len(rows), done + stride if done else window)
        begin = max(0, end - window)
        wanted = targets[begin:end].copy()
        wanted[: done - begin] = -1
        yield _Piece(text, rows[begin:end], wanted, np.arange(done - begin + 1, end - begin + 1))
        done = end


def suggest(model: GPT2, prompts: Sequence[np.ndarray], k: int) -> list[list[Suggestion]]:
    """The ``k`` most probable next tokens of every prompt (int32 ids), the best first, then by id."""
    n_ctx = model.config.n_ctx
    for index, ids in enumerate(prompts):
        if len(ids) > n_ctx:
            name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens, but the model has {n_ctx} positions; shorten it"
            )
    results = []
    for part in _calls([len(ids) for ids in prompts]):
        sequences = [(model.new_cache(len(ids)), ids) for ids in prompts[part]]
        logits = _engine.forward(model.weights, sequences, keep=1, threads=model.threads)
        results += [_most_probable(model, row, k) for row in logits]
    return results


def _most_probable(model: GPT2, logits: np.ndarray, k: int) -> list[Suggestion]:
    usable = logits[: model.n_text_tokens]
    limit = np.partition(usable, -k)[-k]
    candidates = np.flatnonzero(usable >= limit)  # k of them, or more where several are equal to the last
    best = candidates[np.argsort(-usable[candidates], kind="stable")][:k]
    exact = logits.astype(np.float64)
    top = exact.max()
    probabilities = np.exp(exact[best] - top) / np.exp(exact - top).sum()
    suggestions = []
    for token, probability in zip(best.tolist(), probabilities.tolist(), strict=True):
        data = model.token_bytes(token)
        suggestions.append(Suggestion(data.decode("utf-8", "replace"), probability, token, data))
    return suggestions


def _calls(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbouring documents that share a call of the engine: ``ROWS_PER_CALL`` rows at most, or one text."""
    begin = rows = 0
    for index, length in enumerate(lengths):
        if rows + length > ROWS_PER_CALL and index > begin:
            yield slice(begin, index)
            begin, rows = index, 0
        rows += length
    yield slice(begin, len(lengths))


def _extent(
    model: GPT2, text: str | None, ids: np.ndarray, first: int
) -> tuple[list[tuple[int, int]] | None, int | None]:
    """Character offsets of the tokens from ``first`` on, and their number of bytes."""
    if text is not None:
        offsets = model.tokenizer.offsets(text, ids.tolist())
        if offsets is None:  # a wrapped tokenizer that changes the text
            return None, None if first else len(text.encode("utf-8"))
        return offsets[first:], len(text[offsets[first][0] :].encode("utf-8"))
    if model.has_tokenizer:
        return None, sum(len(model.tokenizer.token_bytes(token)) for token in ids[first:].tolist())
    return None, None
