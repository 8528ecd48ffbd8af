"""Writing an encoder-decoder model for other programs: a directory as transformers lays it out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import new_directory
from ..tokenizer.saving import write_tokenizer
from .bundled import ENCODER_DECODER
from .export import Exported, check_exact, config_values, weights_of, write_json, write_weights
from .hf_config import token_ids_to_hf

if TYPE_CHECKING:
    from ..core.encoder_decoder import LoadedEncoderDecoder
    from ..core.lm import LoadedModel

__all__ = ["export_encoder_decoder"]


def export_encoder_decoder(model: LoadedEncoderDecoder[Any, Any], path: str | os.PathLike[str]) -> None:
    """What :meth:`gpt2c.EncoderDecoder.export` does."""
    parts: dict[str, LoadedModel] = {"encoder": model.encoder, "decoder": model.decoder}
    for part in parts.values():
        check_exact(part)
    ids = token_ids_to_hf(model.decoder.config)
    ids["decoder_start_token_id"] = ids["bos_token_id"]
    with new_directory(os.fspath(path)) as name:
        folder = Path(name)
        configs = {name: config_values(part.config) for name, part in parts.items()}
        configs["decoder"]["is_decoder"] = True
        _write_tokenizers(parts, folder)
        config = {"architectures": ["EncoderDecoderModel"], "model_type": ENCODER_DECODER, **configs, **ids}
        write_json(folder / "config.json", config | {"is_encoder_decoder": True, "dtype": "float32"})
        write_json(folder / "generation_config.json", ids)
        tensors = [tensor for name, part in parts.items() for tensor in weights_of(part, f"{name}.")]
        if model.projection is not None:
            between = model.projection._asdict().items()
            tensors += [
                Exported(f"enc_to_dec_proj.{name}", array.shape, array.copy) for name, array in between
            ]
        write_weights(folder / "model.safetensors", tensors)


def _write_tokenizers(parts: dict[str, LoadedModel], folder: Path) -> None:
    """One for both beside the weights, or each in a folder with the name of its part."""
    first, second = parts.values()
    if not (first.has_tokenizer and second.has_tokenizer):
        return
    shared = first.tokenizer.source is not None and first.tokenizer.source == second.tokenizer.source
    packed = first.tokenizer.packed()
    if shared or (packed is not None and packed == second.tokenizer.packed()):
        write_tokenizer(first.tokenizer, folder, first.config.n_ctx)
        return
    for name, part in parts.items():
        (folder / name).mkdir()
        write_tokenizer(part.tokenizer, folder / name, part.config.n_ctx)
