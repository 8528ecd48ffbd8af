"""Tokens as labels: every character of them can be seen, and their width in columns is known."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scoring import Score

__all__ = ["columns", "fitted", "label", "pieces"]


def label(text: str, token_id: int | None = None) -> str:
    """A token so that its spaces, line breaks and invisible characters are seen; one without text by its id.

    Characters without a look of their own, such as zero-width ones and those that turn the direction of
    writing, are escaped as in Python.
    """
    if not text:
        return f"token {token_id}"
    if unicodedata.combining(text[0]):
        text = "\u25cc" + text  # a dotted circle to stand on
    return "".join("\u2423" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in text)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for wide characters, none for combining ones."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitted(text: str, width: int, more: str = "\u2026") -> str:
    """A text in exactly ``width`` columns: spaces after it, or ``more`` (one column) where it was cut."""
    if columns(text) > width:
        kept, room = [], width - 1
        for character in text:
            room -= _columns(character)
            if room < 0:
                break
            kept.append(character)
        text = "".join(kept) + more
    return text + " " * (width - columns(text))


def pieces(score: Score) -> Iterator[tuple[str, slice]]:
    """The scored text in pieces, each with its tokens: one, or all those that share a character.

    Without the text (of token ids), each piece is the token's id.
    """
    if score.offsets is None or score.text is None:
        yield from ((label("", token), slice(i, i + 1)) for i, token in enumerate(score.token_ids))
        return
    begin, first, reached = None, 0, 0
    for i, (start, end) in enumerate(score.offsets):
        if begin is not None and start >= reached:
            yield score.text[begin:reached], slice(first, i)
            begin = None
        if begin is None:
            begin, first = start, i
        reached = max(reached, end)
    if begin is not None:
        yield score.text[begin:reached], slice(first, len(score))
