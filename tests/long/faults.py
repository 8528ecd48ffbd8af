"""Allocation k fails, write k fails, for every k: an error, nothing half-written, and the next call works.

    python tests/long/faults.py [--only NAME …] [--cases N | --minutes m] [--seed s]

For each operation of `helpers.operations`, allocation k (malloc, calloc, realloc, aligned) of the process
returns NULL, once or with all that follow; for those that write, write k (write, fsync, ftruncate) fails with
ENOSPC or EIO. k is 1, 2, … up to the number that the operation makes, in random order with --cases or
--minutes. The operation then gives its result, or MemoryError, OSError or an error of gpt2c, never a signal;
a file that was there is whole; no temporary file remains; and the operation done again gives the bytes of an
undisturbed run.

Allocations by tiktoken, tokenizers, pydantic and OpenMP themselves never fail here: those end the process by
design, and gpt2c asks for memory before it calls the first two. Nor do those of NumPy up to 64 KiB: it does
not check some of its own buffers, for instance where an array is indexed with int32. Where Python or NumPy
raise an error of their own (FOREIGN) instead of MemoryError, it is counted as such. A server
under faults may lose a later request to a thread of anyio that died for want of memory, and may end with an
error, as its event loop does then; the gate counts both, and goes on with a new server.

Prints every failure with what reproduces it; status 1 if there were any. FAULTS_SHOW=1 shows who asked for
memory, and the errors. All cases, some 18,000, take about 45 minutes.
"""

import argparse
import errno
import faulthandler
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers import served
from helpers.faults import ALLOCATIONS, NEVER, WRITES, Faults, compile_library
from helpers.operations import OPERATIONS, ServerError, Subject

from gpt2c import GPT2CError

WRITING = ("session_save", "save", "convert", "score_file")
ANY = 2**63
ENDING = ("tiktoken", "tokenizers", "pydantic_core", "libgomp", "/ld-linux")
EXEMPT = {**dict.fromkeys(ENDING, ANY), "/numpy/": 2**16}
ALLOWED = (MemoryError, OSError, GPT2CError, ServerError)
FOREIGN = re.compile(
    "error return without exception|NULL without setting|"
    "digital envelope|can't (allocate .*lock|start new thread)"
)
PATIENCE = 60  # seconds; what takes longer hangs
LOST = 3  # requests to threads that are dead, which anyio does not notice
CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


def kinds_of(name):
    """How an operation may be disturbed."""
    return ["once", "on"] + (list(CODES) if name in WRITING else [])


class Child:
    """What the child process does: operations with faults, in the order that the parent asks for."""

    def __init__(self, name, folder):
        served.TIMEOUT = 5
        self.name, self.operation = name, OPERATIONS[name]
        self.subject = Subject(folder)
        self.operation(self.subject)  # imports modules, creates files
        self.expected = self.operation(self.subject)
        self.files = files(folder)
        self.faults = Faults(EXEMPT)

    def count(self, kind):
        with self.failing(kind, NEVER):
            self.operation(self.subject)
        return self.faults.n

    def failing(self, kind, k):
        if kind in CODES:
            return self.faults.failing(WRITES, k, error=CODES[kind])
        other = self.name == "serve"
        return self.faults.failing(ALLOCATIONS, k, later_too=kind == "on", in_other_threads=other)

    def case(self, kind, k):
        """What went wrong, or what was seen."""
        seen = "result"
        try:
            with self.failing(kind, k):
                found = self.operation(self.subject)
            if found != self.expected:
                return "wrong: other bytes under the fault"
        except ALLOWED as error:
            if "FAULTS_SHOW" in os.environ:
                print(described(error), file=sys.stderr)
            seen = type(error).__name__
        except Exception as error:
            if not FOREIGN.search(str(error)):
                return f"wrong: {described(error)}"
            seen = f"{type(error).__name__} of Python or NumPy"
        problem = self.damaged()
        if problem:
            return f"wrong: after {seen}: {problem}"
        lost = 0
        while True:
            try:
                again = self.operation(self.subject)
                break
            except TimeoutError:  # only a server's client has one
                lost += 1
                if self.has_ended():
                    seen, lost = f"{seen}, and the server ended", 0
                    del self.subject.server
                elif lost > LOST:
                    return f"wrong: after {seen}, no answer to {lost} requests"
            except Exception as error:
                return f"wrong: after {seen}, done again: {described(error)}"
        if again != self.expected:
            return f"wrong: after {seen}, done again: other bytes"
        return f"{seen}, and then {lost} requests without an answer" if lost else seen

    def has_ended(self):
        """Whether the thread that runs the server has ended."""
        return not any(thread.name.endswith("(run)") for thread in threading.enumerate())

    def damaged(self):
        """What is wrong with the files: the journal of scores is to be resumed.

        An empty unfinished file of scores stays where memory ends while it is opened: another process may
        have opened it, too. The next run takes it over.
        """
        found = files(self.subject.folder)
        left = {name for name in found.keys() - self.files.keys() if not name.endswith(".journal")}
        if not found.get("scores/texts.jsonl.part"):
            left.discard("scores/texts.jsonl.part")
        if left:
            return f"left {sorted(left)}"
        for name, data in self.files.items():
            if found.get(name) != data and not (self.name == "score_file" and name not in found):
                return f"{name} is not what it was"
        return None

    def obey(self):
        for line in sys.stdin:
            kind, k = json.loads(line)
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            answer = self.case(kind, k) if k else self.count(kind)
            faulthandler.cancel_dump_traceback_later()
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a fault may have left them redirected
            print(json.dumps(answer), flush=True)
        os._exit(0)  # a server may still run


def described(error):
    """An error and where it came from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {error} (in {Path(frame.filename).name}, line {frame.lineno}: {frame.line})"
    )


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Parent:
    """The child process of an operation, started again when it dies."""

    def __init__(self, name, library):
        self.name, self.library, self.process = name, library, None

    def ask(self, kind, k):
        if self.process is None:
            self.folder = tempfile.TemporaryDirectory()
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--child", self.folder.name, "--only", self.name],
                env={**os.environ, "LD_PRELOAD": str(self.library), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                stderr=None if "FAULTS_SHOW" in os.environ else subprocess.DEVNULL,
            )  # fmt: skip
        self.process.stdin.write(json.dumps([kind, k]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer:
            return json.loads(answer)
        status = self.close()
        return f"wrong: the process ended with status {status}"

    def close(self):
        self.process.stdin.close()
        status = self.process.wait(60)
        self.process = None
        self.folder.cleanup()
        return status


def run(arguments, name, library, end):
    """All the cases of an operation; gives what was seen, and how often."""
    rng = random.Random(f"{arguments.seed} {name}")
    parent = Parent(name, library)
    seen = Counter()
    cases = [(kind, k) for kind in kinds_of(name) for k in range(1, parent.ask(kind, 0) + 1)]
    total = len(cases)
    if arguments.cases or arguments.minutes:
        rng.shuffle(cases)
    if arguments.case:
        cases = [(arguments.case[0], int(arguments.case[1]))]
    for kind, k in cases[: arguments.cases]:
        if time.monotonic() > end:
            break
        found = parent.ask(kind, k)
        seen[found.partition(":")[0]] += 1
        if found.startswith("wrong"):
            print(f"{name} {found} (--only {name} --case {kind} {k})", flush=True)
    if parent.process is not None:
        parent.close()
    print(f"{name:15} {seen.total():5} of {total} cases: {dict(seen.most_common())}", flush=True)
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=[*OPERATIONS], help="operations")
    parser.add_argument("--cases", type=int, help="so many cases an operation, drawn at random (all)")
    parser.add_argument("--minutes", type=float, help="for this time, in equal parts for the operations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=2, metavar=("KIND", "K"), help="a single case, as failures name it")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        Child(arguments.only[0], arguments.child).obey()
    begun = time.monotonic()
    total = Counter()
    with tempfile.TemporaryDirectory() as folder:
        library = compile_library(Path(folder))
        for name in arguments.only:
            share = 60 * arguments.minutes / len(arguments.only) if arguments.minutes else float("inf")
            total += run(arguments, name, library, time.monotonic() + share)
    seconds = time.monotonic() - begun
    print(f"{total.total()} cases, {total['wrong']} failed, seed {arguments.seed}; {seconds:.0f} s")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
