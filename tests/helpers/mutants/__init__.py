"""What the gate `mutations.py` breaks, a line each: in the C core, and in Cython and Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from .core import CORE, ISA, QUICK
from .package import PACKAGE

__all__ = ["MUTANTS", "Mutant"]

CORE_TESTS = "kernels formats engine cache introspect edits hidden engine_bert introspect_bert"


class Mutant(NamedTuple):
    """A text of a file and its replacement, which one of the tests must notice."""

    what: str
    """The subject, a colon, the mistake."""
    file: str
    text: str
    """Where the formatter breaks its lines does not matter."""
    replacement: str
    tests: tuple[str, ...]

    def place(self, root: Path) -> re.Match | None:
        """Where its text is in a tree."""
        words = re.findall(r"\w+|[^\w\s]", self.text)
        return re.search(r"\s*".join(map(re.escape, words)), (root / self.file).read_text())

    @property
    def subject(self) -> str:
        return self.what.partition(":")[0]

    @property
    def isa(self) -> str | None:
        """The instruction set whose code alone it changes."""
        if self.subject == "amx":
            return "amx"
        return ISA.get(self.what, "avx512" if "_mm512" in self.text else None)

    @property
    def is_compiled(self) -> bool:
        return not self.file.endswith(".py")

    @property
    def is_quick(self) -> bool:
        """Whether it takes seconds: one file to compile, and tests of its own."""
        return self.tests != selected(CORE_TESTS)


def selected(tests: str) -> tuple[str, ...]:
    """The arguments of pytest for "engine cache: steps prefix": files, and words in the names of tests."""
    names, _, words = tests.partition(":")
    found = tuple(f"tests/test_{name}.py" for name in names.split())
    return (*found, "-k", " or ".join(words.split())) if words else found


MUTANTS = [
    *(
        Mutant(what, f"src/{file}", old, new, selected(QUICK.get(what, CORE_TESTS)))
        for what, file, old, new in CORE
    ),
    *(Mutant(what, f"gpt2c/{file}", old, new, selected(tests)) for what, file, old, new, tests in PACKAGE),
]
