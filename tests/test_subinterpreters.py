"""In a subinterpreter, importing gpt2c is an error that says what to do; the main one goes on."""

import importlib
import subprocess
import sys

import pytest

HERE = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
"""CPython's own module for them, whose name and functions change."""

KINDS = ("isolated", "legacy")  # with a lock of its own, as far as this Python has that; without

PROGRAM = """
import importlib, sys
interpreters = importlib.import_module(sys.argv[1])
if "first" in sys.argv:
    import gpt2c
    before = gpt2c.GPT2.from_pretrained(threads=1).generate("Once", max_new_tokens=4).text
if hasattr(interpreters, "exec"):
    interpreter, run = interpreters.create(sys.argv[2]), interpreters.exec
else:
    interpreter, run = interpreters.create(isolated=sys.argv[2] == "isolated"), interpreters.run_string
failed = run(interpreter, sys.argv[3])
assert failed is None, failed
interpreters.destroy(interpreter)
import gpt2c
after = gpt2c.GPT2.from_pretrained(threads=1).generate("Once", max_new_tokens=4).text
assert "first" not in sys.argv or after == before
print("the main interpreter goes on")
"""

INSIDE = """
try:
    import {}
except ImportError as error:
    print("ImportError:", error)
else:
    print("imported")
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [["first"], []], ids=["after the main interpreter", "before it"])
@pytest.mark.parametrize("module", ["gpt2c", "gpt2c.core._engine", "gpt2c.config"])
def test_importing_it_is_an_error_that_says_what_to_do(module, first, kind):
    arguments = [HERE.__name__, kind, INSIDE.format(module), *first]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said, rest = done.stdout.splitlines()
    assert said.startswith("ImportError: gpt2c and NumPy work in the main interpreter only")
    assert "this is a subinterpreter" in said and "use threads or processes instead" in said
    assert rest == "the main interpreter goes on"
