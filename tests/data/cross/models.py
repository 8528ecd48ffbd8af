"""Small random GPT-2s with cross-attention, as transformers stores them, without what they answer.

Weights are those of golden/recipe.py: the same bits everywhere, so that they need not be kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data.golden.recipe import integers, nearly_normal
from helpers.strategies import tensor_shapes

from gpt2c.checkpoint.hf_config import config_from_hf

FOLDER = Path(__file__).parent
N_CASES = 24
ACTIVATIONS = ("gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh")


def values(case: int) -> dict:
    """The contents of config.json."""
    n = [int(number) for number in integers(f"cross {case} sizes", 12)]
    n_head = 1 + n[0] % 5
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "add_cross_attention": True,
        "n_layer": 1 + n[1] % 3,
        "n_head": n_head,
        "n_embd": n_head * (3 + n[2] % 17),
        "n_inner": None if n[3] % 2 else 5 + n[3] % 90,
        "n_positions": 48,
        "vocab_size": 30 + n[4] % 40,
        "activation_function": ACTIVATIONS[n[5] % len(ACTIVATIONS)],
        "layer_norm_epsilon": (1e-5, 1e-3)[n[6] % 2],
        "scale_attn_weights": n[7] % 4 > 0,
        "scale_attn_by_inverse_layer_idx": n[8] % 3 == 0,
        "tie_word_embeddings": n[9] % 3 > 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def tensors(case: int, config: dict | None = None) -> dict[str, np.ndarray]:
    """What a file of weights holds, float32; for the contents of another config.json that of this one."""
    found = {}
    for name, shape in tensor_shapes(config_from_hf(config or values(case))).items():
        numbers = 0.25 * nearly_normal(f"cross {case} {name}", shape)
        is_gain = "ln_" in name and name.endswith("weight")
        stored = name if name.startswith("lm_head") else f"transformer.{name}"
        found[stored] = (1 + numbers if is_gain else numbers).astype(np.float32)
    return found


def ids(case: int) -> np.ndarray:
    """A text, int32 [at least 1]."""
    numbers = integers(f"cross {case} ids", 40)
    return (numbers[: 1 + int(numbers[0] % np.uint64(40))] % np.uint64(values(case)["vocab_size"])).astype(
        np.int32
    )


def states(case: int) -> np.ndarray:
    """The output of an encoder, float32 [at least 1, n_embd]."""
    n = 1 + int(integers(f"cross {case} positions", 1)[0] % np.uint64(150))
    return nearly_normal(f"cross {case} states", (n, values(case)["n_embd"])).astype(np.float32)
