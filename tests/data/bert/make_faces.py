"""Asks transformers what the models of faces.py answer. Needs transformers 4.57.6 and torch 2.13; a script.

faces.json receives, by model: "fill", of every text of FILLED the five most probable tokens of each mask and
their probabilities, as the pipeline "fill-mask" tells them; "score", of every text of TEXTS the
log-probability of each token that is masked alone; "embed", by pooling; "classify", the logits of texts and
pairs; "pairs", the ids and types of PAIRS, cut to each of MAX_TOKENS, too; "tag", the logits of all tokens.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, pipeline

from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification  # isort: skip
from transformers import AutoModelForTokenClassification  # isort: skip

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.bert import faces  # noqa: E402  (the tests' folder is not a package)

HOW = {"attn_implementation": "eager"}


def fill(name: str, folder: Path, tokenizer) -> list:
    model = AutoModelForMaskedLM.from_pretrained(folder, **HOW)
    pipe = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=5)
    found = []
    for text in faces.FILLED:
        said = pipe(faces.masked(name, text))
        said = said if isinstance(said[0], list) else [said]
        found.append([[[one["token"], one["score"], one["token_str"], one["sequence"]] for one in each]
                      for each in said])  # fmt: skip
    return found


@torch.no_grad()
def score(folder: Path, tokenizer) -> list:
    model = AutoModelForMaskedLM.from_pretrained(folder, **HOW).double().eval()
    found = []
    for text in faces.TEXTS:
        given = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        special = given.pop("special_tokens_mask")[0]
        ids = given["input_ids"]
        logprobs = []
        for i in range(ids.shape[1]):
            if not special[i]:
                copy = ids.clone()
                copy[0, i] = tokenizer.mask_token_id
                logits = model(**{**given, "input_ids": copy}).logits[0, i]
                logprobs.append(float(logits.log_softmax(-1)[ids[0, i]]))
        found.append(logprobs)
    return found


@torch.no_grad()
def embed(folder: Path, tokenizer) -> dict:
    """By the formulas of sentence_transformers.models.Pooling, of one text at a time."""
    model = AutoModel.from_pretrained(folder, **HOW).double().eval()
    found = {pooling: [] for pooling in faces.POOLINGS}
    for text in faces.TEXTS:
        rows = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        n = len(rows)
        weights = torch.arange(1, n + 1, dtype=rows.dtype)[:, None]
        pooled = {
            "mean": rows.sum(0) / n,
            "cls": rows[0],
            "last": rows[-1],
            "max": rows.max(0).values,
            "mean_sqrt_len": rows.sum(0) / n**0.5,
            "weighted_mean": (rows * weights).sum(0) / weights.sum(),
        }
        for pooling, vector in pooled.items():
            found[pooling].append([round(value, 9) for value in vector.tolist()])
    return found


def pairs(tokenizer) -> list:
    found = []
    for first, second in faces.PAIRS:
        for most in (None, *faces.MAX_TOKENS):
            given = tokenizer(first, second, truncation=most is not None, max_length=most,
                              return_token_type_ids=True)  # fmt: skip
            found.append([given["input_ids"], given["token_type_ids"]])
    return found


@torch.no_grad()
def classify(folder: Path, tokenizer) -> dict:
    model = AutoModelForSequenceClassification.from_pretrained(folder, **HOW).double().eval()
    single = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in faces.TEXTS]
    double = [model(**tokenizer(*pair, return_tensors="pt")).logits[0].tolist() for pair in faces.PAIRS]
    return {"single": single, "pairs": double}


@torch.no_grad()
def tag(folder: Path, tokenizer) -> list:
    model = AutoModelForTokenClassification.from_pretrained(folder, **HOW).double().eval()
    return [model(**tokenizer(text, return_tensors="pt")).logits[0, 1:-1].tolist() for text in faces.TEXTS]


def recorded() -> dict:
    found = {}
    for name, (_, head, *_) in faces.FACES.items():
        with tempfile.TemporaryDirectory() as parent:
            folder = faces.write(Path(parent) / "model", name)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if head == "ForMaskedLM":
                found[name] = {"fill": fill(name, folder, tokenizer), "score": score(folder, tokenizer)}
                found[name]["embed"] = embed(folder, tokenizer)
            elif head == "ForSequenceClassification":
                found[name] = {"classify": classify(folder, tokenizer), "pairs": pairs(tokenizer)}
            else:
                found[name] = {"tag": tag(folder, tokenizer)}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    faces.RECORDED.write_text(json.dumps(recorded()) + "\n")
