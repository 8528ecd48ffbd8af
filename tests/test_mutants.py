"""What the gate of mutations breaks is there, so that a change of the code that moves it shows at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.mutants import MUTANTS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_every_mutation_has_a_place_and_tests(mutant):
    assert mutant.place(ROOT), f"{mutant.text!r} is not in {mutant.file}"
    assert all((ROOT / name).exists() for name in mutant.tests if name.startswith("tests/"))
