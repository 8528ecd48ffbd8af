"""Makes checkpoints as nanoGPT writes them, with the logits that torch computes from them: logits.npz.

    pip install torch==2.13.0 numpy
    python tests/data/nanogpt/make_nanogpt.py

The pass is written from the description of nanoGPT's model.py: pre-norm blocks, Linear layers, exact GELU,
the head tied to the token embedding. bias: with biases, and the names that torch.compile leaves. plain:
without biases, 65 characters in meta.pkl.
"""

import pickle
import string
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

HERE = Path(__file__).parent
CHARACTERS = sorted("\n !$&',-.3:;?" + string.ascii_letters)
IDS = [5, 1, 60, 33, 33, 2, 17, 64]


def state_dict(args):
    """Random weights by nanoGPT's names."""
    torch.manual_seed(args["n_embd"])
    c, found = args["n_embd"], {}

    def linear(name, n_out, n_in):
        found[f"{name}.weight"] = torch.randn(n_out, n_in) * 0.2
        if args["bias"]:
            found[f"{name}.bias"] = torch.randn(n_out) * 0.2

    def norm(name):
        found[f"{name}.weight"] = 1 + torch.randn(c) * 0.2
        if args["bias"]:
            found[f"{name}.bias"] = torch.randn(c) * 0.2

    found["transformer.wte.weight"] = torch.randn(args["vocab_size"], c) * 0.5
    found["transformer.wpe.weight"] = torch.randn(args["block_size"], c) * 0.5
    for i in range(args["n_layer"]):
        block = f"transformer.h.{i}"
        norm(f"{block}.ln_1")
        linear(f"{block}.attn.c_attn", 3 * c, c)
        linear(f"{block}.attn.c_proj", c, c)
        norm(f"{block}.ln_2")
        linear(f"{block}.mlp.c_fc", 4 * c, c)
        linear(f"{block}.mlp.c_proj", c, 4 * c)
    norm("transformer.ln_f")
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return found


def logits(state, args, ids):
    """The pass, in float64."""
    w = {name.removeprefix("transformer."): tensor.double() for name, tensor in state.items()}
    c, heads = args["n_embd"], args["n_head"]

    def dense(name, x):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, (c,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for i in range(args["n_layer"]):
        parts = dense(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x)).split(c, dim=1)
        q, k, v = (part.view(len(ids), heads, -1).transpose(0, 1) for part in parts)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(len(ids), c)
        x = x + dense(f"h.{i}.attn.c_proj", z)
        x = x + dense(f"h.{i}.mlp.c_proj", F.gelu(dense(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x))))
    return norm("ln_f", x) @ w["wte.weight"].T


def main():
    found = {}
    for name, sizes in {
        "bias": {"n_layer": 2, "n_head": 2, "n_embd": 12, "block_size": 16, "vocab_size": 65, "bias": True},
        "plain": {"n_layer": 2, "n_head": 3, "n_embd": 6, "block_size": 16, "vocab_size": 65, "bias": False},
    }.items():
        state = state_dict(sizes)
        found[name] = logits(state, sizes, torch.tensor(IDS)).numpy()
        prefix = "_orig_mod." if name == "bias" else ""
        checkpoint = {
            "model": {prefix + key: tensor for key, tensor in state.items()},
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": [0]}]},
            "model_args": {**sizes, "dropout": 0.0},
            "iter_num": 5000,
            "best_val_loss": torch.tensor(1.4697),
            "config": {"dataset": "shakespeare_char", "compile": True, "learning_rate": 1e-3},
        }
        (HERE / name).mkdir(exist_ok=True)
        torch.save(checkpoint, HERE / name / "ckpt.pt")
    assert len(CHARACTERS) == 65
    meta = {
        "vocab_size": 65,
        "itos": dict(enumerate(CHARACTERS)),
        "stoi": {character: i for i, character in enumerate(CHARACTERS)},
    }
    with open(HERE / "plain" / "meta.pkl", "wb") as file:
        pickle.dump(meta, file)
    np.savez_compressed(HERE / "logits.npz", ids=np.array(IDS), **found)


if __name__ == "__main__":
    main()
