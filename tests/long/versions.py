"""One wheel with each CPython, and the oldest and newest NumPy allowed: what everyone does, and the tests.

    python tests/long/versions.py [--wheel FILE] [--python PATH …] [--numpy oldest newest]
                                  [--suite] [-- ARGUMENT OF PYTEST …]

The abi3 wheel, built with this Python unless it is given, goes into a new environment for each interpreter
(by default those of INTERPRETERS that are on PATH or among pyenv's) and each NumPy. Far from the sources it
has to import, generate, score, tokenize, save and load, and run as a command. With --suite, the tests of a
copy of the tree have to pass, too, with the oldest or newest pyarrow as well, which takes some ten minutes an
environment on two cores ("-- -n 2").

Prints a line for each environment, with versions; status 1 if anything failed or nothing could be tried.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = ("3.11", "3.12", "3.13")
# The first releases with wheels for an interpreter, where they are newer than the oldest ones allowed.
# (In 2.1.0, np.set_printoptions returns what examples of the documentation would print.)
FIRST = {"3.12": {"numpy": "1.26.0"}, "3.13": {"numpy": "2.1.1", "pyarrow": "18.0.0"}}

SMOKE = """
import subprocess, sys
import numpy as np, gpt2c
from gpt2c import GPT2
assert not gpt2c.__file__.startswith(sys.argv[1]), gpt2c.__file__
model = GPT2.from_pretrained(threads=1)
prompt = "Once upon a time"
found = model.generate(prompt, max_new_tokens=8)
assert found.text.startswith(" there was a man"), found.text
ids = model.tokenizer.encode(prompt)
assert model.tokenizer.decode(ids) == prompt, ids
assert -100 < model.score(prompt).logprob < 0
assert model.suggest(prompt, 1)[0].text == " there"
model.save("model.gpt2c")
again = GPT2.from_pretrained("model.gpt2c", threads=1)
assert again.generate(prompt, max_new_tokens=8).token_ids == found.token_ids
session = model.session(prompt)
assert session.generate(max_new_tokens=8).token_ids == found.token_ids
session.save("text.session")
assert model.open_session("text.session").text == prompt
command = [sys.executable, "-m", "gpt2c", "generate", prompt, "-n", "8", "--temperature", "0"]
said = subprocess.run(command, check=True, capture_output=True, text=True)
assert found.text in said.stdout and not said.stderr, said
print(sys.version.split()[0], np.__version__)
"""


def interpreter(version: str) -> Path | None:
    """A Python of this version, on PATH or among pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for candidate in filter(None, candidates):
        says = [candidate, "-c", "import ssl, sys, venv; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(says, capture_output=True, text=True)
        if done.stdout.strip() == version:
            return Path(candidate)
    return None


def version_of(python: Path) -> str:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    return run([python, "-c", program]).strip()


def oldest(package: str, version: str) -> str:
    """The requirement for the oldest release that pyproject.toml allows and that has wheels."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = " ".join([*project["dependencies"], *project["optional-dependencies"]["parquet"]])
    least = re.search(rf"{package}>=([\d.]+)", requirements)[1]
    return f"{package}=={FIRST.get(version, {}).get(package, least)}"


def run(command, folder=None, **more) -> str:
    """The output of a command; a failure says what it said."""
    alone = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")
    }
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=folder, env=alone | more, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-3000:]
        raise RuntimeError(f"{' '.join(command)[:200]} ended with status {done.returncode}:\n{said}")
    return done.stdout


def built(folder: Path) -> Path:
    """The wheel of the tree, which is copied, so that nothing is left in it."""
    tree = copied(folder / "sources")
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, tree])
    (wheel,) = folder.glob("*.whl")
    return wheel


def copied(folder: Path) -> Path:
    """A copy of the tree without compiled modules."""
    ignored = (".git", ".venv", "__pycache__", ".*_cache", "build", "dist", "site", "*.so", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*ignored))
    return folder


class Environment:
    """An interpreter with the wheel and a NumPy; for the tests a pyarrow of its time."""

    def __init__(self, python: Path, wheel: Path, folder: Path, numpy: str, pyarrow: str):
        self.folder, self.wheel, self.numpy, self.pyarrow = folder, wheel, numpy, pyarrow
        run([python, "-m", "venv", folder / "venv"])
        self.python = folder / "venv" / "bin" / "python"
        self.install(wheel)

    def install(self, *packages):
        options = ["-q", "--disable-pip-version-check", "--prefer-binary", "--no-compile"]
        run([self.python, "-m", "pip", "install", *options, *packages, self.numpy])

    def smoke(self) -> str:
        """The versions, if what everyone does works."""
        return run([self.python, "-c", SMOKE, ROOT], self.folder).strip()

    def suite(self, words) -> str:
        """The last line of the tests, which find the wheel's modules in a copy of the tree."""
        self.install(f"gpt2c[test] @ {self.wheel.as_uri()}", "pytest-xdist", self.pyarrow)
        tree = copied(self.folder / "tree")
        with zipfile.ZipFile(self.wheel) as wheel:
            for name in wheel.namelist():
                if name.startswith(("gpt2c/core/_", "gpt2c.libs/")):
                    wheel.extract(name, tree)
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        command = [self.python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *words]
        return run(command, tree, PYTHONPATH=str(tree), PATH=path).strip().splitlines()[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="default: build one")
    parser.add_argument(
        "--python", nargs="+", type=Path, help="default: those of INTERPRETERS that are found"
    )
    parser.add_argument("--numpy", nargs="+", choices=("oldest", "newest"), default=["oldest", "newest"])
    parser.add_argument("--suite", action="store_true", help="run the tests, too")
    parser.add_argument("words", nargs="*", help="for pytest")
    options = parser.parse_args()
    pythons = options.python or [found for version in INTERPRETERS if (found := interpreter(version))]
    tried = failed = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        wheel = options.wheel.resolve() if options.wheel else built(place)
        for python in pythons:
            version = version_of(python)
            for which in options.numpy:
                tried += 1
                versions = ["numpy", "pyarrow"]
                if which == "oldest":
                    versions = [oldest(package, version) for package in versions]
                since = time.monotonic()
                try:
                    environment = Environment(python, wheel, place / str(tried), *versions)
                    said = environment.smoke()
                    if options.suite:
                        said += f": {environment.suite(options.words)}"
                except RuntimeError as error:
                    failed += 1
                    again = f"--python {python} --numpy {which}{' --suite' * options.suite}"
                    said = f"{error}\n{version}, {which} NumPy failed ({again})"
                print(f"CPython, NumPy {said}; {time.monotonic() - since:.0f} s", flush=True)
                shutil.rmtree(place / str(tried), ignore_errors=True)
    missing = [] if options.python else [version for version in INTERPRETERS if not interpreter(version)]
    print(f"{tried} environments, {failed} failed; {time.monotonic() - begun:.0f} s")
    if missing:
        print(f"not found, and not tried: CPython {', '.join(missing)}")
    return 1 if failed or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
