"""Asks llama.cpp and transformers what their samplers make of random logits. Run it as a script.

Writes samplers.json. Needs llama-cpp-python 0.3.36, transformers 4.57.6 and torch 2.13; its argument is a
GGUF file of GPT-2's vocabulary, such as ggml-vocab-gpt-2.gguf in the sources of llama.cpp. Logits are
float32, as the shortest decimals that give them back; options have gpt2c's names.

- "cases": of filters, whose it is, and which tokens are left. A case of mirostat has steps.
- "changed": what becomes of logits by transformers' processors.
- "dry": what becomes of the logits of some tokens of GPT-2's vocabulary after a text, by llama.cpp.
- "detected": what transformers' detector counts of token ids.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
import transformers
from transformers.generation import logits_process as hf

N_VOCAB = 61
PATH = Path(__file__).parent / "samplers.json"


def applied(sampler: Any, ids: list[int], logits: np.ndarray) -> tuple[np.ndarray, int]:
    """What a sampler of llama.cpp makes of the logits of tokens, and which of them it chose (or -1)."""
    data = (llama_cpp.llama_token_data * len(ids))(
        *[
            llama_cpp.llama_token_data(token, float(logit), 0.0)
            for token, logit in zip(ids, logits, strict=True)
        ]
    )
    array = llama_cpp.llama_token_data_array(data, len(ids), -1, False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    kept = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    chosen = array.data[array.selected].id if array.selected >= 0 else -1
    return np.array([kept.get(token, -np.inf) for token in ids], np.float32), chosen


def sampler_of(options: dict[str, Any]) -> Any:
    """The sampler of llama.cpp for the options of one case."""
    if "typical_p" in options:
        return llama_cpp.llama_sampler_init_typical(options["typical_p"], 1)
    if "top_n_sigma" in options:
        return llama_cpp.llama_sampler_init_top_n_sigma(options["top_n_sigma"])
    if "mirostat" in options:
        return llama_cpp.llama_sampler_init_mirostat_v2(5, options["mirostat_tau"], options["mirostat_eta"])
    return llama_cpp.llama_sampler_init_xtc(options["xtc_probability"], options["xtc_threshold"], 1, 5)


def left(row: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(row)).tolist()


def by_llama(options: dict[str, Any], logits: np.ndarray) -> list[int]:
    sampler = sampler_of(options)
    row, _ = applied(sampler, list(range(len(logits))), logits)
    llama_cpp.llama_sampler_free(sampler)
    return left(row)


def by_transformers(options: dict[str, Any], logits: np.ndarray) -> list[int]:
    warper = hf.TypicalLogitsWarper(options["typical_p"])
    return left(warper(torch.zeros((1, 1), dtype=torch.long), torch.tensor(logits[None]))[0].numpy())


BY = {"llama.cpp": by_llama, "transformers": by_transformers}


def steps_of_mirostat(options: dict[str, Any], rows: list[np.ndarray]) -> list[dict[str, Any]]:
    """One sampler over several rows: what it leaves of each, and what it draws, which moves its limit."""
    sampler = sampler_of(options)
    steps = []
    for logits in rows:
        row, chosen = applied(sampler, list(range(len(logits))), logits)
        steps.append({"logits": logits, "left": left(row), "token": chosen})
    llama_cpp.llama_sampler_free(sampler)
    return steps


def draw_cases(rng: random.Random, noise: np.random.Generator) -> list[dict[str, Any]]:
    def row(scale: float) -> np.ndarray:
        return (scale * noise.standard_normal(N_VOCAB)).astype(np.float32)

    kinds = [
        *[({"typical_p": p}, source) for p in (0.05, 0.2, 0.5, 0.9, 0.99) for source in BY for _ in range(4)],
        *[({"top_n_sigma": n}, "llama.cpp") for n in (0.3, 1.0, 1.5, 2.5) for _ in range(5)],
        *[
            ({"xtc_probability": 1.0, "xtc_threshold": t}, "llama.cpp")
            for t in (0.01, 0.05, 0.1, 0.3, 0.5, 0.6)
            for _ in range(4)
        ],
    ]
    cases = []
    for options, source in kinds:
        logits = row(rng.choice([1.0, 2.0, 4.0]))
        cases.append(
            {"by": source, "options": options, "logits": logits, "left": BY[source](options, logits)}
        )
    for tau, eta in ((1.0, 0.1), (2.0, 0.5), (3.0, 0.1), (5.0, 1.0)):
        options = {"mirostat": 2, "mirostat_tau": tau, "mirostat_eta": eta}
        steps = steps_of_mirostat(options, [row(2.0) for _ in range(12)])
        cases.append({"by": "llama.cpp", "options": options, "steps": steps})
    return cases


END = [3, 50]
WATERMARKS = [
    {},
    {"greenlist_ratio": 0.5, "bias": 3.5, "hashing_key": 7},
    {"hashing_key": 2**62 + 987_654_321, "context_width": 3},
    {"seeding_scheme": "selfhash"},
    {"seeding_scheme": "selfhash", "context_width": 4, "greenlist_ratio": 0.4, "bias": -1.0},
]


def processor_of(options: dict[str, Any], n_prompt: int) -> Any:
    """transformers' processor for the options of one case."""
    if "watermarking_config" in options:
        config = transformers.WatermarkingConfig(**options["watermarking_config"])
        return config.construct_processor(N_VOCAB, "cpu")
    decay = tuple(options["exponential_decay_length_penalty"])
    return hf.ExponentialDecayLengthPenalty(decay, END, n_prompt)


def changed(options: dict[str, Any], ids: list[int], n_prompt: int, logits: np.ndarray) -> np.ndarray:
    return processor_of(options, n_prompt)(torch.tensor([ids]), torch.tensor(logits[None]))[0].numpy()


def change_cases(rng: random.Random, noise: np.random.Generator) -> list[dict[str, Any]]:
    kinds: list[dict[str, Any]] = [{"watermarking_config": config} for config in WATERMARKS for _ in range(6)]
    kinds += [
        {"exponential_decay_length_penalty": [start, factor]}
        for start in (0, 3, 9)
        for factor in (0.9, 1.05, 1.5)
        for _ in range(2)
    ]
    cases = []
    for options in kinds:
        ids = [rng.randrange(N_VOCAB) for _ in range(rng.randint(5, 20))]
        n_prompt = rng.randint(1, len(ids))
        logits = (2 * noise.standard_normal(N_VOCAB)).astype(np.float32)
        case = {"options": options, "ids": ids, "n_prompt": n_prompt, "logits": logits}
        cases.append(case | {"processed": changed(options, ids, n_prompt, logits)})
    return cases


def detect_cases(rng: random.Random) -> list[dict[str, Any]]:
    """Of random token ids, and of some with many green ones."""
    cases = []
    model = transformers.GPT2Config(vocab_size=N_VOCAB, bos_token_id=N_VOCAB)
    for config in WATERMARKS:
        for n in (6, 40):
            ids = [rng.randrange(N_VOCAB) for _ in range(n)]
            found = transformers.WatermarkDetector(model, "cpu", transformers.WatermarkingConfig(**config))(
                torch.tensor([ids]), return_dict=True
            )
            counts = {"n_tokens": int(found.num_tokens_scored[0]), "n_green": int(found.num_green_tokens[0])}
            cases.append({"config": config, "ids": ids, **counts, "z_score": float(found.z_score[0])})
    return cases


TEXTS = [
    "the king had a king had a king had",
    "One day the fox and the wolf. One day the fox and the wolf. One day the fox and",
    "He said: the king is dead. She said: the king is",
    "a b c d e f g h\na b c d e f g h\na b c",
    'The "old" woman said "old woman, old woman, old woman, old',
    "no no no no no no no no no no no no no no no no",
    "nothing here comes back at all",
    "x = 1; y = 2; x = 1; y = 2; x = 1; y",
    "They went home, and so they went home, and so they went home, and",
    "the king said: no, and then the king said",
]


BREAKERS = [["\n", ":", '"', "*"], [], [". ", " so they"], [" wolf"]]


def after_text(
    vocab: Any, options: dict[str, Any], ids: list[int], some: list[int], logits: Any
) -> np.ndarray:
    """What llama.cpp's DRY makes of the logits of some tokens after a text."""
    breakers = [text.encode() for text in options["dry_sequence_breakers"]]
    sampler = llama_cpp.llama_sampler_init_dry(
        vocab,
        options["dry_multiplier"],
        options["dry_base"],
        options["dry_allowed_length"],
        options["dry_penalty_last_n"],
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )
    for token in ids:
        llama_cpp.llama_sampler_accept(sampler, token)
    row, _ = applied(sampler, some, logits)
    llama_cpp.llama_sampler_free(sampler)
    return row


def dry_cases(path: str, rng: random.Random, noise: np.random.Generator) -> list[dict[str, Any]]:
    llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    cases = []
    for text in TEXTS:
        for _ in range(4):
            options = {
                "dry_multiplier": rng.choice([0.5, 0.8, 2.0]),
                "dry_base": rng.choice([1.0, 1.75, 4.0]),
                "dry_allowed_length": rng.choice([1, 2, 2, 3]),
                "dry_penalty_last_n": rng.choice([5, 12, 1024]),
                "dry_sequence_breakers": rng.choice(BREAKERS),
            }
            ids = llama.tokenize(text.encode(), add_bos=False)
            some = sorted({*ids, 0, 50256})
            logits = noise.standard_normal(len(some)).astype(np.float32)
            case = {"text": text, "options": options, "ids": ids, "some": some, "logits": logits}
            cases.append(case | {"processed": after_text(vocab, options, ids, some, logits)})
    return cases


def plain(value: Any) -> Any:
    """For JSON: float32 as the shortest decimals that give it back."""
    return [float(str(one)) for one in value] if isinstance(value, np.ndarray) else value.item()


def main() -> None:
    rng, noise = random.Random(22), np.random.default_rng(22)
    parts = {
        "cases": draw_cases(rng, noise),
        "changed": change_cases(rng, noise),
        "dry": dry_cases(sys.argv[1], rng, noise),
        "detected": detect_cases(rng),
    }
    versions = {
        "llama-cpp-python": llama_cpp.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    lines = [f'"made_with": {json.dumps(versions)}']
    for name, cases in parts.items():
        lines.append(f'"{name}": [\n' + ",\n".join(json.dumps(case, default=plain) for case in cases) + "\n]")
        print(len(cases), name)
    PATH.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
