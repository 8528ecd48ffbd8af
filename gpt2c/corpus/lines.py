"""Files of bytes, plain or compressed: their contents, their lines with places, and compressed outputs."""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import IO, Any

from ..core.files import recognised
from .records import Fault, Job, Place, not_utf8

__all__ = ["COMPRESSIONS", "byte_lines", "compressed", "load_library", "text_of", "unpacked"]

COMPRESSIONS = ("", ".gz", ".zst", ".bz2", ".xz")
"""The suffixes of compressed files, and the empty one of others."""

MARK = "\ufeff"
"""The byte order mark that Windows puts before UTF-8."""


@contextlib.contextmanager
def unpacked(job: Job, where: Callable[[], str]) -> Iterator[IO[bytes]]:
    """A file, decompressed as it is read; ``where`` returns the position, for errors."""
    library = load_library(job)
    damages = [getattr(library, name) for name in ("LZMAError", "ZstdError") if hasattr(library, name)]
    opening = partial(library.open, job.source, "rb")
    if job.compression == ".zst":
        window = library.DecompressionParameter.window_log_max
        # A window of any size; `zstd --long` uses larger ones than the default limit.
        opening = partial(opening, options={window: window.bounds()[1]})
    # No frame at all: failed commands, or those with nothing to write, leave such archives.
    if not os.path.getsize(job.source):
        opening = partial(open, os.devnull, "rb")
    elif job.compression == "":
        with open(job.source, "rb") as file:
            known = recognised(file.read(8))
        if known is not None:
            raise ValueError(f"{job.source} is a {known[0]} file: give it a name that ends with {known[1]}")
    with opening() as file:
        try:
            yield file
        except (EOFError, OSError, zlib.error, *damages) as error:
            # An error of the system, not of the file.
            if getattr(error, "errno", None) is not None:
                raise
            raise ValueError(f"{job.source}: the file is damaged or truncated {where()}: {error}") from None


def byte_lines(job: Job) -> Iterator[tuple[Place, bytes]]:
    """The lines of a file, decompressed, each with its place for errors."""
    number = 0
    with unpacked(job, lambda: f"after line {number}") as file:
        for number, line in enumerate(file, 1):
            yield Place(job.source, "line", number), line


def text_of(data: bytes, place: Place) -> str:
    """A line or an element as text, without a byte order mark; raises Fault if it is not text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(place, f"{not_utf8(error)}; convert the file, for example with iconv") from None
    return text.removeprefix(MARK) if place.unit == "line" and place.number == 1 else text


@contextlib.contextmanager
def compressed(out: IO[bytes], job: Job) -> Iterator[Any]:
    """``out``, or a writer that compresses into it, always to the same bytes."""
    if job.compression == "":
        yield out
        return
    library = load_library(job)
    if job.compression == ".gz":
        packing = library.GzipFile("", "wb", 6, out, mtime=0)
    else:
        packing = library.open(out, "wb")
    with packing as packed:
        # Without any write ZstdFile writes no frame, and readers refuse the file.
        packed.write(b"")
        yield packed


def load_library(job: Job) -> Any:
    """The module whose ``open`` opens a file; ImportError names the file and the command to run."""
    if job.compression == ".zst":
        try:
            return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        except ImportError:
            raise ImportError(
                f'{job.source}: before Python 3.14, .zst files need backports.zstd: pip install "gpt2c[zstd]"'
            ) from None
    # Deferred, because some Pythons lack one or the other.
    return import_module({"": "io", ".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}[job.compression])
