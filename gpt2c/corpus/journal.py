"""A journal of results for an unfinished output: a resumed run need not compute them again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from types import MappingProxyType, TracebackType
from typing import Any

from ..core.files import naming
from .records import Done, Job, Record
from .tasks import Row

__all__ = ["Journal"]


class Journal:
    """A context manager around the writing of an output, with exclusive access to the journal.

    The first line is the hash of the settings: a journal with others is useless. Each further line is the
    hash of a record's text and its results, which depend on nothing else, so that a changed input does no
    harm. A line that was not finished because the process was killed does not count. Numbers keep all their
    bits.

    Parameters
    ----------
    job : Job
    columns : iterable of str
        The columns of the rows.
    settings : mapping
        Everything besides the texts that the rows depend on.
    """

    def __init__(
        self, job: Job, columns: Iterable[str] = (), settings: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._columns = [*columns]
        self._head = f'"{blake2b(json.dumps(dict(settings)).encode()).hexdigest()}"\n'.encode()
        directory, name = os.path.split(job.target)
        # Readers of data sets skip names that start with _.
        self.path = os.path.join(directory, f"_{name}.journal")

    def __enter__(self) -> Journal:
        try:
            self._opened = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(
                    f"{self.path} is a link, and gpt2c never writes through links: remove it"
                ) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        empty = os.fstat(self._opened).st_size <= len(self._head)
        os.close(self._opened)
        if empty:
            self.remove()

    def remove(self) -> None:
        """Remove it, once the output exists; it need not exist itself."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def done(
        self,
        records: Iterable[Record],
        rows: Callable[[Iterable[tuple[Record, Any]]], Done],
    ) -> Iterator[tuple[Record, list[Row], bool]]:
        """Records with their results, and whether these are new or were already in the journal."""
        records = iter(records)
        rest: Iterable[Record] = records
        size = len(self._head)
        for line, digest, known in self._lines():
            record = next(records, None)
            if record is None:
                break
            if _digest(record) != digest:
                rest = chain([record], records)
                break
            size += len(line)
            yield record, known, False
        with naming(self.path):
            if size == len(self._head):
                os.lseek(self._opened, 0, os.SEEK_SET)
                _write(self._opened, self._head)
            os.ftruncate(self._opened, size)
        os.lseek(self._opened, size, os.SEEK_SET)
        for record, found in rows((record, record.text) for record in rest):
            told = json.dumps([_digest(record), *([row[name] for name in self._columns] for row in found)])
            with naming(self.path):
                _write(self._opened, f"{told}\n".encode())
            yield record, found, True

    def _lines(self) -> Iterator[tuple[bytes, str, list[Row]]]:
        """Each complete line, with its hash and rows."""
        with open(self._opened, "rb", closefd=False) as file:
            if file.readline() != self._head:
                return
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    digest, *rows = json.loads(line)
                    known = [dict(zip(self._columns, row, strict=True)) for row in rows]
                except (TypeError, ValueError, RecursionError):
                    return
                yield line, digest, known


def _digest(record: Record) -> str:
    """The hash of a text; null has its own hash."""
    text = b"" if record.text is None else b"\0" + record.text.encode()
    return blake2b(text, digest_size=8).hexdigest()


def _write(opened: int, data: bytes) -> None:
    while data:
        data = data[os.write(opened, data) :]
