"""LoRA adapters as PEFT saves them: what their tensors change.

Names and formulae are those of PEFT 0.21 (``tuners/lora`` and ``utils/save_and_load.py``). A pair A, B adds
``scaling * B A`` to a matrix; for GPT-2's dense layers, which are stored as [in, out], and for embeddings,
the transpose. Tensors that an adapter stores whole, such as ``modules_to_save`` and trained biases, replace
the base's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, shown
from .adapter_config import Settings, read_settings
from .directory import ADAPTER_CONFIG, ADAPTER_FILES, open_weights
from .files import RegularFile
from .names import canonical
from .tensors import TensorInfo

__all__ = ["HEAD", "WTE", "Adapter", "LowRank", "open_adapter"]

WTE, HEAD = "wte.weight", "lm_head.weight"

_NAME = re.compile(
    r"(?P<module>.+?)\."
    r"(?:(?P<kind>lora_[AB])(?:\.\w+)?\.(?P<pair>weight|bias)"
    r"|(?P<embedding>lora_embedding_[AB])(?:\.\w+)?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.\w+)??(?:\.weight)?"
    r"|(?P<rows>token_adapter\.trainable_tokens_delta)(?:\.\w+)?"
    r"|(?:(?P<base>(?:token_adapter\.)?base_layer|original_module)\.|(?P<own>modules_to_save)\.(?:\w+\.)?)?(?P<whole>weight|bias))"
)
# Longest name of a tensor; GPT-2's have fewer than 100 characters.
_LONGEST_NAME = 200
# The partners that a tensor needs.
_PARTNERS = {
    "lora_B.weight": ("lora_A.weight",),
    "lora_embedding_B": ("lora_embedding_A",),
    "lora_magnitude_vector": ("lora_A.weight", "lora_embedding_A"),
}


class LowRank(NamedTuple):
    """The change that a pair A, B adds to a matrix."""

    a: TensorInfo  # [r, in]
    b: TensorInfo  # [out, r]
    scaling: float
    transposed: bool  # the matrix is stored as [in, out]
    magnitude: TensorInfo | None = None  # for DoRA: the norms of the outputs afterwards


class Adapter(NamedTuple):
    """An adapter on disk. Names are canonical."""

    path: Path
    name: str  # for display
    weight: float
    settings: Settings
    files: list[RegularFile]
    pairs: dict[str, LowRank]
    biases: dict[str, tuple[TensorInfo, float]]  # the change to a bias, and the factor on it
    rows: dict[str, tuple[list[int], TensorInfo]]  # replaced rows
    base: dict[str, TensorInfo]  # tensors of the base itself, changed or enlarged
    own: dict[str, TensorInfo]  # modules_to_save, which replace the base's

    @property
    def replaced(self) -> set[str]:
        """The tensors that are replaced, in whole or in part, rather than added to."""
        return {*self.rows, *self.base, *self.own}


def open_adapter(path: Path, name: str, weight: float, stack: contextlib.ExitStack) -> Adapter:
    """Read an adapter's configuration and the names of its tensors.

    Parameters
    ----------
    path : Path
        A directory with adapter_config.json and adapter_model.safetensors, or else .bin.
    name : str
        For display.
    weight : float
        A factor on its changes.
    stack : ExitStack
        Closes the file.

    Raises
    ------
    CheckpointError
        It is damaged, or asks for something gpt2c does not support.
    """
    if not (path / ADAPTER_CONFIG).exists():
        inside = path.parent if path.is_file() else path
        hint = f"; give the directory {inside}" if (inside / ADAPTER_CONFIG).exists() else ""
        raise CheckpointError(f"{path} is not an adapter: that is a directory with {ADAPTER_CONFIG}{hint}")
    settings = read_settings(path / ADAPTER_CONFIG)
    file = next((path / name for name in ADAPTER_FILES if (path / name).exists()), None)
    if file is None:
        raise CheckpointError(
            f"{path} has no {' and no '.join(ADAPTER_FILES)}: the adapter's weights are missing"
        )
    files, stored, _ = open_weights(file, stack)
    adapter = Adapter(path, name, weight, settings, files, **_sorted(stored, settings, file))
    if not adapter.pairs and not adapter.biases and not adapter.replaced:
        raise CheckpointError(f"{file} is empty: save the adapter again")
    if settings.tokens and not adapter.rows:
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG} has trainable_token_indices, but {file} holds no such tokens"
        )
    return adapter


def _parts(stored: list[TensorInfo], settings: Settings, file: Path) -> dict[tuple[str, str], TensorInfo]:
    """The tensors by module and by their role in it."""
    parts: dict[tuple[str, str], TensorInfo] = {}
    spellings: dict[str, str] = {}
    for tensor in stored:
        name = tensor.name.removeprefix("base_model.model.")
        found = _NAME.fullmatch(name) if len(name) <= _LONGEST_NAME else None
        if found is None or (found["kind"], found["pair"]) == ("lora_A", "bias"):
            raise CheckpointError(f"{file}: tensor {shown(tensor.name)} does not belong to a LoRA adapter")
        module = found["module"]
        other = spellings.setdefault(canonical(f"{module}.weight"), module)
        if other != module:
            raise CheckpointError(f"{file} has a module twice, as {shown(other)} and as {shown(module)}")
        kind = found["kind"] and f"{found['kind']}.{found['pair']}"
        kind = kind or found["embedding"] or found["magnitude"] or found["rows"]
        if kind is None:
            is_own = not found["base"] and settings.is_own(module)
            kind = f"{found['own'] or ('own' if is_own else 'base')}.{found['whole']}"
        if (module, kind) in parts:
            raise CheckpointError(
                f"{file} holds {shown(tensor.name)} and {shown(parts[module, kind].name)}, but "
                "only one of them can apply: does the file hold two adapters?"
            )
        parts[module, kind] = tensor
    return parts


def _sorted(stored: list[TensorInfo], settings: Settings, file: Path) -> dict[str, dict[str, Any]]:
    """The fields of an `Adapter` that hold tensors."""
    pairs: dict[str, LowRank] = {}
    biases: dict[str, tuple[TensorInfo, float]] = {}
    rows: dict[str, tuple[list[int], TensorInfo]] = {}
    base: dict[str, TensorInfo] = {}
    own: dict[str, TensorInfo] = {}
    parts = _parts(stored, settings, file)
    for (module, kind), tensor in parts.items():
        weight = canonical(f"{module}.weight")
        if kind.startswith("own."):
            own[canonical(f"{module}.{kind[4:]}")] = tensor
        elif kind.startswith("modules_to_save."):
            # PEFT stores it again if the vocabulary was resized.
            own.setdefault(canonical(f"{module}.{kind.split('.')[1]}"), tensor)
        elif kind.startswith("base."):
            base[canonical(f"{module}.{kind[5:]}")] = tensor
        elif kind.startswith("token_adapter"):
            named = next((ids for key, ids in settings.tokens.items() if module.endswith(key)), [])
            rows[weight] = (named, tensor)
        elif kind == "lora_B.bias":
            biases[canonical(f"{module}.bias")] = (tensor, settings.scaling_of(module))
        elif kind in ("lora_A.weight", "lora_embedding_A"):
            pairs[weight] = _pair(parts, module, kind, settings, file)
        else:  # B or a magnitude
            partners = _PARTNERS[kind]
            if not any((module, partner) in parts for partner in partners):
                raise CheckpointError(f"{file} has {shown(tensor.name)}, but not the {partners[0]} for it")
    return {"pairs": pairs, "biases": biases, "rows": rows, "base": base, "own": own}


def _pair(
    parts: Mapping[tuple[str, str], TensorInfo], module: str, kind: str, settings: Settings, file: Path
) -> LowRank:
    """A and B of one module."""
    a, b = parts[module, kind], parts.get((module, kind.replace("A", "B")))
    if b is None:
        raise CheckpointError(f"{file} has {shown(a.name)}, but not the {kind.replace('A', 'B')} for it")
    rank = settings.rank_of(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
        raise CheckpointError(
            f"{file}: {shown(a.name)} and its B have the shapes {list(a.shape)} and {list(b.shape)}, but "
            f"{ADAPTER_CONFIG} says rank {rank}; needed: [{rank}, in] and [out, {rank}]"
        )
    # Dense layers of GPT-2 are stored as [in, out], as embeddings are; heads are torch's Linear, [out, in].
    transposed = "embedding" in kind or canonical(module).startswith("h.")
    magnitude = parts.get((module, "lora_magnitude_vector"))
    if (magnitude is not None) != settings.is_dora:
        there = "there is a" if magnitude else "there is no"
        raise CheckpointError(
            f"{file}: {ADAPTER_CONFIG} says use_dora {str(settings.is_dora).lower()}, but {there} "
            f"lora_magnitude_vector for {module}"
        )
    return LowRank(a, b, settings.scaling_of(module), transposed, magnitude)
