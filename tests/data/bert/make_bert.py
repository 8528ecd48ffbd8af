"""Asks transformers what the models of models.py answer. Needs transformers 4.57.6 and torch 2.13; a script.

bert.npz receives, for every case, in float64 with attn_implementation="eager": the last hidden states [T,
n_embd] as NAME/hidden; of a model with a head its logits as NAME/logits, [T, n_vocab], [T, labels] or
[labels]; of some the attention as NAME/patterns, [n_layer, n_head, T, T].

pytorch_model.bin is the model models.OLD as files of 2019 have it: with the names that LayerNorm had, the
tied matrix and bias under both of their names, and the buffer of positions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.bert import models  # noqa: E402  (the tests' folder is not a package)


def model_of(values: dict, tensors: dict[str, np.ndarray], dtype=torch.float64) -> torch.nn.Module:
    """A model of transformers with these tensors."""
    values = dict(values)
    [name] = values.pop("architectures")
    kind = models.CLASSES[values.pop("model_type")]
    if "id2label" in values:
        values["id2label"] = {int(key): label for key, label in values["id2label"].items()}
    config = getattr(transformers, f"{kind}Config")(**values, attn_implementation="eager")
    model = getattr(transformers, name)(config).eval()
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"cls.predictions.decoder.weight", "lm_head.decoder.weight", "vocab_projector.weight"}
    tied = (tied if values.get("tie_word_embeddings", True) else set()) | {
        *("cls.predictions.decoder.bias", "lm_head.decoder.bias"),  # one with the bias
        *("pooler.dense.weight", "pooler.dense.bias"),  # of pooler_output, of RobertaModel
    }
    assert not unexpected and set(missing) <= tied, (missing, unexpected)
    model.tie_weights()
    return model.to(dtype)


def answers(model: torch.nn.Module, ids: np.ndarray, types: np.ndarray | None) -> dict[str, np.ndarray]:
    """What a model says of a text."""
    given = {"input_ids": torch.from_numpy(ids)[None]}
    if types is not None:
        given["token_type_ids"] = torch.from_numpy(types)[None]
    with torch.no_grad():
        out = model(**given, output_hidden_states=True, output_attentions=True)
    found = {"hidden": out.hidden_states[-1], "patterns": torch.stack(out.attentions)[:, 0]}
    if "logits" in out:
        found["logits"] = out.logits
    return {name: array.numpy() if name == "patterns" else array[0].numpy() for name, array in found.items()}


def recorded() -> dict[str, np.ndarray]:
    found = {}
    for name in models.CASES:
        said = answers(model_of(models.values(name), models.tensors(name)), *models.text(name))
        if name not in models.WITH_PATTERNS:
            del said["patterns"]
        found |= {f"{name}/{what}": array for what, array in said.items()}
    return found


def of_2019() -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(array) for name, array in models.tensors(models.OLD).items()}
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    tensors["bert.embeddings.position_ids"] = torch.arange(25)[None]
    return {models.in_2019(name): tensor for name, tensor in tensors.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez_compressed(models.FOLDER / "bert.npz", **recorded())
    torch.save(of_2019(), models.FOLDER / "pytorch_model.bin")
