"""Files with damage: bytes, pieces of text, and what each format consists of, with its checksums made right.

Every function takes a file and a random generator. What cannot be taken apart is changed in its bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from helpers.damage_binary import in_gguf, in_table, in_torch

__all__ = ["damaged", "in_bytes", "in_json"]

Rng = np.random.Generator

EDGES = [
    0,
    1,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 1.5, 1e308, "", "x", [], {}, [[]], [None], {"a": 1}),
    *(2**31, 2**63, 2**64, -(2**63), 10**30, "\ud800", "\0", "é", float("nan")),
]
DTYPES = ["F32", "F16", "BF16", "F64", "I8", "U8", "I64", "BOOL", "F8_E4M3", "F4", "C64", "f32", "F6_E2M3"]
PIECES = [
    *(b'"', b'""', b"'", b"\xef\xbb\xbf", b"\0", b"\r", b"\n", b"\r\n", b"\xff", b"\xc3", b"\xed\xa0\x80"),
    *(
        b"\\ud800",
        b"\\u0000",
        b"\\u00",
        b"\\",
        b",",
        b";",
        b"\t",
        b" ",
        b"\xe2\x80\xa8",
        b"\x1c",
        b"\xc2\x85",
    ),
    *(
        b"1e999",
        b"NaN",
        b"-0",
        b"1.0",
        b"1E2",
        b"01",
        b"[",
        b"{",
        b"}",
        b"]",
        b":",
        b"text",
        b"null",
        b"true",
    ),
    *(
        b'"text":',
        b'{"text":1}',
        b'"text":"b",',
        b"[" * 2000,
        b"9" * 5000,
        b"\xf4\x90\x80\x80",
        b"#",
        b"\x0c",
    ),
]


def damaged(reader: str, data: bytes, files: Sequence[bytes], rng: Rng) -> bytes:
    """A file of a reader's format, changed; ``files``: others of the format, for their pieces."""
    ways = _WAYS.get(reader, ())
    if ways and rng.random() < 0.6:
        try:
            return ways[rng.integers(len(ways))](data, rng)
        except Exception:  # no longer of this format: many kinds of errors, of many libraries
            pass
    return in_bytes(data, files, rng)


def in_bytes(data: bytes, files: Sequence[bytes], rng: Rng) -> bytes:
    """One to three changes of bits, bytes, pieces, or numbers at edges."""
    for _ in range(rng.integers(1, 4)):
        reach = len(data) if rng.random() < 0.5 else min(len(data), 400)  # headers are at the start
        a, b = sorted(int(x) for x in rng.integers(0, reach + 1, 2))
        kind = rng.integers(6)
        if kind == 0 and data:
            a = min(a, len(data) - 1)
            data = data[:a] + bytes([data[a] ^ 1 << int(rng.integers(8))]) + data[a + 1 :]
        elif kind == 1:
            data = data[:a]
        elif kind == 2:
            data = data[:a] + rng.bytes(int(rng.integers(1, 9))) + data[a:]
        elif kind == 3:
            data = data[:b] + data[a:b][:4096] + data[b:]
        elif kind == 4:
            data = data[:a] + files[rng.integers(len(files))][b:]
        else:
            number = struct.pack("<Q", EDGES[rng.integers(len(EDGES))])[: int(rng.choice((1, 2, 4, 8)))]
            data = data[:a] + number + data[a + len(number) :]
    return data


# ---- texts


def in_text(data: bytes, rng: Rng) -> bytes:
    """Pieces of texts put in, put in place of others, or lines and their ends changed."""
    for _ in range(rng.integers(1, 4)):
        a = int(rng.integers(len(data) + 1))
        kind = rng.integers(5)
        if kind < 2:
            piece = PIECES[rng.integers(len(PIECES))]
            data = data[:a] + piece + data[a + (len(piece) if kind else 0) :]
        elif kind == 2:
            lines = data.splitlines(keepends=True) or [b""]
            i, j = rng.integers(len(lines), size=2)
            lines[i] = [b"", lines[j], lines[i] * 2][rng.integers(3)]
            data = b"".join(lines)
        elif kind == 3:
            ends = [b"\n", b"\r\n", b"\r", b""]
            data = data.replace(ends[rng.integers(3)], ends[rng.integers(4)], int(rng.integers(1, 4)))
        else:
            data = b"\xef\xbb\xbf" * int(rng.integers(1, 3)) + data
    return data


def in_json(data: bytes, rng: Rng) -> bytes:
    """Another value somewhere in a JSON text."""
    value = json.loads(data)
    for _ in range(rng.integers(1, 3)):
        _exchange(value, rng)
    return json.dumps(value).encode()


def _exchange(value: Any, rng: Rng) -> None:
    """Another value, key or order somewhere in a value of JSON."""
    at = value
    while isinstance(at, dict | list) and at:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = keys[rng.integers(len(keys))]
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.8:
            at = at[key]
            continue
        kind = rng.integers(6)
        if kind == 0:
            del at[key]
        elif kind == 1:
            at[key] = at[keys[rng.integers(len(keys))]]
        elif kind == 2 and isinstance(at, dict):
            at[["", "x", "type", "text", "__metadata__"][rng.integers(5)]] = at.pop(key)
        elif kind == 3 and type(at[key]) in (int, float):
            at[key] += int(rng.integers(-2, 3))
        else:
            at[key] = VALUES[rng.integers(len(VALUES))]
        return


def in_spelling(data: bytes, rng: Rng) -> bytes:
    """The same JSON, spelled in another way: a key twice, other numbers, escapes, spaces."""
    text = data.decode()
    kind = rng.integers(4)
    if kind == 0:
        return text.replace("{", '{"x":0,"x":0,', 1).encode()
    if kind == 1:
        return text.replace(
            str(rng.integers(10)), ["1e0", "1.0", "-0", "01", "1E1"][rng.integers(5)], 1
        ).encode()
    if kind == 2:
        return json.dumps(json.loads(data), ensure_ascii=False, indent=int(rng.integers(3))).encode()
    letter = text[rng.integers(len(text))]
    return text.replace(letter, f"\\u{ord(letter):04x}", int(rng.integers(1, 3))).encode()


def in_line(data: bytes, rng: Rng) -> bytes:
    """Another value in one of several lines of JSON."""
    lines = data.split(b"\n")
    i = rng.integers(len(lines))
    lines[i] = in_json(lines[i], rng)
    return b"\n".join(lines)


# ---- safetensors, also packed


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _joined(header: Any, body: bytes, padding: int = 0) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + body


def _entries(header: dict[str, Any], body: bytes, rng: Rng) -> bytes:
    """A change of tensors; of some the data is changed with them. Returns the data."""
    names = [name for name in header if name != "__metadata__"]
    name, other = (names[i] for i in rng.integers(len(names), size=2))
    entry = header[name]
    begin, end = entry["data_offsets"]
    kind = rng.integers(8)
    if kind == 0:
        entry["dtype"] = DTYPES[rng.integers(len(DTYPES))]
    elif kind == 1:
        entry["shape"].insert(int(rng.integers(len(entry["shape"]) + 1)), EDGES[rng.integers(len(EDGES))])
    elif kind == 2:
        entry["shape"] = [list(reversed(entry["shape"])), [1, *entry["shape"]], [0]][rng.integers(3)]
    elif kind == 3:
        entry["data_offsets"][rng.integers(2)] += int(rng.choice((-8, -4, -1, 1, 4, 8)))
    elif kind == 4:
        header[name], header[other] = header[other], header[name]
    elif kind == 5:
        header[["x", "", "a" * 300, "__metadata__ "][rng.integers(4)]] = header.pop(name)
    elif kind == 6:
        header[f"{name}+"] = {"dtype": "F32", "shape": [0], "data_offsets": [begin, begin]}
    else:  # without its data, and all others moved
        del header[name]
        for rest in header.values():
            offsets = rest.get("data_offsets", [0, 0])
            rest["data_offsets"] = [at - (end - begin) * (at >= end) for at in offsets]
        header.get("__metadata__", {}).pop("data_offsets", None)
        return body[:begin] + body[end:]
    return body


def in_safetensors(data: bytes, rng: Rng) -> bytes:
    """Another header, of the right length."""
    header, body = _split(data)
    if rng.random() < 0.4:
        _exchange(header, rng)
    elif rng.random() < 0.2:
        text = in_spelling(json.dumps(header).encode(), rng)
        return len(text).to_bytes(8, "little") + text + body
    else:
        body = _entries(header, body, rng)
    return _joined(header, body, int(rng.integers(3)))


def in_packed(data: bytes, rng: Rng) -> bytes:
    """A packed file with another header, configuration or vocabulary, aligned and with the right checksum."""
    header, body = _split(data)
    texts, kind = header["__metadata__"], rng.integers(5)
    if kind == 0:
        _exchange(header, rng)
    elif kind == 1:
        key = ["config", "generation_config"][rng.integers(2)]
        texts[key] = (in_json if rng.random() < 0.7 else in_text)(texts[key].encode(), rng).decode()
    elif kind == 2:
        texts[list(texts)[rng.integers(len(texts))]] = str(VALUES[rng.integers(len(VALUES))])
    elif kind == 3:
        body = _entries(header, body, rng)
    else:
        entry = header["vocabulary"]
        begin, _ = entry["data_offsets"]
        text = in_json(body[begin:], rng)
        body, entry["shape"], entry["data_offsets"] = (
            body[:begin] + text,
            [len(text)],
            [begin, begin + len(text)],
        )
    return sealed(header) + body


def sealed(header: dict[str, Any], more: int = 0) -> bytes:
    """A packed file's header with its length, padding (and ``more``), and the checksum as documented."""
    texts = header.get("__metadata__")
    if isinstance(texts, dict) and "header_crc32" in texts:
        texts["header_crc32"] = "0" * 8
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64 + more)
    data = len(text).to_bytes(8, "little") + text
    return data.replace(b'"header_crc32":"00000000"', b'"header_crc32":"%08x"' % zlib.crc32(data), 1)


def in_parquet(data: bytes, rng: Rng) -> bytes:
    """Another footer, of the right length."""
    size = int.from_bytes(data[-8:-4], "little")
    if not 0 < size <= len(data) - 12:
        raise ValueError("no footer")
    footer = in_bytes(data[-8 - size : -8], [data], rng)
    return data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


_WAYS: dict[str, tuple[Callable[[bytes, Rng], bytes], ...]] = {
    "safetensors": (in_safetensors,),
    "packed": (in_packed,),
    "torch": (in_torch,),
    "gguf": (in_gguf,),
    "tensorflow": (in_table,),
    "tokenizer": (in_json, in_json, in_json, in_text, in_spelling),
    "config": (in_json, in_json, in_text, in_spelling),
    "jsonl": (in_text, in_text, in_line, in_spelling),
    "csv": (in_text,),
    "parquet": (in_parquet,),
}
