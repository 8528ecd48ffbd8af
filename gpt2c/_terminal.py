"""What the command line needs of its surroundings: input, output files, notes, colour, leaving at once."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = [
    "bold",
    "decoded",
    "dim",
    "is_terminal",
    "leave_at_interrupt",
    "make_streams_safe",
    "note",
    "open_output",
    "raise_at_interrupt",
    "read_text",
    "replacing",
    "silence_stdout",
]

_unfinished: set[str] = set()  # output files that have not got their name yet


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at ``stream`` directly."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def make_streams_safe() -> None:
    """Let no character stop the output: what the terminal's encoding lacks becomes a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _paint(text: str, code: str, stream: TextIO) -> str:
    if not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal(stream):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str, stream: TextIO) -> str:
    """``text`` in bold, if ``stream`` is a terminal and colour is wanted (https://no-color.org)."""
    return _paint(text, "1", stream)


def dim(text: str, stream: TextIO) -> str:
    """``text`` in a fainter colour, under the same conditions."""
    return _paint(text, "2", stream)


def note(message: str) -> None:
    """Say something that is not part of the result: to stderr, which may be gone."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(dim(message, sys.stderr), file=sys.stderr, flush=True)


def read_text(argument: str | None, file: str | None = None) -> str | None:
    """The text that a command works on, without its final line break; None if there is none.

    It comes from ``argument``, from ``file``, or, if the argument is "-" or there is neither and stdin is no
    terminal, from stdin.
    """
    if file is not None and file != "-":
        with open(file, "rb") as data:
            return decoded(data.read(), file)
    if argument is not None and argument != "-":
        # Python marks bytes of the command line that its locale cannot decode: they are meant as UTF-8.
        return decoded(os.fsencode(argument), "the text on the command line", line_break=False)
    asked = argument == "-" or file == "-"
    if sys.stdin is None or (is_terminal(sys.stdin) and not asked):
        return None
    return decoded(sys.stdin.buffer.read(), "stdin")


def decoded(data: bytes, name: str, line_break: bool = True) -> str:
    """UTF-8 text, without its final line break unless ``line_break`` is false; errors call it ``name``."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}; convert it first, "
            "for example with iconv"
        ) from None
    if line_break and text.endswith("\n"):
        text = text[:-1].removesuffix("\r")
    return text


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[TextIO]:
    """Stdout, or the file ``path``: see `replacing`."""
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


@contextlib.contextmanager
def replacing(path: str, *, binary: bool = False, take_over: bool = False) -> Iterator[Any]:
    """The file ``path``, open for UTF-8 text or bytes: it has another name until it is complete.

    With ``take_over`` that name is always ``path`` + ".part": what a killed process left is overwritten, and
    if a living one is at work on it, this one fails.
    """
    kind, how = ("b", {}) if binary else ("", {"encoding": "utf-8"})
    target = os.path.realpath(path)  # a link stays a link
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a directory: the name of a file is needed")
        if not stat.S_ISREG(mode):  # a device or pipe is written to, never replaced
            with open(target, "w" + kind, **how) as file:
                yield file
            return
    unfinished = f"{target}.part" if take_over else f"{target}.{os.urandom(4).hex()}.part"
    try:
        opened, how_opened = (_locked(unfinished), "w") if take_over else (unfinished, "x")
        file = open(opened, how_opened + kind, **how)  # noqa: SIM115  (closed by the with statement below)
    except BlockingIOError:
        raise OSError(f"{path} is being written by another process: let one of them do it") from None
    except OSError as error:  # the name that was asked for is the one to tell
        raise OSError(error.errno, f"cannot be written: {error.strerror}", path) from None
    with file:
        _unfinished.add(unfinished)
        try:
            if mode is not None:  # who may read the file that is replaced, may read this one
                os.chmod(unfinished, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.replace(unfinished, target)
        except BaseException:
            os.unlink(unfinished)
            raise
        finally:
            _unfinished.discard(unfinished)


def _locked(path: str) -> int:
    """A descriptor of the file ``path``, new or emptied, which no other process has got in this way."""
    import fcntl

    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                pass
            # Whoever had the lock before may meanwhile have given the file its final name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    os.ftruncate(descriptor, 0)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def leave_at_interrupt() -> None:
    """From now on Ctrl-C ends the process at once with status 130, whatever it is doing.

    An exception would have to travel through imports, loading and computing; some of that swallows it.
    """

    def leave(*_: object) -> None:
        for path in _unfinished:
            with contextlib.suppress(OSError):
                os.unlink(path)
        if is_terminal(sys.stderr):
            os.write(sys.stderr.fileno(), b"\n")  # the shell's prompt begins on a line of its own
        os._exit(130)

    with contextlib.suppress(ValueError):  # not the main thread: then signals are somebody else's business
        signal.signal(signal.SIGINT, leave)


@contextlib.contextmanager
def raise_at_interrupt() -> Iterator[None]:
    """Meanwhile Ctrl-C raises KeyboardInterrupt, so that line editing leaves the terminal as it was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def silence_stdout() -> None:
    """After the reader of stdout has gone: what is still buffered goes nowhere instead of failing at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
