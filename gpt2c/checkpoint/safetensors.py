"""Safetensors files: a reader that believes nothing it has not checked, and a writer.

The format: the length of the header (8 bytes, little-endian), the header (a JSON object: tensor name ->
dtype, shape and the [begin, end) of its bytes in the data; ``__metadata__`` is free text), the data. Files
are read, never mapped: truncating a mapped file kills the process. The specification is the safetensors
library: every file that it rejects is rejected here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import CheckpointError, shown
from .files import MAX_JSON, RegularFile, parse_object

__all__ = [
    "FLOAT_DTYPES",
    "TensorInfo",
    "read_header",
    "read_header_and_metadata",
    "read_tensor",
    "write_tensors",
]

# Bytes per element. Sub-byte types are left out: nothing in a GPT-2 has them.
_ITEMSIZE = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}
# The dtypes that read_tensor converts.
FLOAT_DTYPES = ("F32", "F16", "BF16")
# Of one tensor as declared; far above any file, far below an overflow.
_MAX_BYTES = 2**62
_LFS_POINTER = b"version https://git-lfs"
# Elements that are read, converted and checked at a time, while they are in the cache.
_BLOCK = 2**20


class TensorInfo(NamedTuple):
    """A tensor's entry in the header, checked against the file's size."""

    name: str  # as stored
    dtype: str  # "F32", "F16", "BF16", ...
    shape: tuple[int, ...]
    file: Path
    offset: int  # of its first byte, from the start of the file
    nbytes: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _ITEMSIZE[self.dtype]


def read_header(file: RegularFile) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, name -> TensorInfo, in the order of their bytes. Reads no data.

    Raises
    ------
    CheckpointError
        The file is not safetensors, is truncated, or has a header that does not match its contents.
    """
    return read_header_and_metadata(file)[0]


def read_header_and_metadata(file: RegularFile) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The same, and the texts of its ``__metadata__``."""
    path = file.path
    data = _header_text(file)
    header = parse_object(data, f"the header of {path}", integers_only=True)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError(f"the header of {path}: __metadata__ is not a table of texts")
    start = end = 8 + len(data)
    tensors = [_tensor(name, entry, path, start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    for tensor in tensors:
        if tensor.offset != end:
            raise CheckpointError(
                f"{path}: the data of tensor {shown(tensor.name)} begins at byte {tensor.offset - start}, "
                f"but the tensor before it ends at byte {end - start}"
            )
        end += tensor.nbytes
    if end != file.size:
        raise CheckpointError(
            f"{path} {'is truncated' if end > file.size else 'has bytes that belong to no tensor'}: by its "
            f"header it has {end} bytes, in fact {file.size}"
        )
    return {tensor.name: tensor for tensor in tensors}, metadata


def _header_text(file: RegularFile) -> bytes:
    """The bytes of the header, which begin with "{" and are of an acceptable length."""
    path, size = file.path, file.size
    start = file.read(len(_LFS_POINTER), 0)
    if start == _LFS_POINTER:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights it stands for: run `git lfs pull` in its directory"
        )
    if size < 10:  # the length and "{}"
        raise CheckpointError(f"{path} has {size} bytes: too short for a safetensors file")
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= size - 8:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: it announces a header of {length} bytes and has "
            f"{size} bytes in all"
        )
    if length > MAX_JSON:
        raise CheckpointError(
            f"{path} announces a header of {length} bytes; for a GPT-2 at most {MAX_JSON} are accepted"
        )
    data = file.read(length, 8)
    if len(data) != length:
        raise CheckpointError(f"{path} was truncated while its header was read")
    if data[:1] != b"{":
        raise CheckpointError(f"{path} is not a safetensors file: its header is not a JSON object")
    return data


def read_tensor(file: RegularFile, info: TensorInfo, begin: int = 0, end: int | None = None) -> np.ndarray:
    """Read one F32, F16 or BF16 tensor as float32, or some of its rows.

    Parameters
    ----------
    file : RegularFile
        The one that the header was read from.
    info : TensorInfo
        From :func:`read_header`.
    begin, end : int
        Along the first dimension, as in a slice; all by default.

    Returns
    -------
    ndarray
        float32, C-contiguous, of the tensor's shape or [end - begin, ...]. No other array of that size is
        allocated; the widening of F16 and BF16 is exact.

    Raises
    ------
    CheckpointError
        The file has become too short, the tensor has another dtype, or it holds NaN or infinity.
    """
    if info.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            f"{info.file}: tensor {shown(info.name)} has dtype {info.dtype}; weights are read from "
            f"{', '.join(FLOAT_DTYPES)}"
        )
    shape = info.shape
    if shape:
        begin, end, _ = slice(begin, end).indices(shape[0])
        shape = (max(0, end - begin), *shape[1:])
    count = math.prod(shape)
    out = np.empty(count, np.float32)
    narrow = np.empty(0 if info.dtype == "F32" else min(count, _BLOCK), np.uint16)
    flags = np.empty(min(count, _BLOCK), np.bool_)
    bad = 0  # values
    first = info.offset + begin * math.prod(shape[1:]) * info.itemsize
    for start in range(0, count, _BLOCK):
        block, offset = out[start : start + _BLOCK], first + start * info.itemsize
        if info.dtype == "F32":
            _fill(block, file, offset, info)
        else:
            _fill(narrow[: block.size], file, offset, info)
            _widen(block, narrow[: block.size], info.dtype)
        bad += block.size - int(np.count_nonzero(np.isfinite(block, out=flags[: block.size])))
    if bad:
        raise CheckpointError(
            f"{info.file}: tensor {shown(info.name)} has NaN or infinity in {bad} of its {count} values: the "
            "file is damaged, or the training of the model diverged"
        )
    return out.reshape(shape)


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], alignment: int = 8
) -> None:
    """Write a safetensors file.

    Parameters
    ----------
    file : binary file
        Open for writing, at its beginning.
    tensors : mapping
        Name -> float32 or uint8 array, C-contiguous, written in this order without gaps.
    metadata : mapping
        The texts of ``__metadata__``.
    alignment : int
        The data begins at a multiple of this many bytes.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        dtype = {"float32": "F32", "uint8": "U8"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-(8 + len(data)) % alignment)
    file.write(len(data).to_bytes(8, "little"))
    file.write(data)
    for array in tensors.values():
        file.write(array.data.cast("B"))


def _tensor(name: str, entry: Any, path: Path, start: int) -> TensorInfo:
    """One entry of the header, checked except for its position among the others."""
    where = f"the header of {path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} needs dtype, shape and data_offsets, and has {shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEMSIZE:
        raise CheckpointError(f"{where} has the unknown dtype {shown(dtype)}; known: {', '.join(_ITEMSIZE)}")
    if not _naturals(shape):
        raise CheckpointError(f"{where} has the shape {shown(shape)}; a list of integers from 0 is needed")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where} has the data_offsets {shown(offsets)}; a [begin, end] is needed")
    nbytes = _ITEMSIZE[dtype]
    # Checked at every step, as a product in 64 bits would have to be: [2**40, 2**40, 0] is refused.
    for size in shape:
        nbytes *= size
        if nbytes > _MAX_BYTES:
            raise CheckpointError(f"{where} has the shape {shown(shape)}: larger than any file")
    begin, end = offsets
    if end - begin != nbytes:
        raise CheckpointError(
            f"{where} has {end - begin} bytes of data, but its shape {shown(shape)} of {dtype} takes {nbytes}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, nbytes)


def _naturals(value: Any) -> bool:
    # The parser lets no negative numbers and no fractions through; true and false are ints to Python.
    return isinstance(value, list) and all(type(item) is int for item in value)


def _fill(array: np.ndarray, file: RegularFile, offset: int, info: TensorInfo) -> None:
    """Read exactly the bytes of a contiguous array."""
    if file.read_into(array.data.cast("B"), offset) != array.nbytes:
        raise CheckpointError(
            f"{info.file} has been truncated since it was opened: it ends inside tensor {shown(info.name)}"
        )


def _widen(out: np.ndarray, raw: np.ndarray, dtype: str) -> None:
    """Convert F16 or BF16, given as uint16, to float32."""
    if dtype == "F16":
        np.copyto(out, raw.view(np.float16))
    else:  # bfloat16 is the upper half of a float32
        bits = out.view(np.uint32)
        bits[...] = raw
        bits <<= 16
