"""Sessions as files: the text, and keys and values of its tokens, for the same model and arithmetic.

A safetensors file with three arrays of bytes, ``ids``, ``keys`` and ``values``, and what they belong to in
its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint.files import RegularFile
from ..checkpoint.safetensors import read_header_and_metadata, write_tensors
from ..core.files import replacing
from ..errors import CheckpointError, shown

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from .session import Session

__all__ = ["open_session", "save_session"]

_ARRAYS = ("ids", "keys", "values")
FORMAT, VERSION = "gpt2c session", "1"


def save_session(session: Session, path: str | os.PathLike[str]) -> None:
    """What :meth:`Session.save` does."""
    keys, values = session.state()
    arrays = {"ids": session.held.view(np.uint8), "keys": keys, "values": values}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        **_needed(session.model),
        "text": json.dumps(session.text if session.is_text else session.token_ids),
        "special": json.dumps(session.special),
    }
    metadata["sha256"] = _checksum(metadata, arrays)
    with replacing(os.fspath(path), binary=True) as file:
        write_tensors(file, arrays, metadata)


def open_session(model: LoadedModel, path: str | os.PathLike[str]) -> Session:
    """What :meth:`gpt2c.GPT2.open_session` does."""
    from .session import Session

    with RegularFile(Path(path)) as file:
        tensors, found = read_header_and_metadata(file)
        if found.get("format") != FORMAT or tensors.keys() != {*_ARRAYS}:
            raise CheckpointError(f"{path} is not a session: session.save writes those")
        if found.get("version") != VERSION:
            raise CheckpointError(
                f"{path} is a session of version {shown(found.get('version'))}, and this gpt2c reads "
                f"{VERSION}: make a new session of its text"
            )
        for name, value in _needed(model).items():
            if found.get(name) != value:
                raise CheckpointError(
                    f"{path} is a session of another model or arithmetic: its {name} is "
                    f"{shown(found.get(name))}, and this model's is {value!r}. Load the model that it was "
                    "saved with, or make a new session of its text"
                )
        arrays = {name: np.empty(info.nbytes, np.uint8) for name, info in tensors.items()}
        for name, info in tensors.items():
            file.read_into(arrays[name].data, info.offset)
    if _checksum(found, arrays) != found.get("sha256"):
        raise CheckpointError(
            f"{path} is damaged: the checksum of its contents is not the one in its header; make a new "
            "session of its text"
        )
    session = Session(model, json.loads(found["text"]), special=json.loads(found["special"]))
    session.restore(arrays["ids"].view(np.int32), arrays["keys"], arrays["values"])
    return session


def _needed(model: LoadedModel) -> dict[str, str]:
    """What keys and values depend on besides the tokens."""
    digest = model.source_sha256()
    if not digest:  # the weights came from no file
        digest = _digest(model.weights.packed.values())
    return {"numerics": model.numerics, "weights": digest}


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    text = "\n".join(metadata.get(name, "") for name in ("text", "special"))
    return _digest([np.frombuffer(text.encode(), np.uint8), *(arrays[name] for name in _ARRAYS)])


def _digest(arrays: Iterable[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data.cast("B"))
    return found.hexdigest()
