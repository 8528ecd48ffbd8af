"""Checkpoints of nanoGPT: the logits that torch computes from them, and tokens that are characters."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run

from gpt2c import GPT2
from gpt2c.checkpoint import nanogpt, open_checkpoint
from gpt2c.checkpoint import tokenizer as given
from gpt2c.cli.command import main
from gpt2c.errors import CheckpointError, ConfigError, TokenizerError
from gpt2c.tokenizer.load import unpack

DATA = Path(__file__).parent / "data" / "nanogpt"
LOGITS = dict(np.load(DATA / "logits.npz"))
IDS = LOGITS["ids"].tolist()


@pytest.mark.parametrize("name", ["bias", "plain"])
def test_logits_are_those_of_torch(name, tmp_path):
    for source in (DATA / name, DATA / name / "ckpt.pt"):
        model = GPT2.from_pretrained(source)
        found = model.forward(IDS)
        assert np.abs(found - LOGITS[name]).max() < 2e-5 * np.abs(LOGITS[name]).max()
        assert model.config.activation == "gelu" and model.config.tie_word_embeddings
        assert (model.config.bos_token_id, model.config.eos_token_ids) == (None, ())
        assert model.notes[0].startswith("ckpt.pt: a checkpoint of nanoGPT, ")
        assert not any("lm_head" in note for note in model.notes)  # it is the embedding, stored once
        assert ("model_args has bias=False: all biases are 0" in model.notes) == (name == "plain")
    # Beside what another program left.
    shutil.copy(DATA / name / "ckpt.pt", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert np.array_equal(GPT2.from_pretrained(tmp_path / "ckpt.pt").forward(IDS), found)
    (tmp_path / "config.json").unlink()
    # By another name, beside nothing.
    shutil.copy(DATA / name / "ckpt.pt", tmp_path / "best.bin")
    assert np.array_equal(GPT2.from_pretrained(tmp_path / "best.bin").forward(IDS), found)


def test_biases_that_are_not_there_are_zero():
    checkpoint = open_checkpoint(DATA / "plain")
    assert not checkpoint.read("h.1.mlp.c_fc.bias").any()
    assert checkpoint.read("h.1.mlp.c_fc.bias").shape == (24,)
    assert checkpoint.read("h.1.ln_2.weight").all()


def changed(tmp_path, change):
    """A checkpoint whose pickle has other bytes of the same length."""
    data = (DATA / "plain" / "ckpt.pt").read_bytes()
    old, new = change
    assert old in data and len(old) == len(new)
    (tmp_path / "ckpt.pt").write_bytes(data.replace(old, new))
    return tmp_path


def test_a_bias_that_is_missing_is_no_zero(tmp_path):
    data = (DATA / "plain" / "ckpt.pt").read_bytes()
    claimed, n = re.subn(rb"(bias(q.|r....)?)\x89", lambda found: found[1] + b"\x88", data, count=1)
    assert n == 1
    (tmp_path / "ckpt.pt").write_bytes(claimed)
    with pytest.raises(CheckpointError, match=r"13 tensors .*bias.* missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ((b"n_layer", b"n_lager"), CheckpointError, "model_args has no n_layer"),
        ((b"vocab_size", b"vocab_sice"), CheckpointError, "model_args has no vocab_size"),
        ((b"n_headq", b"n_hearq"), CheckpointError, "model_args has no n_head"),
        ((b"transformer.ln_f", b"transformer.ln_g"), CheckpointError, "'ln_f.weight' missing"),
    ],
)
def test_other_sizes_and_names(change, error, message, tmp_path):
    with pytest.raises(error, match=message):
        open_checkpoint(changed(tmp_path, change))


def test_settings_of_forks(tmp_path):
    zero, two = (b"q\x95G" + struct.pack(">d", value) for value in (0.0, 2.0))
    source = changed(tmp_path, (b"dropout" + zero, b"windows" + two))
    with pytest.raises(ConfigError, match=r"ckpt\.pt: model_args has 'windows': 2\.0, which nanoGPT does "
                       r"not have: .*\(strict=False, or --no-strict"):  # fmt: skip
        open_checkpoint(source)
    found = GPT2.from_pretrained(source, strict=False)
    told = "model_args's 'windows': 2.0 is ignored: nanoGPT has no such setting (strict=False)"
    assert told in found.notes
    assert np.abs(found.forward(IDS) - LOGITS["plain"]).max() < 2e-5 * np.abs(LOGITS["plain"]).max()
    for new in (b"dropout" + two, b"windows" + zero):
        open_checkpoint(changed(tmp_path, (b"dropout" + zero, new)))


SIZES = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 4, "vocab_size": 5, "bias": False}


def written(tmp_path, model, **sizes):
    """A checkpoint with these values, which are no tensors."""
    with zipfile.ZipFile(tmp_path / "ckpt.pt", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({"model": model, "model_args": SIZES | sizes}, 2))
        file.writestr("a/version", "3")
    return tmp_path


@pytest.mark.parametrize("key", [key for key in SIZES if key != "bias"])
@pytest.mark.parametrize("value", [None, {}, "4", 10**6000], ids=lambda value: type(value).__name__)
def test_sizes_that_are_none(key, value, tmp_path):
    with pytest.raises(ConfigError, match=r"ckpt\.pt: model_args: .* is .*; allowed: an integer from 1 to"):
        open_checkpoint(written(tmp_path, {}, **{key: value}))


def test_values_that_grow(tmp_path):
    value = []  # 2 ** 40 items, of 40 lists: each holds the one before twice
    for _ in range(40):
        value = [value, value]
    with pytest.raises(ConfigError, match=r"model_args: n_layer is \[{41}\]"):
        open_checkpoint(written(tmp_path, {}, n_layer=value))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": {0: value}}, 2))
    with pytest.raises(TokenizerError, match=r"meta\.pkl: \[{41}\].* is not a single character"):
        nanogpt.read_meta(tmp_path / "meta.pkl", 1)


def test_a_model_without_tensors(tmp_path):
    with pytest.raises(CheckpointError, match=r"9 tensors 'wte\.weight', .* missing"):
        open_checkpoint(written(tmp_path, {}))


def test_files_that_are_none(tmp_path):
    for content in (b"", b"text", pickle.dumps({"model": {}, "model_args": 5})):
        (tmp_path / "ckpt.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"has no config\.json: the weights cannot be"):
            open_checkpoint(tmp_path)


def test_a_checkpoint_of_another_name_in_a_folder(tmp_path):
    shutil.copy(DATA / "plain" / "ckpt.pt", tmp_path / "ckpt_5000.pt")
    for name in ("optimizer.pt", "ckpt.pt", "a.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"If ckpt_5000\.pt is nanoGPT's, give its path$"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path / "ckpt_5000.pt").config.n_vocab == 65


# ---- characters


def test_characters_are_tokens():
    model = GPT2.from_pretrained(DATA / "plain")
    with open(DATA / "plain" / "meta.pkl", "rb") as file:
        meta = pickle.load(file)
    text = "ROMEO:\nWhat's this?"
    ids = [meta["stoi"][character] for character in text]
    assert model.tokenizer.encode(text) == ids
    assert model.tokenizer.decode(ids) == text
    assert model.tokenizer.offsets(text, ids) == [(i, i + 1) for i in range(len(text))]
    assert model.tokenizer.n_vocab == 65 and model.tokenizer.special_tokens == {}
    with pytest.raises(TokenizerError, match=r"'é' has no token; the model knows the char"):
        model.tokenizer.encode("café")
    out = model.generate("O", max_new_tokens=5)
    assert len(out.text) == 5 and out.text == model.tokenizer.decode(out.token_ids)
    score = model.score("To be.", bos=False, words=True)
    assert [word.text for word in score.words()] == ["o", "be."] and len(score) == 5
    with pytest.raises(ConfigError, match="no token starts a text"):
        model.score("To be.")


def test_the_table_may_be_elsewhere(tmp_path):
    shutil.copy(DATA / "plain" / "ckpt.pt", tmp_path / "ckpt.pt")
    model = GPT2.from_pretrained(tmp_path)
    assert not model.has_tokenizer
    again = GPT2.from_pretrained(tmp_path, tokenizer=DATA / "plain" / "meta.pkl")
    assert again.tokenizer.decode([0, 5]) == GPT2.from_pretrained(DATA / "plain").tokenizer.decode([0, 5])
    folder = GPT2.from_pretrained(tmp_path, tokenizer=DATA / "plain")
    assert folder.tokenizer.decode([0, 5]) == again.tokenizer.decode([0, 5])
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(TokenizerError, match=r"tokenizer\.json, .*meta\.pkl"):
            GPT2.from_pretrained(tmp_path, tokenizer=wrong)
    assert "meta.pkl" in run("info", "--help").stdout
    with pytest.raises(TokenizerError, match="65 characters, but the model has 4096 tokens"):
        GPT2.from_pretrained(tokenizer=DATA / "plain" / "meta.pkl")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ([], "has no table itos"),
        ({"itos": {}}, "has 0 characters, but the model has 65 tokens"),
        ({"itos": dict.fromkeys(range(65), "a")}, "a character occurs twice"),
        ({"itos": dict.fromkeys(range(65), "ab")}, "'ab' is not a single character"),
        ({"itos": dict.fromkeys(range(65), 3)}, "3 is not a single character"),
        ({"itos": {i + 1: chr(i + 65) for i in range(65)}}, "has no table itos"),
        (
            {"itos": print},
            "is a pickle that would run '(__builtin__|builtins)\\.print'",
        ),
        (
            {"itos": Path("a")},
            r"names 'pathlib\..*': a table of characters holds only numbers, texts and dicts; make",
        ),
    ],
)
def test_tables_that_cannot_be(meta, message, tmp_path):
    shutil.copy(DATA / "plain" / "ckpt.pt", tmp_path / "ckpt.pt")
    with open(tmp_path / "meta.pkl", "wb") as file:
        pickle.dump(meta, file, protocol=4)
    model = GPT2.from_pretrained(tmp_path)
    assert not model.has_tokenizer
    with pytest.raises(TokenizerError, match=message):
        _ = model.tokenizer
    with pytest.raises(TokenizerError, match=message):
        given.find_tokenizer(tmp_path / "meta.pkl", model.config)


def test_a_packed_file_keeps_the_characters(tmp_path):
    model = GPT2.from_pretrained(DATA / "plain")
    model.save(tmp_path / "m.gpt2c")
    again = GPT2.from_pretrained(tmp_path / "m.gpt2c")
    assert again.tokenizer.encode("To be") == model.tokenizer.encode("To be")
    assert np.array_equal(again.forward(IDS), model.forward(IDS))
    with pytest.raises(TokenizerError, match="a character occurs twice"):
        unpack({"characters": "aa"}, "here", 2)


def test_the_command(tmp_path):
    done = run("generate", "ROMEO:", "-m", DATA / "plain", "-n", "8", "--seed", "1", "--stats")
    assert done.returncode == 0 and done.stdout.startswith("ROMEO:") and "8 new tokens" in done.stderr
    told = run("info", DATA / "plain").stdout
    assert "a checkpoint of nanoGPT" in told and "characters" in told
    assert re.search(r"Sizes\n  layers +2\n  heads +3\n  width +6\n", told) and "Configuration" not in told
    assert re.search(r"  positions +16\n  rows of the vocabulary +65\n  activation +gelu\n", told)


def test_convert_goes_without_a_comparison_on_unknown_characters(tmp_path, capsys):
    words = ["convert", str(DATA / "plain"), str(tmp_path / "m.gpt2c"), "--dtype", "int8"]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out).keys() == {"file", "bytes", "dtype"}
    assert re.search(r"no comparison .*: .* has no token.*with --text FILE", printed.err)
    (tmp_path / "text").write_text("To be, or not to be")
    assert main([*words, "--text", str(tmp_path / "text")]) == 0
    assert "against float32 on" in capsys.readouterr().out
