"""Records of .csv and .tsv files."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from typing import IO

from ..core.files import decoded
from .lines import MARK, byte_lines
from .records import FileOptions, Job, Place, Record, Scored, missing_field, refuse_collision

__all__ = ["read_csv", "separator", "write_csv"]


def read_csv(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each row after the header."""
    rows = _rows(job, separator(job, options))
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


def separator(job: Job, options: FileOptions) -> str:
    """What separates the fields of a file.

    In a .csv file it is the one of comma, semicolon and tab that makes the text field a column. More than one
    does so only where that is the only column, and none has anything to separate.
    """
    if options.delimiter is not None or job.format == ".tsv":
        return options.delimiter or "\t"
    headers = {}
    for candidate in ",;\t":
        try:
            headers[candidate] = next(_rows(job, candidate))[1]
        except ValueError:
            # Said of the comma, if none is better.
            headers[candidate] = []
        if options.text_field in headers[candidate]:
            return candidate
    # The error about the missing column is to show the others.
    return max(headers, key=lambda candidate: len(headers[candidate]))


def _rows(job: Job, delimiter: str) -> Iterator[tuple[Place, list[str], str]]:
    """Rows of a CSV file, the header too: place, fields, and the lines that they were."""
    csv.field_size_limit(sys.maxsize)
    # Those of the row that is being read.
    lines: list[tuple[Place, str]] = []

    def taken() -> Iterator[str]:
        for place, data in byte_lines(job):
            line = decoded(data, str(place), line_break=False)
            lines.append((place, line))
            # Excel marks UTF-8 with a byte order mark.
            yield line.removeprefix(MARK) if place.number == 1 else line

    empty = True
    reader = csv.reader(taken(), strict=True, delimiter=delimiter)
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


def write_csv(out: IO[bytes], job: Job, options: FileOptions, scored: Scored) -> None:
    """Append the scores to each row, which is copied as it is."""
    delimiter = separator(job, options)

    def write(original: str, values: Iterable[str]) -> None:
        body = original.rstrip("\r\n")
        out.write(f"{body}{delimiter}{delimiter.join(values)}{original[len(body) :] or chr(10)}".encode())

    _, _, header = next(_rows(job, delimiter))
    write(header, options.names.values())
    for record, row in scored:
        write(record.original, ("" if value is None else json.dumps(value) for value in row.values()))
