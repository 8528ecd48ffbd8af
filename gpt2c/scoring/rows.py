"""Scores for the texts of a table, some of which may have nothing to score."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

from ..core.batching import MOST_EMPTY
from .options import ScoringOptions
from .passages import Passage
from .scoring import before_text, scores_of

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from .options import ScoreKwargs
    from .results import Score

__all__ = ["score_rows"]


def score_rows(
    model: LoadedModel,
    rows: Iterable[tuple[Any, Any]],
    *,
    max_tokens: int | None = None,
    **kwargs: Unpack[ScoreKwargs],
) -> Iterator[tuple[Any, Score | None, bool]]:
    """The scores of the texts of a table, in order; rows are consumed as needed.

    Parameters
    ----------
    model : LoadedModel
    rows : iterable of (key, text)
        A text is a string, token ids or None. It is tokenized once.
    max_tokens : int, optional
        Longer texts are truncated to their first ``max_tokens`` tokens.
    **kwargs
        As for ``GPT2.score``.

    Yields
    ------
    (key, score, cut)
        The score is None where there is nothing to score: no text, no tokens or, without ``bos``, a single
        one. ``cut`` is whether the text had more than ``max_tokens``.

    Raises
    ------
    ValueError, TypeError
        As from ``GPT2.score``; the count of texts includes those with nothing to score.
    """
    options = ScoringOptions.checked(model, **kwargs)
    waiting: deque[tuple[Any, bool, bool]] = deque()  # key, whether it is scored, whether it was truncated
    numbered = enumerate(rows)
    ended = False

    def passages() -> Iterator[Passage]:
        nonlocal ended
        empty = 0
        for i, (key, text) in numbered:
            passage, cut = _passage(model, f"text {i}", text, max_tokens, options)
            waiting.append((key, passage is not None, cut))
            if passage is not None:
                yield passage
            empty = 0 if passage is not None else empty + 1
            if empty == MOST_EMPTY:
                return
        ended = True

    while not ended:
        for found in scores_of(model, passages()):
            yield from _unscored(waiting)
            key, _, cut = waiting.popleft()
            yield key, found, cut
        yield from _unscored(waiting)


def _passage(
    model: LoadedModel, name: str, text: Any, max_tokens: int | None, options: ScoringOptions
) -> tuple[Passage | None, bool]:
    """The scored part of a text, if any, and whether it was truncated."""
    ids = model.encode_text("" if text is None else text, name, special=options.special)
    n_tokens = len(ids)
    ids = ids[:max_tokens]
    cut = len(ids) < n_tokens
    before, n_start = before_text(model, ids[:0], text, ids, options)
    if len(before) + len(ids) <= max(1, len(before), n_start):
        return None, cut
    known = text if isinstance(text, str) else None
    passage = Passage(name, before, n_start, known, ids, options)
    if known is not None and cut:
        passage.cut(model)
    return passage, cut


def _unscored(waiting: deque[tuple[Any, bool, bool]]) -> Iterator[tuple[Any, None, bool]]:
    """Rows with nothing to score that do not follow a scored one."""
    while waiting and not waiting[0][1]:
        key, _, cut = waiting.popleft()
        yield key, None, cut
