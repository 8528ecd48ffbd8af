"""CRC-32C, the checksum of TensorFlow's files, for half a gigabyte in a fraction of a second.

The checksum is the remainder of the bits, as a polynomial over {0, 1}, divided by one of degree 32. With a
multiple of the divisor that has few terms, the division is XORs of whole arrays. x^5685 + x^1362 + x^426 + 1
is one; squared six times it is x^(64 * 5685) + x^(64 * 1362) + x^(64 * 426) + 1, as the cross terms cancel.
So a word of 64 bits can be removed if it is added 5685, 5685 - 426 and 5685 - 1362 words later.
"""

from __future__ import annotations

import numpy as np

from ..errors import CheckpointError
from .files import RegularFile

__all__ = ["crc32c", "crc32c_of_file", "masked"]

_DEGREE, *_OTHERS = 5685, 1362, 426, 0
# Words to move at a time: none is moved onto another.
_MOVED = _DEGREE - _OTHERS[0]
_WORDS = 2**17
_ONES = 0xFFFFFFFF
# These bytes take the register from 0 to _ONES, its initial value; zeros before them change nothing.
_BEGIN = b"\x54\x64\x1f\x64"


def _table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ 0x82F63B78 * (value & 1) for value in table]
    return table


_TABLE = _table()


def crc32c(data: bytes, register: int = _ONES) -> int:
    """The checksum of a few bytes, one by one."""
    for byte in data:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
    return register ^ _ONES


def crc32c_of_file(file: RegularFile, offset: int, nbytes: int) -> int:
    """The checksum of ``nbytes`` of a file from ``offset`` on. CheckpointError if the file is shorter."""
    words = np.zeros(_DEGREE + _WORDS, np.uint64)
    room = words.view(np.uint8).data
    whole, first = divmod(nbytes, 8 * _WORDS)
    begin = len(room) - first
    room[begin - len(_BEGIN) : begin] = _BEGIN
    for size in (first, *[8 * _WORDS] * whole):
        if file.read_into(room[len(room) - size :], offset) != size:
            raise CheckpointError(f"{file.path} has been truncated since it was opened")
        offset += size
        _fold(words)
        words[:_DEGREE] = words[_WORDS:]
    return crc32c(words[:_DEGREE].tobytes().lstrip(b"\0"), 0)


def _fold(words: np.ndarray) -> None:
    """Fold all words into the last ``_DEGREE`` ones, which then have the same remainder."""
    end = len(words) - _DEGREE
    for at in range(0, end, _MOVED):
        moved = words[at : min(at + _MOVED, end)]
        for exponent in _OTHERS:
            to = at + _DEGREE - exponent
            words[to : to + len(moved)] ^= moved


def masked(crc: int) -> int:
    """A checksum masked as TensorFlow stores it, for data that contains checksums itself."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ONES
