"""A checkpoint on disk: a directory as transformers writes it, or a file of weights and its config.json."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError, ConfigError, shown
from .files import GGUF_MAGIC, LLMC_MAGIC, RegularFile, is_torch_file, read_object
from .hf_config import BERTS, config_from_hf, with_generation_config
from .safetensors import check_begin, read_header
from .tensors import TensorInfo
from .validate import LOOSE, listed

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
    "tensors_in",
]

# A file, or the index of several, in search order.
_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = tuple(name for file in _FILES for name in (file, f"{file}.index.json"))
# A LoRA adapter as PEFT saves it; the weights in search order.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")

# Keys under which training programs store the state dict: Lightning, many torch loops, DeepSpeed.
_KEYS = ("state_dict", "model_state_dict", "model", "module")

# Suffixes of files that may hold weights.
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index", ".gguf")
# Files that transformers' Trainer saves beside a model.
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")

_SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.(?:safetensors|bin)")

# First bytes of files in other formats, and messages about them.
_NOT_READ = "file, which gpt2c does not read: give the original model"
_OTHERS = {
    GGUF_MAGIC: "a GGUF file, which is a complete model: give its path as the model's",
    b"lmgg": f"a ggml {_NOT_READ}",
    b"\x89HDF": f"an HDF5 {_NOT_READ}",
}


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter, and no weights of a model."""
    return (path / ADAPTER_CONFIG).exists() and not any((path / name).exists() for name in WEIGHTS)


def read_config(directory: Path, *, alone: bool = False) -> Config:
    """The Config in a directory's config.json. CheckpointError and ConfigError begin with the file's path.

    ``alone``: only the directory was named, so the message may name files in it.
    """
    path = directory / "config.json"
    if not path.exists():
        if (directory / ADAPTER_CONFIG).exists():
            raise CheckpointError(f"{directory} holds a LoRA adapter: give this directory, not a file in it")
        of_training = _of_training_programs(directory) if alone else ""
        raise CheckpointError(
            f"{directory} has no config.json: the weights cannot be interpreted without it. Copy that of the "
            f"model they were trained from, if no sizes were changed{of_training}"
        )
    values = read_object(path)
    try:
        if values.get("model_type") in BERTS:
            from .bert_config import bert_from_hf  # deferred, as most models are GPT-2

            return bert_from_hf(values)
        return config_from_hf(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _of_training_programs(directory: Path) -> str:
    """Advice on files that need no config.json, by their first bytes."""
    kinds = {LLMC_MAGIC.to_bytes(4, "little"): "of llm.c", GGUF_MAGIC: "GGUF"}
    found: dict[str, list[str]] = {kind: [] for kind in kinds.values()}
    of_torch: list[str] = []
    for name in _named_like_weights(os.listdir(directory)):
        with contextlib.suppress(CheckpointError), RegularFile(directory / name) as file:
            kind = kinds.get(file.read(4, 0))
            if kind is not None:
                found[kind].append(name)
            elif is_torch_file(file) and name != "ckpt.pt":  # nanoGPT's has been checked
                of_torch.append(name)
    for kind, names in found.items():
        if len(names) > 1:
            return f". {' and '.join(names[:4])} are {kind}: give the path of one"
        if names:
            return f". {names[0]} is {kind}: give its path"
    return f". If {of_torch[0]} is nanoGPT's, give its path" if of_torch else ""


def read_generation_config(directory: Path, config: Config) -> tuple[Config, dict[str, Any]]:
    """The Config with the bos and eos ids of generation_config.json, and its contents: {} if missing."""
    path = directory / "generation_config.json"
    if not path.exists():
        return config, {}
    values = read_object(path)
    try:
        return with_generation_config(config, values), values
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_file(path: Path) -> None:
    """Refuse a file without weights, by its name or, if it is on its own, by its first bytes."""
    if path.suffix == ".json":
        raise CheckpointError(f"{path} is not a file of weights: give its directory, {path.parent}")
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard[1]) > 1:
        raise CheckpointError(
            f"{path} is one of {int(shard[1])} shards of a model: give their directory, {path.parent}"
        )
    if (path.parent / "config.json").exists():
        return
    with RegularFile(path) as file:
        _refuse_foreign(file)
        if not is_torch_file(file):
            check_begin(file)


def open_weights(
    path: Path, stack: contextlib.ExitStack, *, strict: bool = True
) -> tuple[list[RegularFile], list[TensorInfo], list[str]]:
    """Open a file of weights (see check_file), or all those of a directory.

    Parameters
    ----------
    path : Path
    stack : ExitStack
        Closes every file, also if anything fails.
    strict : bool
        Refuse an index of shards that does not match their contents.

    Returns
    -------
    files : list of RegularFile
        Each file once.
    tensors : list of TensorInfo
        All tensors, from the headers of these files.
    notes : list of str
        What was opened, for display.

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
            return _open_shards(path, stack, strict)
    file = stack.enter_context(RegularFile(path))
    found, where = tensors_in(file)
    tensors = list(found.values())
    return [file], tensors, [f"{path.name}: {_count(tensors)}{where}"]


def is_index(name: str) -> bool:
    """Whether a file of `WEIGHTS` is an index of shards."""
    return name.endswith(".index.json")


def tensors_in(file: RegularFile) -> tuple[dict[str, TensorInfo], str]:
    """The tensors of a file by name, and their location in it, for display.

    Its first bytes determine its kind. CheckpointError if it holds no named tensors.
    """
    if not is_torch_file(file):
        _refuse_foreign(file)
        return read_header(file), ""
    # Deferred, as most models are safetensors.
    from .torch_file import read_torch_file

    found, where = read_torch_file(file), ""
    if isinstance(found, dict) and not _is_state_dict(found):
        keys = [key for key in _KEYS if _is_state_dict(found.get(key))]
        if len(keys) > 1:
            raise CheckpointError(
                f"{file.path} holds several models, as {' and as '.join(map(repr, keys))}: with torch "
                f"installed, save one of them: torch.save(torch.load(FILE)[{keys[0]!r}], 'pytorch_model.bin')"
            )
        if keys:
            found, where = found[keys[0]], f", below the key {keys[0]!r}"
    # The names of an optimizer's, a training run's or a list's tensors do not identify them.
    if not _is_state_dict(found):
        raise CheckpointError(
            f"{file.path} does not hold a model's tensors by name: "
            "save it with torch.save(model.state_dict(), FILE)"
        )
    named: dict[str, TensorInfo] = {}
    for key, tensor in found.items():
        if str(key) in named:
            raise CheckpointError(f"{file.path} has two tensors called {shown(str(key))}")
        named[str(key)] = tensor._replace(name=str(key))
    return named, where


def _refuse_foreign(file: RegularFile) -> None:
    """Refuse a file of a known other format, by its first bytes."""
    if file.read(100, 0).lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{file.path} is an HTML page, as left by a failed download: get the file again"
        )
    known = next((kind for start, kind in _OTHERS.items() if file.read(len(start), 0) == start), None)
    if known is not None:
        raise CheckpointError(f"{file.path} is {known}")


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(t, TensorInfo) for t in value.values())


def shards(index: Path) -> dict[str, list[str]]:
    """The shards in an index: file -> names of its tensors. All must be in the index's directory."""
    table = read_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    files: dict[str, list[str]] = {}
    ending = Path(index.name.removesuffix(".index.json")).suffix
    for name, file in table.items():
        # A plain name cannot lead out of the directory, on any system.
        plain = isinstance(file, str) and file.endswith(ending) and not set(file) & set("/\\:\0")
        if not plain:
            raise CheckpointError(
                f"{index} says that tensor {shown(name)} is in {shown(file)}; needed: the plain name of a "
                f"{ending} file beside the index"
            )
        files.setdefault(file, []).append(name)
    return files


def _open_shards(
    index: Path, stack: contextlib.ExitStack, strict: bool
) -> tuple[list[RegularFile], list[TensorInfo], list[str]]:
    files: list[RegularFile] = []
    tensors: dict[str, TensorInfo] = {}
    notes: list[str] = []
    for file, names in shards(index).items():
        path = index.parent / file
        if not path.exists():
            raise CheckpointError(f"{path} is missing: {index.name} lists {listed(names)} in it")
        files.append(stack.enter_context(RegularFile(path)))
        header, _ = tensors_in(files[-1])
        absent = [name for name in names if name not in header]
        unlisted = sorted(set(header) - set(names))
        for wrong, what in (
            (absent, f"lacks tensors that {index.name} lists in it"),
            (unlisted, f"holds tensors that {index.name} does not list"),
        ):
            if wrong and strict:
                raise CheckpointError(f"{path} {what}: {listed(wrong)}{LOOSE}")
            if wrong:
                notes.append(f"{file} {what}: {listed(wrong)}")
        tensors |= header
    found = list(tensors.values())
    return files, found, [f"{len(files)} shards: {_count(found)}", *notes]


def _count(tensors: list[TensorInfo]) -> str:
    dtypes = sorted({tensor.dtype for tensor in tensors})
    return f"{len(tensors)} tensors of {' and '.join(dtypes) or 'no dtype'}"


def advice(names: Iterable[str], path: str = "give the path of that file") -> str:
    """Advice for a model that has these files but none of `WEIGHTS`."""
    names = sorted(names)
    others = _named_like_weights(names)
    if others:
        return f"it has {', '.join(others[:4])}; to load one of them, {path}"
    foreign = [name for name in names if name.endswith((".h5", ".msgpack", ".onnx", ".npz"))]
    if foreign:
        return f"{foreign[0]} is in a format that gpt2c does not read; it reads {' and '.join(_FILES)}"
    return "it has no files that look like weights"


def _named_like_weights(names: Iterable[str]) -> list[str]:
    found = (name for name in names if name.endswith(_ENDINGS))
    return sorted(name for name in found if not name.startswith(_NO_WEIGHTS))
