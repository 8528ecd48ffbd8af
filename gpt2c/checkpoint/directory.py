"""A checkpoint on disk: a directory as transformers writes it, or a file of weights and its config.json."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError, ConfigError, shown
from .files import RegularFile, is_torch_file, read_object
from .hf_config import config_from_hf, with_generation_config
from .safetensors import read_header
from .tensors import TensorInfo
from .validate import listed

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_FILES",
    "WEIGHTS",
    "advice",
    "check_file",
    "is_adapter",
    "is_index",
    "open_weights",
    "read_config",
    "read_generation_config",
    "shards",
]

# A file, or the index of several, in the order in which they are looked for.
_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = tuple(name for file in _FILES for name in (file, f"{file}.index.json"))
# A LoRA adapter as PEFT saves it; the weights in the order in which they are looked for.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")

# How files of other formats begin.
_OTHERS = {b"GGUF": "a GGUF", b"lmgg": "a ggml", b"\x89HDF": "an HDF5"}


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter, and no weights of a model."""
    return (path / ADAPTER_CONFIG).exists() and not any((path / name).exists() for name in WEIGHTS)


def read_config(directory: Path) -> Config:
    """The Config in a directory's config.json. CheckpointError and ConfigError begin with the file's path."""
    path = directory / "config.json"
    if not path.exists():
        if (directory / ADAPTER_CONFIG).exists():
            raise CheckpointError(f"{directory} holds a LoRA adapter: give this directory, and no file in it")
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
    """Refuse a file that holds no weights, by its name or, where it stands alone, by its first bytes."""
    if path.suffix == ".json":
        raise CheckpointError(
            f"{path} is not a file of weights: give the directory that it is in, {path.parent}"
        )
    if (path.parent / "config.json").exists():
        return
    with RegularFile(path) as file:
        # A safetensors file begins with the length of its header, a JSON object.
        if not is_torch_file(file) and file.read(1, 8) != b"{":
            raise CheckpointError(
                f"{path} is not a file of weights: it is no safetensors, and was not written by torch.save, "
                "nanoGPT, llm.c or gpt2c"
            )


def open_weights(path: Path, stack: contextlib.ExitStack) -> tuple[list[RegularFile], list[TensorInfo], str]:
    """Open a file of weights (see check_file), or those of a directory, of which there may be several.

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
        name = next((name for name in WEIGHTS if (path / name).exists()), None)
        if name is None:
            raise CheckpointError(f"{path} has no {' and no '.join(_FILES)}: {advice(os.listdir(path))}")
        path = path / name
        if is_index(name):
            return _open_shards(path, stack)
    file = stack.enter_context(RegularFile(path))
    tensors = list(_tensors_in(file).values())
    return [file], tensors, f"{path.name}: {_count(tensors)}"


def is_index(name: str) -> bool:
    """Whether a file of `WEIGHTS` says which files hold which tensors."""
    return name.endswith(".index.json")


def _tensors_in(file: RegularFile) -> dict[str, TensorInfo]:
    """The tensors of a file, by their names; what kind of file it is, its first bytes say."""
    if not is_torch_file(file):
        known = next((kind for start, kind in _OTHERS.items() if file.read(len(start), 0) == start), None)
        if known is not None:
            raise CheckpointError(f"{file.path} is {known} file, which gpt2c does not read")
        return read_header(file)
    # Deferred, as most models are safetensors.
    from .torch_file import read_torch_file

    found = read_torch_file(file)
    # Of an optimizer, a training run or a list there is more to know than names.
    if not (isinstance(found, dict) and found and all(isinstance(t, TensorInfo) for t in found.values())):
        raise CheckpointError(
            f"{file.path} holds something else than a model's tensors by their names: "
            "where torch is installed, save model.state_dict()"
        )
    return {str(name): tensor._replace(name=str(name)) for name, tensor in found.items()}


def shards(index: Path) -> dict[str, list[str]]:
    """The shards that an index names: file -> names of its tensors. All must be in its directory."""
    table = read_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor")
    files: dict[str, list[str]] = {}
    ending = Path(index.name.removesuffix(".index.json")).suffix
    for name, file in table.items():
        # A plain name cannot lead out of the directory, on any system.
        plain = isinstance(file, str) and file.endswith(ending) and not set(file) & set("/\\:\0")
        if not plain:
            raise CheckpointError(
                f"{index} says that tensor {shown(name)} is in {shown(file)}; the plain name of a {ending} "
                "file beside the index is needed"
            )
        files.setdefault(file, []).append(name)
    return files


def _open_shards(index: Path, stack: contextlib.ExitStack) -> tuple[list[RegularFile], list[TensorInfo], str]:
    files: list[RegularFile] = []
    tensors: dict[str, TensorInfo] = {}
    for file, names in shards(index).items():
        path = index.parent / file
        if not path.exists():
            raise CheckpointError(f"{path} is missing: {index.name} says it holds {listed(names)}")
        files.append(stack.enter_context(RegularFile(path)))
        header = _tensors_in(files[-1])
        absent = [name for name in names if name not in header]
        if absent:
            raise CheckpointError(f"{path} does not hold what {index.name} says it does: {listed(absent)}")
        unlisted = sorted(set(header) - set(names))
        if unlisted:
            raise CheckpointError(f"{path} holds what {index.name} does not say it does: {listed(unlisted)}")
        tensors |= header
    found = list(tensors.values())
    return files, found, f"{len(files)} shards: {_count(found)}"


def _count(tensors: list[TensorInfo]) -> str:
    dtypes = sorted({tensor.dtype for tensor in tensors})
    return f"{len(tensors)} tensors of {' and '.join(dtypes) or 'no dtype'}"


def advice(names: Iterable[str]) -> str:
    """What to do with a model that has these files but none of `WEIGHTS`."""
    names = sorted(names)
    others = [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))]
    if others:
        return f"it has {', '.join(others[:4])}; to load one of them, give the path of that file"
    foreign = [name for name in names if name.endswith((".h5", ".msgpack", ".gguf", ".onnx", ".npz"))]
    if foreign:
        return f"{foreign[0]} is in a format that gpt2c does not read; it reads {' and '.join(_FILES)}"
    return "nothing that looks like weights is there"
