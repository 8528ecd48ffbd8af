"""Shared by the formats of training programs: OpenAI's, nanoGPT's, minGPT's and llm.c's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..errors import CheckpointError, shown
from .files import RegularFile
from .names import canonical
from .tensors import TensorInfo
from .validate import unwrapped

__all__ = ["Training", "ends_of_text", "of_a_fork", "of_linear_layers", "transposed"]

_DENSE = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_END_OF_TEXT = 50_256


class Training(NamedTuple):
    """A model in the checkpoint of a training run, or in a GGUF file."""

    config: Config
    files: list[RegularFile]
    tensors: list[TensorInfo]
    notes: list[str]
    source: str  # source of the configuration, for messages
    tokenizer: Path | None = None  # its location, if not in a file beside the weights


def ends_of_text(n_vocab: Any) -> dict[str, Any]:
    """The bos and eos ids for a program that has none: GPT-2's, if the vocabulary has them."""
    has_end = type(n_vocab) is int and n_vocab > _END_OF_TEXT
    return {
        "bos_token_id": _END_OF_TEXT if has_end else None,
        "eos_token_ids": (_END_OF_TEXT,) if has_end else (),
    }


def of_a_fork(settings: Mapping[Any, Any], known: Collection[str]) -> str:
    """The settings that a program does not have, except those that are off."""
    strange = [
        f"{shown(key)}: {shown(value)}"
        for key, value in settings.items()
        if key not in known and value is not None and not (isinstance(value, int | float) and value == 0)
    ]
    return ", ".join(strange[:4] + ["…"] * (len(strange) > 4))


def of_linear_layers(stored: Mapping[Any, Any], path: Path) -> tuple[list[TensorInfo], list[str]]:
    """The tensors of a model with torch's Linear, [out, in], as [in, out]; and notes."""
    named: list[TensorInfo] = []
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorInfo):
            raise CheckpointError(f"{path}: model holds {shown(name)}, which is not a named tensor")
        named.append(tensor._replace(name=name))
    bare, notes = unwrapped(named)
    return transposed(bare), notes


def transposed(stored: Iterable[TensorInfo]) -> list[TensorInfo]:
    """The tensors, with the axes of dense layers exchanged."""
    return [
        tensor.transposed if _DENSE.fullmatch(canonical(tensor.name)) and len(tensor.shape) == 2 else tensor
        for tensor in stored
    ]
