"""Opening a checkpoint: which files, which tensors under which names, and what every wrong one is told."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_checkpoints import TINY, safetensors_bytes, tiny_tensors, write_model, write_shards
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import GPT2, CheckpointError, ConfigError
from gpt2c.checkpoint import BUNDLED, Checkpoint, directory, open_checkpoint
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
    write_model(model, TINY | {"architectures": ["GPT2DoubleHeadsModel"]})
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
        refused(source, r"^there is no file or directory '")
    refused(
        Path("no-such-model"), r"^there is no file or directory 'no-such-model'$"
    )  # a path is never a name
    refused(tmp_path / "gpt2", r"^there is no file or directory '.*gpt2'$")
    write_model(tmp_path)
    refused(tmp_path, r"^there is no directory .*/missing$", subfolder="missing")


def test_wrong_options(tmp_path):
    write_model(tmp_path)
    refused(5, r"^source must be a path, the name of a model on the Hub, or None .*; got int$", TypeError)
    refused(b"gpt2", r"; got bytes$", TypeError)
    refused(
        None, r"^revision is for names on the Hub; .* is a path on this machine$", ValueError, revision="main"
    )
    refused(tmp_path, r"^revision is for names on the Hub", ValueError, revision="v1")
    for subfolder in ("", "/etc", "../x", "a/../../x", "a\\b", "c:x", "a\0b"):
        refused(
            tmp_path, r"^subfolder is '.*'; the name of a directory inside", ValueError, subfolder=subfolder
        )
    file = tmp_path / "model.safetensors"
    refused(
        file, r"^subfolder is for directories and names on the Hub; .* is a file$", ValueError, subfolder="x"
    )


def test_files_of_other_kinds(model):
    write_model(model)
    for name, message in {
        "pytorch_model.bin": r"is not a \.safetensors file: pytorch_model\.bin is a pickle, which can run "
        "any code when it "
        r"is opened, so gpt2c does not\. Convert it where transformers and torch are installed: python -c "
        r"\".*save_pretrained",
        "model.gguf": r"is not a \.safetensors file: model\.gguf is in a format that gpt2c does not read",
        "model.safetensors.index.json": r"is not a file of weights: give the directory that it is in, "
        ".*/model$",
        "notes.txt": r"is not a \.safetensors file: nothing that looks like weights is there$",
    }.items():
        (model / name).write_bytes(b"\x80\x02.")
        refused(model / name, message)


def test_directory_without_weights(model):
    write_model(model)
    (model / "model.safetensors").unlink()
    start = r"/model has no model\.safetensors and no model\.safetensors\.index\.json: "
    refused(model, start + "nothing that looks like weights is there$")
    (model / "tf_model.h5").touch()
    refused(
        model,
        start + r"tf_model\.h5 is in a format that gpt2c does not read; it needs the model as safetensors$",
    )
    (model / "pytorch_model.bin").touch()
    text = refused(model, start + r"pytorch_model\.bin is a pickle")
    assert f"s, d = {str(model)!r}, " in text  # the command can be copied
    (model / "model.fp16.safetensors").touch()
    refused(
        model, start + r"it has model\.fp16\.safetensors; to load one of them, give the path of that file$"
    )


def test_no_config(model):
    write_model(model)
    (model / "config.json").unlink()
    message = r"/model has no config\.json: a model's weights cannot be understood without it$"
    refused(model, message)
    refused(model / "model.safetensors", message)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_damaged_json(model, name):
    write_model(model)
    path = model / name
    for data, message in {
        b"": r"is not valid JSON: Expecting value",
        b"\xff": r"is not valid JSON: 'utf-8' codec",
        b"[]": r"holds \[\]; a JSON object is needed$",
        b'{"n_head": 2, "n_head": 3}': r"is not valid JSON: the key 'n_head' occurs twice$",
        b'{"layer_norm_epsilon": NaN}': r"is not valid JSON: the number 'NaN' is not allowed$",
        b"[" * 200_000: r"is nested too deeply for a model's JSON$",
        b" " * (2**22 + 1): r"has 4194305 bytes, too many for a model's JSON file",
    }.items():
        path.write_bytes(data)
        refused(model, rf"{name} {message}")
    path.unlink()
    path.mkdir()
    refused(model, rf"{name} is not a regular file$")


def test_config_errors_name_the_file(model):
    write_model(model, TINY | {"n_head": 4})
    refused(model, r"^.*/config\.json: n_embd 6 is not a multiple of n_head 4$", ConfigError)
    edit(model / "config.json", n_head=2)
    edit(model / "generation_config.json", eos_token_id="x")
    refused(model, r"^.*/generation_config\.json: eos_token_id is 'x'; allowed", ConfigError)


def test_tensors_missing_and_unexpected(model):
    tensors = write_model(model)
    fits = r"/model does not hold the GPT-2 of its config\.json: "
    restore(model, {name: array for name, array in tensors.items() if name != "h.1.mlp.c_fc.bias"})
    refused(model, fits + r"tensor 'h\.1\.mlp\.c_fc\.bias' missing$")
    restore(model, {name: array for name, array in tensors.items() if "attn" not in name})
    first = ", ".join(
        f"'h.0.attn.{name}'" for name in ("c_attn.weight", "c_attn.bias", "c_proj.weight", "c_proj.bias")
    )
    refused(model, fits + re.escape(f"8 tensors {first}, … missing") + "$")
    restore(model, tensors | {"transformer.h.1.attn.extra\x1b": np.ones(1), "score.weight": np.ones(1)})
    refused(model, fits + r"2 tensors 'transformer\.h\.1\.attn\.extra\\x1b', 'score\.weight' not expected$")
    restore(model, {f"model.{name}": array for name, array in tensors.items()})
    refused(
        model,
        fits + r"28 tensors 'wte\.weight', .* missing; 28 tensors 'model\.wte\.weight', .* not expected$",
    )
    restore(model, {})
    refused(model, fits + "28 tensors")
    restore(model, tensors)
    edit(model / "config.json", n_layer=1)  # a model that is larger than its config is not cut short
    refused(model, fits + r"12 tensors 'h\.1\.ln_1\.weight', .* not expected$")
    edit(model / "config.json", n_layer=3)
    refused(model, fits + r"12 tensors 'h\.2\.ln_1\.weight', .* missing$")


def test_mask_of_a_layer_that_is_not_there(model):
    restore_from = write_model(model)
    restore(model, restore_from | {"h.2.attn.bias": np.ones(1)})
    refused(model, r"tensor 'h\.2\.attn\.bias' not expected$")


def test_tensor_stored_twice(model):
    tensors = write_model(model)
    restore(model, tensors | {"transformer.ln_f.bias": tensors["ln_f.bias"]})
    refused(model, r"holds ln_f\.bias twice, as 'ln_f\.bias' and as 'transformer\.ln_f\.bias'$")


def test_untied_head_missing(model):
    write_model(model)
    edit(model / "config.json", tie_word_embeddings=False)
    refused(model, r"tensor 'lm_head\.weight' missing$")


def test_tied_head_of_another_shape(model):
    tensors = write_model(model)
    restore(model, tensors | {"lm_head.weight": np.ones((12, 6))})
    refused(
        model,
        r"tie_word_embeddings is true, but lm_head\.weight has the shape \[12, 6\] and wte\.weight \[11, "
        r"6\]$",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"n_positions": 8},
            r"'transformer\.wpe\.weight' has the shape \[9, 6\]; .* \[8, 6\], that is \[n_ctx, n_embd\]$",
        ),
        (
            {"vocab_size": 12},
            r"'transformer\.wte\.weight' has the shape \[11, 6\]; .* \[12, 6\], that is \[n_vocab, n_embd\]$",
        ),
        (
            {"n_inner": ...},
            r"'transformer\.h\.0\.mlp\.c_fc\.weight' .* \[6, 24\], that is \[n_embd, n_inner\]$",
        ),
        (
            {"n_embd": 8},
            r"'transformer\.wte\.weight' has the shape \[11, 6\]; config\.json asks for \[11, 8\]",
        ),
    ],
)
def test_shapes_that_do_not_fit(model, changes, message):
    write_model(model)
    edit(model / "config.json", **changes)
    refused(model, message)


def test_transposed_weights(model):
    """As other programs store a linear layer: [out, in]."""
    tensors = write_model(model)
    restore(model, tensors | {"h.0.attn.c_attn.weight": tensors["h.0.attn.c_attn.weight"].T})
    refused(
        model, r"has the shape \[18, 6\]; config\.json asks for \[6, 18\], that is \[n_embd, 3 \* n_embd\]$"
    )


@pytest.mark.parametrize("dtype", ["F64", "I64", "U8"])
def test_dtypes_that_are_not_read(model, dtype):
    tensors = write_model(model)
    restore(model, tensors, dict.fromkeys(tensors, "F32") | {"h.1.ln_1.bias": dtype})
    refused(
        model,
        rf"tensor 'h\.1\.ln_1\.bias' has the dtype {dtype}; weights are read from F32, F16, BF16: convert it",
    )


def test_values_that_are_not_finite(model):
    tensors = write_model(model)
    tensors["h.1.attn.c_proj.weight"][2, 3] = np.nan
    restore(model, tensors)
    checkpoint = open_checkpoint(model)  # found where it is read
    with pytest.raises(
        CheckpointError,
        match=r"tensor 'h\.1\.attn\.c_proj\.weight' has NaN or infinity in 1 of its 36 values",
    ):
        checkpoint.read("h.1.attn.c_proj.weight")
    with pytest.raises(KeyError, match="lm_head"):
        checkpoint.read("lm_head.weight")


def test_damaged_weights(model):
    write_model(model)
    file = model / "model.safetensors"
    os.truncate(file, file.stat().st_size - 4)
    refused(model, r"model\.safetensors is truncated: by its header it has \d+ bytes, in fact \d+$")
    refused(file, r"model\.safetensors is truncated")


BAD_INDEX = [
    ({"metadata": {}}, r"index\.json has no weight_map that says which file holds which tensor$"),
    ({"weight_map": {}}, r"has no weight_map"),
    ({"weight_map": ["a"]}, r"has no weight_map"),
    *(
        ({"weight_map": {"ln_f.bias": file}}, r"says that tensor 'ln_f\.bias' is in .*; the plain name of a ")
        for file in (
            *(f"{place}x.safetensors" for place in ("../", "/", "a/", "a\\", "c:", "\0")),
            *("x.bin", "", 5, None),
        )
    ),
    (
        {"weight_map": {"ln_f.bias": "x.safetensors"}},
        r"x\.safetensors is missing: .*says it holds tensor 'ln_f",
    ),
]


@pytest.mark.parametrize(("index", "message"), BAD_INDEX)
def test_bad_index(model, index, message):
    write_model(model / "inner")
    (model / "config.json").write_text(json.dumps(TINY))
    (model / "x.bin").touch()
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(model, message)


def test_shards_that_do_not_fit_their_index(model):
    tensors = write_model(model)
    (model / "model.safetensors").unlink()
    path = model / "model.safetensors.index.json"
    index = write_shards(model, tensors)
    first, second = sorted(set(index["weight_map"].values()))

    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"more": second}}))
    refused(model, rf"{second} does not hold what .*index\.json says it does: tensor 'more'$")
    fewer = {name: file for name, file in index["weight_map"].items() if name != "wpe.weight"}
    path.write_text(json.dumps({"weight_map": fewer}))
    refused(model, rf"{second} holds what .*index\.json does not say it does: tensor 'wpe\.weight'$")
    path.write_text(json.dumps(index))
    (model / first).unlink()
    refused(model, rf"{first} is missing: .*index\.json says it holds 14 tensors 'wte\.weight', ")
    refused(
        model / second, r"does not hold the GPT-2 of its config\.json: 14 tensors 'wte\.weight', .* missing$"
    )


# A checkpoint that is replaced or changed while it is read


def open_files(directory):
    """The paths below a directory that this process has open, by its descriptors; "(deleted)" is cut off."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if target.startswith(f"{directory.resolve()}/"):
            found.append(target.removesuffix(" (deleted)"))
    return sorted(found)


def by_rename(path, data):
    path.with_name("new").write_bytes(data)
    os.replace(path.with_name("new"), path)


def in_place(path, data):
    with open(path, "r+b") as file:
        file.write(data)


def by_link(path, data):
    """As in the Hub's cache: the name is a link to a file that never changes."""
    path.with_name("blob").write_bytes(data)
    path.with_name("link").symlink_to("blob")
    os.replace(path.with_name("link"), path)


def removed(path, data):
    path.unlink()


def aged(path):
    """Set a time of change that no later write can have by chance."""
    os.utime(path, (1e9, 1e9))


@pytest.fixture
def two_models(model):
    """A model on disk, its tensors, and the bytes of weights of another one of the same shapes."""
    tensors = write_model(model)
    aged(model / "model.safetensors")
    other = tiny_tensors(seed=1)
    return tensors, safetensors_bytes({f"transformer.{name}": array for name, array in other.items()})


def once_between_tensors(monkeypatch, action):
    """Call ``action`` in the middle of the next load: after the first of its tensors was read."""
    original, pending = Checkpoint.read, [action]

    def read(self, name):
        found = original(self, name)
        while pending:
            pending.pop()()
        return found

    monkeypatch.setattr(Checkpoint, "read", read)


@pytest.mark.parametrize("replace", [by_rename, by_link, removed])
@pytest.mark.parametrize("n_before", [0, 1, 14])
def test_all_tensors_are_read_from_the_file_that_was_opened(model, two_models, replace, n_before):
    tensors, other = two_models
    checkpoint = open_checkpoint(model)
    got = {}
    for index, name in enumerate(checkpoint.tensors):
        if index == n_before:
            replace(model / "model.safetensors", other)
        got[name] = checkpoint.read(name)
    for name, array in tensors.items():
        assert np.array_equal(got[name], array), name


CHANGED = r"^{} was changed or replaced while the model was read: load the model again when the program "


@pytest.mark.parametrize("replace", [by_rename, by_link, removed, in_place])
@pytest.mark.parametrize("form", ["directory", "file"])
def test_a_load_during_which_the_file_changes_fails(model, two_models, monkeypatch, replace, form):
    _, other = two_models
    path = model / "model.safetensors"
    once_between_tensors(monkeypatch, lambda: replace(path, other))
    source = model if form == "directory" else path
    with pytest.raises(CheckpointError, match=CHANGED.format(re.escape(str(path)))):
        GPT2.from_pretrained(source)
    assert open_files(model) == []
    if replace is not removed:  # now that nobody writes
        got = GPT2.from_pretrained(source).weights.packed
        assert np.array_equal(got["wpe.weight"], tiny_tensors(seed=1)["wpe.weight"])


def test_a_file_cut_short_during_the_load(model, two_models, monkeypatch):
    path = model / "model.safetensors"
    once_between_tensors(monkeypatch, lambda: os.truncate(path, 3000))
    with pytest.raises(CheckpointError, match=CHANGED.format(re.escape(str(path)))):
        GPT2.from_pretrained(model)
    assert open_files(model) == []


@pytest.mark.parametrize("replace", [by_rename, in_place])
@pytest.mark.parametrize("index", [0, 1])
def test_a_load_during_which_a_shard_changes_fails(model, monkeypatch, replace, index):
    tensors = write_model(model)
    (model / "model.safetensors").unlink()
    write_shards(model, tensors)
    shard = sorted(model.glob("*-of-*"))[index]
    other = shard.read_bytes()[:-4] + b"abcd"
    for path in model.iterdir():
        aged(path)
    once_between_tensors(monkeypatch, lambda: replace(shard, other))
    with pytest.raises(CheckpointError, match=CHANGED.format(re.escape(str(shard)))):
        GPT2.from_pretrained(model)
    assert open_files(model) == []


def test_a_shard_that_is_replaced_before_the_next_is_opened(model, monkeypatch):
    """Only the names tell that the two are not of one model: each file is unchanged."""
    tensors = write_model(model)
    (model / "model.safetensors").unlink()
    write_shards(model, tensors)
    first = sorted(model.glob("*-of-*"))[0]
    original, headers = directory.read_header, []

    def read_header(file):
        if headers == [1]:
            by_rename(first, first.read_bytes())
        headers.append(1)
        return original(file)

    monkeypatch.setattr(directory, "read_header", read_header)
    with pytest.raises(CheckpointError, match=CHANGED.format(re.escape(str(first)))):
        GPT2.from_pretrained(model)
    assert len(headers) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_one_descriptor_a_shard_and_none_left(model, count):
    tensors = write_model(model)
    (model / "model.safetensors").unlink()
    write_shards(model, tensors, count)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        checkpoint = open_checkpoint(model)
        assert len(open_files(model)) == count
        for name in tensors:
            checkpoint.read(name)
        assert len(open_files(model)) == count
        del checkpoint
        assert open_files(model) == []

        loaded = GPT2.from_pretrained(model)  # its weights can still be hashed
        assert len(open_files(model)) == count
        shared = copy.copy(loaded)
        del loaded
        assert len(open_files(model)) == count
        del shared
        gc.collect()
        assert open_files(model) == []


@pytest.mark.parametrize("damage", ["header", "tensor missing", "not finite", "second shard"])
def test_a_failure_leaves_no_descriptor(model, damage):
    tensors = write_model(model)
    file = model / "model.safetensors"
    if damage == "header":
        file.write_bytes(file.read_bytes() + b"x")
    elif damage == "tensor missing":
        restore(model, tensors | {"more": np.ones(1)})
    elif damage == "not finite":
        restore(model, tensors | {"wte.weight": np.full((11, 6), np.nan)})
    else:
        file.unlink()
        write_shards(model, tensors)
        sorted(model.glob("*-of-*"))[1].unlink()
    with pytest.raises(CheckpointError) as kept:  # the frames of the traceback live as long as this
        GPT2.from_pretrained(model)
    assert open_files(model) == []
    assert kept.tb is not None


def test_a_closed_checkpoint_reads_nothing(model):
    write_model(model)
    checkpoint = open_checkpoint(model)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ValueError, match="closed"):
        checkpoint.read("wte.weight")


def test_threads_that_read_one_file_at_once(model):
    values = TINY | {"n_embd": 64, "n_inner": 256, "vocab_size": 1000}
    tensors = write_model(model, values)
    checkpoint = open_checkpoint(model)
    with ThreadPoolExecutor(8) as pool:
        for name, got in pool.map(lambda name: (name, checkpoint.read(name)), [*tensors] * 40):
            assert np.array_equal(got, tensors[name]), name


# The hash of what was read


@pytest.mark.parametrize("replace", [by_rename, by_link, removed])
def test_the_hash_is_of_the_bytes_that_were_read(model, two_models, replace):
    path = model / "model.safetensors"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = GPT2.from_pretrained(model)
    replace(path, two_models[1])
    assert loaded.source_sha256() == expected


def test_the_hash_of_shards(model):
    tensors = write_model(model)
    (model / "model.safetensors").unlink()
    write_shards(model, tensors, 3)
    shards = sorted(model.glob("*-of-*"))
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in shards)).hexdigest()
    loaded = GPT2.from_pretrained(model)
    by_rename(shards[1], b"")
    assert loaded.source_sha256() == expected


def test_no_hash_of_a_file_that_was_changed_after_the_load(model, two_models):
    path = model / "model.safetensors"
    loaded = GPT2.from_pretrained(model)
    in_place(path, two_models[1])
    with pytest.raises(
        CheckpointError,
        match=rf"^{re.escape(str(path))} was changed after the model was read from it, so the SHA-256 of "
        "what was read is not known: load the model again$",
    ):
        loaded.source_sha256()


def test_the_hash_is_computed_once(model, two_models):
    path = model / "model.safetensors"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = GPT2.from_pretrained(model)
    assert loaded.source_sha256() == expected
    in_place(path, two_models[1])
    assert loaded.source_sha256() == expected


def test_a_child_process_can_hash_what_its_parent_read(model, two_models):
    path = model / "model.safetensors"
    script = f"""
import os, pathlib, sys
from gpt2c import GPT2
loaded = GPT2.from_pretrained({str(model)!r})
pathlib.Path({str(path)!r}).unlink()
child = os.fork()
os.write(1, (loaded.source_sha256() + "\\n").encode())
sys.exit(child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [expected] * 2, "")


@pytest.mark.oracle
def test_transformers_reads_the_bundled_model_alike():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(BUNDLED, dtype="float32").transformer.state_dict()
    checkpoint = open_checkpoint()
    assert set(theirs) == set(checkpoint.tensors)
    for name, tensor in theirs.items():
        assert np.array_equal(checkpoint.read(name), tensor.numpy())


@pytest.mark.oracle
def test_the_advice_on_pickles_can_be_followed(model, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    tensors = tiny_tensors(TINY | {"vocab_size": 4096})
    write_model(model, TINY | {"vocab_size": 4096}, tensors)
    (model / "model.safetensors").unlink()
    torch.save(
        {f"transformer.{name}": torch.tensor(t) for name, t in tensors.items()}, model / "pytorch_model.bin"
    )
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (model / name).write_bytes((BUNDLED / name).read_bytes())
    code = re.search(r'python -c "(.*)"', refused(model, "is a pickle"))[1]
    monkeypatch.chdir(model.parent)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    same(open_checkpoint("converted"), tensors)
    assert (model.parent / "converted" / "tokenizer.json").exists()


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
