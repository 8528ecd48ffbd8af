"""What the library of a file's format reads from it, compared with what gpt2c reads."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import zlib
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gpt2c.checkpoint.packed import Packed
from gpt2c.checkpoint.tensors import TensorInfo
from helpers.oracle_tokenizers import answers
from helpers.tf_tables import fields, items_of

__all__ = ["COMPARISONS", "LIBRARIES", "Different", "compare", "load"]

LIBRARIES = {
    "safetensors": "safetensors",
    "torch": "torch",
    "gguf": "gguf",
    "tokenizer": "tokenizers",
    "parquet": "pyarrow",
}
"""Readers whose files are compared with a library that may be missing."""


class Different(Exception):
    """Accepted, but not what the library reads."""


def load(reader: str) -> None:
    """Import the library of a reader, if it has one that is installed."""
    if find_spec(LIBRARIES.get(reader, "json")) is not None:
        import_module(LIBRARIES.get(reader, "json"))


def compare(reader: str, path: Path, found: Any) -> None:
    """Raise `Different` if the format's library rejects the file, or reads something else than ``found``."""
    library = LIBRARIES.get(reader)
    if library is not None and find_spec(library) is None:
        return
    try:
        COMPARISONS[reader](path, found)
    except Different:
        raise
    except Exception as error:  # whatever a library raises
        raise Different(f"rejected elsewhere: {type(error).__name__}: {str(error)[:300]}") from error


def _expect(what: str, ours: Any, theirs: Any) -> None:
    """Equal, also in type: 1 is not True, and NaN is NaN."""
    if repr(ours) != repr(theirs):
        raise Different(f"{what}: {repr(ours)[:150]}, elsewhere {repr(theirs)[:150]}")


def _safetensors(path: Path, found: dict[str, TensorInfo]) -> None:
    import safetensors

    data = path.read_bytes()
    theirs = dict(safetensors.deserialize(data))
    _expect(
        "tensors",
        {name: (info.dtype, list(info.shape)) for name, info in sorted(found.items())},
        {name: (entry["dtype"], list(entry["shape"])) for name, entry in sorted(theirs.items())},
    )
    for name, info in found.items():
        if data[info.offset : info.offset + info.nbytes] != bytes(theirs[name]["data"]):
            raise Different(f"other bytes of {name!r}")


def _packed(path: Path, found: Packed) -> None:
    """As docs/packed-files.md describes the file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    texts = header.pop("__metadata__")
    crc = texts["header_crc32"]
    unsealed = data[:end].replace(f'"header_crc32":"{crc}"'.encode(), b'"header_crc32":"00000000"', 1)
    _expect("checksum", crc, f"{zlib.crc32(unsealed):08x}")
    _expect("kind", ("gpt2c packed", "3"), (texts["format"], texts["version"]))
    _expect("texts", (found.dtype, found.metadata), (texts["dtype"], texts))
    ours = json.loads(json.dumps(asdict(found.config)))
    theirs = json.loads(texts["config"])
    if {key: ours[key] for key in theirs} != theirs | ({"head": ours["head"]} if theirs["head"] else {}):
        raise Different("another configuration")
    _expect("generation_config", found.generation_config, json.loads(texts["generation_config"]))
    at = end
    weights = found.weights()
    for name, entry in header.items():
        begin, stop = (end + offset for offset in entry["data_offsets"])
        _expect(f"place of {name}", (begin, 0), (at, begin % 64))
        size = math.prod(entry["shape"]) * {"U8": 1, "F32": 4}[entry["dtype"]]
        _expect(f"size of {name}", size, stop - begin)
        at = stop
        if name == "vocabulary":
            _expect(name, found.vocabulary, json.loads(data[begin:stop]))
        elif not data[begin:stop].startswith(np.ascontiguousarray(weights.packed[name]).tobytes()):
            raise Different(f"other bytes of {name}")
    _expect("end", at, len(data))


# ---- torch


class _Plain(pickle.Unpickler):
    """Python's own reader of pickles, with no more than the names that a file of tensors needs."""

    _NAMES = ("OrderedDict", "Size", "device")

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and not name.startswith("_")
        if name not in self._NAMES and not (
            name.startswith("_rebuild_") or name.endswith("Storage") or dtype
        ):
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


class _Pickle:
    """What torch.load uses of the module pickle."""

    __name__ = "pickle"
    Unpickler = _Plain

    @staticmethod
    def load(file: Any, **how: Any) -> Any:
        return _Plain(file, **how).load()


def _torch(path: Path, found: Any) -> None:
    import torch

    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # instructions of later protocols, which only Python's reader knows
        theirs = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Pickle)
    _same_value(found, theirs, path.read_bytes(), "value")


def _same_value(ours: Any, theirs: Any, data: bytes, where: str) -> None:
    import torch

    if isinstance(ours, TensorInfo):
        names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
        names |= {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
        _expect(f"{where}, dtype", f"torch.{names[ours.dtype]}", str(getattr(theirs, "dtype", None)))
        _expect(f"{where}, shape", list(ours.shape), list(theirs.shape))
        item = theirs.element_size()
        whole = np.frombuffer(data[ours.offset : ours.offset + ours.nbytes], f"V{item}")
        if 0 not in ours.shape:
            strides = ours.strides or [math.prod(ours.shape[i + 1 :]) for i in range(len(ours.shape))]
            array = np.lib.stride_tricks.as_strided(whole, ours.shape, [n * item for n in strides])
            plain = theirs.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            if array.tobytes() != plain.tobytes():
                raise Different(f"{where}: other elements")
    elif isinstance(ours, dict):
        _expect(f"{where}, keys", list(ours), list(theirs))
        for key, value in ours.items():
            _same_value(value, theirs[key], data, f"{where}[{key!r}]"[:200])
    elif isinstance(ours, list | tuple):
        if isinstance(theirs, torch.device):
            theirs = str(theirs)
        _expect(f"{where}, type and length", (type(ours), len(ours)), (_sequence(theirs), len(theirs)))
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _same_value(a, b, data, f"{where}[{i}]"[:200])
    elif ours is None and isinstance(theirs, torch.TypedStorage | torch.UntypedStorage):
        pass
    elif isinstance(theirs, torch.dtype | torch.device):
        _expect(where, ours, str(theirs))
    else:
        _expect(where, ours, theirs)


def _sequence(value: Any) -> type:
    return tuple if isinstance(value, tuple) else type(value)


# ---- gguf and TensorFlow


def _gguf(path: Path, found: Any) -> None:
    from gguf import GGUFReader

    with np.errstate(over="raise"):
        theirs = GGUFReader(path)
    own = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    metadata = {name: field.contents() for name, field in theirs.fields.items() if name not in own}
    _expect("metadata", found.metadata, metadata)
    _expect(
        "tensors",
        [(t.name, t.dtype, [*t.shape], t.offset, t.nbytes) for t in found.tensors.values()],
        [
            (
                t.name,
                t.tensor_type.name,
                [int(n) for n in reversed(t.shape)],
                int(t.data_offset),
                int(t.n_bytes),
            )
            for t in theirs.tensors
        ],
    )


def _tensorflow(path: Path, found: Any) -> None:
    items = items_of(path.read_bytes())
    keys = [key for key, _ in items]
    if not items or keys != sorted(set(keys)) or keys[0]:
        raise Different("its keys are not in order, or it has no header")
    head = dict(fields(items[0][1]))
    _expect("number of data files", found[0], head.get(1, 0))
    if head.get(2, 0) or dict(fields(head.get(3, b""))).get(2, 0) > 1:
        raise Different("of another machine or a later program")
    expected = {}
    for key, value in items[1:]:
        entry = dict(fields(value))
        dims = [dict(fields(dim)).get(1, 0) for number, dim in fields(entry.get(2, b"")) if number == 2]
        numbers = [entry.get(i, 0) for i in (3, 4, 5)]
        crc = int.from_bytes(entry.get(6, b""), "little")
        expected[key.decode()] = (entry.get(1, 0), tuple(dims), *numbers, crc, 7 in entry)
    _expect("variables", {name: tuple(variable) for name, variable in found[1].items()}, expected)


# ---- tokenizers and texts


def _tokenizer(path: Path, found: Any) -> None:
    for question, ours, theirs in answers(path, found):
        _expect(question, ours, theirs)


def _config(path: Path, found: dict[str, Any]) -> None:
    _expect("values", found, json.loads(path.read_bytes()))


def _jsonl(path: Path, found: list[str | None]) -> None:
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    # JSON has no limit for digits; Python has one for an int.
    records = [json.loads(line, parse_int=float) for line in lines if line.strip()]
    _expect("texts", found, [record.get("text") for record in records])


def _csv(path: Path, found: list[str | None]) -> None:
    text = path.read_bytes().decode("utf-8-sig")
    tables = {}
    for delimiter in ",;\t":
        try:
            lines = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
            tables[delimiter] = [row for row in lines if row]
        except csv.Error:
            continue
    readings = [rows for rows in tables.values() if rows and "text" in rows[0]]
    if not readings:
        raise Different("no reading has the column")
    header, *rows = readings[0]
    if any(len(row) != len(header) for row in rows):
        raise Different("a row of another length")
    _expect("texts", found, [row[header.index("text")] or None for row in rows])


def _parquet(path: Path, found: list[str | None]) -> None:
    import pyarrow.parquet

    # By row group, as gpt2c reads: of several with a damaged page, pyarrow may give other rows.
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.read_row_group(i, columns=["text"]) for i in range(file.num_row_groups)]
    column = [value for group in groups for value in group.column("text").to_pylist()]
    _expect("texts", found, [value.decode() if isinstance(value, bytes) else value for value in column])


COMPARISONS: dict[str, Callable[[Path, Any], None]] = {
    "safetensors": _safetensors,
    "packed": _packed,
    "torch": _torch,
    "gguf": _gguf,
    "tensorflow": _tensorflow,
    "tokenizer": _tokenizer,
    "config": _config,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}
"""By reader: raises `Different`, or any error if the file is rejected."""
