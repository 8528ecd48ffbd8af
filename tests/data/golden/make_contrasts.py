"""Asks transformers for texts by contrastive search, beams in groups and guidance. Run it as a script.

Needs transformers 4.49.0, which has all three, and torch 2.13. Writes contrasts.json: for each set of options
the kind, the model (of recipe.SEARCH_CASES), the prompt, the options by gpt2c's names, the end-of-text
tokens, and the new tokens of the texts that were found, the best first. With beams come their scores; with
guidance, at each step the guided log-probability of the token that was chosen.

attn_implementation="eager", float32, one prompt at a time. Groups that are done go on with padding in
transformers, which then costs groups after them a penalty; the padding is a token that is suppressed, so that
this changes nothing.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.golden import make_golden, recipe  # noqa: E402  (the tests' folder is not a package)

N_OF_EACH = 90
PADDING = 60
PATH = recipe.FOLDER / "contrasts.json"


def draw_options(rng: random.Random, kind: str, n_vocab: int) -> dict[str, Any]:
    """A set of options of gpt2c.GPT2.generate, not those that name eos."""
    options: dict[str, Any] = {"max_new_tokens": rng.choice([rng.randint(1, 6), rng.randint(10, 22)])}
    options["suppress_tokens"] = [PADDING]
    if rng.random() < 0.3:
        options["repetition_penalty"] = rng.choice([0.7, 1.1, 1.5])
    if rng.random() < 0.2:
        options["no_repeat_ngram_size"] = rng.randint(1, 3)
    if kind == "contrastive":
        options["penalty_alpha"] = rng.choice([0.1, 0.3, 0.6, 0.9, 1.0])
        options["top_k"] = rng.randint(2, 9)
    elif kind == "groups":
        size, options["num_beam_groups"] = rng.randint(1, 4), rng.randint(2, 4)
        options["num_beams"] = size * options["num_beam_groups"]
        options["num_return_sequences"] = rng.randint(1, options["num_beams"])
        options["diversity_penalty"] = rng.choice([0.1, 0.5, 1.0, 3.0])
        options["length_penalty"] = rng.choice([-0.5, 0.0, 1.0, 2.0])
        options["early_stopping"] = rng.choice([True, False, "never"])
        if rng.random() < 0.2:
            options["sequence_bias"] = [[[rng.randrange(n_vocab)], rng.choice([-4.0, 3.0])]]
    else:
        options["guidance_scale"] = rng.choice([-0.5, 0.0, 0.5, 1.5, 3.0, 10.0])
        if rng.random() < 0.6:
            options["negative_prompt"] = [rng.randrange(n_vocab) for _ in range(rng.choice([1, 4, 17]))]
    return options


def ask(model: Any, prompt: list[int], eos: list[int], options: dict[str, Any]) -> tuple[Any, Any]:
    """New tokens of the texts that transformers finds, and what is known of their scores."""
    renamed = dict(options)
    if "sequence_bias" in renamed:
        renamed["sequence_bias"] = {tuple(ids): bias for ids, bias in renamed["sequence_bias"]}
    if "negative_prompt" in renamed:
        renamed["negative_prompt_ids"] = torch.tensor([renamed.pop("negative_prompt")])
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            eos_token_id=eos or None,
            pad_token_id=PADDING,
            return_dict_in_generate=True,
            output_scores=True,
            **renamed,
        )
    texts = [row[len(prompt) :].tolist() for row in found.sequences]
    texts = [text[: text.index(PADDING)] if PADDING in text else text for text in texts]
    if "num_beams" in options:
        return texts, found.sequences_scores.tolist()
    if "guidance_scale" in options:
        rows = zip(found.scores, texts[0], strict=True)
        return texts, [row[0, token].item() for row, token in rows]
    return texts, None


def build(name: str) -> Any:
    """A model of recipe.SEARCH_CASES."""
    [case] = [case for case in recipe.SEARCH_CASES if case.name == name]
    model = make_golden.build(case.values, case.weights(), torch.float32)
    model.generation_config = transformers.GenerationConfig()
    return model


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rng = random.Random(22)
    models = {case.name: build(case.name) for case in recipe.SEARCH_CASES}
    cases = []
    for index in range(3 * N_OF_EACH):
        kind = ("contrastive", "groups", "guidance")[index % 3]
        case = recipe.SEARCH_CASES[index // 3 % len(recipe.SEARCH_CASES)]
        n_vocab = case.values["vocab_size"]
        prompt = [rng.randrange(n_vocab) for _ in range(rng.choice([1, 3, 5, 15, 16, 17, 40]))]
        options = draw_options(rng, kind, n_vocab)
        free, _ = ask(models[case.name], prompt, [], options)
        likely = sorted({token for text in free for token in text})
        eos = rng.sample(likely, min(rng.randint(0, 2), len(likely)))
        texts, scores = ask(models[case.name], prompt, eos, options)
        found = {"eos": eos, "texts": texts, "scores": scores}
        cases.append({"kind": kind, "model": case.name, "prompt": prompt, "options": options, **found})
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(case) for case in cases)
    PATH.write_text(f'{{"made_with": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')
    ends = sum(text[-1] in case["eos"] for case in cases for text in case["texts"] if text)
    print(f"{len(cases)} sets of options, {ends} texts with an end")


if __name__ == "__main__":
    main()
