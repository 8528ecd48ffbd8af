"""Files of lines, plain or compressed: lines with their places for errors, and compressed outputs."""

from __future__ import annotations

import contextlib
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from ..core.files import decoded
from .records import Job

__all__ = ["byte_lines", "compressed", "load_zstd", "text_lines"]


def byte_lines(job: Job) -> Iterator[tuple[str, bytes]]:
    """The lines of a file, decompressed, each with its place for errors."""
    damages: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    open_file: Callable[..., Any] = gzip.open if job.compression == ".gz" else open
    if job.compression == ".zst":
        zstd = load_zstd(job.source)
        open_file, damages = zstd.open, (*damages, zstd.ZstdError)
    number = 0
    with open_file(job.source, "rb") as file:
        try:
            for number, line in enumerate(file, 1):
                yield f"{job.source}:{number}", line
        except damages as error:
            raise ValueError(
                f"{job.source}: the file is damaged or cut off after line {number}: {error}"
            ) from None


def text_lines(job: Job) -> Iterator[tuple[str, str]]:
    """The lines of a file as text, each with its place for errors."""
    for place, line in byte_lines(job):
        yield place, decoded(line, place, line_break=False)


@contextlib.contextmanager
def compressed(out: IO[bytes], job: Job) -> Iterator[Any]:
    """``out``, or what compresses into it; the same bytes every time."""
    if job.compression == ".gz":
        with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
            yield packed
    elif job.compression == ".zst":
        with load_zstd(job.source).ZstdFile(out, "wb") as packed:
            # Without any write there would be no frame, which readers refuse.
            packed.write(b"")
            yield packed
    else:
        yield out


def load_zstd(name: str) -> Any:
    """The module that reads and writes .zst files; ImportError names the file and the command to run."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise ImportError(
            f'{name}: before Python 3.14, .zst files need backports.zstd: pip install "gpt2c[zstd]"'
        ) from None
    return zstd
