"""Memory that a server has freed goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import mmap
import sys
import numpy as np
from gpt2c.cli.serve import return_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * mmap.PAGESIZE

if sys.argv[1] == "with":
    return_memory()
np.ones(1 << 21, np.float32)  # glibc notes that blocks of up to 8 MiB come and go
large, small = [], []
for _ in range(50):
    large.append(np.ones(1 << 20, np.float32))
    small.append(bytearray(100_000))
before = resident()
del large
print(before - resident() >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_blocks_of_a_mebibyte_go_back_to_the_system():
    freed = {}
    for how in ("with", "without"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        freed[how] = int(done.stdout)
    assert freed["with"] >= 199
    assert freed["without"] < 50, "glibc gives it back by itself: what is this for?"
