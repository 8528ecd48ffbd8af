"""Write what transformers computes with the two models, in float32 with plain ("eager") attention.

`python make_references.py DATA OUT` reads the models in OUT/dates and OUT/masked, if they exist, and writes
next to them

- dates/cases.tsv: 200 of the held-out days: the text and its digits;
- dates/reference.json: 20 of these texts, their token ids and the greedy output;
- dates/cross-attention.npz: the attention weights of one text;
- masked/reference.npz: ten sentences with [MASK] and the five most probable tokens for it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertForMaskedLM, EncoderDecoderModel

ATTENDED = "on Thursday, the third of May, nineteen eighty-four"
SENTENCES = """
Once upon a [MASK] there was a king who had three daughters.
The old [MASK] lived alone in a little house in the forest.
"Who are you?" asked the [MASK].
The wolf said to Little Red [MASK] Hood: "Good day."
The prince took her by the [MASK] and led her away.
He got on his [MASK] and rode away.
The princess was as [MASK] as the day.
And they lived happily ever [MASK].
The sun shone and the [MASK] sang in the trees.
The king gave him half of his [MASK] and his daughter for a wife.
""".strip().splitlines()


def eager(kind, folder):
    """Return a model in float32, with plain attention."""
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def dates(data, folder):
    """Write the references of the dates model."""
    lines = (data / "heldout.tsv").read_text(encoding="utf-8").splitlines()[:200]
    cases = [line.split("\t")[:2] for line in lines]
    (folder / "cases.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in cases), encoding="utf-8")
    model, tokenizer = eager(EncoderDecoderModel, folder)

    def greedy(text):
        ids = tokenizer(text, return_tensors="pt").input_ids
        return ids, model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False)

    rows = []
    for text, _ in cases[:20]:
        ids, out = greedy(text)
        written = tokenizer.decode(out[0], skip_special_tokens=True)
        rows.append({"text": text, "input_ids": ids[0].tolist(), "ids": out[0].tolist(), "output": written})
    text = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    (folder / "reference.json").write_text(text, encoding="utf-8")

    ids, out = greedy(ATTENDED)
    run = model(input_ids=ids, decoder_input_ids=out[:, :-1], output_attentions=True)
    np.savez_compressed(
        folder / "cross-attention.npz",
        text=ATTENDED,
        input_ids=ids[0].numpy(),
        ids=out[0].numpy(),
        logits=run.logits[0].numpy(),
        encoder=torch.cat(run.encoder_attentions).numpy(),
        decoder=torch.cat(run.decoder_attentions).numpy(),
        cross=torch.cat(run.cross_attentions).numpy(),
    )


@torch.no_grad()
def masked(folder):
    """Write the references of the masked model."""
    model, tokenizer = eager(BertForMaskedLM, folder)
    arrays = {"sentences": np.array(SENTENCES)}
    for i, sentence in enumerate(SENTENCES):
        ids = tokenizer(sentence, return_tensors="pt").input_ids
        logits = model(ids).logits[0]
        top = logits[(ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]].softmax(-1).topk(5)
        arrays |= {f"input_ids_{i}": ids[0].numpy(), f"logits_{i}": logits.numpy()}
        arrays |= {f"top_ids_{i}": top.indices.numpy(), f"top_probabilities_{i}": top.values.numpy()}
        print(
            sentence,
            [(tokenizer.decode(t), round(p.item(), 3)) for t, p in zip(top.indices, top.values, strict=True)],
        )
    np.savez_compressed(folder / "reference.npz", **arrays)


def main():
    """Write the references of the models that exist."""
    data, out = map(Path, sys.argv[1:])
    if (out / "dates").exists():
        dates(data, out / "dates")
    if (out / "masked").exists():
        masked(out / "masked")


if __name__ == "__main__":
    main()
