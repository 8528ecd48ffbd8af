"""The surroundings of the command line: input, output, notes, and interrupts."""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING

from ..core.files import decoded, remove_unfinished, replacing
from ..core.labels import harmless
from ..views.ansi import dim, is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

__all__ = [
    "leave_at_interrupt",
    "make_streams_safe",
    "note",
    "note_escapes",
    "open_output",
    "raise_at_interrupt",
    "read_text",
    "silence_stdout",
]


_escaped = False
"""Whether a character was written as an escape."""


def make_streams_safe() -> None:
    """Make every character writable: in UTF-8 if no encoding was chosen, otherwise escaped if it lacks one.

    The C locale does not mean that ASCII was chosen: files and pipes expect UTF-8, as do terminals.
    """
    global _escaped
    _escaped = False
    codecs.register_error("gpt2c.escape", _escape)
    chosen = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            if not chosen and codecs.lookup(stream.encoding).name == "ascii":
                stream.reconfigure(encoding="utf-8", errors=stream.errors)
            if stream is not sys.stdin:
                stream.reconfigure(errors="gpt2c.escape")


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    global _escaped
    _escaped = True
    return codecs.backslashreplace_errors(error)


def note_escapes() -> None:
    """Note that stdout lacks characters, if any were escaped."""
    if _escaped and sys.stdout is not None:
        note(
            f"characters that {sys.stdout.encoding} lacks are written as escapes such as \\u2603: set "
            "PYTHONIOENCODING=utf-8, or -o FILE, which is UTF-8, for the characters themselves"
        )


def note(message: str) -> None:
    """Print what is not part of the result to stderr, which may be closed."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(dim(harmless(message), sys.stderr), file=sys.stderr, flush=True)


def read_text(argument: str | None, file: str | None = None) -> str | None:
    """The text of a command, without its final line break; None if there is none.

    It comes from ``argument`` or from ``file``; from stdin if one of them is "-", or if both are missing and
    stdin is not a terminal. A byte order mark, which Windows puts at the start of files, is not part of it.
    """
    if file is not None and file != "-":
        with open(file, "rb") as data:
            return decoded(data.read(), file).removeprefix("\ufeff")
    if argument is not None and argument != "-":
        # Python marks bytes of the command line that its locale cannot decode: assume UTF-8.
        return decoded(os.fsencode(argument), "the text on the command line", line_break=False)
    asked = argument == "-" or file == "-"
    if sys.stdin is None or (is_terminal(sys.stdin) and not asked):
        return None
    return decoded(sys.stdin.buffer.read(), "stdin").removeprefix("\ufeff")


@contextlib.contextmanager
def open_output(path: str | None, source: str | None = None) -> Iterator[TextIO]:
    """Stdout, or the file ``path``: see `gpt2c.core.files.replacing`.

    It must not be the file that the text comes from, ``source`` or stdin.
    """
    if path is None or path == "-":
        if sys.stdout is None:
            with open(os.devnull, "w") as nowhere:
                yield nowhere
        else:
            yield sys.stdout
            sys.stdout.flush()
        return
    if not path:
        raise ValueError("-o takes the name of a file, not an empty one")
    for given in (source, 0):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if given is not None and stat.S_ISREG(found.st_mode) and os.path.samestat(os.stat(given), found):
                raise ValueError(f"the output {path} would replace the file that the text is from")
    with replacing(path) as file:
        yield file


def leave_at_interrupt(say: Callable[[], str] = str) -> None:
    """Make Ctrl-C end the process at once with status 130, and SIGTERM with 143.

    An exception would pass through imports, loading and computing, some of which swallow it. The result of
    ``say``, if any, is written to stderr.
    """

    def leave(number: int, _: object) -> None:
        remove_unfinished()
        if number == signal.SIGINT and is_terminal(sys.stderr):
            # The shell's prompt starts on a new line.
            os.write(sys.stderr.fileno(), b"\n")
        said = say()
        if said:
            with contextlib.suppress(OSError):
                os.write(2, f"{harmless(said)}\n".encode(errors="replace"))
        os._exit(128 + number)

    # Only the main thread can set a handler, and only a program's own command line should.
    with contextlib.suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)


@contextlib.contextmanager
def raise_at_interrupt() -> Iterator[None]:
    """Within this, Ctrl-C raises KeyboardInterrupt, so that line editing can restore the terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def silence_stdout() -> None:
    """Discard buffered output when the reader of stdout has gone, instead of failing at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
