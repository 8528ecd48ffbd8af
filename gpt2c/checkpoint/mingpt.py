"""Models of minGPT: a torch file with the state dict, beside the settings of the run that trained it.

As its chargpt writes them (https://github.com/karpathy/minGPT): model.pt is the state dict; "model" in
config.json has the number of layers, heads and channels, or a name for them. Vocabulary size and context are
null there, as they are unknown when it is written: the embeddings determine them. Dense layers are torch's
Linear, [out, in]; the head is a separate matrix; GELU is GPT-2's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError, ConfigError, shown
from .directory import advice, check_file, tensors_in
from .files import RegularFile
from .names import canonical
from .tensors import TensorInfo
from .training import Training, ends_of_text, of_linear_layers

__all__ = ["open_mingpt"]

WEIGHTS = "model.pt"
_SIZES = ("n_layer", "n_head", "n_embd")
# The sizes of a model_type.
_TYPES = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}


def open_mingpt(path: Path, sizes: Mapping[str, Any], stack: contextlib.ExitStack) -> Training:
    """The model at ``path``, a directory with model.pt or a file of weights.

    ``sizes`` is "model" of config.json. ``stack`` closes the file.

    Raises
    ------
    CheckpointError, ConfigError
        There are no weights, they are damaged, or the sizes are impossible for a GPT-2.
    """
    directory = path if path.is_dir() else path.parent
    if path.is_dir():
        path = path / WEIGHTS
    else:
        check_file(path)
    if not path.exists():
        raise CheckpointError(
            f"{directory} has a config.json of minGPT but no {WEIGHTS}: {advice(os.listdir(directory))}"
        )
    file = stack.enter_context(RegularFile(path))
    stored, _ = tensors_in(file)
    tensors, wrapped = of_linear_layers(stored, path)
    config = _config(sizes, tensors, directory / "config.json")
    note = f"{path.name}: a model of minGPT, {len(tensors)} tensors"
    return Training(config, [file], tensors, [note, *wrapped], "its config.json")


def _config(sizes: Mapping[str, Any], tensors: list[TensorInfo], where: Path) -> Config:
    kind = sizes.get("model_type")
    named = _TYPES.get(kind, ()) if isinstance(kind, str) else ()
    given = tuple(sizes.get(name) for name in _SIZES)
    if None in given and not named:
        raise ConfigError(
            f"{where}: model_type is {shown(kind)}, and {', '.join(_SIZES)} are "
            f"{', '.join(map(shown, given))}; allowed: these three as numbers, or a model_type of "
            f"{', '.join(_TYPES)}"
        )
    rows = {canonical(tensor.name): tensor.shape[0] for tensor in tensors if tensor.shape}
    found: dict[str, Any] = dict(zip(_SIZES, named if None in given else given, strict=True))
    found["n_inner"] = None  # 4 * n_embd
    for name, key, embedding in (
        ("n_vocab", "vocab_size", "wte.weight"),
        ("n_ctx", "block_size", "wpe.weight"),
    ):
        found[name] = rows.get(embedding) if sizes.get(key) is None else sizes[key]
        if found[name] is None:
            raise CheckpointError(
                f"{where} has no {key}, nor have the weights beside it a tensor {embedding}: this is not a "
                "model as minGPT saves it"
            )
    try:
        return Config(**found, tie_word_embeddings=False, **ends_of_text(found["n_vocab"]))
    except ConfigError as error:
        raise ConfigError(f"{where}: model: {error}") from None
