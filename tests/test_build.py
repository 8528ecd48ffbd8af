"""setup.py on machines that lack something: the message says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("Cython")

ROOT = Path(__file__).resolve().parents[1]


def build(folder, compiler):
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "-b", folder / "built", "-t", folder / "objects"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CC": str(compiler)},
    )


def test_without_a_compiler_the_message_names_the_packages(tmp_path):
    done = build(tmp_path, "no-such-compiler")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "no-such-compiler" in last and "apt install gcc python3-dev" in last
    assert "OpenMP" not in done.stdout + done.stderr


def test_without_the_headers_of_python_the_message_names_the_packages(tmp_path):
    compiler = tmp_path / "cc"  # one that finds no Python.h, and can do all else
    compiler.write_text(
        "#!/bin/sh\n"
        'for word; do case "$word" in *.c) if grep -q "Python.h" "$word"; then '
        'echo "fatal error: Python.h: No such file or directory" >&2; exit 1; fi;; esac; done\n'
        'exec cc "$@"\n'
    )
    compiler.chmod(0o755)
    done = build(tmp_path, compiler)
    assert done.returncode == 1
    assert "apt install gcc python3-dev" in done.stderr.strip().splitlines()[-1]
