"""How probable texts are to the model: scores of given texts, and suggestions of what could come next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from . import _engine
from ._json import plain
from .errors import ContextLengthError
from .generation import CACHE_BYTES, ROWS_PER_CALL, calls_of
from .prompts import check_lengths
from .sampling import check_integer
from .words import Word, find_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .model import GPT2

__all__ = [
    "SUMMARY",
    "Options",
    "Passage",
    "Score",
    "ScoringOptions",
    "Suggestion",
    "default_stride",
    "score",
    "score_rows",
    "suggest",
    "summary",
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
        The scored tokens: all of the text, or all but the first where nothing stands before it.
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
    n_bytes, n_chars : int, optional
        The size of the scored tokens' text in UTF-8 and in characters. None where it is not known: token ids
        and no tokenizer.
    text : str, optional
        What was scored, as it was given; None for token ids.
    top_ids : np.ndarray, int32 [n, top], optional
        The tokens that the model held for most probable in the place of each token, the best first, equal
        ones by id.
    top_logprobs : np.ndarray, float32 [n, top], optional
        The natural logarithms of their probabilities.
    masses : np.ndarray, float32 [n], optional
        The natural logarithm of the probability that a token of the ``mask`` stands in the place of each
        token; None without a mask.
    """

    token_ids: list[int]
    logprobs: np.ndarray
    ranks: np.ndarray
    entropies: np.ndarray
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

    @property
    def bits_per_char(self) -> float | None:
        """Bits of surprisal per character (Unicode code point)."""
        return self.bits / self.n_chars if self.n_chars else None

    def words(self) -> list[Word]:
        """The words of the text with their probabilities, if it was scored with ``words=True``.

        Words are the stretches between white space; punctuation belongs to the word that it touches. A
        word's probability is the product of those of its tokens and of the white space before it, corrected
        for where words end: times the probability that the next token begins with white space or ends the
        text, given the word, over that of the same, given what stands before the word (T. Pimentel and C.
        Meister, "How to Compute the Probability of a Word", 2024). So it is the probability of this word
        among all, however many tokens they take. Where no word has to end, nothing is divided by: at the
        beginning of a text, after white space, and where the scored text goes on with a word of its context
        (the first word is then the part that was scored).

        Raises
        ------
        ValueError
            The text was scored without ``words=True``.
        """
        if self._words is None:
            raise ValueError("the probabilities of words were not asked for: score with words=True")
        return list(self._words)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per token, for ``pandas.DataFrame(score.rows())`` and its like.

        The keys: ``token_id``, ``text``, ``start``, ``end`` (None where there are no `offsets`), ``logprob``,
        ``surprisal`` (bits), ``rank``, ``entropy``, ``context``; ``mass`` with a mask; ``top_ids`` and
        ``top_logprobs`` (lists) with a top.
        """
        starts = ends = texts = [None] * len(self)
        if self.offsets is not None:
            starts, ends = zip(*self.offsets, strict=True)
            texts = [self.text[start:end] for start, end in self.offsets]
        columns = {
            "token_id": self.token_ids,
            "text": texts,
            "start": starts,
            "end": ends,
            "logprob": self.logprobs.tolist(),
            "surprisal": self.surprisals.tolist(),
            "rank": self.ranks.tolist(),
            "entropy": self.entropies.tolist(),
            "context": self.contexts.tolist(),
        }
        if self.masses is not None:
            columns["mass"] = self.masses.tolist()
        if self.top_ids is not None and self.top_ids.size:
            columns |= {"top_ids": self.top_ids.tolist(), "top_logprobs": self.top_logprobs.tolist()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Draw the surprisal of each token in bits, coloured by its rank, beside the surprisal expected.

        Parameters
        ----------
        ax : matplotlib axes, optional
            To draw into, instead of a new figure.

        Returns
        -------
        matplotlib.figure.Figure
            It is not shown: that is ``matplotlib.pyplot.show()``, or a notebook's affair.

        Raises
        ------
        ImportError
            There is no matplotlib: ``pip install "gpt2c[plot]"``.
        """
        from .plots import plot_score

        return plot_score(self, ax)

    def _repr_html_(self) -> str:
        from .notebook import score_html

        return score_html(self)

    def __repr__(self) -> str:
        per_byte = "" if self.bits_per_byte is None else f", bits_per_byte={self.bits_per_byte:.4g}"
        return f"Score({len(self)} tokens, perplexity={self.perplexity:.5g}{per_byte})"


SUMMARY = {
    "n_tokens": int,
    "n_bytes": int,
    "logprob": float,
    "perplexity": float,
    "bits_per_byte": float,
    "bits_per_char": float,
}
"""What is told of every row of a table of texts, and its type."""


def summary(score: Score | None) -> dict[str, Any]:
    """A score by `SUMMARY`. None, nothing to score, has no tokens; what is unknown or not finite is None."""
    if score is None:
        return {**dict.fromkeys(SUMMARY), "n_tokens": 0, "n_bytes": 0}
    values = {name: len(score) if name == "n_tokens" else getattr(score, name) for name in SUMMARY}
    return plain(values)


def default_stride(model: GPT2, window: int | None = None) -> int:
    """The stride for texts of any length: half of the window, whose default is the model's positions."""
    return max(1, (window or model.config.n_ctx) // 2)


def score_rows(
    model: GPT2,
    rows: Iterable[tuple[Any, Any]],
    *,
    max_tokens: int | None = None,
    bos: bool = True,
    **options: Any,
) -> Iterator[tuple[Any, Score | None, bool]]:
    """The scores of the texts of a table, in order, some of which may have nothing to score.

    Parameters
    ----------
    model : GPT2
    rows : iterable of (key, text)
        A text is a string, token ids or None.
    max_tokens : int, optional
        Longer texts are cut to their first tokens, so many.
    bos, **options
        As for ``GPT2.score``.

    Yields
    ------
    (key, score, cut)
        The score is None where there is nothing to score: no text, no tokens or, without ``bos``, a single
        one. ``cut`` is whether the text had more than ``max_tokens``.

    Raises
    ------
    ValueError, TypeError
        As from ``GPT2.score``; texts are counted with those that have nothing to score.
    """
    waiting: deque[tuple[Any, bool, bool]] = deque()  # key, whether it is scored, whether it was cut

    def texts() -> Iterator[Any]:
        for i, (key, text) in enumerate(rows):
            ids = model._ids("" if text is None else text, f"text {i}")
            cut = max_tokens is not None and len(ids) > max_tokens
            ids = ids[:max_tokens]
            waiting.append((key, len(ids) > (not bos), cut))
            if waiting[-1][1]:
                yield ids if cut else text

    def unscored() -> Iterator[tuple[Any, None, bool]]:
        while waiting and not waiting[0][1]:
            key, _, cut = waiting.popleft()
            yield key, None, cut

    for score in model.score(texts(), bos=bos, **options):
        yield from unscored()
        key, _, cut = waiting.popleft()
        yield key, score, cut
    yield from unscored()


class Options(TypedDict, total=False):
    """The options of ``GPT2.score`` as keyword arguments, for type checkers."""

    bos: bool
    window: int | None
    stride: int | None
    min_context: int | None
    top: int
    mask: np.ndarray | None
    words: bool


class ScoringOptions(NamedTuple):
    """How texts are scored, checked."""

    bos: bool
    window: int
    stride: int | None
    n_ctx: int  # of the model, for errors
    top: int
    masks: np.ndarray  # of the engine: that of the user, if there is one, and that of the ends of words
    masked: bool  # whether there is one
    words: bool

    @classmethod
    def checked(
        cls,
        model: GPT2,
        *,
        bos: Any,
        window: Any,
        stride: Any,
        min_context: Any,
        top: Any,
        mask: Any,
        words: Any,
    ) -> ScoringOptions:
        """The options of ``GPT2.score``, or an error that says what is allowed."""
        for name, flag in (("bos", bos), ("words", words)):
            if not isinstance(flag, bool | np.bool_):
                raise TypeError(f"{name} must be True or False; got {flag!r}")
        n_ctx, n_vocab = model.config.n_ctx, model.config.n_vocab
        if window is None:
            window = n_ctx
        window = check_integer("window", window, 1, n_ctx, ", the model's positions")
        if min_context is not None:
            if stride is not None:
                raise ValueError("stride and min_context are two ways to say one thing: give one of them")
            stride = window + 1 - check_integer("min_context", min_context, 1, window, ", the window")
        if stride is not None:
            stride = check_integer("stride", stride, 1, window, ", the window")
        top = check_integer("top", top, 0, model.n_text_tokens, ", the size of the vocabulary")
        masks = []
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != np.bool_ or mask.shape != (n_vocab,):
                raise ValueError(
                    f"mask must be an array of {n_vocab} bool, one for each token id; got {mask.dtype} "
                    f"{list(mask.shape)}"
                )
            masks.append(mask)
        if words:
            masks.append(model._word_edges[0])
        bits = _engine.mask_bits(np.array(masks, bool).reshape(-1, n_vocab))
        return cls(bool(bos), window, stride, n_ctx, top, bits, mask is not None, bool(words))


class Passage:
    """A text to score after what stands before it, which may be nothing.

    Parameters
    ----------
    name : str
        What errors call it.
    before : np.ndarray
        The tokens before the text: int32 [any], the first of them for the beginning of the text if there is
        ``options.bos``.
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
        self.name, self.text, self.ids, self.options = name, text, ids, options
        self.tokens = np.concatenate([before, ids])
        self.first = max(1, len(before))  # which of the tokens is the first to be scored
        self.skipped = self.first - len(before)  # tokens of the text before it
        self.context = before[options.bos :]
        n_rows = len(self.tokens) - 1  # the last token predicts nothing, unless the end of a word is wanted
        if len(ids) == 0:
            what = "is empty" if text is not None else "has no token ids"
            raise ValueError(f"{name} {what}: there is nothing to score")
        if n_rows < self.first:
            raise ValueError(
                f"{name} is a single token, and without bos nothing stands before it: nothing can be "
                "scored; use bos=True, a context or a longer text"
            )
        window, n_ctx = options.window, options.n_ctx
        if n_rows > window and options.stride is None:
            seen = f"the model has {n_ctx} positions" if window == n_ctx else f"the window is {window}"
            n_context = len(self.context)
            after, together = (f" after a context of {n_context}", "together ") if n_context else ("", "")
            most = window + (not options.bos)
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens{after}, but {seen}: {together}at most {most} tokens can be "
                "scored in one piece; give a stride, or split the text"
            )

    def pieces(self) -> Iterator[Piece]:
        """Windows that score every token once: the first all of its own, each other the next ``stride``."""
        window, stride = self.options.window, self.options.stride or 1
        n_rows = len(self.tokens) - 1
        all_rows = n_rows + self.options.words  # one more for what can follow the last word
        targets = np.append(self.tokens[1:], np.int32(-1))
        done = self.first - 1
        while done < all_rows:
            end = min(n_rows, window if done < window else done + stride) if done < n_rows else all_rows
            if end == n_rows < window:
                end = all_rows
            begin = max(0, end - window)
            shared = self.first if len(self.context) and begin == 0 and done < self.first else 0
            rows = np.arange(done - begin, end - begin)
            yield Piece(self, shared, self.tokens[begin:end], rows, targets[done:end], end == all_rows)
            done = end


class Piece(NamedTuple):
    """A window of a passage."""

    passage: Passage
    shared: int  # how many ids at its beginning are the context, whole
    ids: np.ndarray
    rows: np.ndarray  # those of the ids whose targets no earlier window has scored
    targets: np.ndarray  # the token that follows each row; -1: none does
    last: bool

    def between(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows from ``begin`` to ``end``, counted from ``begin``, and their targets."""
        here = slice(*np.searchsorted(self.rows, (begin, end)))
        return self.rows[here] - begin, self.targets[here]


def score(model: GPT2, passages: Iterable[Passage]) -> Iterator[Score]:
    """The scores of passages, in order. Those that share a call of the engine are taken together."""
    found, contexts = [], []  # of the pieces of the passage in work
    for pieces in _batches(piece for passage in passages for piece in passage.pieces()):
        for piece, values in zip(pieces, _computed(model, pieces), strict=True):
            found += values
            contexts.append(piece.rows + 1)
            if piece.last:
                columns = [np.concatenate(column) for column in zip(*found, strict=True)]
                yield _finished(model, piece.passage, np.concatenate(contexts), columns)
                found, contexts = [], []


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Neighbours that are computed together: ``ROWS_PER_CALL`` rows, or one piece.

    Neighbours with one context stay together, up to as many rows again. An error comes after what was before.
    """
    batch: list[Piece] = []
    rows = own = 0  # of all, and of those after the latest context
    try:
        for piece in pieces:
            goes_on = bool(batch) and _same_context(batch[-1], piece)
            new = max(1, len(piece.ids) - goes_on * piece.shared)
            if batch and rows + new > ROWS_PER_CALL and not (goes_on and own + new <= ROWS_PER_CALL):
                yield batch
                batch, rows, own, goes_on, new = [], 0, 0, False, len(piece.ids)
            batch.append(piece)
            rows += new
            own = own + new if goes_on else max(1, len(piece.ids) - piece.shared)
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _same_context(one: Piece, other: Piece) -> bool:
    n = one.shared
    return 0 < n == other.shared and np.array_equal(one.ids[:n], other.ids[:n])


def _computed(model: GPT2, pieces: Sequence[Piece]) -> list[list[tuple[np.ndarray, ...]]]:
    """What the engine gives for the rows of every piece, in one or two parts.

    A context that neighbours share is computed once; each reads its cache and goes on in one of its own.
    """
    found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in pieces]

    def compute(parts: list[_Part]) -> None:
        options = pieces[0].passage.options
        owners, sizes, wanted = [], [], []
        for part in parts:
            runs = [pieces[i].between(part.begin, part.begin + len(part.ids)) for i in part.owners]
            owners += part.owners
            sizes += [len(rows) for rows, _ in runs]
            wanted.append(tuple(map(np.concatenate, zip(*runs, strict=True))))
        values = _engine.score(
            model.weights,
            [(part.cache, part.ids) for part in parts],
            wanted,
            top=options.top,
            n_text=model.n_text_tokens,
            masks=options.masks,
            threads=model.threads,
        )
        ends = np.cumsum(sizes)[:-1]
        for i, *arrays in zip(owners, *(np.split(array, ends) for array in values), strict=True):
            found[i].append(tuple(arrays))

    groups: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if i > 0 and _same_context(pieces[i - 1], piece):
            groups[-1].append(i)
        else:
            groups.append([i])

    def compute_all(parts: Iterable[_Part]) -> None:
        """In as many calls as keep their rows and caches within bounds."""
        some: list[_Part] = []
        rows = size = 0
        for part in parts:
            if some and (rows + len(part.ids) > ROWS_PER_CALL or size + part.cache.nbytes > CACHE_BYTES):
                compute(some)
                some, rows, size = [], 0, 0
            some.append(part)
            rows, size = rows + len(part.ids), size + part.cache.nbytes
        if some:
            compute(some)

    rest: list[tuple[_engine.KVCache, int]] = []

    def beginnings() -> Iterator[_Part]:
        for group in groups:
            first = pieces[group[0]]
            end = first.shared if len(group) > 1 else len(first.ids)
            cache = model.new_cache(end)
            rest.extend((cache, i) for i in group if len(pieces[i].ids) > end)
            yield _Part(cache, first.ids[:end], 0, group)

    compute_all(beginnings())
    compute_all(
        _Part(cache.branch(len(pieces[i].ids)), pieces[i].ids[len(cache) :], len(cache), [i])
        for cache, i in rest
    )
    return found


class _Part(NamedTuple):
    """What goes through the engine in one piece."""

    cache: _engine.KVCache
    ids: np.ndarray
    begin: int  # which of their pieces' ids is the first of these
    owners: list[int]  # indices of the pieces that want rows of it


def _finished(model: GPT2, passage: Passage, contexts: np.ndarray, columns: Sequence[np.ndarray]) -> Score:
    n = len(passage.tokens) - passage.first
    logprobs, ranks, entropies, top_ids, top_logprobs, masses = (column[:n] for column in columns)
    offsets, n_bytes, n_chars = _extent(model, passage.text, passage.ids, passage.skipped)
    wants_words = passage.options.words
    return Score(
        token_ids=passage.ids[passage.skipped :].tolist(),
        logprobs=logprobs,
        ranks=ranks,
        entropies=entropies,
        contexts=contexts[:n],
        offsets=offsets,
        n_bytes=n_bytes,
        n_chars=n_chars,
        text=passage.text,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
        masses=masses[:, 0] if passage.options.masked else None,
        _words=find_words(model, passage, logprobs, columns[-1][:, -1]) if wants_words else None,
    )


def suggest(model: GPT2, prompts: Sequence[np.ndarray], k: int) -> list[list[Suggestion]]:
    """The ``k`` most probable next tokens of every prompt (int32 ids), the best first, then by id."""
    check_lengths(prompts, model.config.n_ctx)
    results = []
    for part in calls_of([len(ids) for ids in prompts]):
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


def _extent(
    model: GPT2, text: str | None, ids: np.ndarray, first: int
) -> tuple[list[tuple[int, int]] | None, int | None, int | None]:
    """Character offsets of the tokens from ``first`` on, and their number of bytes and of characters."""
    if text is not None:
        offsets = model.tokenizer.offsets(text, ids.tolist())
        if offsets is not None:
            text, offsets = text[offsets[first][0] :], offsets[first:]
        elif first:  # a wrapped tokenizer that changes the text
            return None, None, None
        return offsets, len(text.encode("utf-8")), len(text)
    if model.has_tokenizer:
        data = b"".join(model.tokenizer.token_bytes(token) for token in ids[first:].tolist())
        return None, len(data), len(data.decode("utf-8", "replace"))
    return None, None, None
