"""How probable texts are to the model: scores of given texts, and suggestions of what could come next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from ..core import _engine
from ..core.batching import ROWS_PER_CALL, calls_of, neighbours, within_bounds
from ..core.checks import check_flag, check_integer
from ..core.deadline import Deadline
from ..core.prefixes import NothingKept
from ..core.prompts import (
    Item,
    Prompt,
    Prompts,
    check_lengths,
    check_unambiguous,
    listed,
    separate,
    split_pair,
)
from .extent import extent
from .options import ScoringOptions, changes_of, check_outcome, start_of
from .passages import Passage, Piece
from .results import Score, Suggestion
from .words import find_words

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prefixes import Prefixes
    from ..introspection.edits import Edit
    from ..introspection.observer import Observer
    from .options import ScoreKwargs

__all__ = ["before_text", "passage_of", "score", "score_text", "scores_of", "suggest"]

_ALLOWED = (
    "a text is a string or a list of token ids, several are a list of those; an iterator of them, and pairs "
    "(context, continuation) in either, are accepted, too"
)

_Values = tuple[np.ndarray, ...]
"""The result of ``_engine.score`` for one piece."""


def score(
    model: LoadedModel,
    texts: Prompt | Sequence[Item] | Iterator[Item],
    *,
    prefixes: Prefixes | None = None,
    **kwargs: Unpack[ScoreKwargs],
) -> Score | list[Score] | Iterator[Score]:
    """See :meth:`gpt2c.GPT2.score`."""
    options = ScoringOptions.checked(model, prefixes=prefixes, **kwargs)
    if isinstance(texts, Iterator):
        return scores_of(
            model, (passage_of(model, item, f"text {i}", options) for i, item in enumerate(texts))
        )
    column = listed(texts)
    if isinstance(column, list | tuple) and not column:
        return []
    check_unambiguous(texts)
    several, given = separate(texts, _ALLOWED)
    if not several:
        return score_text(model, given[0], options)
    items = [passage_of(model, item, f"text {i}", options) for i, item in enumerate(given)]
    return list(scores_of(model, items))


def score_text(model: LoadedModel, text: Prompt, options: ScoringOptions) -> Score:
    """The score of one text, as from ``GPT2.score``."""
    return next(scores_of(model, [passage_of(model, ("", text), "the text", options)]))


def passage_of(model: LoadedModel, item: Any, name: str, options: ScoringOptions) -> Passage:
    """A text given to ``score``, tokenized and checked; errors call it ``name``."""
    context, text = split_pair(item, name)
    before = model.encode_text(context, f"the context of {name}", special=options.special)
    ids = model.encode_text(text, name, special=options.special, continued=len(before) > 0)
    begins = (context, before) if len(before) else (text, ids)
    before, n_start = before_text(model, before, *begins, options)
    return Passage(name, before, n_start, text if isinstance(text, str) else None, ids, options)


def before_text(
    model: LoadedModel, context: np.ndarray, text: Any, ids: np.ndarray, options: ScoringOptions
) -> tuple[np.ndarray, int]:
    """The tokens before a text, including its context, and the number of start tokens.

    These are the start tokens, a named token, or nothing. If special tokens are recognized, and the start is
    written out at the start of ``text``, which has the tokens ``ids``, it is not added again.
    """
    start = start_of(model, options.bos)
    if options.special and model.is_written_out(start, text, ids.tolist()):
        return context, len(start)
    return np.concatenate([np.array(start, np.int32), context]), len(start)


def scores_of(model: LoadedModel, passages: Iterable[Passage]) -> Iterator[Score]:
    """The scores of passages, in order. Those that share a call of the engine are computed together."""
    found: list[_Values] = []  # of the pieces of the current passage
    contexts: list[np.ndarray] = []
    for batch in _batches(piece for passage in passages for piece in passage.pieces()):
        for piece, values in zip(batch, _computed(model, batch), strict=True):
            found += values
            contexts.append(piece.rows + 1)
            if piece.last:
                columns = [np.concatenate(column) for column in zip(*found, strict=True)]
                yield _finished(model, piece.passage, np.concatenate(contexts), columns)
                found, contexts = [], []


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Neighbours to compute together: ``ROWS_PER_CALL`` rows, or one piece.

    Neighbours with one context stay together, up to twice the rows. Errors come after earlier results.
    """
    before: Piece | None = None
    rows = own = 0  # all rows, and those after the latest context

    def fits(piece: Piece) -> bool:
        nonlocal before, rows, own
        goes_on = before is not None and _same_context(before, piece)
        new = max(1, len(piece.ids) - goes_on * piece.shared)
        joins = rows + new <= ROWS_PER_CALL or (goes_on and own + new <= ROWS_PER_CALL)
        if not joins:
            rows, goes_on, new = 0, False, len(piece.ids)
        before, rows = piece, rows + new
        own = own + new if goes_on else max(1, len(piece.ids) - piece.shared)
        return joins

    return neighbours(pieces, fits)


def _same_context(one: Piece, other: Piece) -> bool:
    n = one.shared
    return 0 < n == other.shared and np.array_equal(one.ids[:n], other.ids[:n])


def _computed(model: LoadedModel, pieces: Sequence[Piece]) -> list[list[_Values]]:
    """The engine's results for the rows of every piece, in one or two parts.

    A context that neighbours share is computed once; each reads its cache and continues in its own.
    """
    found: list[list[_Values]] = [[] for _ in pieces]
    groups: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if i > 0 and _same_context(pieces[i - 1], piece):
            groups[-1].append(i)
        else:
            groups.append([i])
    rest: list[tuple[_engine.KVCache, int]] = []

    def beginnings() -> Iterator[_Part]:
        for n, group in enumerate(groups):
            first = pieces[group[0]]
            end = first.shared if len(group) > 1 else len(first.ids)
            # Stored earlier texts replace rows that are not wanted.
            wanted = min(int(pieces[i].rows[0]) for i in group)
            prefixes = first.passage.options.prefixes
            # A session has one cache, and several windows of a long text may be computed at once.
            kept = NothingKept() if prefixes.borrowed and n > 0 else prefixes
            cache = kept.begin(model, first.ids[: min(wanted + 1, end)], end)
            rest.extend((cache, i) for i in group if len(pieces[i].ids) > end)
            yield _Part(cache, first.ids[len(cache) : end], len(cache), group, kept)

    _compute_all(model, pieces, beginnings(), found)
    ends = (
        _Part(cache.branch(len(pieces[i].ids)), pieces[i].ids[len(cache) :], len(cache), [i], NothingKept())
        for cache, i in rest
    )
    _compute_all(model, pieces, ends, found)
    return found


def _compute_all(
    model: LoadedModel, pieces: Sequence[Piece], parts: Iterable[_Part], found: list[list[_Values]]
) -> None:
    """Add the results for the parts' pieces to ``found``, in calls with bounded rows and caches."""
    for some in within_bounds(parts, lambda part: (len(part.ids), part.cache.nbytes)):
        _compute(model, pieces, some, found)
        some.clear()  # free the caches


def _compute(
    model: LoadedModel, pieces: Sequence[Piece], parts: Sequence[_Part], found: list[list[_Values]]
) -> None:
    """The same in one call."""
    options = pieces[0].passage.options
    owners, sizes, wanted = [], [], []
    for part in parts:
        runs = [pieces[i].between(part.begin, part.begin + len(part.ids)) for i in part.owners]
        owners += part.owners
        sizes += [len(rows) for rows, _ in runs]
        rows, targets = map(np.concatenate, zip(*runs, strict=True))
        wanted.append((rows, targets))
    sequences = [(part.cache, part.ids) for part in parts]
    # With edits no context is shared: each part is a window, and its last rows are wanted.
    observer = _observer(model, sequences, options.edits, sizes)
    values = _engine.score(
        model.weights,
        sequences,
        wanted,
        top=options.top,
        n_text=model.n_text_tokens,
        masks=options.masks,
        threads=model.threads,
        observer=observer,
        deadline=options.deadline,
    )
    for part in parts:
        part.kept.keep(pieces[part.owners[0]].ids[: part.begin + len(part.ids)], part.cache)
    ends = np.cumsum(sizes)[:-1]
    for i, *arrays in zip(owners, *(np.split(array, ends) for array in values), strict=True):
        found[i].append(tuple(arrays))


def _observer(
    model: LoadedModel,
    sequences: Sequence[tuple[_engine.KVCache, np.ndarray]],
    changes: Mapping[str, list[Edit]],
    keep: int | list[int],
) -> Observer | None:
    """The observer that applies the edits in a pass with ``keep`` wanted rows per sequence."""
    if not changes:
        return None
    from ..introspection.observer import Observer, Watch

    return Observer(model, Watch(model.config, (), changes), sequences, changes, keep=keep)


class _Part(NamedTuple):
    """A sequence that the engine computes in one piece."""

    cache: _engine.KVCache
    ids: np.ndarray
    begin: int  # index of the first of these among the pieces' ids
    owners: list[int]  # indices of the pieces that need rows of it
    kept: Prefixes  # the store that records the cache


def _finished(
    model: LoadedModel, passage: Passage, contexts: np.ndarray, columns: Sequence[np.ndarray]
) -> Score:
    n = len(passage.tokens) - passage.first
    logprobs, ranks, entropies, variances, top_ids, top_logprobs, masses = (column[:n] for column in columns)
    check_outcome(passage.options.edits, logprobs, entropies)
    where = passage.find_offsets(model) if model.has_tokenizer else None
    offsets, n_bytes, n_chars = extent(model, passage.text, passage.ids, where, passage.skipped)
    wants_words = passage.options.words
    return Score(
        token_ids=passage.ids[passage.skipped :].tolist(),
        logprobs=logprobs,
        ranks=ranks,
        entropies=entropies,
        variances=variances,
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


def suggest(
    model: LoadedModel,
    prompt: Prompt | Prompts,
    k: int = 5,
    *,
    special: bool = False,
    edits: Iterable[tuple[str, Edit]] = (),
    deadline: float | Deadline | None = None,
    prefixes: Prefixes | None = None,
) -> list[Suggestion] | list[list[Suggestion]]:
    """See :meth:`gpt2c.GPT2.suggest`."""
    model.check_language_model()
    k = check_integer("k", k, 1, model.n_text_tokens, note=", the size of the vocabulary")
    several, given = separate(prompt)
    prompts = model.encode(given, special=check_flag("special", special))
    check_lengths(prompts, model.config.n_ctx)
    changes = changes_of(model, edits)
    limit = Deadline.of(deadline)
    kept = NothingKept() if changes else prefixes or model.prefixes
    results = []
    for part in calls_of([len(ids) for ids in prompts]):
        caches = [kept.begin(model, ids, len(ids)) for ids in prompts[part]]
        sequences = [(cache, ids[len(cache) :]) for cache, ids in zip(caches, prompts[part], strict=True)]
        observer = _observer(model, sequences, changes, 1)
        logits = _engine.forward(
            model.weights, sequences, keep=1, threads=model.threads, observer=observer, deadline=limit
        )
        for cache, ids in zip(caches, prompts[part], strict=True):
            kept.keep(ids, cache)
        check_outcome(changes, logits)
        results += [
            _most_probable(model, ids, row, k) for ids, row in zip(prompts[part], logits, strict=True)
        ]
    return results if several else results[0]


def _most_probable(model: LoadedModel, prompt: np.ndarray, logits: np.ndarray, k: int) -> list[Suggestion]:
    best = _engine.top(logits[: model.n_text_tokens], k)
    exact = logits.astype(np.float64)
    top = exact.max()
    probabilities = np.exp(exact.take(best) - top) / np.exp(exact - top).sum()
    decoder = model.tokenizer.decoder(prompt) if model.has_tokenizer else None
    suggestions = []
    for token, probability in zip(best.tolist(), probabilities.tolist(), strict=True):
        text = "" if decoder is None else decoder.alone(token)
        suggestions.append(Suggestion(text, probability, token, model.token_bytes(token)))
    return suggestions
