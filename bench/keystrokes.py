"""Typing at the end of a text: how long suggestions take, as multiples of one decode step.

    python bench/keystrokes.py [--shape 124M | --model DIR] [--dtype int8] [--threads N] [--json FILE]

The text is 335 tokens of gpt2c's sample text; what follows it there is typed, one character at a time. After
each keystroke a session is asked for five next tokens, for three whole words, and for a continuation of eight
tokens; for comparison, the same five tokens without a session. A decode step, one token with a full cache, is
measured between the keystrokes, so that other load on the machine affects all alike. Reported are medians,
95th percentiles, and both as multiples of the step's median. With --shape the weights are random: nonsense
takes as long to compute as sense, except for the search for words, which ends sooner where something is
probable; pass a real model for that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from gpt2c import GPT2
from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.models import SHAPES
from gpt2c.scoring.comparison import SAMPLE

CONTEXT, KEYSTROKES = 335, 103
LIMITS = {"suggest": 4.0, "three words": 10.0, "eight tokens": 14.0}
"""What the 95th percentile may be, in decode steps."""


def typed(model: GPT2) -> tuple[str, str]:
    """A text of this number of tokens, and what follows it."""
    text = SAMPLE.read_text(encoding="utf-8")
    ids = model.encode([text])[0]
    before = model.tokenizer.decode(ids[:CONTEXT])
    return before, text[len(before) : len(before) + KEYSTROKES]


def measure(model: GPT2) -> dict[str, list[float]]:
    """Seconds of every kind of request, after each keystroke."""
    before, rest = typed(model)
    session = model.session(before)
    session.suggest()
    step = model.new_cache()
    ids = model.encode([before])[0]
    model.forward(ids, step, logits_to_keep=1)
    found: dict[str, list[float]] = {name: [] for name in ("step", "alone", *LIMITS)}

    def timed(name: str, ask: Callable[[], object]) -> None:
        begin = perf_counter()
        ask()
        found[name].append(perf_counter() - begin)

    for n in range(1, len(rest) + 1):
        step.truncate(len(ids))
        timed("step", lambda: model.forward(ids[-1:], step))
        session.text = before + rest[:n]
        timed("suggest", lambda: session.suggest(5))
        session.text = before + rest[:n]
        timed("three words", lambda: session.suggest_words(3))
        timed("eight tokens", lambda: session.complete(1, max_new_tokens=8))
        timed("alone", partial(model.suggest, session.text, 5))
    return found


def table(found: dict[str, list[float]]) -> list[dict[str, float | str]]:
    """Medians and 95th percentiles in milliseconds, and in decode steps."""
    step = float(np.median(found["step"]))
    rows = []
    for name, seconds in found.items():
        median, p95 = np.percentile(seconds, [50, 95])
        rows.append(
            {
                "what": name,
                "median_ms": 1e3 * median,
                "p95_ms": 1e3 * p95,
                "median": median / step,
                "p95": p95 / step,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--model", help="instead of random weights")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.model:
        model = GPT2.from_pretrained(options.model, dtype=options.dtype, threads=options.threads)
    else:
        model = random_model(options.shape, dtype=options.dtype, threads=options.threads)
    rows = table(measure(model))
    print(f"{model!r}\n{'':<14}{'median ms':>11}{'p95 ms':>9}{'median':>9}{'p95':>7}  decode steps")
    for row in rows:
        limit = LIMITS.get(str(row["what"]))
        print(f"{row['what']:<14}{row['median_ms']:>11.1f}{row['p95_ms']:>9.1f}{row['median']:>9.2f}{row['p95']:>7.2f}"
              f"{'' if limit is None else f'  of {limit:g}'}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"model": repr(model), "rows": rows}, indent=1) + "\n")
    return int(any(row["p95"] > LIMITS.get(str(row["what"]), float("inf")) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
