"""The tokens that begin and end a text, and those that a tokenizer puts around it.

Which ones the files name: data/golden/special_tokens.json, from AutoTokenizer of transformers 4.57.6.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from data.golden.make_special_tokens import CASES
from data.golden.recipe import FOLDER
from helpers.small_tokenizers import END, FOLDERS, write_files, write_folder

import gpt2c
from gpt2c import GPT2, TokenizerError
from gpt2c.tokenizer import as_tokenizer, load_tokenizer
from gpt2c.tokenizer.load import unpack

RECORDED = json.loads((FOLDER / "special_tokens.json").read_text("utf-8"))["found"]
BY_TIKTOKEN = {"add-bos", "pair", "gpt2", "no settings", "class GPT2Tokenizer", "bos is null"}


def needs_tokenizers(name: str) -> None:
    if name not in BY_TIKTOKEN:
        pytest.importorskip("tokenizers")


def load(tmp_path, name: str, **options) -> GPT2:
    needs_tokenizers(name)
    return GPT2.from_pretrained(write_folder(tmp_path / name, name), threads=1, **options)


# -------------------------------------------------------------------------------- named by the files


@pytest.mark.parametrize("name", CASES)
def test_the_files_name_what_transformers_reports(tmp_path, name):
    needs_tokenizers(name)
    tokenizer = load_tokenizer(write_files(tmp_path, CASES[name]), SimpleNamespace(n_vocab=320))
    found = {"n_vocab": tokenizer.n_vocab, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    assert found == RECORDED[name]
    again = unpack(json.loads(json.dumps(tokenizer.packed())), "x", 320)
    assert (again.bos_token_id, again.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_live_transformers_and_its_objects(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(write_files(tmp_path, CASES[name])))
    assert {"bos": theirs.bos_token_id, "eos": theirs.eos_token_id}.items() <= RECORDED[name].items()
    wrapped = as_tokenizer(theirs)
    assert (wrapped.bos_token_id, wrapped.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.parametrize("wrong", [-1, 302, True, "1", 1.0])
def test_a_damaged_packed_tokenizer(tmp_path, wrong):
    packed = load(tmp_path, "gpt2").tokenizer.packed()
    for name in ("bos_token_id", "eos_token_id"):
        with pytest.raises(TokenizerError, match=f"its {name} is "):
            unpack(packed | {name: wrong}, "x", 302)


def test_bundled_gpt2():
    tokenizer = gpt2c.gpt2_tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (50256, 50256)


def test_objects_of_other_libraries():
    """tiktoken and tokenizers name no bos: <|endoftext|> is both where it is a special token."""
    import tiktoken

    ranks = {bytes([i]): i for i in range(256)}
    for special, expected in (({END: 256}, 256), ({"<end>": 256}, None)):
        obj = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens=special)
        found = as_tokenizer(obj)
        assert (found.bos_token_id, found.eos_token_id) == (expected, expected)
    found = as_tokenizer(SimpleNamespace(encode=list, decode=str))
    assert (found.bos_token_id, found.eos_token_id) == (None, None)


# -------------------------------------------------------------------------------- with the configuration

# Folder -> the ids that count. config.json of "bert" names the tokenizer's; of "metaspace" and "pair"
# ordinary words; of the others none, which makes them 50256, outside of the vocabulary.
RESOLVED = {
    "bert": (2, (3,)),
    "metaspace": (1, (2,)),
    "end-only": (None, (2,)),
    "add-bos": (301, (301,)),
    "pair": (301, (301,)),
    "gpt2": (301, (301,)),
}


def ids(model: GPT2):
    return model.config.bos_token_id, model.config.eos_token_ids


@pytest.mark.parametrize("name", FOLDERS)
def test_the_ids_that_count(tmp_path, name):
    model = load(tmp_path, name)
    assert ids(model) == RESOLVED[name]
    model.save(tmp_path / "x.gpt2c")
    again = GPT2.from_pretrained(tmp_path / "x.gpt2c")
    assert ids(again) == RESOLVED[name]
    assert not [note for note in again.notes if "_token_id" in note]


def test_notes_say_which_ids_count(tmp_path):
    notes = [note for note in load(tmp_path, "pair").notes if "_token_id" in note]
    assert notes == [
        f"bos_token_id: 5 is no special token, so the tokenizer's {END!r} (301) counts",
        f"eos_token_id: [5, 6] is no special token, so the tokenizer's {END!r} (301) counts",
    ]
    model = load(tmp_path, "gpt2")
    report = {setting.key: setting for setting in model.config.report}
    assert report["eos_token_id"][1:] == (
        50256,
        "default",
        f"50256 outside the vocabulary of 302: left out; the tokenizer's {END!r} (301) counts",
    )
    model = load(tmp_path, "add-bos", tokenizer=None)
    assert any(note.startswith("bos_token_id: 50256 is no special token") for note in model.notes)


def test_a_special_token_of_the_configuration_stands(tmp_path):
    pytest.importorskip("tokenizers")
    folder = write_folder(tmp_path, "bert")
    for given, expected in (
        ({"bos_token_id": 0, "eos_token_id": 4}, (0, (4,))),
        ({"bos_token_id": 3, "eos_token_id": [70, 0]}, (3, (70, 0))),
        ({"bos_token_id": None, "eos_token_id": None}, (2, (3,))),
        ({"bos_token_id": 70, "eos_token_id": [70, 71]}, (2, (3,))),
    ):
        (folder / "generation_config.json").write_text(json.dumps(given))
        model = GPT2.from_pretrained(folder)
        assert ids(model) == expected
        assert bool([n for n in model.notes if "_token_id" in n]) == (expected == (2, (3,)))


def test_a_token_that_the_model_lacks_does_not_count(tmp_path):
    """The embedding was not resized when <|endoftext|> was added."""
    folder = write_folder(tmp_path, "gpt2")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 301, "eos_token_id": 7}
    from helpers.tiny_checkpoints import write_model

    write_model(folder, config)
    model = GPT2.from_pretrained(folder)
    assert ids(model) == (None, (7,))
    assert "the vocabulary has ids up to 301, but the model's end at 300" in "\n".join(model.notes)
    with pytest.raises(TokenizerError, match="301"):
        model.generate(END, special=True)


def test_objects_with_special_tokens_count_and_others_change_nothing(tmp_path):
    import tiktoken

    ranks = {bytes([i]): i for i in range(256)}
    known = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens={END: 256})
    other = SimpleNamespace(encode=lambda text: list(text.encode()), decode=lambda ids: bytes(ids).decode())
    folder = write_folder(tmp_path, "pair")
    GPT2.from_pretrained(folder).save(tmp_path / "x.gpt2c")
    for source, own in ((folder, (5, (5, 6))), (tmp_path / "x.gpt2c", (301, (301,)))):
        assert ids(GPT2.from_pretrained(source, tokenizer=known)) == (256, (256,))
        assert ids(GPT2.from_pretrained(source, tokenizer=other)) == own


def test_an_empty_prompt_and_a_scored_text_begin_with_it(tmp_path):
    model = load(tmp_path, "pair")
    tokens = model.tokenizer.encode("the king")
    logits = model.forward([301, *tokens]).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = logprobs[np.arange(len(tokens)), tokens]
    assert model.score("the king").logprobs == pytest.approx(expected, abs=1e-5)
    assert model.generate("", max_new_tokens=1).prompt_token_ids == [301]


# -------------------------------------------------------------------------------- around a text


def test_notes_say_what_stands_around_a_text(tmp_path):
    assert load(tmp_path, "bert").notes[-2:] == [
        "the tokenizer puts '[CLS]' (2) before a text: kept before prompts and scored texts",
        "the tokenizer puts '[SEP]' (3) after a text: left out, since it would end the text",
    ]
    assert not [note for note in load(tmp_path, "gpt2").notes if "puts" in note]
