"""Asks transformers what the models of models.py answer. Needs transformers 4.57.6 and torch 2.13; a script.

encoder_decoder.npz receives, for every model, the logits of its target for its source and the cross-attention
of the first layer, in float32 with attn_implementation="eager". searches.json receives texts: for sets of
options the model, the source, the new tokens of the texts that are found, the best first, and their scores.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.encoder_decoder import models  # noqa: E402  (the tests' folder is not a package)

N_SEARCHES = 120


def load(folder: Path) -> Any:
    """transformers' model of a folder."""
    return transformers.EncoderDecoderModel.from_pretrained(folder, attn_implementation="eager").eval()


def answers(model: Any, source: list[int], target: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The logits [T, n_vocab] and the cross-attention of the first layer [n_head, T, source]."""
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]), output_attentions=True
        )
    return found.logits[0].numpy(), found.cross_attentions[0][0].numpy()


def draw_options(rng: random.Random) -> dict[str, Any]:
    """Options of gpt2c.EncoderDecoder.generate."""
    num_beams = rng.choice([1, 2, 3, 4, 5, 8])
    options: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": rng.randint(1, 20)}
    if num_beams > 1:
        options["num_return_sequences"] = rng.randint(1, num_beams)
        options["length_penalty"] = rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0])
        options["early_stopping"] = rng.choice([True, False, "never"])
    if rng.random() < 0.3:
        options["min_new_tokens"] = rng.randint(0, options["max_new_tokens"])
    if rng.random() < 0.3:
        options["repetition_penalty"] = rng.choice([0.7, 1.2, 2.0])
    if rng.random() < 0.3:
        options["no_repeat_ngram_size"] = rng.randint(1, 3)
    return options


def search(model: Any, source: list[int], options: dict[str, Any]) -> tuple[list[list[int]], list[float]]:
    """New tokens and scores of the texts that transformers finds."""
    ids = torch.tensor([source])
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    rows = [row[1:].tolist() for row in found.sequences]
    if options["num_beams"] == 1:
        return rows, []
    lengths = (found.beam_indices >= 0).sum(dim=1).tolist()
    return [row[:n] for row, n in zip(rows, lengths, strict=True)], found.sequences_scores.tolist()


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rng = random.Random(23)
    found, searches = {}, []
    with tempfile.TemporaryDirectory() as folder:
        loaded = [load(models.write(Path(folder) / str(case), case)) for case in range(models.N_CASES)]
    for case, model in enumerate(loaded):
        found[f"logits {case}"], pattern = answers(model, models.source(case), models.target(case))
        found[f"pattern {case}"] = pattern[:, -2:]
    np.savez_compressed(models.FOLDER / "encoder_decoder.npz", **found)
    for number in range(N_SEARCHES):
        case, options = number % models.N_CASES, draw_options(rng)
        source = models.source(case, number)
        config = loaded[case].generation_config
        config.eos_token_id = models.values(case)["eos_token_id"]
        if number % 3:  # a token that does come
            likely, _ = search(loaded[case], source, options)
            config.eos_token_id = rng.choice(likely[0])
        texts, scores = search(loaded[case], source, options)
        searches.append(
            {
                "case": case,
                "source": source,
                "options": options,
                "eos": config.eos_token_id,
                "texts": texts,
                "scores": scores,
            }
        )
    lines = ",\n".join(map(json.dumps, searches))
    (models.FOLDER / "searches.json").write_text(f"[\n{lines}\n]\n")
    ends = sum(text[-1] == one["eos"] for one in searches for text in one["texts"])
    print(f"{sum(len(one['texts']) for one in searches)} texts, {ends} with an end")


if __name__ == "__main__":
    main()
