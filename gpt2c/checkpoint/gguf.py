"""GGUF files: a reader that trusts nothing it has not checked.

The format (docs/gguf.md in ggml's repository), little-endian throughout: "GGUF", the version, the numbers of
tensors and of metadata entries; the entries (key, type, value); for each tensor its name, its sizes from the
fastest to the slowest dimension, its type and the offset of its data; then the data, every tensor aligned to
``general.alignment``. As in llama.cpp, the data is in the order of the list, without other gaps. Files are
read, never mapped.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown
from .files import GGUF_MAGIC, RegularFile
from .tensors import TensorInfo, block_of

__all__ = ["GGUF", "TYPES", "read_gguf"]

_VERSIONS = (2, 3)  # read alike; 3 also allows big-endian files
# Maximum bytes before the data. A vocabulary of 50,000 tokens with its merges takes 2 MB.
_MAX_HEADER = 8 * 2**20
# Maximum entries of metadata, or tensors: GPT-2 1.5B has 580 tensors.
_MAX_ENTRIES = 2**12
# Maximum elements of all arrays together. A vocabulary of 50,000 tokens has 150,000, with merges and types.
_MAX_ELEMENTS = 400_000
_MAX_DIMENSIONS = 4
# Declared bytes of one tensor; far above any file.
_MAX_BYTES = 2**62
_STEP = 2**18  # bytes of the header to read at a time

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# The supported tensor types, in ggml's numbering; and unsupported ones, for messages.
TYPES = {
    **{0: "F32", 1: "F16", 28: "F64", 30: "BF16"},
    **{2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"},
}
_NOT_READ = {
    **{9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS"},
    **{19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32"},
    **{27: "I64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"},
}


class GGUF(NamedTuple):
    """The contents of a file."""

    metadata: dict[str, Any]
    """Numbers, bools, texts, and lists of these."""
    tensors: dict[str, TensorInfo]
    """By name, in the order of their data; shapes as in NumPy, the slowest dimension first."""


def read_gguf(file: RegularFile) -> GGUF:
    """Read the part of a GGUF file before the data.

    Raises
    ------
    CheckpointError
        It is not a GGUF file, is truncated or damaged, or has tensors of an unsupported type.
    """
    path, header = file.path, _Header(file)
    if header.take(len(GGUF_MAGIC), "its first bytes") != GGUF_MAGIC:
        raise CheckpointError(f"{path} is not a GGUF file")
    version = header.number("I", "its version")
    if version not in _VERSIONS:
        is_swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        what = "a big-endian GGUF file" if is_swapped else f"a GGUF file of version {version}"
        raise CheckpointError(
            f"{path} is {what}; supported: little-endian, versions 2 and 3. Convert it again with a current "
            "llama.cpp"
        )
    counts = {}
    for what in ("tensors", "entries of metadata"):
        counts[what] = header.number("Q", f"the number of {what}")
        if counts[what] > _MAX_ENTRIES:
            raise CheckpointError(
                f"{path} announces {counts[what]} {what}; for a GPT-2 at most {_MAX_ENTRIES} are accepted"
            )
    n_tensors, n_entries = counts.values()
    metadata: dict[str, Any] = {}
    for number in range(n_entries):
        key = header.text(f"entry {number} of the metadata")
        if key in metadata:
            raise CheckpointError(f"{path} is damaged: its metadata has {shown(key)} twice")
        metadata[key] = header.value(f"the metadata's {shown(key)}")
    found = [_tensor(header, path, number) for number in range(n_tensors)]
    return GGUF(metadata, _placed(found, _alignment(metadata, path), header.at, file))


class _Header:
    """The part before the data, read from the start, and no further than requested."""

    def __init__(self, file: RegularFile) -> None:
        self._file, self._data = file, bytearray()
        self._end = min(file.size, _MAX_HEADER)
        self.at = 0
        self._elements = 0

    def take(self, size: int, what: str) -> bytearray:
        """The next bytes; errors call them ``what``."""
        begin, end = self.at, self.at + size
        if end > len(self._data):
            self._read(end, what)
        self.at = end
        return self._data[begin:end]

    def _read(self, end: int, what: str) -> None:
        """Read to ``end`` at least."""
        path = self._file.path
        if end > self._end:
            if self._end < self._file.size:
                raise CheckpointError(
                    f"{path}: {what} reaches beyond byte {self._end}, the limit for a GPT-2 "
                    "before its tensors"
                )
            raise CheckpointError(
                f"{path} is truncated or damaged: {what} would end at byte {end}, the file ends at "
                f"{self._end}"
            )
        missing = min(max(end, len(self._data) + _STEP), self._end) - len(self._data)
        self._data += self._file.read(missing, len(self._data))
        if end > len(self._data):
            raise CheckpointError(f"{path} was truncated while its header was read")

    def number(self, code: str, what: str) -> Any:
        """The next number, of a format of `struct`."""
        return self._numbers(code, 1, what)[0]

    def _numbers(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        data = self.take(count * struct.calcsize(code), what)
        if code == "?" and data.translate(None, b"\0\1"):
            raise self._damaged(f"{what} has a bool that is neither 0 nor 1")
        return struct.unpack(f"<{count}{code}", data)

    def text(self, what: str) -> str:
        """The next string: its length and UTF-8."""
        begin = self.at + 8
        if begin > len(self._data):
            self._read(begin, what)
        end = begin + int.from_bytes(self._data[self.at : begin], "little")
        if end > len(self._data):
            self._read(end, what)
        self.at = end
        try:
            return self._data[begin:end].decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"{what} is not UTF-8: {error}") from None

    def value(self, what: str) -> Any:
        """The next value: its type, and the value itself."""
        kind = self.number("I", what)
        if kind == _STRING:
            return self.text(what)
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind != _ARRAY:
            raise self._damaged(f"{what} is of the type {kind}; {_KINDS}")
        kind, count = self.number("I", what), self.number("Q", what)
        self._elements += count
        if self._elements > _MAX_ELEMENTS:
            raise self._damaged(
                f"{what} announces {count} elements; all arrays together may have {_MAX_ELEMENTS}"
            )
        if kind == _STRING:
            return [self.text(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise self._damaged(f"{what} is an array of the type {kind}; {_KINDS}")
        return list(self._numbers(_SCALARS[kind], count, what))

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path} is damaged: {why}")


_KINDS = f"types are {min(_SCALARS)} to {max(_SCALARS)}, and arrays hold no arrays"


def _alignment(metadata: dict[str, Any], path: Path) -> int:
    found = metadata.get("general.alignment", 32)
    if type(found) is not int or found < 1 or found & (found - 1):
        raise CheckpointError(
            f"{path} is damaged: general.alignment is {shown(found)}; a power of two is needed"
        )
    return found


def _tensor(header: _Header, path: Path, number: int) -> TensorInfo:
    """The next entry of the list of tensors, checked except for its position; its offset is in the data."""
    name = header.text(f"the name of tensor {number}")
    what = f"the description of tensor {shown(name)}"
    n_dimensions = header.number("I", what)
    if n_dimensions > _MAX_DIMENSIONS:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} has {n_dimensions} dimensions; at most {_MAX_DIMENSIONS} are "
            "accepted"
        )
    sizes = [header.number("Q", what) for _ in range(n_dimensions)]
    kind, offset = header.number("I", what), header.number("Q", what)
    if kind not in TYPES:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} is of the type {_NOT_READ.get(kind, kind)}; supported: "
            f"{', '.join(TYPES.values())}. Get the model in one of these, or make it with llama-quantize"
        )
    dtype = TYPES[kind]
    elements, nbytes = block_of(dtype)
    if elements > 1 and (not sizes or sizes[0] % elements):
        raise CheckpointError(
            f"{path}: tensor {shown(name)} of {dtype} has rows of {sizes[0] if sizes else 1} elements; a "
            f"multiple of {elements} is needed"
        )
    count = 1
    # Checked at every step, as for a 64-bit product.
    for size in sizes:
        count *= size
        if count * nbytes > _MAX_BYTES:
            raise CheckpointError(
                f"{path}: tensor {shown(name)} has the sizes {shown(sizes)}: larger than any file"
            )
    return TensorInfo(name, dtype, tuple(reversed(sizes)), path, offset, count // elements * nbytes)


def _placed(found: list[TensorInfo], alignment: int, end: int, file: RegularFile) -> dict[str, TensorInfo]:
    """The tensors by name, with their positions in the file, whose header ends at ``end``."""
    path = file.path
    start = end + -end % alignment
    tensors: dict[str, TensorInfo] = {}
    for tensor in found:
        end += -end % alignment
        if tensor.name in tensors:
            raise CheckpointError(f"{path} is damaged: it has two tensors {shown(tensor.name)}")
        if tensor.offset != end - start:
            raise CheckpointError(
                f"{path} is damaged: the data of tensor {shown(tensor.name)} starts at byte {tensor.offset}, "
                f"but by the tensor before it and the alignment of {alignment} it must start at byte "
                f"{end - start}"
            )
        tensors[tensor.name] = tensor._replace(offset=end)
        end += tensor.nbytes
    if not end <= file.size <= end + -end % alignment:  # the last one may be padded, too
        raise CheckpointError(
            f"{path} {'is truncated' if end > file.size else 'has extra bytes at the end'}: by its "
            f"header it has {end} bytes, but the file has {file.size}"
        )
    return tensors
