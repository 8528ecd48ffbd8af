"""Models of llm.c: a header of 256 integers, then all tensors, each kind for all layers together.

As its train_gpt2.py writes them and export_hf.py reads them (https://github.com/karpathy/llm.c): the header
is little-endian int32, with eight fields in use. Version 1 is float32, 3 the same with the vocabulary padded
to a multiple of 128 rows, 5 that in bfloat16. Dense layers are [out, in]; the head is the token embedding;
GELU is GPT-2's.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path

from ..config import Config
from ..errors import CheckpointError, ConfigError
from .files import LLMC_MAGIC, RegularFile
from .tensors import ITEMSIZE, TensorInfo
from .training import Training, ends_of_text

__all__ = ["open_llmc"]

_HEADER = 1024
# Version -> type of elements, and whether the vocabulary is padded.
_VERSIONS = {1: ("F32", False), 3: ("F32", True), 5: ("BF16", True)}
_IN_LAYERS = (
    ("ln_1.weight", "n_embd"),
    ("ln_1.bias", "n_embd"),
    ("attn.c_attn.weight", "3 * n_embd", "n_embd"),
    ("attn.c_attn.bias", "3 * n_embd"),
    ("attn.c_proj.weight", "n_embd", "n_embd"),
    ("attn.c_proj.bias", "n_embd"),
    ("ln_2.weight", "n_embd"),
    ("ln_2.bias", "n_embd"),
    ("mlp.c_fc.weight", "n_inner", "n_embd"),
    ("mlp.c_fc.bias", "n_inner"),
    ("mlp.c_proj.weight", "n_embd", "n_inner"),
    ("mlp.c_proj.bias", "n_embd"),
)
"""The kinds of tensors of a layer, in the order of the file, and their sizes as stored."""


def open_llmc(path: Path, stack: contextlib.ExitStack) -> Training | None:
    """The model in the file ``path``, if it is llm.c's; ``stack`` closes the file.

    Raises
    ------
    CheckpointError, ConfigError
        It is one, but of an unknown version, damaged, or with sizes that a GPT-2 cannot have.
    """
    if path.is_dir():
        return None
    file = stack.enter_context(RegularFile(path))
    header = file.read(32, 0)
    if len(header) < 32 or int.from_bytes(header[:4], "little") != LLMC_MAGIC:
        return None
    _, version, n_ctx, n_vocab, n_layer, n_head, n_embd, padded = struct.unpack("<8i", header)
    if version not in _VERSIONS:
        raise CheckpointError(
            f"{path} is llm.c's, version {version}; supported: versions 1, 3 and 5 (the file of its "
            "tokenizer is not needed)"
        )
    dtype, is_padded = _VERSIONS[version]
    try:
        config = Config(
            n_layer=n_layer,
            n_head=n_head,
            n_embd=n_embd,
            n_inner=4 * n_embd,
            n_ctx=n_ctx,
            n_vocab=n_vocab,
            **ends_of_text(n_vocab),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: the header of llm.c: {error}") from None
    rows = padded if is_padded else n_vocab
    if rows < n_vocab:
        raise CheckpointError(
            f"{path}: the header pads the vocabulary of {n_vocab} to {rows} rows, which is less"
        )
    tensors = list(_tensors(config, rows, dtype, path))
    end = tensors[-1].offset + tensors[-1].nbytes
    if end != file.size:
        raise CheckpointError(
            f"{path} {'is truncated' if end > file.size else 'has extra bytes at the end'}: by its "
            f"header it has {end} bytes, but the file has {file.size}"
        )
    notes = [f"{path.name}: a model of llm.c, version {version}: {dtype}"]
    if rows > n_vocab:
        notes.append(f"{rows - n_vocab} padding rows of the vocabulary are left out")
    return Training(config, [file], tensors, notes, "its header")


def _tensors(config: Config, rows: int, dtype: str, path: Path) -> Iterator[TensorInfo]:
    """All tensors in the order of the file, those of dense layers as [in, out]."""
    sizes = {"n_embd": config.n_embd, "3 * n_embd": 3 * config.n_embd, "n_inner": config.n_inner}
    at, itemsize = _HEADER, ITEMSIZE[dtype]

    def tensor(name: str, *shape: int) -> TensorInfo:
        nonlocal at
        found = TensorInfo(name, dtype, shape, path, at, math.prod(shape) * itemsize)
        at += found.nbytes
        return found

    embedding = tensor("wte.weight", rows, config.n_embd)
    kept = config.n_vocab * config.n_embd * itemsize
    yield embedding._replace(shape=(config.n_vocab, config.n_embd), nbytes=kept)
    yield tensor("wpe.weight", config.n_ctx, config.n_embd)
    for kind, *dims in _IN_LAYERS:
        for layer in range(config.n_layer):
            found = tensor(f"h.{layer}.{kind}", *(sizes[dim] for dim in dims))
            yield found.transposed if len(dims) == 2 else found
    yield tensor("ln_f.weight", config.n_embd)
    yield tensor("ln_f.bias", config.n_embd)
