"""Files of texts, record by record: .txt, .jsonl and .csv, also compressed, and Parquet.

A format is a function that reads records and one that writes them with their scores. What is copied is not
taken apart: to a line of JSON or CSV the scores are appended, and a Parquet table gets columns. Only the
records in work are in memory, however long a file is; a .txt file that is one text is one record.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import IO, Any, NamedTuple

from ..core.checks import check_integer
from ..core.files import decoded
from ..errors import TokenizerError
from ..scoring.results import SUMMARY
from ..tokenizer.base import check_text

__all__ = ["COLUMNS", "FileOptions", "Job", "Record", "Scored", "read", "require", "write"]

COLUMNS = {**SUMMARY, "truncated": bool}
"""What is told of every record, and its type; names in outputs begin with the prefix."""

BATCH = 128  # records of a Parquet file that are decoded at once
ROW_GROUP = 64 << 20  # bytes: row groups are those of the input, divided where they are larger than this


@dataclass(frozen=True)
class FileOptions:
    """How records are scored.

    Attributes
    ----------
    text_field : str
        The field, or column, that holds the text.
    lines : bool
        Whether each line of a .txt file is a text, rather than the file.
    max_tokens : int, optional
        Longer texts are cut to their first tokens, so many.
    bos : bool
        As for ``GPT2.score``.
    stride : int, optional
        As for ``GPT2.score``; None is half of the model's positions.
    prefix : str
        What the names of the new fields begin with.
    shard : (int, int)
        (i, n) takes records i, i + n, i + 2 n, … of every file, counted from 1.
    """

    text_field: str = "text"
    lines: bool = False
    max_tokens: int | None = None
    bos: bool = True
    stride: int | None = None
    prefix: str = "gpt2c_"
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "stride"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        if not f"{self.prefix}x".isidentifier():
            raise ValueError(f"prefix must be made of letters, digits and _; got {self.prefix!r}")

    @property
    def names(self) -> dict[str, str]:
        """Of each of `COLUMNS`, the name in outputs."""
        return {column: self.prefix + column for column in COLUMNS}


class Job(NamedTuple):
    """An input and its output."""

    source: str
    target: str
    format: str  # ".txt", ".jsonl", ".csv" or ".parquet"
    compression: str  # "", ".gz" or ".zst"


def require(job: Job) -> None:
    """Raise ImportError, with the command to run, if a library is missing that ``job`` needs."""
    if job.format == ".parquet":
        _parquet(job.source)
    if job.compression == ".zst":
        _zstd(job.source)


def _parquet(name: str) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f'{name}: Parquet files need pyarrow: pip install "gpt2c[parquet]"') from None
    return parquet


def _zstd(name: str) -> Any:
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


# ---- reading


class Record(NamedTuple):
    """One text, None where there is none, with what goes out beside its scores."""

    text: str | None
    original: Any


Scored = Iterator[tuple[Record, dict[str, Any]]]
"""Records, each with what is told of it by `COLUMNS`."""


def read(job: Job, options: FileOptions, *, text_only: bool = False) -> Iterator[Record]:
    """The records of a file that belong to this shard; all of the file is read and checked.

    Raises
    ------
    ValueError
        Something in it is not as it should be; the message begins with the file's name and the line.
    """
    records = _FORMATS[job.format][0](job, options, text_only)
    shard, shards = options.shard
    return islice(records, shard - 1, None, shards)


def _txt_records(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    if options.lines:
        texts = (line.removesuffix("\n").removesuffix("\r") for _, line in _lines(job))
    else:
        texts = iter([decoded(b"".join(line for _, line in _raw_lines(job)), job.source)])
    for text in texts:
        yield Record(text, json.dumps({"text": text}, ensure_ascii=False))


def _jsonl_records(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    first: dict[str, Any] = {}
    found = False
    for place, line in _lines(job):
        line = line.rstrip(" \t\r\n")
        if not line:
            continue
        try:
            record = json.loads(
                line, parse_int=float
            )  # int refuses thousands of digits; numbers are not used
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not JSON: {error.msg}, at character {error.pos}") from None
        except RecursionError:
            raise ValueError(f"{place}: JSON too deep to be read") from None
        if not isinstance(record, dict):
            raise ValueError(f"{place}: each line must be a JSON object, {{...}}; it begins with {line:.20}")
        _refuse_collision(record, options, place)
        first = first or record
        found = found or options.text_field in record
        yield Record(_text(record.get(options.text_field), options.text_field, place), line)
    if first and not found:
        raise _no_field(job.source, "no record has a field", options.text_field, first)


def _csv_records(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    rows = _csv_rows(job)
    place, header, _ = next(rows)
    if header.count(options.text_field) != 1:
        what = "two columns are called" if options.text_field in header else "there is no column"
        raise _no_field(place, what, options.text_field, header)
    _refuse_collision(header, options, place)
    column = header.index(options.text_field)
    for place, row, original in rows:
        if len(row) != len(header):
            raise ValueError(f"{place}: {len(row)} fields, but the header has {len(header)}")
        yield Record(row[column], original)


def _csv_rows(job: Job) -> Iterator[tuple[str, list[str], str]]:
    """Rows of a CSV file, the header too: place, fields, and the lines that they were."""
    csv.field_size_limit(sys.maxsize)
    lines: list[tuple[str, str]] = []  # of the row that is being read

    def taken() -> Iterator[str]:
        before = "\ufeff"  # Excel's mark of UTF-8
        for placed in _lines(job):
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
        if row:  # an empty line is none
            empty = False
            yield lines[0][0], row, "".join(line for _, line in lines)
        lines.clear()
    if empty:
        raise ValueError(
            f"{job.source}: an empty file, or one of empty lines: a CSV file begins with the names of its "
            "columns"
        )


def _parquet_records(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    import pyarrow as pa

    field = options.text_field
    with _parquet_file(job) as file:
        schema = file.schema_arrow
        if schema.names.count(field) != 1:
            what = "two columns are called" if field in schema.names else "there is no column"
            raise _no_field(job.source, what, field, schema.names)
        _refuse_collision(schema.names, options, job.source)
        kind = schema.field(field).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if kind not in (pa.string(), pa.large_string(), pa.string_view()):
            raise ValueError(f"{job.source}: the column {field!r} holds {kind}, and texts are needed")
        number = 0
        columns = [field] if text_only else None
        for group in range(file.num_row_groups):
            batches = file.iter_batches(BATCH, row_groups=[group], columns=columns)
            for batch_number, batch in enumerate(batches):
                for row, value in enumerate(batch.column(field)):
                    number += 1
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError:
                        raise ValueError(f"{job.source}, row {number}: {field!r} is not UTF-8 text") from None
                    yield Record(text, (group, batch_number, batch, row))


@contextlib.contextmanager
def _parquet_file(job: Job) -> Iterator[Any]:
    import pyarrow as pa

    try:
        # Pages are read and decoded as they are needed.
        with _parquet(job.source).ParquetFile(job.source, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"{job.source}: pyarrow cannot read this kind of Parquet file: {error}") from None
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:  # not the file's fault
            raise
        raise ValueError(f"{job.source}: not a whole Parquet file: {error}") from None


def _raw_lines(job: Job) -> Iterator[tuple[str, bytes]]:
    """The lines of a file, unpacked, each with its place for errors."""
    damages: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    open_file: Callable[..., Any] = gzip.open if job.compression == ".gz" else open
    if job.compression == ".zst":
        zstd = _zstd(job.source)
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


def _lines(job: Job) -> Iterator[tuple[str, str]]:
    for place, line in _raw_lines(job):
        yield place, decoded(line, place, line_break=False)


def _text(value: Any, field: str, place: str) -> str | None:
    """``value`` if it can be scored; None, which is no text, included."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{place}: {field!r} must be a text or null; it is {value!r:.60}")
    try:
        check_text(value)
    except TokenizerError:
        raise ValueError(
            f"{place}: {field!r} has half a surrogate pair (\\ud800 to \\udfff): no Unicode"
        ) from None
    return value


def _refuse_collision(fields: Iterable[str], options: FileOptions, place: str) -> None:
    for name in options.names.values():
        if name in fields:
            raise ValueError(
                f"{place}: there is a field {name!r} already: choose another --prefix for the new ones"
            )


def _no_field(place: str, what: str, field: str, fields: Iterable[str]) -> ValueError:
    known = ", ".join(map(repr, islice(fields, 20)))
    return ValueError(f"{place}: {what} {field!r}: choose with --text-field, such as {known}")


# ---- writing


def write(out: IO[bytes], job: Job, options: FileOptions, scored: Scored) -> None:
    """Write records with their scores, in the format and compression of the input."""
    with _packed(out, job) as packed:
        _FORMATS[job.format][1](packed, job, options.names, scored)


@contextlib.contextmanager
def _packed(out: IO[bytes], job: Job) -> Iterator[Any]:
    """``out``, or what compresses into it; the same bytes every time."""
    if job.compression == ".gz":
        with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
            yield packed
    elif job.compression == ".zst":
        with _zstd(job.source).ZstdFile(out, "wb") as packed:
            packed.write(b"")  # without any write there would be no frame, and no reader takes that
            yield packed
    else:
        yield out


def _write_jsonl(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    for record, row in scored:
        added = json.dumps({names[column]: value for column, value in row.items()}, ensure_ascii=False)
        fields = record.original[:-1]
        comma = "" if fields.strip(" \t") == "{" else ", "
        out.write(f"{fields}{comma}{added[1:]}\n".encode())


def _write_csv(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    def write(original: str, values: Iterable[str]) -> None:
        body = original.rstrip("\r\n")
        out.write(f"{body},{','.join(values)}{original[len(body) :] or chr(10)}".encode())

    _, _, header = next(_csv_rows(job))
    write(header, names.values())
    for record, row in scored:
        write(record.original, ("" if value is None else json.dumps(value) for value in row.values()))


def _write_parquet(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    import pyarrow as pa

    with _parquet_file(job) as file:
        schema, metadata = file.schema_arrow, file.metadata
    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    fields = [pa.field(names[column], types[kind]) for column, kind in COLUMNS.items()]
    for field in fields:
        schema = schema.append(field)
    compression = "SNAPPY"
    if metadata.num_row_groups and metadata.num_columns:
        compression = metadata.row_group(0).column(0).compression.replace("UNCOMPRESSED", "NONE")
    tables: list[Any] = []

    with _parquet(job.source).ParquetWriter(out, schema, compression=compression) as writer:

        def flush() -> None:
            if tables:
                table = pa.concat_tables(tables)
                writer.write_table(table, row_group_size=len(table))
                tables.clear()

        last = 0
        for (group, _), several in groupby(scored, lambda pair: pair[0].original[:2]):
            pairs = list(several)
            if group != last or sum(table.nbytes for table in tables) >= ROW_GROUP:
                flush()
            last = group
            batch = pairs[0][0].original[2]
            table = pa.Table.from_batches([batch])
            if len(pairs) < len(batch):  # others belong to other shards
                table = pa.concat_tables([table.slice(record.original[3], 1) for record, _ in pairs])
            for field, column in zip(fields, COLUMNS, strict=True):
                table = table.append_column(field, pa.array([row[column] for _, row in pairs], field.type))
            tables.append(table)
        flush()


_FORMATS: dict[str, tuple[Callable[..., Iterator[Record]], Callable[..., None]]] = {
    ".txt": (_txt_records, _write_jsonl),
    ".jsonl": (_jsonl_records, _write_jsonl),
    ".csv": (_csv_records, _write_csv),
    ".parquet": (_parquet_records, _write_parquet),
}
