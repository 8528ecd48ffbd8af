"""The pages in docs/ are true: what they show as printed is what is printed. (Links: test_links.py.)

``python tests/test_docs.py`` writes into the pages what the examples print now; check the difference before
you commit it.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers import command_line
from helpers.examples import ended, python

from gpt2c.cli.parser import build_parser

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Whole pages of examples.
RUN = (
    "../README.md",
    "api/configuration.md",
    "bert.md",
    "encoder-decoder.md",
    "generation.md",
    "how-gpt2-works.md",
    "introspection.md",
    "scoring.md",
    "tokenizers.md",
)
PLAIN = ("../README.md", "first-steps.md")  # Python to be copied, without what it prints
NEEDED = {"tokenizers.md": "tokenizers"}  # libraries that not everybody installs
TRANSLATED = {"how-gpt2-works.zh.md": "how-gpt2-works.md"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def answered(page):
    """The page with what its examples print: ``>>>`` in one Python session, ``$ gpt2c`` as a process each."""
    session = {"__name__": "__main__"}

    def block(match):
        if match[1] == "python" and match[2].startswith(">>> "):
            return f"```python\n{python(match[2], session)}```"
        if match[2].startswith("$ gpt2c "):
            return f"```{match[1]}\n{commands(match[2])}```"
        return match[0]

    one_thread = mock.patch.dict(os.environ, OMP_NUM_THREADS="1")  # the same numbers, sooner
    with one_thread, contextlib.chdir(DOCS.parent), np.printoptions():  # pages set print options
        return BLOCK.sub(block, page)


def commands(text):
    """A block with what its commands write to stdout."""
    answer = []
    with tempfile.TemporaryDirectory() as folder:  # for what they write
        for line in re.findall(r"^\$ gpt2c .*\n", text, re.MULTILINE):
            done = command_line.run(*shlex.split(line)[2:], cwd=folder)
            assert done.returncode == 0, done.stderr
            answer += [line, ended(done.stdout)]
    return "".join(answer)


@pytest.mark.parametrize("name", RUN)
def test_examples_print_what_the_page_shows(name, bundled):
    if bundled.backend != "native":
        pytest.skip("that numbers are equal bit for bit is promised by the native back end alone")
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    page = read(name)
    assert ">>> " in page or "$ gpt2c " in page
    assert answered(page) == page


@pytest.mark.parametrize("name", PLAIN)
def test_plain_examples_run(name, bundled):
    blocks = [text for language, text in BLOCK.findall(read(name)) if language == "python"]
    session = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            if "OpenAI(" not in block:  # which needs a server: test_clients.py
                exec(compile(block, name, "exec"), session)
    assert len(blocks) > 1 and "from_pretrained" in blocks[0] and printed.getvalue()


@pytest.mark.parametrize("name", TRANSLATED)
def test_translations_have_the_same_examples_sections_and_links(name):
    for parts in (BLOCK.findall, headings_by_level, pictures):
        assert parts(read(name)) == parts(read(TRANSLATED[name]))


def headings(page):
    return re.findall(r"^(#+) (.*)$", BLOCK.sub("", page), re.MULTILINE)


def headings_by_level(page):
    return [level for level, _ in headings(page)]


def pictures(page):
    """The pictures of a page, by their English names."""
    return [name.replace(".zh.", ".") for name in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page)]


@pytest.mark.parametrize("page", [*TRANSLATED, *TRANSLATED.values()])
def test_what_the_table_of_claims_names_as_proof_can_be_run(page, bundled):
    rows = [line for line in read(page).splitlines() if line.startswith("|")][4:]
    named = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    commands = [code for code in named if code.startswith("gpt2c ")]
    values = [code for code in named if code.startswith(("cache", "model"))]
    assert len(rows) > 30 and len(commands) > 8 and len(values) > 8
    for command in commands:
        build_parser().parse_args(shlex.split(command)[1:])  # an error exits
    _, cache = bundled.run_with_cache("The king and the")
    for value in values:
        assert eval(value, {"model": bundled, "cache": cache}) is not None


def script(name):
    """A script that draws pictures, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"pictures/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_picture_of_heads_is_what_its_script_draws_and_the_captions_say():
    drawing, chosen = script("attention_heads").draw()
    assert drawing == read("pictures/attention-heads.svg")
    for page in (*TRANSLATED, *TRANSLATED.values()):
        caption = next(line for line in paragraphs(read(page)) if "attention_heads.py" in line)
        said = re.findall(r"\d\.\d\d", caption)
        assert said[:4] == [f"{score:.2f}" for _, _, score in chosen.values()], page


def test_picture_of_a_pass_is_what_its_script_draws(bundled):
    if bundled.backend != "native":
        pytest.skip("that numbers are equal bit for bit is promised by the native back end alone")
    assert script("one_pass").draw() == read("pictures/one-pass.svg")


def test_pictures_of_the_chinese_page_are_the_english_ones_with_all_words_translated():
    chinese = script("chinese")
    shown = re.findall(r"\(pictures/([\w-]+)\.zh\.svg\)", read("how-gpt2-works.zh.md"))
    assert sorted(shown) == chinese.NAMES
    for name in shown:
        assert chinese.draw(name) == read(f"pictures/{name}.zh.svg")
    with pytest.raises(ValueError, match="no Chinese for 'a new word': add it"):
        chinese.translated("a new word")


def paragraphs(page):
    return [" ".join(part.split()) for part in page.split("\n\n")]


if __name__ == "__main__":
    for name in RUN:
        (DOCS / name).write_text(answered(read(name)), encoding="utf-8")
    for name, original in TRANSLATED.items():
        blocks = iter(BLOCK.finditer(read(original)))
        page = BLOCK.sub(lambda match, blocks=blocks: next(blocks)[0], read(name))
        (DOCS / name).write_text(page, encoding="utf-8")
