"""Finding a model on disk or on the Hub, and checking that its tensors match its configuration."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .bundled import BUNDLED, located
from .checkpoint import Checkpoint
from .directory import (
    ADAPTER_CONFIG,
    check_file,
    is_adapter,
    open_weights,
    read_config,
    read_generation_config,
)
from .files import is_gguf, read_object, reading
from .hf_config import is_bigcode
from .hub import fetch, looks_like_name
from .validate import match, unwrapped, without_absent_head

if TYPE_CHECKING:
    from .training import Training

__all__ = ["BUNDLED", "Checkpoint", "check_given", "find", "open_checkpoint"]


def open_checkpoint(
    source: str | os.PathLike[str] | None = None,
    *,
    adapter: Any = None,
    revision: str | None = None,
    subfolder: str | None = None,
    strict: bool = True,
    **hub: Any,
) -> Checkpoint:
    """Find a model, read its configuration and check its tensors against it.

    Reads no tensor data, except for the checksums of a checkpoint of TensorFlow.

    Parameters
    ----------
    source : str or path, optional
        A directory (config.json; model.safetensors, or shards and their index), a .safetensors file with its
        config.json in the same directory, a GGUF file, or, if the path does not exist, a name on the Hugging
        Face Hub: "gpt2", "microsoft/DialoGPT-small". Default: the small model bundled with gpt2c. A LoRA
        adapter loads the base that it names, with the adapter merged into it.
    adapter : str, path, list or mapping, optional
        LoRA adapters to merge, as for :meth:`gpt2c.GPT2.from_pretrained`.
    revision : str, optional
        Branch, tag or commit; for hub names only. Default: the main branch.
    subfolder : str, optional
        A directory inside the model's, where config.json and the weights are.
    strict : bool
        Refuse tensors that are not expected, and a wrong index of shards; otherwise they are noted.
    **hub
        ``cache_dir``, ``token`` and ``local_files_only``, as for huggingface_hub; ignored for paths.
        Defaults: its own cache and login, and the network allowed.

    Raises
    ------
    CheckpointError
        The model does not exist, is damaged, incomplete or of another format.
    ConfigError
        config.json is invalid, or asks for something gpt2c does not support.
    """
    check_given(source, subfolder)
    name = "the bundled model" if source is None else os.fspath(source)
    path, notes, is_local = find(BUNDLED if source is None else source, revision, subfolder, hub)
    own = str(path) if is_local or subfolder else name
    with reading(path):
        if is_adapter(path):
            return _merged(_open_base(path, own, strict, hub), [(path, own, 1.0, notes)], adapter, hub)
        if adapter is None:
            _check_alone(path, own)
        base = _open(path, name, notes, strict)
        return base if adapter is None else _merged(base, [], adapter, hub)


def find(
    source: str | os.PathLike[str], revision: str | None, subfolder: str | None, hub: dict[str, Any]
) -> tuple[Path, list[str], bool]:
    """The location of a model, notes on it, and whether it was on this machine; otherwise it is fetched."""
    source = located(source)
    path = Path(os.path.expanduser(source))
    with reading(path):
        if os.fspath(source) != "" and os.path.exists(path):
            _check_local(path, revision, subfolder)
            return path / (subfolder or ""), [], True
        if os.path.exists(f"{path}.index"):
            raise CheckpointError(
                f"{path} does not exist: for a TensorFlow checkpoint give the index, {path}.index"
            )
        if isinstance(source, str) and looks_like_name(source):
            return *fetch(source, revision=revision, subfolder=subfolder, **hub), False
        given, hint = os.fspath(source), ""
        before, _, weight = given.rpartition("=")
        if before and os.path.exists(os.path.expanduser(before)):
            hint = (
                ": a weight can only be given with --adapter, -m BASE --adapter "
                f"{given}, or in Python adapter=[({before!r}, {weight})]"
            )
        raise CheckpointError(f"no file or directory is named {given!r}{hint}")


def _merged(
    base: Checkpoint, first: list[tuple[Path, str, float, list[str]]], adapter: Any, hub: dict[str, Any]
) -> Checkpoint:
    """A checkpoint with adapters merged into it."""
    # Deferred, as most models have none.
    from .merging import find_adapters, merge

    with contextlib.ExitStack() as stack:
        stack.callback(base.close)
        found = first + find_adapters(adapter, **hub)
        merged = merge(base, found) if found else base
        stack.pop_all()
    return merged


def _open_base(path: Path, name: str, strict: bool, hub: dict[str, Any]) -> Checkpoint:
    """The base model named by the adapter in a directory."""
    from .adapter_config import base_of, needed_by

    base, revision = base_of(path, name)
    with needed_by(name):
        found, notes, _ = find(base, revision, None, hub)
        if is_adapter(found):
            raise CheckpointError(f"it is for {base!r}, which is also an adapter")
        with reading(found):
            _check_alone(found, base)
            return _open(found, base, notes, strict)


def _check_alone(path: Path, name: str) -> None:
    """Refuse a directory with weights and an adapter if the user has not said whether the adapter applies."""
    if (path / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"{name} holds a model's weights and a LoRA adapter, which may or may not be merged into them "
            f"already: adapter={name!r} (--adapter {name}) merges it; adapter=[] in Python, or removing "
            f"{ADAPTER_CONFIG}, loads only the weights"
        )


def _open(path: Path, name: str, notes: list[str], strict: bool) -> Checkpoint:
    """Open the weights at ``path``: a directory, or a file with config.json in the same directory."""
    if not path.exists():
        raise CheckpointError(f"the directory {path} does not exist")
    directory = path if path.is_dir() else path.parent
    generation_config: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        training = _open_training(path, stack, strict)
        if training is not None:
            config, files, stored = training.config, training.files, training.tensors
            source, found = training.source, training.notes
            directory = training.tokenizer or directory
        else:
            if directory != path:
                check_file(path)
            config = read_config(directory, alone=directory == path)
            files, stored, found = open_weights(path, stack, strict=strict)
            stored, wrapped = unwrapped(stored)
            if is_bigcode(config):
                from .bigcode import as_gpt2  # deferred, as most models are GPT-2

                stored = as_gpt2(stored, config)
            source = "its config.json"
            config, generation_config = read_generation_config(directory, config)
            if (directory / "modules.json").exists():
                from .sentence_transformers import with_pooling  # deferred, as most models have no such file

                config = with_pooling(config, directory)
            config, absent = without_absent_head(config, stored)
            found = [*found, *wrapped, *absent]
        how: dict[str, Any] = {"source": source, "strict": strict}
        if config.is_bert:
            from .bert import match_bert  # deferred, as most models are GPT-2

            config, tensors, remarks = match_bert(stored, config, str(path), **how)
        else:
            tensors, remarks = match(stored, config, str(path), **how)
        stack.pop_all()
    return Checkpoint(
        config,
        directory,
        name,
        tensors,
        generation_config,
        [*notes, *found, *remarks],
        {file.path: file for file in files},
    )


def _open_training(path: Path, stack: contextlib.ExitStack, strict: bool) -> Training | None:
    """The model of a program with its own layout, if ``path`` is or holds one."""
    directory = path if path.is_dir() else path.parent
    # Imports are deferred, as most models are folders of transformers.
    if is_gguf(path):
        from .gguf_model import open_gguf

        return open_gguf(path, stack, strict=strict)
    if (directory / "config.json").exists():
        sizes = read_object(directory / "config.json").get("model")
        if isinstance(sizes, dict) and {"model_type", "n_layer", "n_head", "n_embd"} <= sizes.keys():
            from .mingpt import open_mingpt

            return open_mingpt(path, sizes, stack)
        if directory == path:
            return None
    from .llmc import open_llmc
    from .nanogpt import open_nanogpt
    from .tensorflow import open_tensorflow

    return (
        open_nanogpt(path, stack, strict=strict)
        or open_tensorflow(path, stack, strict=strict)
        or open_llmc(path, stack)
    )


def _check_local(path: Path, revision: str | None, subfolder: str | None) -> None:
    if revision is not None:
        raise ValueError(f"revision is for names on the Hub; {path} is a path on this machine")
    if subfolder and not path.is_dir():
        raise ValueError(f"subfolder is for directories and names on the Hub; {path} is a file")


def check_given(source: object, subfolder: str | None) -> None:
    """Raise unless these can be a model and a directory inside it."""
    if source is not None and not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "source must be a path, the name of a model on the Hub, or None for the bundled model, not "
            f"{type(source).__name__}"
        )
    if subfolder is None:
        return
    parts = PurePosixPath(subfolder).parts
    if not parts or subfolder.startswith("/") or ".." in parts or set(subfolder) & set("\\:\0"):
        raise ValueError(f"subfolder is {subfolder!r}; needed: the name of a directory inside the model's")
