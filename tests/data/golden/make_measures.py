"""Makes measures.json: measures of texts by torch and transformers, with the model that comes with gpt2c.

    pip install torch==2.13.0 transformers==4.57.6
    python tests/data/golden/make_measures.py

"curvature": at each token the variance of log p over what could stand there, and Fast-DetectGPT's conditional
probability curvature (Bao et al., arXiv 2310.05130, the analytic one), both in float64. "strided": perplexity
in overlapping inputs as the documentation of transformers computes it ("Perplexity of fixed-length models"):
the loss of every input, how many tokens it is the mean of, by how many it is counted there, and the result.
"""

import json
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "gpt2c" / "data" / "model"

TEXTS = [
    "Once upon a time there was a little mouse.",
    "The king, who was old, had three daughters; the youngest was as fair as snow.",
    "Qx zzgh 77 %% plinth, plinth; Naïve façades cost 3.50 €.",
    "the the the the the the the the the the the the",
]
STRIDED = [(64, 16), (64, 64), (512, 256), (512, 100)]  # longest input, stride


def curvature(model, ids, begin):
    """Of the tokens behind what begins the text, if anything does: variances, curvature."""
    ids = torch.tensor([*begin, *ids])
    logp = torch.log_softmax(model(ids[None]).logits[0, :-1].double(), dim=-1)
    p, drawn = logp.exp(), logp.gather(1, ids[1:, None])
    mean = (p * logp).sum(dim=1)
    variance = (p * logp.square()).sum(dim=1) - mean.square()
    above = (drawn.sum() - mean.sum()) / variance.sum().sqrt()
    return {"variances": variance.tolist(), "curvature": above.item()}


def strided(model, ids, longest, stride):
    """One input every ``stride`` tokens; labels of -100 mark the tokens that an earlier input has judged."""
    inputs, done = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + longest, len(ids))
        some = torch.tensor([ids[begin:end]])
        labels = some.clone()
        labels[:, : len(labels[0]) - (end - done)] = -100
        loss = model(some, labels=labels).loss.item()
        judged = int((labels[0, 1:] != -100).sum())  # the model shifts them
        inputs.append({"loss": loss, "judged": judged, "counted": end - done - 1})
        done = end
        if end == len(ids):
            break
    total = sum(one["loss"] * one["counted"] for one in inputs)
    mean = torch.tensor(total / sum(one["counted"] for one in inputs), dtype=torch.float64)
    return {"longest": longest, "stride": stride, "inputs": inputs, "perplexity": mean.exp().item()}


def main():
    model = transformers.GPT2LMHeadModel.from_pretrained(DATA, attn_implementation="eager").double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA)
    sample = tokenizer((DATA / "sample.txt").read_text("utf-8"))["input_ids"]
    with torch.no_grad():
        of_texts = [
            {"text": text, "bos": bos}
            | curvature(model, tokenizer(text)["input_ids"], [tokenizer.bos_token_id] * bos)
            for text in TEXTS
            for bos in (True, False)
        ]
        of_sample = [strided(model, sample, *lengths) for lengths in STRIDED]
    made_by = {lib.__name__: lib.__version__ for lib in (torch, transformers)}
    report = {"made_by": made_by, "curvature": of_texts, "n_tokens": len(sample), "strided": of_sample}
    (HERE / "measures.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
