"""Reading UTF-8 files, and writing files that appear only when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["create", "decoded", "naming", "new_directory", "recognised", "remove_unfinished", "replacing"]

_unfinished: set[str] = set()
"""Output files and directories that do not have their final name yet."""


def decoded(data: bytes, name: str, line_break: bool = True) -> str:
    """UTF-8 text, without its final line break unless ``line_break`` is false; errors call it ``name``."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        known = recognised(data)
        if known is not None:
            raise ValueError(f"{name} is a {known[0]} file, not text: decompress it first") from None
        raise ValueError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}; convert it first, "
            "for example with iconv"
        ) from None
    if line_break and text.endswith("\n"):
        text = text[:-1].removesuffix("\r")
    return text


_BEGINNINGS = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", ".zst"),
    b"BZh": ("bzip2", ".bz2"),
    b"\xfd7zXZ\0": ("xz", ".xz"),
    b"PAR1": ("Parquet", ".parquet"),
}


def recognised(data: bytes) -> tuple[str, str] | None:
    """The kind of binary file that starts like this, and its file name suffixes; None if unknown."""
    return next((kind for start, kind in _BEGINNINGS.items() if data.startswith(start)), None)


@contextlib.contextmanager
def replacing(path: str, *, binary: bool = False, take_over: bool = False) -> Iterator[Any]:
    """The file ``path``, open for UTF-8 text or bytes, named ``path`` once it is complete and on disk.

    The temporary name ends with ".part". Such files of ``path`` left by killed processes are removed. With
    ``take_over`` it is always ``path`` + ".part": if a running process is writing it, this one fails.
    """
    kind, encoding = ("b", None) if binary else ("", "utf-8")
    target = os.path.realpath(path)  # a link stays a link
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a directory: give the name of a file")
        if not stat.S_ISREG(mode):  # write to a device or pipe, never replace it
            with naming(path), open(target, "w" + kind, encoding=encoding) as file:
                yield file
            return
    with _unfinished_file(path, target, "w" + kind, encoding, take_over) as (unfinished, file):
        if mode is not None:  # keep the permissions of the file that is replaced
            os.fchmod(file.fileno(), stat.S_IMODE(mode))
        yield file
        file.flush()
        _sync(file.fileno())  # before the rename: after a power failure the final name has all bytes or none
        os.replace(unfinished, target)
        _sync_directory(os.path.dirname(target))


def create(path: str, data: bytes) -> None:
    """Create the file ``path`` with these bytes, atomically, unless it exists."""
    with _unfinished_file(path, path, "wb", None, take_over=False) as (unfinished, file):
        file.write(data)
        file.flush()
        _sync(file.fileno())
        # Unlike a rename, this never replaces an existing file.
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
            _sync_directory(os.path.dirname(path))
        os.unlink(unfinished)


@contextlib.contextmanager
def new_directory(path: str) -> Iterator[str]:
    """The temporary name of a directory, which becomes ``path`` once its files are complete and on disk.

    If ``path`` exists, it must be an empty directory. The temporary name ends with ".part"; such directories
    of ``path`` left by killed processes are removed.
    """
    import fcntl

    target = os.path.realpath(path)
    taken = FileExistsError(errno.EEXIST, "exists and is not empty: choose another name", path)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if os.listdir(target):
            raise taken
        if os.path.samefile(target, os.curdir):  # which a rename would replace
            raise FileExistsError(errno.EEXIST, "is the current directory: give the name of a new one", path)
    if os.path.lexists(target) and not os.path.isdir(target):
        raise FileExistsError(errno.EEXIST, "is a file: choose another name for the directory", path)
    unfinished = f"{target}.{os.urandom(4).hex()}.part"
    _remove_stale(target)
    try:
        os.mkdir(unfinished)
        descriptor = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", path) from None
    _unfinished.add(unfinished)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with naming(path):
            yield unfinished
            for folder, _, names in os.walk(unfinished, topdown=False):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        _sync(file.fileno())
                _sync_directory(folder)
            try:
                os.rename(unfinished, target)
            except OSError as error:
                raise taken if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else error from None
            _sync_directory(os.path.dirname(target))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
        _unfinished.discard(unfinished)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Name the file in errors that only writing raises: a full disk, a quota, a limit."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, f"cannot be written: {error.strerror}", path) from None
        raise


@contextlib.contextmanager
def _unfinished_file(
    path: str, target: str, mode: str, encoding: str | None, take_over: bool
) -> Iterator[tuple[str, IO[Any]]]:
    """The temporary name of ``target``, and the file of that name, locked.

    If writing fails or is interrupted at any moment, the file is removed.
    """
    unfinished = f"{target}.part" if take_over else f"{target}.{os.urandom(4).hex()}.part"
    file = None
    with naming(path):  # also on close, which retries what could not be written
        try:
            file = _open_unfinished(path, target, unfinished, mode, encoding, take_over)
            _unfinished.add(unfinished)
            yield unfinished, file
        except BaseException:
            if file is not None or not take_over:  # else another process may be writing it
                with contextlib.suppress(OSError):
                    os.unlink(unfinished)  # while it is locked
            raise
        finally:
            _unfinished.discard(unfinished)
            if file is not None:
                file.close()


def _open_unfinished(
    path: str, target: str, unfinished: str, mode: str, encoding: str | None, take_over: bool
) -> IO[Any]:
    """The file ``unfinished``, locked; errors name the requested path."""
    try:
        if not take_over:
            _remove_stale(target)
        return _locked(unfinished, mode, encoding, wait=not take_over)
    except BlockingIOError:
        raise OSError(
            f"{path} is being written by another process: wait for it or choose another name"
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(
                f"{unfinished} is a link, and gpt2c never writes through links: remove it"
            ) from None
        raise OSError(error.errno, f"cannot be written: {error.strerror}", path) from None


def _locked(path: str, mode: str, encoding: str | None, *, wait: bool) -> IO[Any]:
    """The file ``path``, new or emptied, which no other process holds through this function.

    If one does, ``wait`` for it, or raise BlockingIOError.
    """
    import fcntl

    while True:
        file = open(path, mode, encoding=encoding, opener=_open_no_link)  # noqa: SIM115
        is_ours = False
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:  # a file system without locks
                pass
            # The previous holder may have renamed or removed the file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                is_ours = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
                if is_ours:
                    os.ftruncate(file.fileno(), 0)
                    return file
        except BaseException:
            if is_ours:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            file.close()
            raise
        file.close()


def _open_no_link(path: str, _: int) -> int:
    """For ``open``: never follows a link and never truncates a file that another process may be writing."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _remove_stale(target: str) -> None:
    """Remove unfinished files of ``target`` that no process has locked: their writers were killed."""
    import fcntl

    directory, name = os.path.split(target)
    ours = re.compile(re.escape(name) + r"\.[0-9a-f]{8}\.part")
    try:
        entries = os.listdir(directory)
    except OSError:  # a directory that may be written but not listed
        return
    for entry in filter(ours.fullmatch, entries):
        # A locked file stays, as does any file on a file system without locks.
        path = os.path.join(directory, entry)
        is_directory = os.path.isdir(path)
        how = os.O_RDONLY | os.O_DIRECTORY if is_directory else os.O_WRONLY | os.O_NONBLOCK
        with contextlib.suppress(OSError):
            descriptor = os.open(path, how | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if is_directory else os.unlink(path)
            finally:
                os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Flush a file or directory to disk, on file systems that support it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def _sync_directory(path: str) -> None:
    """Flush the names in a directory to disk, if it can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished() -> None:
    """Remove this process's unfinished files: for a process that exits immediately."""
    for path in _unfinished:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(path)
