"""The formats of files of texts, each with the functions that read and write it.

Originals are copied without parsing them fully: new fields are appended to a JSON object or a CSV row, and a
Parquet table gets columns. Only the current records are in memory, however long a file is; a .txt file that
is one text is one record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from .delimited import read_csv, separator, write_csv
from .jsonl import read_json, read_jsonl, read_txt, write_json, write_jsonl
from .lines import compressed, load_library
from .parquet import load_parquet, read_parquet, write_parquet
from .records import Done, Fault, FileOptions, Job, Record

__all__ = ["FORMATS", "read", "remark", "require", "write"]


class Format(NamedTuple):
    """How the records of a file are read, and written with new fields."""

    read: Callable[[Job, FileOptions, bool], Iterator[Record]]
    write: Callable[[IO[bytes], Job, FileOptions, Done], None]


FORMATS = {
    ".txt": Format(read_txt, write_jsonl),
    ".jsonl": Format(read_jsonl, write_jsonl),
    ".ndjson": Format(read_jsonl, write_jsonl),
    ".json": Format(read_json, write_json),
    ".tsv": Format(read_csv, write_csv),
    ".csv": Format(read_csv, write_csv),
    ".parquet": Format(read_parquet, write_parquet),
}


def read(
    job: Job,
    options: FileOptions,
    *,
    text_only: bool = False,
    check: Callable[[str], object] = lambda _: None,
    report: Callable[[Record], object] = lambda _: None,
) -> Iterator[Record]:
    """The records of a file that belong to this shard; the whole file is read and checked.

    Bad ones, including those whose text fails the ``check``, are reported, unless they stop the work, and
    kept without a text, or left out without an original to copy.

    Raises
    ------
    ValueError
        The file is malformed, or none of several records can be read: it is of another format. The message
        starts with the file's name and the line.
    """
    shard, shards = options.shard
    number, any_read, first = -1, False, None
    for number, record in enumerate(FORMATS[job.format].read(job, options, text_only)):
        any_read |= record.fault is None or record.fault.field is not None
        first = first or record.fault
        own = number % shards == shard - 1
        if own and record.text is not None:
            try:
                check(record.text)
            except ValueError as error:
                record = record._replace(text=None, fault=Fault(record.place, str(error)))
        if record.fault is not None and options.on_error == "stop":
            raise record.fault
        if not own:
            continue
        if record.fault is not None:
            if options.on_error == "skip":
                record = record._replace(original=None)
            report(record)
        if record.original is not None:
            yield record
    if number > 0 and not any_read:
        raise ValueError(f"{job.source}: none of the {number + 1:,} records can be read; {first}")


def write(out: IO[bytes], job: Job, options: FileOptions, done: Done) -> None:
    """Write records with their results, in the format and compression of the input."""
    with compressed(out, job) as packed:
        FORMATS[job.format].write(packed, job, options, done)


def remark(job: Job, options: FileOptions) -> str | None:
    """A note on a checked file that may surprise the user."""
    if job.format != ".csv" or options.delimiter is not None:
        return None
    found = separator(job, options)
    return None if found == "," else f"{job.source}: the fields are separated by {found!r}, not by ','"


def require(job: Job) -> None:
    """Raise ImportError, with the command to run, if a library is missing that ``job`` needs."""
    if job.format == ".parquet":
        load_parquet(job.source)
    load_library(job)
