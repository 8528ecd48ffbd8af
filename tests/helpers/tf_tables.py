"""TensorFlow's tables of variables, in the plainest way, from the description of LevelDB's tables.

Checksums are computed bit by bit here, not by the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["MAGIC", "block", "blocks", "crc32c", "field", "fields", "items_of", "sealed", "table", "varint"]

MAGIC = bytes.fromhex("57fb808b247547db")


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_REMAINDERS = [_remainder(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """CRC-32C, byte by byte."""
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ _REMAINDERS[(register ^ byte) & 255]
    return register ^ 0xFFFFFFFF


def _masked(crc: int) -> bytes:
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


# ---- written


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(items: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """A block and its end; keys have in common with the key before them what they can."""
    data, last = b"", b""
    for key, value in items:
        pairs = enumerate(zip(key, last, strict=False))
        shared = next((i for i, (a, b) in pairs if a != b), min(len(key), len(last)))
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return sealed(data + bytes(4) + (1).to_bytes(4, "little") + bytes([compression]))


def sealed(data: bytes) -> bytes:
    """A block's contents and kind, followed by their checksum."""
    return data + _masked(crc32c(data))


def table(items: list[tuple[bytes, bytes]], in_a_block: int = 100, compression: int = 0) -> bytes:
    """A whole file."""
    data, places = b"", []
    for at in range(0, len(items), in_a_block):
        part = items[at : at + in_a_block]
        found = block(part, compression)
        places.append((part[-1][0], varint(len(data)) + varint(len(found) - 5)))
        data += found
    index = block(places)
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + MAGIC


# ---- read; any error says that the file is damaged


def _number(data: bytes, at: int) -> tuple[int, int]:
    end = next(i for i in range(at, min(at + 10, len(data))) if data[i] < 128) + 1
    return sum((byte & 127) << 7 * i for i, byte in enumerate(data[at:end])), end


def _contents(data: bytes, place: bytes) -> bytes:
    """The contents of the block at a place."""
    begin, at = _number(place, 0)
    size, _ = _number(place, at)
    if begin + size + 5 > len(data) - 48 or data[begin + size] != 0:
        raise ValueError("a block outside the file, or a compressed one")
    if _masked(crc32c(data[begin : begin + size + 1])) != data[begin + size + 1 : begin + size + 5]:
        raise ValueError("a wrong checksum")
    return data[begin : begin + size]


def _pairs(contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = len(contents) - 4 - 4 * int.from_bytes(contents[-4:], "little")
    if len(contents) < 4 or end < 0:
        raise ValueError("a block without an end")
    at, key = 0, b""
    while at < end:
        shared, at = _number(contents, at)
        own, at = _number(contents, at)
        size, at = _number(contents, at)
        if shared > len(key) or at + own + size > end:
            raise ValueError("an entry that is longer than its block")
        key = key[:shared] + contents[at : at + own]
        yield key, contents[at + own : at + own + size]
        at += own + size
    restarts = np.frombuffer(contents[end:-4], "<u4")
    if not len(restarts) or restarts[0]:
        raise ValueError("a block that TensorFlow finds empty, or whose first entry it does not find")


def blocks(data: bytes) -> list[tuple[int, int]]:
    """Where the blocks of a file begin and end, the index last; their checksums come after."""
    _, at = _number(data, len(data) - 48)
    _, at = _number(data, at)
    index = data[at:]
    places = [place for _, place in _pairs(_contents(data, index))] + [index]
    found = []
    for place in places:
        begin, at = _number(place, 0)
        found.append((begin, begin + _number(place, at)[0] + 1))
    return found


def items_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """The keys and values of a file."""
    if data[-8:] != MAGIC:
        raise ValueError("not a table")
    _, at = _number(data, len(data) - 48)
    _, at = _number(data, at)
    index = _pairs(_contents(data, data[at:]))
    return [item for _, place in index for item in _pairs(_contents(data, place))]


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: numbers as int, everything else as bytes."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        if tag & 7 == 0:
            value, at = _number(message, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 2:
            size, at = _number(message, at)
        if size is None or at + size > len(message):
            raise ValueError("a field that is longer than its message")
        yield tag >> 3, message[at : at + size]
        at += size
