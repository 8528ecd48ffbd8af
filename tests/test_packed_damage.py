"""Packed files that are damaged or made wrongly: none gives another model, and none a raw error."""

from __future__ import annotations

import hashlib
import json
import os
import random

import numpy as np
import pytest
from helpers.damage import sealed
from helpers.strategies import random_model

from gpt2c import GPT2, CheckpointError, Config, ConfigError
from gpt2c.core import _engine
from gpt2c.tokenizer.characters import CharacterTokenizer

DTYPES = _engine.DTYPES
SIZES = {"n_inner": 20, "n_embd": 8, "n_head": 2, "n_layer": 2, "n_ctx": 6, "n_vocab": 70}
REFUSED = (CheckpointError, ConfigError)


def save(path, dtype="int8", **settings):
    """A small model with a tokenizer of characters."""
    config = Config(**{**SIZES, "bos_token_id": 3, "eos_token_ids": (5,), **settings})
    weights = random_model(config, np.random.default_rng(1), 0.4)
    tokenizer = CharacterTokenizer([chr(0x30 + i) for i in range(config.n_vocab)], name="characters")
    GPT2(_engine.Weights(config, weights.__getitem__, dtype=dtype), tokenizer, threads=1).save(path)


def header_of(path) -> tuple[dict, int]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), 8 + size


def with_header(path, change, more=0) -> None:
    """Write a file anew with another header, whose checksum is right."""
    header, start = header_of(path)
    change(header)
    path.write_bytes(sealed(header, more) + path.read_bytes()[start:])


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "model.gpt2c")
    return tmp_path / "model.gpt2c"


# Changed bits


def every_bit(positions):
    return [(at, bit) for at in positions for bit in range(8)]


def refused(path, flips) -> int:
    """How many of these single changed bits are refused; any other error ends the test."""
    count = 0
    with open(path, "r+b", buffering=0) as file:
        for at, bit in flips:
            [byte] = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)
            try:
                GPT2.from_pretrained(path, threads=1)
            except REFUSED:
                count += 1
            os.pwrite(file.fileno(), bytes([byte]), at)
    return count


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_changed_bit_in_the_header_is_refused(tmp_path, dtype):
    path = tmp_path / "model.gpt2c"
    save(path, dtype, n_layer=1)
    whole, (_, start) = path.read_bytes(), header_of(path)
    digits = [at for at in range(start) if 0x30 <= whole[at] <= 0x39]
    padding = range(whole.rindex(b"}", 0, start) + 1, start)
    anywhere = [divmod(place, 8) for place in random.Random(start).sample(range(8 * start), 2000)]
    flips = every_bit([*range(8), *digits, *padding]) + anywhere
    assert len(digits) > 250
    assert refused(path, flips) == len(flips)
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_every_changed_bit_in_the_header_of_the_bundled_model_is_refused(tmp_path):
    path = tmp_path / "model.gpt2c"
    GPT2.from_pretrained(dtype="int8").save(path)
    flips = every_bit(range(header_of(path)[1]))
    assert refused(path, flips) == len(flips)


def test_a_name_without_a_suffix_opens_no_other_way(tmp_path):
    path = tmp_path / "model"
    save(path)
    assert GPT2.from_pretrained(path, threads=1).dtype == "int8"
    flips = every_bit(range(200))  # in which the file is known by its format
    assert refused(path, flips) == len(flips)


def test_a_truncated_file_is_refused(path):
    whole, (_, start) = path.read_bytes(), header_of(path)
    lengths = [*range(0, start, 7), *range(start, len(whole), 997), *range(len(whole) - 9, len(whole))]
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(REFUSED):
            GPT2.from_pretrained(path)


def test_the_checksum_is_as_documented(path):
    header, start = header_of(path)
    data = path.read_bytes()
    assert sealed(header) == data[:start]
    assert header["__metadata__"]["payload_sha256"] == hashlib.sha256(data[start:]).hexdigest()


# Headers that were written wrongly, with the right checksum


def metadata(**values):
    return lambda header: header["__metadata__"].update(values)


def without(key):
    return lambda header: header["__metadata__"].pop(key)


def config(**values):
    def change(header):
        found = json.loads(header["__metadata__"]["config"])
        header["__metadata__"]["config"] = json.dumps(found | values)

    return change


def config_without(key):
    def change(header):
        found = json.loads(header["__metadata__"]["config"])
        del found[key]
        header["__metadata__"]["config"] = json.dumps(found)

    return change


def array(name, **values):
    return lambda header: header[name].update(values)


def renamed(name, new):
    return lambda header: header.update({new: header.pop(name)})


def exchanged(a, b):
    def change(header):
        header[a], header[b] = header[b], header[a]

    return change


def empty(name):
    return lambda header: header.update({name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})


def as_its_neighbour(header):
    """Two arrays that overlap."""
    header["h.0.ln_1.bias"]["data_offsets"] = header["h.0.ln_1.weight"]["data_offsets"]


def beyond_the_end(header):
    begin, end = header["vocabulary"]["data_offsets"]
    header["vocabulary"].update(shape=[end - begin + 64], data_offsets=[begin, end + 64])


def longer_by_its_neighbour(header):
    """One array takes the place of two."""
    begin, _ = header["h.0.ln_1.weight"]["data_offsets"]
    _, end = header.pop("h.0.ln_1.bias")["data_offsets"]
    header["h.0.ln_1.weight"].update(shape=[(end - begin) // 4], data_offsets=[begin, end])


def one_float_moved(header):
    begin, middle = header["h.0.ln_1.weight"]["data_offsets"]
    _, end = header["h.0.ln_1.bias"]["data_offsets"]
    for name, first, last in (("weight", begin, middle + 4), ("bias", middle + 4, end)):
        header[f"h.0.ln_1.{name}"].update(shape=[(last - first) // 4], data_offsets=[first, last])


LINE = ["vocab_size", 70, "honoured", ""]
CASES = [
    (metadata(version="1"), CheckpointError, "version '1'; this gpt2c reads version 3: write it again"),
    (metadata(version="2"), CheckpointError, "version '2'; this gpt2c reads version 3: write it again"),
    (metadata(version="4"), CheckpointError, "version '4'; this gpt2c reads version 3"),
    (metadata(format="pt"), CheckpointError, "not a packed one"),
    (metadata(dtype="int3"), CheckpointError, "has the dtype 'int3'; known: float32"),
    (metadata(dtype="float32"), CheckpointError, "the panels of .* are uint8.*; needed: contiguous uint8"),
    (metadata(more=""), CheckpointError, "its header has the unknown 'more'"),
    (without("version"), CheckpointError, "version None"),
    (without("format"), CheckpointError, "not a packed one"),
    (without("header_crc32"), CheckpointError, "the checksum of its header"),
    *((without(key), CheckpointError, f"its header lacks '{key}'") for key in ("dtype", "numerics", "name")),
    *((without(key), CheckpointError, f"its header lacks '{key}'") for key in ("config", "payload_sha256")),
    (without("source_sha256"), CheckpointError, "its header lacks 'source_sha256'"),
    (without("generation_config"), CheckpointError, "its header lacks 'generation_config'"),
    (metadata(generation_config="[]"), CheckpointError, "its generation_config holds"),
    (metadata(config="[]"), CheckpointError, "its configuration holds .*a JSON object"),
    (metadata(config="{"), CheckpointError, "its configuration is not valid JSON"),
    (metadata(config="[" * 10**5), CheckpointError, "its configuration is nested too deeply"),
    (metadata(config="{}"), ConfigError, "its configuration lacks 'n_layer', 'n_head', .*, …"),
    *(
        (config_without(key), ConfigError, f"its configuration lacks '{key}'")
        for key in ("n_layer", "activation", "layer_norm_epsilon", "scale_attn_weights", "head", "report")
    ),
    (config(n_experts=2), ConfigError, "its configuration has the unknown 'n_experts'"),
    (config(n_layer=-1), ConfigError, "n_layer is -1"),
    (config(n_layer="2"), ConfigError, "n_layer is '2'"),
    (config(n_layer=10**30), ConfigError, "n_layer is 1000"),
    (config(n_head=3), ConfigError, "not a multiple of n_head 3"),
    (config(activation=["gelu"]), ConfigError, r"\(activation\) is \['gelu'\]; allowed: one of"),
    (config(head=5), ConfigError, "its configuration's head is 5; allowed: an object or null"),
    (config(head={}), ConfigError, "its configuration's head lacks 'kind'"),
    (config(head={"kind": "choice", "labels": [], "problem": "x", "pad_token_id": None, "activation": None}),
     ConfigError, "problem is 'x'"),
    (config(report=None), ConfigError, "its configuration's report is None"),
    (config(report=[LINE[:3]]), ConfigError, "its configuration's report is"),
    (config(report=[[[], *LINE[1:]]]), ConfigError, "its configuration's report is"),
    (config(n_layer=1), CheckpointError, "its header has the unknown 'h.1.attn.c_attn.weight', .*, …"),
    (config(n_layer=3), CheckpointError, "its header lacks 'h.2.attn.c_attn.weight', .*, …"),
    (config(n_inner=2048), CheckpointError, r"'h.0.mlp.c_fc.bias' is F32\[32\] at .*; needed: F32\[2048\]"),
    (config(n_ctx=64), CheckpointError, r"'wpe.weight' is F32\[48\] .*; needed: F32\[512\]"),
    (config(n_vocab=700), CheckpointError, "the panels of wte.weight are"),
    (config(tie_word_embeddings=False), CheckpointError, "its header lacks 'lm_head.weight'"),
    (renamed("h.0.ln_1.weight", "h.9.ln_1.weight"), CheckpointError, "its header lacks 'h.0.ln_1.weight'"),
    (renamed("vocabulary", "words"), CheckpointError, "its header has the unknown 'words'"),
    (empty("extra"), CheckpointError, "its header has the unknown 'extra'"),
    (exchanged("h.0.ln_1.weight", "h.1.ln_1.weight"), CheckpointError,
     "array 'h.1.ln_1.weight' lies in the place of 'h.0.ln_1.weight'"),
    (exchanged("h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"), CheckpointError,
     "array 'h.1.mlp.c_fc.weight' lies in the place of 'h.0.mlp.c_fc.weight'"),
    (exchanged("vocabulary", "wte.weight"), CheckpointError, "array 'vocabulary' lies in the place of"),
    (array("h.0.ln_1.weight", dtype="U8", shape=[64]), CheckpointError,
     r"'h.0.ln_1.weight' is U8\[64\] at byte [0-9]+; needed: F32\[16\] at a multiple of 64"),
    (array("h.0.ln_1.weight", dtype="I32"), CheckpointError, r"is I32\[16\]"),
    (array("h.0.ln_1.weight", shape=[4, 4]), CheckpointError, r"is F32\[4, 4\]"),
    (array("h.0.ln_1.weight", shape=[15]), CheckpointError, "takes 60"),
    (array("h.0.ln_1.weight", shape="16"), CheckpointError, "has the shape '16'"),
    (longer_by_its_neighbour, CheckpointError, "its header lacks 'h.0.ln_1.bias'"),
    (one_float_moved, CheckpointError, r"'h.0.ln_1.weight' is F32\[17\] at .*; needed: F32\[16\]"),
    (as_its_neighbour, CheckpointError, "starts at byte"),
    (beyond_the_end, CheckpointError, "is truncated"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), CASES, ids=[message for _, _, message in CASES])
def test_a_header_that_was_written_wrongly_is_refused(path, change, error, message):
    with_header(path, change)
    with pytest.raises(error, match=message):
        GPT2.from_pretrained(path)


@pytest.mark.parametrize("vocabulary", [[], "words", 5])
def test_a_vocabulary_that_is_no_object_is_refused(tmp_path, monkeypatch, vocabulary):
    monkeypatch.setattr(CharacterTokenizer, "packed", lambda self: vocabulary)
    save(tmp_path / "model.gpt2c")
    with pytest.raises(CheckpointError, match=r"is damaged: its vocabulary holds .*; needed"):
        GPT2.from_pretrained(tmp_path / "model.gpt2c")


def test_arrays_that_are_not_aligned_are_refused(path):
    with_header(path, lambda header: None, more=1)
    with pytest.raises(CheckpointError, match=r"'h.0.attn.c_attn.weight' is U8.*needed: .* multiple of 64"):
        GPT2.from_pretrained(path)


def test_a_refusal_names_the_file_and_says_what_to_do(path):
    with_header(path, config(n_layer=3))
    with pytest.raises(CheckpointError) as caught:
        GPT2.from_pretrained(path)
    assert str(caught.value).startswith(f"{path} is damaged: by its configuration, its header lacks 'h.2.")
    assert str(caught.value).endswith("; write it again with gpt2c convert")
