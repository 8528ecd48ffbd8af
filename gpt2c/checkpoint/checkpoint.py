"""A model on disk: its configuration, the location of its tensors, and how they are read."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..errors import CheckpointError
from .files import RegularFile
from .tensors import TensorInfo, read_from

__all__ = ["Checkpoint"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk, checked to be complete and consistent; made by ``open_checkpoint``.

    Its weight files stay open until it is closed or no longer referenced. All reads use these open files,
    even if their names now lead to others.

    Attributes
    ----------
    config : Config
        With the bos and eos ids of generation_config.json, if there is one.
    directory : Path
        The directory of the tokenizer's files, or the GGUF file that contains it.
    name : str
        For display: the hub name or the path, as given.
    tensors : dict
        Canonical name -> TensorInfo (``.shape``, ``.dtype`` as stored, ``.file``), exactly those of a model
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

    @property
    def is_merged(self) -> bool:
        """Whether adapters are merged into the tensors as they are read."""
        return False

    def read(self, name: str) -> np.ndarray:
        """Read one tensor, by its canonical name, as a new float32 array, C-contiguous.

        Raises
        ------
        CheckpointError
            The file can no longer be read, or the tensor holds NaN or infinity.
        KeyError
            No tensor has that name.
        """
        return read_from(self.files, self.tensors[name])

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows ``begin`` to ``end`` of a matrix; otherwise like `read`."""
        return read_from(self.files, self.tensors[name], begin, end)

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
                # A change explains why reading failed.
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
        """SHA-256 of the concatenated weight files, in the order of their names.

        It covers the bytes that `read` uses, even if the names now lead to other files. Raises
        CheckpointError if a file was changed after it was opened.
        """
        return self._hash_of_files()

    def _hash_of_files(self) -> str:
        import hashlib  # takes longer than opening a model

        found = hashlib.sha256()
        # An adapter's files come after the base's, whatever the names of their folders.
        folders = list(dict.fromkeys(path.parent for path in self.files))
        for file in sorted(self.files.values(), key=lambda f: (folders.index(f.path.parent), f.path)):
            offset = 0
            while block := file.read(2**20, offset):
                found.update(block)
                offset += len(block)
            if not file.is_unchanged():
                raise CheckpointError(
                    f"{file.path} was changed after the model was read from it, so the SHA-256 of the bytes "
                    "read is unknown: load the model again"
                )
        return found.hexdigest()

    def close(self) -> None:
        """Close the files; reading and hashing are then errors."""
        for file in self.files.values():
            file.close()
