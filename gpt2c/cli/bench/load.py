"""The time and memory of a new process up to its first token."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...checkpoint import open_checkpoint
from ...checkpoint.packed import packed_path
from ...errors import GPT2CError
from .roofs import ROUNDS, median_and_spread

__all__ = ["cached_share", "files_of", "load", "memory_of"]

# Processes at once, to measure shared memory.
PROCESSES = 4
PAGE = 4096

# The code of a new process. It starts before the first import, so reading it must not need gpt2c.
FIRST_TOKEN = """
import json, sys, time
at = [time.perf_counter()]
import numpy
at.append(time.perf_counter())
from gpt2c import GPT2, TokenizerError
at.append(time.perf_counter())
source, how = json.loads(sys.argv[1])
model = GPT2.from_pretrained(source, **how)
at.append(time.perf_counter())
try:
    model.generate("Once upon a time", max_new_tokens=1)
except TokenizerError:
    model.generate([0], max_new_tokens=1)
at.append(time.perf_counter())
print(json.dumps(at), flush=True)
sys.stdin.read()
"""
STEPS = ("import numpy", "import gpt2c", "load", "first token")


def files_of(source: str | os.PathLike[str] | None) -> list[Path]:
    """The files of a local model's weights."""
    packed = packed_path(source)
    if packed is not None:
        return [packed]
    return sorted({Path(tensor.file) for tensor in open_checkpoint(source, strict=False).tensors.values()})


def cached_share(paths: Sequence[Path], samples: int = 512) -> float | None:
    """The fraction of some files in the page cache, found by reads that do not wait for a disk.

    None where the system cannot tell (RWF_NOWAIT: Linux, and not every file system).
    """
    found = asked = 0
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    buffer = bytearray(1)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            pages = -(-os.fstat(file.fileno()).st_size // PAGE)
            for page in range(0, pages, max(1, pages // samples)):
                asked += 1
                try:
                    found += os.preadv(file.fileno(), [buffer], page * PAGE, os.RWF_NOWAIT) > 0
                except BlockingIOError:
                    pass
                except OSError:
                    return None
    return found / asked if asked else 1.0


def _read(paths: Sequence[Path]) -> None:
    """Put files into the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def _drop(paths: Sequence[Path]) -> None:
    """Ask the system to drop files from the page cache; it keeps pages that a process has mapped."""
    for path in paths:
        with open(path, "rb") as file:
            # Pages not yet on disk cannot be dropped.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(source: str | None, how: dict[str, Any], **pipes: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FIRST_TOKEN, json.dumps([source, how])]
    # An installed package is compiled; a clone must be allowed to keep what Python compiles.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **pipes
    )


def _times(line: str, process: subprocess.Popen[str]) -> dict[str, float]:
    if not line:
        assert process.stderr is not None
        last = process.stderr.read().strip().rpartition("\n")[2]
        last = re.sub(r"^gpt2c\.[\w.]+: ", "", last)  # the class
        raise GPT2CError(f"a new process could not use the model: {last}")
    at = json.loads(line)
    return {step: b - a for step, (a, b) in zip(STEPS, pairwise(at), strict=True)}


def _one(source: str | None, how: dict[str, Any]) -> dict[str, float]:
    """Seconds of one process, from its start to its end."""
    begin = time.perf_counter()
    with _start(source, how, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        times = _times(process.stdout.readline(), process)
        process.wait()
    return {"process": time.perf_counter() - begin, **times}


@contextlib.contextmanager
def _several(source: str | None, how: dict[str, Any], count: int) -> Iterator[list[int]]:
    """Ids of processes that have all generated their first token and wait."""
    processes = [_start(source, how, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            _times(process.stdout.readline(), process)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            # This closes its input, at which it ends.
            process.communicate()


def memory_of(pids: Sequence[int]) -> dict[str, int]:
    """The memory of processes, in bytes.

    Returns
    -------
    dict
        ``count`` of the processes; the memory they use ``together``, shared pages once (the sum of their
        proportional set sizes); and the largest ``resident`` memory of one, and its
        ``private`` part, which it does not share.

    Raises
    ------
    OSError
        The process does not exist, or the system has no /proc/PID/smaps_rollup.
    """
    found = {"count": len(pids), "together": 0, "resident": 0, "private": 0}
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
        found["together"] += 1024 * kib["Pss"]
        found["resident"] = max(found["resident"], 1024 * kib["Rss"])
        private = kib["Private_Clean"] + kib["Private_Dirty"]
        found["private"] = max(found["private"], 1024 * private)
    return found


def load(source: str | None, **how: Any) -> dict[str, Any]:
    """Measure new processes that load a model and continue a text by one token.

    Parameters
    ----------
    source : str, optional
        A local model, as for ``GPT2.from_pretrained``.
    **how
        Its other arguments: dtype, threads, backend.

    Returns
    -------
    dict
        ``cached`` and ``uncached``: the part of the model's files that was in the page cache
        (``cached_share``, the worst round's; None: the system cannot tell), and in seconds ``process`` (from
        start to end) and its parts ``import numpy``, ``import gpt2c`` (beyond NumPy), ``load`` and ``first
        token``, each with ``median``, ``low`` and ``high``. The system is asked to drop the files before
        every uncached process; it cannot drop the cache of a disk or of a virtual machine.
        ``processes``: the memory of 4 of them at once (`memory_of`). Missing where the system has no
        /proc/PID/smaps_rollup.
    """
    paths = files_of(source)
    rounds: dict[str, list[dict[str, float]]] = {"cached": [], "uncached": []}
    shares: dict[str, list[float | None]] = {"cached": [], "uncached": []}
    _read(paths)
    # The first process reads and compiles Python's own files.
    _one(source, how)
    for _ in range(ROUNDS):
        for state, prepare in (("uncached", _drop), ("cached", _read)):
            prepare(paths)
            shares[state].append(cached_share(paths))
            rounds[state].append(_one(source, how))
    found: dict[str, Any] = {"files": sum(path.stat().st_size for path in paths)}
    for (state, times), worst in zip(rounds.items(), (min, max), strict=True):
        known = [share for share in shares[state] if share is not None]
        found[state] = {"cached_share": worst(known) if known else None} | {
            step: median_and_spread([of[step] for of in times]) for step in times[0]
        }
    with contextlib.suppress(FileNotFoundError, PermissionError), _several(source, how, PROCESSES) as pids:
        found["processes"] = memory_of(pids)
    return found
