"""The tensors of a checkpoint's files: where each is, and how it becomes an array."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError, shown
from .files import RegularFile

__all__ = ["FLOAT_DTYPES", "ITEMSIZE", "ZERO", "TensorInfo", "read_tensor"]

# Bytes per element. Sub-byte types are left out: nothing in a GPT-2 has them.
ITEMSIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}
# The dtypes that read_tensor converts.
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
# The dtype of a tensor that is stored nowhere: by a rule of its format all its values are 0.
ZERO = "ZERO"
# Elements that are read, converted and checked at a time, while they are in the cache.
_BLOCK = 2**20


class TensorInfo(NamedTuple):
    """Where a tensor is, checked against the file's size."""

    name: str  # as stored
    dtype: str  # "F32", "F16", "BF16", ...
    shape: tuple[int, ...]
    file: Path
    offset: int  # of its first byte, from the start of the file
    nbytes: int  # from its first to its last element
    strides: tuple[int, ...] | None = None  # in elements; None: C-contiguous
    # Of queries, keys and values that lie head by head along the last axis, [heads][3][width], and are read
    # as [3][heads][width]: how many heads.
    heads: int | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return ITEMSIZE[self.dtype]

    @property
    def transposed(self) -> TensorInfo:
        """The same matrix with its axes exchanged, which moves no element."""
        n_rows, n_columns = self.shape
        rows, columns = (n_columns, 1) if self.strides is None else self.strides
        return self._replace(shape=(n_columns, n_rows), strides=(columns, rows))


def read_tensor(file: RegularFile, info: TensorInfo, begin: int = 0, end: int | None = None) -> np.ndarray:
    """Read a tensor of `FLOAT_DTYPES` as float32, or some of its rows.

    Parameters
    ----------
    file : RegularFile
        The one that it was found in.
    info : TensorInfo
    begin, end : int
        Along the first dimension, as in a slice; all by default.

    Returns
    -------
    ndarray
        float32, C-contiguous, of the tensor's shape or [end - begin, ...]. No other array of that size is
        allocated where the tensor or its transpose is C-contiguous; the widening of F16 and BF16 is exact.

    Raises
    ------
    CheckpointError
        The file has become too short, the tensor has another dtype, or it holds NaN or infinity.
    """
    if info.heads is not None:
        found = read_tensor(file, info._replace(heads=None), begin, end)
        parts = found.reshape(*found.shape[:-1], info.heads, 3, -1).swapaxes(-3, -2)
        return np.ascontiguousarray(parts).reshape(found.shape)
    if info.dtype == ZERO:
        return np.zeros(info.shape, np.float32)
    if info.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            f"{info.file}: tensor {shown(info.name)} has dtype {info.dtype}; weights are read from "
            f"{', '.join(FLOAT_DTYPES)}"
        )
    shape = info.shape
    if shape:
        begin, end, _ = slice(begin, end).indices(shape[0])
        shape = (max(0, end - begin), *shape[1:])
    if info.strides is None:
        first = info.offset + begin * math.prod(shape[1:]) * info.itemsize
        return _read(file, info, first, math.prod(shape)).reshape(shape)
    if len(shape) == 2 and info.strides == (1, info.shape[0]):
        return _read_transposed(file, info, begin, begin + shape[0])
    values = _read(file, info, info.offset, info.nbytes // info.itemsize)
    strides = tuple(4 * stride for stride in info.strides)
    whole = np.lib.stride_tricks.as_strided(values, info.shape, strides, writeable=False)
    return np.array(whole[begin:end], order="C")


def _read(file: RegularFile, info: TensorInfo, first: int, count: int) -> np.ndarray:
    """``count`` neighbouring elements, from the byte ``first`` of the file on, as float32."""
    out = np.empty(count, np.float32)
    _check_finite(_read_into(out, file, info, first), count, info)
    return out


def _read_transposed(file: RegularFile, info: TensorInfo, begin: int, end: int) -> np.ndarray:
    """Rows of a matrix of which the file has the transpose, a block of that at a time."""
    n_rows, n_columns = info.shape
    out = np.empty((end - begin, n_columns), np.float32)
    step = max(1, _BLOCK // max(1, n_rows))
    block = np.empty((min(step, n_columns), n_rows), np.float32)
    bad = 0
    for at in range(0, n_columns, step):
        part = block[: n_columns - at]
        bad += _read_into(part.reshape(-1), file, info, info.offset + at * n_rows * info.itemsize)
        out[:, at : at + len(part)] = part[:, begin:end].T
    _check_finite(bad, n_rows * n_columns, info)
    return out


def _read_into(out: np.ndarray, file: RegularFile, info: TensorInfo, first: int) -> int:
    """Fill a flat float32 array with neighbouring elements. Returns how many are NaN or infinite."""
    count, bad = out.size, 0
    raw = None if info.dtype == "F32" else np.empty(min(count, _BLOCK), f"u{info.itemsize}")
    flags = np.empty(min(count, _BLOCK), np.bool_)
    for start in range(0, count, _BLOCK):
        block, offset = out[start : start + _BLOCK], first + start * info.itemsize
        if raw is None:
            _fill(block, file, offset, info)
        else:
            _fill(raw[: block.size], file, offset, info)
            _convert(block, raw[: block.size], info.dtype)
        bad += block.size - int(np.count_nonzero(np.isfinite(block, out=flags[: block.size])))
    return bad


def _check_finite(bad: int, count: int, info: TensorInfo) -> None:
    if bad:
        raise CheckpointError(
            f"{info.file}: tensor {shown(info.name)} has NaN or infinity in {bad} of its {count} values: the "
            "file is damaged, or the training of the model diverged"
        )


def _fill(array: np.ndarray, file: RegularFile, offset: int, info: TensorInfo) -> None:
    """Read exactly the bytes of a contiguous array."""
    if file.read_into(array.data.cast("B"), offset) != array.nbytes:
        raise CheckpointError(
            f"{info.file} has been truncated since it was opened: it ends inside tensor {shown(info.name)}"
        )


def _convert(out: np.ndarray, raw: np.ndarray, dtype: str) -> None:
    """Convert elements, given as integers of their size, to float32."""
    if dtype == "BF16":  # the upper half of a float32
        bits = out.view(np.uint32)
        bits[...] = raw
        bits <<= 16
    else:
        with np.errstate(over="ignore"):  # infinities are refused
            np.copyto(out, raw.view({"F16": np.float16, "F64": np.float64}[dtype]), casting="same_kind")
