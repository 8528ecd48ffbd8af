"""`model.weights` as a mapping: every tensor under its name, with the numbers that passes multiply with."""

from collections.abc import Mapping

import numpy as np
import pytest
from helpers import rounding
from helpers.strategies import random_model, tensor_shapes
from helpers.toys import same

from gpt2c import GPT2, Config
from gpt2c.checkpoint import BUNDLED
from gpt2c.core import _engine

SIZES = {"n_inner": 37, "n_embd": 20, "n_head": 5, "n_layer": 3, "n_ctx": 23, "n_vocab": 131}
HOW = {name: {"dtype": name} for name in _engine.DTYPES} | {"blas": {"backend": "blas"}}


def odd(how="float32", **settings):
    """A model whose sizes are no multiples of a panel, and its tensors."""
    config = Config(**{**SIZES, "bos_token_id": 3, **settings})
    tensors = random_model(config, np.random.default_rng(1), 0.4)
    return GPT2(_engine.Weights(config, tensors.__getitem__, **HOW[how]), threads=1), tensors


def meant(model, name, tensor):
    """What the packed form of a tensor stands for, from the rules of the formats alone."""
    head = "wte.weight" if model.config.tie_word_embeddings else "lm_head.weight"
    dtype = "int8" if (model.dtype, name) == ("int4", head) else model.dtype
    if dtype == "float32" or (
        name != head and not name.endswith(("attn.weight", "proj.weight", "fc.weight"))
    ):
        return tensor
    if dtype == "bfloat16":
        return rounding.bfloat16(tensor)
    n_in, n_out = tensor.shape[::-1] if name == head else tensor.shape
    found = rounding.PARSE[dtype](model.weights.packed[name], n_in).values(dtype)[:n_in, :n_out]
    return found.T if name == head else found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("saved", [False, True], ids=["loaded", "saved"])
def test_every_tensor_is_there_as_passes_multiply_with_it(tmp_path, how, tied, saved):
    model, tensors = odd(how, tie_word_embeddings=tied)
    if saved:
        if how == "blas":
            pytest.skip("models of back end blas have no packed file")
        model.save(tmp_path / "m.gpt2c")
        model = GPT2.from_pretrained(tmp_path / "m.gpt2c", threads=1)
    weights = model.weights
    assert isinstance(weights, Mapping) and len(weights) == len(tensors)
    assert repr(weights) == f"<Weights: {len(tensors)} tensors, {model.dtype}, {model.backend}>"
    found = dict(weights)
    shapes = tensor_shapes(model.config)
    assert found.keys() == set(weights) == set(shapes) == weights.keys()
    for name, tensor in found.items():
        assert tensor.shape == shapes[name] and tensor.dtype == np.float32, name
        assert tensor.flags.c_contiguous and not tensor.flags.writeable, name
        assert same(tensor, np.ascontiguousarray(meant(model, name, tensors[name]))), name
        assert name in weights
    assert [same(a, b) for a, b in zip(weights.values(), found.values(), strict=True)] == [True] * len(found)


def test_the_bundled_model_is_what_its_file_holds():
    load_file = pytest.importorskip("safetensors.numpy").load_file
    weights = GPT2.from_pretrained(threads=1).weights
    stored = {
        name.removeprefix("transformer."): tensor.astype(np.float32)
        for name, tensor in load_file(BUNDLED / "model.safetensors").items()
    }
    assert set(weights) <= set(stored)
    assert all(same(weights[name], stored[name]) for name in weights)


def test_a_name_that_is_not_there(bundled):
    weights = bundled.weights
    for name, hint in (
        ("h.3.attn.c_attn.weights", r"did you mean 'h\.3\.attn\.c_attn\.weight' or .*\?"),
        ("transformer.h.3.mlp.c_fc.bias", r"did you mean 'h\.3\.mlp\.c_fc\.bias' or .*\?"),
        ("lm_head.weight", r"the head is tied to 'wte\.weight'"),
        ("qwzx", r"names look like 'h\.0\.ln_1\.weight', .*; list\(weights\) has all"),
        (3, r"no tensor 3; names look like"),
    ):
        assert name not in weights and weights.get(name) is None
        with pytest.raises(KeyError, match=hint):
            weights[name]
