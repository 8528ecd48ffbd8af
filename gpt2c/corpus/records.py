"""What is read from a file of texts and written to its output: jobs, options, records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from ..core.checks import check_integer
from ..scoring.results import SUMMARY

__all__ = ["COLUMNS", "FileOptions", "Job", "Place", "Record", "Scored", "missing_field", "refuse_collision"]

COLUMNS = {**SUMMARY, "truncated": bool}
"""The scores of every record, with their types; their names in outputs begin with the prefix."""


@dataclass(frozen=True)
class FileOptions:
    """How records are scored.

    Attributes
    ----------
    text_field : str
        The field, or column, that holds the text; "a.b" is the field b of a, unless one is called so.
    lines : bool
        Whether each line of a .txt file is a text, rather than the file.
    max_tokens : int, optional
        Longer texts are cut to this many tokens.
    bos, special
        As for ``GPT2.score``.
    stride : int, optional
        As for ``GPT2.score``; None is half of the model's positions.
    delimiter : str, optional
        What separates the fields of .csv and .tsv files; None finds it.
    prefix : str
        What the names of the new fields begin with.
    shard : (int, int)
        (i, n) takes records i, i + n, i + 2 n, … of every file, counted from 1.
    """

    text_field: str = "text"
    lines: bool = False
    max_tokens: int | None = None
    bos: bool | int = True
    special: bool = False
    stride: int | None = None
    delimiter: str | None = None
    prefix: str = "gpt2c_"
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "stride"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        if not f"{self.prefix}x".isidentifier():
            raise ValueError(f"prefix must be made of letters, digits and _; got {self.prefix!r}")
        # The scores are appended as they are, so it cannot be a part of a number.
        if self.delimiter is not None and (
            len(self.delimiter) != 1 or self.delimiter.isalnum() or self.delimiter in "\"'+-._\r\n\0"
        ):
            raise ValueError(
                f"delimiter must be one character, such as ';' or a tab, and none of a number or name; got "
                f"{self.delimiter!r}"
            )

    @property
    def names(self) -> dict[str, str]:
        """The name in outputs of each of `COLUMNS`."""
        return {column: self.prefix + column for column in COLUMNS}


class Job(NamedTuple):
    """An input and its output."""

    source: str
    target: str
    format: str
    """A key of `gpt2c.corpus.formats.FORMATS`."""
    compression: str
    """One of `gpt2c.corpus.lines.COMPRESSIONS`."""


class Place(NamedTuple):
    """Where a record is in its file, for errors."""

    source: str
    unit: str
    """What is counted: "line", "row" or "record"."""
    number: int
    """From 1."""

    def __str__(self) -> str:
        colon = ":" if self.unit == "line" else f", {self.unit} "
        return f"{self.source}{colon}{self.number}"


class Record(NamedTuple):
    """A text, or None, and the original record that its scores are added to."""

    text: str | None
    original: Any


Scored = Iterator[tuple[Record, dict[str, Any]]]
"""Records, each with the scores that `COLUMNS` names."""


def refuse_collision(fields: Iterable[str], options: FileOptions, place: Place | str) -> None:
    """Raise ValueError if one of ``fields`` has the name of a new one."""
    for name in options.names.values():
        if name in fields:
            raise ValueError(
                f"{place}: there is a field {name!r} already: choose another --prefix for the new ones"
            )


def missing_field(place: Place | str, what: str, field: str, fields: Iterable[str]) -> ValueError:
    """The error for a text field that is not there, with the names of some that are."""
    known = ", ".join(map(repr, islice(fields, 20)))
    return ValueError(f"{place}: {what} {field!r}: choose with --text-field, such as {known}")
