"""Writing a model, with its tokenizer, as a GGUF file for llama.cpp.

The container is GGUF 3 (docs/gguf.md of ggml): metadata, a table of tensors, and their data, each aligned to
32 bytes. Names and types of the tensors are those of llama.cpp's own converter.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import Config
from ..core.files import replacing
from ..errors import ConfigError, TokenizerError
from ..tokenizer.bpe import BPETokenizer
from ..tokenizer.gguf import CONTROL, ENDS, NORMAL, UNUSED, USER_DEFINED
from .gguf import TYPES
from .gguf_model import ARCHITECTURE, SIZES
from .names import expected, of_llama_cpp
from .tensors import BLOCKS, block_of

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["export_gguf"]

_ALIGNMENT = 32
_ROWS = 256  # rows of a tensor to round at a time

_NUMBERS = {dtype: number for number, dtype in TYPES.items()}


class _Format(NamedTuple):
    """A dtype of GGUF."""

    type: str
    """Its type number for tensors."""
    file_type: int
    """Its number in general.file_type if the matrices have it."""
    round: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    """float32 rows -> the stored bytes, and the float32 values that they represent."""


def _float16(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):  # overflow gives infinity, which is refused
        stored = rows.astype("<f2")
    return stored, stored.astype(np.float32)


def _bfloat16(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = rows.view(np.uint32)
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even
    return upper.astype("<u2"), (upper << 16).view(np.float32)


def _q8_0(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of a float16 scale and 32 integers, rounded by the scale in float32."""
    blocks = rows.reshape(-1, BLOCKS["Q8_0"][0])
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scale
        stored_scale = scale.astype("<f2")
    inverse[np.isinf(inverse)] = 0  # the scale is 0 or underflows in float16
    scaled = (blocks * inverse).astype(np.float64)  # in which adding 0.5 is exact
    whole = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled).astype(np.int8)
    stored = np.hstack([stored_scale.view(np.uint8), whole.view(np.uint8)])
    with np.errstate(invalid="ignore"):  # an infinite scale
        values = stored_scale.astype(np.float32) * whole
    return stored, values.reshape(rows.shape)


_FORMATS = {
    "f32": _Format("F32", 0, lambda rows: (rows.astype("<f4"), rows)),
    "f16": _Format("F16", 1, _float16),
    "bf16": _Format("BF16", 32, _bfloat16),
    "q8_0": _Format("Q8_0", 7, _q8_0),
}


class _Entry(NamedTuple):
    """A tensor of the file."""

    source: str
    """Its canonical name."""
    transposed: bool
    shape: tuple[int, ...]
    """NumPy's shape: the last dimension is GGUF's first."""
    format: _Format

    @property
    def nbytes(self) -> int:
        elements, nbytes = block_of(self.format.type)
        return math.prod(self.shape) // elements * nbytes


def export_gguf(model: LoadedModel, path: str | os.PathLike[str], dtype: str) -> float:
    """See :meth:`gpt2c.GPT2.export`, for names that end with ".gguf"."""
    if dtype not in _FORMATS:
        raise ValueError(f"dtype is {dtype!r}; a GGUF file takes one of {', '.join(map(repr, _FORMATS))}")
    _check_config(model.config)
    entries = dict(_entries(model.config, dtype))
    header = _header(_metadata(model, dtype), entries)
    lost = total = 0.0
    with replacing(os.fspath(path), binary=True) as file:
        file.write(header)
        for entry in entries.values():
            for rows in _rows(model.weights[entry.source], entry.transposed):
                stored, values = entry.format.round(rows)
                file.write(stored.data.cast("B"))
                total += float(np.square(rows, dtype=np.float64).sum())
                lost += float(np.square(values.astype(np.float64) - rows).sum())
            if not math.isfinite(lost):
                raise ValueError(
                    f"tensor {entry.source} has values beyond the range of {dtype}: export the model with "
                    "dtype (--dtype) f32"
                )
            file.write(_padding(entry.nbytes))
    return math.sqrt(lost / total) if lost else 0.0


def _check_config(config: Config) -> None:
    """Refuse what llama.cpp would silently compute differently: the format has no field for it."""
    if config.is_bert:
        raise ConfigError("the model is a BERT, which gpt2c cannot export as GGUF: export a directory")
    checks = (
        ("scale_attn_weights", config.scale_attn_weights, True),
        ("scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx, False),
        ("activation_function (activation)", config.activation, "gelu_new"),
        ("add_cross_attention", config.add_cross_attention, False),
    )
    for name, value, only in checks:
        if value != only:
            raise ConfigError(
                f"{name} is {value!r}, but llama.cpp computes every GPT-2 with {only!r}, and a GGUF file "
                "cannot say otherwise: export a directory"
            )
    if config.head is not None:
        raise ConfigError(
            f"the model has a head of the kind {config.head.kind!r}, but in llama.cpp a GPT-2 has only that "
            "of a language model: export a directory"
        )
    ends = config.eos_token_ids
    if not ends:
        raise ConfigError(
            "the model has no eos_token_id, and llama.cpp would end texts at token 11: set it in config.json"
        )
    if len(ends) > len(ENDS):
        raise ConfigError(
            f"eos_token_id names {len(ends)} end tokens, but a GGUF file has at most {len(ENDS)}: "
            "name fewer in generation_config.json"
        )


def _entries(config: Config, dtype: str) -> Iterator[tuple[str, _Entry]]:
    """The tensors by their names in the file: only matrices are rounded, except that of the positions."""
    for source, _, shape in expected(config):
        is_conv1d = len(shape) == 2 and source.startswith("h.")
        shape = shape[::-1] if is_conv1d else shape
        form = _FORMATS[dtype if len(shape) == 2 and source != "wpe.weight" else "f32"]
        if shape[-1] % block_of(form.type)[0]:
            form = _FORMATS["f16"]  # as in llama.cpp's converter
        yield of_llama_cpp(source), _Entry(source, is_conv1d, shape, form)


def _rows(tensor: np.ndarray, transposed: bool) -> Iterator[np.ndarray]:
    """A tensor in pieces of a few rows; a vector as one piece."""
    matrix = tensor.T if transposed else np.atleast_2d(tensor)
    for at in range(0, len(matrix), _ROWS):
        yield np.ascontiguousarray(matrix[at : at + _ROWS])


def _metadata(model: LoadedModel, dtype: str) -> dict[str, Any]:
    """The metadata of the model and of its tokenizer."""
    config = model.config
    return {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": Path(model.name).name,
        "general.quantization_version": 2,
        "general.file_type": _FORMATS[dtype].file_type,
        **{f"{ARCHITECTURE}.{key}": getattr(config, name) for name, key in SIZES.items()},
        **_tokenizer(model),
    }


def _tokenizer(model: LoadedModel) -> dict[str, Any]:
    """The vocabulary as llama.cpp reads it: a token for each row of the embedding."""
    tokenizer, n_vocab = model.tokenizer, model.config.n_vocab
    if not isinstance(tokenizer, BPETokenizer):
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} is {tokenizer.kind}, but gpt2c writes only byte-level BPE "
            "with GPT-2's rules to GGUF: export a directory"
        )
    if tokenizer.n_vocab > n_vocab:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} has {tokenizer.n_vocab} tokens, but the model has only "
            f"{n_vocab} rows, and llama.cpp needs one per token: export a directory"
        )
    bos = model.bos_token_id
    if tokenizer.prefix not in ((), (bos,)):
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} puts the tokens {list(tokenizer.prefix)} before a text, but "
            f"llama.cpp can only put the bos token there, {bos}: export a directory"
        )
    described = tokenizer.described()
    tokens, types = [f"[PAD{i}]" for i in range(n_vocab)], [UNUSED] * n_vocab
    for token, index in described["model"]["vocab"].items():
        tokens[index], types[index] = token, NORMAL
    for added in described["added_tokens"]:
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    ends = dict(zip(ENDS, model.config.eos_token_ids, strict=False))
    template = model.chat_template
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": described["model"]["merges"],
        "tokenizer.ggml.bos_token_id": bos,
        **{f"tokenizer.ggml.{name}_token_id": index for name, index in ends.items()},
        "tokenizer.ggml.add_bos_token": bool(tokenizer.prefix),
        "tokenizer.ggml.add_eos_token": False,  # as in gpt2c, prompts get no end token
        **({} if template is None else {"tokenizer.chat_template": template}),
    }


def _header(metadata: dict[str, Any], entries: dict[str, _Entry]) -> bytes:
    """Everything before the data."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(entries), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _typed(value)]
    begin = 0
    for name, entry in entries.items():
        dimensions = entry.shape[::-1]
        numbers = (len(dimensions), *dimensions, _NUMBERS[entry.format.type], begin)
        parts += [_string(name), struct.pack(f"<I{len(dimensions)}QIQ", *numbers)]
        begin += entry.nbytes + len(_padding(entry.nbytes))
    header = b"".join(parts)
    return header + _padding(len(header))


def _typed(value: Any) -> bytes:
    """A value of the metadata, preceded by its type."""
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padding(size: int) -> bytes:
    """The padding after ``n`` bytes."""
    return bytes(-size % _ALIGNMENT)
