"""Makes a model as minGPT's chargpt writes it, with the logits that torch computes from it: logits.npz.

    pip install torch==2.13.0 numpy
    python tests/data/mingpt/make_mingpt.py

The module is written from the description of minGPT's model.py (https://github.com/karpathy/minGPT): pre-norm
blocks of Linear layers with biases, a mask stored as attn.bias, GPT-2's approximation of GELU, a head of its
own.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
IDS = [5, 1, 18, 3, 3, 2, 17, 0]


class Attention(nn.Module):
    def __init__(self, n_embd, n_head, block_size):
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.register_buffer("bias", torch.ones(1, 1, block_size, block_size).tril())
        self.n_head = n_head

    def forward(self, x):
        n, c = x.shape
        q, k, v = (part.view(n, self.n_head, -1).transpose(0, 1) for part in self.c_attn(x).chunk(3, -1))
        scores = q @ k.transpose(1, 2) / math.sqrt(c // self.n_head)
        weights = scores.masked_fill(self.bias[0, :, :n, :n] == 0, -math.inf).softmax(-1)
        return self.c_proj((weights @ v).transpose(0, 1).reshape(n, c))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, block_size):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = Attention(n_embd, n_head, block_size)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(n_embd, 4 * n_embd), "c_proj": nn.Linear(4 * n_embd, n_embd)}
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        inner = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](inner)


class Model(nn.Module):
    def __init__(self, n_layer, n_head, n_embd, vocab_size, block_size):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList([Block(n_embd, n_head, block_size) for _ in range(n_layer)]),
                "ln_f": nn.LayerNorm(n_embd),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, ids):
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"].weight[: len(ids)]
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


def main():
    torch.manual_seed(5)
    model = Model(2, 3, 12, vocab_size=19, block_size=10)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape) * 0.3)
    torch.save(model.state_dict(), HERE / "model.pt")
    config = {
        "system": {"seed": 3407, "work_dir": "./out/chargpt"},
        "data": {"block_size": 10},
        "model": {"model_type": None, "n_layer": 2, "n_head": 3, "n_embd": 12}
        | {"vocab_size": None, "block_size": None}
        | {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1},
        "trainer": {"device": "auto", "num_workers": 4, "max_iters": None, "learning_rate": 0.0005},
    }
    (HERE / "config.json").write_text(json.dumps(config, indent=4) + "\n")
    logits = model.double()(torch.tensor(IDS)).detach().numpy()
    np.savez_compressed(HERE / "logits.npz", ids=np.array(IDS), logits=logits)


if __name__ == "__main__":
    main()
