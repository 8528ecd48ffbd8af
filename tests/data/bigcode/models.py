"""Small models of type gpt_bigcode, as transformers stores them: what they are, without what they answer.

Weights are those of golden/recipe.py: the same bits everywhere, so that they need not be kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data.golden.recipe import integers, nearly_normal

FOLDER = Path(__file__).parent
LENGTH = 60  # of the texts

_SMALL = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 64, "vocab_size": 83}
_HEAD = {"num_labels": 3, "id2label": {"0": "good", "1": "bad", "2": "ugly"}, "pad_token_id": 5}

# name -> what differs from a small model with the defaults of GPTBigCodeConfig
CASES: dict[str, dict] = {
    "multi_query": {},
    "multi_head": {"multi_query": False},
    "sizes": {"n_head": 26, "n_embd": 104, "n_inner": 37, "layer_norm_epsilon": 1e-3},
    "sizes_multi_head": {"multi_query": False, "n_head": 3, "n_embd": 33, "n_inner": 37},
    "flags": {
        "scale_attn_weights": False,
        "tie_word_embeddings": False,
        "activation_function": "gelu",
        "attention_softmax_in_fp32": False,
    },
    "one_head": {"n_head": 1},
    "sequence": {"architectures": ["GPTBigCodeForSequenceClassification"], **_HEAD},
    "token": {"architectures": ["GPTBigCodeForTokenClassification"], **_HEAD, "multi_query": False},
}


def values(name: str) -> dict:
    """The contents of config.json."""
    none = {"bos_token_id": None, "eos_token_id": None}
    return (
        {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"]}
        | _SMALL
        | none
        | CASES[name]
    )


def tensors(name: str, config: dict | None = None) -> dict[str, np.ndarray]:
    """What a file of weights holds, float32: dense layers are [out, in]."""
    config = values(name) if config is None else config
    n, n_vocab, d = config["n_embd"], config["vocab_size"], config["n_embd"] // config["n_head"]
    inner = config.get("n_inner") or 4 * n
    qkv = n + 2 * d if config.get("multi_query", True) else 3 * n
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (n_vocab, n),
        "transformer.wpe.weight": (config["n_positions"], n),
    }
    for i in range(config["n_layer"]):
        for part, shape in {
            "ln_1.weight": (n,),
            "attn.c_attn.weight": (qkv, n),
            "attn.c_proj.weight": (n, n),
            "ln_2.weight": (n,),
            "mlp.c_fc.weight": (inner, n),
            "mlp.c_proj.weight": (n, inner),
        }.items():
            prefix = f"transformer.h.{i}.{part.removesuffix('weight')}"
            shapes |= {prefix + "weight": shape, prefix + "bias": shape[:1]}
    shapes |= {"transformer.ln_f.weight": (n,), "transformer.ln_f.bias": (n,)}
    architecture = config["architectures"][0]
    if architecture.endswith("SequenceClassification"):
        shapes["score.weight"] = (config["num_labels"], n)
    elif architecture.endswith("TokenClassification"):
        shapes |= {"classifier.weight": (config["num_labels"], n), "classifier.bias": (config["num_labels"],)}
    elif not config.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (n_vocab, n)
    found = {}
    for tensor, shape in shapes.items():
        numbers = 0.2 * nearly_normal(f"bigcode {name} {tensor}", shape)
        is_gain = ".ln_" in tensor and tensor.endswith("weight")
        found[tensor] = (1 + numbers if is_gain else numbers).astype(np.float32)
    return found


def ids(name: str) -> np.ndarray:
    """A text, int32."""
    n_vocab = np.uint64(values(name)["vocab_size"])
    return (integers(f"bigcode {name} ids", LENGTH) % n_vocab).astype(np.int32)
