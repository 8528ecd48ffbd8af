"""Files of texts, in the formats that `score` and `generate` read."""

from __future__ import annotations

import json
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["made", "write_parquet", "zstd"]


def made(name, data, folder):
    """A file of the texts, as its name says."""
    path = folder / name
    lines = "".join(f"{json.dumps({'id': i, 'text': text})}\n" for i, text in enumerate(data))
    if name.endswith(".parquet"):
        parquet.write_table(pa.table({"text": data}), path, row_group_size=10)
    elif name.endswith(".csv"):
        path.write_text("text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in data if text))
    elif name.endswith(".json"):
        path.write_text(json.dumps([{"text": text} for text in data]))
    else:
        path.write_bytes(zstd.compress(lines.encode()) if name.endswith(".zst") else lines.encode())
    return path


def write_parquet(table, path):
    """Write a table; the test is skipped if this pyarrow cannot write its types."""
    try:
        parquet.write_table(table, path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow {pa.__version__}: {error}")
