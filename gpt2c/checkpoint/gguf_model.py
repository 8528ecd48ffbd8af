"""GPT-2 in a GGUF file, as llama.cpp's converter writes it: sizes, weights and tokenizer, all in one file.

Dense layers are stored as [out, in]. llama.cpp computes GPT-2's GELU and divides scores by the square root of
the head width, whatever the original model did; a file records neither. The head is the embedding if there is
no ``output.weight``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config
from ..errors import CheckpointError, ConfigError, TokenizerError, shown
from ..tokenizer.gguf import ENDS, from_metadata
from .files import RegularFile
from .gguf import read_gguf
from .names import from_llama_cpp
from .tensors import BLOCKS, TensorInfo
from .training import Training, of_a_fork
from .validate import LOOSE

if TYPE_CHECKING:
    from ..tokenizer.base import Tokenizer

__all__ = ["ARCHITECTURE", "SIZES", "open_gguf", "read_gguf_tokenizer"]

ARCHITECTURE = "gpt2"
# Fields of a Config and, after "gpt2.", of the metadata, in the order of llama.cpp's converter.
SIZES = {
    "n_layer": "block_count",
    "n_ctx": "context_length",
    "n_embd": "embedding_length",
    "n_inner": "feed_forward_length",
    "n_head": "attention.head_count",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
}
_STEP = 2**20  # bytes to compare at a time


def open_gguf(path: Path, stack: contextlib.ExitStack, *, strict: bool = True) -> Training:
    """The model in a GGUF file, which ``stack`` closes.

    ``strict`` refuses settings that llama.cpp's GPT-2 does not have; otherwise they are noted.

    Raises
    ------
    CheckpointError, ConfigError
        It is damaged, is not a complete GPT-2, or has sizes that a GPT-2 cannot have.
    """
    file = stack.enter_context(RegularFile(path))
    metadata, stored = read_gguf(file)
    _check_kind(metadata, path)
    tensors = list(_renamed(stored))
    by_name = {tensor.name: tensor for tensor in tensors}
    embedding, head = by_name.get("wte.weight"), by_name.get("lm_head.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path} has no token_embd.weight, a matrix with a row for each token")
    rows = embedding.shape[0]
    is_tied = head is None or _equal(head, embedding, file)
    config = _config(metadata, rows, is_tied, path)
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != rows:
        raise CheckpointError(
            f"{path} is damaged: it has {len(tokens)} tokens, but token_embd.weight has {rows} rows"
        )
    dtypes = sorted({tensor.dtype for tensor in tensors})
    notes = [f"{path.name}: GGUF, {len(tensors)} tensors of {', '.join(dtypes)}; activation gelu_new"]
    if not BLOCKS.keys().isdisjoint(dtypes):
        notes.append("quantized weights are read as the float32 values they represent")
    if is_tied and head is not None:
        tensors.remove(head)
        notes.append("output.weight is equal to token_embd.weight: the head is tied")
    if tokens and metadata.get("tokenizer.ggml.pre", "default") == "default":
        notes.append("the file does not say how texts are split into words: assuming GPT-2's rule")
    strange = _strange(metadata, config)
    if strange and strict:
        raise ConfigError(
            f"{path}: its metadata has {strange}, which GPT-2 does not have: a program that has it may "
            f"compute something different{LOOSE}"
        )
    if strange:
        notes.append(f"the metadata's {strange} is ignored: GPT-2 has no such setting (strict=False)")
    return Training(config, [file], tensors, notes, "its metadata", path)


def read_gguf_tokenizer(path: Path, n_vocab: int) -> Tokenizer:
    """The tokenizer in the metadata of a GGUF file, for a model of ``n_vocab`` tokens.

    Raises
    ------
    TokenizerError
        The file is damaged, or has no tokenizer, one of an unsupported kind, or another model's.
    """
    try:
        with RegularFile(path) as file:
            metadata = read_gguf(file).metadata
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    return from_metadata(metadata, str(path), n_vocab)


def _check_kind(metadata: Mapping[str, Any], path: Path) -> None:
    """Refuse anything but a complete GPT-2."""
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{path} holds a model of the architecture {shown(architecture)}; gpt2c runs {ARCHITECTURE!r}"
        )
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise CheckpointError(f"{path} holds {shown(kind)}, not a model; adapters must be saved by PEFT")
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise CheckpointError(
            f"{path} is one of {shown(parts)} parts of a model: merge them with `llama-gguf-split --merge`"
        )


def _config(metadata: Mapping[str, Any], rows: int, is_tied: bool, path: Path) -> Config:
    given: dict[str, Any] = {name: metadata.get(f"{ARCHITECTURE}.{key}") for name, key in SIZES.items()}
    absent = [f"{ARCHITECTURE}.{SIZES[name]}" for name, value in given.items() if value is None]
    if absent:
        raise CheckpointError(f"{path}: its metadata lacks {', '.join(absent)}, which a GPT-2 needs")
    epsilon = given["layer_norm_epsilon"]
    if type(epsilon) is float:  # the number before it was rounded to float32
        given["layer_norm_epsilon"] = float(str(np.float32(epsilon)))
    bos, *ends = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", *ENDS))
    try:
        return Config(
            **given,
            n_vocab=rows,
            tie_word_embeddings=is_tied,
            bos_token_id=bos,
            eos_token_ids=tuple(end for i, end in enumerate(ends) if end is not None and end not in ends[:i]),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: its metadata: {error}") from None


def _strange(metadata: Mapping[str, Any], config: Config) -> str:
    """The settings that llama.cpp's GPT-2 does not have, except those with its own values."""
    prefix = f"{ARCHITECTURE}."
    implied = {
        f"{ARCHITECTURE}.attention.head_count_kv": config.n_head,
        f"{ARCHITECTURE}.vocab_size": config.n_vocab,
    }
    settings = {
        key: value for key, value in metadata.items() if key.startswith(prefix) and implied.get(key) != value
    }
    return of_a_fork(settings, {prefix + key for key in SIZES.values()})


def _renamed(stored: Mapping[str, TensorInfo]) -> Iterator[TensorInfo]:
    """The tensors under canonical names, dense layers as [in, out]."""
    for name, tensor in stored.items():
        renamed = tensor._replace(name=from_llama_cpp(name))
        is_dense = name.startswith("blk.") and len(tensor.shape) == 2
        yield renamed.transposed if is_dense else renamed


def _equal(one: TensorInfo, other: TensorInfo, file: RegularFile) -> bool:
    """Whether two tensors have the same bytes, read up to the first difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    for at in range(0, one.nbytes, _STEP):
        size = min(_STEP, one.nbytes - at)
        if file.read(size, one.offset + at) != file.read(size, other.offset + at):
            return False
    return True
