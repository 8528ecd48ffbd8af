"""Asks transformers and CTranslate2 for the texts that beam search finds. Run it as a script.

Needs transformers 4.57.6, torch 2.13 and ctranslate2 4.8.5. Writes search.json: for each set of options the
model (of recipe.SEARCH_CASES), the prompt, the options by gpt2c's names, the end-of-text tokens, the new
tokens of the texts that were found, the best first, and their scores.

transformers runs with attn_implementation="eager", float32, one prompt at a time. CTranslate2 ends a search
by a rule of its own (once `num_beams` texts have ended, wherever they stood among the candidates), so it is
asked for texts of one length, in which nothing ends early.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
from data.golden import make_golden, recipe  # noqa: E402  (the tests' folder is not a package)

N_TRANSFORMERS, N_CTRANSLATE2 = 260, 60


def draw_options(rng: random.Random, n_vocab: int) -> dict[str, Any]:
    """A set of options of gpt2c.GPT2.generate, not those that name eos."""
    num_beams = rng.randint(2, 8)
    max_new_tokens = rng.choice([rng.randint(1, 9), rng.randint(10, 22)])
    options: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    options["num_return_sequences"] = rng.randint(1, num_beams)
    options["length_penalty"] = rng.choice([-1.0, -0.3, 0.0, 0.5, 1.0, 1.7, 3.0])
    options["early_stopping"] = rng.choice([True, False, "never"])
    if rng.random() < 0.3:
        options["min_new_tokens"] = rng.randint(0, max_new_tokens)
    if rng.random() < 0.3:
        options["repetition_penalty"] = rng.choice([0.7, 1.1, 1.5, 3.0])
    if rng.random() < 0.3:
        options["no_repeat_ngram_size"] = rng.randint(1, 3)
    if rng.random() < 0.25:
        options["suppress_tokens"] = rng.sample(range(n_vocab), rng.randint(1, 6))
    if rng.random() < 0.25:
        options["bad_words"] = [
            rng.sample(range(n_vocab), rng.randint(1, 2)) for _ in range(rng.randint(1, 12))
        ]
    if rng.random() < 0.25:
        options["sequence_bias"] = [
            [rng.sample(range(n_vocab), rng.randint(1, 2)), rng.choice([-4.0, -1.0, 2.0, 5.0])]
            for _ in range(rng.randint(1, 8))
        ]
    return options


def ask_transformers(model: Any, prompt: list[int], eos: list[int], options: dict[str, Any]) -> Any:
    """New tokens and scores of the texts that transformers finds."""
    renamed = dict(options)
    if "bad_words" in renamed:
        renamed["bad_words_ids"] = renamed.pop("bad_words")
    if "sequence_bias" in renamed:
        renamed["sequence_bias"] = {tuple(ids): bias for ids, bias in renamed["sequence_bias"]}
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            eos_token_id=eos or None,
            pad_token_id=model.config.vocab_size - 1,
            return_dict_in_generate=True,
            output_scores=True,
            **renamed,
        )
    lengths = (found.beam_indices >= 0).sum(dim=1).tolist()
    texts = [
        row[: len(prompt) + n].tolist()[len(prompt) :]
        for row, n in zip(found.sequences, lengths, strict=True)
    ]
    return texts, found.sequences_scores.tolist()


def convert(model: Any, folder: Path) -> Any:
    """The model as CTranslate2's generator; token i is called "t<i>"."""
    import ctranslate2
    from tokenizers import Tokenizer, models

    vocabulary = {f"t{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    model.save_pretrained(folder / "hf")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="t0", bos_token="t0", eos_token="t0"
    ).save_pretrained(folder / "hf")
    ctranslate2.converters.TransformersConverter(str(folder / "hf")).convert(str(folder / "ct2"), force=True)
    return ctranslate2.Generator(str(folder / "ct2"), compute_type="float32", intra_threads=1)


def ask_ctranslate2(generator: Any, prompt: list[int], eos: int, options: dict[str, Any]) -> Any:
    """New tokens and scores of the texts that CTranslate2 finds."""
    n = options["max_new_tokens"]
    (found,) = generator.generate_batch(
        [[f"t{token}" for token in prompt]],
        beam_size=options["num_beams"],
        num_hypotheses=options["num_return_sequences"],
        length_penalty=options["length_penalty"],
        max_length=n,
        min_length=n,
        end_token=[eos],
        include_prompt_in_result=False,
        return_scores=True,
    )
    return found.sequences_ids, found.scores


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rng = random.Random(5)
    cases = []
    built = {}
    for case in recipe.SEARCH_CASES:
        model = make_golden.build(case.values, case.weights(), torch.float32)
        model.generation_config = transformers.GenerationConfig()
        built[case.name] = model

    def draw(index: int) -> dict[str, Any]:
        case = recipe.SEARCH_CASES[index % len(recipe.SEARCH_CASES)]
        n_vocab = case.values["vocab_size"]
        prompt = [rng.randrange(n_vocab) for _ in range(rng.choice([3, 5, 15, 16, 17, 40]))]
        return {"model": case.name, "prompt": prompt, "options": draw_options(rng, n_vocab)}

    for index in range(N_TRANSFORMERS):
        drawn = draw(index)
        eos = rng.sample(range(61), rng.randint(0, 3))
        if index % 4:  # tokens that do come
            free = ask_transformers(built[drawn["model"]], drawn["prompt"], [], drawn["options"])[0]
            likely = sorted({token for text in free for token in text})
            eos = rng.sample(likely, min(len(eos), len(likely)))
        texts, scores = ask_transformers(built[drawn["model"]], drawn["prompt"], eos, drawn["options"])
        cases.append({"engine": "transformers", **drawn, "eos": eos, "texts": texts, "scores": scores})
    with tempfile.TemporaryDirectory() as folder:
        generators = {name: convert(model, Path(folder) / name) for name, model in built.items()}
        for index in range(N_CTRANSLATE2):
            drawn = draw(index)
            kept = ("num_beams", "max_new_tokens", "num_return_sequences", "length_penalty")
            options = {name: drawn["options"][name] for name in kept}
            drawn["options"] = options | {"min_new_tokens": options["max_new_tokens"]}
            eos = rng.randrange(61)
            texts, scores = ask_ctranslate2(generators[drawn["model"]], drawn["prompt"], eos, options)
            cases.append({"engine": "CTranslate2", **drawn, "eos": [eos], "texts": texts, "scores": scores})
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(case) for case in cases)
    (recipe.FOLDER / "search.json").write_text(
        f'{{"made_with": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n'
    )
    ends = sum(text[-1] in case["eos"] for case in cases for text in case["texts"])
    print(f"{len(cases)} sets of options, {sum(len(c['texts']) for c in cases)} texts, {ends} with an end")


if __name__ == "__main__":
    main()
