"""Damage in the parts of binary formats: pickles and archives of torch, GGUF, TensorFlow's tables."""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
import zipfile
from typing import Any

import numpy as np

from helpers.gguf_files import text, typed
from helpers.tf_tables import blocks, fields, items_of, sealed, table, varint

__all__ = ["in_gguf", "in_pickle", "in_table", "in_torch"]

Rng = np.random.Generator

_EDGES = [0, 1, 2, 4, 8, 31, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


def _one(choices: Any, rng: Rng) -> Any:
    return choices[rng.integers(len(choices))]


def _bytes(data: bytes, rng: Rng) -> bytes:
    """One change of a few bytes."""
    a, kind = int(rng.integers(len(data) + 1)), rng.integers(4)
    if kind == 0 and a < len(data):
        return data[:a] + bytes([data[a] ^ 1 << int(rng.integers(8))]) + data[a + 1 :]
    if kind == 1:
        return data[:a]
    if kind == 2:
        return data[:a] + rng.bytes(int(rng.integers(1, 9))) + data[a:]
    number = struct.pack("<Q", _one(_EDGES, rng))[: int(rng.choice((1, 2, 4, 8)))]
    return data[:a] + number + data[a + len(number) :]


# ---- pickles

_PLAIN = [
    code.code.encode("latin-1")
    for code in pickletools.opcodes
    if code.arg is None and code.name not in ("STOP", "REDUCE")
]
_WITH = [
    *(b"K\x00", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\0\0\0\x80", b"\x8a\x00", b"\x8a\x01\xff"),
    *(b"\x8a\x09" + bytes(8) + b"\x01", b"\x8b\xff\xff\xff\x7f", b"G\x7f\xf8\0\0\0\0\0\0", b"I01\n", b"I7\n"),
    *(b"L1L\n", b"F1.5\n", b"S'a'\n", b"Vtext\n", b"U\x01a", b"X\x01\0\0\0a", b"\x8c\x01a", b"\x8c\x00"),
    *(b"X\xff\xff\xff\xff", b"X\x02\0\0\0\xff\xfe", b"X\x03\0\0\0\xed\xa0\x80", b"C\x01a", b"B\0\0\0\0"),
    *(b"\x8d" + (2**63).to_bytes(8, "little"), b"\x95" + bytes(8), b"\x80\x02", b"\x80\x05", b"\x80\x06"),
    *(b"q\x00", b"q\x05", b"h\x00", b"h\x05", b"r\0\0\0\0", b"j\x05\0\0\0", b"p0\n", b"g0\n", b"\x94"),
    *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"ctorch\nload\n", b"ctorch._utils\n_rebuild_tensor\n"),
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nfloat16\n",
        b"ctorch\nSize\n",
    ),
    *(b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nOrderedDict\n", b"ctorch\ndevice\n"),
    *(b"ctorch\nQInt8Storage\n", b"ctorch.storage\nUntypedStorage\n", b"Pstorage\n", b"ios\nsystem\n"),
    *(
        b")R",
        b"(dR",
        b"}(X\x01\0\0\0aK\x01u",
        b"](K\x01K\x02e",
        b"0",
        b"2",
        b"a",
        b"s",
        b"b",
        b"\x85",
        b"\x86",
    ),
]


def _instructions(data: bytes) -> list[bytes]:
    """The instructions of the first pickle, and what comes after it."""
    stream = io.BytesIO(data)
    starts = [place or 0 for _, _, place in pickletools.genops(stream)]
    ends = [*starts[1:], stream.tell()]
    return [data[a:b] for a, b in zip(starts, ends, strict=True)] + [data[stream.tell() :]]


def in_pickle(data: bytes, rng: Rng) -> bytes:
    """Other instructions in the first pickle: some left out, added, replaced, exchanged or repeated."""
    *found, rest = _instructions(data)
    for _ in range(rng.integers(1, 4)):
        i, j = (int(x) for x in rng.integers(len(found), size=2))
        kind = rng.integers(8)
        if kind == 0:
            del found[i]
        elif kind == 1:
            found.insert(i, _one(_PLAIN if rng.random() < 0.4 else _WITH, rng))
        elif kind == 2:
            found[i] = _one(_PLAIN if rng.random() < 0.4 else _WITH, rng)
        elif kind == 3:
            found[i], found[j] = found[j], found[i]
        elif kind == 4:
            found[i:i] = found[i : i + int(rng.integers(1, 12))]
        elif kind == 5:
            alike = [one for one in found if one[:1] == found[i][:1]]
            found[i] = _one(alike, rng)
        elif kind == 6 and found[i][:1] in b"KMJ":
            found[i] = b"J" + struct.pack("<i", int(rng.choice((-1, 0, 1, 2, 3, 7, 64, 2**31 - 1))))
        else:
            found[i] = found[i][:1] + _bytes(found[i][1:], rng)
        if not found:
            break
    return b"".join(found) + rest


def in_torch(data: bytes, rng: Rng) -> bytes:
    """Another pickle, or another member of the archive; the archive's checksums are right."""
    if data[:2] != b"PK":
        parts, rest = [], data
        for _ in range(5):
            *found, rest = _instructions(rest)
            parts.append(b"".join(found))
        i = int(rng.choice((0, 1, 2, 3, 3, 3, 4, 5)))
        if i == 5:
            rest = _bytes(rest, rng)
        else:
            parts[i] = in_pickle(parts[i], rng)
        return b"".join(parts) + rest
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = next(i for i, (name, _) in enumerate(members) if name.endswith("/data.pkl"))
    if rng.random() < 0.3:  # but what begins with a point are torch's notes, which gpt2c does not read
        i = int(_one([i for i, (name, _) in enumerate(members) if "/." not in name], rng))
    name, content = members[i]
    kind = rng.integers(10)
    if kind == 0:
        del members[i]
    elif kind == 1:
        members.insert(i, (_one([name, f"{name}x", "archive/data.pkl", name.lower()], rng), content))
    elif kind == 2:
        members[i] = (_one([f"../{name}", name.replace("/", "//"), "", members[0][0]], rng), content)
    else:
        change = in_pickle if name.endswith(".pkl") and kind < 9 else _bytes
        members[i] = (name, change(content, rng))
    out = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(out, "w") as archive,
    ):  # names that occur twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), content)
    return out.getvalue()


# ---- GGUF

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class _Reader:
    """What is read from the start of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError("truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> bytes:
        return self.take(self.number(8))

    def value(self) -> bytes:
        """A value with its type, as it is."""
        start, kind, count = self.at, self.number(4), 1
        if kind == 9:
            kind, count = self.number(4), self.number(8)
        if kind == 8:
            for _ in range(count):
                self.text()
        else:
            self.take(_WIDTHS[kind] * count)
        return self.data[start : self.at]


def in_gguf(data: bytes, rng: Rng) -> bytes:
    """Another entry, tensor, count or alignment; everything else is where it belongs."""
    reader = _Reader(data)
    reader.take(4)
    version, n_tensors, n_entries = reader.number(4), reader.number(8), reader.number(8)
    entries = [[reader.text(), reader.value()] for _ in range(n_entries)]
    tensors: list[list[Any]] = []
    for _ in range(n_tensors):
        name = reader.text()
        sizes = [reader.number(8) for _ in range(reader.number(4))]
        tensors.append([name, sizes, reader.number(4), reader.number(8)])
    alignment, counts = 32, [n_tensors, n_entries]
    for key, value in entries:
        if key == b"general.alignment":
            alignment = max(1, int.from_bytes(value[4:8], "little") % 4096)
    body = data[reader.at + -reader.at % alignment :]
    kind = rng.integers(8)
    if kind < 3 and entries:
        _in_entry(entries, rng)
    elif kind < 6 and tensors:
        _in_tensor(tensors, rng)
    elif kind == 6:
        version, counts[rng.integers(2)] = int(_one([2, 3, 3, 1, 4], rng)), int(_one(_EDGES, rng))
    else:
        body = _bytes(body, rng)
    if kind != 6:
        counts = [len(tensors), len(entries)]
    head = b"GGUF" + struct.pack("<IQQ", version, *counts)
    head += b"".join(text(key) + value for key, value in entries)
    for name, sizes, number, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, number, offset)
    return head + bytes(-len(head) % alignment) + body


def _in_entry(entries: list[list[bytes]], rng: Rng) -> None:
    i = int(rng.integers(len(entries)))
    key, value = entries[i]
    kind = rng.integers(6)
    if kind == 0:
        number = struct.pack("<Q", _one(_EDGES, rng))[: int(rng.choice((1, 4, 8)))]
        at = int(rng.choice((0, 4, 8, 12, 16)))
        value = value[:at] + number + value[at + len(number) :]
    elif kind == 1:
        value = typed(_one([True, 3, 64, 1.5, "a", "é", [], [1], ["a", ""], b"\x07\0\0\0\2", 2**32 - 1], rng))
    elif kind == 2:
        scalar = int(_one([*_WIDTHS], rng))
        value = struct.pack("<IIQ", 9, scalar, 2) + rng.bytes(2 * _WIDTHS[scalar])
    elif kind == 3:
        key = _one([b"", b"general.alignment", b"\xff", key + b"x", _one(entries, rng)[0]], rng)
    elif kind == 4:
        entries.insert(i, list(_one(entries, rng)))
        return
    else:
        del entries[i]
        return
    entries[i] = [key, value]


def _in_tensor(tensors: list[list[Any]], rng: Rng) -> None:
    i = int(rng.integers(len(tensors)))
    name, sizes, number, offset = tensors[i]
    kind = rng.integers(7)
    if kind == 0:
        sizes = [*sizes, int(_one(_EDGES, rng))]
    elif kind == 1 and sizes:
        sizes = _one([sizes[::-1], [1, *sizes], sizes[:-1], [sizes[0] // 2, 2, *sizes[1:]]], rng)
    elif kind == 2:
        number = int(rng.integers(42)) if rng.random() < 0.8 else int(_one(_EDGES, rng)) % 2**32
    elif kind == 3:
        offset = int(_one([offset + 32, max(0, offset - 32), offset + 1, 0, 2**63, 2**64 - 32], rng))
    elif kind == 4:
        name = _one([b"", b"\xff", name + b"x", _one(tensors, rng)[0], b"a" * 70], rng)
    elif kind == 5:
        tensors[i : i + 2] = tensors[i : i + 2][::-1]
        return
    else:
        del tensors[i]
        return
    tensors[i] = [name, sizes, number, offset]


# ---- TensorFlow's tables


def _message(value: bytes, rng: Rng) -> bytes:
    """A protocol buffer with another field, or other bytes."""
    if rng.random() < 0.3:
        return _bytes(value, rng)
    found: list[tuple[int, Any]] = list(fields(value))
    i = int(rng.integers(len(found) + 1))
    numbers = [int(_one(_EDGES, rng)), b"", rng.bytes(4), 3]
    if i == len(found) or rng.random() < 0.3:
        found.insert(i, (int(rng.integers(1, 9)), _one(numbers, rng)))
    elif rng.random() < 0.3:
        del found[i]
    else:
        number, content = found[i]
        nested = isinstance(content, bytes) and number in (2, 3)
        found[i] = (number, _message(content, rng) if nested and rng.random() < 0.7 else _one(numbers, rng))
    out = b""
    for number, content in found:
        if isinstance(content, int):
            out += varint(number << 3) + varint(content)
        elif number == 6 and len(content) == 4:  # a checksum has a width
            out += varint(number << 3 | 5) + content
        else:
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def in_table(data: bytes, rng: Rng) -> bytes:
    """Other keys and values, or other bytes of a block; checksums are right."""
    if rng.random() < 0.3:
        begin, end = _one(blocks(data), rng)
        content = _bytes(data[begin : end - 1], rng)[: end - 1 - begin].ljust(end - 1 - begin, b"\0")
        return data[:begin] + sealed(content + data[end - 1 : end]) + data[end + 4 :]
    items = items_of(data)
    i = int(rng.integers(len(items)))
    key, value = items[i]
    kind = rng.integers(6)
    if kind == 0:
        items[i] = (_bytes(key, rng), value)
    elif kind == 1:
        items.insert(i, (_one([key, key + b"\0", b"\xff"], rng), value))
    elif kind == 2:
        del items[i]
    else:
        items[i] = (key, _message(value, rng))
    return table(items, int(rng.integers(1, 9)), int(rng.random() < 0.05))
