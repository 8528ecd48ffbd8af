"""The reference of BERT: what transformers computes in float64, and what must be true of any such model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data.bert import models
from helpers.tiny_checkpoints import safetensors_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2c import ConfigError, reference_bert
from gpt2c.checkpoint import open_checkpoint
from gpt2c.errors import ContextLengthError

RECORDED = np.load(models.FOLDER / "bert.npz")
# transformers' "gelu_fast" has sqrt(2/pi) with ten digits.
BOUND = 1e-10


def opened(folder, name):
    """The configuration and the weights of a model, read from files of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(models.values(name)))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(models.tensors(name)))
    checkpoint = open_checkpoint(folder)
    return checkpoint.config, {tensor: checkpoint.read(tensor) for tensor in checkpoint.tensors}


def answers(config, weights, ids, types):
    """What the reference says, under the names of the recorded arrays."""
    found = {
        "hidden": reference_bert.hidden_states(config, weights, ids, types),
        "patterns": reference_bert.attention_patterns(config, weights, ids, types),
    }
    if config.masked_head:
        found["logits"] = reference_bert.forward(config, weights, ids, types)
    elif config.head is not None:
        found["logits"] = reference_bert.classify(config, weights, ids, types)
    return found


@pytest.mark.parametrize("name", models.CASES)
def test_it_is_the_model_of_transformers(name, tmp_path):
    found = answers(*opened(tmp_path, name), *models.text(name))
    recorded = {key.rpartition("/")[2]: RECORDED[key] for key in RECORDED if key.startswith(f"{name}/")}
    assert recorded.keys() == found.keys() - ({"patterns"} if name not in models.WITH_PATTERNS else set())
    for what, expected in recorded.items():
        assert found[what].dtype == np.float64 and found[what].shape == expected.shape
        assert np.abs(found[what] - expected).max() <= BOUND


names = st.builds(
    "{}-{}-{}".format, st.sampled_from(models.KINDS), st.sampled_from(models.HEADS), st.integers(2, 10**6)
)


@pytest.mark.oracle
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(name=names)
def test_live_random_models(name, tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.bert import make_bert

    theirs = make_bert.answers(
        make_bert.model_of(models.values(name), models.tensors(name)), *models.text(name)
    )
    found = answers(*opened(tmp_path_factory.mktemp("model"), name), *models.text(name))
    assert theirs.keys() == found.keys()
    for what, expected in theirs.items():
        assert found[what].shape == expected.shape
        assert np.abs(found[what] - expected).max() <= BOUND, what


@pytest.mark.oracle
@pytest.mark.parametrize("name", models.CASES)
def test_live_recorded_models(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.bert import make_bert

    model = make_bert.model_of(models.values(name), models.tensors(name))
    for what, array in make_bert.answers(model, *models.text(name)).items():
        if f"{name}/{what}" in RECORDED:
            assert np.abs(array - RECORDED[f"{name}/{what}"]).max() <= 1e-12


# ---- what must be true of any BERT


def test_every_token_sees_the_whole_text(tmp_path):
    config, weights = opened(tmp_path, "bert-ForMaskedLM-0")
    ids, types = models.text("bert-ForMaskedLM-0")
    before = reference_bert.forward(config, weights, ids, types)
    other = ids.copy()
    other[-1] = (other[-1] + 1) % config.n_vocab
    assert (np.abs(reference_bert.forward(config, weights, other, types) - before).max(axis=1) > 1e-6).all()
    patterns = reference_bert.attention_patterns(config, weights, ids, types)
    assert patterns.shape == (config.n_layer, config.n_head, len(ids), len(ids))
    assert (patterns > 0).all() and np.allclose(patterns.sum(axis=-1), 1, atol=1e-12)


def test_without_positions_the_order_of_tokens_does_not_matter(tmp_path):
    config, weights = opened(tmp_path, "bert-Model-0")
    weights["wpe.weight"] = np.zeros_like(weights["wpe.weight"])
    ids, types = models.text("bert-Model-0")
    order = np.random.default_rng(0).permutation(len(ids))
    before = reference_bert.hidden_states(config, weights, ids, types)
    after = reference_bert.hidden_states(config, weights, ids[order], types[order])
    assert np.abs(after - before[order]).max() < 1e-12


def test_types_are_those_of_the_first_text_unless_given(tmp_path):
    config, weights = opened(tmp_path, "bert-ForMaskedLM-0")
    ids, _ = models.text("bert-ForMaskedLM-0")
    zeros = reference_bert.forward(config, weights, ids, np.zeros_like(ids))
    assert np.array_equal(reference_bert.forward(config, weights, ids), zeros)
    assert not np.array_equal(reference_bert.forward(config, weights, ids, np.ones_like(ids)), zeros)


def test_what_has_a_name_can_be_changed(tmp_path):
    config, weights = opened(tmp_path, "bert-Model-1")
    seen = []

    def look(name, value):
        seen.append(name)
        return np.zeros_like(value) if name == "blocks.0.hook_mlp_out" else value

    found = reference_bert.hidden_states(config, weights, [1, 2, 3], look=look)
    weights = dict(weights)
    for ending in ("weight", "bias"):
        weights[f"h.0.mlp.c_proj.{ending}"] = np.zeros_like(weights[f"h.0.mlp.c_proj.{ending}"])
    assert np.array_equal(found, reference_bert.hidden_states(config, weights, [1, 2, 3]))
    layer = [name.removeprefix("blocks.0.") for name in seen if name.startswith("blocks.0.")]
    assert layer == [
        *("hook_resid_pre", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input"),
        *("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores"),
        *("attn.hook_pattern", "attn.hook_z", "attn.hook_result", "hook_attn_out", "hook_resid_mid"),
        *("ln1.hook_scale", "ln1.hook_normalized", "hook_normalized_resid_mid", "hook_mlp_in"),
        *("mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"),
        *("hook_resid_post", "ln2.hook_scale", "ln2.hook_normalized", "hook_normalized_resid_post"),
    ]
    assert seen[:3] == ["hook_embed", "hook_pos_embed", "hook_token_type_embed"]


@pytest.mark.parametrize(
    ("name", "what", "ids", "types", "error", "message"),
    [
        ("bert-Model-0", "hidden_states", [1, 2], [0], ValueError, r"one for each of the 2 ids, not shape"),
        (
            "bert-Model-0",
            "hidden_states",
            [1, 2],
            [0, 9],
            ValueError,
            r"types must lie in 0 \.\.\. \d, not 0",
        ),
        ("bert-Model-0", "hidden_states", [1, -1], None, ValueError, r"token ids must lie in"),
        (
            "bert-Model-0",
            "hidden_states",
            [1] * 99,
            None,
            ContextLengthError,
            r"99 tokens exceed the model's",
        ),
        ("distilbert-Model-0", "hidden_states", [1], [0], ValueError, r"no token types: leave types out"),
        ("bert-Model-0", "forward", [1], None, ConfigError, r"no head that predicts tokens"),
        ("bert-ForMaskedLM-0", "classify", [1], None, ConfigError, r"no head that labels"),
        ("bert-Model-0", "attention_patterns", "text", None, TypeError, r"text needs a model"),
    ],
)
def test_what_is_refused(name, what, ids, types, error, message, tmp_path):
    with pytest.raises(error, match=message):
        getattr(reference_bert, what)(*opened(tmp_path, name), ids, types)
