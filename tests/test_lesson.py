"""The lesson is true: its cells run, in order, and give what the notebook shows.

``python tests/test_lesson.py`` writes into the notebook what its cells give now; look at it before you
believe it.
"""

import base64
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import notebooks

LESSON = Path(__file__).resolve().parent.parent / "docs/lesson.ipynb"


def executed(notebook):
    with mock.patch.dict("os.environ", OMP_NUM_THREADS="1"), np.printoptions():
        return notebooks.executed(notebook)


def test_the_cells_of_the_lesson_give_what_it_shows(bundled):
    if bundled.backend != "native":
        pytest.skip("that numbers are equal bit for bit is promised by the native back end alone")
    shown = notebooks.read(LESSON)
    found = executed(shown)
    for number, (old, new) in enumerate(zip(shown["cells"], found["cells"], strict=True)):
        assert without_pixels(new) == without_pixels(old), f"cell {number}"


def without_pixels(cell):
    """A cell with a mark in place of each picture, whose pixels depend on fonts and versions."""
    outputs = cell.get("outputs", [])
    return cell | {"outputs": ["a picture" if picture(output) else output for output in outputs]}


def picture(output):
    """The picture of an output as base64; None if it has none."""
    return output.get("data", {}).get("image/png")


def test_the_lesson_is_stored_with_a_picture_wherever_one_is_drawn():
    outputs = [output for cell in notebooks.read(LESSON)["cells"] for output in cell.get("outputs", ())]
    drawn = [base64.b64decode(picture(output)) for output in outputs if picture(output)]
    assert len(drawn) == 6
    assert all(image.startswith(b"\x89PNG") and len(image) > 5000 for image in drawn)


def test_the_lesson_is_a_notebook_of_version_4_5():
    lesson = notebooks.read(LESSON)
    assert (lesson["nbformat"], lesson["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in lesson["cells"]]
    assert len(set(names)) == len(names)


if __name__ == "__main__":
    notebooks.write(LESSON, executed(notebooks.read(LESSON)))
