"""Models of well-known shapes with random weights: as fast as the real ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ...config import Config
from ...core import _engine
from ...core.threads import default_threads
from ...model import GPT2
from ...tokenizer import gpt2_tokenizer

__all__ = ["SHAPES", "check_shape", "random_model", "random_weights"]

# The particulars of OpenAI's four models, and of bigcode/starcoderbase-1b, whose heads share keys and values
# (their config.json on the Hugging Face hub).
SHAPES: dict[str, dict[str, Any]] = {
    "124M": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "355M": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "774M": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "1558M": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    "starcoderbase-1b": {
        **{"n_layer": 24, "n_head": 16, "n_kv_head": 1, "n_embd": 2048},
        **{"n_ctx": 8192, "n_vocab": 49152, "bos_token_id": 0},
    },
}
_GPT2: dict[str, Any] = {"n_ctx": 1024, "n_vocab": 50257, "bos_token_id": 50256}


def check_shape(shape: str) -> None:
    """Raise ValueError for a shape that is not in `SHAPES`."""
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}; allowed: {', '.join(SHAPES)}")


def random_model(
    shape: str, *, dtype: str = "float32", backend: str = "native", threads: int | None = None, seed: int = 0
) -> GPT2:
    """A model of one of the `SHAPES` with random weights; with GPT-2's tokenizer, if that is its vocabulary.

    Raises
    ------
    ValueError
        If the shape is not in `SHAPES`.
    """
    check_shape(shape)
    config = Config(**{"n_inner": None, **_GPT2, **SHAPES[shape]})
    weights = random_weights(config, dtype=dtype, backend=backend, threads=threads, seed=seed)
    tokenizer = gpt2_tokenizer() if config.n_vocab == _GPT2["n_vocab"] else None
    return GPT2(weights, tokenizer, threads=threads, name=f"random weights, shape {shape}")


def random_weights(
    config: Config,
    *,
    dtype: str = "float32",
    backend: str = "native",
    threads: int | None = None,
    seed: int = 0,
) -> _engine.Weights:
    """Random weights of any configuration, made tensor by tensor in no more memory than the packed ones."""
    n_embd = config.n_embd
    shapes = {
        "wte": (config.n_vocab, n_embd),
        "lm_head": (config.n_vocab, n_embd),
        "wpe": (config.n_ctx, n_embd),
        "attn.c_attn": (n_embd, config.n_qkv),
        "attn.c_proj": (n_embd, n_embd),
        "mlp.c_fc": (n_embd, config.n_inner),
        "mlp.c_proj": (config.n_inner, n_embd),
    }
    rng = np.random.default_rng(seed)
    # Repeated, because drawing a thousand million numbers takes longer than measuring. The length is odd, so
    # that no two columns are the same.
    numbers = rng.standard_normal((1 << 20) + 7, dtype=np.float32) * np.float32(0.02)

    def read(name: str) -> np.ndarray:
        part, kind = re.sub(r"^h\.\d+\.", "", name).rsplit(".", 1)
        # All others belong to LayerNorms.
        if part not in shapes:
            return np.full(n_embd, float(kind == "weight"), np.float32)
        shape = shapes[part] if kind == "weight" else shapes[part][1:]
        found, mine = np.empty(shape, np.float32), np.roll(numbers, rng.integers(len(numbers)))
        flat = found.reshape(-1)
        for i in range(0, flat.size, len(mine)):
            flat[i : i + len(mine)] = mine[: flat.size - i]
        return found

    threads = default_threads() if threads is None else threads
    return _engine.Weights(config, read, dtype=dtype, backend=backend, threads=threads)
