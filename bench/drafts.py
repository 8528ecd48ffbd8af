"""What draft="prompt" saves: the time without guesses over the time with them, for repetitive texts.

    python bench/drafts.py [--shape 124M | --model DIR] [--dtype int8] [--threads N] [--tokens 250]
                           [--rounds 3] [--json FILE]

A logits_processor forces a model, with random weights or read from DIR (the bundled one: gpt2c/data/model),
to write recorded texts, so that the number of right guesses depends on these texts alone: code, JSON, a table
of data and one of words from this repository, a dialogue that quotes, and the prose of gpt2c's sample text.
The first half of each text is the prompt. The two ways alternate; the table gives the median of their ratios
and the tokens that one pass confirmed. The generated texts are compared and must be equal.

Exit status 1: the median of the repetitive texts, or the prose, is not as much faster as it should be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from history import read

from gpt2c import GPT2
from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.models import SHAPES
from gpt2c.core import _engine
from gpt2c.scoring.comparison import SAMPLE

ROOT = Path(__file__).resolve().parent.parent
WANTED = {"repeats": 1.5, "prose": 0.98}
"""How many times as fast texts should be, by kind."""

DIALOGUE = """\
Customer: I ordered the blue kettle with order number 4471-92 on Monday, and it has not arrived.
Agent: You ordered the blue kettle with order number 4471-92 on Monday, and it has not arrived. Is that right?
Customer: Yes, I ordered the blue kettle with order number 4471-92 on Monday.
Agent: Thank you. The blue kettle with order number 4471-92 was sent on Tuesday, and will arrive on Friday.
Customer: So the blue kettle with order number 4471-92 will arrive on Friday?
Agent: Yes. The blue kettle with order number 4471-92 was sent on Tuesday, and will arrive on Friday.
"""


def texts() -> dict[str, tuple[str, str]]:
    """Name -> kind, text."""
    code = (ROOT / "gpt2c/core/_call.pyi").read_text() + (ROOT / "gpt2c/core/_engine.pyi").read_text()
    lines = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8").splitlines()
    words = "\n".join([line for line in lines if line.startswith("|")][:40])
    data = (ROOT / "gpt2c/data/model/SOURCES.tsv").read_text(encoding="utf-8")[:6000]
    tables = read(ROOT / "bench/results/2026-11-25.md").tables
    document = json.dumps([vars(table) for table in tables[2:]], indent=1)[:4000]
    return {
        "code": ("repeats", code),
        "json": ("repeats", document),
        "data": ("repeats", data),
        "words": ("repeats", words),
        "dialogue": ("repeats", 3 * DIALOGUE),
        "prose": ("prose", SAMPLE.read_text(encoding="utf-8")),
    }


class Forced:
    """A processor that allows only a recorded text."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __call__(self, so_far: np.ndarray, logits: np.ndarray) -> np.ndarray:
        token = self.ids[len(so_far)]
        value = logits[token]
        logits.fill(-np.inf)
        logits[token] = value
        return logits


def measure(model: GPT2, text: str, tokens: int, rounds: int) -> tuple[list[float], float]:
    """Times without guesses over times with them, and tokens per pass."""
    ids = model.encode([text])[0].tolist()
    n = min(tokens, len(ids) // 2)
    begin = max(0, min(len(ids) // 2, model.config.n_ctx - n))
    options = {"max_new_tokens": n, "eos_token_id": [], "logits_processor": Forced(ids)}
    forward, passes = _engine.forward, [0]

    def counted(*arguments, **how):
        passes[0] += 1
        return forward(*arguments, **how)

    ratios, written, counts = [], [], []
    for _ in range(rounds):
        seconds = []
        for draft in (None, "prompt"):
            _engine.forward, passes[0] = counted, 0
            start = perf_counter()
            try:
                written.append(model.generate(ids[:begin], draft=draft, **options))
            finally:
                _engine.forward = forward
            seconds.append(perf_counter() - start)
            counts.append(passes[0])
        ratios.append(seconds[0] / seconds[1])
    assert all(one == written[0] for one in written)
    return ratios, n / counts[-1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--model", help="instead of random weights")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.model:
        model = GPT2.from_pretrained(options.model, dtype=options.dtype, threads=options.threads)
    else:
        model = random_model(options.shape, dtype=options.dtype, threads=options.threads)
    rows = []
    print(f"{model!r}\n{'':<10}{'times as fast':>14}{'tokens a pass':>15}")
    for name, (kind, text) in texts().items():
        ratios, of_a_pass = measure(model, text, options.tokens, options.rounds)
        rows.append({"text": name, "kind": kind, "ratio": statistics.median(ratios), "tokens": of_a_pass})
        print(f"{name:<10}{rows[-1]['ratio']:>14.2f}{of_a_pass:>15.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"model": repr(model), "rows": rows}, indent=1) + "\n")
    kinds = {kind: [row["ratio"] for row in rows if row["kind"] == kind] for kind in WANTED}
    for kind, ratios in kinds.items():
        print(f"median of {kind}: {statistics.median(ratios):.2f}, wanted {WANTED[kind]:.2f}")
    return int(any(statistics.median(ratios) < WANTED[kind] for kind, ratios in kinds.items()))


if __name__ == "__main__":
    sys.exit(main())
