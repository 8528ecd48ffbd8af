"""TensorFlow checkpoints of GPT-2, as published by OpenAI and saved by gpt-2-simple and others.

A directory has hparams.json with the sizes, and for each checkpoint an index and one or more data files:
model.ckpt.index, model.ckpt.data-00000-of-00001. A text file, ``checkpoint``, names the latest one. Variables
are named after the program (https://github.com/openai/gpt-2): model/h0/attn/c_attn/w. Dense layers are
convolutions of width 1, [1, in, out]; the head is the token embedding; GELU is GPT-2's.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError, ConfigError, shown
from .crc32c import crc32c_of_file, masked
from .files import RegularFile, read_object
from .names import canonical, expected
from .tensors import ITEMSIZE, TensorInfo
from .tf_bundle import Variable, read_index
from .training import Training, ends_of_text, of_a_fork
from .validate import LOOSE

__all__ = ["open_tensorflow"]

LATEST = "checkpoint"
HPARAMS = "hparams.json"
_INDEX = ".index"
_OF_AN_INDEX = re.compile(r"(.+)\.(?:data-\d{5}-of-\d{5}|meta)")
_NAMED = re.compile(r'^model_checkpoint_path:\s*"(.*)"\s*$', re.MULTILINE)
_SIZES = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
# Settings that fine-tuning programs add, which change no logits.
_KNOWN = {*_SIZES, "embd_dropout", "attn_dropout", "res_dropout", "resid_dropout"}
# Numbers of tensorflow.DataType.
_DTYPES = {
    **{1: "F32", 2: "F64", 3: "I32", 4: "U8", 5: "I16", 6: "I8", 9: "I64", 10: "BOOL"},
    **{14: "BF16", 17: "U16", 19: "F16", 22: "U32", 23: "U64"},
}


def open_tensorflow(path: Path, stack: contextlib.ExitStack, *, strict: bool = True) -> Training | None:
    """The model at ``path``, if it is the index of a TensorFlow checkpoint, or a directory with some.

    ``stack`` closes the files. The model's variables are read once, for their checksums. ``strict`` refuses
    settings that OpenAI's program does not have; otherwise they are noted.

    Raises
    ------
    CheckpointError, ConfigError
        It is one, but damaged, not a GPT-2, or with sizes that a GPT-2 cannot have; or it is unclear which of
        several is meant.
    """
    found = _index(path)
    if found is None:
        return None
    index = stack.enter_context(RegularFile(found))
    n_shards, variables = read_index(index)
    settings = _settings(found)
    config = _config(settings, variables, found.parent / HPARAMS)
    strange = of_a_fork(settings, _KNOWN)
    if strange and strict:
        raise ConfigError(
            f"{found.parent / HPARAMS} has {strange}, which OpenAI's program does not have: one that has it "
            f"may compute something different{LOOSE}"
        )
    own = {name: variable for name, variable in variables.items() if not _of_training(name, variables)}
    bundle = _Bundle(found, n_shards, stack)
    wanted = {name for name, _, _ in expected(config)}
    read = {name for name in own if canonical(name) in wanted}
    tensors = [bundle.tensor(name, variable, is_read=name in read) for name, variable in own.items()]
    notes = [f"{found.name}: a TensorFlow checkpoint, {len(read)} variables; their checksums are correct"]
    if len(variables) > len(own):
        notes.append(f"{len(variables) - len(own)} training variables are ignored")
    if strange:
        notes.append(f"{HPARAMS}'s {strange} is ignored: GPT-2 has no such setting (strict=False)")
    return Training(config, [index, *bundle.files.values()], tensors, notes, f"its {HPARAMS}")


# ---- which checkpoint


def _index(path: Path) -> Path | None:
    """The index of the checkpoint at ``path``; None if there is none."""
    if not path.is_dir():
        part = _OF_AN_INDEX.fullmatch(path.name)
        if part and (index := path.with_name(part[1] + _INDEX)).exists():
            raise CheckpointError(f"{path} is a part of a TensorFlow checkpoint: give its index, {index}")
        return path if path.suffix == _INDEX else None
    found = sorted(one for one in path.glob(f"*{_INDEX}") if one.is_file())
    latest = path / LATEST
    if latest.is_file():
        return _latest(latest, found)
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds several TensorFlow checkpoints, but no file {LATEST!r} that names the latest: "
            f"give one of {_names(found)}"
        )
    return found[0] if found else None


def _latest(path: Path, there: list[Path]) -> Path:
    """The index of the checkpoint that the file ``checkpoint`` names."""
    with RegularFile(path) as file:
        named = _NAMED.search(file.read(2**16, 0).decode("utf-8", "replace"))
    if named is None:
        raise CheckpointError(
            f"{path} does not name the latest checkpoint, as TensorFlow writes it (model_checkpoint_path: "
            f'"…"): {_instead(there)}'
        )
    # It may be a path on another machine, where the checkpoint was also beside this file.
    index = path.with_name(re.split(r"[/\\]", named[1])[-1] + _INDEX)
    if not index.is_file():
        raise CheckpointError(
            f"{path} names {shown(named[1])}, but {index} does not exist: {_instead(there)}"
        )
    return index


def _instead(there: list[Path]) -> str:
    return f"give the path of {_names(there)}" if there else "get that file and its data"


def _names(found: list[Path]) -> str:
    """A few names for a message: the last ones, which are the newest."""
    return ", ".join([*["…"] * (len(found) > 4), *(str(one) for one in found[-4:])])


# ---- the configuration


def _settings(index: Path) -> dict[str, Any]:
    path = index.parent / HPARAMS
    if not path.exists():
        raise CheckpointError(
            f"{index} has no {HPARAMS} beside it, which has the model's number of heads: copy {HPARAMS}, "
            "encoder.json and vocab.bpe from the model that training started from"
        )
    return read_object(path)


def _config(settings: Mapping[str, Any], variables: Mapping[str, Variable], where: Path) -> Config:
    """The sizes in hparams.json; missing ones come from the variables, or are 12 heads as in the program."""
    shapes = {canonical(name): variable.shape for name, variable in variables.items()}
    layers = [int(found[1]) for name in shapes if (found := re.match(r"h\.(\d{1,4})\.", name))]
    sizes: dict[str, Any] = {"n_head": 12, "n_layer": 1 + max(layers, default=-1), "n_inner": None}
    for name, embedding, axis in (
        ("n_vocab", "wte.weight", 0),
        ("n_ctx", "wpe.weight", 0),
        ("n_embd", "wte.weight", 1),
    ):
        shape = shapes.get(embedding, ())
        if len(shape) != 2:
            raise CheckpointError(
                f"{where.parent} does not hold a GPT-2 of OpenAI's program: it has no matrix "
                f"model/{embedding.removesuffix('.weight')}"
            )
        sizes[name] = shape[axis]
    sizes |= {name: settings[name] for name in _SIZES if name in settings}
    try:
        return Config(**sizes, **ends_of_text(sizes["n_vocab"]))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


# ---- the variables


def _of_training(name: str, variables: Mapping[str, Variable]) -> bool:
    """Whether a variable is a counter, or the optimizer's, which extends the name of another one."""
    parent = name.rpartition("/")[0]
    return parent in variables or (not name.startswith("model/") and variables[name].shape == ())


class _Bundle:
    """The data files of an index, opened when needed."""

    def __init__(self, index: Path, n_shards: int, stack: contextlib.ExitStack) -> None:
        self.files: dict[int, RegularFile] = {}
        self._index, self._n_shards, self._stack = index, n_shards, stack

    def tensor(self, name: str, variable: Variable, *, is_read: bool) -> TensorInfo:
        """A variable as a tensor; if it will be read, its bytes must exist and match its checksum."""
        dtype = _DTYPES.get(variable.dtype, f"{variable.dtype} of TensorFlow")
        shape = variable.shape
        if len(shape) == 3 and shape[0] == 1 and name.endswith("/w"):
            shape = shape[1:]
        path = self._path(variable.shard)
        if is_read:
            self._check(name, variable, ITEMSIZE.get(dtype))
        return TensorInfo(name, dtype, shape, path, variable.offset, variable.nbytes)

    def _path(self, shard: int) -> Path:
        stem = self._index.name.removesuffix(_INDEX)
        return self._index.with_name(f"{stem}.data-{shard:05}-of-{self._n_shards:05}")

    def _check(self, name: str, variable: Variable, itemsize: int | None) -> None:
        if variable.is_sliced:
            raise CheckpointError(
                f"{self._index}: variable {shown(name)} is stored in parts (a partitioned variable), which "
                "gpt2c does not read: save it whole, with TensorFlow"
            )
        if itemsize and variable.nbytes != itemsize * math.prod(variable.shape):
            raise CheckpointError(
                f"{self._index}: variable {shown(name)} has {variable.nbytes} bytes, but its shape "
                f"{list(variable.shape)} takes {itemsize * math.prod(variable.shape)}"
            )
        path = self._path(variable.shard)
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing: according to {self._index.name} it holds variable {shown(name)}"
            )
        file = self.files.get(variable.shard)
        if file is None:
            file = self.files[variable.shard] = self._stack.enter_context(RegularFile(path))
        end = variable.offset + variable.nbytes
        if end > file.size:
            raise CheckpointError(
                f"{path} is truncated: according to {self._index.name} variable {shown(name)} ends at byte "
                f"{end}, but the file has {file.size} bytes"
            )
        if masked(crc32c_of_file(file, variable.offset, variable.nbytes)) != variable.crc:
            raise CheckpointError(
                f"{path} is damaged: the checksum of variable {shown(name)} is wrong; get the file again"
            )
