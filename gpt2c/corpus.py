"""Scores for whole files: every record of a .jsonl, .csv, .parquet or .txt file goes out with its scores.

What is copied is not taken apart: to a line of JSON or CSV the scores are appended, and a Parquet table gets
columns. Only the records in work are in memory, however long a file is.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import math
import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from ._terminal import decoded, replacing
from ._tokenizer_base import check_text
from .errors import TokenizerError

if TYPE_CHECKING:
    from .model import GPT2
    from .scoring import Score

__all__ = ["COLUMNS", "Job", "Options", "Totals", "claim", "is_input", "plan", "score_file", "survey"]

COLUMNS = {
    "n_tokens": int,
    "n_bytes": int,
    "logprob": float,
    "perplexity": float,
    "bits_per_byte": float,
    "truncated": bool,
}
"""What is told of every record, and its type; names in outputs begin with the prefix."""

SETTINGS = (
    "_gpt2c.json"  # in the directory of outputs; readers of data sets pass over names that begin with _
)
BATCH = 128  # records of a Parquet file that are decoded at once
ROW_GROUP = 64 << 20  # bytes: row groups are those of the input, divided where they are larger than this


@dataclass(frozen=True)
class Options:
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

    @property
    def names(self) -> dict[str, str]:
        """Of each of `COLUMNS`, the name in outputs."""
        return {column: self.prefix + column for column in COLUMNS}


# ---- which files


class Job(NamedTuple):
    """An input and its output."""

    source: str
    target: str
    format: str  # ".txt", ".jsonl", ".csv" or ".parquet"
    compression: str  # "", ".gz" or ".zst"


def is_input(path: str) -> bool:
    """Whether a file of this name can be scored record by record."""
    return _kind(path) is not None


def _kind(path: str) -> tuple[str, str, str] | None:
    """The name without its endings, format and compression."""
    stem, compression = path, ""
    if path.endswith((".gz", ".zst")):
        stem, compression = os.path.splitext(path)
    stem, format = os.path.splitext(stem)
    if format in (".txt", ".jsonl", ".csv") or (format == ".parquet" and not compression):
        return os.path.basename(stem), format, compression
    return None


def plan(inputs: Sequence[str], directory: str, options: Options) -> list[Job]:
    """What will be made of ``inputs`` in ``directory``; raises ValueError or OSError where it cannot be."""
    shard, shards = options.shard
    jobs: dict[str, Job] = {}
    for source in inputs:
        if source == "-":
            raise ValueError("stdin has no name to call an output by: give files")
        if os.path.isdir(source):
            raise IsADirectoryError(
                f"{source} is a directory: give its files, such as {source.rstrip('/')}/*.jsonl"
            )
        if not os.path.exists(source):
            raise FileNotFoundError(
                f"there is no file {source}: several arguments, or any with -o DIR, are names of files; a "
                "text stands in quotes, without -o DIR"
            )
        if not os.path.isfile(source):
            raise ValueError(f"{source} is no regular file, and inputs are read twice: give a file")
        kind = _kind(source)
        if kind is None:
            raise ValueError(
                f"{source} is of no known kind: names end with .txt, .jsonl or .csv, alone or with .gz or "
                ".zst, or with .parquet"
            )
        stem, format, compression = kind
        part = f".{shard}-of-{shards}" if shards > 1 else ""
        name = f"{stem}{part}{'.jsonl' if format == '.txt' else format}{compression}"
        job = Job(source, os.path.join(directory, name), format, compression)
        if name in jobs:
            raise ValueError(
                f"{jobs[name].source} and {source} would both be written to {job.target}: score them into "
                "different directories"
            )
        jobs[name] = job
        _requirements(job)
    sources = {os.path.realpath(job.source): job.source for job in jobs.values()}
    for job in jobs.values():
        overwritten = sources.get(os.path.realpath(job.target))
        if overwritten is not None:
            raise ValueError(
                f"the output {job.target} would replace the input {overwritten}: give another directory"
            )
    return list(jobs.values())


def _requirements(job: Job) -> None:
    """Raises ImportError, with the command to run, if a library is missing that ``job`` needs."""
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


def claim(directory: str, model: GPT2, options: Options) -> None:
    """Note in ``directory`` how its scores are made; raise ValueError if others are there already.

    Outputs that exist are taken for finished, so all in a directory must be made alike.
    """
    mine = {
        "weights_sha256": model._source_sha256(),
        "numerics": model.numerics,
        **{name: getattr(options, name) for name in Options.__dataclass_fields__ if name != "shard"},
        "stride": _stride(model, options),
        "shards": options.shard[1],
    }
    path = os.path.join(directory, SETTINGS)
    with contextlib.suppress(FileNotFoundError):
        with open(path, "rb") as file:
            try:
                found = json.load(file)
            except ValueError:
                found = {}
        different = [name for name, value in mine.items() if name not in found or found[name] != value]
        if different and os.listdir(directory) != [SETTINGS]:
            told = "; ".join(f"{name} was {found.get(name)!r}, now {mine[name]!r}" for name in different)
            raise ValueError(
                f"{directory} holds scores made otherwise ({told}): choose another directory, or remove it"
            )
        if not different:
            return
    with replacing(path) as out:
        json.dump({"model": model.name, **mine}, out, ensure_ascii=False, indent=2)
        out.write("\n")


# ---- records in


class Record(NamedTuple):
    """One text, None where there is none, with what goes out beside its scores."""

    text: str | None
    original: Any


def _records(job: Job, options: Options, *, text_only: bool = False) -> Iterator[Record]:
    """The records of a file that belong to this shard; all of the file is read and checked.

    Raises
    ------
    ValueError
        Something in it is not as it should be; the message begins with the file's name and the line.
    """
    records = _FORMATS[job.format][0](job, options, text_only)
    shard, shards = options.shard
    return islice(records, shard - 1, None, shards)


def _txt_records(job: Job, options: Options, text_only: bool) -> Iterator[Record]:
    if options.lines:
        texts = (line.removesuffix("\n").removesuffix("\r") for _, line in _lines(job))
    else:
        texts = iter([decoded(b"".join(line for _, line in _raw_lines(job)), job.source)])
    for text in texts:
        yield Record(text, json.dumps({"text": text}, ensure_ascii=False))


def _jsonl_records(job: Job, options: Options, text_only: bool) -> Iterator[Record]:
    first: dict[str, Any] = {}
    found = False
    for place, line in _lines(job):
        line = line.strip(" \t\r\n")
        if not line:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: this is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{place}: each line must be a JSON object, {{...}}; this is a {type(record).__name__}"
            )
        _refuse_collision(record, options, place)
        first = first or record
        found = found or options.text_field in record
        yield Record(_text(record.get(options.text_field), options.text_field, place), line)
    if first and not found:
        raise _no_field(job.source, "no record has a field", options.text_field, first)


def _csv_records(job: Job, options: Options, text_only: bool) -> Iterator[Record]:
    rows = _csv_rows(job)
    place, header, _ = next(rows, (f"{job.source}:1", [], ""))
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
    lines: list[tuple[str, str]] = []

    def taken() -> Iterator[str]:
        for placed in _lines(job):
            lines.append(placed)
            yield placed[1].removeprefix("\ufeff") if not started else placed[1]

    started = False
    reader = csv.reader(taken(), strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{lines[0][0]}: this is not CSV: {error}") from None
        if row is None:
            return
        started = True
        if row:  # an empty line is none
            yield lines[0][0], row, "".join(line for _, line in lines)
        lines.clear()


def _parquet_records(job: Job, options: Options, text_only: bool) -> Iterator[Record]:
    import pyarrow as pa

    parquet = _parquet(job.source)
    field = options.text_field
    try:
        # Pages are read and decoded as they are needed.
        with parquet.ParquetFile(job.source, buffer_size=1 << 20, pre_buffer=False) as file:
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
                        place = f"{job.source}, row {number}"
                        try:
                            text = value.as_py()
                        except UnicodeDecodeError:
                            raise ValueError(f"{place}: {field!r} is not UTF-8 text") from None
                        yield Record(text, (group, batch_number, batch, row))
    except pa.ArrowException as error:
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


def _refuse_collision(fields: Iterable[str], options: Options, place: str) -> None:
    for name in options.names.values():
        if name in fields:
            raise ValueError(
                f"{place}: there is a field {name!r} already: choose another --prefix for the new ones"
            )


def _no_field(place: str, what: str, field: str, fields: Iterable[str]) -> ValueError:
    return ValueError(f"{place}: {what} {field!r}: choose one of {', '.join(fields)} with --text-field")


def survey(job: Job, options: Options) -> int:
    """Read and check a file, and return its size of text in bytes, as far as it will be scored."""
    return sum(_weight(record.text, options) for record in _records(job, options, text_only=True))


def _weight(text: str | None, options: Options) -> int:
    """Roughly how much of a text will be scored, in bytes; for the time that is left."""
    size = len((text or "").encode("utf-8"))
    return size if options.max_tokens is None else min(size, 4 * options.max_tokens)


# ---- scores out


@dataclass
class Totals:
    """What has been done."""

    records: int = 0
    unscored: int = 0
    truncated: int = 0
    tokens: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def add(self, other: Totals) -> None:
        """Add all counts and times of ``other``."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def score_file(
    model: GPT2, job: Job, options: Options, advance: Callable[[int, int], object] = lambda *_: None
) -> Totals:
    """Score the records of a file and write them with their scores; the output appears once it is complete.

    Parameters
    ----------
    model : GPT2
    job : Job
        From `plan`. Any output of that name is replaced.
    options : Options
    advance : callable, optional
        Told after every record how many bytes of text, as `survey` counts, and tokens it had.

    Raises
    ------
    ValueError, OSError
        As from `survey`, or the output cannot be written. There is no output then.
    """
    totals, begin = Totals(), perf_counter()

    def counted() -> Iterator[tuple[Record, dict[str, Any]]]:
        for record, row in _scored(model, _records(job, options), options):
            yield record, row
            totals.records += 1
            totals.unscored += row["logprob"] is None
            totals.truncated += row["truncated"]
            totals.tokens += row["n_tokens"]
            totals.bytes += row["n_bytes"] or 0
            advance(_weight(record.text, options), row["n_tokens"])

    with replacing(job.target, binary=True, take_over=True) as out:
        with _packed(out, job) as packed:
            _FORMATS[job.format][1](packed, job, options.names, counted())
        out.flush()
        os.fsync(out.fileno())  # a name that is there after a crash stands for all of the contents
    totals.seconds = perf_counter() - begin
    return totals


def _scored(
    model: GPT2, records: Iterable[Record], options: Options
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Every record with what is told of it, in order."""
    waiting: deque[tuple[Record, bool | None]] = deque()  # truncated; None: nothing to score

    def texts() -> Iterator[Any]:
        for record in records:
            ids = model._ids(record.text or "", "the text")
            truncated = options.max_tokens is not None and len(ids) > options.max_tokens
            ids = ids[: options.max_tokens]
            if len(ids) <= (not options.bos):
                waiting.append((record, None))
                continue
            waiting.append((record, truncated))
            yield ids if truncated else record.text

    def unscored() -> Iterator[tuple[Record, dict[str, Any]]]:
        while waiting and waiting[0][1] is None:
            yield waiting.popleft()[0], _row(None, False)

    for score in model.score(texts(), bos=options.bos, stride=_stride(model, options)):
        yield from unscored()
        record, truncated = waiting.popleft()
        yield record, _row(score, bool(truncated))
    yield from unscored()


def _stride(model: GPT2, options: Options) -> int:
    return options.stride or max(1, model.config.n_ctx // 2)


def _row(score: Score | None, truncated: bool) -> dict[str, Any]:
    """What is told of a text, by `COLUMNS`; numbers that are not finite are None, for JSON has none."""
    if score is None:
        return {**dict.fromkeys(COLUMNS), "n_tokens": 0, "n_bytes": 0, "truncated": truncated}
    row = {"n_tokens": len(score), "truncated": truncated}
    for name in COLUMNS:
        if name not in row:
            value = getattr(score, name)
            row[name] = None if value is None or not math.isfinite(value) else value
    return {name: row[name] for name in COLUMNS}


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


Scored = Iterator[tuple[Record, dict[str, Any]]]


def _write_jsonl(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    for record, row in scored:
        added = json.dumps({names[column]: value for column, value in row.items()}, ensure_ascii=False)
        out.write(f"{record.original[:-1]}, {added[1:]}\n".encode())


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

    parquet = _parquet(job.source)
    with parquet.ParquetFile(job.source) as file:
        schema, metadata = file.schema_arrow, file.metadata
    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    fields = [pa.field(names[column], types[kind]) for column, kind in COLUMNS.items()]
    for field in fields:
        schema = schema.append(field)
    compression = "SNAPPY"
    if metadata.num_row_groups and metadata.num_columns:
        compression = metadata.row_group(0).column(0).compression.replace("UNCOMPRESSED", "NONE")
    tables: list[Any] = []

    with parquet.ParquetWriter(out, schema, compression=compression) as writer:

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
            table = pa.Table.from_batches([batch]).take([record.original[3] for record, _ in pairs])
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
