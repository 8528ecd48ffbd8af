"""Checkpoints of OpenAI's program: what TensorFlow wrote and reads, damage, and files that cannot be.

``pytest -m oracle`` compares with the TensorFlow that is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run
from helpers.damage import damaged
from helpers.reading import corpus, valid_files
from helpers.tf_tables import MAGIC, block, field, sealed, table, varint
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.checkpoint.crc32c import crc32c, masked
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.tf_bundle import read_index
from gpt2c.errors import CheckpointError, ConfigError, TokenizerError

DATA = Path(__file__).parent / "data" / "openai"
LOGITS = dict(np.load(DATA / "logits.npz"))
IDS = LOGITS["ids"].tolist()
HASHES = json.loads((DATA / "expected.json").read_text())


@pytest.fixture
def copy(tmp_path):
    """A copy of one of the checkpoints, to be changed."""

    def copied(name="run1"):
        return Path(shutil.copytree(DATA / name, tmp_path / name))

    return copied


def refused(path, message, error=CheckpointError, **options):
    with pytest.raises(error, match=message):
        open_checkpoint(path, **options)


def hashes(source):
    """The SHA-256 of every tensor, by the name that it is stored under."""
    checkpoint = open_checkpoint(source)
    return {
        info.name: hashlib.sha256(checkpoint.read(name).tobytes()).hexdigest()
        for name, info in checkpoint.tensors.items()
    }


# ---- what TensorFlow wrote


@pytest.mark.parametrize("name", HASHES)
def test_tensors_and_logits_are_those_of_tensorflow(name):
    assert hashes(DATA / name) == HASHES[name]
    found = GPT2.from_pretrained(DATA / name).forward(IDS)
    assert np.abs(found - LOGITS[name]).max() < 2e-5 * np.abs(LOGITS[name]).max()


def test_what_is_told(copy):
    right = "a TensorFlow checkpoint, {} variables; their checksums are correct"
    for name, notes in {
        "run1": [f"model-2.index: {right.format(28)}"],
        "sharded": [
            f"model.ckpt.index: {right.format(16)}",
            "35 training variables are ignored",
        ],
        "half": [f"model.ckpt.index: {right.format(28)}"],
    }.items():
        assert open_checkpoint(DATA / name).notes == notes
    # A file of which the model needs nothing may be absent: it holds a counter.
    path = copy("sharded")
    (path / "model.ckpt.data-00000-of-00003").unlink()
    assert hashes(path) == HASHES["sharded"]


def test_an_earlier_checkpoint():
    def end(name):
        return open_checkpoint(DATA / "run1" / name).read("ln_f.bias")

    # The program adds 1 in every step.
    assert np.allclose(end("model-2.index") - end("model-1.index"), 1, atol=1e-6)
    assert hashes(DATA / "run1" / "model-2.index") == HASHES["run1"]


def test_the_vocabulary_beside_it(copy, tmp_path):
    # Of the merges "t h", "th e", "Ġ the", "i n", "Ġ k", "in g", "Ġk ing", behind 256 bytes.
    text, ids = "in the king", [259, 258, 262]
    path = copy()
    model = GPT2.from_pretrained(path)
    assert model.tokenizer.encode(text) == ids
    assert (model.config.bos_token_id, model.config.eos_token_ids) == (263, (263,))
    model.export(tmp_path / "exported")
    again = GPT2.from_pretrained(tmp_path / "exported")
    assert {"vocab.json", "merges.txt"} < {file.name for file in (tmp_path / "exported").iterdir()}
    assert again.tokenizer.encode(text) == ids and np.array_equal(again.forward(IDS), model.forward(IDS))
    for name in ("encoder.json", "vocab.bpe"):
        given = GPT2.from_pretrained(tmp_path / "exported", tokenizer=path / name)
        assert given.tokenizer.encode(text) == ids
    given.export(tmp_path / "twice")
    assert (tmp_path / "twice" / "vocab.json").read_bytes() == (path / "encoder.json").read_bytes()
    (path / "vocab.bpe").unlink()
    told = r"vocab\.bpe is missing: a GPT-2 tokenizer needs encoder\.json and vocab\.bpe"
    with pytest.raises(TokenizerError, match=told):
        GPT2.from_pretrained(path, tokenizer=path)


def test_the_command_line(tmp_path):
    done = run("generate", "the king", "-m", DATA / "run1", "-n", "3", "--seed", "1")
    assert done.returncode == 0 and done.stdout.startswith("the king")
    done = run("info", DATA / "run1", "--check")
    assert done.returncode == 0 and "SHA-256 of model-2.data-00000-of-00001" in done.stdout
    done = run("convert", DATA / "half", tmp_path / "half.gpt2c")
    assert done.returncode == 0
    packed = GPT2.from_pretrained(tmp_path / "half.gpt2c")
    assert np.array_equal(packed.forward(IDS), GPT2.from_pretrained(DATA / "half").forward(IDS))


def test_plain_models_import_nothing_of_this():
    code = (
        "import sys, gpt2c; gpt2c.GPT2.from_pretrained();"
        "found = [name.rpartition('.')[2] for name in sys.modules if name.startswith('gpt2c.checkpoint.')];"
        "print([name for name in found if name in ('tensorflow', 'tf_bundle', 'crc32c')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# ---- which checkpoint


@pytest.mark.parametrize(
    "named",
    [
        "model-1",
        "/home/someone/gpt-2/checkpoint/run1/model-1",
        r"C:\\Users\\Someone\\checkpoint\\run1\\model-1",
    ],
)
def test_the_checkpoint_that_is_the_latest(named, copy):
    path = copy()
    expected = hashes(path / "model-1.index")
    (path / "checkpoint").write_text(
        f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "model-2"\n'
    )
    assert hashes(path) == expected != HASHES["run1"]


def test_the_latest_is_not_clear(copy):
    path = copy()
    one, two = path / "model-1.index", path / "model-2.index"
    (path / "checkpoint").write_text('model_checkpoint_path: "model-3"\n')
    refused(path, rf"names 'model-3', but .*/model-3\.index does not exist: give the path of {one}, {two}$")
    (path / "checkpoint").write_bytes(b"\xff\0")
    refused(path, rf"checkpoint does not name the latest checkpoint, as .*: give the path of {one}, {two}$")
    (path / "checkpoint").unlink()
    refused(
        path, rf"holds several TensorFlow checkpoints, but no file 'checkpoint' .*: give one of {one}, {two}$"
    )
    one.unlink()
    assert hashes(path) == HASHES["run1"]
    two.unlink()
    refused(path, "has no config.json")
    (path / "checkpoint").write_text('model_checkpoint_path: "model-3"\n')
    refused(path, r"but .*/model-3\.index does not exist: get that file and its data$")


def test_paths_of_parts(copy):
    path = copy()
    (path / "model-2.meta").touch()
    for name in ("model-2.meta", "model-2.data-00000-of-00001"):
        refused(path / name, rf"is a part of a TensorFlow checkpoint: give its index, {path}/model-2\.index$")
    refused(path / "model-2", rf": for a TensorFlow checkpoint give the index, {path / 'model-2'}\.index$")
    refused(path / "hparams.json", "is not a file of weights: give its directory,")
    (path / "config.json").write_text('{"model_type": "gpt2"}')
    refused(path, r"it has model-1\.index, model-2\.index; to load one of them, give the path of that file$")
    assert hashes(path / "model-2.index") == HASHES["run1"]


def test_files_that_are_missing(copy):
    path = copy("sharded")
    (path / "model.ckpt.data-00001-of-00003").unlink()
    refused(
        path,
        r"data-00001-of-00003 is missing: according to model\.ckpt\.index it holds variable 'model/h0/attn/",
    )
    (path / "hparams.json").unlink()
    refused(
        path, r"has no hparams\.json beside it, .*: copy hparams\.json, encoder\.json and vocab\.bpe from"
    )


# ---- hparams.json


@pytest.mark.parametrize("key", ["n_vocab", "n_ctx", "n_embd", "n_layer"])
def test_sizes_that_the_variables_tell(key, copy):
    path = copy()
    settings = json.loads((path / "hparams.json").read_text())
    del settings[key]
    (path / "hparams.json").write_text(json.dumps(settings))
    assert open_checkpoint(path).config == open_checkpoint(DATA / "run1").config


def test_without_a_number_of_heads_there_are_12_as_in_the_program(copy):
    path = copy()
    (path / "hparams.json").write_text("{}")
    assert open_checkpoint(path).config.n_head == 12


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_head": 5}, ConfigError, r"hparams\.json: n_embd 12 is not a multiple of n_head 5"),
        ({"n_layer": "2"}, ConfigError, r"hparams\.json: n_layer is '2'; allowed"),
        ({"n_embd": [12]}, ConfigError, r"hparams\.json: n_embd is \[12\]; allowed"),
        (
            {"n_layer": 3},
            CheckpointError,
            r"not hold the GPT-2 of its hparams\.json: 12 tensors 'h\.2\.ln_1\.",
        ),
        ({"n_layer": 1}, CheckpointError, r"12 tensors 'model/h1/.* not expected"),
        (
            {"n_vocab": 50257},
            CheckpointError,
            r"'model/wte' has the shape \[264, 12\]; its hparams\.json asks",
        ),
        (
            {"n_inner": 99},
            ConfigError,
            r"hparams\.json has 'n_inner': 99, which OpenAI's program does not have",
        ),
    ],
)
def test_sizes_that_cannot_be(settings, error, message, copy):
    path = copy()
    given = json.loads((path / "hparams.json").read_text())
    (path / "hparams.json").write_text(json.dumps(given | settings))
    refused(path, message, error)


def test_settings_of_other_programs(copy):
    path = copy()
    given = json.loads((path / "hparams.json").read_text())
    off = {"attn_dropout": 0.1, "res_dropout": 0.1, "rotary": False, "n_experts": 0, "act": None}
    (path / "hparams.json").write_text(json.dumps(given | off))
    assert hashes(path) == HASHES["run1"]
    (path / "hparams.json").write_text(json.dumps(given | {"rotary": True}))
    assert open_checkpoint(path, strict=False).notes[1].startswith("hparams.json's 'rotary': True is ign")


# ---- a writer of bundles, from the description of their format


def header(shards=1, endianness=0, consumer=0):
    return b"", field(1, shards) + field(2, endianness) + field(3, field(1, 1) + field(2, consumer))


def entry(array, offset=0, dtype=1, **changes):
    data = array.tobytes()
    values = {"dtype": dtype, "shape": array.shape, "shard": 0, "offset": offset, "nbytes": len(data)}
    values |= {"crc": masked(crc32c(data)), "more": b""} | changes
    dims = b"".join(field(2, field(1, size)) for size in values["shape"])
    message = field(1, values["dtype"]) + field(2, dims)
    message += b"".join(field(i + 3, values[name]) for i, name in enumerate(("shard", "offset", "nbytes")))
    return message + b"\x35" + values["crc"].to_bytes(4, "little") + values["more"]


def of_block(content):
    """A table of one block."""
    found = sealed(content + b"\0")
    places = block([(b"z", varint(0) + varint(len(content)))])
    footer = varint(0) + varint(0) + varint(len(found)) + varint(len(places) - 5)
    return found + places + footer.ljust(40, b"\0") + MAGIC


SIZES = {"n_vocab": 5, "n_ctx": 3, "n_embd": 2, "n_head": 1, "n_layer": 1}


def variables():
    shapes = {"wte": (5, 2), "wpe": (3, 2), "ln_f/g": (2,), "ln_f/b": (2,)}
    for name, n_in, n_out in (
        ("attn/c_attn", 2, 6),
        ("attn/c_proj", 2, 2),
        ("mlp/c_fc", 2, 8),
        ("mlp/c_proj", 8, 2),
    ):
        shapes |= {f"h0/{name}/w": (1, n_in, n_out), f"h0/{name}/b": (n_out,)}
    for name in ("ln_1", "ln_2"):
        shapes |= {f"h0/{name}/g": (2,), f"h0/{name}/b": (2,)}
    rng = np.random.default_rng(0)
    return {f"model/{name}": rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def written(path, arrays=None, changes=(), head=None, hparams=SIZES, **how):
    """A checkpoint with these arrays; ``changes``: name -> what its entry says otherwise."""
    arrays = variables() if arrays is None else arrays
    items, data = [head or header()], b""
    for name, array in sorted(arrays.items()):
        said = {"offset": len(data)} | dict(changes).get(name, {})
        items.append((name.encode(), entry(array, **said)))
        data += array.tobytes()
    (path / "a.index").write_bytes(table(items, **how))
    (path / "a.data-00000-of-00001").write_bytes(data)
    (path / "hparams.json").write_text(json.dumps(hparams))
    return path / "a.index"


@pytest.mark.parametrize("in_a_block", [1, 2, 3, 100])
def test_tables_of_several_blocks(in_a_block, tmp_path):
    arrays = variables()
    checkpoint = open_checkpoint(written(tmp_path, in_a_block=in_a_block))
    for name, info in checkpoint.tensors.items():
        assert checkpoint.read(name).tobytes() == arrays[info.name].tobytes()
    assert len(checkpoint.tensors) == len(arrays) == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": 3}, "has the dtype I32; supported: F64, F32, F16, BF16"),
        ({"dtype": 7}, "has the dtype 7 of TensorFlow; supported:"),
        ({"dtype": 19}, "'model/wpe' has 24 bytes, but its shape .3, 2. takes 12"),
        ({"shape": (3, 2, 1)}, "does not hold a GPT-2 of OpenAI's program: it has no matrix model/wpe"),
        ({"shape": (4, 2)}, "has 24 bytes, but its shape .4, 2. takes 32"),
        ({"shape": (-3, 2)}, "has 24 bytes, but its shape .18446744073709551613, 2. takes"),
        ({"shape": (1,) * 255}, "is damaged: a variable has 255 dimensions"),
        ({"shard": 1}, r"a\.data-00001-of-00001 is missing"),
        (
            {"offset": 10**6},
            "is truncated: according to a.index variable 'model/wpe' ends at byte 1000024, but the file",
        ),
        (
            {"offset": -4},
            "is truncated: according to a.index variable 'model/wpe' ends at byte 18446744073709551636",
        ),
        ({"offset": 0}, "is damaged: the checksum of variable 'model/wpe' is wrong; get the file again"),
        ({"crc": 1}, "is damaged: the checksum of variable 'model/wpe' is wrong"),
        ({"more": field(7, b"")}, "'model/wpe' is stored in parts .a partitioned variable.*save it whole"),
        ({"more": field(4, b"ab")}, "is damaged: a message has a field of the wrong type"),
        ({"more": field(2, field(2, 3))}, "is damaged: a message has a field of the wrong type"),
        ({"more": field(7, 3)}, "is damaged: a message has a field of the wrong type"),
        ({"more": field(7, b"\x3a")}, "is damaged: a number is truncated"),
        ({"more": field(7, b"\3\0")}, "is damaged: a message has a field without a number"),
        ({"more": b"\x3b"}, "is damaged: a message is truncated"),
        ({"more": b"\x3a\x05ab"}, "is damaged: a message is truncated"),
        ({"more": b"\x38" + b"\x80" * 11}, "is damaged: a number is truncated"),
    ],
)
def test_variables_that_cannot_be(changes, message, tmp_path):
    refused(written(tmp_path, changes={"model/wpe": changes}), message)


def test_what_else_is_stored(tmp_path):
    one = np.ones(2, np.float32)
    state = {
        **{"global_step": one[0], "beta1_power": one[0], "model/ln_f/b/Adam": one},
        **{"model/ln_f/b/Adam_1": one, "model/h0/ln_1/b/Momentum": one},
    }
    checkpoint = open_checkpoint(written(tmp_path, variables() | state))
    assert checkpoint.notes[1] == "5 training variables are ignored"
    for name in ("model/adapter/w", "other/wte", "model/scale"):
        path = written(tmp_path, variables() | {name: one if name != "model/scale" else one[0]})
        refused(path, f"tensor '{name}' not expected .strict=False")
        assert f"tensor '{name}' ignored" in open_checkpoint(path, strict=False).notes[-1]
    # Of what is ignored nothing needs to be there.
    elsewhere = {"other/wte": {"shard": 1, "dtype": 7, "more": field(7, b"")}}
    path = written(tmp_path, variables() | {"other/wte": one}, elsewhere)
    checkpoint = open_checkpoint(path, strict=False)
    assert len(checkpoint.tensors) == 16
    assert (
        checkpoint.notes[0] == "a.index: a TensorFlow checkpoint, 16 variables; their checksums are correct"
    )
    refused(written(tmp_path, {"layer/.ATTRIBUTES/VARIABLE_VALUE": one}), "it has no matrix model/wte")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            header(endianness=1),
            "was written on a big-endian machine: save the model again on a little-endian one",
        ),
        (header(consumer=2), "needs a later reader than this one: give the model"),
        (header(shards=0), "is damaged: the number of data files is missing"),
        ((b"a", header()[1]), "is damaged: the number of data"),
    ],
)
def test_headers_that_cannot_be(head, message, tmp_path):
    refused(written(tmp_path, head=head), message)


def test_tables_that_cannot_be(tmp_path):
    path = tmp_path / "a.index"

    def told(data):
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as error, RegularFile(path) as file:
            read_index(file)
        return str(error.value).removeprefix(f"{path} ")

    def pointing(content):
        """A table whose block of places is this."""
        found = sealed(content + b"\0")
        return found + (bytes(2) + varint(0) + varint(len(content))).ljust(40, b"\0") + MAGIC

    one = entry(np.ones(2))
    assert told(table([header(), (b"b", one), (b"a", one)])) == (
        "is damaged: its keys are not in order; get the file again"
    )
    assert told(table([])).startswith("is damaged: the number of data")
    assert told(table([header(), (b"\xff", one)])).startswith(r"is damaged: the name b'\xff' is not UTF-8")
    assert told(table([header()], compression=1)).startswith(
        "is compressed, which TensorFlow never does: save the model"
    )
    assert told(pointing(b"ab")).startswith("is damaged: a block is too short")
    content = block([header(), (b"b", one)])[:-13]  # without its only restart point
    for points in (b"\1\0\0\0", b"", bytes(4) + b"\1\0\0\0"):
        assert told(of_block(content + points + (len(points) // 4).to_bytes(4, "little"))) == (
            "is damaged: a block has a restart point that is not a whole key; get the file again"
        )
    assert told(pointing(b"\xff" * 8)).startswith("is damaged: a block is too short")
    assert told(pointing(b"\0\xff\x01\0" + bytes(8))).startswith(
        "is damaged: an entry is longer than its block"
    )
    assert told(pointing(b"\x01\0\0" + bytes(4) + b"\1\0\0\0")).startswith(
        "is damaged: an entry is longer than"
    )
    beyond = b"\0\1\2a" + varint(1000) + b"\5"
    assert told(pointing(beyond[:2] + b"\3" + beyond[3:] + bytes(4) + b"\1\0\0\0")) == (
        "is damaged: a block is at byte 1000, of 5 bytes, which is past the file's end; get the file again"
    )
    assert told(bytes(60)).startswith(
        "is truncated, or not the index of a TensorFlow checkpoint, as its last"
    )
    with open(path, "wb") as file:
        file.truncate(2**23)
    assert "too many for the index of a GPT-2 (at most 524288)" in told_of(path)


def told_of(path):
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    return str(error.value)


# ---- damage


def test_indexes_that_are_cut_off(copy):
    path = copy() / "model-2.index"
    data = path.read_bytes()
    for end in range(0, len(data), 3):
        path.write_bytes(data[:end])
        refused(path, "is truncated, or not the index")
        path.write_bytes(data[end + 1 :])
        refused(path, str(path))


def test_every_byte_of_an_index_counts(tmp_path):
    data = (DATA / "run1" / "model-2.index").read_bytes()
    path = tmp_path / "a.index"
    rng = np.random.default_rng(0)
    with RegularFile(DATA / "run1" / "model-2.index") as file:
        right = read_index(file)
    same = []
    for at, bit in enumerate(rng.integers(0, 8, len(data)).tolist()):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            with RegularFile(path) as file:
                assert read_index(file) == right, at
            same.append(at)
        except CheckpointError as error:
            assert str(error).startswith(str(path))
    # The block that says nothing, of 8 bytes and its end of 5, its place, and what fills up the last bytes.
    assert len(same) < 13 + 3 + 40 and all(at > len(data) - 120 for at in same)


@pytest.mark.parametrize("name", ["run1", "sharded"])
def test_files_of_data_that_are_damaged(name, copy):
    path = copy(name)
    rng = np.random.default_rng(1)
    for file in path.glob("*.data-*"):
        if file.name.startswith("model-1"):
            continue
        data = file.read_bytes()
        damaged = [data[:end] for end in (0, 1, len(data) // 2, len(data) - 1)]
        for at, bit in rng.integers(0, (len(data), 8), (60, 2)).tolist():
            damaged.append(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        for bad in damaged:
            file.write_bytes(bad)
            try:
                # What is changed is then the state of Adam, or the counter.
                assert hashes(path) == HASHES[name] and name == "sharded"
            except CheckpointError as error:
                assert str(file) in str(error)
        file.write_bytes(data)


@given(st.data())
def test_any_block_with_a_right_checksum(tmp_path_factory, data):
    """What the checksums do not find: the numbers in it lead nowhere else than to an error."""
    path = tmp_path_factory.getbasetemp() / "any.index"
    items = [header(), *((name.encode(), entry(array)) for name, array in sorted(variables().items()))]
    content = bytearray(block(items)[:-5])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=12))
    path.write_bytes(of_block(bytes(content)))
    try:
        with RegularFile(path) as file:
            read_index(file)
    except CheckpointError as error:
        assert str(error).startswith(str(path))


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.index"
    path.write_bytes(data + MAGIC)
    with pytest.raises(CheckpointError), RegularFile(path) as file:
        read_index(file)


# ---- beside TensorFlow


@pytest.mark.oracle
@pytest.mark.parametrize("name", HASHES)
def test_tensorflow_reads_the_same_today(name):
    tensorflow = pytest.importorskip("tensorflow")
    same_as(tensorflow, DATA / name)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("n_embd", "n_layer", "how"),
    [
        (64, 2, {}),
        (16, 3, {"devices": 4, "adam": True}),
        (32, 2, {"dtypes": ("bfloat16", "float16", "float64", "float32")}),
    ],
)
def test_what_tensorflow_writes_today(n_embd, n_layer, how, tmp_path, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    monkeypatch.syspath_prepend(DATA)
    make = importlib.import_module("make_openai")
    sizes = {"n_vocab": 3000, "n_ctx": 50, "n_embd": n_embd, "n_head": 2, "n_layer": n_layer}
    expected = make.write(tmp_path / "model.ckpt", sizes, **how)["logits"]
    (tmp_path / "hparams.json").write_text(json.dumps(sizes))
    same_as(tensorflow, tmp_path)
    found = GPT2.from_pretrained(tmp_path).forward(make.IDS)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.oracle
def test_an_index_of_several_blocks(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    # A block ends at 256 kB.
    long_names = [f"model/wte/{f'{i:04}' * 1000}" for i in range(100)]
    arrays = variables() | dict.fromkeys(long_names, np.ones(1, np.float32))
    with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
        names, values = list(arrays), list(arrays.values())
        what = {"tensor_names": names, "shape_and_slices": [""] * len(names), "tensors": values}
        session.run(tensorflow.raw_ops.SaveV2(prefix=str(tmp_path / "a"), **what))
    (tmp_path / "hparams.json").write_text(json.dumps(SIZES))
    assert (tmp_path / "a.index").stat().st_size > 2**18
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.notes[1] == "100 training variables are ignored"
    for name, info in checkpoint.tensors.items():
        assert checkpoint.read(name).tobytes() == arrays[info.name].tobytes()


def same_as(tensorflow, path):
    reader = tensorflow.train.load_checkpoint(str(path))
    checkpoint = open_checkpoint(path)
    for name, info in checkpoint.tensors.items():
        theirs = reader.get_tensor(info.name).astype(np.float32)
        assert checkpoint.read(name).tobytes() == theirs.tobytes(), name


# ---- damaged indexes beside TensorFlow


def by_tensorflow(tf, path):
    """The types and shapes of the variables, read in a process of its own: damage may end TensorFlow's."""
    out, into = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            reader = tf.train.load_checkpoint(str(path.with_suffix("")))
            shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
            found = {name: [dtypes[name].as_datatype_enum, *shape] for name, shape in shapes.items()}
            os.write(into, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else None


@pytest.mark.oracle
def test_damaged_indexes_beside_tensorflow(tmp_path):
    """What is accepted of files that fuzzing found, and of others, has TensorFlow's variables."""
    tf = pytest.importorskip("tensorflow")
    files, compared = [*valid_files("tensorflow"), *corpus("tensorflow")], 0
    files += [damaged("tensorflow", files[i % 3], files, np.random.default_rng(i)) for i in range(300)]
    for data in files:
        (tmp_path / "a.index").write_bytes(data)
        try:
            _, ours = read_index(RegularFile(tmp_path / "a.index"))
        except CheckpointError:
            continue
        if any(variable.dtype == 0 for variable in ours.values()):  # which no model may have, here and there
            continue
        theirs = by_tensorflow(tf, tmp_path / "a.index")
        assert theirs == {name: [v.dtype, *v.shape] for name, v in ours.items()}
        compared += 1
    assert compared > 20
