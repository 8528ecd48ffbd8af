"""The C core built with a sanitizer, in a copy of the tree, and Python processes that use it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from gpt2c.core import _engine

__all__ = ["Process", "build", "environment"]

ROOT = Path(__file__).resolve().parents[2]
FLAGS = {  # "undefined" leaves out conversions of floats that the integer type cannot hold
    "address": "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
EXACT = "libexact.so"
LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # What is not initialised is NaN. CPython leaves memory to the system when it ends: leaks are not counted.
    "ASAN_OPTIONS": "detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",  # nothing is suppressed
    "PYTHONMALLOC": "malloc",
    "GPT2C_TEAM": "pool",
}
# (file, pattern, replacement): only the extension that contains the C core is built, others are as they are;
# buffers lack the room to align them in, where helpers/exact.c aligns all memory.
ONE_EXTENSION = ("setup.py", r"^EXTENSIONS = .*", 'EXTENSIONS = ["_kernels"]')
NO_ROOM = ("gpt2c/core/_kernels.pyx", r"np\.empty\(size \+ 64, np\.uint8\)", "np.empty(size, np.uint8)")
CHANGES = {"address": [ONE_EXTENSION, NO_ROOM], "thread": [ONE_EXTENSION]}


def build(folder: Path, kind: str) -> None:
    """Copy the tree into a folder and build the core there, for the instruction sets of this CPU."""
    left_out = (".*", "__pycache__", "build", "dist", "docs", "bench", "site", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*left_out))
    for name, pattern, replacement in CHANGES[kind]:
        text, found = re.subn(pattern, replacement, (folder / name).read_text(), flags=re.MULTILINE)
        if found != 1:
            raise SystemExit(f"{name} has {found} places that look like {pattern}; needed: one")
        (folder / name).write_text(text)
    for source in (folder / "src").glob("kernels_*.c"):
        isa = source.stem.removeprefix("kernels_")
        if isa not in _engine.isas():
            table = f"const gpt2c_kernels gpt2c_kernels_{isa}"
            source.write_text(f'#include "gpt2c.h"\nextern {table};\n{table} = {{.name = "{isa}"}};\n')
    cc = folder / "cc"  # a script: what it appends wins over the flags of setup.py
    cc.write_text(f'#!/bin/sh\nexec gcc "$@" -O1 -g1 -fno-omit-frame-pointer {FLAGS[kind]}\n')
    cc.chmod(0o755)
    environ = os.environ | {"CC": str(cc), "GPT2C_NO_OPENMP": "1", "GPT2C_WERROR": ""}
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], folder, environ)
    if kind == "address":
        headers = [f"-I{np.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
        source = Path(__file__).with_name("exact.c")
        run(["gcc", "-O1", "-shared", "-fPIC", *headers, source, "-o", EXACT], folder, environ)


def run(command, folder, environ) -> None:
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"does not build:\n{done.stderr[-3000:]}")


def environment(folder: Path = ROOT, kind: str = "") -> dict[str, str]:
    """The variables with which a Python process uses the package, and these tests, in a folder."""
    paths = {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tests'}", "OMP_NUM_THREADS": "1"}
    if not kind:
        return os.environ | paths
    library = subprocess.check_output(["gcc", f"-print-file-name={LIBRARIES[kind]}"], text=True).strip()
    exact = {"EXACT_MEMORY": str(folder / EXACT)} if kind == "address" else {}
    return os.environ | paths | OPTIONS | exact | {"LD_PRELOAD": library}


class Process:
    """A Python process that makes calls by number (`python -m helpers.NAME`); if it dies, a new one."""

    def __init__(self, module: str, environ: dict[str, str]):
        self.command = [sys.executable, "-P", "-m", f"helpers.{module}"]
        self.environ = environ
        self.process: subprocess.Popen[str] | None = None
        self.report = ""

    def begin(self, seed: int, number: int) -> None:
        """Have it make a call."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, env=self.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        with contextlib.suppress(BrokenPipeError):  # it died; `end` says so
            self.process.stdin.write(f"{seed} {number}\n")
            self.process.stdin.flush()

    def end(self) -> str | None:
        """What the call gave, as a digest; None if the process died: then ``report`` says why."""
        answer = self.process.stdout.readline().strip()
        if not answer:
            self.close()
        return answer or None

    def close(self) -> None:
        """End the process."""
        if self.process is None:
            return
        _, errors = self.process.communicate(timeout=60)
        self.report = f"status {self.process.returncode}\n{errors}"
        self.process = None
