"""Fill-in-the-middle: the prompt is what the tokenizer makes of both texts between the marks."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers.small_tokenizers import FOLDERS, write_files
from helpers.toys import random_gpt2

from gpt2c.tokenizer import load_tokenizer
from gpt2c.views.ansi import shown

SPELLINGS = [[f"<fim{line}{part}>" for part in ("prefix", "suffix", "middle")] for line in "_-"]
BEFORE, AFTER = "the king had", " and he was fond of <fim_middle> the sea"


def made(folder, marks, name="gpt2"):
    files = copy.deepcopy(FOLDERS[name])
    described = files["tokenizer.json"]
    n = files["config.json"]["vocab_size"]
    for index, mark in enumerate(marks, n):
        described["added_tokens"].append(described["added_tokens"][0] | {"id": index, "content": mark})
    write_files(folder, {"tokenizer.json": described})
    end = SimpleNamespace(n_vocab=n + 3, bos_token_id=None, eos_token_ids=())
    tokenizer = load_tokenizer(folder, end)
    return random_gpt2(n_vocab=n + 3, n_ctx=120, tokenizer=tokenizer, bos_token_id=None)[0]


@pytest.fixture
def model(tmp_path):
    return made(tmp_path / "tokenizer", SPELLINGS[0])


@pytest.mark.parametrize("marks", SPELLINGS, ids=["starcoder", "santacoder"])
@pytest.mark.parametrize("after", ["", " and he was fond of the sea"])
def test_both_texts_stand_behind_their_marks(marks, after, tmp_path):
    model = made(tmp_path / "tokenizer", marks)
    written = f"{marks[0]}{BEFORE}{marks[1]}{after}{marks[2]}"
    ids = model.tokenizer.encode(written, True)
    found = model.generate(BEFORE, suffix=after, max_new_tokens=6)
    assert found.prompt_token_ids == ids
    expected = model.generate(ids, max_new_tokens=6)
    assert (found.token_ids, found.text, found.logprobs) == (
        expected.token_ids,
        expected.text,
        expected.logprobs,
    )
    own = model.tokenizer.encode(BEFORE)
    assert model.generate(own, suffix=after, max_new_tokens=6).prompt_token_ids == ids


def test_what_looks_like_a_mark_is_text(model):
    mark = model.tokenizer.special_tokens["<fim_middle>"]
    assert model.generate(BEFORE, suffix=AFTER, max_new_tokens=1).prompt_token_ids.count(mark) == 1
    found = model.generate(BEFORE, suffix=AFTER, max_new_tokens=1, special=True)
    assert found.prompt_token_ids.count(mark) == 2


def test_everything_that_generates_takes_it(model):
    how = {"suffix": AFTER, "max_new_tokens": 5}
    expected = model.generate(BEFORE, **how)
    with model.stream(BEFORE, **how) as stream:
        assert "".join(stream) == expected.text
    assert model.session(BEFORE).generate(**how).token_ids == expected.token_ids
    several = model.generate([BEFORE, "the old horse"], num_beams=1, **how)
    assert several[0].token_ids == expected.token_ids
    best = model.generate(BEFORE, num_beams=3, **how)
    assert best.prompt_token_ids == expected.prompt_token_ids


def test_what_a_tokenizer_puts_before_a_text_stands_first(tmp_path):
    pytest.importorskip("tokenizers")
    model = made(tmp_path / "tokenizer", SPELLINGS[0], "metaspace")
    first = model.generate("the king", suffix="the sea", max_new_tokens=1).prompt_token_ids[:2]
    assert first == [*model.tokenizer.prefix, model.tokenizer.special_tokens["<fim_prefix>"]]
    assert len(model.tokenizer.prefix) == 1


def test_refusals(model):
    with pytest.raises(TypeError, match="suffix must be the text after the gap, or None, not int"):
        model.generate(BEFORE, suffix=3)
    with pytest.raises(ValueError, match=r"suffix goes with overflow='error' only.*'slide'"):
        model.generate(BEFORE, suffix=AFTER, overflow="slide")
    with pytest.raises(ValueError, match="suffix goes without heal"):
        model.generate(BEFORE, suffix=AFTER, heal=True)
    with pytest.raises(ValueError, match=r"the prompt has .* tokens and max_new_tokens is 110"):
        model.generate(BEFORE, suffix=AFTER, max_new_tokens=110)


def test_models_that_were_not_trained_for_it(bundled):
    message = r"suffix needs a tokenizer with the special tokens <fim_prefix>, .*: this model was not trained"
    with pytest.raises(ValueError, match=message):
        bundled.generate("Once", suffix="upon", max_new_tokens=1)


def test_on_the_command_line(model, tmp_path):
    model.save(tmp_path / "filling.gpt2c")
    expected = model.generate(BEFORE, suffix=AFTER, max_new_tokens=5).text
    how = [
        sys.executable,
        "-m",
        "gpt2c",
        "generate",
        BEFORE,
        "--suffix",
        AFTER,
        "-n",
        "5",
        "--temperature",
        "0",
    ]
    for more, whole in (([], BEFORE + expected + AFTER), (["--no-prompt"], expected)):
        command = [*how, "-m", tmp_path / "filling.gpt2c", *more]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert (done.returncode, done.stdout) == (0, shown(whole, io.StringIO()) + "\n"), done.stderr


def test_over_http(model):
    for module in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(module)
    from helpers.served import ask, served

    expected = model.generate(BEFORE, suffix=AFTER, max_new_tokens=5)
    with served(model) as server:
        body = {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 5, "temperature": 0}
        found = ask(server, "POST", "/v1/completions", body).json
        assert found["choices"][0]["text"] == expected.text
        assert found["usage"]["prompt_tokens"] == len(expected.prompt_token_ids)
        refused = ask(server, "POST", "/v1/completions", body | {"echo": True})
        assert refused.status == 400 and refused.error["param"] == "echo"
