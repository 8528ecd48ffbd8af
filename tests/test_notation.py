"""Edits written as words, and what the command line does with them."""

import json
import math

import numpy as np
import pytest
from helpers.command_line import run
from helpers.toys import same

from gpt2c import edits
from gpt2c.introspection.edits import described
from gpt2c.introspection.hooks import Hook
from gpt2c.introspection.notation import parse_edit

TEXT = "The princess was sad because"
SILENT = "blocks.3.attn.hook_z:zero:heads=2"


def logits(model, edit):
    return model.run_with_cache(TEXT, "hook_embed", edits=[edit])[0]


@pytest.mark.parametrize(
    ("words", "name", "edit"),
    [
        (SILENT, "blocks.3.attn.hook_z", edits.zero(heads=2)),
        ("z:zero", "*.attn.hook_z", edits.zero()),
        ("blocks.2.z:zero:heads=1,3:positions=0-2", "blocks.2.attn.hook_z",
         edits.zero(heads=[1, 3], positions=[0, 1, 2])),
        ("blocks.[0-3].mlp.hook_post:scale=-0.5:units=0-2,7", "blocks.[0-3].mlp.hook_post",
         edits.scale(-0.5, units=[0, 1, 2, 7])),
        ("blocks.2.hook_resid_pre:add=2e-1:positions=3-", "blocks.2.hook_resid_pre",
         edits.add(0.2, positions=[3, 4])),
        ("pattern:scale=2:heads=0-0", "*.hook_pattern", edits.scale(2, heads=0)),
    ],
)  # fmt: skip
def test_words_are_the_edits_of_python(bundled, words, name, edit):
    found = logits(bundled, parse_edit(words))
    assert same(found, logits(bundled, (name, edit)))
    assert not same(found, bundled.forward(bundled.tokenizer.encode(TEXT)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the NAME is missing"),
        ("z", "the EDIT is missing"),
        (":zero", "the NAME is missing"),
        ("z:nought", "'nought' is not an edit"),
        ("z:zero=1", "'zero=1' is not an edit"),
        ("z:zero=", "'zero=' is not an edit"),
        ("z:mean", "'mean' is not an edit"),
        ("z:scale", "scale needs a number, not ''"),
        ("z:add=one", "add needs a number, not 'one'"),
        ("z:add=nan", "add needs a number, not 'nan'"),
        ("z:scale=inf", "scale needs a number, not 'inf'"),
        ("z:zero:layers=1", "'layers=1' is unknown"),
        ("z:zero:1", "'1' is unknown"),
        ("z:scale=1_0", "scale needs a number, not '1_0'"),
        ("z:add= 2 ", "add needs a number, not ' 2 '"),
        ("z:add=\u0661", "add needs a number, not '\u0661'"),
        ("z:scale=.", "scale needs a number, not '.'"),
        ("z:scale=1e39", "scale needs a number from -3.4e38 to 3.4e38, not '1e39'"),
        ("z:add=-1e39", "add needs a number from -3.4e38 to 3.4e38, not '-1e39'"),
        ("z:add=1e999", "add needs a number from -3.4e38 to 3.4e38, not '1e999'"),
        ("z:zero:", "there is an empty part after 'zero:'"),
        ("z:zero::heads=1", "there is an empty part after 'zero:'"),
        ("z:zero:heads=1:", "there is an empty part after 'heads=1:'"),
        ("z:", "the EDIT is missing"),
        ("z:zero:heads", "heads needs a value"),
        ("z:zero:heads=", "heads needs a value"),
        ("z:zero:heads=1:heads=2", "heads is given twice"),
        *((f"z:zero:heads={choice}", f"heads must not be {choice!r}")
          for choice in ("-1", "1,", "2-1", "a", "1-2-3", "1,5-", "1234567", "0-1234567", "\u0661")),
    ],
)  # fmt: skip
def test_words_that_are_refused_say_what_is_allowed(words, message):
    with pytest.raises(ValueError) as caught:
        parse_edit(words)
    assert message in str(caught.value)
    assert "EDIT is zero, scale=X or add=X" in str(caught.value) and "0-5 (5 included)" in str(caught.value)


def silence(z, hook):
    z[:] = 0


@pytest.mark.parametrize(
    ("written", "number"), [("+1.5e0", 1.5), (".5", 0.5), ("2.", 2.0), ("-3.4E38", -3.4e38)]
)
def test_numbers(written, number):
    value = np.full((1, 4), 0.25, np.float32)
    parse_edit(f"x:add={written}")[1](value, Hook("hook_embed", None, range(1)))
    assert (value == np.float32(0.25) + np.float32(number)).all()


def test_edits_say_what_they_do(bundled):
    _, cache = bundled.run_with_cache(TEXT)
    pairs = [
        parse_edit(SILENT),
        ("blocks.*.hook_attn_out", edits.zero(positions=[4])),
        (("z", 3), edits.scale(0.5, heads=range(1, 4), positions=slice(7, None))),
        ("blocks.2.resid_pre", edits.add(np.ones(256), positions=np.array([0, 2]))),
        ("hook_embed", edits.add(2)),
        ("blocks.0.attn.hook_z", edits.mean(cache, cache)),
        ("blocks.0.attn.hook_z", edits.replace(cache, units=(1, 2))),
        ("blocks.0.attn.hook_z", edits.replace(cache["z", 0])),
        ("blocks.0.attn.hook_z", silence),
    ]
    assert described(bundled.config, pairs) == [
        "blocks.3.attn.hook_z: zero, heads 2",
        "blocks.*.hook_attn_out (6 values): zero, positions 4",
        "blocks.3.attn.hook_z: scale 0.5, positions from 7 on, heads 1 to 3",
        "blocks.2.hook_resid_pre: add an array [256], positions 0, 2",
        "hook_embed: add 2",
        "blocks.0.attn.hook_z: mean of 2 texts",
        "blocks.0.attn.hook_z: replace by its value in another run, units 1, 2",
        "blocks.0.attn.hook_z: replace by an array",
        "blocks.0.attn.hook_z: silence",
    ]


# ---- on the command line


def test_suggest(bundled):
    plain, edited = (
        json.loads(run("suggest", TEXT, "-k", 3, "--json", *options).stdout)["suggestions"]
        for options in ((), ("--edit", SILENT, "--edit", "blocks.1.z:scale=0.5"))
    )
    both = [("blocks.3.attn.hook_z", edits.zero(heads=2)), ("blocks.1.attn.hook_z", edits.scale(0.5))]
    expected = [one.token_id for one in bundled.suggest(TEXT, 3, edits=both)]
    assert [one["token_id"] for one in edited] == expected
    assert [one["probability"] for one in edited] != [one["probability"] for one in plain]


def test_score(bundled):
    told = json.loads(run("score", TEXT, "--json", "--edit", SILENT).stdout)
    expected = bundled.score(TEXT, edits=[("blocks.3.attn.hook_z", edits.zero(heads=2))])
    assert told["logprob"] == pytest.approx(expected.logprob, abs=1e-9)
    assert not math.isclose(told["logprob"], bundled.score(TEXT).logprob)


def test_generate(bundled):
    silent = "blocks.*.hook_attn_out:zero"
    done = run("generate", TEXT, "--temperature", 0, "-n", 8, "--no-prompt", "--edit", silent)
    expected = bundled.generate(TEXT, max_new_tokens=8, edits=[("blocks.*.hook_attn_out", edits.zero())])
    assert done.stdout == expected.text + "\n"
    assert expected.text != bundled.generate(TEXT, max_new_tokens=8).text


@pytest.mark.parametrize("command", ["score", "suggest", "generate"])
def test_bad_words_are_refused_before_anything_is_loaded(command):
    done = run(command, TEXT, "-m", "no/such/model", "--edit", "z:nought")
    assert done.returncode == 2 and done.stdout == ""
    assert "argument --edit: in the edit 'z:nought' 'nought' is not an edit; an edit is" in done.stderr


def test_a_place_that_the_model_does_not_have():
    for words, message in (
        (
            "blocks.3.attn.hook_zz:zero",
            "this model has no value called 'blocks.3.attn.hook_zz'; did you mean",
        ),
        ("blocks.3.attn.hook_z:zero:heads=4", "heads of blocks.3.attn.hook_z must be from 0 to 3, not 4"),
        ("z:zero:heads=9-", "heads of blocks.0.attn.hook_z must be from 0 to 3, not 9"),
        ("z:zero:positions=900-", "positions of blocks.0.attn.hook_z must be from 0 to 5, not 900"),
        ("blocks.3.hook_attn_out:zero:heads=0", "blocks.3.hook_attn_out has no heads"),
    ):
        done = run("score", TEXT, "--edit", words)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["ln_final.hook_scale:zero", "ln1.scale:zero", "resid_pre:scale=1e30"])
@pytest.mark.parametrize("command", ["score", "suggest", "explain"])
def test_edits_after_which_there_are_no_probabilities(command, words):
    done = run(command, TEXT, "--edit", words)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        "error: the edits make logits infinite or NaN" in done.stderr and len(done.stderr.splitlines()) == 1
    )


def test_files_of_texts_take_no_edits(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    done = run("score", tmp_path / "a.txt", "-o", tmp_path / "out", "--edit", SILENT)
    assert done.returncode == 1 and "--edit is for a single text" in done.stderr
