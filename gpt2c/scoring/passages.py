"""Texts to score, and the windows in which the model reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import ContextLengthError, counted

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from .options import ScoringOptions

__all__ = ["Passage", "Piece"]


class Passage:
    """A text to score after the tokens before it, if any.

    Parameters
    ----------
    name : str
        Its name in errors.
    before : np.ndarray
        The tokens before the text: int32 [n].
    n_start : int
        The number of unscored start tokens: among those before it, whose rest is its context, or among its
        own, if it is written with them.
    text : str or None
        None if the text was given as tokens.
    ids : np.ndarray
        Its tokens, int32 [n].
    options : ScoringOptions

    Raises
    ------
    ValueError, ContextLengthError
        There is nothing to score, or more than fits into the window and no stride.
    """

    def __init__(
        self,
        name: str,
        before: np.ndarray,
        n_start: int,
        text: str | None,
        ids: np.ndarray,
        options: ScoringOptions,
    ) -> None:
        self.name, self.text, self.ids, self.options = name, text, ids, options
        self._offsets: list[tuple[int, int]] | None = None
        self.tokens = np.concatenate([before, ids])
        self.first = max(1, len(before), n_start)  # index of the first token to score
        self.skipped = self.first - len(before)  # tokens of the text before it
        self.context = before[n_start:]
        self.repeated = self.tokens[: n_start * options.repeat_bos]
        n_rows = len(self.tokens) - 1  # the last token predicts nothing, unless the end of a word is wanted
        if len(ids) == 0:
            what = "is empty" if text is not None else "has no token ids"
            raise ValueError(f"{name} {what}: there is nothing to score")
        if n_rows < self.first and len(before) < n_start:
            raise ValueError(f"{name} consists only of start tokens, which are not scored")
        if n_rows < self.first:
            raise ValueError(
                f"{name} is a single token, and without bos nothing precedes it: nothing can be "
                "scored; use bos=True, a context or a longer text"
            )
        window, n_ctx = options.window, options.n_ctx
        if n_rows > window and options.stride is None:
            seen = f"the model has {n_ctx} positions" if window == n_ctx else f"the window is {window}"
            n_context = len(self.context)
            after, together = (f" after a context of {n_context}", "together ") if n_context else ("", "")
            most = window + 1 - n_start
            raise ContextLengthError(
                f"{name} has {counted(len(ids), 'token')}{after}, but {seen}: {together}at most "
                f"{counted(most, 'token')} can be scored in one piece; give a stride, or split the text"
            )

    def find_offsets(self, model: LoadedModel) -> list[tuple[int, int]] | None:
        """The positions of the text's tokens in it, in characters; None if unknown."""
        if self._offsets is None and self.text is not None:
            ids, special = self.ids.tolist(), self.options.special
            self._offsets = model.tokenizer.offsets(self.text, ids, special=special)
        return self._offsets

    def cut(self, model: LoadedModel) -> None:
        """Drop the text after the tokens, which are its first ones."""
        offsets = self.find_offsets(model)
        end = max((end for _, end in offsets or ()), default=0)
        self.text = None if self.text is None or offsets is None else self.text[:end]

    def pieces(self) -> Iterator[Piece]:
        """Windows that score every token once: the first all its tokens, each other the next ``stride``."""
        window, stride = self.options.window, self.options.stride or 1
        n_rows = len(self.tokens) - 1
        # One more for the end of the last word; or, if there is room, since edits see the whole text.
        all_rows = n_rows + (self.options.words or (bool(self.options.edits) and n_rows < window))
        targets = np.append(self.tokens[1:], np.int32(-1))
        done = self.first - 1
        while done < all_rows:
            end = min(n_rows, window if done < window else done + stride) if done < n_rows else all_rows
            if end == n_rows < window:
                end = all_rows
            begin = max(0, end - window)
            # Edits see a window as a whole, so it shares nothing.
            alone = len(self.context) == 0 or bool(self.options.edits)
            shared = self.first if not alone and begin == 0 and done < self.first else 0
            rows = np.arange(done - begin, end - begin)
            # The start tokens of every window replace as many other tokens; in the first, its own.
            ids = np.concatenate([self.repeated, self.tokens[begin + len(self.repeated) : end]])
            yield Piece(self, shared, ids, rows, targets[done:end], end == all_rows)
            done = end


class Piece(NamedTuple):
    """A window of a passage."""

    passage: Passage
    shared: int  # number of leading ids that are the complete context
    ids: np.ndarray
    rows: np.ndarray  # those of the ids whose targets no earlier window has scored
    targets: np.ndarray  # the token that follows each row; -1: none does
    last: bool

    def between(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows from ``begin`` to ``end``, counted from ``begin``, and their targets."""
        here = slice(*np.searchsorted(self.rows, (begin, end)))
        return self.rows[here] - begin, self.targets[here]
