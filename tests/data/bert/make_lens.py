"""Asks TransformerLens what is inside some models of models.py. A script.

Needs transformer-lens 3.2.1, transformers 4.57.6 and torch 2.13. lens.npz receives, for every model of LENS,
under TransformerLens's names and without the batch dimension, computed in float64 and kept in float32:

    NAME/cache/<name>    every named value of a HookedEncoder
    NAME/edited/<name>   the logits where the first number of each row of a value is halved, of each EDITED
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.bert import make_bert, models  # noqa: E402  (the tests' folder is not a package)
from transformer_lens import HookedEncoder, HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_bert_weights  # noqa: E402


def hooked(name: str) -> HookedEncoder:
    """A model as TransformerLens has it."""
    values = models.values(name)
    config = HookedTransformerConfig(
        n_layers=values["num_hidden_layers"],
        n_heads=values["num_attention_heads"],
        d_model=values["hidden_size"],
        d_head=values["hidden_size"] // values["num_attention_heads"],
        d_mlp=values["intermediate_size"],
        n_ctx=values["max_position_embeddings"],
        d_vocab=values["vocab_size"],
        eps=values["layer_norm_eps"],
        act_fn="gelu",
        attention_dir="bidirectional",
        use_attn_result=True,
        use_split_qkv_input=True,
        dtype=torch.float64,
        device="cpu",
    )
    theirs = make_bert.model_of(values, models.tensors(name))
    theirs.bert.pooler = theirs.cls.seq_relationship = torch.nn.Linear(1, 1)  # which nobody asks
    theirs.bert.pooler.dense = theirs.bert.pooler
    model = HookedEncoder(config)
    state = convert_bert_weights(theirs, config)
    state = {key: value for key, value in state.items() if not key.startswith(("pooler", "nsp_head"))}
    missing, unexpected = model.load_state_dict(state, strict=False)
    unused = ("pooler", "nsp_head")
    assert not unexpected
    assert all(key.startswith(unused) or key.endswith(("mask", "IGNORE")) for key in missing), missing
    return model.double().eval()


def halved(value: torch.Tensor, hook: object) -> torch.Tensor:
    value = value.clone()
    value[..., 0] *= 0.5
    return value


def recorded() -> dict[str, np.ndarray]:
    found = {}
    for name in models.LENS:
        model = hooked(name)
        ids, types = (torch.from_numpy(each)[None] for each in models.text(name))
        with torch.no_grad():
            _, cache = model.run_with_cache(ids, token_type_ids=types)
            values = {key: value for key, value in cache.items() if not key.startswith("unembed")}
            found |= {f"{name}/cache/{key}": value[0].numpy() for key, value in values.items()}
            for key in models.EDITED:
                edited = model.run_with_hooks(ids, token_type_ids=types, fwd_hooks=[(key, halved)])
                found[f"{name}/edited/{key}"] = edited[0].numpy()
    return {name: value.astype(np.float32) for name, value in found.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez_compressed(models.FOLDER / "lens.npz", **recorded())
