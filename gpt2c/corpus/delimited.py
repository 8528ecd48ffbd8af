"""Records of .csv files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from typing import IO

from .lines import text_lines
from .records import FileOptions, Job, Record, Scored, missing_field, refuse_collision

__all__ = ["read_csv", "write_csv"]


def read_csv(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each row after the header."""
    rows = _rows(job)
    place, header, _ = next(rows)
    if header.count(options.text_field) != 1:
        what = "two columns are called" if options.text_field in header else "there is no column"
        raise missing_field(place, what, options.text_field, header)
    refuse_collision(header, options, place)
    column = header.index(options.text_field)
    for place, row, original in rows:
        if len(row) != len(header):
            raise ValueError(f"{place}: {len(row)} fields, but the header has {len(header)}")
        yield Record(row[column], original)


def _rows(job: Job) -> Iterator[tuple[str, list[str], str]]:
    """Rows of a CSV file, the header too: place, fields, and the lines that they were."""
    csv.field_size_limit(sys.maxsize)
    # Those of the row that is being read.
    lines: list[tuple[str, str]] = []

    def taken() -> Iterator[str]:
        # Excel marks UTF-8 with a byte order mark.
        before = "\ufeff"
        for placed in text_lines(job):
            lines.append(placed)
            yield placed[1].removeprefix(before)
            before = ""

    empty = True
    reader = csv.reader(taken(), strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{lines[0][0]}: not CSV: {error}") from None
        if row is None:
            break
        # An empty line is not a row.
        if row:
            empty = False
            yield lines[0][0], row, "".join(line for _, line in lines)
        lines.clear()
    if empty:
        raise ValueError(
            f"{job.source}: an empty file, or one of empty lines: a CSV file begins with the names of its "
            "columns"
        )


def write_csv(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    """Append the scores to each row, which is copied as it is."""

    def write(original: str, values: Iterable[str]) -> None:
        body = original.rstrip("\r\n")
        out.write(f"{body},{','.join(values)}{original[len(body) :] or chr(10)}".encode())

    _, _, header = next(_rows(job))
    write(header, names.values())
    for record, row in scored:
        write(record.original, ("" if value is None else json.dumps(value) for value in row.values()))
