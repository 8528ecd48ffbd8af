"""Packed files: a whole model in one file, its weights ready for use in place (docs/packed-files.md).

A safetensors file whose matrices are already in the engine's panels and number format. It is mapped
read-only: nothing is copied or packed again, and all processes that use the file share its pages.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..config import Config
from ..core import _engine
from ..core.files import replacing
from ..errors import CheckpointError, ConfigError, TokenizerError, shown
from .bundled import located
from .files import RegularFile, parse_object
from .mapping import bytes_of
from .names import expected
from .packed_config import check_keys, config_from_header, config_values
from .safetensors import read_header_and_metadata, write_tensors
from .tensors import TensorInfo

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["SUFFIX", "VERSION", "Packed", "open_packed", "packed_path", "save", "write_packed"]

# Usual, but not required.
SUFFIX = ".gpt2c"
FORMAT = "gpt2c packed"
# Version of the layout and of the rounding of weights; other versions are refused.
VERSION = 3
# The alignment of every array, in bytes.
ALIGNMENT = 64
# The name of the last array, which is JSON.
VOCABULARY = "vocabulary"
# The texts in a header, all required.
_METADATA = (
    *("format", "version", "header_crc32", "dtype", "numerics", "name"),
    *("source_sha256", "payload_sha256", "config", "generation_config"),
)
# The checksum is computed over the header with these digits in the checksum's place.
_NO_CHECKSUM = "00000000"


def save(model: LoadedModel, path: str | os.PathLike[str]) -> None:
    """See :meth:`gpt2c.GPT2.save`."""
    vocabulary = None
    if model.has_tokenizer:
        vocabulary = model.tokenizer.packed()
        if vocabulary is None:
            raise TokenizerError(
                f"the tokenizer {model.tokenizer.name} cannot be stored in a file: save the model "
                "without it (load it with its own), and pass tokenizer= again when loading it"
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
        Open for writing, at its start.
    weights : Weights
        Of back end "native".
    vocabulary : mapping or None
        The input of `tokenizer.load.unpack`; None for a model without a tokenizer.
    name : str
        The model's source, for display.
    generation_config : mapping
        The checkpoint's own.
    source_sha256 : str
        Hash of the original weight files, or "" if there were none.

    Raises
    ------
    ValueError
        The weights are of back end "blas".
    """
    if weights.backend != "native":
        raise ValueError(
            f"a model with backend {weights.backend!r} has no packed weights: load it with backend 'native'"
        )
    arrays = {name: _flat(weights.packed[name]) for name in _layout(weights.config)}
    if vocabulary is not None:
        text = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")).encode()
        arrays[VOCABULARY] = np.frombuffer(text, np.uint8)
    checksum = _sha256()
    for array in arrays.values():
        checksum.update(array)
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "header_crc32": _NO_CHECKSUM,
        "dtype": weights.dtype,
        "numerics": str(_engine.NUMERICS_VERSION),
        "name": name.encode(errors="replace").decode(),  # for a path that is not UTF-8, which JSON must be
        "source_sha256": source_sha256,
        "payload_sha256": checksum.hexdigest(),
        "config": json.dumps(config_values(weights.config)),
        "generation_config": json.dumps(dict(generation_config)),
    }
    write_tensors(file, arrays, metadata, ALIGNMENT, seal=_sealed)


def _layout(config: Config) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every array of a file except the vocabulary, in order: name -> dtype, and the tensor's shape.

    Panels first, so that they are contiguous, in the order in which a forward pass reads them.
    """
    shapes = {name: shape for name, _, shape in expected(config)}
    of_layers = [name for name, shape in shapes.items() if name.startswith("h.") and len(shape) == 2]
    dense = [*of_layers, *(["transform.weight"] if config.masked_head else [])]
    panels = [*dense, "wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
    layout = {name: ("U8", shapes[name]) for name in panels}
    return layout | {name: ("F32", shape) for name, shape in shapes.items() if name not in layout}


def _flat(array: np.ndarray) -> np.ndarray:
    """Floats flattened and padded with zeros to a multiple of ALIGNMENT; panels unchanged."""
    if array.dtype == np.uint8:
        return array
    size = _padded(array.shape)
    if size == array.size:
        return array.reshape(-1)
    return np.concatenate([array.reshape(-1), np.zeros(size - array.size, array.dtype)])


def _padded(shape: tuple[int, ...]) -> int:
    """The number of floats that a tensor takes in a file."""
    unit = ALIGNMENT // 4
    return -(-math.prod(shape) // unit) * unit


def _sealed(header: bytes) -> bytes:
    """The header with its checksum.

    A CRC finds every changed bit and every burst of up to 32. It is checked at every start, where importing
    hashlib would take longer than mapping the model.
    """
    return header.replace(_checksum_field(_NO_CHECKSUM), _checksum_field(_crc32(header)), 1)


def _is_sealed(header: bytes, checksum: str) -> bool:
    return checksum == _crc32(header.replace(_checksum_field(checksum), _checksum_field(_NO_CHECKSUM), 1))


def _checksum_field(checksum: str) -> bytes:
    return f'"header_crc32":"{checksum}"'.encode()


def _crc32(header: bytes) -> str:
    return f"{zlib.crc32(header):08x}"


@dataclass(frozen=True, eq=False)
class Packed:
    """An open packed file, checked except for its payload; made by :func:`open_packed`.

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
        Texts: "version", "numerics" (of the gpt2c that wrote it), "name" (of the original),
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
    _bytes: np.ndarray  # the whole file
    guard: Callable[[], None] | None  # see `mapping.bytes_of`

    def weights(self, *, isa: str | None = None, threads: int = 1) -> _engine.Weights:
        """The weights, used in place."""
        layout = _layout(self.config)

        def read(name: str) -> np.ndarray:
            _, shape = layout[name]
            return self._array(name).view(np.float32)[: math.prod(shape)].reshape(shape)

        def panels(name: str) -> np.ndarray:
            return self._array(name).reshape(self.tensors[name].shape)

        with _naming_damage(self.path):  # panels of another size
            return _engine.Weights(
                self.config,
                read,
                panels=panels,
                guard=self.guard,
                dtype=self.dtype,
                isa=isa,
                threads=threads,
            )

    def _array(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        return self._bytes[info.offset : info.offset + info.nbytes]

    def check(self) -> None:
        """Read the whole payload and compare its checksum. Raises CheckpointError if it differs."""
        checksum = _sha256()
        if self.guard is not None:
            self.guard()
        start = min(info.offset for info in self.tensors.values())
        checksum.update(self._bytes[start:])
        with _naming_damage(self.path):
            if checksum.hexdigest() != self.metadata["payload_sha256"]:
                raise CheckpointError("the checksum of its contents is not the one in its header")


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Adds the file and the remedy to errors in the context."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{path} is damaged: {error}; write it again with gpt2c convert") from None


def _sha256() -> Any:
    import hashlib  # takes longer than mapping a model

    return hashlib.sha256()


def packed_path(source: str | os.PathLike[str] | None) -> Path | None:
    """The path of a packed file, known by its name or its header; None for any other source."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(os.path.expanduser(located(source)))
    try:
        if not path.is_file():
            return None
        if path.suffix == SUFFIX:
            return path
        with RegularFile(path) as file:
            return path if f'"format":"{FORMAT}"'.encode() in file.read(200, 0) else None
    except OSError:
        return None


def open_packed(path: Path, map: bool | None = None) -> Packed:
    """Open a packed file: mapped or, with ``map=False`` or on a network file system, read into memory.

    Raises
    ------
    CheckpointError
        It is truncated or damaged (the payload's checksum is not checked), or of another version.
    ConfigError
        Its configuration is invalid.
    """
    file = RegularFile(path)
    tensors, metadata = read_header_and_metadata(file)
    whole, guard = bytes_of(file, map)
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
    with _naming_damage(path):
        _check_metadata(metadata, whole[: 8 + int.from_bytes(whole[:8].tobytes(), "little")].tobytes())
        config = config_from_header(metadata["config"])
        _check_arrays(tensors, _layout(config))
        generation_config = parse_object(metadata["generation_config"].encode(), "its generation_config")
        vocabulary = None
        if VOCABULARY in tensors:
            info = tensors[VOCABULARY]
            vocabulary = _parse_vocabulary(whole[info.offset : info.offset + info.nbytes].tobytes())
    return Packed(
        path, config, metadata["dtype"], generation_config, vocabulary, metadata, tensors, whole, guard
    )


def _check_metadata(metadata: Mapping[str, str], header: bytes) -> None:
    if not _is_sealed(header, metadata.get("header_crc32", "")):
        raise CheckpointError("the checksum of its header is not the one written in it")
    check_keys(metadata, _METADATA, "its header", CheckpointError)
    if metadata["dtype"] not in _engine.DTYPES:
        raise CheckpointError(
            f"it has the dtype {shown(metadata['dtype'])}; known: {', '.join(_engine.DTYPES)}"
        )


def _check_arrays(
    tensors: Mapping[str, TensorInfo], layout: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    """The arrays of a layout and no others, in its order. The engine checks the shapes of panels."""
    wanted = [*layout, VOCABULARY] if VOCABULARY in tensors else [*layout]
    check_keys(tensors, wanted, "by its configuration, its header", CheckpointError)
    for (name, info), place in zip(tensors.items(), wanted, strict=True):
        if name != place:
            raise CheckpointError(f"array {shown(name)} lies in the place of {shown(place)}")
        dtype, shape = layout.get(name, ("U8", ()))
        stored = [*info.shape]
        needed = [_padded(shape)] if dtype == "F32" else stored
        if (info.dtype, stored, info.offset % ALIGNMENT) != (dtype, needed, 0):
            raise CheckpointError(
                f"array {shown(name)} is {info.dtype}{stored} at byte {info.offset}; needed: "
                f"{dtype}{needed} at a multiple of {ALIGNMENT}"
            )


def _parse_vocabulary(text: bytes) -> dict[str, Any]:
    try:
        # Not strict, which would be slow for such a large text: `tokenizer.load.unpack` checks every value.
        found = json.loads(text)
    except RecursionError:
        raise CheckpointError("its vocabulary is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"its vocabulary is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"its vocabulary holds {shown(found)}; needed: a JSON object")
    return found
