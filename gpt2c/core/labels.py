"""Tokens as labels: every character is visible, and the width in columns is known."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

__all__ = [
    "RANK_NAMES",
    "columns",
    "fitted",
    "harmless",
    "label",
    "labels",
    "parts",
    "rank_class",
    "visible",
    "wrapped",
]

_RANK_BOUNDS = (1, 10, 100)
RANK_NAMES = ("first choice", "among the first 10", "among the first 100", "beyond")


def label(text: str, token_id: int | None = None) -> str:
    """A token with its spaces and other characters made `visible`; one without text as its id."""
    if not text:
        return f"token {token_id}"
    if unicodedata.combining(text[0]):
        text = "\u25cc" + text  # a dotted circle for combining marks
    return "".join("\u2423" if character == " " else visible(character) for character in text)


# A byte that by itself is not a character, as the texts of tokens have it.
_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")


def labels(texts: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Labels of tokens that follow each other; those that share a character have it, and a number each."""
    found = list(map(label, texts, ids))
    begin, read = 0, b""
    for i, text in enumerate(texts):
        read += _BYTE.sub(lambda byte: bytes([int(byte[1], 16)]), text.encode())
        try:
            whole = read.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                continue
        else:
            found[begin : i + 1] = parts(label(whole, ids[i]), i + 1 - begin)
        begin, read = i + 1, b""
    return found


def parts(name: str, n: int) -> list[str]:
    """The labels of ``n`` tokens that share what ``name`` says: 1/3, 2/3, 3/3."""
    return [name] if n == 1 else [f"{name} {i + 1}/{n}" for i in range(n)]


def visible(character: str) -> str:
    """A character, escaped as in Python if it is invisible.

    Invisible are line breaks and tabs, zero-width characters, and those that change text direction.
    """
    return character if character.isprintable() else repr(character)[1:-1]


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """A text for a terminal: its control characters are escaped, except line breaks and tabs.

    Text from a model's files or generated text may hold any character, and terminals act on some.
    """
    return _CONTROLS.sub(lambda found: visible(found[0]), text)


def columns(text: str) -> int:
    """The number of terminal columns of a text: two for wide characters, none for combining ones."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitted(text: str, width: int, more: str = "\u2026") -> str:
    """A text in exactly ``width`` columns: spaces after it, or ``more`` (one column) if it was cut."""
    if columns(text) > width:
        kept, room = [], width - 1
        for character in text:
            room -= _columns(character)
            if room < 0:
                break
            kept.append(character)
        text = "".join(kept) + more
    return text + " " * (width - columns(text))


def wrapped(text: str, width: int) -> list[str]:
    """A text as lines of at most ``width`` columns, broken anywhere; at least one line."""
    lines, room = [""], width
    for character in text:
        room -= _columns(character)
        if room < 0:
            lines.append("")
            room = width - _columns(character)
        lines[-1] += character
    return lines


def rank_class(rank: int) -> int:
    """The index in RANK_NAMES for a rank counted from 0."""
    return bisect_right(_RANK_BOUNDS, rank)
