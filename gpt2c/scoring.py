"""How probable texts are to the model: scores of given texts, and suggestions of what could come next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from . import _engine
from .errors import ContextLengthError
from .generation import ROWS_PER_CALL
from .sampling import check_integer

if TYPE_CHECKING:
    from .config import Config
    from .model import GPT2

__all__ = [
    "Item",
    "Options",
    "Score",
    "ScoringOptions",
    "Suggestion",
    "check_options",
    "score",
    "suggest",
]


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
    def is_greedy(self) -> bool:
        """Whether every token was the model's first choice (or no other was more probable)."""
        return not self.ranks.any()

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of surprisal per byte of UTF-8: comparable between models with different vocabularies."""
        return self.bits / self.n_bytes if self.n_bytes else None

    def __repr__(self) -> str:
        per_byte = "" if self.bits_per_byte is None else f", bits_per_byte={self.bits_per_byte:.4g}"
        return f"Score({len(self)} tokens, perplexity={self.perplexity:.5g}{per_byte})"


class Options(TypedDict, total=False):
    """The options of ``GPT2.score`` as keyword arguments, for type checkers."""

    bos: bool
    window: int | None
    stride: int | None
    min_context: int | None


class ScoringOptions(NamedTuple):
    """How texts are scored, checked."""

    bos: bool
    window: int
    stride: int | None
    n_ctx: int  # of the model, for errors


def check_options(config: Config, bos: Any, window: Any, stride: Any, min_context: Any) -> ScoringOptions:
    """The options of ``GPT2.score``, or an error that says what is allowed."""
    if not isinstance(bos, bool | np.bool_):
        raise TypeError(f"bos must be True or False; got {bos!r}")
    n_ctx = config.n_ctx
    if window is None:
        window = n_ctx
    window = check_integer("window", window, 1, n_ctx, ", the model's positions")
    if min_context is not None:
        if stride is not None:
            raise ValueError("stride and min_context are two ways to say one thing: give one of them")
        stride = window + 1 - check_integer("min_context", min_context, 1, window, ", the window")
    if stride is not None:
        stride = check_integer("stride", stride, 1, window, ", the window")
    return ScoringOptions(bool(bos), window, stride, n_ctx)


class Item:
    """A text to score after what stands before it, which may be nothing.

    Parameters
    ----------
    name : str
        What errors call it.
    before : np.ndarray
        The tokens before the text: int32 [any].
    text : str or None
        None if the text was given as tokens.
    ids : np.ndarray
        Its tokens, int32 [any].
    options : ScoringOptions

    Raises
    ------
    ValueError, ContextLengthError
        There is nothing to score, or more than the window holds and no stride.
    """

    def __init__(
        self, name: str, before: np.ndarray, text: str | None, ids: np.ndarray, options: ScoringOptions
    ) -> None:
        self.text, self.ids, self.options = text, ids, options
        self.tokens = np.concatenate([before, ids])
        self.first = max(1, len(before))  # which of the tokens is the first to be scored
        self.skipped = self.first - len(before)  # tokens of the text before it
        n_rows = len(self.tokens) - 1  # the last token predicts nothing that is asked for
        window, n_ctx = options.window, options.n_ctx
        if len(ids) == 0:
            raise ValueError(f"{name} is empty: there is nothing to score")
        if n_rows < self.first:
            raise ValueError(
                f"{name} is a single token, and without bos nothing stands before it: nothing can be "
                "scored; use bos=True, a context or a longer text"
            )
        if n_rows > window and options.stride is None:
            seen = f"the model has {n_ctx} positions" if window == n_ctx else f"the window is {window}"
            n_context = len(before) - options.bos
            after, together = (f" after a context of {n_context}", "together ") if n_context else ("", "")
            most = window + (not options.bos)
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens{after}, but {seen}: {together}at most {most} tokens can be "
                "scored in one piece; give a stride, or split the text"
            )

    def pieces(self) -> Iterator[Piece]:
        """Windows that score every token once: the first all of its own, each other the next ``stride``."""
        window, stride = self.options.window, self.options.stride or self.options.window
        n_rows = len(self.tokens) - 1
        done = self.first - 1
        while done < n_rows:
            end = min(n_rows, window if done < window else done + stride)
            begin = max(0, end - window)
            targets = np.full(end - begin, -1, np.int32)
            targets[done - begin :] = self.tokens[done + 1 : end + 1]
            contexts = np.arange(done - begin + 1, end - begin + 1)
            yield Piece(self, self.tokens[begin:end], targets, contexts, end == n_rows)
            done = end


class Piece(NamedTuple):
    """A window of an item."""

    item: Item
    rows: np.ndarray
    targets: np.ndarray  # -1 where an earlier window has scored the token
    contexts: np.ndarray  # of the others: how many rows each has seen
    last: bool


def score(model: GPT2, items: Iterable[Item]) -> Iterator[Score]:
    """The scores of items, in order; several share a call of the engine. No more is taken than it needs."""
    found: list[tuple[np.ndarray, ...]] = []  # what the pieces of the item in work gave
    for pieces in _batches(piece for item in items for piece in item.pieces()):
        values = _engine.score(
            model.weights,
            [(model.new_cache(len(piece.rows)), piece.rows) for piece in pieces],
            [piece.targets for piece in pieces],
            threads=model.threads,
        )
        ends = np.cumsum([len(piece.contexts) for piece in pieces])[:-1]
        for piece, *arrays in zip(pieces, *(np.split(array, ends) for array in values), strict=True):
            found.append((*arrays, piece.contexts))
            if piece.last:
                yield _finished(model, piece.item, *map(np.concatenate, zip(*found, strict=True)))
                found = []


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Neighbours that share a call: ``ROWS_PER_CALL`` rows at most, or one piece.

    An error is raised after what came before it.
    """
    batch: list[Piece] = []
    rows = 0
    try:
        for piece in pieces:
            if rows + len(piece.rows) > ROWS_PER_CALL and batch:
                yield batch
                batch, rows = [], 0
            batch.append(piece)
            rows += len(piece.rows)
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _finished(
    model: GPT2,
    item: Item,
    logprobs: np.ndarray,
    ranks: np.ndarray,
    entropies: np.ndarray,
    contexts: np.ndarray,
) -> Score:
    offsets, n_bytes = _extent(model, item.text, item.ids, item.skipped)
    token_ids = item.ids[item.skipped :].tolist()
    return Score(token_ids, logprobs, ranks, entropies, contexts, offsets, n_bytes)


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
