"""Asks transformers what the models of models.py answer. Needs transformers 4.57.6 and torch 2.13; a script.

cross.npz receives, for every case, the logits of the text in float32 with attn_implementation="eager", and
the last two rows of the cross-attention of the last layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.cross import models  # noqa: E402  (the tests' folder is not a package)


def answers(case: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits [T, n_vocab] and the cross-attention of the last layer [n_head, T, positions]."""
    values = {key: value for key, value in models.values(case).items() if key != "model_type"}
    config = transformers.GPT2Config(**values, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(config).eval()
    state = {name: torch.from_numpy(array) for name, array in models.tensors(case).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    ids = torch.from_numpy(models.ids(case).astype(np.int64))[None]
    states = torch.from_numpy(models.states(case))[None]
    with torch.no_grad():
        found = model(ids, encoder_hidden_states=states, output_attentions=True)
    return found.logits[0].numpy(), found.cross_attentions[-1][0].numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for case in range(models.N_CASES):
        found[f"logits {case}"], pattern = answers(case)
        found[f"pattern {case}"] = pattern[:, -2:]
    np.savez_compressed(models.FOLDER / "cross.npz", **found)
