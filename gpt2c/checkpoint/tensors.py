"""The tensors in a checkpoint's files: their locations, and reading them as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError, shown
from .files import RegularFile

__all__ = [
    "BLOCKS",
    "FLOAT_DTYPES",
    "ITEMSIZE",
    "READABLE",
    "ZERO",
    "TensorInfo",
    "block_of",
    "read_from",
    "read_tensor",
    "side_by_side",
]

# Bytes per element. Sub-byte types are in `BLOCKS`.
ITEMSIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}
# Elements and bytes per block of GGUF's quantized types; rows consist of whole blocks.
BLOCKS = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
# The dtypes that read_tensor converts.
READABLE = (*FLOAT_DTYPES, *BLOCKS)
# The dtype of a tensor that is not stored: by its format's rules all its values are 0.
ZERO = "ZERO"
# Elements to read, convert and check at a time, while they are in the CPU's cache: whole `BLOCKS`.
_BLOCK = 2**20


def block_of(dtype: str) -> tuple[int, int]:
    """The elements and the bytes of the smallest piece of a tensor; ZERO has no bytes."""
    return BLOCKS.get(dtype) or (1, ITEMSIZE.get(dtype, 0))


class TensorInfo(NamedTuple):
    """The location of a tensor, checked against the file's size."""

    name: str  # as stored
    dtype: str  # "F32", "F16", "BF16", "Q8_0", ...
    shape: tuple[int, ...]
    file: Path
    offset: int  # of its first byte, from the start of the file
    nbytes: int  # from its first to its last element
    strides: tuple[int, ...] | None = None  # in elements; None: C-contiguous
    # Set if queries, keys and values are stored head by head along the last axis, [heads][3][width], and read
    # as [3][heads][width]: the number of heads.
    heads: int | None = None
    # Its parts, side by side along the last axis; they may be in several files.
    parts: tuple[TensorInfo, ...] = ()

    def size_of(self, count: int) -> int:
        """The bytes of ``count`` neighbouring elements, which are whole blocks if the dtype has blocks."""
        elements, nbytes = block_of(self.dtype)
        return count // elements * nbytes

    @property
    def transposed(self) -> TensorInfo:
        """The same matrix with its axes exchanged, without moving any element."""
        n_rows, n_columns = self.shape
        rows, columns = (n_columns, 1) if self.strides is None else self.strides
        return self._replace(shape=(n_columns, n_rows), strides=(columns, rows))

    def without_rows(self, count: int) -> TensorInfo:
        """The same tensor without its first rows."""
        row = math.prod(self.shape[1:]) if self.strides is None else self.strides[0]
        skipped = self.size_of(count * row)
        shape = (self.shape[0] - count, *self.shape[1:])
        return self._replace(shape=shape, offset=self.offset + skipped, nbytes=self.nbytes - skipped)


def side_by_side(name: str, parts: tuple[TensorInfo, ...]) -> TensorInfo:
    """One tensor made of several that differ only in their last axis."""
    shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    nbytes = sum(part.nbytes for part in parts)
    return parts[0]._replace(name=name, shape=shape, nbytes=nbytes, strides=None, parts=parts)


def read_from(
    files: Mapping[Path, RegularFile], info: TensorInfo, begin: int = 0, end: int | None = None
) -> np.ndarray:
    """Read a tensor that may have parts, from the open files; otherwise like `read_tensor`."""
    if not info.parts:
        return read_tensor(files[info.file], info, begin, end)
    if len(info.shape) == 1:
        return np.concatenate([read_from(files, part) for part in info.parts])[begin:end]
    rows = len(range(info.shape[0])[begin:end])
    out, at = np.empty((rows, *info.shape[1:]), np.float32), 0
    for part in info.parts:
        out[..., at : at + part.shape[-1]] = read_from(files, part, begin, end)
        at += part.shape[-1]
    return out


def read_tensor(file: RegularFile, info: TensorInfo, begin: int = 0, end: int | None = None) -> np.ndarray:
    """Read a tensor of a dtype that is `READABLE` as float32, or some of its rows.

    Parameters
    ----------
    file : RegularFile
        The file that contains it.
    info : TensorInfo
    begin, end : int
        Along the first dimension, as in a slice; all by default.

    Returns
    -------
    ndarray
        float32, C-contiguous, of the tensor's shape or [end - begin, ...]. No other array of that size is
        allocated if the tensor or its transpose is C-contiguous; the widening of F16 and BF16 is exact.
        The values of quantized tensors are those of `gguf_quants`.

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
    if info.dtype not in READABLE:
        raise CheckpointError(
            f"{info.file}: tensor {shown(info.name)} has dtype {info.dtype}; weights are read from "
            f"{', '.join(FLOAT_DTYPES)}"
        )
    shape = info.shape
    if shape:
        begin, end, _ = slice(begin, end).indices(shape[0])
        shape = (max(0, end - begin), *shape[1:])
    if info.strides is None:
        first = info.offset + info.size_of(begin * math.prod(shape[1:]))
        return _read(file, info, first, math.prod(shape)).reshape(shape)
    if len(shape) == 2 and info.strides == (1, info.shape[0]):
        return _read_transposed(file, info, begin, begin + shape[0])
    values = _read(file, info, info.offset, info.nbytes // ITEMSIZE[info.dtype])
    strides = tuple(4 * stride for stride in info.strides)
    whole = np.lib.stride_tricks.as_strided(values, info.shape, strides, writeable=False)
    return np.array(whole[begin:end], order="C")


def _read(file: RegularFile, info: TensorInfo, first: int, count: int) -> np.ndarray:
    """``count`` neighbouring elements, from the byte ``first`` of the file on, as float32."""
    out = np.empty(count, np.float32)
    _check_finite(_read_into(out, file, info, first), count, info)
    return out


def _read_transposed(file: RegularFile, info: TensorInfo, begin: int, end: int) -> np.ndarray:
    """Rows of a matrix whose transpose is in the file, a block of that at a time."""
    n_rows, n_columns = info.shape
    out = np.empty((end - begin, n_columns), np.float32)
    step = max(1, _BLOCK // max(1, n_rows))
    block = np.empty((min(step, n_columns), n_rows), np.float32)
    bad = 0
    for at in range(0, n_columns, step):
        part = block[: n_columns - at]
        bad += _read_into(part.reshape(-1), file, info, info.offset + info.size_of(at * n_rows))
        out[:, at : at + len(part)] = part[:, begin:end].T
    _check_finite(bad, n_rows * n_columns, info)
    return out


def _read_into(out: np.ndarray, file: RegularFile, info: TensorInfo, first: int) -> int:
    """Fill a flat float32 array with neighbouring elements. Returns the number of NaN or infinite ones."""
    count, bad = out.size, 0
    raw = None if info.dtype == "F32" else np.empty(info.size_of(min(count, _BLOCK)), np.uint8)
    flags = np.empty(min(count, _BLOCK), np.bool_)
    for start in range(0, count, _BLOCK):
        block, offset = out[start : start + _BLOCK], first + info.size_of(start)
        if raw is None:
            _fill(block, file, offset, info)
        else:
            stored = raw[: info.size_of(block.size)]
            _fill(stored, file, offset, info)
            _convert(block, stored, info.dtype)
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
    """Convert elements, given as the bytes of the file, to float32."""
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused
        if dtype in BLOCKS:
            from .gguf_quants import dequantize  # deferred, as most models are not quantized

            out[...] = dequantize(raw.reshape(-1, BLOCKS[dtype][1]), dtype)
        elif dtype == "BF16":  # the upper half of a float32
            bits = out.view(np.uint32)
            bits[...] = raw.view(np.uint16)
            bits <<= 16
        else:
            np.copyto(out, raw.view({"F16": np.float16, "F64": np.float64}[dtype]), casting="same_kind")
