"""Bold, dim and coloured text, where a terminal shows it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["bold", "dim", "is_terminal", "paint"]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def paint(text: str, code: str, stream: TextIO) -> str:
    """``text`` as the SGR ``code`` says, if ``stream`` is a terminal and wants it (https://no-color.org)."""
    if not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal(stream):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str, stream: TextIO) -> str:
    """``text`` in bold, under the conditions of `paint`."""
    return paint(text, "1", stream)


def dim(text: str, stream: TextIO) -> str:
    """``text`` in a fainter colour, under the conditions of `paint`."""
    return paint(text, "2", stream)
