"""Shared by all readers: regular files only, strict JSON of limited size, errors that name the file."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CheckpointError, shown
from ..json_values import unique_keys

__all__ = [
    "GGUF_MAGIC",
    "LLMC_MAGIC",
    "MAX_JSON",
    "TORCH_MAGIC",
    "RegularFile",
    "is_gguf",
    "is_torch_file",
    "parse_object",
    "read_array",
    "read_object",
    "reading",
]

# Maximum bytes of JSON in one file. The most expensive JSON takes 27 times as much memory.
MAX_JSON = 2**19
# Maximum keys of one JSON object at the top: a config.json has some 50, safetensors' headers one per tensor.
_MOST_KEYS = 10_000
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
LLMC_MAGIC = 20240326
GGUF_MAGIC = b"GGUF"
# No file is this large; the system's file offsets end at twice this.
_LAST = 2**62


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into CheckpointErrors that name the file."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


class RegularFile:
    """A regular file, open for reading until it is closed or no longer referenced.

    All reads use one descriptor and so the same file, wherever its name leads later. They name their offset
    and share no position: threads, and processes after a fork, may read at the same time.

    Attributes
    ----------
    path : Path
        The path it was opened with.
    size : int
        In bytes, when it was opened.

    Raises
    ------
    CheckpointError
        The file does not exist, is not a regular one, or cannot be read. All methods may raise this.
    """

    def __init__(self, path: Path) -> None:
        with reading(path):
            # Checked before it is opened: opening a pipe would wait for its writer.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise CheckpointError(f"{path} is not a regular file")
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.path = path
        self._opened = os.fstat(self._file.fileno())
        self.size = self._opened.st_size
        self._finalizer = weakref.finalize(self, self._file.close)

    def __enter__(self) -> RegularFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; reading is then a ValueError."""
        self._finalizer()

    def fileno(self) -> int:
        """The descriptor."""
        return self._file.fileno()

    def read_into(self, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill a buffer of bytes from ``offset`` on. Returns the number read: fewer at the file's end."""
        view, done = memoryview(buffer), 0
        if offset > _LAST:
            return 0
        with reading(self.path):
            while done < len(view) and (count := os.preadv(self.fileno(), [view[done:]], offset + done)):
                done += count
        return done

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on, fewer only at the file's end."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.read_into(buffer, offset)])

    def is_unchanged(self) -> bool:
        """Whether the file still has the size and modification time that it had when opened."""
        with reading(self.path):
            return _same(os.fstat(self.fileno()), self._opened)

    def is_still_named(self) -> bool:
        """Whether the path still leads to this file, unchanged."""
        try:
            return _same(os.stat(self.path), self._opened)
        except OSError:
            return False


def is_gguf(path: Path) -> bool:
    """Whether a path leads to a GGUF file, a complete model, which gguf_model.py reads."""
    with suppress(CheckpointError), RegularFile(path) as file:
        return file.read(len(GGUF_MAGIC), 0) == GGUF_MAGIC
    return False  # the reader reports why that fails


def is_torch_file(file: RegularFile) -> bool:
    """Whether the file starts like one that torch.save wrote; torch_file.py reads those."""
    start = file.read(40, 0)
    # A zip archive, or a stream, which starts with the pickle of the magic number.
    return start[:4] == b"PK\x03\x04" or (
        start[:1] == b"\x80" and TORCH_MAGIC.to_bytes(10, "little") in start
    )


def _same(a: os.stat_result, b: os.stat_result) -> bool:
    # Not ctime, which also changes when a name of the file is added or removed.
    return (a.st_dev, a.st_ino, a.st_size, a.st_mtime_ns) == (b.st_dev, b.st_ino, b.st_size, b.st_mtime_ns)


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, of at most ``MAX_JSON`` bytes; a BOM is allowed.

    Raises CheckpointError.
    """
    return parse_object(_json_bytes(path), str(path))


def read_array(path: Path) -> list[Any]:
    """Read a file that holds one JSON array, as `read_object` does.

    Raises CheckpointError.
    """
    values = parse_object(b'{"array":%s}' % _json_bytes(path), str(path))["array"]
    if not isinstance(values, list):
        raise CheckpointError(f"{path} must hold a JSON array")
    return values


def _json_bytes(path: Path) -> bytes:
    with RegularFile(path) as file:
        if file.size > MAX_JSON:
            raise CheckpointError(
                f"{path} has {file.size} bytes, too many for a model's JSON file (at most {MAX_JSON})"
            )
        data = file.read(file.size, 0)
    return data.removeprefix(codecs.BOM_UTF8)


def parse_object(data: bytes, where: str, *, integers_only: bool = False) -> dict[str, Any]:
    """Parse one JSON object, strictly: UTF-8 only, no duplicate keys, no NaN, no lone surrogates.

    Parameters
    ----------
    data : bytes
        The JSON text.
    where : str
        The source of the text; errors start with it.
    integers_only : bool
        Accept only integers from 0 to 2**63 - 1, written with digits only, as numbers.

    Raises
    ------
    CheckpointError
        The text is not one JSON object, or not a strict one.
    """
    numbers: dict[str, Any] = {"parse_constant": _refuse_number}
    if integers_only:
        numbers |= {"parse_float": _refuse_number, "parse_int": _natural_number}
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique_keys, **numbers)
        # Only an escape can make a lone surrogate, which UTF-8 cannot encode.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply for a model's JSON") from None
    except ValueError as error:  # UnicodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds {shown(value)}; needed: a JSON object")
    if len(value) > _MOST_KEYS:
        raise CheckpointError(f"{where} has {len(value)} keys; at most {_MOST_KEYS} are accepted")
    return value


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {shown(text)} is not allowed")


def _natural_number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        _refuse_number(text)
    return int(text)
