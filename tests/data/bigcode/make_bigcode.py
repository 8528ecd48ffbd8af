"""Asks transformers what the models of models.py answer. Needs transformers 4.57.6 and torch 2.13; a script.

bigcode.npz receives, for every case, the logits of the text in float32 with attn_implementation="eager": of
language models and taggers [T, …], of classifiers of texts [labels] for the whole text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.bigcode import models  # noqa: E402  (the tests' folder is not a package)


def logits(values: dict, tensors: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """What a model of transformers with these tensors says of a text."""
    values = {key: value for key, value in values.items() if key != "model_type"}
    if "id2label" in values:
        values["id2label"] = {int(key): label for key, label in values["id2label"].items()}
        del values["num_labels"]
    config = transformers.GPTBigCodeConfig(**values, attn_implementation="eager")
    model = getattr(transformers, values["architectures"][0])(config).eval()
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if values.get("tie_word_embeddings", True) else set()
    buffers = {name for name in missing if name.endswith("attn.bias") or name == "transformer.bias"}
    assert not unexpected and set(missing) <= tied | buffers, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {
        name: logits(models.values(name), models.tensors(name), models.ids(name)) for name in models.CASES
    }
    np.savez_compressed(models.FOLDER / "bigcode.npz", **found)
