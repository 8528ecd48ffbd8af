"""Models of llm.c: written here after its description, and read like the same model of transformers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from helpers.command_line import run
from helpers.tiny_checkpoints import TINY, bfloat16, tiny_tensors, write_model

from gpt2c import GPT2
from gpt2c.checkpoint import open_checkpoint
from gpt2c.errors import CheckpointError, ConfigError

SIZES = TINY | {"n_inner": None, "bos_token_id": None, "eos_token_id": None}
LAYERS = [
    *("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight"),
    *("attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias"),
    *("mlp.c_proj.weight", "mlp.c_proj.bias"),
]


def tensors_of(sizes):
    return tiny_tensors(sizes | {"n_inner": 4 * sizes["n_embd"]})


def written(path, version, sizes=SIZES, claimed=None, **header):
    """A model as llm.c writes it, and its tensors as they can be read again."""
    tensors = tensors_of(sizes)
    rows = sizes["vocab_size"] if version == 1 else -(-sizes["vocab_size"] // 128) * 128
    fields = {
        "magic": 20240326, "version": claimed or version, "n_ctx": sizes["n_positions"],
        "n_vocab": sizes["vocab_size"],
        "n_layer": sizes["n_layer"], "n_head": sizes["n_head"], "n_embd": sizes["n_embd"],
        "padded": 0 if version == 1 else rows,
    }  # fmt: skip
    data = struct.pack("<8i", *(fields | header).values()).ljust(1024, b"\0")
    padded = np.zeros((rows, sizes["n_embd"]), np.float32)
    padded[: sizes["vocab_size"]] = tensors["wte.weight"]
    stored = [padded, tensors["wpe.weight"]]
    for kind in LAYERS:
        for layer in range(sizes["n_layer"]):
            tensor = tensors[f"h.{layer}.{kind}"]
            stored.append(tensor.T if tensor.ndim == 2 else tensor)
    for tensor in [*stored, tensors["ln_f.weight"], tensors["ln_f.bias"]]:
        data += bfloat16(tensor).tobytes() if version == 5 else np.ascontiguousarray(tensor).tobytes()
    path.write_bytes(data)
    if version == 5:
        cut = {
            name: (tensor.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, tensor in tensors.items()
        }
        return cut
    return tensors


@pytest.mark.parametrize("version", [1, 3, 5])
def test_it_is_the_model_of_transformers(version, tmp_path):
    path = tmp_path / "model.bin"
    tensors = written(path, version)
    checkpoint = open_checkpoint(path)
    for name, tensor in tensors.items():
        assert np.array_equal(checkpoint.read(name), tensor), name
    (tmp_path / "same").mkdir()
    write_model(tmp_path / "same", SIZES, tensors)
    ids = [3, 1, 4, 1, 5]
    model = GPT2.from_pretrained(path)
    assert np.array_equal(model.forward(ids), GPT2.from_pretrained(tmp_path / "same").forward(ids))
    assert model.config.n_vocab == 11 and model.config.activation == "gelu_new"
    assert ("117 padding rows of the vocabulary are left out" in model.notes) == (version > 1)


def test_a_folder_of_such_files(tmp_path):
    for name in ("gpt2_124M.bin", "gpt2_124M_bf16.bin"):
        (tmp_path / name).write_bytes(struct.pack("<8i", 20240326, 3, 8, 9, 1, 1, 4, 128))
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(struct.pack("<8i", 20240328, 2, 9, 0, 0, 0, 0, 0))
    with pytest.raises(
        CheckpointError,
        match=r"config\.json: .*gpt2_124M.bin and gpt2_124M_bf16\.bin are of llm\.c: give the path of one$",
    ):
        open_checkpoint(tmp_path)


def test_the_vocabulary_is_that_of_gpt2(tmp_path):
    sizes = SIZES | {"vocab_size": 50257, "n_layer": 1}
    written(tmp_path / "model.bin", 5, sizes)
    model = GPT2.from_pretrained(tmp_path / "model.bin")
    assert model.config.n_vocab == 50257 and model.bos_token_id == 50256
    assert model.tokenizer.encode("Hello world") == [15496, 995]
    done = run("generate", "Hello", "-m", tmp_path / "model.bin", "-n", "3")
    assert done.returncode == 0 and done.stdout.startswith("Hello")


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (
            {"claimed": 2},
            CheckpointError,
            "is llm.c's, version 2; supported: versions 1, 3 and 5",
        ),
        ({"n_head": 4}, ConfigError, "the header of llm.c: n_embd 6 is not a multiple of n_head 4"),
        ({"n_layer": -1}, ConfigError, "n_layer is -1; allowed: an integer from 1"),
        ({"n_layer": 3}, CheckpointError, "is truncated: by its header it has"),
        ({"n_layer": 1}, CheckpointError, "has extra bytes at the end"),
        ({"padded": 10}, CheckpointError, "pads the vocabulary of 11 to 10 rows, which is less"),
        (
            {"magic": 20240327},
            CheckpointError,
            "is not a file of weights: it is neither safetensors nor written by torch.save,",
        ),
    ],
)
def test_headers_that_cannot_be(header, error, message, tmp_path):
    written(tmp_path / "model.bin", 3, **header)
    with pytest.raises(error, match=message):
        open_checkpoint(tmp_path / "model.bin")


def test_files_that_are_cut_off(tmp_path):
    written(tmp_path / "model.bin", 3)
    data = (tmp_path / "model.bin").read_bytes()
    for end in (0, 3, 31, 32, 1000, 1024, len(data) - 1):
        (tmp_path / "model.bin").write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "model.bin")
