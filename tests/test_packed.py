"""Packed files: the same model, in place, and nothing accepted that is not whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.strategies import random_model, tensor_shapes
from helpers.tiny_checkpoints import write_model
from helpers.toys import bundled_tokenizer, random_gpt2

from gpt2c import GPT2, CheckpointError, Config, TokenizerError
from gpt2c.checkpoint import BUNDLED
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.packed import open_packed
from gpt2c.checkpoint.safetensors import read_header_and_metadata
from gpt2c.core import _engine
from gpt2c.tokenizer import gpt2_tokenizer
from gpt2c.tokenizer.load import unpack

DTYPES = _engine.DTYPES
ODD = {"n_inner": 37, "n_embd": 20, "n_head": 5, "n_layer": 3, "n_ctx": 23, "n_vocab": 131}


def odd_gpt2(dtype: str, **settings) -> GPT2:
    config = Config(**{**ODD, "bos_token_id": 3, "eos_token_ids": (5, 7), **settings})
    weights = random_model(config, np.random.default_rng(1), 0.4)
    return GPT2(_engine.Weights(config, weights.__getitem__, dtype=dtype), threads=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False}], ids=["tied", "untied"])
def test_a_saved_model_is_the_same(tmp_path, dtype, settings):
    model = odd_gpt2(dtype, **settings)
    model.save(tmp_path / "m.gpt2c")
    again = GPT2.from_pretrained(tmp_path / "m.gpt2c", threads=1)
    ids = list(range(7, 29))
    assert again.forward(ids).tobytes() == model.forward(ids).tobytes()
    assert (again.dtype, again.config, again.numerics) == (dtype, model.config, model.numerics)
    assert not again.has_tokenizer
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        again.generate("text")


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_aligned_in_pass_order_and_used_where_they_lie(tmp_path, dtype):
    odd_gpt2(dtype).save(tmp_path / "m.gpt2c")
    with RegularFile(tmp_path / "m.gpt2c") as file:
        tensors, metadata = read_header_and_metadata(file)
    assert all(info.offset % 64 == 0 for info in tensors.values())
    panels = [name for name, info in tensors.items() if info.dtype == "U8"]
    assert list(tensors)[: len(panels)] == panels
    dense = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert panels == [f"h.{i}.{name}.weight" for i in range(3) for name in dense] + ["wte.weight"]
    assert (metadata["dtype"], metadata["version"]) == (dtype, "3")
    opened = open_packed(tmp_path / "m.gpt2c")
    weights = opened.weights()
    whole = opened._bytes
    assert all(np.shares_memory(array, whole) for array in weights.packed.values())
    assert not any(array.flags.writeable for array in weights.packed.values())


def test_the_bundled_model_keeps_its_tokenizer_and_what_is_known_of_it(packed):
    model, again = GPT2.from_pretrained(dtype="int8"), GPT2.from_pretrained(packed)
    text = "Once upon a time; \x00 two  spaces, naïve 🧚 <|endoftext|>"
    for special in (False, True):
        assert again.tokenizer.encode(text, special) == model.tokenizer.encode(text, special)
    assert again.tokenizer.special_tokens == model.tokenizer.special_tokens
    assert (
        again.generate("Once", seed=1, temperature=1).text
        == model.generate("Once", seed=1, temperature=1).text
    )
    assert [tuple(s) for s in again.config.report] == [tuple(s) for s in model.config.report]
    assert again.generation_config == model.generation_config
    expected = hashlib.sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()
    assert open_packed(packed).metadata["source_sha256"] == expected


def test_a_packed_file_can_be_saved_again(packed, tmp_path):
    GPT2.from_pretrained(packed).save(tmp_path / "again.gpt2c")
    first, second = open_packed(packed), open_packed(tmp_path / "again.gpt2c")
    for key in ("payload_sha256", "source_sha256"):
        assert first.metadata[key] == second.metadata[key]


def test_a_packed_file_names_the_weights_that_were_loaded(tmp_path):
    write_model(tmp_path / "tiny")
    weights = tmp_path / "tiny" / "model.safetensors"
    before = weights.read_bytes()
    os.utime(weights, (1e9, 1e9))
    model = GPT2.from_pretrained(tmp_path / "tiny")
    (tmp_path / "other").write_bytes(before[:-1] + b"x")
    os.replace(tmp_path / "other", weights)
    model.save(tmp_path / "m.gpt2c")
    metadata = open_packed(tmp_path / "m.gpt2c").metadata
    assert metadata["source_sha256"] == hashlib.sha256(before).hexdigest()


def test_weights_that_changed_after_the_load_are_not_named(tmp_path):
    write_model(tmp_path / "tiny")
    weights = tmp_path / "tiny" / "model.safetensors"
    os.utime(weights, (1e9, 1e9))
    model = GPT2.from_pretrained(tmp_path / "tiny")
    with open(weights, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(CheckpointError, match="was changed after the model was read from it"):
        model.save(tmp_path / "m.gpt2c")
    assert os.listdir(tmp_path) == ["tiny"]


def test_a_model_of_a_folder_whose_name_is_not_utf8_is_saved(tmp_path):
    source = tmp_path / os.fsdecode(b"caf\xe9")
    write_model(source)
    model = GPT2.from_pretrained(source)
    model.save(tmp_path / "m.gpt2c")
    assert open_packed(tmp_path / "m.gpt2c").metadata["name"] == str(tmp_path / "caf?")
    assert GPT2.from_pretrained(tmp_path / "m.gpt2c").forward([1]).tobytes() == model.forward([1]).tobytes()


def test_other_readers_find_what_the_header_says(packed):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(packed, "np") as file:
        assert file.metadata()["format"] == "gpt2c packed"
        gain = file.get_tensor("h.0.ln_1.weight")
    model = GPT2.from_pretrained()
    assert np.array_equal(gain[: model.config.n_embd], model.weights.packed["h.0.ln_1.weight"])


def test_gpt2_s_vocabulary_comes_back():
    tokenizer = gpt2_tokenizer()
    again = unpack(json.loads(json.dumps(tokenizer.packed())), "here", 50257)
    for text in ("Hello, world!", " naïve\n\n\tcode  x=1", "日本語 🙂", "\x00\x7f"):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == text


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("ids"),
        lambda v: v["ids"].append(10**6),
        lambda v: v["ids"].append("x"),
        lambda v: v.update(tokens=v["tokens"] + "☃"),
        lambda v: v.update(ids=10**12),
        lambda v: v.update(ids=0),
        lambda v: v.update(ids=-1),
        lambda v: v.update(ids=1.5),
        lambda v: v["prefix"].append(-1),
        lambda v: v["added"].append(["only a text"]),
        lambda v: v["added"].append(["far", 10**6, True, False]),
        lambda v: v.update(tokens=None),
        lambda v: v.update(characters=5),
    ],
)
def test_a_damaged_vocabulary_is_an_error(change):
    words = json.loads(json.dumps(bundled_tokenizer().packed()))
    change(words)
    with pytest.raises(TokenizerError, match="the vocabulary in here is damaged"):
        unpack(words, "here", 4096)


def test_a_tokenizer_that_only_its_library_can_run(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from gpt2c.tokenizer import load_tokenizer

    words = tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = odd_gpt2("int8")
    found = load_tokenizer(tmp_path, model.config)
    GPT2(model.weights, found).save(tmp_path / "m.gpt2c")
    assert (
        GPT2.from_pretrained(tmp_path / "m.gpt2c").tokenizer.encode("b a c")
        == found.encode("b a c")
        == [1, 0, 2]
    )


def test_what_cannot_be_saved_leaves_no_file(tmp_path):
    class Mine:
        def encode(self, text):
            return [1]

        def decode(self, ids):
            return "x"

    from gpt2c.tokenizer import as_tokenizer

    model, _ = random_gpt2(tokenizer=as_tokenizer(Mine()))
    with pytest.raises(TokenizerError, match="cannot be stored in a file"):
        model.save(tmp_path / "m.gpt2c")
    blas = GPT2.from_pretrained(backend="blas")
    with pytest.raises(ValueError, match="load it with backend 'native'"):
        blas.save(tmp_path / "m.gpt2c")
    with pytest.raises(OSError, match="directory"):
        GPT2.from_pretrained().save(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_failure_while_writing_leaves_the_old_file(packed, monkeypatch):
    from gpt2c.checkpoint import packed as writer

    before = packed.read_bytes()

    def full(file, *_, **__):
        file.write(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_tensors", full)
    with pytest.raises(OSError, match="No space"):
        GPT2.from_pretrained(dtype="int4").save(packed)
    assert packed.read_bytes() == before
    assert os.listdir(packed.parent) == [packed.name]


def test_a_replaced_file_goes_on_working_for_those_who_have_it(packed):
    model = GPT2.from_pretrained(packed)
    before = model.forward([1, 2, 3]).tobytes()
    GPT2.from_pretrained(dtype="int4").save(packed)
    assert model.forward([1, 2, 3]).tobytes() == before
    assert GPT2.from_pretrained(packed).dtype == "int4"


def test_options_that_a_packed_file_cannot_serve(packed):
    assert GPT2.from_pretrained(str(packed), dtype="int8").dtype == "int8"
    with pytest.raises(ValueError, match=r"dtype is 'float32', but .* holds its weights in 'int8' only"):
        GPT2.from_pretrained(packed, dtype="float32")
    with pytest.raises(ValueError, match="backend is 'blas'"):
        GPT2.from_pretrained(packed, backend="blas")
    with pytest.raises(ValueError, match="revision"):
        GPT2.from_pretrained(packed, revision="main")


def test_the_checksum_finds_a_changed_bit(packed):
    open_packed(packed).check()
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 4
    packed.write_bytes(data)
    with pytest.raises(CheckpointError, match="write it again"):
        open_packed(packed).check()


def test_a_head_read_by_rows_is_packed_as_at_once():
    config = Config(**{**ODD, "n_vocab": 4096 * 2 + 77})
    tensors = random_model(config, np.random.default_rng(0), 0.4)
    largest = []

    def read(name):
        assert name != "wte.weight"
        return tensors[name]

    def read_rows(name, begin, end):
        largest.append(end - begin)
        return tensors[name][begin:end]

    for dtype in DTYPES:
        at_once = _engine.Weights(config, tensors.__getitem__, dtype=dtype)
        by_rows = _engine.Weights(config, read, read_rows=read_rows, dtype=dtype)
        for name in tensor_shapes(config):
            assert by_rows.packed[name].tobytes() == at_once.packed[name].tobytes()
    assert max(largest) <= 4096


def run(*arguments, **settings):
    command = [sys.executable, "-m", "gpt2c", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)


def test_convert_writes_a_file_and_tells_the_cost(tmp_path):
    made = run("convert", BUNDLED, tmp_path / "m.gpt2c", "--dtype", "int8")
    assert made.returncode == 0, made.stderr
    assert "same most probable token" in made.stdout
    made = run("convert", BUNDLED, tmp_path / "n.gpt2c", "--dtype", "int8", "--json")
    cost = json.loads(made.stdout)["comparison"]
    assert abs(cost["delta_percent"]) < 0.5
    assert 95 < cost["agreement_percent"] < 100
    assert 0 < cost["kl"] < 0.01
    assert (tmp_path / "m.gpt2c").read_bytes()[8:] != b""
    told = run("info", tmp_path / "m.gpt2c", "--check")
    assert "the checksum of its contents is correct" in told.stdout
    for arguments, words in [
        (("convert", tmp_path / "m.gpt2c", tmp_path / "o.gpt2c"), "already a packed file"),
        (("convert", BUNDLED, tmp_path / "o.gpt2c", "--text", "t", "--no-comparison"), "give one of them"),
        (("convert", BUNDLED, tmp_path / "o.gpt2c", "--text", tmp_path / "none"), "No such file"),
        (("convert", BUNDLED, tmp_path / "none" / "o.gpt2c"), "cannot be written"),
    ]:
        failed = run(*arguments)
        assert failed.returncode == 1
        assert words in failed.stderr
    assert sorted(os.listdir(tmp_path)) == ["m.gpt2c", "n.gpt2c"]


def test_convert_replaces_packed_files_only(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BUNDLED, model)
    (tmp_path / "data.jsonl").write_text("precious")
    for destination in (model / "model.safetensors", tmp_path / "data.jsonl", model):
        before = destination.read_bytes() if destination.is_file() else None
        done = run("convert", model, destination)
        assert (
            done.returncode == 1
            and "exists and is not a packed file, so it is not replaced: choose another" in done.stderr
        )
        assert before is None or destination.read_bytes() == before
    for _ in range(2):
        assert run("convert", model, tmp_path / "m.gpt2c", "--no-comparison").returncode == 0


def test_convert_of_a_model_without_a_tokenizer(tmp_path):
    write_model(tmp_path / "tiny")
    made = run("convert", tmp_path / "tiny", tmp_path / "m.gpt2c", "--dtype", "int8")
    assert made.returncode == 0
    assert "no tokenizer" in made.stderr
