"""Finding a model on disk or on the Hub, and checking that its tensors match its configuration."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config
from ..errors import CheckpointError
from .directory import check_file, open_weights, read_config, read_generation_config
from .files import RegularFile, read_object, reading
from .hub import fetch, looks_like_name
from .tensors import TensorInfo, read_tensor
from .validate import match, without_absent_head

if TYPE_CHECKING:
    from .nanogpt import Training

__all__ = ["BUNDLED", "Checkpoint", "open_checkpoint"]

BUNDLED = Path(__file__).parent.parent / "data" / "model"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk, checked to be complete and consistent; made by :func:`open_checkpoint`.

    Its weight files stay open until it is closed or no longer referenced. All reads use these open files,
    even if other files have taken their names.

    Attributes
    ----------
    config : Config
        With the bos and eos ids of generation_config.json where there is one.
    directory : Path
        Where the tokenizer's files are.
    name : str
        For display: the hub name or the path, as given.
    tensors : dict
        Canonical name -> TensorInfo (``.shape``, ``.dtype`` as stored, ``.file``), exactly those of a GPT-2
        of this configuration, in the order of the model.
    generation_config : dict
        The contents of generation_config.json, {} if there is none. Its defaults for sampling are not
        applied.
    notes : list of str
        What was read and what was ignored, for display.
    files : dict
        Path -> RegularFile, the weight files, each opened once.
    """

    config: Config
    directory: Path
    name: str
    tensors: dict[str, TensorInfo]
    generation_config: dict[str, Any]
    notes: list[str]
    files: dict[Path, RegularFile]

    def read(self, name: str) -> np.ndarray:
        """Read one tensor, by its canonical name, as a new float32 array, C-contiguous.

        Raises
        ------
        CheckpointError
            The file can no longer be read, or the tensor holds NaN or infinity.
        KeyError
            There is no tensor of that name.
        """
        info = self.tensors[name]
        return read_tensor(self.files[info.file], info)

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows ``begin`` to ``end`` of a matrix; otherwise like `read`."""
        info = self.tensors[name]
        return read_tensor(self.files[info.file], info, begin, end)

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """A context for a load, which fails if a weight file is changed or replaced during it.

        Raises
        ------
        CheckpointError
            At the end of the context, a weight file is not the one that was opened: it was changed in place,
            or its path leads to another file or to none. The bytes read from a replaced file are consistent,
            but config.json, the tokenizer's files and other shards may belong to the other model. The
            checkpoint is closed, as after any error.
        """
        try:
            try:
                yield
            except CheckpointError:
                # A change explains why something could not be read.
                self._check_files()
                raise
            self._check_files()
        except BaseException:
            self.close()
            raise

    def _check_files(self) -> None:
        for path, file in self.files.items():
            if not file.is_still_named():
                raise CheckpointError(
                    f"{path} was changed or replaced while the model was read: load the model again when the "
                    "program that writes it has finished"
                )

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the weight files, one after the other, in the order of their names.

        It covers the bytes that `read` uses, even if other files have taken the names. CheckpointError if a
        file was changed after it was opened.
        """
        import hashlib  # takes longer than opening a model

        found = hashlib.sha256()
        for path in sorted({tensor.file for tensor in self.tensors.values()}):
            file, offset = self.files[path], 0
            while block := file.read(2**20, offset):
                found.update(block)
                offset += len(block)
            if not file.is_unchanged():
                raise CheckpointError(
                    f"{path} was changed after the model was read from it, so the SHA-256 of what was read "
                    "is not known: load the model again"
                )
        return found.hexdigest()

    def close(self) -> None:
        """Close the files; reading and hashing are then errors."""
        for file in self.files.values():
            file.close()


def open_checkpoint(
    source: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    strict: bool = True,
    **hub: Any,
) -> Checkpoint:
    """Find a model, read its configuration and check its tensors against it. Reads no tensor data.

    Parameters
    ----------
    source : str or path, optional
        A directory (config.json; model.safetensors, or shards and their index), a .safetensors file with its
        config.json in the same directory, or, if there is no such path, a name on the Hugging Face Hub:
        "gpt2", "microsoft/DialoGPT-small". Default: the small model bundled with gpt2c.
    revision : str, optional
        Branch, tag or commit; for hub names only. Default: the main branch.
    subfolder : str, optional
        A directory inside the model's, where config.json and the weights are.
    strict : bool
        Refuse tensors that are not expected, and an index of shards that is wrong; else notes tell of them.
    **hub
        ``cache_dir``, ``token`` and ``local_files_only``, as for huggingface_hub; of no effect for paths.
        Defaults: its own cache and login, and the network allowed.

    Raises
    ------
    CheckpointError
        There is no model, or it is damaged, incomplete or of another format.
    ConfigError
        config.json is invalid, or asks for something gpt2c cannot honour.
    """
    if source is not None and not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "source must be a path, the name of a model on the Hub, or None for the bundled model; got "
            f"{type(source).__name__}"
        )
    _check_subfolder(subfolder)
    path = BUNDLED if source is None else Path(os.path.expanduser(source))
    local = source is None or (os.fspath(source) != "" and os.path.exists(path))
    if local and revision is not None:
        raise ValueError(f"revision is for names on the Hub; {path} is a path on this machine")
    if local and subfolder and not path.is_dir():
        raise ValueError(f"subfolder is for directories and names on the Hub; {path} is a file")
    notes: list[str] = []
    with reading(path):
        if local:
            path = path / (subfolder or "")
        elif isinstance(source, str) and looks_like_name(source):
            path, notes = fetch(source, revision=revision, subfolder=subfolder, **hub)
        else:
            raise CheckpointError(f"there is no file or directory {os.fspath(source or '')!r}")
        return _open(path, "the bundled model" if source is None else os.fspath(source), notes, strict)


def _open(path: Path, name: str, notes: list[str], strict: bool) -> Checkpoint:
    """Open the weights at ``path``: a directory, or a file with config.json in the same directory."""
    if not path.exists():
        raise CheckpointError(f"there is no directory {path}")
    directory = path if path.is_dir() else path.parent
    generation_config: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        training = _open_training(path, stack)
        if training is not None:
            config, files, stored = training.config, [training.file], training.tensors
            source, found = training.source, training.notes
        else:
            if directory != path:
                check_file(path)
            config = read_config(directory, alone=directory == path)
            files, stored, found = open_weights(path, stack, strict=strict)
            source = "its config.json"
            config, generation_config = read_generation_config(directory, config)
            config, absent = without_absent_head(config, stored)
            found = [*found, *absent]
        tensors, remarks = match(stored, config, str(path), source=source, strict=strict)
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


def _open_training(path: Path, stack: contextlib.ExitStack) -> Training | None:
    """The model of a training program that has its own layout, if ``path`` is or holds one."""
    directory = path if path.is_dir() else path.parent
    # Imports are deferred, as most models are folders of transformers.
    if (directory / "config.json").exists():
        sizes = read_object(directory / "config.json").get("model")
        if isinstance(sizes, dict) and {"model_type", "n_layer", "n_head", "n_embd"} <= sizes.keys():
            from .mingpt import open_mingpt

            return open_mingpt(path, sizes, stack)
        if directory == path:
            return None
    from .llmc import open_llmc
    from .nanogpt import open_nanogpt

    return open_nanogpt(path, stack) or open_llmc(path, stack)


def _check_subfolder(subfolder: str | None) -> None:
    if subfolder is None:
        return
    parts = PurePosixPath(subfolder).parts
    if not parts or subfolder.startswith("/") or ".." in parts or set(subfolder) & set("\\:\0"):
        raise ValueError(f"subfolder is {subfolder!r}; the name of a directory inside the model's is needed")
