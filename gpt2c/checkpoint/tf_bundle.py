"""The index of a TensorFlow checkpoint: its variables, and their positions in the data files.

As tensorflow/core/util/tensor_bundle writes it. The file is a LevelDB table: blocks of sorted keys and
values, each with its checksum; a block of the blocks' positions; at the end the position of that block.
Values are protocol buffers: for the empty key the header of all files (BundleHeaderProto); for every other
key, the name of a variable, its position (BundleEntryProto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown
from .crc32c import crc32c, masked
from .files import RegularFile

__all__ = ["Variable", "read_index"]

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
# Maximum size of the file, and number of variables; GPT-2 1.5B with the state of Adam: 150 kB, 1,742.
_MAX_BYTES = 2**19
_MAX_VARIABLES = 2**12
# TensorFlow's own limit.
_MOST_DIMS = 254
# The reader version that current files require.
_VERSION = 1


class Variable(NamedTuple):
    """A variable's entry in the index, not yet compared with the data files."""

    dtype: int  # tensorflow.DataType
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    crc: int  # checksum of its bytes, masked
    is_sliced: bool  # stored in parts, under other names


class _Refused(Exception):
    """The file is not supported; the text says why."""


class _Damaged(_Refused):
    """The file is not as TensorFlow wrote it."""

    def __str__(self) -> str:
        return f"is damaged: {self.args[0]}; get the file again"


def read_index(file: RegularFile) -> tuple[int, dict[str, Variable]]:
    """The number of data files, and the variables by name.

    Raises
    ------
    CheckpointError
        The file is not an index, is damaged, or was written for another machine or by a later program.
    """
    if file.size > _MAX_BYTES:
        raise CheckpointError(
            f"{file.path} has {file.size} bytes, too many for the index of a GPT-2 (at most {_MAX_BYTES})"
        )
    data = file.read(file.size, 0)
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise CheckpointError(
            f"{file.path} is truncated, or not the index of a TensorFlow checkpoint, as its last 8 bytes "
            "differ: get the file again"
        )
    try:
        items = iter(_items(data))
        n_shards = _header(next(items, (b"", b"")))
        variables: dict[str, Variable] = {}
        for key, value in items:
            if len(variables) == _MAX_VARIABLES:
                raise _Refused(f"has too many variables for a GPT-2 (at most {_MAX_VARIABLES} are accepted)")
            variables[_text(key)] = _variable(value)
        return n_shards, variables
    except _Refused as reason:
        raise CheckpointError(f"{file.path} {reason}") from None


# ---- the table


def _items(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in the order of the keys."""
    # The first position is that of a block that is not used here.
    _, at = _place(data, len(data) - _FOOTER)
    places, _ = _place(data, at)
    last: bytes | None = None
    for _, place in _entries(_block(data, *places)):
        for key, value in _entries(_block(data, *_place(place, 0)[0])):
            if last is not None and key <= last:
                raise _Damaged("its keys are not in order")
            last = key
            yield key, value


def _place(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The offset and the size of a block, and the end of these numbers."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> bytes:
    """A block whose checksum is correct."""
    end = offset + size
    if end + 5 > len(data) - _FOOTER:
        raise _Damaged(f"a block is at byte {offset}, of {size} bytes, which is past the file's end")
    if masked(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise _Damaged(f"the checksum of the block at byte {offset} is wrong")
    if data[end]:
        raise _Refused("is compressed, which TensorFlow never does: save the model again with TensorFlow")
    return data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; keys share a prefix with the last one, except at restart points."""
    # They are followed by the restart points, 4 bytes each, and their number.
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if len(block) < 4 or end < 0:
        raise _Damaged("a block is too short")
    at, key, whole = 0, b"", {0}
    while at < end:
        begin = at
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + own + size > end:
            raise _Damaged("an entry is longer than its block")
        if shared == 0:
            whole.add(begin)
        key = key[:shared] + block[at : at + own]
        at += own + size
        yield key, block[at - size : at]
    restarts = [int.from_bytes(block[i : i + 4], "little") for i in range(end, len(block) - 4, 4)]
    if restarts[:1] != [0] or not whole.issuperset(restarts):
        raise _Damaged("a block has a restart point that is not a whole key")


# ---- protocol buffers


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in 7 bits per byte, the lowest first, and its end."""
    if at < len(data) and data[at] < 0x80:  # as most are
        return data[at], at + 1
    value = 0
    for count in range(10):
        if at + count >= len(data):
            break
        value |= (data[at + count] & 0x7F) << 7 * count
        if data[at + count] < 0x80:
            return value, at + count + 1
    raise _Damaged("a number is truncated")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their numbers, and numbers or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if not 0 < tag >> 3 < 2**29:
            raise _Damaged("a message has a field without a number")
        value: Any
        if tag & 7 == 0:
            value, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}.get(tag & 7)
            if tag & 7 == 2:
                size, at = _varint(message, at)
            if size is None or at + size > len(message):
                raise _Damaged("a message is truncated")
            value = message[at : at + size]
            at += size
        yield tag >> 3, value


def _message(value: bytes, fields: Mapping[int, tuple[str, type]]) -> dict[str, Any]:
    """Some fields of a message, by number: each with its name and its type, int or bytes.

    A missing field is 0 or empty. The last occurrence counts, as in protocol buffers.
    """
    found: dict[str, Any] = {name: kind() for name, kind in fields.values()}
    for number, content in _fields(value):
        if number in fields:
            name, kind = fields[number]
            if type(content) is not kind:
                raise _Damaged("a message has a field of the wrong type")
            found[name] = content
    return found


_HEADER = {1: ("shards", int), 2: ("is_big", int), 3: ("version", bytes)}
_ENTRY = {
    **{1: ("dtype", int), 2: ("shape", bytes), 3: ("shard", int)},
    **{4: ("offset", int), 5: ("nbytes", int), 6: ("crc", bytes)},
}


def _header(item: tuple[bytes, bytes]) -> int:
    """The number of data files, from BundleHeaderProto."""
    key, value = item
    header = _message(value, _HEADER)
    if key or not header["shards"]:
        raise _Damaged("the number of data files is missing")
    if header["is_big"]:
        raise _Refused("was written on a big-endian machine: save the model again on a little-endian one")
    if _message(header["version"], {2: ("consumer", int)})["consumer"] > _VERSION:
        raise _Refused("needs a later reader than this one: give the model in another format")
    return int(header["shards"])


def _variable(value: bytes) -> Variable:
    """BundleEntryProto."""
    entry = _message(value, _ENTRY)
    sizes = [size for number, size in _fields(entry.pop("shape")) if number == 2]
    if not all(isinstance(size, bytes) for size in sizes):
        raise _Damaged("a message has a field of the wrong type")
    dims = [_message(size, {1: ("size", int)}) for size in sizes]
    if len(dims) > _MOST_DIMS:
        raise _Damaged(f"a variable has {len(dims)} dimensions")
    slices = [content for number, content in _fields(value) if number == 7]
    for content in slices:
        if not isinstance(content, bytes):
            raise _Damaged("a message has a field of the wrong type")
        list(_fields(content))
    return Variable(
        **entry | {"crc": int.from_bytes(entry["crc"], "little")},
        shape=tuple(dim["size"] for dim in dims),
        is_sliced=bool(slices),
    )


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise _Damaged(f"the name {shown(key)} is not UTF-8") from None
