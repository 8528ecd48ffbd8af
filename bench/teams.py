"""The two kinds of threads, GNU OpenMP and gpt2c's pool (GPT2C_TEAM), alone and beside busy programs.

    python bench/teams.py [--threads 2] [--busy 0 3] [--rounds 5] [--json FILE]

Measured in a process for each: microseconds to open and close a parallel region, and of a barrier in it;
milliseconds for a token of the bundled model; of GPT-2 124M with random int8 weights, milliseconds for a
token and for a prompt of 256 tokens. --busy N runs N busy programs beside it for each CPU. Rounds alternate;
medians are shown, and each ratio to OpenMP.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gpt2c import GPT2
from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.roofs import waiting

TEAMS = ("openmp", "pool")
PROMPT, TOKENS = 256, 32
CALLS = 20  # the median of them counts


def milliseconds(call) -> float:
    """The median of repeated calls."""
    call()
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def measure(threads: int) -> dict[str, float]:
    """All measurements of one kind, in this process."""
    region, phase = waiting(threads)
    found = {"region, µs": 1e6 * region, "barrier, µs": 1e6 * phase}
    bundled = GPT2.from_pretrained(threads=threads)
    large = random_model("124M", dtype="int8", threads=threads)
    ids = np.random.default_rng(0).integers(0, 4000, PROMPT).tolist()
    for name, model in (("bundled", bundled), ("124M", large)):

        def generate(model: GPT2 = model) -> None:
            model.generate(ids[:1], max_new_tokens=TOKENS, min_new_tokens=TOKENS)

        found[f"{name}: a token, ms"] = milliseconds(generate) / TOKENS
    found[f"124M: {PROMPT} tokens, ms"] = milliseconds(lambda: large.generate(ids, max_new_tokens=1))
    return found


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """Programs that compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in started:
            program.kill()
            program.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 3], metavar="N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.threads)))
        return
    command = [sys.executable, Path(__file__).resolve(), "--measure", "--threads", str(options.threads)]
    results: list[dict] = []
    for number in range(options.rounds):
        for programs in options.busy:
            for team in TEAMS[:: -1 if number % 2 else 1]:
                with busy(programs * len(os.sched_getaffinity(0))):
                    done = subprocess.run(
                        command, env=os.environ | {"GPT2C_TEAM": team}, stdout=subprocess.PIPE, check=True
                    )
                results.append({"busy": programs, "team": team, **json.loads(done.stdout)})
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


def show(results: list[dict]) -> None:
    """A row for each measurement."""
    print("| busy programs per CPU | measured | OpenMP | pool | pool / OpenMP |\n|---|---|---|---|---|")
    names = [name for name in results[0] if name not in ("busy", "team")]
    for programs in sorted({each["busy"] for each in results}):
        for name in names:
            openmp, pool = (
                statistics.median(e[name] for e in results if (e["busy"], e["team"]) == (programs, team))
                for team in TEAMS
            )
            print(f"| {programs} | {name} | {openmp:.3g} | {pool:.3g} | {pool / openmp:.2f} |")


if __name__ == "__main__":
    main()
