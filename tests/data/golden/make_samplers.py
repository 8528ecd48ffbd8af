"""Asks llama.cpp and transformers what their samplers make of random logits. Run it as a script.

Writes samplers.json. Needs llama-cpp-python 0.3.36, transformers 4.57.6 and torch 2.13. For each case: whose
sampler, the options by gpt2c's names, the logits (float32 as the shortest decimals), and which are
left. A case of mirostat has steps.
"""

from __future__ import annotations

import ctypes
import json
import random
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


def plain(value: Any) -> Any:
    """For JSON: float32 as the shortest decimals that give it back."""
    return [float(str(one)) for one in value] if isinstance(value, np.ndarray) else value.item()


def main() -> None:
    cases = draw_cases(random.Random(22), np.random.default_rng(22))
    versions = {
        "llama-cpp-python": llama_cpp.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    lines = ",\n".join(json.dumps(case, default=plain) for case in cases)
    PATH.write_text(f'{{"made_with": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
