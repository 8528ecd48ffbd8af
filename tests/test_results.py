"""Results of measurements have one form, and their index and plot are those of the files."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import history  # noqa: E402

NAMES = sorted(path.name for path in history.RESULTS.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("name", NAMES)
def test_a_result_has_the_form_that_the_readme_describes(name):
    run = history.read(history.RESULTS / name)
    assert run.tables or "```" in run.path.read_text(encoding="utf-8")
    for table in run.tables:
        assert {len(row) for row in table.rows} == {len(table.header)}
    for section in re.split(r"^## ", run.path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        if "```" in section:
            assert "Measured by: " in section.partition("```")[0], section[:60]


def test_the_index_is_up_to_date():
    readme = (history.RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"<!-- index -->\n{history.index(history.runs())}\n<!-- end -->" in readme


def test_the_plot_is_up_to_date():
    text = (history.RESULTS / "history.svg").read_text(encoding="utf-8")
    assert history.points(history.runs()) and f"points: {history.digest(history.runs())}" in text


def test_the_plot_has_every_point(tmp_path):
    pytest.importorskip("matplotlib")
    found = history.runs()
    history.draw(found, tmp_path / "history.svg")
    mark = r'<use xlink:href="#m\w+" x="[\d.]+" y="[\d.]+" style="(?:fill|stroke: #000000; stroke-linejoin)'
    marks = re.findall(mark, (tmp_path / "history.svg").read_text(encoding="utf-8"))
    machines = len({run.head["machine"] for run in found})
    assert len(marks) == len(history.points(found)) + len(history.STYLES) + machines  # with the legend


def test_the_ratios_are_those_that_the_result_of_30_november_states():
    # Written by hand, below the table: "prompts 1.32 (float32), 1.02 (bfloat16), 1.42 (int8); ...".
    table = [
        t
        for t in history.read(history.RESULTS / "2026-11-30.md").tables
        if t.header[:2] == ["engine", "prefill"]
    ][-1]
    found = {key: round(value, 2) for key, value in history.ratios(table).items()}
    prompts = {
        ("prompt of 512", fmt): r
        for fmt, r in zip(("float32", "bfloat16", "int8"), (1.32, 1.02, 1.42), strict=True)
    }
    formats = ("float32", "bfloat16", "int8", "int4")
    decoding = {("decoding", fmt): r for fmt, r in zip(formats, (0.94, 1.23, 1.81, 1.26), strict=True)}
    eight = {("8 texts", fmt): r for fmt, r in zip(formats, (0.91, 1.39, 1.60, 1.54), strict=True)}
    assert found.items() >= (prompts | decoding | eight).items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("# 30 November 2026: ", "# "), "the first line must be"),
        (("# 30 November 2026: ", "# 29 November 2026: "), "the name must begin with 2026-11-29"),
        (("| memory |", "| RAM |"), "the first table must have the rows machine"),
        (("Measured by: ", ""), "has a table without"),
    ],
)
def test_a_result_of_another_form_is_refused(tmp_path, change, message):
    text = (history.RESULTS / "2026-11-30.md").read_text(encoding="utf-8")
    path = tmp_path / "2026-11-30.md"
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        history.read(path)
