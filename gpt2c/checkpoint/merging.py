"""A checkpoint with LoRA adapters merged into its weights as they are read.

Only `Checkpoint.read` and `read_rows` differ from those of the base, so everything that works with a
checkpoint works with a merged one. Blocks of rows are merged in float64 and rounded once to float32: the
deltas never exist as a whole.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config, Head, Setting
from ..errors import CheckpointError, ConfigError, counted, shown
from ..tokenizer.files import FILES, META
from .adapter import HEAD, WTE, Adapter, open_adapter
from .adapter_config import refusal
from .checkpoint import Checkpoint
from .deltas import Apply, Blocks, Change, blocks_of, changes_of, rows_at_a_time
from .directory import ADAPTER_CONFIG
from .hf_config import is_bigcode
from .hf_head import HEADS, head_from_hf
from .hub import fetch_adapter, looks_like_name
from .names import expected
from .tensors import TensorInfo, read_tensor

__all__ = ["Found", "find_adapters", "given_adapters", "merge"]

# The path of an adapter, its name for display, its weight, and notes on its origin.
Found = tuple[Path, str, float, list[str]]


def given_adapters(adapter: Any) -> list[tuple[str, float]]:
    """The adapters in ``adapter=``, each with its weight."""
    if adapter is None:
        return []
    if isinstance(adapter, tuple | list) and len(adapter) == 2 and isinstance(adapter[1], int | float):
        raise TypeError(
            f"adapter is {shown(adapter)}; put a pair into a list: adapter=[{shown(tuple(adapter))}]"
        )
    if isinstance(adapter, str | os.PathLike):
        adapter = [adapter]
    if not isinstance(adapter, list | tuple | Mapping):
        raise TypeError(f"adapter is {shown(adapter)}; {_ALLOWED}")
    found: list[tuple[str, float]] = []
    for item in adapter.items() if isinstance(adapter, Mapping) else adapter:
        path, weight = item if isinstance(item, tuple | list) and len(item) == 2 else (item, 1.0)
        if not isinstance(path, str | os.PathLike) or isinstance(weight, bool):
            raise TypeError(f"adapter has {shown(item)}; {_ALLOWED}")
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(
                f"the weight of adapter {os.fspath(path)!r} is {shown(weight)}; needed: a number"
            )
        found.append((os.fspath(path), float(weight)))
    return found


def find_adapters(adapter: Any, **hub: Any) -> list[Found]:
    """The locations of the adapters in ``adapter=``; those on the hub are fetched.

    Parameters
    ----------
    adapter
        As for :meth:`gpt2c.GPT2.from_pretrained`.
    **hub
        cache_dir, token and local_files_only of `fetch_adapter`.
    """
    found: list[Found] = []
    for given, weight in given_adapters(adapter):
        path, notes = Path(os.path.expanduser(given)), list[str]()
        if not given or not path.exists():
            if not looks_like_name(given):
                raise CheckpointError(f"no adapter is named {given!r}: {_ALLOWED}")
            path, notes = fetch_adapter(given, **hub)
        found.append((path, given, weight, notes))
    return found


# For each kind of classifier, the matrix that gives its labels.
_MATRICES = {"sequence": "score.weight", "token": "classifier.weight"}

_ALLOWED = (
    "allowed: a directory that PEFT wrote, a name on the Hugging Face hub, or several of them: a list of "
    "these, or of pairs (adapter, weight); on the command line --adapter DIR or --adapter DIR=WEIGHT, once "
    "for each"
)


# ---- the resulting tensors


def merge(base: Checkpoint, found: list[Found]) -> Checkpoint:
    """The checkpoint with adapters merged into it. Its files are those of the base and of the adapters.

    Raises
    ------
    CheckpointError
        An adapter is damaged, or does not fit the base or the other adapters.
    """
    if base.config.is_bert:
        raise CheckpointError(
            f"{base.name} is a BERT, and gpt2c does not merge adapters into it: with PEFT installed, "
            "model.merge_and_unload().save_pretrained(DIRECTORY) saves the merged model"
        )
    with contextlib.ExitStack() as stack:
        adapters = [open_adapter(path, name, weight, stack) for path, name, weight, _ in found]
        _check_together(adapters)
        if is_bigcode(base.config):
            _check_layout(base, adapters)
        report: list[Setting] = []
        head = base.config.head or _head_of(adapters, base.config, report)
        tensors, tied = _tensors(base, adapters, head)
        config = _config(base, tensors, tied, head, report)
        shapes = {name: shape for name, _, shape in expected(config)}
        changes: dict[str, list[Change]] = {}
        for adapter in adapters:
            for name, change in changes_of(adapter):
                if name not in shapes:
                    raise _unknown(adapter, name)
                change.check(shapes[name], adapter)
                changes.setdefault(name, []).append(change)
        for name, tensor in tensors.items():
            if tensor.shape != shapes.get(name):
                raise CheckpointError(
                    f"{tensor.file}: {shown(tensor.name)} has the shape {list(tensor.shape)}, but the model "
                    f"needs {list(shapes.get(name, ()))}: the adapter is for another base"
                )
        stack.pop_all()
    notes = [note for *_, notes in found for note in notes] + [_note(adapter) for adapter in adapters]
    notes += _changes(base.config, config, tied)
    own = (a.path for a in adapters if any((a.path / name).exists() for name in (*FILES, META)))
    settings = [(adapter.weight, adapter.settings._replace(where="", base=None)) for adapter in adapters]
    return Merged(
        **{kept.name: getattr(base, kept.name) for kept in fields(base)}
        | {
            "config": config,
            "directory": next(own, base.directory),
            "name": " + ".join([base.name, *(adapter.name for adapter in adapters)]),
            "tensors": {name: tensors[name] for name in shapes},
            "notes": [*base.notes, *notes],
            "files": base.files | {file.path: file for adapter in adapters for file in adapter.files},
        },
        changes=changes,
        settings=repr(settings),
    )


def _changes(base: Config, merged: Config, tied: bool) -> Iterator[str]:
    """The adapters' changes besides weights, for display."""
    if base.tie_word_embeddings and not tied:
        yield (
            "the adapter changes only one of the embedding and the head, which are tied in the base: they "
            "are separate now, as in its training"
        )
    head = merged.head
    if head is not base.head and head is not None:
        yield (
            f"the adapter adds a classifier's head with {counted(len(head.labels), 'label')}, whose "
            "names come from the base's config.json, if it has that many"
        )
    if merged.n_vocab != base.n_vocab:
        yield f"the adapter changes the vocabulary from {base.n_vocab} to {merged.n_vocab} tokens"


def _check_together(adapters: list[Adapter]) -> None:
    """Refuse what cannot be weighted or combined with other adapters."""
    taken: dict[str, Adapter] = {}
    for at, adapter in enumerate(adapters):
        _check_new(adapter, adapters[:at])
        if adapter.settings.is_dora and (len(adapters) > 1 or adapter.weight != 1):
            raise refusal(
                adapter.path, "uses DoRA with a weight other than 1 or together with another adapter"
            )
        for name in sorted(adapter.replaced):
            # PEFT adds the base's own embedding to an adapter that targets it.
            is_copy = name in adapter.base and adapter.base[name].name.endswith("base_layer.weight")
            if adapter.weight != 1 and not is_copy:
                raise refusal(adapter.path, f"replaces {name} with a weight other than 1")
            if name in taken:
                raise refusal(adapter.path, f"replaces {name} as {taken[name].path} does")
            taken[name] = adapter


def _check_new(adapter: Adapter, before: list[Adapter]) -> None:
    """Refuse an adapter that is given twice: its weights would add up, which nobody expects."""
    for other in before:
        if other.path.resolve() == adapter.path.resolve():
            name, total = adapter.name, adapter.weight + other.weight
            raise ValueError(
                f"adapter {name} is given twice, and weights add up: give it once, with the base and the "
                f"weight {total:g}: from_pretrained(BASE, adapter=[({name!r}, {total:g})]), or -m BASE "
                f"--adapter {name}={total:g}"
            )


def _check_layout(base: Checkpoint, adapters: list[Adapter]) -> None:
    """Refuse tensors whose layout in models of type gpt_bigcode differs from that of the base as read."""
    for adapter in adapters:
        for name in sorted({*adapter.pairs, *adapter.biases, *adapter.replaced} & base.tensors.keys()):
            is_dense = name.startswith("h.") and len(base.tensors[name].shape) == 2
            if base.tensors[name].heads is not None or (is_dense and name in adapter.replaced):
                raise refusal(adapter.path, f"changes {name} of this model of type gpt_bigcode")


def _head_of(adapters: list[Adapter], config: Config, report: list[Setting]) -> Head | None:
    """The head for another task that an adapter adds, as those of classifiers do.

    Its other settings come from the base's config.json, as in PEFT; they are added to the report.
    """
    for adapter in adapters:
        for architecture, kind in HEADS.items():
            name = _MATRICES.get(kind)
            shape = adapter.own[name].shape if name in adapter.own else ()
            if len(shape) == 2:
                said = {setting.key: setting.value for setting in config.report}
                names = said.get("id2label")
                if not isinstance(names, Mapping) or len(names) != shape[0]:
                    said |= {"id2label": None, "num_labels": shape[0]}
                return head_from_hf(said | {"architectures": [architecture]}, report)
    return None


def _tensors(
    base: Checkpoint, adapters: list[Adapter], head: Head | None
) -> tuple[dict[str, TensorInfo], bool]:
    """The location of each tensor, before anything is added to it; and whether the head is still tied."""
    tensors = dict(base.tensors)
    tied = base.config.tie_word_embeddings
    of_head = head.shapes(base.config.n_embd) if head else {}
    for adapter in adapters:
        # If the vocabulary was resized, PEFT also stores the embedding's rows as the tied head's.
        copied = adapter.rows.get(HEAD)
        if tied and WTE in adapter.rows and copied and not copied[0]:
            del adapter.rows[HEAD]
        for name, tensor in adapter.base.items():
            # Either of two tied matrices stands for both.
            name = WTE if tied and name == HEAD else name
            if name not in tensors:
                raise _unknown(adapter, name)
            tensors[name] = tensor
    alone = {
        name
        for adapter in adapters
        for name in (WTE, HEAD)
        if name in adapter.pairs or name in adapter.own or (name == HEAD and name in adapter.rows)
    }
    # A classifier has no language model's head.
    if tied and alone and (head is None or head.kind == "choice"):
        for adapter in adapters:
            # Their effect on a tied head depends on the versions of PEFT and transformers.
            if adapter.settings.ties:
                raise refusal(adapter.path, "changes the embedding or the head with ensure_weight_tying")
            if {WTE, HEAD} & adapter.rows.keys():
                raise refusal(adapter.path, "replaces tokens of a model whose embedding or head also changes")
        tied, tensors[HEAD] = False, tensors[WTE]
    for adapter in adapters:
        _check_saved(adapter, {name.rpartition(".")[0] for name in (*tensors, HEAD)})
        for name, tensor in adapter.own.items():
            if name not in tensors and name not in of_head:
                raise _unknown(adapter, name)
            tensors[name] = tensor
    return tensors, tied


def _check_saved(adapter: Adapter, modules: set[str]) -> None:
    """Refuse an adapter that lacks a module which it claims to store whole."""
    there = {name.rpartition(".")[0] for name in adapter.own}
    for key in adapter.settings.own:
        wanted = {module for module in modules if module.endswith(key)}
        if wanted and not wanted & there:
            raise CheckpointError(
                f"{adapter.path / ADAPTER_CONFIG} says modules_to_save {key!r}, but its weights do "
                "not have it: save the adapter again"
            )


def _unknown(adapter: Adapter, name: str) -> CheckpointError:
    told = f" ({adapter.settings.base!r})" if adapter.settings.base else ""
    return CheckpointError(
        f"{adapter.path} changes {shown(name)}, which the base does not have: give the base that the adapter "
        f"was trained on{told}"
    )


def _config(
    base: Checkpoint,
    tensors: Mapping[str, TensorInfo],
    tied: bool,
    head: Head | None,
    of_head: list[Setting],
) -> Config:
    shape = tensors[WTE].shape
    read = {setting.key: setting for setting in of_head}
    report = tuple(read.get(setting.key, setting) for setting in base.config.report)
    changes: dict[str, Any] = {"tie_word_embeddings": tied, "head": head, "report": report}
    try:
        return replace(base.config, n_vocab=shape[0] if shape else 0, **changes)
    except ConfigError as error:
        raise ConfigError(f"{tensors[WTE].file}: with the adapter's vocabulary {error}") from None


def _note(adapter: Adapter) -> str:
    ranks = sorted({pair.a.shape[0] for pair in adapter.pairs.values()})
    what = []
    if ranks:
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        n = len(adapter.pairs)
        what.append(f"{rank} on {n} {'matrix' if n == 1 else 'matrices'}")
    if adapter.settings.is_dora:
        what.append("DoRA")
    if adapter.biases:
        n = len(adapter.biases)
        what.append(f"{n} {'bias' if n == 1 else 'biases'}")
    if adapter.rows:
        what.append(f"{counted(sum(len(rows) for rows, _ in adapter.rows.values()), 'row')} replaced")
    whole = len(adapter.own) + len(adapter.base)
    if whole:
        what.append(f"{counted(whole, 'tensor')} replaced")
    return f"adapter {adapter.name}: {', '.join(what) or 'nothing'}, weight {adapter.weight:g}"


@dataclass(frozen=True, eq=False)
class Merged(Checkpoint):
    """A checkpoint with adapters merged into it.

    Attributes
    ----------
    changes : dict
        The changes to tensors as they are read.
    settings : str
        Everything besides the files that the result depends on.
    """

    changes: dict[str, list[Change]] = field(default_factory=dict)
    settings: str = ""
    # The prepared changes of the tensor that is being read in parts.
    _prepared: dict[str, list[Apply]] = field(default_factory=dict, repr=False)

    @property
    def is_merged(self) -> bool:
        return True

    def read(self, name: str) -> np.ndarray:
        out = super().read(name)
        if name in self.changes:
            self._apply(name, out, 0, self._prepare(name, lambda: blocks_of(out)))
        return out

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        out = super().read_rows(name, begin, end)
        if name in self.changes:
            if name not in self._prepared:
                self._prepared.clear()
                self._prepared[name] = self._prepare(name, lambda: self._stored_blocks(name))
            self._apply(name, out, begin, self._prepared[name])
            if end >= self.tensors[name].shape[0]:
                self._prepared.clear()
        return out

    def _prepare(self, name: str, blocks: Blocks) -> list[Apply]:
        return [
            change.prepare(lambda tensor: read_tensor(self.files[tensor.file], tensor), blocks)
            for change in self.changes[name]
        ]

    def _apply(self, name: str, rows: np.ndarray, begin: int, changes: list[Apply]) -> None:
        for block, at in blocks_of(rows):
            for change in changes:
                change(block, begin + at)
            with np.errstate(over="ignore"):
                rows[at : at + len(block)] = block
            if not np.isfinite(rows[at : at + len(block)]).all():
                raise CheckpointError(
                    f"{name} has NaN or infinity after merging the adapter: the adapter is damaged, "
                    "its training diverged, or its weight is too large"
                )

    def _stored_blocks(self, name: str) -> Iterator[tuple[np.ndarray, int]]:
        n_rows, step = self.tensors[name].shape[0], rows_at_a_time(self.tensors[name].shape)
        for begin in range(0, n_rows, step):
            yield super().read_rows(name, begin, begin + step).astype(np.float64), begin

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of everything the weights depend on: the files and how adapters are merged."""
        import hashlib

        return hashlib.sha256(f"{self._hash_of_files()} {self.settings}".encode()).hexdigest()
