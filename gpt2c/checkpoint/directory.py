"""A checkpoint on disk: a directory as transformers writes it, or a .safetensors file and its config.json."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError, ConfigError, shown
from .files import RegularFile, read_object
from .hf_config import config_from_hf, with_generation_config
from .safetensors import read_header
from .tensors import TensorInfo
from .validate import listed

__all__ = [
    "INDEX",
    "WEIGHTS",
    "advice",
    "check_file",
    "open_weights",
    "read_config",
    "read_generation_config",
    "shards",
]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_config(directory: Path) -> Config:
    """The Config in a directory's config.json. CheckpointError and ConfigError begin with the file's path."""
    path = directory / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{directory} has no config.json: a model's weights cannot be understood without it"
        )
    values = read_object(path)
    try:
        return config_from_hf(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_generation_config(directory: Path, config: Config) -> tuple[Config, dict[str, Any]]:
    """The Config with the bos and eos ids of generation_config.json, and its contents: {} without one."""
    path = directory / "generation_config.json"
    if not path.exists():
        return config, {}
    values = read_object(path)
    try:
        return with_generation_config(config, values), values
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_file(path: Path) -> None:
    """Refuse a file whose name shows that it holds no safetensors weights."""
    if path.suffix == ".json":
        raise CheckpointError(
            f"{path} is not a file of weights: give the directory that it is in, {path.parent}"
        )
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a .safetensors file: {advice([path.name], str(path.parent))}")


def open_weights(path: Path, stack: contextlib.ExitStack) -> tuple[list[RegularFile], list[TensorInfo], str]:
    """Open a .safetensors file (see check_file), or a directory's model.safetensors or shards.

    Parameters
    ----------
    path : Path
    stack : ExitStack
        Every file is entered into it, so that it is closed if anything fails.

    Returns
    -------
    files : list of RegularFile
        Each file once.
    tensors : list of TensorInfo
        All tensors, from the headers of these files.
    summary : str
        A short description of what was opened.

    Raises
    ------
    CheckpointError
        There are no readable weights (the message says what was found instead), or a file is damaged.
    """
    if path.is_dir():
        if not (path / WEIGHTS).exists() and (path / INDEX).exists():
            return _open_shards(path, stack)
        if not (path / WEIGHTS).exists():
            raise CheckpointError(
                f"{path} has no {WEIGHTS} and no {INDEX}: {advice(os.listdir(path), str(path))}"
            )
        path = path / WEIGHTS
    file = stack.enter_context(RegularFile(path))
    tensors = list(read_header(file).values())
    return [file], tensors, f"{path.name}: {_count(tensors)}"


def shards(index: Path) -> dict[str, list[str]]:
    """The shards that an index names: file -> names of its tensors. All must be in its directory."""
    table = read_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor")
    files: dict[str, list[str]] = {}
    for name, file in table.items():
        # A plain name cannot lead out of the directory, on any system.
        plain = isinstance(file, str) and file.endswith(".safetensors") and not set(file) & set("/\\:\0")
        if not plain:
            raise CheckpointError(
                f"{index} says that tensor {shown(name)} is in {shown(file)}; the plain name of a "
                ".safetensors file beside the index is needed"
            )
        files.setdefault(file, []).append(name)
    return files


def _open_shards(
    directory: Path, stack: contextlib.ExitStack
) -> tuple[list[RegularFile], list[TensorInfo], str]:
    files: list[RegularFile] = []
    tensors: dict[str, TensorInfo] = {}
    for file, names in shards(directory / INDEX).items():
        path = directory / file
        if not path.exists():
            raise CheckpointError(f"{path} is missing: {INDEX} says it holds {listed(names)}")
        files.append(stack.enter_context(RegularFile(path)))
        header = read_header(files[-1])
        absent = [name for name in names if name not in header]
        if absent:
            raise CheckpointError(f"{path} does not hold what {INDEX} says it does: {listed(absent)}")
        unlisted = sorted(set(header) - set(names))
        if unlisted:
            raise CheckpointError(f"{path} holds what {INDEX} does not say it does: {listed(unlisted)}")
        tensors |= header
    found = list(tensors.values())
    return files, found, f"{len(files)} shards: {_count(found)}"


def _count(tensors: list[TensorInfo]) -> str:
    dtypes = sorted({tensor.dtype for tensor in tensors})
    return f"{len(tensors)} tensors of {' and '.join(dtypes) or 'no dtype'}"


def advice(names: Iterable[str], source: str) -> str:
    """What to do with a model that has these files but no model.safetensors.

    Parameters
    ----------
    names : iterable of str
        The files of the model.
    source : str
        The argument with which transformers would load the model: a directory or a hub name.
    """
    names = sorted(names)
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return f"it has {', '.join(others[:4])}; to load one of them, give the path of that file"
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return (
            f"{pickled[0]} is a pickle, which can run any code when it is opened, so gpt2c does not. Convert "
            f"it where transformers and torch are installed: python -c \"s, d = {source!r}, 'converted'; "
            "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            'M.from_pretrained(s).save_pretrained(d); T.from_pretrained(s).save_pretrained(d)"; '
            "then load the directory 'converted'"
        )
    foreign = [name for name in names if name.endswith((".h5", ".msgpack", ".gguf", ".onnx", ".npz"))]
    if foreign:
        return f"{foreign[0]} is in a format that gpt2c does not read; it needs the model as safetensors"
    return "nothing that looks like weights is there"
