"""Records of .csv and .tsv files."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from ..errors import counted
from .lines import MARK, byte_lines, text_of
from .records import Done, Fault, FileOptions, Job, Place, Record, missing_field, refuse_collision, spelled

__all__ = ["read_csv", "separator", "write_csv"]


def read_csv(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each row after the header."""
    rows = _rows(job, separator(job, options))
    place, header, _ = _header(rows)
    if header.count(options.text_field) != 1:
        what = "two columns are called" if options.text_field in header else "no column is called"
        error = missing_field(place, what, options.text_field, dict.fromkeys(header))
        hint = "; if another character separates the fields, name it with --delimiter"
        raise ValueError(f"{error}{hint}") if len(header) == 1 else error
    refuse_collision(header, options, place)
    column = header.index(options.text_field)
    for place, row, original in rows:
        if isinstance(row, Fault):
            yield Record(place, None, None, row)
        elif len(row) != len(header):
            found = f"{counted(len(row), 'field')}, but the header has {len(header)}"
            reason = f"{found}: {spelled(original.rstrip())}"
            yield Record(place, None, None, Fault(place, reason))
        else:
            # CSV has no null: an empty field is a missing text.
            yield Record(place, row[column] or None, original)


def separator(job: Job, options: FileOptions) -> str:
    """The delimiter of a file.

    In a .csv file it is whichever of comma, semicolon and tab makes the text field a column. More than
    one does only if that is the only column, and then nothing is separated.
    """
    if options.delimiter is not None or job.format == ".tsv":
        return options.delimiter or "\t"
    headers = {}
    for candidate in ",;\t":
        try:
            headers[candidate] = _header(_rows(job, candidate))[1]
        except ValueError:
            # Report the comma, if none is better.
            headers[candidate] = []
        if options.text_field in headers[candidate]:
            return candidate
    # The error about the missing column lists the others.
    return max(headers, key=lambda candidate: len(headers[candidate]))


Row = tuple[Place, list[str] | Fault, str]
"""Its place, its fields or the fault, and its lines."""


def _header(rows: Iterator[Row]) -> tuple[Place, list[str], str]:
    """The first row, which the others need."""
    place, header, original = next(rows)
    if isinstance(header, Fault):
        raise ValueError(str(header))
    return place, header, original


def _rows(job: Job, delimiter: str) -> Iterator[Row]:
    """Rows of a CSV file, including the header."""
    csv.field_size_limit(sys.maxsize)
    source = byte_lines(job)
    # The lines of the current row, and those to read again.
    lines: list[tuple[Place, bytes]] = []
    again: list[tuple[Place, bytes]] = []

    def taken() -> Iterator[str]:
        while line := again.pop() if again else next(source, None):
            lines.append(line)
            text = line[1].decode("utf-8", "surrogateescape")
            # Excel marks UTF-8 with a byte order mark.
            yield text.removeprefix(MARK) if line[0].number == 1 else text

    empty = True
    reader = csv.reader(taken(), strict=True, delimiter=delimiter)
    while True:
        row: list[str] | Fault | None
        original = ""
        try:
            row = next(reader, None)
            original = "".join(text_of(data, place) for place, data in lines)
        except Fault as fault:
            row = fault
        except csv.Error as error:
            place, data = lines[0]
            begin = spelled(data.decode("utf-8", "replace").rstrip())
            row = Fault(place, f"not CSV: {error}, in a row that begins with {begin}")
            # An unclosed quote has swallowed the rows after it.
            again += reversed(lines[1:])
            reader = csv.reader(taken(), strict=True, delimiter=delimiter)
        if row is None:
            break
        # An empty line is not a row.
        if row:
            empty = False
            yield lines[0][0], row, original
        lines.clear()
    if empty:
        raise ValueError(
            f"{job.source}: an empty file, or one of empty lines: a CSV file starts with the names of its "
            "columns"
        )


def write_csv(out: IO[bytes], job: Job, options: FileOptions, done: Done) -> None:
    """Append the new fields to each row, which is copied unchanged."""
    delimiter = separator(job, options)

    def write(original: str, values: Iterable[str]) -> None:
        body = original.rstrip("\r\n")
        out.write(f"{body}{delimiter}{delimiter.join(values)}{original[len(body) :] or chr(10)}".encode())

    _, _, header = _header(_rows(job, delimiter))
    # Excel's byte order mark, which the fields lack.
    if next(byte_lines(job))[1].startswith(MARK.encode()):
        out.write(MARK.encode())
    write(header, options.names.values())
    for record, rows in done:
        for row in rows:
            write(record.original, (_field(value, delimiter) for value in row.values()))


def _field(value: Any, delimiter: str) -> str:
    """A value as a field of CSV: texts are quoted if necessary, null is empty, everything else is JSON."""
    value = json.dumps(value) if isinstance(value, list) else value
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value)
    line = io.StringIO()
    # With another line terminator, Python before 3.13 does not quote line breaks in a field.
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow([value])
    return line.getvalue().removesuffix("\r\n")
