"""Models of minGPT: the logits that torch computes from them, and sizes by name."""

from __future__ import annotations

import importlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import run
from helpers.tiny_checkpoints import safetensors_bytes, tiny_tensors

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.checkpoint.files import RegularFile
from gpt2c.checkpoint.tensors import read_tensor
from gpt2c.errors import CheckpointError, ConfigError

DATA = Path(__file__).parent / "data" / "mingpt"
LOGITS = dict(np.load(DATA / "logits.npz"))
IDS = LOGITS["ids"].tolist()


def test_logits_are_those_of_torch():
    for source in (DATA, DATA / "model.pt"):
        model = GPT2.from_pretrained(source)
        found = model.forward(IDS)
        assert np.abs(found - LOGITS["logits"]).max() < 2e-5 * np.abs(LOGITS["logits"]).max()
        assert (model.config.n_vocab, model.config.n_ctx, model.config.activation) == (19, 10, "gelu_new")
        assert not model.config.tie_word_embeddings
        assert model.notes[:2] == [
            "model.pt: a model of minGPT, 31 tensors",
            "2 stored attention masks were skipped: the mask is always causal",
        ]


def model(tmp_path, tensors=None, **settings):
    """A folder with the settings of a run, of which those of the model are changed."""
    config = json.loads((DATA / "config.json").read_text())
    config["model"] |= settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    if tensors is None:
        shutil.copy(DATA / "model.pt", tmp_path)
    else:
        (tmp_path / "model.pt").write_bytes(safetensors_bytes(tensors))
    return tmp_path


# The table of minGPT's model.py.
TYPES = {
    "openai-gpt": (12, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gopher-44m": (8, 16, 512),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}


@pytest.mark.parametrize("name", TYPES)
def test_sizes_by_name(name, tmp_path):
    n_layer, n_head, n_embd = TYPES[name]
    sizes = {"n_layer": None, "n_head": None, "n_embd": None}
    if n_layer > 4:  # only what a model of this size lacks
        source = model(tmp_path, {"wte.weight": np.zeros((7, 2)), "wpe.weight": np.zeros((5, 2))},
                       model_type=name, **sizes)  # fmt: skip
        with pytest.raises(
            CheckpointError, match=rf"{12 * n_layer + 3} tensors 'h\.0\.ln_1\.weight'.* missing"
        ):
            open_checkpoint(source)
        return
    shape = {"n_layer": n_layer, "n_embd": n_embd, "n_inner": 4 * n_embd, "vocab_size": 7, "n_positions": 5}
    tensors = tiny_tensors(shape | {"tie_word_embeddings": False})
    stored = {
        name: array.T if array.ndim == 2 and ".c_" in name else array for name, array in tensors.items()
    }
    checkpoint = open_checkpoint(model(tmp_path, stored, model_type=name, **sizes))
    found = checkpoint.config
    assert (found.n_layer, found.n_head, found.n_embd, found.n_inner) == (n_layer, n_head, n_embd, 4 * n_embd)
    for name, array in tensors.items():
        assert np.array_equal(checkpoint.read(name), array), name


def test_numbers_count_before_a_name(tmp_path):
    assert open_checkpoint(model(tmp_path, model_type="gpt-nano")).config.n_embd == 12


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_head": None}, ConfigError, r"model_type is None, and n_layer, n_head, n_embd are 2, None, 12; "
         r"allowed: these three as numbers, or a model_type of openai-gpt, gpt2, .*, gpt-nano$"),
        ({"n_head": None, "model_type": "gpt-huge"}, ConfigError, "model_type is 'gpt-huge', and"),
        ({"n_head": None, "model_type": ["gpt2"]}, ConfigError, r"model_type is \['gpt2'\], and"),
        ({"n_head": 5}, ConfigError, r"config\.json: model: n_embd"),
        ({"n_layer": "2"}, ConfigError, r"config\.json: model: n_layer"),
        ({"n_embd": [12]}, ConfigError, r"config\.json: model: n_embd is \[12\]; allowed"),
        ({"n_layer": 3}, CheckpointError, r"does not hold the GPT-2 of its config\.json: 12 tensors 'h\.2\."),
        ({"vocab_size": 20}, CheckpointError, r"\[19, 12\]; its config\.json asks for \[20, 12\]"),
        ({"block_size": 11}, CheckpointError, r"\[10, 12\]; its config\.json asks for \[11, 12\]"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be(settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        open_checkpoint(model(tmp_path, **settings))


def test_what_wraps_every_name_is_taken_away(tmp_path):
    shutil.copy(DATA / "config.json", tmp_path)
    found = open_checkpoint(DATA).tensors.values()
    arrays = {info.name: read_tensor(RegularFile(info.file), info) for info in found}
    wrapped = {
        f"net.{name}": array.T if array.ndim == 2 and ".c_" in name else array
        for name, array in arrays.items()
    }
    (tmp_path / "model.pt").write_bytes(safetensors_bytes(wrapped))
    model = GPT2.from_pretrained(tmp_path)
    assert np.array_equal(model.forward(IDS), GPT2.from_pretrained(DATA).forward(IDS))
    assert "'net.' is removed from every name" in model.notes


def test_weights_that_are_not_there(tmp_path):
    path = model(tmp_path)
    (path / "model.pt").rename(path / "best.pt")
    with pytest.raises(
        CheckpointError, match=r"a config\.json of minGPT but no model\.pt: it has best\.pt; to"
    ):
        open_checkpoint(path)
    assert GPT2.from_pretrained(path / "best.pt").config.n_embd == 12
    with pytest.raises(
        CheckpointError, match=rf"config\.json is not a file of weights: give its directory, {path}$"
    ):
        open_checkpoint(path / "config.json")
    with pytest.raises(
        CheckpointError, match=r"config\.json has no vocab_size, nor have the weights beside it"
    ):
        open_checkpoint(model(tmp_path, {"ln_f.bias": np.ones(12)}))


def test_a_table_of_characters(tmp_path):
    text = "To be, or not to be!"
    characters = sorted(set(text + "abcdefghijk"))
    path = model(tmp_path)
    assert len(characters) == 19
    with open(path / "meta.pkl", "wb") as file:
        pickle.dump({"itos": dict(enumerate(characters))}, file)
    done = run("generate", "To be", "-m", path, "-n", "3", "--seed", "1")
    assert done.returncode == 0 and done.stdout.startswith("To be")


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", [(1, 1, 4, 5, 6), (3, 3, 48, 65, 128), (4, 2, 20, 300, 33)])
def test_beside_torch(sizes, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(DATA)
    make = importlib.import_module("make_mingpt")
    theirs = make.Model(*sizes)
    torch.save(theirs.state_dict(), tmp_path / "model.pt")
    config = json.loads((DATA / "config.json").read_text())
    config["model"] |= dict(zip(("n_layer", "n_head", "n_embd"), sizes, strict=False))
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = np.random.default_rng(1).integers(0, sizes[3], sizes[4])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).numpy()
    found = GPT2.from_pretrained(tmp_path).forward(ids.tolist())
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
