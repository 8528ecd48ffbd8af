"""Makes word_scores.json: words of some texts as minicons scores them, with the model that comes with gpt2c.

    pip install torch==2.13.0 transformers==4.57.6 minicons==0.3.39
    python tests/data/golden/make_word_scores.py

minicons corrects for where words begin as Pimentel and Meister do (bow_correction=True), with the tokens that
begin with a space as those that begin words.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from minicons import scorer

HERE = Path(__file__).parent
MODEL = HERE.parents[2] / "gpt2c" / "data" / "model"

TEXTS = [
    "Once upon a time there was a little mouse.",
    'The king, who was old, had three daughters; the youngest was "as fair as snow" (they said).',
    "Unbelievable thunderstorms can't frighten extraordinarily well-read hippopotamuses!",
    "Naïve façades cost 3.50 €, 価格 unknown.",
    "Word",
]


def main():
    model = transformers.GPT2LMHeadModel.from_pretrained(MODEL, attn_implementation="eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    judge = scorer.IncrementalLMScorer(model.float().eval(), device="cpu", tokenizer=tokenizer)
    with torch.no_grad():
        scores = [
            judge.word_score_tokenized(
                text, bos_token=True, tokenize_function=str.split, bow_correction=True
            )[0]
            for text in TEXTS
        ]
    made_by = {lib.__name__: lib.__version__ for lib in (torch, transformers)}
    made_by["minicons"] = version("minicons")
    lines = [
        json.dumps({"text": text, "words": pairs}, ensure_ascii=False)
        for text, pairs in zip(TEXTS, scores, strict=True)
    ]
    inner = ",\n  ".join(lines)
    content = f'{{"made_by": {json.dumps(made_by)},\n "texts": [\n  {inner}\n]}}\n'
    (HERE / "word_scores.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
