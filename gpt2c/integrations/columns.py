"""The rows and columns of batches: dicts of arrays or lists, Arrow tables, data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["array_of", "is_null", "rows_of", "value_of"]


def value_of(scalar: Any) -> Any:
    """The value of an Arrow scalar; the bytes of a text that is not UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error.object


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """These rows of a batch."""
    if hasattr(batch, "column_names"):
        import pyarrow as pa

        return batch.take(pa.array(rows, pa.int64()))
    if hasattr(batch, "assign"):
        return batch.iloc[list(rows)]
    wanted = np.array(rows, np.intp)
    return {
        name: column[wanted] if hasattr(column, "dtype") else [column[i] for i in rows]
        for name, column in batch.items()
    }


def is_null(text: Any) -> bool:
    """Whether this is None, NaN, or NA of pandas, recognized by its name: pandas may be missing."""
    is_nan = isinstance(text, float | np.floating) and text != text
    return text is None or is_nan or type(text).__name__ == "NAType"


def array_of(values: Sequence[Any], kind: type) -> np.ndarray:
    """A column: texts as objects; numbers of type ``kind``, or float64 with NaN for None if there is any."""
    if kind is list and values and None not in values:
        return np.array(values, np.float32)
    if kind is list:
        values = [None if value is None else np.array(value, np.float32) for value in values]
    if kind in (str, list):
        return np.array([*values, None], object)[:-1]
    if None in values:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(values, {int: np.int64, float: np.float64, bool: np.bool_}[kind])
