"""Records what transformers 4.57.6 makes of the models of test_real_bert.py: a script, given DIR."""

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from test_real_bert import ANTIBODY, MINILM, SENTENCES, as_bert  # noqa: E402  (the tests' folder is no package)


@torch.no_grad()
def vectors(folder: Path) -> list:
    """As sentence_transformers computes them: the mean of all tokens, with the length 1."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModel.from_pretrained(folder).double().eval(),
    )
    found = []
    for text in SENTENCES:
        mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        found.append([round(value, 7) for value in (mean / mean.norm()).tolist()])
    return found


@torch.no_grad()
def logprobs(folder: Path) -> list:
    """Of every residue, masked alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForMaskedLM.from_pretrained(folder).double().eval()
    ids = tokenizer(" ".join(ANTIBODY), return_tensors="pt")["input_ids"]
    found = []
    for i in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, i] = tokenizer.mask_token_id
        found.append(round(float(model(masked).logits[0, i].log_softmax(-1)[ids[0, i]]), 6))
    return found


if __name__ == "__main__":
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        told = {"vectors": vectors(root / MINILM), "logprobs": logprobs(as_bert(root, Path(folder)))}
    (Path(__file__).parent / "recorded.json").write_text(json.dumps(told) + "\n")
