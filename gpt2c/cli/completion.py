"""Shell completion, through argcomplete. Imported only when a shell requests completions."""

from __future__ import annotations

from argparse import Action, ArgumentParser
from collections.abc import Iterator
from typing import Any

from .parser import BENCH_PARTS

__all__ = ["complete"]

FILES = ("FILE", "FILE | DIR", "TEXT | IN", "MODEL", "prompt | MODEL", "SOURCE", "SRC", "DST", "DIR")
"""Names in the help of arguments that are, or may be, file names."""


def complete(parser: ArgumentParser) -> None:
    """Answer the shell, and end the process."""
    try:
        from argcomplete import autocomplete
        from argcomplete.completers import FilesCompleter, SuppressCompleter
    except ImportError:
        # The shell was set up for another Python; it reads no messages.
        raise SystemExit(1) from None

    completers: dict[str, Any] = {
        **dict.fromkeys(FILES, FilesCompleter()),
        "PART": lambda **_: BENCH_PARTS,
        "SHAPE": _shapes,
    }
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in completers:
            action.completer = completers[action.metavar]  # type: ignore[attr-defined]
    # Options are offered once a - is typed; other values (texts, numbers) are the user's own.
    autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        for inner in action.choices.values() if isinstance(action.choices, dict) else ():
            yield from _actions(inner)


def _shapes(**_: object) -> list[str]:
    from .bench.models import SHAPES

    return list(SHAPES)
