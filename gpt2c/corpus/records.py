"""Types for reading texts from files and writing outputs: jobs, options, records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from .tasks import SCORES, Row

__all__ = [
    "ON_ERROR",
    "Done",
    "Fault",
    "FileOptions",
    "Job",
    "Place",
    "Record",
    "missing_field",
    "not_utf8",
    "refuse_collision",
    "spelled",
]

ON_ERROR = ("stop", "null", "skip")
"""The values of `FileOptions.on_error`."""


@dataclass(frozen=True)
class FileOptions:
    """How records are read, and written with their results.

    Attributes
    ----------
    text_field : str
        The field, or column, that holds the text; "a.b" is the field b of a, unless a field has that name.
    lines : bool
        Whether each line of a .txt file is a text, rather than the file.
    on_error : str
        The effect of a bad record: "stop" the work; "null" keeps it without a text (and leaves it out if it
        cannot be copied); "skip" leaves it out. The last two list it in a file.
    delimiter : str, optional
        The delimiter of .csv and .tsv files; None detects it.
    prefix : str
        The prefix of the names of the new fields.
    shard : (int, int)
        (i, n) takes records i, i + n, i + 2 n, … of every file, counted from 1.
    columns : mapping of str to type
        The new fields, as in `gpt2c.corpus.tasks.Task`.
    """

    text_field: str = "text"
    lines: bool = False
    on_error: str = "stop"
    delimiter: str | None = None
    prefix: str = "gpt2c_"
    shard: tuple[int, int] = (1, 1)
    columns: Mapping[str, type] = field(default_factory=lambda: SCORES)

    def __post_init__(self) -> None:
        if not f"{self.prefix}x".isidentifier():
            raise ValueError(f"prefix must be made of letters, digits and _, not {self.prefix!r}")
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error must be one of {', '.join(ON_ERROR)}, not {self.on_error!r}")
        # Scores are appended without quotes, so it cannot be part of a number.
        if self.delimiter is not None and (
            len(self.delimiter) != 1 or self.delimiter.isalnum() or self.delimiter in "\"'+-._\r\n\0"
        ):
            raise ValueError(
                f"delimiter must be one character, such as ';' or a tab, and none of a number or name, not "
                f"{self.delimiter!r}"
            )

    @property
    def names(self) -> dict[str, str]:
        """The name in outputs of each of the `columns`."""
        return {column: self.prefix + column for column in self.columns}


class Job(NamedTuple):
    """An input and its output."""

    source: str
    target: str
    format: str
    """A key of `gpt2c.corpus.formats.FORMATS`."""
    compression: str
    """One of `gpt2c.corpus.lines.COMPRESSIONS`."""

    @property
    def errors(self) -> str:
        """The file of bad records."""
        return f"{self.target}.errors.jsonl"


class Place(NamedTuple):
    """The place of a record in its file, for errors."""

    source: str
    unit: str
    """The unit counted: "line", "row" or "record"."""
    number: int
    """From 1."""

    def __str__(self) -> str:
        colon = ":" if self.unit == "line" else f", {self.unit} "
        return f"{self.source}{colon}{self.number}"


class Fault(ValueError):
    """A fault of one record that does not affect the others of its file."""

    def __init__(self, place: Place, reason: str, field: str | None = None) -> None:
        super().__init__(f"{place}: {'' if field is None else f'{field!r} '}{reason}")
        self.place, self.reason, self.field = place, reason, field


class Record(NamedTuple):
    """A text, or None, and the original record that new fields are added to."""

    place: Place
    text: str | None
    original: Any
    """None if a fault prevents copying it."""
    fault: Fault | None = None


Done = Iterator[tuple[Record, list[Row]]]
"""Records, each with its results: the rows to write."""


def not_utf8(error: UnicodeDecodeError) -> str:
    """The reason of a fault."""
    return f"not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}"


def spelled(text: str, size: int = 60) -> str:
    """The start of a file's content, unchanged except for control characters."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:size])
    return shown + "…" * (len(text) > size)


def refuse_collision(fields: Iterable[str], options: FileOptions, place: Place | str) -> None:
    """Raise ValueError if one of ``fields`` has the name of a new one."""
    for name in options.names.values():
        if name in fields:
            raise ValueError(
                f"{place}: there is a field {name!r} already: choose another --prefix for the new ones"
            )


def missing_field(place: Place | str, what: str, field: str, fields: Iterable[str]) -> ValueError:
    """The error for a missing text field, with the names of some existing ones."""
    known = ", ".join(map(repr, islice(fields, 20)))
    return ValueError(f"{place}: {what} {field!r}: choose with --text-field, such as {known}")
