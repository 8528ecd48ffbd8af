"""Bold, dim and coloured text for terminals."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..core.labels import harmless

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["bold", "dim", "is_terminal", "paint", "shown"]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def shown(text: str, stream: TextIO) -> str:
    """``text`` for ``stream``: unchanged, except for control characters, which terminals never get."""
    return harmless(text) if is_terminal(stream) else text


def paint(text: str, code: str, stream: TextIO) -> str:
    """``text`` with the SGR ``code``, if ``stream`` is a terminal that wants colours (https://no-color.org).

    A terminal gets no other control characters: see `shown`.
    """
    text = shown(text, stream)
    if not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal(stream):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str, stream: TextIO) -> str:
    """``text`` in bold, under the conditions of `paint`."""
    return paint(text, "1", stream)


def dim(text: str, stream: TextIO) -> str:
    """``text`` in a fainter colour, under the conditions of `paint`."""
    return paint(text, "2", stream)
