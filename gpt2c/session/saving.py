"""Sessions as files: the text, and keys and values of its tokens, for the same model and arithmetic.

A safetensors file with three arrays of bytes, ``ids``, ``keys`` and ``values``, and the identity of the model
in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..checkpoint.files import RegularFile
from ..checkpoint.safetensors import read_header_and_metadata, write_tensors
from ..core.files import replacing
from ..errors import CheckpointError, shown

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["Saved", "read_session", "write_session"]

_ARRAYS = ("ids", "keys", "values")
FORMAT, VERSION = "gpt2c session", "1"


class Saved(NamedTuple):
    """The contents of a session file."""

    text: str | list[int]
    special: bool
    ids: np.ndarray
    """The tokens whose keys and values are held, int32 [n]."""
    keys: np.ndarray
    values: np.ndarray
    """As from ``KVCache.state``."""


def write_session(path: str | os.PathLike[str], model: LoadedModel, saved: Saved) -> None:
    """See :meth:`Session.save`."""
    arrays = {"ids": saved.ids.view(np.uint8), "keys": saved.keys, "values": saved.values}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        **_needed(model),
        "text": json.dumps(saved.text),
        "special": json.dumps(saved.special),
    }
    metadata["sha256"] = _checksum(metadata, arrays)
    with replacing(os.fspath(path), binary=True) as file:
        write_tensors(file, arrays, metadata)


def read_session(path: str | os.PathLike[str], model: LoadedModel) -> Saved:
    """Read a session file of this model; CheckpointError if it is damaged or another model's."""
    with RegularFile(Path(path)) as file:
        tensors, found = read_header_and_metadata(file)
        if found.get("format") != FORMAT or tensors.keys() != {*_ARRAYS}:
            raise CheckpointError(f"{path} is not a session: session.save writes those")
        if found.get("version") != VERSION:
            raise CheckpointError(
                f"{path} is a session of version {shown(found.get('version'))}, but this gpt2c reads "
                f"{VERSION}: make a new session of its text"
            )
        for name, value in _needed(model).items():
            if found.get(name) != value:
                raise CheckpointError(
                    f"{path} is a session of another model or arithmetic: its {name} is "
                    f"{shown(found.get(name))}, but this model's is {value!r}. Load the model that it was "
                    "saved with, or make a new session of its text"
                )
        arrays = {name: np.empty(info.nbytes, np.uint8) for name, info in tensors.items()}
        for name, info in tensors.items():
            file.read_into(arrays[name].data, info.offset)
    if _checksum(found, arrays) != found.get("sha256"):
        raise CheckpointError(
            f"{path} is damaged: the checksum of its contents does not match its header; make a new "
            "session of its text"
        )
    text, special = json.loads(found["text"]), json.loads(found["special"])
    return Saved(text, special, arrays["ids"].view(np.int32), arrays["keys"], arrays["values"])


def _needed(model: LoadedModel) -> dict[str, str]:
    """Everything besides the tokens that keys and values depend on."""
    digest = model.source_sha256()
    if not digest:  # the weights did not come from a file
        digest = _digest(model.weights.packed.values())
    return {"numerics": model.numerics, "weights": digest, "config": repr(model.config)}


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    text = "\n".join(metadata.get(name, "") for name in ("text", "special"))
    return _digest([np.frombuffer(text.encode(), np.uint8), *(arrays[name] for name in _ARRAYS)])


def _digest(arrays: Iterable[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data.cast("B"))
    return found.hexdigest()
