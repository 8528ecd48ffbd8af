"""Fuzzing of every reader, guided by coverage: tests/long/readers.py, steered to code that did not run yet.

    pip install atheris==3.0.0      (Linux, Python 3.11 to 3.13; nothing else of gpt2c needs it)
    python tests/long/fuzz.py [--minutes 20] [--seed s] [--only reader …] [--folder DIR] [--keep]
    python tests/long/fuzz.py --repeat FILE --only reader

Each reader runs for --minutes, or --cases, in a process of its own, two at a time, with gpt2c's Python
instrumented. It begins with the valid files and tests/data/corpus; libFuzzer's mutations alternate with those
of helpers/damage.py. A file fails as in readers.py: a crash, more than 10 s or 64 MB, an error that is not
gpt2c's, or accepted but not read as the format's library reads it. It is saved, and a line says how to repeat
it; of failures with the same words only the first. --keep then adds to tests/data/corpus the files that
failed, and the smallest ones that together take every step that any file took. Prints what ran; status 1 on a
failure.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
from helpers.gates import gate_parser

READERS = (
    *("safetensors", "packed", "torch", "gguf", "tensorflow"),
    *("tokenizer", "config", "jsonl", "csv", "parquet"),
)
INSTRUMENTED = ["gpt2c", "pickletools", "zipfile"]
AT_ONCE, RESTARTS, LARGEST = 2, 20, 1 << 16


# ---- one reader


def fuzz(reader: str, folder: Path, seconds: int, cases: int, seed: int) -> None:
    """Run libFuzzer, which ends the process. The counts are in a file: done, accepted, failed."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from helpers import reading
        from helpers.damage import damaged
    import numpy as np
    from helpers.oracles import load

    load(reader)
    files = [*reading.valid_files(reader), *reading.corpus(reader)]
    place = Path(tempfile.mkdtemp(dir=folder))
    with open(folder / "counts", "r+b") as counts:
        shared = mmap.mmap(counts.fileno(), 24)
    seen: set[str] = set()

    def one(data: bytes) -> None:
        accepted, fault = reading.attempt(reader, data, place)
        known = struct.unpack("<3q", shared[:24])
        shared[:24] = struct.pack("<3q", known[0] + 1, known[1] + accepted, known[2] + (fault is not None))
        words = re.sub(r"[0-9]+|'[^']*'", "", fault or "")[:60]
        if fault and words not in seen:
            seen.add(words)
            path = folder / "failures" / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"{reader}: {fault}; repeat with --only {reader} --repeat {path}", flush=True)

    def mutated(data: bytes, largest: int, number: int) -> bytes:
        if number % 2:
            return atheris.Mutate(data, largest)
        rng = np.random.default_rng(number)
        if rng.random() < 0.3:  # what is close to a valid file is more often accepted, and compared
            data = files[rng.integers(len(files))]
        return damaged(reader, data, files, rng)[:largest]

    limits = [
        f"-max_total_time={seconds}",
        f"-runs={cases}",
        f"-timeout={reading.SECONDS}",
        "-rss_limit_mb=4096",
    ]
    options = [f"-max_len={LARGEST}", "-len_control=0", f"-seed={seed + 1}", "-detect_leaks=0"]
    artifacts = f"-artifact_prefix={folder / 'failures'}/"
    arguments = ["fuzz", *limits, *options, artifacts, str(folder / "corpus")]
    atheris.Setup(arguments, one, custom_mutator=mutated)
    atheris.Fuzz()


def prepare(reader: str, folder: Path) -> None:
    """A folder with the corpus, without counts."""
    from helpers import reading

    for name in ("corpus", "failures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for data in (*reading.valid_files(reader), *reading.corpus(reader)):
        (folder / "corpus" / hashlib.sha1(data).hexdigest()).write_bytes(data)
    (folder / "counts").write_bytes(bytes(24))


class Running:
    """A reader that is being fuzzed; begun again after a crash."""

    def __init__(self, reader: str, options) -> None:
        self.reader, self.options, self.folder = reader, options, options.folder / reader
        prepare(reader, self.folder)
        self.begun, self.crashes = time.monotonic(), 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        spent = time.monotonic() - self.begun
        seconds = max(1, int(60 * self.options.minutes - spent)) if self.options.minutes else 0
        cases = self.options.cases if not self.options.minutes else -1
        limits = [str(number) for number in (seconds, cases, self.options.seed + self.crashes)]
        with open(self.folder / "log", "ab") as log:
            child = [sys.executable, __file__, "--child", self.reader, str(self.folder), *limits]
            return subprocess.Popen(child, stderr=log)

    def ended(self) -> bool:
        """Whether it is over; a crash or a hang is reported."""
        status = self.process.poll()
        if status is None:
            return False
        if status == 0:
            return True
        self.crashes += 1
        print(f"{self.reader}: status {status}; the end of {self.folder}/log names the file", flush=True)
        if self.crashes > RESTARTS or (
            self.options.minutes and time.monotonic() - self.begun > 60 * self.options.minutes
        ):
            return True
        self.process = self._start()
        return False

    def report(self) -> int:
        """Print what ran; returns the number of failures."""
        done, accepted, failed = struct.unpack("<3q", (self.folder / "counts").read_bytes())
        size = len(list((self.folder / "corpus").iterdir()))
        print(
            f"{self.reader}: {done:,} cases, {accepted:,} accepted, {failed + self.crashes:,} failed, "
            f"{size:,} files in its corpus; {time.monotonic() - self.begun:.0f} s; seed {self.options.seed}",
            flush=True,
        )
        return failed + self.crashes


# ---- the corpus


def lines_of(reader: str, data: bytes, folder: Path) -> set[tuple[object, ...]]:
    """The steps from line to line in gpt2c that a file takes, and what is said of it."""
    from helpers import reading

    steps: set[tuple[object, ...]] = set()
    last: dict[int, int] = {}

    def local(frame, event, _):
        key = id(frame)
        steps.add((frame.f_code.co_filename, last.get(key, 0), frame.f_lineno))
        last[key] = frame.f_lineno
        return local

    def called(frame, event, _):
        return local if "/gpt2c/" in frame.f_code.co_filename else None

    sys.settrace(called)
    try:
        accepted, _ = reading.attempt(reader, data, folder, compared=False)
    finally:
        sys.settrace(None)
    return steps | {(accepted,)}


def keep(reader: str, folder: Path) -> None:
    """Add to the repository's corpus what once failed, and what takes a step that no smaller file takes."""
    from helpers import reading

    target = reading.CORPUS / reader
    target.mkdir(parents=True, exist_ok=True)
    failed = [path.read_bytes() for path in (folder / "failures").iterdir()]
    others = {path.read_bytes() for path in (folder / "corpus").iterdir()} - set(reading.corpus(reader))
    known: set[tuple[object, ...]] = set()
    with tempfile.TemporaryDirectory() as place:
        for data in (*reading.corpus(reader), *failed, *sorted(others, key=lambda data: (len(data), data))):
            steps = lines_of(reader, data, Path(place))
            if data in failed or steps - known:
                (target / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            known |= steps
    print(f"{reader}: {len([*target.iterdir()])} files in {target}", flush=True)


# ---- the command


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        reader, folder, *limits = sys.argv[2:]
        fuzz(reader, Path(folder), *map(int, limits))
    parser = gate_parser(__doc__, 10_000, READERS, "readers")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "gpt2c-fuzz")
    parser.add_argument("--keep", action="store_true", help="put new inputs into tests/data/corpus")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="read only this file")
    options = parser.parse_args()
    if options.repeat is not None:
        from helpers.reading import attempt

        with tempfile.TemporaryDirectory() as name:
            found = attempt(options.only[0], options.repeat.read_bytes(), Path(name))
        print(found.fault or ("accepted, and read alike" if found.accepted else "refused"))
        return int(found.fault is not None)
    failed, waiting, running = 0, list(options.only), []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running.append(Running(waiting.pop(0), options))
        time.sleep(0.2)
        for one in [one for one in running if one.ended()]:
            running.remove(one)
            failed += one.report()
    if options.keep:
        for reader in options.only:
            keep(reader, options.folder / reader)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
