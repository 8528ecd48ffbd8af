"""The Tab key: what a shell that asks is offered."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers.command_line import TIMEOUT, environment

argcomplete = pytest.importorskip("argcomplete")

COMMANDS = [
    "generate",
    "suggest",
    "score",
    "fill",
    "embed",
    "classify",
    "explain",
    "info",
    "convert",
    "export",
    "serve",
    "bench",
]
DTYPES = ["float32", "bfloat16", "int8", "int4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.jsonl", "model.gpt2c", "two words.txt"):
        (folder / name).touch()
    (folder / "bin").mkdir()
    command = folder / "bin" / "gpt2c"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gpt2c "$@"\n')
    command.chmod(0o755)
    return folder


ASK = """
eval "$SHELLCODE"
COMP_LINE=$LINE COMP_POINT=${#LINE} COMP_TYPE=9 COMP_KEY=9 COMP_WORDS=($LINE)
_python_argcomplete gpt2c
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(line, folder):
    """What Tab at the end of a line offers in bash."""
    settings = environment(
        PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        SHELLCODE=argcomplete.shellcode(["gpt2c"], shell="bash"),
        LINE=line,
    )
    done = subprocess.run(
        ["bash", "-c", ASK], cwd=folder, env=settings, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.stderr == ""
    return [word.rstrip() for word in done.stdout.splitlines() if word]


ALL_FILES = ["a.jsonl", "bin/", "model.gpt2c", "two words.txt"]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpt2c ", COMMANDS),
        ("gpt2c s", ["suggest", "score", "serve"]),
        ("gpt2c ex", ["explain", "export"]),
        ("gpt2c score --dtype ", [*DTYPES, "auto"]),
        ("gpt2c info --dtype ", DTYPES),
        ("gpt2c score --on-error ", ["stop", "null", "skip"]),
        ("gpt2c score --on-error n", ["null"]),
        ("gpt2c generate --early-stopping ", ["false", "true", "never"]),
        ("gpt2c generate --overflow t", ["truncate_left"]),
        ("gpt2c score --max-l", ["--max-loss"]),
        ("gpt2c bench --rec", ["--recommend"]),
        ("gpt2c bench ", ["load", "roofline", "kernels", "model"]),
        ("gpt2c bench load --shape ", ["124M", "355M", "774M", "1558M", "starcoderbase-1b"]),
        ("gpt2c export b", ["bin/"]),
        ("gpt2c score ", ALL_FILES),
        ("gpt2c info m", ["model.gpt2c"]),
        ("gpt2c info -m ", ALL_FILES),
        ("gpt2c score -f ", ALL_FILES),
        ("gpt2c serve --api-key-file ", ALL_FILES),
        ("gpt2c score a.jsonl -o b", ["bin/"]),
        ("gpt2c convert m", ["model.gpt2c"]),
        ("gpt2c generate ", ALL_FILES),
        ("gpt2c suggest ", []),  # a text
        ("gpt2c generate --seed ", []),
    ],
)
def test_tab(line, expected, folder):
    found = offered(line, folder)
    assert sorted(word.replace("\\", "") for word in found) == sorted(expected)


def test_a_shell_that_asks_another_python_gets_nothing():
    code = "import sys; sys.modules['argcomplete'] = None; from gpt2c.cli import main; sys.exit(main([]))"
    settings = environment(_ARGCOMPLETE="1", COMP_LINE="gpt2c ", COMP_POINT="6")
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_who_does_not_ask_imports_nothing():
    code = (
        "import sys; from gpt2c.cli import main; main(['--version']); "
        "print([name for name in sys.modules if 'complet' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.stdout.splitlines()[-1] == "[]"
