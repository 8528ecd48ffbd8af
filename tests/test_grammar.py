"""Grammars of llguidance, by the example of docs/json_schema.py: what is drawn is JSON of the schema."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import llguidance
import pytest

PATH = Path(__file__).parents[1] / "docs" / "json_schema.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("json_schema", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "seed": 1, "num_return_sequences": 6},
        {"num_beams": 3, "num_return_sequences": 3},
        {},
    ],
)
def test_only_json_of_the_schema_is_written(bundled, example, options):
    compact = {"whitespace_flexible": False}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(example.SCHEMA), defaults=compact)
    mask = example.bitmask_of(bundled, grammar)
    found = bundled.generate(["The king was "], max_new_tokens=90, token_bitmask=mask, **options)
    assert {result.finish_reason for result in found} == {"eos"}
    for result in found:
        value = json.loads(result.text)
        assert list(value) == ["name", "age", "kind", "brave"]
        assert isinstance(value["name"], str) and len(value["name"]) <= 12
        assert type(value["age"]) is int and 1 <= value["age"] <= 99
        assert value["kind"] in ("king", "queen", "miller") and type(value["brave"]) is bool


def test_without_the_grammar_it_would_not(bundled):
    with pytest.raises(json.JSONDecodeError):
        json.loads(bundled.generate("The king was ", max_new_tokens=90).text)


def test_the_example_runs(example, capsys):
    example.sys.argv = [str(PATH)]
    example.main()
    printed = capsys.readouterr().out
    assert printed.count("'kind'") == 4
    page = PATH.with_name("generation.md").read_text(encoding="utf-8")
    assert f"$ python docs/json_schema.py\n{printed}```" in page
