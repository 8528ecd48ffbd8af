"""Records of .parquet files."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any

from ..errors import counted
from .records import (
    Done,
    Fault,
    FileOptions,
    Job,
    Place,
    Record,
    missing_field,
    not_utf8,
    refuse_collision,
)

__all__ = ["arrow_types", "load_parquet", "read_parquet", "write_parquet"]

# Records to decode at once.
BATCH = 128
# Bytes: row groups are those of the input, split if larger.
ROW_GROUP = 64 << 20
# Bytes: a file whose columns need not be read in pieces.
SMALL = 16 << 20
# Columns or row groups, and bytes of a text: pyarrow makes room for what a damaged footer announces.
FOOTER = {"thrift_container_size_limit": 100_000, "thrift_string_size_limit": 16 << 20}


def read_parquet(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each row; its original is its row group, batch number, batch, and row in the batch."""
    import pyarrow.compute as pc

    with _open(job) as file:
        path = _path(job, file.schema_arrow, options)
        number = 0
        columns = [options.text_field] if text_only else None
        for group in range(file.num_row_groups):
            batches = file.iter_batches(BATCH, row_groups=[group], columns=columns)
            for batch_number, batch in enumerate(batches):
                texts = batch.column(path[0])
                for row, value in enumerate(pc.struct_field(texts, path[1:]) if path[1:] else texts):
                    number += 1
                    place = Place(job.source, "row", number)
                    text, fault = None, None
                    try:
                        text = value.as_py()
                        text = text.decode() if isinstance(text, bytes) else text
                    except UnicodeDecodeError as error:
                        text, fault = None, Fault(place, f"is {not_utf8(error)}", options.text_field)
                    yield Record(place, text, (group, batch_number, batch, row), fault)
        if number != file.metadata.num_rows:
            raise ValueError(
                f"{job.source}: not a complete Parquet file: it has {counted(number, 'row')}, but its footer "
                f"announces {file.metadata.num_rows}"
            )


def _path(job: Job, schema: Any, options: FileOptions) -> list[str]:
    """The column of the texts, and the fields within it."""
    import pyarrow as pa

    field = options.text_field
    refuse_collision(schema.names, options, job.source)
    # As in JSON, a column with the whole name takes precedence.
    path = [field] if field in schema.names else field.split(".")
    fields = pa.struct(list(schema))
    for name in path:
        names = [inner.name for inner in fields] if pa.types.is_struct(fields) else []
        if names.count(name) != 1:
            what = "two columns are called" if name in names else "no column is called"
            raise missing_field(job.source, what, field, schema.names)
        fields = fields.field(name).type
    kind = fields.value_type if pa.types.is_dictionary(fields) else fields
    texts = (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
    )
    if kind not in texts:
        raise ValueError(f"{job.source}: the column {field!r} holds {kind}; needed: texts")
    return path


@contextlib.contextmanager
def _open(job: Job) -> Iterator[Any]:
    """A file, with the errors of pyarrow as ValueErrors that name it."""
    import pyarrow as pa

    try:
        # Pages are read and decoded as needed. But a buffer becomes as large as a damaged page says it is, so
        # small files are read without one, column by column.
        buffer = 1 << 20 if os.path.getsize(job.source) > SMALL else 0
        reading = {"buffer_size": buffer, "pre_buffer": False, **FOOTER}
        with load_parquet(job.source).ParquetFile(job.source, **reading) as file:
            yield file
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"{job.source}: pyarrow cannot read this kind of Parquet file: {error}") from None
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        # An error of the system, not of the file.
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{job.source}: not a complete Parquet file: {error}") from None


def write_parquet(out: IO[bytes], job: Job, options: FileOptions, done: Done) -> None:
    """Copy the table with new columns, batch by batch."""
    import pyarrow as pa

    with _open(job) as file:
        schema, metadata = file.schema_arrow, file.metadata
    types = arrow_types()
    fields = [pa.field(options.names[column], types[kind]) for column, kind in options.columns.items()]
    for field in fields:
        schema = schema.append(field)
    compression = _codecs(job, schema, metadata)
    tables: list[Any] = []

    with load_parquet(job.source).ParquetWriter(out, schema, compression=compression) as writer:

        def flush() -> None:
            if tables:
                table = pa.concat_tables(tables)
                writer.write_table(table, row_group_size=len(table))
                tables.clear()

        last = 0
        for (group, _), several in groupby(done, lambda pair: pair[0].original[:2]):
            pairs = list(several)
            if group != last or sum(table.nbytes for table in tables) >= ROW_GROUP:
                flush()
            last = group
            batch = pairs[0][0].original[2]
            table = pa.Table.from_batches([batch])
            rows = [row for _, of_record in pairs for row in of_record]
            # Other rows belong to other shards, and one may have several continuations.
            wanted = [record.original[3] for record, of_record in pairs for _ in of_record]
            if wanted != [*range(len(batch))]:
                table = pa.concat_tables([table.slice(row, 1) for row in wanted])
            for field, column in zip(fields, options.columns, strict=True):
                table = table.append_column(field, pa.array([row[column] for row in rows], field.type))
            tables.append(table)
        flush()


def arrow_types() -> dict[type, Any]:
    """The Arrow types for the columns of a task."""
    import pyarrow as pa

    numbers = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), list: pa.list_(pa.float32())}
    return {**numbers, str: pa.string()}


def _codecs(job: Job, schema: Any, metadata: Any) -> str | dict[str, str]:
    """The codec of each column of an output: as in the input, and for new ones that of its first column."""
    if not (metadata.num_row_groups and metadata.num_columns):
        return "SNAPPY"
    group = metadata.row_group(0)
    codecs = [group.column(i).compression.replace("UNCOMPRESSED", "NONE") for i in range(group.num_columns)]
    # Other programs write lists under other paths, but in the same order.
    parquet, empty = load_parquet(job.source), io.BytesIO()
    parquet.write_table(schema.empty_table(), empty)
    columns = parquet.read_metadata(empty).schema
    paths = [columns.column(i).path for i in range(len(columns))]
    return dict(zip(paths, codecs + codecs[:1] * (len(paths) - len(codecs)), strict=True))


def load_parquet(name: str) -> Any:
    """The module ``pyarrow.parquet``; ImportError names the file and the command to run."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f'{name}: Parquet files need pyarrow: pip install "gpt2c[parquet]"') from None
    return parquet
