"""Checkpoints of nanoGPT: a torch file with the model, its sizes and the state of the training.

As its train.py writes them (https://github.com/karpathy/nanoGPT): ``model`` is the state dict, ``model_args``
has the settings of config.json. Dense layers are torch's Linear, [out, in]. Without ``bias`` there are none,
not even in LayerNorm. The activation is the exact GELU, torch's nn.GELU; before June 2023 it was GPT-2's
approximation, which a checkpoint does not record.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError, ConfigError, TokenizerError
from ..tokenizer.characters import CharacterTokenizer
from .files import MAX_JSON, RegularFile, is_torch_file
from .names import canonical, expected
from .pickled import read_pickle
from .tensors import ZERO, TensorInfo
from .torch_file import read_torch_file
from .training import Training, ends_of_text, of_a_fork, of_linear_layers
from .validate import LOOSE

__all__ = ["open_nanogpt", "read_meta"]

CHECKPOINT = "ckpt.pt"
_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_ctx": "block_size",
    "n_vocab": "vocab_size",
}
# The first of the others is read below, and the second changes no logits.
_KNOWN = {*_SIZES.values(), "bias", "dropout"}


def open_nanogpt(path: Path, stack: contextlib.ExitStack, *, strict: bool = True) -> Training | None:
    """The model at ``path``, if it is a checkpoint of nanoGPT, or a directory with one and no config.json.

    ``stack`` closes the file. ``strict`` refuses settings that nanoGPT does not have; otherwise they are
    noted.

    Raises
    ------
    CheckpointError, ConfigError
        It is one, but damaged, or with sizes that a GPT-2 cannot have.
    """
    if path.is_dir():
        if (path / "config.json").exists():
            return None
        path = path / CHECKPOINT
    if not path.exists():
        return None
    file = stack.enter_context(RegularFile(path))
    found = read_torch_file(file) if is_torch_file(file) else None
    if not isinstance(found, dict) or not {"model", "model_args"} <= found.keys():
        return None
    stored, sizes = found["model"], found["model_args"]
    if not isinstance(stored, dict) or not isinstance(sizes, dict):
        raise CheckpointError(f"{path}: model and model_args must be dicts, as nanoGPT saves them")
    config = _config(sizes, path)
    strange = of_a_fork(sizes, _KNOWN)
    if strange and strict:
        raise ConfigError(
            f"{path}: model_args has {strange}, which nanoGPT does not have: a program that has it may "
            f"compute something different{LOOSE}"
        )
    tensors, wrapped = of_linear_layers(stored, path)
    notes = [
        f"{path.name}: a checkpoint of nanoGPT, {len(tensors)} tensors; activation gelu, as since June 2023",
        *wrapped,
    ]
    if strange:
        notes.append(f"model_args's {strange} is ignored: nanoGPT has no such setting (strict=False)")
    if not sizes.get("bias", True):
        tensors += _absent(config, tensors, path)
        notes.append("model_args has bias=False: all biases are 0")
    return Training(config, [file], tensors, notes, "its model_args")


def _config(sizes: dict[Any, Any], path: Path) -> Config:
    absent = [key for key in _SIZES.values() if key not in sizes]
    if absent:
        raise CheckpointError(f"{path}: model_args has no {', '.join(absent)}")
    values: dict[str, Any] = {name: sizes[key] for name, key in _SIZES.items()}
    values["n_inner"] = None  # 4 * n_embd
    try:
        return Config(**values, activation="gelu", **ends_of_text(sizes["vocab_size"]))
    except ConfigError as error:
        raise ConfigError(f"{path}: model_args: {error}") from None


def _absent(config: Config, tensors: list[TensorInfo], path: Path) -> Iterator[TensorInfo]:
    """The zero biases of a model that stores none."""
    present = {canonical(tensor.name) for tensor in tensors}
    for name, _, shape in expected(config):
        if name.endswith(".bias") and name not in present:
            yield TensorInfo(name, ZERO, shape, path, 0, 0)


def read_meta(path: Path, n_vocab: int) -> CharacterTokenizer:
    """The tokenizer that nanoGPT's meta.pkl describes: a token for each character.

    Raises
    ------
    TokenizerError
        It is another model's, or not such a file.
    """
    try:
        with RegularFile(path) as file:
            if file.size > MAX_JSON:
                raise CheckpointError(f"{path} has {file.size} bytes, too many for a list of characters")
            found = read_pickle(io.BytesIO(file.read(file.size, 0)), str(path), is_torch=False)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    table = found.get("itos") if isinstance(found, dict) else None
    if not isinstance(table, dict) or table.keys() != set(range(len(table))):
        raise TokenizerError(f"{path} has no table itos from ids to characters, as nanoGPT writes it")
    if len(table) != n_vocab:
        raise TokenizerError(
            f"{path} has {len(table)} characters, but the model has {n_vocab} tokens: it is another model's"
        )
    return CharacterTokenizer([table[i] for i in range(len(table))], name=str(path))
