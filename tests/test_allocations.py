"""Every allocation of a call fails once, NumPy's small buffers included: an error, and never a signal."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import environment
from helpers.faults import compile_library, compiler

HERE = Path(__file__).parent
# Python and NumPy may raise a SystemError of their own for want of memory.
PROGRAM = """
import contextlib, os, sys
sys.path.insert(0, {here!r})
from helpers.faults import ALLOCATIONS, Faults
from gpt2c import GPT2

model = GPT2.from_pretrained(threads=1)
session = model.session("The king and the qu")

def words():
    for text in ("The king and the pri", "The king and the qu"):
        session.text = text
        session.suggest_words(2)

def call():
    {call}

call()
call()
faults = Faults(dict.fromkeys(("tiktoken", "libgomp", "/ld-linux"), 2**63))
with faults.failing(ALLOCATIONS):
    call()
n = faults.n
for k in range(1, n + 1):
    child = os.fork()  # so that nothing freed by an earlier failure is at hand
    if child == 0:
        with contextlib.suppress(MemoryError, SystemError), faults.failing(ALLOCATIONS, k):
            call()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, f"allocation {{k}} of {{n}}"
print(n)
"""


# Reductions of NumPy 1 do not check allocations of their own.
pytestmark = pytest.mark.skipif(np.__version__.startswith("1."), reason="NumPy 1 dies without memory")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if sys.platform != "linux" or shutil.which(compiler()[0]) is None:
        pytest.skip("faults need Linux and a C compiler")
    return compile_library(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    "call",
    [
        "model.suggest('The king', 5)",
        "model.generate('The king', max_new_tokens=2, top_logprobs=3)",
        "model.generate('The king', max_new_tokens=2, repetition_penalty=1.3)",
        "model.score('The king and the queen', words=True)",
        "words()",
    ],
)
def test_a_failed_allocation_is_an_error(library, call):
    program = PROGRAM.format(here=str(HERE), call=call)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(LD_PRELOAD=str(library)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 20
