"""Files that are read as UTF-8, and files that appear once they are complete."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["decoded", "remove_unfinished", "replacing"]

_unfinished: set[str] = set()
"""Output files that do not have their final name yet."""


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
def replacing(path: str, *, binary: bool = False, take_over: bool = False) -> Iterator[Any]:
    """The file ``path``, open for UTF-8 text or bytes: it has another name until it is complete.

    With ``take_over`` that name is always ``path`` + ".part": what a killed process left is overwritten; if a
    running process is writing it, this one fails.
    """
    kind, encoding = ("b", None) if binary else ("", "utf-8")
    target = os.path.realpath(path)  # a link stays a link
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a directory: the name of a file is needed")
        if not stat.S_ISREG(mode):  # a device or pipe is written to, never replaced
            with open(target, "w" + kind, encoding=encoding) as file:
                yield file
            return
    unfinished = f"{target}.part" if take_over else f"{target}.{os.urandom(4).hex()}.part"
    try:
        opened, mode_opened = (_locked(unfinished), "w") if take_over else (unfinished, "x")
        # Closed by the with statement below.
        file = open(opened, mode_opened + kind, encoding=encoding)  # noqa: SIM115
    except BlockingIOError:
        raise OSError(f"{path} is being written by another process: let one of them do it") from None
    except OSError as error:  # the message names the path that was asked for
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
            # Another process that had the lock may meanwhile have given the file its final name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    os.ftruncate(descriptor, 0)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_unfinished() -> None:
    """Remove what `replacing` has begun in this process and not ended: for a process that ends at once."""
    for path in _unfinished:
        with contextlib.suppress(OSError):
            os.unlink(path)
