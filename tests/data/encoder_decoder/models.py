"""Small random encoder-decoder models, as transformers stores them, without what they answer.

The encoders are those of data/bert, the decoders those of data/cross; every second pair is of one width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from data.bert import models as encoders
from data.cross import models as decoders
from data.golden.recipe import integers, nearly_normal
from helpers.tiny_checkpoints import safetensors_bytes

FOLDER = Path(__file__).parent
N_CASES = 24
_BODIES = [name for name in encoders.CASES if "-Model-" in name]


def encoder_name(case: int) -> str:
    return _BODIES[case % len(_BODIES)]


def values(case: int) -> dict:
    """The contents of config.json."""
    encoder, decoder = encoders.values(encoder_name(case)), decoders.values(case)
    if case % 2:
        width, heads = (encoder.get(key) for key in ("hidden_size", "num_attention_heads"))
        decoder |= {"n_embd": width or encoder["dim"], "n_head": heads or encoder["n_heads"]}
    if case % 3:  # what it was trained as
        encoder["architectures"] = [encoder["architectures"][0].removesuffix("Model") + "ForMaskedLM"]
    start, end, pad = (int(n) % decoder["vocab_size"] for n in integers(f"pair {case} tokens", 3))
    return {
        "model_type": "encoder-decoder",
        "architectures": ["EncoderDecoderModel"],
        "is_encoder_decoder": True,
        "encoder": encoder,
        "decoder": decoder | {"is_decoder": True},
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def tensors(case: int) -> dict[str, np.ndarray]:
    """What a file of weights holds, float32."""
    config = values(case)
    parts = {
        "encoder": encoders.tensors(encoder_name(case)),
        "decoder": decoders.tensors(case, config["decoder"]),
    }
    found = {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
    n_encoder, n_decoder = config["encoder"].get("hidden_size"), config["decoder"]["n_embd"]
    n_encoder = n_encoder or config["encoder"]["dim"]
    if n_encoder != n_decoder:
        for name, shape in {"weight": (n_decoder, n_encoder), "bias": (n_decoder,)}.items():
            numbers = 0.3 * nearly_normal(f"pair {case} projection {name}", shape)
            found[f"enc_to_dec_proj.{name}"] = numbers.astype(np.float32)
    return found


def write(folder: Path, case: int, **changes: object) -> Path:
    """A folder of transformers, without a tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values(case) | changes))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors(case)))
    return folder


def source(case: int, number: int = 0) -> list[int]:
    """What the encoder reads: at least one token, without those that fill up batches."""
    config = values(case)["encoder"]
    pad = config.get("pad_token_id", -1)
    drawn = integers(f"pair {case} source {number}", 60)
    longest = min(60, config["max_position_embeddings"] - pad - 1) - 1
    ids = [int(n) % config["vocab_size"] for n in drawn[: 1 + int(drawn[0]) % longest]]
    return [4 if token == pad else token for token in ids]


def target(case: int) -> list[int]:
    """What the decoder has written: it begins with the token that it begins with."""
    config = values(case)
    drawn = integers(f"pair {case} target", 20)
    written = [int(n) % config["decoder"]["vocab_size"] for n in drawn[: int(drawn[0]) % 20]]
    return [config["decoder_start_token_id"], *written]
