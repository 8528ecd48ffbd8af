"""The models and texts behind the golden files: all but transformers' answers is made from this recipe.

The weights are not stored. They come from integer arithmetic and one rounding each, so that every platform
and every version of NumPy makes the same bits; golden.json keeps their checksums.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from helpers.strategies import tensor_shapes

from gpt2c.checkpoint.hf_config import config_from_hf
from gpt2c.config import Config

FOLDER = Path(__file__).parent
PROMPT = 8  # ids in front of the greedy continuation
GREEDY = 200  # tokens of greedy continuation
POSITIONS, COLUMNS = 16, 64  # this many rows and columns of the logits are stored


def integers(key: str, n: int) -> np.ndarray:
    """n pseudo-random uint64: SplitMix64 (Steele, Lea, Flood 2014) from a state made of `key`."""
    state = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
    z = state + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def nearly_normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float64, mean 0, variance 1: the sum of the four 16-bit parts of an integer, at most 3.5 from 0."""
    parts = integers(key, int(np.prod(shape))).view(np.uint16).reshape(-1, 4)
    total = parts.sum(axis=1, dtype=np.int64) - 2 * 0xFFFF
    return (total / np.sqrt(4 * (2.0**32 - 1) / 12)).reshape(shape)


@dataclass(frozen=True)
class Case:
    """One model. `hf` is what differs from `values` below; `std` is the initializer_range."""

    name: str
    hf: dict
    length: int = 64  # teacher-forced ids
    std: float = 0.2
    slow: bool = False

    @property
    def values(self) -> dict:
        """The contents of config.json."""
        small = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 224, "vocab_size": 211}
        none = {"bos_token_id": None, "eos_token_id": None}
        return {"model_type": "gpt2"} | small | none | self.hf

    @property
    def config(self) -> Config:
        return config_from_hf(self.values)

    def weights(self) -> dict[str, np.ndarray]:
        """Canonical name -> float32; gains of LayerNorm are around 1, biases are not 0."""
        weights = {}
        for name, shape in tensor_shapes(self.config).items():
            w = self.std * nearly_normal(f"{self.name} {name}", shape)
            if name.endswith("ln_1.weight") or name.endswith("ln_2.weight") or name == "ln_f.weight":
                w = 1 + 0.2 * w / self.std
            weights[name] = w.astype(np.float32)
        return weights

    def ids(self) -> np.ndarray:
        """The teacher-forced ids, int32 [length]; the first 8 are the prompt of the continuation."""
        n_vocab = self.values["vocab_size"]
        return (integers(f"{self.name} ids", self.length) % np.uint64(n_vocab)).astype(np.int32)


def checksum(weights: dict[str, np.ndarray], ids: np.ndarray) -> str:
    """SHA-256 over names, shapes and little-endian bytes of the weights in their order, then the ids."""
    digest = hashlib.sha256()
    for name, w in (*weights.items(), ("ids", ids)):
        digest.update(f"{name} {w.shape}\n".encode())
        digest.update(np.ascontiguousarray(w.astype(w.dtype.newbyteorder("<"))))
    return digest.hexdigest()


def sample(key: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows and columns of [rows, columns] logits are stored: the first, the last, and some between."""

    def choose(what: str, n: int, k: int) -> np.ndarray:
        order = np.argsort(integers(f"{key} {what}", n), kind="stable")
        return np.unique(np.concatenate(([0, n - 1], order[: max(k - 2, 0)])))

    return choose("rows", rows, POSITIONS), choose("columns", columns, COLUMNS)


CASES = [
    Case("plain", {}, length=200),
    # every activation
    Case("gelu", {"activation_function": "gelu", "n_head": 3, "n_embd": 48}),
    Case("gelu_fast", {"activation_function": "gelu_fast", "n_embd": 40}),
    Case("gelu_pytorch_tanh", {"activation_function": "gelu_pytorch_tanh", "n_head": 2, "n_embd": 34}),
    Case("quick_gelu", {"activation_function": "quick_gelu", "n_layer": 3}),
    Case("relu", {"activation_function": "relu", "n_embd": 100}),
    Case("silu", {"activation_function": "silu", "n_head": 8}),
    Case("swish", {"activation_function": "swish", "n_head": 1, "n_embd": 31}),
    Case("tanh", {"activation_function": "tanh", "n_head": 2, "n_embd": 66}),
    # widths
    Case("n_inner_37", {"n_inner": 37}),
    Case("n_inner_513", {"n_inner": 513, "activation_function": "gelu"}),
    Case("n_inner_1", {"n_inner": 1, "n_layer": 3}),
    Case("head_7", {"n_head": 5, "n_embd": 35, "vocab_size": 127}),
    Case("head_33", {"n_head": 3, "n_embd": 99, "n_inner": 129}),
    Case("head_1", {"n_head": 17, "n_embd": 17}),
    Case("head_129", {"n_head": 1, "n_embd": 129, "n_layer": 1}),
    Case("width_2", {"n_head": 1, "n_embd": 2, "vocab_size": 5}),
    Case("vocabulary_1000", {"vocab_size": 1000, "n_embd": 40}),
    Case("vocabulary_2", {"vocab_size": 2, "n_embd": 24, "n_layer": 1}),
    # flags
    Case("no_scale", {"scale_attn_weights": False}),
    Case("by_layer", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 4}),
    Case(
        "no_scale_by_layer",
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 5},
    ),
    Case("upcast", {"reorder_and_upcast_attn": True}),
    Case(
        "upcast_by_layer",
        {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    ),
    Case("untied", {"tie_word_embeddings": False}),
    Case(
        "untied_silu_no_scale",
        {
            "tie_word_embeddings": False,
            "activation_function": "silu",
            "scale_attn_weights": False,
            "n_head": 8,
            "n_inner": 75,
        },
    ),
    Case("epsilon_1e-3", {"layer_norm_epsilon": 1e-3}),
    Case("epsilon_1e-12", {"layer_norm_epsilon": 1e-12}),
    Case("special_tokens", {"bos_token_id": 3, "eos_token_id": [5, 7], "n_embd": 36}),
    # depth and size
    Case("layers_12", {"n_layer": 12, "n_head": 6, "n_embd": 96}),
    Case("layers_24", {"n_layer": 24, "n_head": 2, "n_embd": 32}),
    Case("positions_1024", {"n_positions": 1024, "n_layer": 3}, length=1024),
    Case("width_768", {"n_head": 12, "n_embd": 768, "vocab_size": 400, "n_layer": 2}, std=0.02),
    Case(
        "width_1600",
        {"n_head": 25, "n_embd": 1600, "n_inner": 1600, "vocab_size": 300, "n_layer": 1},
        std=0.02,
    ),
    # GPT-2 124M itself, with random weights
    Case(
        "gpt2_124M",
        {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257},
        std=0.02,
        slow=True,
    ),
]

# The bundled model reads this text, and continues the first few words of it.
BUNDLED_PROMPT = "Once upon a time there was a"
BUNDLED_TEXT = (
    BUNDLED_PROMPT
    + " miller who had three sons, a mill, a donkey and a cat. The sons had to grind, the donkey had to"
    " fetch the corn and carry away the flour, and the cat had to catch the mice.\n\nWhen the miller"
    " died, the eldest took the mill, the second took the donkey, and nothing was left for the youngest"
    " but the cat. “I have come off badly,” said he to himself; “my brothers can earn their bread, and"
    " what am I to do with a cat?”\n\nThen the cat, who had understood it all, began to speak: “There"
    " is no need to kill me. Only have a pair of boots made for me, so that I can go out and be seen"
    " among people, and you shall soon be helped.” And the king\u2019s daughter looked out of the"
    " window of the castle by the sea, for it was the 24th of December, and she had waited 7 years."
)

# Of small vocabularies, in which ends of text are found among the best.
SEARCH_CASES = [
    Case(f"search_{name}", {"vocab_size": 61, "n_positions": 64, "n_head": heads, "n_embd": width}, std=std)
    for name, heads, width, std in (("sharp", 4, 64, 0.4), ("usual", 2, 48, 0.2), ("flat", 2, 32, 0.1))
]

# Small enough to keep all that they compute; a vocabulary in which tokens come again.
LENS_CASES = [
    Case(
        "lens_gelu_new",
        {"n_layer": 3, "n_head": 3, "n_embd": 21, "n_inner": 33, "n_positions": 16, "vocab_size": 13},
        length=10,
    ),
    Case(
        "lens_relu",
        {
            "n_head": 2,
            "n_embd": 32,
            "n_positions": 16,
            "vocab_size": 11,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
        },
        length=9,
    ),
    Case(
        "lens_silu",
        {
            "n_head": 5,
            "n_embd": 15,
            "n_positions": 16,
            "vocab_size": 9,
            "activation_function": "silu",
            "scale_attn_weights": False,
            "layer_norm_epsilon": 1e-3,
        },
        length=8,
    ),
]
