"""Writing a model for other programs: a directory in Hugging Face layout; gguf_export.py has GGUF files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import new_directory
from .hf_config import config_to_hf, token_ids_to_hf
from .names import expected, of_transformers
from .safetensors import header_bytes

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["export", "names_gguf"]


def export(model: LoadedModel, path: str | os.PathLike[str], dtype: str | None) -> float:
    """What :meth:`gpt2c.GPT2.export` does."""
    if names_gguf(path):
        from .gguf_export import export_gguf  # few models are exported so

        return export_gguf(model, path, dtype or "f32")
    if dtype is not None:
        raise ValueError(
            f"dtype is {dtype!r}, and a directory has its weights in float32: leave it out, or give a name "
            "that ends with .gguf"
        )
    _export_directory(model, path)
    return 0.0


def names_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a model that gets this name becomes a GGUF file."""
    return os.fspath(path).lower().endswith(".gguf")


def _export_directory(model: LoadedModel, directory: str | os.PathLike[str]) -> None:
    if model.dtype != "float32":
        raise ValueError(
            f"the weights of {model.name} are rounded to {model.dtype}: load the model that it was made from "
            "in float32, and export that"
        )
    with new_directory(os.fspath(directory)) as name:
        folder, config = Path(name), config_to_hf(model.config)
        if model.has_tokenizer:
            from ..tokenizer.saving import write_tokenizer

            config |= write_tokenizer(model.tokenizer, folder, model.config.n_ctx)
        _write_json(folder / "config.json", config)
        generation_config = {**model.generation_config, **token_ids_to_hf(model.config)}
        _write_json(folder / "generation_config.json", generation_config)
        _write_weights(folder / "model.safetensors", model)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _write_weights(path: Path, model: LoadedModel) -> None:
    """The weights under the names of transformers; only one tensor at a time is unpacked."""
    shapes = {name: shape for name, _, shape in expected(model.config)}
    # GPTBigCode has dense layers of torch, [out, in].
    turned = {name for name in shapes if name.startswith("h.")} if model.config.is_multi_query else set()
    with open(path, "wb") as file:
        stored = {
            of_transformers(name): ("F32", shape[::-1] if name in turned else shape)
            for name, shape in shapes.items()
        }
        file.write(header_bytes(stored, {"format": "pt"}))
        for name in shapes:
            array = model.weights[name].T if name in turned else model.weights[name]
            file.write(np.ascontiguousarray(array).data.cast("B"))
