"""Breaks the code on purpose, one place at a time, and demands that a test notices.

    python tests/long/mutations.py [--cases n | --minutes m] [--seed s] [--first i] [--only WORD …] [--jobs j]

What is broken is in `helpers/mutants/`: places in C, Cython and Python. Subjects take turns, those that take
seconds come first, and so a few cases are a spread of all; the default is all of them, but for those of
instruction sets that the CPU lacks. With words, only those whose description contains one. Works on copies
of the tree in a temporary directory, one for each job (needs a compiler and the build requirements); in one
in which nothing is broken, the same tests must pass.

Prints which test noticed, and failures with what reproduces them; status 1 if a mutation survived. Thirty
cases take a few minutes on two cores, all of them some hours.
"""

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers.gates import gate_parser, numbers_of
from helpers.mutants import MUTANTS

from gpt2c.core import _engine

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds of one test; what takes longer hangs


class Build:
    """The compiled modules of a copy: built once, then only what a broken file changes."""

    def __init__(self, folder: Path):
        self.folder = folder
        output = run([sys.executable, "setup.py", "build_ext", "--inplace", "--force"], folder)
        commands = [
            [word for word in shlex.split(line) if word != "-Werror"]  # a mutant may leave something unused
            for line in output.splitlines()
            if re.match(r"\S*(cc|gcc|clang)\S* ", line)
        ]
        self.compile = [command for command in commands if "-c" in command]
        self.link = [command for command in commands if "-shared" in command]

    def again(self, file: str, folder: Path):
        """Compile what includes a file of a copy that has just been changed, and link it."""
        if file.endswith(".pyx"):
            name = Path(file).stem
            (command,) = [command for command in self.compile if f"/{name}.c" in " ".join(command)]
            source = next(word for word in command if word.endswith(f"/{name}.c"))
            run([sys.executable, "-m", "cython", "-3", file, "-o", source], folder)
            run(command, folder)
        else:
            name = "_kernels"
            for command in self.compile:
                if includes(command, Path(file).name, folder):
                    run(command, folder)
        (link,) = [command for command in self.link if f"/{name}.abi3.so" in " ".join(command)]
        run(link, folder)
        built = Path(link[link.index("-o") + 1])
        shutil.copy(folder / built, folder / "gpt2c" / "core" / built.name)


def includes(command: list[str], file: str, folder: Path) -> bool:
    """Whether a command compiles a file of src/ into what this CPU runs.

    Kernels include each other, other sources what they name.
    """
    source = next((word for word in command if word.startswith("src/")), None)
    if source is None:
        return False
    kernels = re.match(r"src/kernels_(\w+)\.c", source)
    if kernels and kernels[1] not in _engine.isas():
        return False
    if file.endswith(".inc.c") or file.startswith("vec"):
        return source.startswith("src/kernels_amx" if "amx" in file else "src/kernels_")
    return source == f"src/{file}" or f'"{file}"' in (folder / source).read_text()


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"does not build:\n{done.stderr[-3000:]}")
    return done.stdout


def tested(folder: Path, tests, *, all_of_them=False) -> tuple[bool, str]:
    """Whether tests pass in a copy, and what the first failure is."""
    options = [
        "-q",
        "--no-header",
        f"--timeout={PATIENCE}",
        "--timeout-method=thread",  # a signal between two lines makes pytest itself fail
        "-p",
        "no:cacheprovider",
        "--hypothesis-profile=mutations",
    ]
    command = [sys.executable, "-m", "pytest", *options, *([] if all_of_them else ["-x"]), *tests]
    ours = {"COLUMNS": "160", "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "passive", "PYTEST_ADDOPTS": ""}
    with tempfile.TemporaryFile("w+") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | ours, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # children that hang, too
        file.seek(0)
        said = file.read()
    if status == 0:
        return True, "no test noticed"
    if status in (3, 4, 5):  # pytest itself failed, or found no test
        raise SystemExit(f"{' '.join(tests)}: {said}")
    for line in said.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            return False, line
    return False, f"hung for {PATIENCE} s" if "Timeout" in said else f"pytest ended with status {status}"


def broken(mutant, folder: Path) -> str:
    """Break a file of a copy; gives what it was."""
    path = folder / mutant.file
    original, place = path.read_text(), mutant.place(folder)
    path.write_text(original[: place.start()] + mutant.replacement + original[place.end() :])
    return original


def in_order(mutants, seed: int):
    """The quick ones first, and subjects in turn; the seed decides which of a subject comes first."""
    rng, ordered = random.Random(seed), []
    for quick in (True, False):
        subjects = defaultdict(list)
        for mutant in mutants:
            if mutant.is_quick == quick:
                subjects[mutant.subject].append(mutant)
        for several in subjects.values():
            rng.shuffle(several)
        turns = list(subjects.values())
        rng.shuffle(turns)
        ordered += filter(None, chain.from_iterable(zip_longest(*turns)))
    return ordered


def together(mutants):
    """The tests of all of them, as few runs: of words in some files, and of whole files."""
    files, words, whole = set(), set(), set()
    for mutant in mutants:
        if "-k" in mutant.tests:
            files.update(mutant.tests[:-2])
            words.update(mutant.tests[-1].split(" or "))
        else:
            whole.update(mutant.tests)
    return [(*sorted(files), "-k", " or ".join(sorted(words)))] * bool(files) + [tuple(sorted(whole))] * bool(
        whole
    )


class Copies:
    """Copies of the tree, each for one job at a time."""

    def __init__(self, place: Path, jobs: int, compiled: bool):
        self.free: SimpleQueue[Path] = SimpleQueue()
        first = place / "0"
        ignored = [".git", ".venv", "__pycache__", ".*_cache", "dist", "build", "site"]
        shutil.copytree(ROOT, first, ignore=shutil.ignore_patterns(*ignored, *["*.so"] * compiled))
        self.build = Build(first) if compiled else None
        self.stale = {}  # folder -> the file that is whole again, but compiled as it was broken
        for number in range(jobs):
            folder = place / str(number)
            if number:
                shutil.copytree(first, folder)
            self.free.put(folder)

    def passes(self, tests) -> tuple[bool, str]:
        """Whether tests pass where nothing is broken."""
        folder = self.free.get()
        try:
            return tested(folder, tests, all_of_them=True)
        finally:
            self.free.put(folder)

    def survives(self, mutant) -> tuple[bool, str]:
        """Whether the tests of a mutant pass, and what they say."""
        folder = self.free.get()
        try:
            original = broken(mutant, folder)
            changed = {self.stale.pop(folder, None), mutant.file if mutant.is_compiled else None} - {None}
            for file in changed:
                self.build.again(file, folder)
            found = tested(folder, mutant.tests)
            (folder / mutant.file).write_text(original)
            if mutant.is_compiled:
                self.stale[folder] = mutant.file
            return found
        finally:
            self.free.put(folder)


def main():
    parser = gate_parser(__doc__, len(MUTANTS), None, "words of descriptions")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    words = options.only or [""]
    chosen = in_order([m for m in MUTANTS if any(word in m.what for word in words)], options.seed)
    foreign = [mutant for mutant in chosen if mutant.isa not in (None, *_engine.isas())]
    chosen = [mutant for mutant in chosen if mutant not in foreign]
    begun, alive, done = time.monotonic(), [], 0
    some = chosen[options.first :] if options.minutes else chosen[options.first :][: options.cases]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        copies = Copies(Path(name), options.jobs, any(mutant.is_compiled for mutant in some))
        whole = [pool.submit(copies.passes, tests) for tests in together(some)]
        numbers = iter(numbers_of(options))

        def case(mutant):
            if next(numbers, None) is None:
                return None
            return mutant, *copies.survives(mutant)

        for result in pool.map(case, some):
            if result is None:
                break
            mutant, survived, said = result
            print(f"{mutant.what}: {said[:150]}", flush=True)
            done += 1
            if survived:
                alive.append(mutant.what)
        wrong = [said for passed, said in (run.result() for run in whole) if not passed]
    for what in alive:
        print(f"survived: {what} (--only {shlex.quote(what)})")
    for said in wrong:
        print(f"a test fails where nothing is broken: {said}")
    if foreign:
        print(f"not for this CPU: {', '.join(mutant.what for mutant in foreign)}")
    print(f"{done} mutations, {len(alive)} survived; {time.monotonic() - begun:.0f} s")
    return 1 if alive or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
