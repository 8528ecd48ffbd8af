"""The largest headers that are accepted, of the costliest content, take at most 64 MB (and not ten seconds).

Each is made of about as many of the same piece as the limits allow: one with twice as many is refused.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile

import pytest
from helpers.gguf_files import text, typed
from helpers.reading import attempt
from helpers.tf_tables import field, table
from helpers.tiny_checkpoints import TINY


def safetensors(count):
    entries = (f'"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    header = f"{{{','.join(entries)}}}".encode()
    return len(header).to_bytes(8, "little") + header


def metadata(count):
    texts = ",".join(f'"{i}":"あ"' for i in range(count))
    header = f'{{"__metadata__":{{{texts}}}}}'.encode()
    return len(header).to_bytes(8, "little") + header


def config(value):
    start = json.dumps(TINY)[:-1]
    return lambda count: f'{start},"x":[{",".join([value] * count)}]}}'.encode()


def keys(count):
    more = ",".join(f'"{i}":0' for i in range(count))
    return f"{json.dumps(TINY)[:-1]},{more}}}".encode()


def torch(pickle, members=0):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
        archive.writestr("a/version", b"3")
        for i in range(members):
            archive.writestr(zipfile.ZipInfo(f"a/data/{i}"), b"")
    return out.getvalue()


def instructions(piece):
    return lambda count: torch(b"\x80\x04](" + piece * count + b"e.")


def text_of_one(count):
    return torch(b"\x80\x04X" + struct.pack("<I", count) + "😀".encode() + b"a" * (count - 4) + b".")


def entries(count):
    return gguf(b"".join(text(f"{i}") + typed("😀") for i in range(count)), n_entries=count)


def tensors(count):
    return gguf(
        b"".join(text(f"{i}") + struct.pack("<IQIQ", 1, 0, 0, 0) for i in range(count)), n_tensors=count
    )


def gguf(header, n_tensors=0, n_entries=0):
    data = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_entries) + header
    return data + bytes(-len(data) % 32)


def array(kind, element):
    return lambda count: gguf(text("a") + struct.pack("<IIQ", 9, kind, count) + element * count, n_entries=1)


def index(count):
    head = (b"", field(1, 1))
    return table([head, *((b"%06d" % i, field(2, field(2, field(1, i)))) for i in range(count))], 1000)


COSTLY = {
    "tensors": ("safetensors", safetensors, 4500),
    "metadata": ("safetensors", metadata, 17_000),
    "lists": ("config", config("[]"), 170_000),
    "objects": ("config", config("{}"), 170_000),
    "characters": ("config", config('"あ"'), 85_000),
    "keys": ("config", keys, 9_900),
    "pickled lists": ("torch", instructions(b"]"), 99_000),
    "pickled dicts": ("torch", instructions(b"}"), 99_000),
    "a memo": ("torch", instructions(b"]\x94"), 49_000),
    "a text": ("torch", text_of_one, 4_000_000),
    "members": ("torch", lambda count: torch(b"\x80\x04N.", count), 6_700),
    "entries": ("gguf", entries, 4096),
    "descriptions": ("gguf", tensors, 4096),
    "texts": ("gguf", array(8, text("😀")), 400_000),
    "numbers": ("gguf", array(11, b"\1" * 8), 400_000),
    "variables": ("tensorflow", index, 4096),
}
"""The reader, what makes a file of so many pieces, and about the most that are accepted."""


@pytest.mark.parametrize(("reader", "made", "count"), COSTLY.values(), ids=COSTLY)
def test_the_largest_header_takes_little_memory_and_time(reader, made, count, tmp_path):
    assert attempt(reader, made(count), tmp_path, compared=False) == (True, None)
    assert attempt(reader, made(2 * count), tmp_path) == (False, None)
