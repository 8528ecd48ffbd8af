"""Safetensors files: a reader that trusts nothing it has not checked, and a writer.

The format: the length of the header (8 bytes, little-endian), the header (a JSON object: tensor name ->
dtype, shape and the [begin, end) of its bytes in the data; ``__metadata__`` is free text), the data. Files
are read, never mapped: truncating a mapped file kills the process. The specification is the safetensors
library: every file that it rejects is rejected here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError, shown
from .files import RegularFile, parse_object
from .tensors import ITEMSIZE, TensorInfo

__all__ = ["check_begin", "header_bytes", "read_header", "read_header_and_metadata", "write_tensors"]

# Declared bytes of one tensor; far above any file, far below an overflow.
_MAX_BYTES = 2**62
# Maximum bytes of a header: GPT-2's have 20 to 80 kB.
_MAX_HEADER = 2**18
_MAX_DIMENSIONS = 64  # NumPy's
_LFS_POINTER = b"version https://git-lfs"


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
        raise CheckpointError(f"the header of {path}: __metadata__ is not an object of texts")
    start = end = 8 + len(data)
    tensors = [_tensor(name, entry, path, start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    for tensor in tensors:
        if tensor.offset != end:
            raise CheckpointError(
                f"{path}: the data of tensor {shown(tensor.name)} starts at byte {tensor.offset - start}, "
                f"but the tensor before it ends at byte {end - start}"
            )
        end += tensor.nbytes
    if end != file.size:
        raise CheckpointError(
            f"{path} {'is truncated' if end > file.size else 'has extra bytes at the end'}: by its "
            f"header it has {end} bytes, but the file has {file.size}"
        )
    return {tensor.name: tensor for tensor in tensors}, metadata


def _header_text(file: RegularFile) -> bytes:
    """The bytes of the header, which start with "{" and have an acceptable length."""
    path, size = file.path, file.size
    start = check_begin(file)
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= size - 8:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: it announces a header of {length} bytes but has "
            f"{size} bytes in all"
        )
    if length > _MAX_HEADER:
        raise CheckpointError(
            f"{path} announces a header of {length} bytes; at most {_MAX_HEADER} are accepted"
        )
    data = file.read(length, 8)
    if len(data) != length:
        raise CheckpointError(f"{path} was truncated while its header was read")
    return data


def check_begin(file: RegularFile) -> bytes:
    """The first bytes of a safetensors file: a length and "{". CheckpointError for any other file."""
    path, size = file.path, file.size
    start = file.read(len(_LFS_POINTER), 0)
    if start == _LFS_POINTER:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its directory"
        )
    if size < 10:  # the length and "{}"
        raise CheckpointError(f"{path} has {size} bytes: too short for a safetensors file")
    if start[8:9] != b"{":
        raise CheckpointError(
            f"{path} is not a file of weights: it is neither safetensors nor written by torch.save, "
            "nanoGPT, llm.c or gpt2c"
        )
    return start


def write_tensors(
    file: BinaryIO,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    alignment: int = 8,
    *,
    seal: Callable[[bytes], bytes] = bytes,
) -> None:
    """Write a safetensors file.

    Parameters
    ----------
    file : binary file
        Open for writing, at its start.
    tensors : mapping
        Name -> float32 or uint8 array, C-contiguous, written in this order without gaps.
    metadata : mapping
        The texts of ``__metadata__``.
    alignment : int
        The alignment of the start of the data, in bytes.
    seal : callable
        Takes the bytes before the data, and returns those to write instead.
    """
    dtypes = {"float32": "F32", "uint8": "U8"}
    described = {name: (dtypes[array.dtype.name], array.shape) for name, array in tensors.items()}
    file.write(seal(header_bytes(described, metadata, alignment)))
    for array in tensors.values():
        file.write(array.data.cast("B"))


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str], alignment: int = 8
) -> bytes:
    """The bytes before the data, for ``tensors``: name -> dtype and shape, in the order of the data.

    The other arguments are those of `write_tensors`.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * ITEMSIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-(8 + len(data)) % alignment)
    return len(data).to_bytes(8, "little") + data


def _tensor(name: str, entry: Any, path: Path, start: int) -> TensorInfo:
    """One entry of the header, checked except for its position among the others."""
    try:
        dtype, shape, offsets = _entry(entry)
        nbytes = _size(dtype, shape)
        begin, end = offsets
        if end - begin != nbytes:
            raise CheckpointError(
                f"has {end - begin} bytes of data, but its shape {shown(shape)} of {dtype} takes {nbytes}"
            )
    except CheckpointError as error:
        raise CheckpointError(f"the header of {path}: tensor {shown(name)} {error}") from None
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, nbytes)


def _entry(entry: Any) -> tuple[str, list[int], list[int]]:
    """The dtype, shape and data_offsets."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"needs dtype, shape and data_offsets, but has {shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise CheckpointError(f"has the unknown dtype {shown(dtype)}; known: {', '.join(ITEMSIZE)}")
    if isinstance(shape, list) and len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"has {len(shape)} dimensions; at most {_MAX_DIMENSIONS} are accepted")
    if not _naturals(shape):
        raise CheckpointError(f"has the shape {shown(shape)}; needed: a list of integers of at least 0")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"has the data_offsets {shown(offsets)}; needed: [begin, end]")
    return dtype, shape, offsets


def _size(dtype: str, shape: list[int]) -> int:
    """The bytes of a tensor, checked at every step as for a 64-bit product: [2**40, 2**40, 0] is refused."""
    nbytes = ITEMSIZE[dtype]
    for size in shape:
        nbytes *= size
        if nbytes > _MAX_BYTES:
            raise CheckpointError(f"has the shape {shown(shape)}: larger than any file")
    return nbytes


def _naturals(value: Any) -> bool:
    # The parser rejects negative numbers and fractions; true and false are ints in Python.
    return isinstance(value, list) and all(type(item) is int for item in value)
