"""Writing a model for other programs: a directory in Hugging Face layout; gguf_export.py has GGUF files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import new_directory
from .hf_config import config_to_hf, token_ids_to_hf
from .names import Entry, expected, of_transformers
from .safetensors import header_bytes

if TYPE_CHECKING:
    from ..config import Config
    from ..core.lm import LoadedModel

__all__ = ["export", "names_gguf"]


def export(model: LoadedModel, path: str | os.PathLike[str], dtype: str | None) -> float:
    """See :meth:`gpt2c.GPT2.export`."""
    if names_gguf(path):
        from .gguf_export import export_gguf  # deferred, as few models are exported this way

        return export_gguf(model, path, dtype or "f32")
    if dtype is not None:
        raise ValueError(
            f"dtype is {dtype!r}, but a directory always has float32 weights: leave dtype out, or give a "
            "name that ends with .gguf"
        )
    _export_directory(model, path)
    return 0.0


def names_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a model exported to this name becomes a GGUF file."""
    return os.fspath(path).lower().endswith(".gguf")


def _export_directory(model: LoadedModel, directory: str | os.PathLike[str]) -> None:
    if model.dtype != "float32":
        raise ValueError(
            f"the weights of {model.name} are rounded to {model.dtype}: load the original model "
            "in float32, and export that"
        )
    with new_directory(os.fspath(directory)) as name:
        folder, config = Path(name), _config(model.config)
        if model.has_tokenizer:
            from ..tokenizer.saving import write_tokenizer

            config |= write_tokenizer(model.tokenizer, folder, model.config.n_ctx)
        _write_json(folder / "config.json", config)
        if not model.config.is_bert:  # which does not generate
            generation_config = {**model.generation_config, **token_ids_to_hf(model.config)}
            _write_json(folder / "generation_config.json", generation_config)
        _write_weights(folder / "model.safetensors", model)


def _config(config: Config) -> dict[str, Any]:
    if config.is_bert:
        from .bert_config import bert_to_hf  # deferred, as most models are GPT-2

        return bert_to_hf(config)
    return config_to_hf(config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _write_weights(path: Path, model: LoadedModel) -> None:
    """The weights under transformers' names, unpacked one tensor at a time."""
    shapes = {name: shape for name, _, shape in expected(model.config)}
    entries = list(_entries(model.config))
    stored = {}
    for entry in entries:
        *first, last = shapes[entry.canonical]
        shape = (*first, last if entry.third is None else last // 3)
        stored[entry.name] = ("F32", shape[::-1] if entry.is_turned else shape)
    with open(path, "wb") as file:
        file.write(header_bytes(stored, {"format": "pt"}))
        for entry in entries:
            array = model.weights[entry.canonical]
            if entry.third is not None:
                array = np.split(array, 3, axis=-1)[entry.third]
            file.write(np.ascontiguousarray(array.T if entry.is_turned else array).data.cast("B"))


def _entries(config: Config) -> Iterator[Entry]:
    if config.is_bert:
        from .bert import entries

        yield from entries(config)
        return
    for name, _, shape in expected(config):
        # GPTBigCode has torch's dense layers, [out, in].
        is_turned = config.is_multi_query and name.startswith("h.") and len(shape) == 2
        yield Entry(of_transformers(name), name, is_turned)
