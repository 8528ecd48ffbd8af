"""Looking inside a pass: logit lens, attribution of logits, scores of heads."""

import numpy as np
import pytest
from hypothesis import given
from kernelwise import unpacked
from strategies import configs, random_model, seeds

from gpt2c import _engine


@pytest.mark.parametrize("dtype", [*_engine.DTYPES, "blas"])
@given(config=configs(), seed=seeds)
def test_weights_that_contributions_are_computed_with(dtype, config, seed):
    """Rows of the head and the heads' output matrices are exactly what the panels stand for."""
    how = {"backend": "blas"} if dtype == "blas" else {"dtype": dtype}
    tensors = random_model(config, np.random.default_rng(seed))
    weights = _engine.Weights(config, tensors.__getitem__, **how)

    if dtype != "blas":
        tensors = unpacked(config, tensors, dtype)
    head = tensors["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
    ids = np.random.default_rng(seed).integers(config.n_vocab, size=5)
    assert np.array_equal(weights.unembedding(ids), head[ids])
    for layer in range(config.n_layer):
        found = weights.output_projection(layer)
        assert found.shape == (config.n_head, config.head_dim, config.n_embd) and found.dtype == np.float32
        matrix = tensors[f"h.{layer}.attn.c_proj.weight"]
        assert np.array_equal(found.reshape(matrix.shape), matrix)


def test_rows_that_a_model_does_not_have(bundled):
    with pytest.raises(ValueError, match=r"ids must be .* from 0 to 4095; got \[4096\]"):
        bundled.weights.unembedding([4096])
    with pytest.raises(ValueError, match=r"ids must be .* from 0 to 4095; got \[-1\]"):
        bundled.weights.unembedding([-1])
    with pytest.raises(ValueError, match=r"layer is -1; allowed: 0 to"):
        bundled.weights.output_projection(-1)
