"""Opening a checkpoint: which files, which tensors under which names, and what every wrong one is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors, write_model, write_shards
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import CheckpointError
from gpt2c.checkpoint import BUNDLED, open_checkpoint
from gpt2c.checkpoint.hf_config import config_from_hf
from gpt2c.checkpoint.names import canonical, expected, is_mask
from gpt2c.config import Config


@pytest.fixture
def model(tmp_path):
    return tmp_path / "model"


def same(checkpoint, tensors):
    assert list(checkpoint.tensors) == list(tensors)
    for name, array in tensors.items():
        assert checkpoint.tensors[name].shape == array.shape
        assert np.array_equal(checkpoint.read(name), array), name


def edit(path, **changes):
    """Change keys of a JSON file; a value of ... removes the key."""
    values = (json.loads(path.read_text()) if path.exists() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


# What is accepted


def test_bundled_model():
    checkpoint = open_checkpoint()
    assert checkpoint.name == "the bundled model"
    assert checkpoint.directory == BUNDLED
    assert checkpoint.config == Config(6, 4, 256, 1024, 512, 4096, bos_token_id=0, eos_token_ids=(0,))
    assert checkpoint.generation_config == {}
    assert sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values()) == 5_918_720
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"F16"}
    assert checkpoint.notes == ["model.safetensors: 76 tensors of F16"]
    wte = checkpoint.read("wte.weight")
    assert wte.shape == (4096, 256) and wte.dtype == np.float32
    for name in ("README.md", "SOURCES.tsv", "vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (BUNDLED / name).is_file()


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_names_with_and_without_prefix(model, prefix):
    tensors = write_model(model, prefix=prefix)
    checkpoint = open_checkpoint(str(model))
    same(checkpoint, tensors)
    assert (checkpoint.name, checkpoint.directory) == (str(model), model)
    assert checkpoint.config == config_from_hf(TINY)


def test_path_objects_and_the_home_directory(model, monkeypatch):
    tensors = write_model(model)
    same(open_checkpoint(model), tensors)
    monkeypatch.setenv("HOME", str(model.parent))
    same(open_checkpoint("~/model"), tensors)
    monkeypatch.chdir(model.parent)
    same(open_checkpoint("model"), tensors)  # before any hub name
    same(open_checkpoint("model/model.safetensors"), tensors)


def test_a_file_of_any_name(model):
    tensors = write_model(model)
    file = (model / "model.safetensors").rename(model / "my.fp32.safetensors")
    checkpoint = open_checkpoint(file)
    same(checkpoint, tensors)
    assert checkpoint.directory == model
    assert checkpoint.notes == ["my.fp32.safetensors: 28 tensors of F32"]


def test_subfolder(model):
    tensors = write_model(model / "a" / "b")
    checkpoint = open_checkpoint(model, subfolder="a/b")
    same(checkpoint, tensors)
    assert checkpoint.directory == model / "a" / "b"


def test_mixed_dtypes(model):
    dtypes = {f"transformer.{name}": "F32" if "ln_" in name else "BF16" for name in tiny_tensors()}
    tensors = write_model(model, dtypes=dtypes)
    checkpoint = open_checkpoint(model)
    assert checkpoint.notes == ["model.safetensors: 28 tensors of BF16 and F32"]
    assert checkpoint.tensors["wpe.weight"].dtype == "BF16"
    got = checkpoint.read("wpe.weight")
    assert not np.array_equal(got, tensors["wpe.weight"])
    assert np.all(np.abs(got - tensors["wpe.weight"]) <= 2.0**-7 * np.abs(tensors["wpe.weight"]))
    assert np.array_equal(checkpoint.read("h.1.ln_2.bias"), tensors["h.1.ln_2.bias"])


@pytest.mark.parametrize("dtype", ["U8", "BOOL", "F32"])
def test_masks_are_skipped(model, dtype):
    tensors = tiny_tensors()
    masks = {"h.0.attn.bias": np.tri(9)[None, None], "h.1.attn.masked_bias": np.array(1.0)}
    stored = tensors | masks
    dtypes = {f"transformer.{name}": dtype if name in masks else "F32" for name in stored}
    write_model(model, tensors=stored, dtypes=dtypes)
    checkpoint = open_checkpoint(model)
    same(checkpoint, tensors)
    assert checkpoint.notes[1:] == ["2 stored attention masks were skipped: the mask is always causal"]


def test_heads_beside_the_language_model(model):
    write_model(model, TINY | {"architectures": ["GPT2LMHeadModel"]})
    head = {
        "multiple_choice_head.summary.weight": np.ones((1, 6)),
        "multiple_choice_head.summary.bias": np.ones(1),
    }
    (model / "model.safetensors").write_bytes(safetensors_bytes(tiny_tensors() | head))
    checkpoint = open_checkpoint(model)
    same(checkpoint, tiny_tensors())
    assert checkpoint.notes[1] == (
        "2 tensors 'multiple_choice_head.summary.weight', 'multiple_choice_head.summary.bias' skipped: the "
        "language model does not use this head"
    )


def test_head_of_its_own(model):
    tensors = write_model(model, TINY | {"tie_word_embeddings": False})
    checkpoint = open_checkpoint(model)
    same(checkpoint, tensors)
    assert not np.array_equal(checkpoint.read("lm_head.weight"), checkpoint.read("wte.weight"))


def test_stored_head_that_is_tied(model):
    tensors = tiny_tensors()
    write_model(model, tensors=tensors | {"lm_head.weight": tensors["wte.weight"] + 1})
    checkpoint = open_checkpoint(model)
    same(checkpoint, tensors)  # wte wins, as in transformers
    assert checkpoint.notes[1].startswith(
        "lm_head.weight is stored, but tie_word_embeddings is true: wte.weight is used"
    )


def test_embedding_stored_as_the_head_it_is_tied_to(model):
    tensors = tiny_tensors()
    stored = {("lm_head.weight" if name == "wte.weight" else name): array for name, array in tensors.items()}
    write_model(model, tensors=stored)
    checkpoint = open_checkpoint(model)
    same(checkpoint, tensors)
    assert checkpoint.notes[1].startswith("wte.weight is stored under the name of the head")


@pytest.mark.parametrize("count", [1, 3])
def test_shards(model, count):
    tensors = write_model(model)
    (model / "model.safetensors").unlink()
    write_shards(model, tensors, count)
    checkpoint = open_checkpoint(model)
    same(checkpoint, tensors)
    assert checkpoint.notes == [f"{count} shards: 28 tensors of F32"]
    assert len({tensor.file for tensor in checkpoint.tensors.values()}) == count


def test_one_file_comes_before_shards(model):
    tensors = write_model(model)
    write_shards(model, {name: array + 1 for name, array in tensors.items()})
    same(open_checkpoint(model), tensors)


def test_generation_config(model):
    write_model(model)
    edit(model / "generation_config.json", eos_token_id=[3, 4], temperature=0.7)
    checkpoint = open_checkpoint(model)
    assert checkpoint.config.eos_token_ids == (3, 4)
    assert checkpoint.config.bos_token_id == TINY["bos_token_id"]
    assert checkpoint.generation_config == {"eos_token_id": [3, 4], "temperature": 0.7}
    assert open_checkpoint(model / "model.safetensors").config.eos_token_ids == (3, 4)


@given(st.integers(0, 2000), st.integers(1, 1000))
def test_layers_of_mask_names(layer, n_layer):
    assert is_mask(f"h.{layer}.attn.bias", n_layer) == (layer < n_layer)


@pytest.mark.parametrize(
    "name", ["h.00.attn.bias", "h.-1.attn.bias", "h.1\u0661.attn.bias", "h.0.attn.bias\n", "h.0.attn.biasx"]
)
def test_names_that_are_no_masks(name):
    assert not is_mask(name, 12)


def test_canonical_names():
    assert canonical("transformer.h.0.ln_1.bias") == canonical("h.0.ln_1.bias") == "h.0.ln_1.bias"
    assert canonical("lm_head.weight") == "lm_head.weight"
    assert canonical("transformer.lm_head.weight") != "lm_head.weight"
    shapes = {name: shape for name, _, shape in expected(config_from_hf(TINY))}
    assert shapes == {name: array.shape for name, array in tiny_tensors().items()}


# What is refused


def refused(source, message, error=CheckpointError, **options):
    with pytest.raises(error, match=message) as caught:
        open_checkpoint(source, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def restore(model, stored, dtypes="F32"):
    """Write model.safetensors anew, with these names."""
    (model / "model.safetensors").write_bytes(safetensors_bytes(stored, dtypes))


def test_paths_that_do_not_exist(tmp_path):
    for source in (
        "./nothing",
        "/nothing/here",
        "nothing.safetensors",
        "a/b/c",
        "~/nothing",
        "",
        "a\0b",
        "x" * 300,
    ):
        refused(source, r"^no file or directory is named '")
    refused(
        Path("no-such-model"), r"^no file or directory is named 'no-such-model'$"
    )  # a path is never a name
    refused(tmp_path / "gpt2", r"^no file or directory is named '.*gpt2'$")
    write_model(tmp_path)
    refused(tmp_path, r"^the directory .*/missing does not exist$", subfolder="missing")


def test_wrong_options(tmp_path):
    write_model(tmp_path)
    refused(5, r"^source must be a path, the name of a model on the Hub, or None .*, not int$", TypeError)
    refused(b"gpt2", r", not bytes$", TypeError)
    refused(
        None, r"^revision is for names on the Hub; .* is a path on this machine$", ValueError, revision="main"
    )
    refused(tmp_path, r"^revision is for names on the Hub", ValueError, revision="v1")
    for subfolder in ("", "/etc", "../x", "a/../../x", "a\\b", "c:x", "a\0b"):
        refused(
            tmp_path,
            r"^subfolder is '.*'; needed: the name of a directory inside",
            ValueError,
            subfolder=subfolder,
        )
    file = tmp_path / "model.safetensors"
    refused(
        file, r"^subfolder is for directories and names on the Hub; .* is a file$", ValueError, subfolder="x"
    )


@pytest.mark.parametrize("page", [b"<!DOCTYPE html>\n<html>", b"\n  <html lang='en'>"])
@pytest.mark.parametrize("named", [True, False])
def test_pages_of_html(page, named, model):
    write_model(model)
    (model / "model.safetensors").write_bytes(page + bytes(40))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is an HTML page.*get the file again"):
        open_checkpoint(model / "model.safetensors" if named else model)


def test_one_shard_alone(tmp_path):
    first = "model-00001-of-00002.safetensors"
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / first)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path / first)
    assert str(error.value) == (
        f"{tmp_path / first} is one of 2 shards of a model: give their directory, {tmp_path}"
    )


def test_files_of_other_kinds(model):
    write_model(model)
    for name, message in {
        "model.safetensors.index.json": r"is not a file of weights: give its directory, "
        ".*/model$",
    }.items():
        (model / name).write_bytes(b"\x80\x02.")
        refused(model / name, message)
    for start, kind in ((b"lmgg", "a ggml"), (b"\x89HDF\r\n", "an HDF5")):
        (model / "weights.bin").write_bytes(start + bytes(20))
        told = f"weights.bin is {kind} file, which gpt2c does not read: give the original model$"
        refused(model / "weights.bin", told)
        alone = model.parent / "weights.bin"
        alone.write_bytes(start + bytes(20))
        refused(alone, told)


def test_directory_without_weights(model):
    write_model(model)
    (model / "model.safetensors").unlink()
    start = r"/model has no model\.safetensors and no pytorch_model\.bin: "
    refused(model, start + "it has no files that look like weights$")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):  # of a Trainer
        (model / name).touch()
    refused(model, start + "it has no files that look like weights$")
    (model / "tf_model.h5").touch()
    reads = r"is in a format that gpt2c does not read; it reads model\.safetensors and pytorch_model\.bin$"
    refused(model, start + r"tf_model\.h5 " + reads)
    (model / "model.fp16.safetensors").touch()
    refused(
        model, start + r"it has model\.fp16\.safetensors; to load one of them, give the path of that file$"
    )
    (model / "ckpt.pt").touch()
    refused(model, start + r"it has ckpt\.pt, model\.fp16\.safetensors; to load one of them")


@pytest.mark.oracle
def test_transformers_reads_the_bundled_model_alike():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(BUNDLED, dtype="float32").transformer.state_dict()
    checkpoint = open_checkpoint()
    assert set(theirs) == set(checkpoint.tensors)
    for name, tensor in theirs.items():
        assert np.array_equal(checkpoint.read(name), tensor.numpy())


@pytest.mark.oracle
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "2KB"])
def test_what_transformers_saves(tmp_path, tied, dtype, max_shard_size):
    transformers = pytest.importorskip("transformers")
    import torch

    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=6, n_positions=9, vocab_size=11,
        tie_word_embeddings=tied, bos_token_id=1, eos_token_id=[2, 3],
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == Config(
        2, 2, 6, 24, 9, 11, tie_word_embeddings=tied, bos_token_id=1, eos_token_ids=(2, 3)
    )
    state = theirs.state_dict()
    for name in checkpoint.tensors:
        stored = name if name == "lm_head.weight" else f"transformer.{name}"
        assert np.array_equal(checkpoint.read(name), state[stored].float().numpy())
    assert len(checkpoint.tensors) == 28 + (not tied)
