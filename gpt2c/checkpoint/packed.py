"""Packed files: a whole model in one file, its weights ready for use in place (docs/packed-files.md).

A safetensors file whose matrices are already in the engine's panels and number format. It is mapped
read-only: nothing is copied or packed again, and all processes that use the file share its pages.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..config import Config, Head, Setting
from ..core import _engine
from ..core.files import replacing
from ..errors import CheckpointError, ConfigError, TokenizerError, shown
from .files import RegularFile, parse_object, reading
from .names import expected
from .safetensors import read_header_and_metadata, write_tensors
from .tensors import TensorInfo

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["SUFFIX", "VERSION", "Packed", "open_packed", "packed_path", "save", "write_packed"]

# Usual, but not required.
SUFFIX = ".gpt2c"
FORMAT = "gpt2c packed"
# Of the layout and of the rounding of weights; other versions are refused.
VERSION = 2
# Every array but the last begins at a multiple of this many bytes.
ALIGNMENT = 64
# The name of the last array, which is JSON.
VOCABULARY = "vocabulary"


def save(model: LoadedModel, path: str | os.PathLike[str]) -> None:
    """What :meth:`gpt2c.GPT2.save` does."""
    vocabulary = None
    if model.has_tokenizer:
        vocabulary = model.tokenizer.packed()
        if vocabulary is None:
            raise TokenizerError(
                f"the tokenizer {model.tokenizer.name} cannot be written into a file: save the model "
                "without it (load it with its own), and give tokenizer= again when it is used"
            )
    with replacing(os.fspath(path), binary=True) as file:
        write_packed(
            file,
            model.weights,
            vocabulary=vocabulary,
            name=model.name,
            generation_config=model.generation_config,
            source_sha256=model.source_sha256(),
        )


def write_packed(
    file: BinaryIO,
    weights: _engine.Weights,
    *,
    vocabulary: Mapping[str, Any] | None,
    name: str,
    generation_config: Mapping[str, Any],
    source_sha256: str,
) -> None:
    """Write a packed file.

    Parameters
    ----------
    file : binary file
        Open for writing, at its beginning.
    weights : Weights
        Of back end "native".
    vocabulary : mapping or None
        The input of `tokenizer.load.unpack`; None for a model without a tokenizer.
    name : str
        The model's source, for display.
    generation_config : mapping
        The checkpoint's own.
    source_sha256 : str
        Hash of the weight files it was made from, or "" if there were none.

    Raises
    ------
    ValueError
        The weights are of back end "blas".
    """
    if weights.backend != "native":
        raise ValueError(
            f"a model of back end {weights.backend!r} has no packed weights: load it with backend 'native'"
        )
    arrays = {key: _flat(array) for key, array in _in_order(weights.packed)}
    if vocabulary is not None:
        text = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")).encode()
        arrays[VOCABULARY] = np.frombuffer(text, np.uint8)
    checksum = _sha256()
    for array in arrays.values():
        checksum.update(array)
    config = {f.name: getattr(weights.config, f.name) for f in fields(Config)}
    # Without one it is not named, as in files from before there were any.
    head = config.pop("head")
    if head is not None:
        config["head"] = asdict(head)
    config["report"] = [list(setting) for setting in weights.config.report]
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "dtype": weights.dtype,
        "numerics": str(_engine.NUMERICS_VERSION),
        "name": name,
        "source_sha256": source_sha256,
        "payload_sha256": checksum.hexdigest(),
        "config": json.dumps(config),
        "generation_config": json.dumps(dict(generation_config)),
    }
    write_tensors(file, arrays, metadata, ALIGNMENT)


def _in_order(tensors: Mapping[str, np.ndarray]) -> Iterable[tuple[str, np.ndarray]]:
    """Panels first, so that they are contiguous, in the order in which a forward pass reads them."""
    return sorted(tensors.items(), key=lambda item: item[1].dtype != np.uint8)


def _flat(array: np.ndarray) -> np.ndarray:
    """Floats flattened and padded with zeros to a multiple of ALIGNMENT; panels unchanged."""
    if array.dtype == np.uint8:
        return array
    size = -(-array.nbytes // ALIGNMENT) * ALIGNMENT // array.itemsize
    if size == array.size:
        return array.reshape(-1)
    return np.concatenate([array.reshape(-1), np.zeros(size - array.size, array.dtype)])


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed file, opened, with all but its payload checked; made by :func:`open_packed`.

    Attributes
    ----------
    path : Path
    config : Config
    dtype : str
        The number format of its dense layers.
    generation_config : dict
    vocabulary : dict or None
        See :func:`write_packed`.
    metadata : dict
        Texts: "version", "numerics" (of the gpt2c that wrote it), "name" (of what it was made from),
        "source_sha256", "payload_sha256".
    tensors : dict
        Name -> TensorInfo.
    """

    path: Path
    config: Config
    dtype: str
    generation_config: dict[str, Any]
    vocabulary: dict[str, Any] | None
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    _bytes: np.ndarray  # the mapped file

    def weights(self, *, isa: str | None = None, threads: int = 1) -> _engine.Weights:
        """The weights, used in place."""
        shapes = {name: shape for name, _, shape in expected(self.config)}

        def read(name: str) -> np.ndarray:
            shape = shapes[name]
            return self._array(name, "F32").view(np.float32)[: int(np.prod(shape))].reshape(shape)

        def panels(name: str) -> np.ndarray:
            return self._array(name, "U8").reshape(self.tensors[name].shape)

        return _engine.Weights(self.config, read, panels=panels, dtype=self.dtype, isa=isa, threads=threads)

    def _array(self, name: str, dtype: str) -> np.ndarray:
        info = self.tensors.get(name)
        if info is None or info.dtype != dtype or info.offset % ALIGNMENT:
            what = "missing" if info is None else f"{info.dtype} at byte {info.offset}"
            raise CheckpointError(
                f"{self.path} is damaged: array {name} is {what}; needed: {dtype} at a multiple of "
                f"{ALIGNMENT}"
            )
        return self._bytes[info.offset : info.offset + info.nbytes]

    def check(self) -> None:
        """Read the whole payload and compare its checksum. Raises CheckpointError if it differs."""
        checksum = _sha256()
        start = min(info.offset for info in self.tensors.values())
        checksum.update(self._bytes[start:])
        if checksum.hexdigest() != self.metadata["payload_sha256"]:
            raise CheckpointError(
                f"{self.path} is damaged: the checksum of its contents is not the one in its header; "
                "write it again with gpt2c convert"
            )


def _sha256() -> Any:
    import hashlib  # takes longer than mapping a model

    return hashlib.sha256()


def packed_path(source: str | os.PathLike[str] | None) -> Path | None:
    """The path of a packed file, known by its name or its header; None for any other source."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(os.path.expanduser(source))
    try:
        if not path.is_file():
            return None
        if path.suffix == SUFFIX:
            return path
        with RegularFile(path) as file:
            return path if f'"format":"{FORMAT}"'.encode() in file.read(200, 0) else None
    except OSError:
        return None


def open_packed(path: Path) -> Packed:
    """Map a packed file.

    Raises
    ------
    CheckpointError
        It is truncated or damaged (the payload's checksum is not checked), or of another version.
    ConfigError
        Its configuration is invalid.
    """
    with RegularFile(path) as file:
        tensors, metadata = read_header_and_metadata(file)
        with reading(path):
            whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        if not file.is_unchanged():
            raise CheckpointError(
                f"{path} was changed while it was opened: load it again when the program that writes it has "
                "finished"
            )
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a packed one: gpt2c convert makes those"
        )
    version = metadata.get("version")
    if version != str(VERSION):
        raise CheckpointError(
            f"{path} is a packed file of version {shown(version)}; this gpt2c reads version {VERSION}: "
            "write it again from the original model with gpt2c convert"
        )
    lacking = {"dtype", "config", "generation_config", "payload_sha256"} - metadata.keys()
    dtype = metadata.get("dtype")
    if lacking or dtype not in _engine.DTYPES:
        raise CheckpointError(
            f"{path} is damaged: its header "
            + (f"lacks {', '.join(sorted(lacking))}" if lacking else f"has the dtype {shown(dtype)}")
        )
    values = parse_object(metadata["config"].encode(), f"the configuration in {path}")
    generation_config = parse_object(
        metadata["generation_config"].encode(), f"the generation_config in {path}"
    )
    try:
        values["report"] = tuple(Setting(*setting) for setting in values.get("report", ()))
        if values.get("head") is not None:
            values["head"] = Head(**values["head"])
        config = Config(**values)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"the configuration in {path}: {error}") from None
    vocabulary = None
    if VOCABULARY in tensors:
        info = tensors[VOCABULARY]
        vocabulary = _parse_vocabulary(whole[info.offset : info.offset + info.nbytes].tobytes(), path)
    return Packed(path, config, dtype, generation_config, vocabulary, metadata, tensors, whole)


def _parse_vocabulary(text: bytes, path: Path) -> dict[str, Any]:
    try:
        # Not strictly, which would be slow for so large a text: `tokenizer.load.unpack` checks every value.
        found = json.loads(text)
    except RecursionError:
        raise CheckpointError(f"the vocabulary in {path} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"the vocabulary in {path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"the vocabulary in {path} is damaged: it is not an object")
    return found
