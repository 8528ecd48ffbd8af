"""Allocations and writes that fail: `faults.c`, compiled and preloaded into a Python of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path

ALLOCATIONS, WRITES = 1, 2
NEVER = 2**62
LIBRARY = "libfaults.so"


def compiler() -> list[str]:
    """The command of the C compiler."""
    return shlex.split(os.environ.get("CC", "cc"))


def compile_library(folder: Path) -> Path:
    """Compile the library into a folder."""
    library = folder / LIBRARY
    source = Path(__file__).with_suffix(".c")
    subprocess.run(
        [*compiler(), "-O2", "-fPIC", "-shared", source, "-o", library, "-ldl", "-pthread"], check=True
    )
    return library


class Faults:
    """The preloaded library. ``exempt``: libraries, and up to how many bytes their allocations never fail."""

    def __init__(self, exempt):
        self.library = ctypes.CDLL(None)
        self.library.faults_arm.argtypes = [
            ctypes.c_int,
            ctypes.c_long,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self.library.faults_exempt.argtypes = [ctypes.c_size_t] * 3
        self.library.faults_disarm.restype = ctypes.c_long
        self.n = 0
        for line in Path("/proc/self/maps").read_text().splitlines():
            for name, size in exempt.items():
                if name in line:
                    self.library.faults_exempt(*(int(end, 16) for end in line.split()[0].split("-")), size)

    @contextmanager
    def failing(self, what, k=NEVER, *, later_too=False, error=errno.ENOSPC, in_other_threads=False):
        """Allocation or write number k fails, from 1; ``n`` is then how many there were."""
        self.library.faults_arm(what, k, later_too, error, in_other_threads)
        try:
            yield
        finally:
            self.n = self.library.faults_disarm()
