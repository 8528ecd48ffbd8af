"""The reference of the API: it names every public name, and the examples in docstrings are true.

``python tests/test_api.py`` writes into the docstrings what their examples print now; check the difference
before you commit it. (Pages with examples of their own: test_docs.py.)
"""

import asyncio
import contextlib
import inspect
import json
import os
import re
import shutil
import tempfile
import textwrap
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.examples import python
from helpers.tiny_checkpoints import safetensors_bytes

import gpt2c
import gpt2c.integrations.ray
from gpt2c import BERT, GPT2, Deadline, EncoderDecoder, WatermarkingConfig, edits

ROOT = Path(__file__).resolve().parent.parent
HEADS = ROOT / "tests/data/heads"
PUBLIC = sorted({*gpt2c.__all__} - {"__version__", "edits"})
EXAMPLES = re.compile(r"^Examples\n--------\n(.*)\Z", re.MULTILINE | re.DOTALL)
# For other modules of gpt2c; the pages leave them out.
INTERNAL = {
    *("LoadedModel.check_language_model", "LoadedModel.encode_text", "LoadedModel.is_written_out"),
    *("Session.begin", "Session.following", "Session.keep", "Session.rows", "Session.unfinished"),
}


def public():
    """Public classes, functions and methods, by their qualified names."""
    of_ray = [getattr(gpt2c.integrations.ray, name) for name in gpt2c.integrations.ray.__all__]
    of_edits = [getattr(edits, name) for name in edits.__all__ if name != "Edit"]
    found = {}
    for value in [*(getattr(gpt2c, name) for name in PUBLIC), *of_ray, *of_edits]:
        if value is gpt2c.KVCache:  # compiled; docs/api/configuration.md has its example
            continue
        found[value.__qualname__] = value
        for name in dir(value) if isinstance(value, type) else ():
            method = getattr(value, name)
            if inspect.isroutine(method) and not name.startswith("_") and is_own(method):
                found[method.__qualname__] = method
    return {name: value for name, value in found.items() if name not in INTERNAL}


def is_own(method):
    of_gpt2c = (getattr(method, "__module__", None) or "").startswith("gpt2c.")
    return of_gpt2c and hasattr(method, "__qualname__")  # a cached property is a routine from 3.13 on


def examples(value):
    """The examples in the docstring of a name; an empty string if it has none."""
    found = EXAMPLES.search(inspect.getdoc(value) or "")
    return found[1].rstrip() + "\n" if found else ""


@contextlib.contextmanager
def names(model):
    """The names that examples use (docs/api/index.md), in an empty folder."""
    one_thread = mock.patch.dict(os.environ, OMP_NUM_THREADS="1")
    folder = tempfile.TemporaryDirectory()
    with one_thread, folder, contextlib.chdir(folder.name), model.scheduler() as scheduler:
        yield {
            **{"asyncio": asyncio, "gpt2c": gpt2c, "np": np, "BERT": BERT, "GPT2": GPT2, "edits": edits},
            **{"Deadline": Deadline, "EncoderDecoder": EncoderDecoder, "model": model},
            **{"WatermarkingConfig": WatermarkingConfig, "scheduler": scheduler},
            "bert": BERT.from_pretrained(),
            "dates": EncoderDecoder.from_pretrained("dates"),
            "classifier": with_head("single"),
            "tagger": with_head("tokens"),
            "chooser": with_head("choice"),
        }


def with_head(case):
    """A very small GPT-2 with a head and random weights."""
    told = json.loads((HEADS / "heads.json").read_text())["cases"][case]
    tensors = dict(np.load(HEADS / "tensors.npz"))
    stored = {f"transformer.{name}": array for name, array in tensors.items() if "/" not in name}
    stored |= {name.split("/")[1]: array for name, array in tensors.items() if name.startswith(f"{case}/")}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(told["config"]))
        Path(folder, "model.safetensors").write_bytes(safetensors_bytes(stored))
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(HEADS / file, folder)
        return GPT2.from_pretrained(folder)


@pytest.fixture(scope="module")
def session(bundled):
    if bundled.backend != "native":
        pytest.skip("that numbers are equal bit for bit is promised by the native back end alone")
    with names(bundled) as found:
        yield found


@pytest.mark.parametrize("name", public())
def test_every_public_name_has_an_example_that_prints_what_it_shows(name, session):
    if name == "Displayed.plot":
        pytest.importorskip("matplotlib")
    shown = examples(public()[name])
    assert shown.startswith(">>> ")
    assert python(shown, dict(session)) == shown


def test_every_public_property_has_a_docstring():
    for value in (getattr(gpt2c, name) for name in PUBLIC if name != "KVCache"):
        for name, member in inspect.getmembers(value, lambda member: isinstance(member, property)):
            assert name.startswith("_") or inspect.getdoc(member), (value, name)


def test_the_pages_of_the_reference_name_every_public_name():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    named = set(re.findall(r"^::: gpt2c\.(\S+)$", pages, re.MULTILINE))
    others = {f"edits.{name}" for name in edits.__all__}
    for module in ("ray", "lm_eval"):
        lines = (ROOT / f"gpt2c/{module}.py").read_text(encoding="utf-8")
        others |= {f"{module}.{name}" for name in re.findall(r"import (\w+) as \1", lines)}
    assert len(others) == 10
    assert ({*PUBLIC} | others) - named == set()


def test_the_index_of_the_reference_names_every_public_name():
    index = (ROOT / "docs/api/index.md").read_text(encoding="utf-8")
    pages = {name for name in PUBLIC if f"`{name}`" not in index and f"[{name}]" not in index}
    assert pages <= {name for name in PUBLIC if name.endswith("Error")}


def test_every_page_is_in_the_navigation_of_the_site():
    listed = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert {str(page.relative_to(ROOT)) for page in pages} - listed == set()


def rewrite(value, answer):
    """Replace the examples in the docstring of a name by others."""
    path = Path(inspect.getsourcefile(inspect.unwrap(value)))
    text = path.read_text(encoding="utf-8")
    for indent in (" " * 4, " " * 8):
        shown = textwrap.indent(examples(value), indent)
        if text.count(f"--------\n{shown}") == 1:
            text = text.replace(f"--------\n{shown}", f"--------\n{textwrap.indent(answer, indent)}")
            path.write_text(text, encoding="utf-8")
            return
    raise SystemExit(f"the examples of {value.__qualname__} are not once in {path}")


if __name__ == "__main__":
    with names(GPT2.from_pretrained(threads=1)) as found:
        for value in public().values():
            if shown := examples(value):
                rewrite(value, python(shown, dict(found)))
