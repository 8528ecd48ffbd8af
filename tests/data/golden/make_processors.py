"""Asks transformers what its logits processors make of random logits. Run it as a script.

Writes processors.json. Needs transformers 4.57.6 and torch 2.13. For each case: the options by gpt2c's names,
the text so far, how much of it is the prompt, the logits and what becomes of them (float32 as the shortest
decimals that give it back). Presence and frequency penalties are not in transformers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.generation import logits_process as hf

N_VOCAB, EOS = 61, [3, 50]
PATH = Path(__file__).parent / "processors.json"


def processor_of(name: str, value: Any, n_prompt: int) -> Any:
    """transformers' processor for one option of gpt2c."""
    return {
        "repetition_penalty": lambda: hf.RepetitionPenaltyLogitsProcessor(value),
        "no_repeat_ngram_size": lambda: hf.NoRepeatNGramLogitsProcessor(value),
        "bad_words": lambda: hf.NoBadWordsLogitsProcessor(value),
        "sequence_bias": lambda: hf.SequenceBiasLogitsProcessor({tuple(ids): bias for ids, bias in value}),
        "suppress_tokens": lambda: hf.SuppressTokensLogitsProcessor(value),
        "min_new_tokens": lambda: hf.MinNewTokensLengthLogitsProcessor(n_prompt, value, EOS, "cpu"),
        "temperature": lambda: hf.TemperatureLogitsWarper(value),
        "top_k": lambda: hf.TopKLogitsWarper(value),
        "top_p": lambda: hf.TopPLogitsWarper(value),
        "min_p": lambda: hf.MinPLogitsWarper(value),
    }[name]()


def draw_value(rng: random.Random, name: str, ids: list[int]) -> Any:
    def words(n: int) -> list[list[int]]:
        found = [rng.sample(range(N_VOCAB), rng.randint(1, 3)) for _ in range(n)]
        found += [[*ids[-rng.randint(1, 2) :], rng.randrange(N_VOCAB)] for _ in range(n)]  # that apply
        return found

    return {
        "repetition_penalty": lambda: rng.choice([0.5, 0.9, 1.2, 2.0]),
        "no_repeat_ngram_size": lambda: rng.randint(1, 4),
        "bad_words": lambda: words(rng.randint(1, 4)),
        "sequence_bias": lambda: [
            [word, rng.choice([-3.0, -0.5, 1.0, 4.0])] for word in words(rng.randint(1, 4))
        ],
        "suppress_tokens": lambda: rng.sample(range(N_VOCAB), rng.randint(1, 9)),
        "min_new_tokens": lambda: rng.randint(1, 8),
        "temperature": lambda: rng.choice([0.3, 0.8, 1.7]),
        "top_k": lambda: rng.randint(1, 40),
        "top_p": lambda: rng.choice([0.1, 0.5, 0.9, 0.99]),
        "min_p": lambda: rng.choice([0.01, 0.1, 0.5]),
    }[name]()


PROCESSORS = (  # in the order in which transformers applies them
    "sequence_bias",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words",
    "min_new_tokens",
    "suppress_tokens",
)
WARPERS = ("temperature", "top_k", "top_p", "min_p")


def main() -> None:
    rng = random.Random(11)
    torch.manual_seed(11)
    sets = [[name] for name in PROCESSORS for _ in range(10)]
    sets += [["temperature", name] for name in WARPERS[1:] for _ in range(10)]
    sets += [
        [name for name in PROCESSORS if rng.random() < 0.5] + [name for name in WARPERS if rng.random() < 0.5]
        for _ in range(40)
    ]
    cases = []
    for names in sets:
        ids = [rng.randrange(12) for _ in range(rng.randint(4, 30))]  # of few tokens, so that they repeat
        n_prompt = rng.randint(1, len(ids))
        if set(names) & set(WARPERS) and "temperature" not in names:
            names = (
                [name for name in names if name not in WARPERS]
                + ["temperature"]
                + [name for name in names if name in WARPERS]
            )
        options = {name: draw_value(rng, name, ids) for name in names}
        logits = 2 * torch.randn(1, N_VOCAB)
        processors = hf.LogitsProcessorList(
            processor_of(name, value, n_prompt) for name, value in options.items()
        )
        processed = processors(torch.tensor([ids]), logits)
        rows = {
            name: [float(str(value)) for value in row[0].numpy()]
            for name, row in (("logits", logits), ("processed", processed))
        }
        cases.append({"options": options, "ids": ids, "n_prompt": n_prompt, **rows})
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(case) for case in cases)
    PATH.write_text(f'{{"made_with": {json.dumps(versions)}, "eos": {EOS}, "cases": [\n{lines}\n]}}\n')
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
