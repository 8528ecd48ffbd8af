"""Damaged files that every reader must refuse with its own error, or read as the format's library does.

    python tests/long/readers.py [--cases 20000 | --minutes M] [--seed s] [--only reader …] [--first case]

Case n damages one small file, valid or from tests/data/corpus: bytes, or what its format consists of (JSON,
instructions of pickles, tensors of GGUF, …), with its checksums made right. It fails if the reader dies of a
signal, takes more than 10 s or 64 MB, raises an error that is not one of gpt2c's, or accepts what the library
rejects or reads otherwise: safetensors, torch, gguf-py, tokenizers, json, csv, pyarrow; packed files and
TensorFlow's index are read again after their descriptions. Two forked workers run the cases; --first n
--cases 1 repeats case n alone, with the same --only. Prints failures and counts; status 1 on a failure.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers
import numpy as np
from helpers.damage import damaged
from helpers.gates import gate_parser
from helpers.oracles import load
from helpers.reading import READERS, SECONDS, attempt, corpus, missing, valid_files

WORKERS = 2


def case(n, names, seed):
    """The reader of a case, and its file."""
    reader = names[n % len(names)]
    rng = np.random.default_rng((seed, n, zlib.crc32(reader.encode())))
    files = valid_files(reader)
    if corpus(reader) and rng.random() < 0.5:
        files = corpus(reader)
    return reader, damaged(reader, files[rng.integers(len(files))], files, rng)


def work(numbers, names, seed, shared, until):
    """The cases of a worker; shared: the number of the case, and how many are done, accepted and failed."""
    with tempfile.TemporaryDirectory() as name:
        for n in numbers:
            if time.monotonic() > until:
                break
            struct.pack_into("<q", shared, 0, n)
            reader, data = case(n, names, seed)
            accepted, fault = attempt(reader, data, Path(name))
            counts = struct.unpack_from("<3q", shared, 8)
            more = (1, accepted, fault is not None)
            struct.pack_into("<3q", shared, 8, *(a + b for a, b in zip(counts, more, strict=True)))
            if fault:
                print(f"case {n}, {reader}: {fault}", flush=True)


def start(*arguments):
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        finally:
            sys.stdout.flush()
            os._exit(0 if sys.exc_info()[0] is None else 3)
    return pid


def supervise(options, until):
    """Run the workers; returns how many died, and their counts."""
    last = 2**40 if options.minutes else options.first + options.cases
    shares = [mmap.mmap(-1, 64) for _ in range(WORKERS)]
    died, running = 0, {}

    def begin(first, shared):
        numbers = range(first, last, WORKERS)
        pid = start(numbers, options.only, options.seed, shared, until)
        running[pid] = [shared, -1, time.monotonic()]

    for i, shared in enumerate(shares):
        begin(options.first + i, shared)
    while running:
        time.sleep(0.05)
        for pid, state in list(running.items()):
            n = struct.unpack_from("<q", state[0], 0)[0]
            if n != state[1]:
                state[1:] = n, time.monotonic()
            elif time.monotonic() - state[2] > SECONDS + 2:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                if status:
                    died += 1
                    print(f"case {n}, {options.only[n % len(options.only)]}: status {status}", flush=True)
                    begin(n + WORKERS, state[0])
    counts = Counter()
    for shared in shares:
        counts.update(
            dict(zip(("done", "accepted", "failed"), struct.unpack_from("<3q", shared, 8), strict=True))
        )
    return died, counts


def main():
    options = gate_parser(__doc__, 20_000, [*READERS], "readers").parse_args()
    began = time.monotonic()
    if missing(options.only):
        print(f"not compared: {', '.join(missing(options.only))}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for reader in options.only:
            load(reader)  # before the workers start, so that they need not
            for data in valid_files(reader):
                found = attempt(reader, data, Path(name))
                if found != (True, None):
                    sys.exit(f"{reader}: a valid file is not accepted: {found.fault}")
            corpus(reader)
    until = began + 60 * options.minutes if options.minutes else float("inf")
    died, counts = supervise(options, until)
    print(
        f"{counts['done'] + died} cases, {counts['accepted']} accepted, {counts['failed'] + died} failed, "
        f"{time.monotonic() - began:.0f} s; seed {options.seed}"
    )
    return int(counts["failed"] + died > 0)


if __name__ == "__main__":
    sys.exit(main())
