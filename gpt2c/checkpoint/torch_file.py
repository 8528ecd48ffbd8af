"""Files that torch.save wrote: locating their tensors without torch and without running anything.

Since torch 1.6 such a file is a zip archive of uncompressed members: data.pkl describes the contents
(pickled.py reads it), and data/KEY holds the elements of a storage. Before, it was a stream: a magic number,
a version and facts about the system, each pickled; the contents; the list of storages; and then for each its
number of elements (8 bytes) and the elements. Sources: torch/serialization.py, and the .ZIP File Format
Specification of PKWARE.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown
from .files import TORCH_MAGIC, RegularFile
from .pickled import MOST_BYTES, read_pickle
from .tensors import ITEMSIZE, TensorInfo
from .torch_names import Name, Storage, Tensor

__all__ = ["checksums", "read_torch_file"]

_ZIP = b"PK\x03\x04"
# Maximum bytes of a zip archive's table; that of GPT-2 1.5B with the state of Adam has 200 kB.
_MOST_TABLE = 3 * 2**17
_STEP = 2**20
# The latest version of the format: kMaxSupportedFileFormatVersion in torch's caffe2/serialize/versions.h.
_LATEST = 10


class _Place(NamedTuple):
    """The location of a storage's elements."""

    offset: int
    nbytes: int


def read_torch_file(file: RegularFile) -> Any:
    """The saved value: dicts, lists, numbers and texts, with each tensor as a `TensorInfo`.

    No element of a tensor is read.

    Raises
    ------
    CheckpointError
        The file is damaged, was not written by torch.save, or holds more than tensors and plain values.
    """
    reader = io.BufferedReader(_Raw(file))
    if file.read(4, 0) == _ZIP:
        value, places = _archive(file, reader)
    else:
        value, places = _stream(file, reader)
    return _placed(value, file, places)


def checksums(file: RegularFile) -> Iterator[tuple[str, bool]]:
    """The members of a file with checksums, and whether they are correct; a stream has none."""
    if file.read(4, 0) != _ZIP:
        return
    for member in _table(file, io.BufferedReader(_Raw(file))):
        place, crc = _member(file, member), 0
        for at in range(0, place.nbytes, _STEP):
            crc = zlib.crc32(file.read(min(_STEP, place.nbytes - at), place.offset + at), crc)
        # torch writes 0 if checksums are turned off (set_crc32_options).
        if member.CRC:
            yield member.filename, crc == member.CRC


class _Raw(io.RawIOBase):
    """A RegularFile with the interface of Python's files."""

    def __init__(self, file: RegularFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the file's beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = self._file.read_into(buffer, self._at)
        self._at += count
        return count


# ---- the archive


def _archive(file: RegularFile, reader: Any) -> tuple[Any, dict[str, _Place]]:
    path = file.path
    found: dict[str, _Place] = {}
    for member in _table(file, reader):
        if member.filename in found:
            raise CheckpointError(f"{path} has two members called {shown(member.filename)}")
        found[member.filename] = _member(file, member)
    _check_apart(file, found)
    descriptions = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(descriptions) != 1:
        raise CheckpointError(f"{path} is a zip archive that torch.save did not write: it has no data.pkl")
    [description] = descriptions
    prefix = description.removesuffix("data.pkl")
    outside = [name for name in found if not name.startswith(prefix)]
    if outside:
        raise CheckpointError(
            f"{path} has the member {shown(outside[0])}, which is not in its folder {prefix}"
        )
    _check_version(file, found.get(f"{prefix}version"))
    order = found.get(f"{prefix}byteorder")
    if order is not None and file.read(order.nbytes, order.offset) != b"little":
        raise CheckpointError(f"{path} is not little-endian")
    place = found[description]
    if place.nbytes > MOST_BYTES:
        raise CheckpointError(f"{path}: data.pkl has {place.nbytes} bytes; at most {MOST_BYTES} are accepted")
    data = file.read(place.nbytes, place.offset)
    value = read_pickle(io.BytesIO(data), str(path))
    inside = f"{prefix}data/"
    return value, {
        name.removeprefix(inside): place for name, place in found.items() if name.startswith(inside)
    }


def _check_version(file: RegularFile, place: _Place | None) -> None:
    text = b"" if place is None else file.read(min(place.nbytes, 20), place.offset).rstrip(b"\n")
    if not text.isdigit() or not 1 <= int(text) <= _LATEST:
        raise CheckpointError(
            f"{file.path} has the version {shown(text.decode('latin-1'))} of torch's format; supported: 1 to "
            f"{_LATEST}"
        )


def _table(file: RegularFile, reader: Any) -> list[zipfile.ZipInfo]:
    """The members in an archive's table."""
    _check_table(file)
    try:
        return zipfile.ZipFile(reader).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OverflowError) as error:
        raise CheckpointError(f"{file.path} is a damaged or truncated zip archive: {error}") from None


def _check_table(file: RegularFile) -> None:
    """Refuse an archive whose table is too large to read, or does not end where its end begins.

    torch writes no comment at the end. Its parts: above 4 GiB, a record of 64-bit numbers (56 bytes) and the
    position of that (20); the end itself (22).
    """
    path, last = file.path, file.read(98, max(0, file.size - 98)).rjust(98, b"\0")
    record, locator, end = last[:56], last[56:76], last[76:]
    if end[:4] != b"PK\x05\x06":
        raise CheckpointError(f"{path} is a damaged or truncated zip archive: its end is missing")
    if any(end[4:8]):
        raise CheckpointError(f"{path} is a part of a zip archive of several files, which torch never writes")
    place, (size, offset) = file.size - 22, struct.unpack("<II", end[12:20])
    is_placed = True
    if locator[:4] == b"PK\x06\x07":
        place, (size, offset) = file.size - 98, struct.unpack("<QQ", record[40:])
        is_placed = struct.unpack("<Q", locator[8:16]) == (place,)
    if size > _MOST_TABLE:
        raise CheckpointError(f"{path}: its table has {size} bytes; at most {_MOST_TABLE} are accepted")
    # zipfile would move all members, as in an archive that follows a program.
    if not is_placed or offset + size != place:
        raise CheckpointError(f"{path} is a damaged zip archive: its table is not where its end says")


def _member(file: RegularFile, member: zipfile.ZipInfo) -> _Place:
    """The position of a member's data, after its local header."""
    where = f"{file.path}: the member {shown(member.filename)}"
    if member.external_attr & 0x10 or member.volume:
        raise CheckpointError(f"{where} is marked as a directory, or as lying in another file")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise CheckpointError(f"{where} is compressed or encrypted, which torch.save never does")
    if member.file_size != member.compress_size:
        raise CheckpointError(f"{where} has two sizes, {member.file_size} and {member.compress_size}")
    header = file.read(30, member.header_offset)
    if len(header) < 30 or header[:4] != _ZIP:
        raise CheckpointError(f"{where} is not where the archive's table says")
    offset = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if offset + member.file_size > file.size:
        raise CheckpointError(f"{where} ends after the file: it is truncated")
    return _Place(offset, member.file_size)


def _check_apart(file: RegularFile, members: Mapping[str, _Place]) -> None:
    """Refuse members that share bytes, as in an archive that expands beyond its size."""
    end = 0
    for name, place in sorted(members.items(), key=lambda item: item[1]):
        if place.offset < end:
            raise CheckpointError(f"{file.path}: the member {shown(name)} shares bytes with another")
        end = place.offset + place.nbytes


# ---- the stream


def _stream(file: RegularFile, reader: Any) -> tuple[Any, dict[str, _Place]]:
    where = str(file.path)
    magic, version, system = (read_pickle(reader, where) for _ in range(3))
    if magic != TORCH_MAGIC or version != 1001 or not isinstance(system, dict):
        raise CheckpointError(f"{where} was not written by torch.save, or by an unknown version")
    if system.get("little_endian") is not True:
        raise CheckpointError(f"{where} is not little-endian")
    value = read_pickle(reader, where, is_stream=True)
    keys = read_pickle(reader, where)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError(f"{where} has no list of storages")
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in _tensors(value)}
    places: dict[str, _Place] = {}
    at = reader.tell()
    for key in keys:
        count = file.read(8, at)
        numel = int.from_bytes(count, "little")
        nbytes = numel * ITEMSIZE[dtypes.get(key, "U8")]
        if key not in dtypes:
            raise CheckpointError(f"{where} has a storage {shown(key)} that no tensor uses")
        if key in places or len(count) < 8 or at + 8 + nbytes > file.size:
            raise CheckpointError(f"{where} is truncated or damaged in its storages")
        places[key] = _Place(at + 8, nbytes)
        at += 8 + nbytes
    return value, places


# ---- the saved value

_CONTAINERS = (dict, list, tuple)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, each container once."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is Tensor:
            yield item
        elif type(item) in _CONTAINERS and id(item) not in seen:
            seen.add(id(item))
            todo += item.values() if isinstance(item, dict) else item


def _placed(value: Any, file: RegularFile, places: Mapping[str, _Place]) -> Any:
    """The value with a `TensorInfo` for each tensor."""
    known: dict[int, Any] = {}
    active: set[int] = set()

    def placed(item: Any, depth: int = 0) -> Any:
        kind = type(item)
        if kind is Tensor:
            return _info(item, file, places)
        if kind is Storage:
            return None
        if kind is Name:  # a type of elements, among settings
            return item.name
        if kind not in _CONTAINERS:
            return item
        if id(item) in known:
            return known[id(item)]
        if id(item) in active or depth > 50:
            raise CheckpointError(f"{file.path} holds a value that contains itself or is nested too deeply")
        active.add(id(item))
        found: Any
        if kind is dict:
            found = {key: placed(inner, depth + 1) for key, inner in item.items()}
        else:
            found = kind([placed(inner, depth + 1) for inner in item])
        active.remove(id(item))
        known[id(item)] = found
        return found

    return placed(value)


def _info(tensor: Tensor, file: RegularFile, places: Mapping[str, _Place]) -> TensorInfo:
    storage, itemsize = tensor.storage, ITEMSIZE[tensor.dtype]
    where = f"{file.path}: a tensor {list(tensor.shape)}"
    if storage.key not in places:
        raise CheckpointError(f"{where} uses storage {shown(storage.key)}, which is not in the file")
    place = places[storage.key]
    needed = storage.numel * ITEMSIZE[storage.dtype]
    if place.nbytes != needed:
        raise CheckpointError(
            f"{where} uses storage {shown(storage.key)}, which has {place.nbytes} bytes instead of {needed}"
        )
    empty = 0 in tensor.shape
    reach = 0 if empty else 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if (tensor.offset + reach) * itemsize > place.nbytes:
        raise CheckpointError(f"{where} extends past its storage")
    # Views may repeat elements, but must not turn a small file into a large array.
    if math.prod(tensor.shape) * itemsize > place.nbytes:
        raise CheckpointError(f"{where} has more elements than its storage")
    contiguous, expected = True, 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        contiguous &= stride == expected or size == 1 or empty
        expected *= size
    return TensorInfo(
        name="",
        dtype=tensor.dtype,
        shape=tensor.shape,
        file=file.path,
        offset=place.offset + tensor.offset * itemsize,
        nbytes=reach * itemsize,
        strides=None if contiguous else tensor.strides,
    )
