"""The surroundings of the command line: input, output, notes, and interrupts."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from ..core.files import decoded, remove_unfinished, replacing
from ..views.ansi import dim, is_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = [
    "leave_at_interrupt",
    "make_streams_safe",
    "note",
    "open_output",
    "raise_at_interrupt",
    "read_text",
    "silence_stdout",
]


def make_streams_safe() -> None:
    """Write a question mark for a character that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def note(message: str) -> None:
    """Print what is not part of the result to stderr, which may be closed."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(dim(message, sys.stderr), file=sys.stderr, flush=True)


def read_text(argument: str | None, file: str | None = None) -> str | None:
    """The text of a command, without its final line break; None if there is none.

    It comes from ``argument`` or from ``file``; from stdin if one of them is "-", or if both are missing and
    stdin is not a terminal. A byte order mark, with which Windows begins files, is not part of it.
    """
    if file is not None and file != "-":
        with open(file, "rb") as data:
            return decoded(data.read(), file).removeprefix("\ufeff")
    if argument is not None and argument != "-":
        # Python marks bytes of the command line that its locale cannot decode: they are meant as UTF-8.
        return decoded(os.fsencode(argument), "the text on the command line", line_break=False)
    asked = argument == "-" or file == "-"
    if sys.stdin is None or (is_terminal(sys.stdin) and not asked):
        return None
    return decoded(sys.stdin.buffer.read(), "stdin").removeprefix("\ufeff")


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[TextIO]:
    """Stdout, or the file ``path``: see `gpt2c.core.files.replacing`."""
    if path is None or path == "-":
        if sys.stdout is None:
            with open(os.devnull, "w") as nowhere:
                yield nowhere
        else:
            yield sys.stdout
            sys.stdout.flush()
        return
    if not path:
        raise ValueError("-o takes the name of a file, and got an empty one")
    with replacing(path) as file:
        yield file


def leave_at_interrupt() -> None:
    """From now on, Ctrl-C ends the process at once with status 130, whatever it is doing.

    An exception would pass through imports, loading and computing, some of which swallow it.
    """

    def leave(*_: object) -> None:
        remove_unfinished()
        if is_terminal(sys.stderr):
            # The shell's prompt begins on a line of its own.
            os.write(sys.stderr.fileno(), b"\n")
        os._exit(130)

    # Only the main thread can set a handler, and only a program's own command line should.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, leave)


@contextlib.contextmanager
def raise_at_interrupt() -> Iterator[None]:
    """Within this, Ctrl-C raises KeyboardInterrupt, so that line editing can restore the terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def silence_stdout() -> None:
    """Discard what is still buffered for stdout, whose reader has gone, instead of failing at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
