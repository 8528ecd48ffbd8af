"""What comes out of the last LayerNorm, for wanted rows: the same bits however work is cut."""

import numpy as np
import pytest
from helpers.kernelwise import kernel_by_kernel
from helpers.strategies import models, random_model
from helpers.toys import same
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import reference
from gpt2c.config import Config
from gpt2c.core import _engine, _ops

CONFIG = Config(n_layer=2, n_head=3, n_embd=48, n_inner=100, n_ctx=700, n_vocab=48, tie_word_embeddings=False)
# With the identity for a head, logits are what it reads.
TENSORS = random_model(CONFIG, np.random.default_rng(0), std=0.2) | {
    "lm_head.weight": np.eye(48, dtype=np.float32)
}
TEXTS = [np.random.default_rng(n).integers(48, size=n).astype(np.int32) for n in (1, 600, 9, 40, 2)]


def make(dtype="float32", **how):
    return _engine.Weights(CONFIG, TENSORS.__getitem__, dtype=dtype, **how)


def hidden(weights, texts, wanted=None, threads=1):
    sequences = [(_engine.KVCache(weights), ids) for ids in texts]
    wanted = [np.arange(len(ids)) for ids in texts] if wanted is None else wanted
    return _engine.hidden(weights, sequences, wanted, threads=threads)


@pytest.mark.parametrize("isa", _engine.isas())
def test_it_is_what_the_head_reads(isa):
    weights = make(isa=isa)
    for ids in TEXTS:
        logits = _engine.forward(weights, [(_engine.KVCache(weights), ids)])
        assert np.array_equal(hidden(weights, [ids]), logits)


def test_it_is_that_of_the_reference():
    exact = reference.forward(CONFIG, TENSORS, TEXTS[3])
    for backend in _engine.BACKENDS:
        assert np.allclose(hidden(make(backend=backend), [TEXTS[3]]), exact, rtol=0, atol=1e-5)


@given(models(max_ctx=30), st.sampled_from(_engine.DTYPES), st.sampled_from(_engine.isas()))
@settings(max_examples=40)
def test_it_is_kernel_by_kernel(model, dtype, isa):
    config, tensors, ids = model
    weights = _engine.Weights(config, tensors.__getitem__, dtype=dtype, isa=isa)
    seen = {}
    ids = np.asarray(ids, np.int32)
    kernel_by_kernel(config, tensors, ids, dtype, weights.isa, seen)
    stream = seen[f"blocks.{config.n_layer - 1}.hook_resid_post"]
    norm = tensors["ln_f.weight"], tensors["ln_f.bias"], config.layer_norm_epsilon
    if weights.backend == "native":
        assert same(hidden(weights, [ids]), _ops.layer_norm(stream, *norm, isa=weights.isa))


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_neither_threads_nor_company_nor_the_other_rows_matter(dtype):
    weights = make(dtype)
    alone = [hidden(weights, [ids]) for ids in TEXTS]
    for threads in (1, 2, 3):
        assert same(hidden(weights, TEXTS, threads=threads), np.concatenate(alone))
    last = [np.array([len(ids) - 1]) for ids in TEXTS]
    assert same(hidden(weights, TEXTS, last, threads=2), np.stack([rows[-1] for rows in alone]))
    some = [np.array([0]), np.array([3, 3, 511, 512, 599]), np.arange(0), np.arange(0), np.array([1])]
    expected = [rows[which] for rows, which in zip(alone, some, strict=True)]
    assert same(hidden(weights, TEXTS, some), np.concatenate(expected))


def test_wrong_rows_are_refused():
    weights = make()
    for wanted, message in [
        ([np.array([0])], "wanted has 1 items; it needs one for each of the 2"),
        ([np.array([1]), np.array([0])], "rows must ascend from 0 to 0, the last of the sequence"),
        ([np.array([0]), np.array([2, 1])], "rows must ascend from 0 to 599"),
        ([np.array([0]), np.array([-1])], "rows must ascend"),
        ([np.array([0]), np.array([[1]])], r"rows have the shape \(1, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            hidden(weights, TEXTS[:2], wanted)
