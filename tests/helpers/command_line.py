"""The command in a process of its own, for the tests."""

from __future__ import annotations

import os
import subprocess
import sys

TIMEOUT = 60


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PYTHONIOENCODING")}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def command(*arguments):
    return [sys.executable, "-m", "gpt2c", *map(str, arguments)]


def run(*arguments, stdin=b"", env=None, **settings):
    """Run the command; stdout and stderr as text, decoded strictly."""
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        env=environment(**(env or {})),
        **settings,
    )
    done.stdout, done.stderr = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    return done


GREEDY = ("--temperature", "0", "-n", "8")
