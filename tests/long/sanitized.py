"""Random calls of the C core under AddressSanitizer and UndefinedBehaviorSanitizer, or under ThreadSanitizer.

    python tests/long/sanitized.py [--cases N | --minutes m] [--seed s] [--first i] [--only thread]

Builds the core with gcc in a copy of the tree (needs the build requirements) and makes the calls of
helpers/core_passes.py there: every kernel and every kind of pass, on every instruction set of this CPU.
Buffers end where their memory ends, and what is not initialised is NaN. Each call must end without a report
and with the results of the ordinary build, bit for bit.

With --only thread, the cases of helpers/core_races.py: threads of Python that share a model and a scheduler,
with the pool of src/team.c.

Prints every report and the command that repeats it; status 1 if there were any.
"""

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers.gates import gate_parser, numbers_of
from helpers.sanitizing import Process, build, environment

from gpt2c.core import _engine

CASES = {"address": 5000, "thread": 200}
MODULES = {"address": "core_passes", "thread": "core_races"}
MOST_FAILURES = 5
SHOWN = 40  # lines of a report


def report_of(text):
    """What a sanitizer says, without what Python says before."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if re.search("runtime error:|Sanitizer", line)), -SHOWN)
    return "\n".join(lines[begin:][:SHOWN])


class Gate:
    """The calls that are left, shared by the threads that make them, and what failed."""

    def __init__(self, options, kind):
        self.seed, self.kind, self.lock = options.seed, kind, threading.Lock()
        some = argparse.Namespace(**vars(options) | {"cases": options.cases or CASES[kind]})
        self.numbers = numbers_of(some)
        self.done, self.failed = 0, 0

    def next(self):
        """The number of the next call; None: there is none."""
        with self.lock:
            return None if self.failed >= MOST_FAILURES else next(self.numbers, None)

    def work(self, folder):
        """Make calls in two processes at once, and compare."""
        module = MODULES[self.kind]
        processes = [
            Process(module, environment(folder, self.kind)),
            Process(module, environment()),
        ]
        while (number := self.next()) is not None:
            for process in processes:
                process.begin(self.seed, number)
            answers = [process.end() for process in processes]
            with self.lock:
                self.done += 1
                if answers[0] is None or answers[0] != answers[1]:
                    self.fail(number, answers, processes)
        for process in processes:
            process.close()

    def fail(self, number, answers, processes):
        self.failed += 1
        again = f"--only {self.kind} --seed {self.seed} --first {number} --cases 1"
        print(f"case {number}: python tests/long/sanitized.py {again}")
        for name, answer, process in zip(("sanitized", "ordinary"), answers, processes, strict=True):
            if answer is None:
                print(f"the {name} build died:\n{report_of(process.report)}")
        if None not in answers:
            print(f"results differ: {answers[0]} sanitized, {answers[1]} by the ordinary build")
        sys.stdout.flush()


def run(options, kind, folder):
    """All cases with one sanitizer; returns how many failed."""
    begun = time.monotonic()
    build(folder, kind)
    built = time.monotonic()
    gate = Gate(options, kind)
    workers = min(os.cpu_count() or 1, 8)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(gate.work, [folder] * workers))
    print(
        f"{kind}: {gate.done} cases on {', '.join(_engine.isas())}, {gate.failed} failed, "
        f"seed {options.seed}; {time.monotonic() - built:.0f} s, and {built - begun:.0f} s to build",
        flush=True,
    )
    return gate.failed


def main():
    parser = gate_parser(__doc__, None, [*MODULES], "sanitizers: by default address alone")
    parser.set_defaults(only=["address"])
    options = parser.parse_args()
    failed = 0
    for kind in options.only:
        with tempfile.TemporaryDirectory() as name:
            failed += run(options, kind, Path(name) / "gpt2c")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
