"""Records of .parquet files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any

from .records import COLUMNS, FileOptions, Job, Record, Scored, missing_field, refuse_collision

__all__ = ["load_parquet", "read_parquet", "write_parquet"]

# Records that are decoded at once.
BATCH = 128
# Bytes: row groups are those of the input, divided where they are larger.
ROW_GROUP = 64 << 20


def read_parquet(job: Job, options: FileOptions, text_only: bool) -> Iterator[Record]:
    """A record for each row; its original is its row group, batch number, batch, and row in the batch."""
    import pyarrow as pa

    field = options.text_field
    with _open(job) as file:
        schema = file.schema_arrow
        if schema.names.count(field) != 1:
            what = "two columns are called" if field in schema.names else "there is no column"
            raise missing_field(job.source, what, field, schema.names)
        refuse_collision(schema.names, options, job.source)
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
def _open(job: Job) -> Iterator[Any]:
    """A file, with the errors of pyarrow as ValueErrors that name it."""
    import pyarrow as pa

    try:
        # Pages are read and decoded as they are needed.
        with load_parquet(job.source).ParquetFile(job.source, buffer_size=1 << 20, pre_buffer=False) as file:
            yield file
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"{job.source}: pyarrow cannot read this kind of Parquet file: {error}") from None
    except (pa.ArrowInvalid, OSError) as error:
        # An error of the system, not of the file.
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{job.source}: not a whole Parquet file: {error}") from None


def write_parquet(out: IO[bytes], job: Job, names: dict[str, str], scored: Scored) -> None:
    """Copy the table with the scores as new columns, batch by batch."""
    import pyarrow as pa

    with _open(job) as file:
        schema, metadata = file.schema_arrow, file.metadata
    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    fields = [pa.field(names[column], types[kind]) for column, kind in COLUMNS.items()]
    for field in fields:
        schema = schema.append(field)
    compression = "SNAPPY"
    if metadata.num_row_groups and metadata.num_columns:
        compression = metadata.row_group(0).column(0).compression.replace("UNCOMPRESSED", "NONE")
    tables: list[Any] = []

    with load_parquet(job.source).ParquetWriter(out, schema, compression=compression) as writer:

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
            # The other rows belong to other shards.
            if len(pairs) < len(batch):
                table = pa.concat_tables([table.slice(record.original[3], 1) for record, _ in pairs])
            for field, column in zip(fields, COLUMNS, strict=True):
                table = table.append_column(field, pa.array([row[column] for _, row in pairs], field.type))
            tables.append(table)
        flush()


def load_parquet(name: str) -> Any:
    """The module ``pyarrow.parquet``; ImportError names the file and the command to run."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f'{name}: Parquet files need pyarrow: pip install "gpt2c[parquet]"') from None
    return parquet
