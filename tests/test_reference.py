"""What must be true of any GPT-2, asked of the reference. That it is GPT-2 is test_golden's question."""

import math

import numpy as np
import pytest
from helpers import strategies, tolerance
from helpers.kernelwise import unpacked
from helpers.toys import random_gpt2, same
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import reference
from gpt2c.config import Config
from gpt2c.errors import ContextLengthError

models = strategies.models()


def logits_equal(a, b, model):
    """Equal up to float64 rounding, as far as this model lets it grow."""
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 2 * tolerance.model_bound(*model, unit=2.0**-53, trials=1)


def tiny(**settings) -> Config:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 6, "n_inner": None, "n_ctx": 9, "n_vocab": 5}
    return Config(**sizes | settings)


def tiny_model(**settings):
    config = tiny(**settings)
    return config, strategies.random_model(config, np.random.default_rng(0))


# -------------------------------------------------------------------------------- attention


@given(models, st.data())
def test_later_tokens_change_nothing_before_them(model, data):
    config, weights, ids = model
    t = data.draw(st.integers(0, len(ids) - 1))
    other = ids.copy()
    other[t:] = data.draw(strategies.seeds) % config.n_vocab
    a, b = (reference.forward(config, weights, i) for i in (ids, other))
    assert np.array_equal(a[:t], b[:t])  # the same bits: a masked position is multiplied by an exact 0
    logits_equal(reference.forward(config, weights, ids[: t + 1]), a[: t + 1], model)


@given(models)
def test_attention_weights_are_averages_over_the_past(model):
    config, weights, ids = model
    maps = []

    def look(name, value):
        if name.endswith("hook_pattern"):
            maps.append(value)
        return value

    reference.forward(config, weights, ids, look)
    T = len(ids)
    assert len(maps) == config.n_layer
    for a in maps:
        assert a.shape == (config.n_head, T, T) and a.dtype == np.float64
        assert np.abs(a.sum(axis=-1) - 1).max() <= T * 2.0**-52
        assert (a[:, np.triu(np.ones((T, T), bool), k=1)] == 0).all()
        assert (a[:, np.tril(np.ones((T, T), bool))] >= 0).all()
        assert (a[:, 0, 0] == 1).all()


@given(models, st.randoms(use_true_random=False))
def test_without_positions_the_order_of_the_past_is_unknown(model, random):
    # One layer: the last position sees a set of tokens, not a sequence.
    config, weights, ids = model
    config = Config(**{k: v for k, v in vars(config).items() if k != "report"} | {"n_layer": 1})
    weights = weights | {"wpe.weight": np.repeat(weights["wpe.weight"][:1], config.n_ctx, axis=0)}
    past = ids[:-1].tolist()
    random.shuffle(past)
    a, b = (reference.forward(config, weights, i)[-1:] for i in (ids, [*past, ids[-1]]))
    logits_equal(a, b, (config, weights, ids))


@given(models, st.randoms(use_true_random=False))
def test_heads_and_inner_units_have_no_order(model, random):
    config, weights, ids = model
    heads, units = list(range(config.n_head)), list(range(config.n_inner))
    random.shuffle(heads)
    random.shuffle(units)
    columns = np.arange(config.n_embd).reshape(config.n_head, -1)[heads].ravel()
    shared = config.n_kv_head < config.n_head
    ours = np.arange(config.n_kv_head * config.head_dim) if shared else columns  # of keys, and of values
    first = config.n_embd, config.n_embd + len(ours)
    qkv = np.concatenate([columns, *(ours + at for at in first)])
    shuffled = dict(weights)
    for i in range(config.n_layer):
        for name, axis, order in (
            ("attn.c_attn.weight", 1, qkv),
            ("attn.c_attn.bias", 0, qkv),
            ("attn.c_proj.weight", 0, columns),
            ("mlp.c_fc.weight", 1, units),
            ("mlp.c_fc.bias", 0, units),
            ("mlp.c_proj.weight", 0, units),
        ):
            name = f"h.{i}.{name}"
            shuffled[name] = np.take(weights[name], order, axis=axis)
    a, b = (reference.forward(config, w, ids) for w in (weights, shuffled))
    logits_equal(a, b, model)


# -------------------------------------------------------------------------------- flags


@pytest.mark.parametrize("weights_flag", [False, True])
@pytest.mark.parametrize("layer_flag", [False, True])
def test_scale_flags_are_factors_on_the_queries(weights_flag, layer_flag):
    flags = {"scale_attn_weights": weights_flag, "scale_attn_by_inverse_layer_idx": layer_flag}
    config, weights = tiny_model(n_layer=3, **flags)
    plain = tiny(n_layer=3, scale_attn_weights=False)
    scaled = {name: w.astype(np.float64) for name, w in weights.items()}
    for i in range(3):
        factor = (1 / math.sqrt(3) if weights_flag else 1) / (i + 1 if layer_flag else 1)
        scaled[f"h.{i}.attn.c_attn.weight"][:, :6] *= factor
        scaled[f"h.{i}.attn.c_attn.bias"][:6] *= factor
    ids = [0, 4, 2, 1, 3]
    a, b = reference.forward(config, weights, ids), reference.forward(plain, scaled, ids)
    logits_equal(a, b, (config, weights, ids))
    if not (weights_flag or layer_flag):
        assert np.array_equal(a, b)


def test_untied_head():
    config, weights = tiny_model(tie_word_embeddings=False)
    tied = tiny()
    ids = [1, 2, 3]
    same = weights | {"lm_head.weight": weights["wte.weight"]}
    assert np.array_equal(reference.forward(config, same, ids), reference.forward(tied, weights, ids))
    assert not np.allclose(reference.forward(config, weights, ids), reference.forward(tied, weights, ids))


@pytest.mark.parametrize("change", [{"activation": "relu"}, {"layer_norm_epsilon": 0.5}])
def test_settings_change_the_result(change):
    config, weights = tiny_model()
    a, b = (reference.forward(c, weights, [1, 2, 3]) for c in (config, tiny(**change)))
    assert np.abs(a - b).max() > 1e-3


def test_upcast_changes_nothing():
    config, weights = tiny_model()
    a, b = (reference.forward(c, weights, [1, 2]) for c in (config, tiny(reorder_and_upcast_attn=True)))
    assert np.array_equal(a, b)


# -------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("name", "at_one", "at_minus_two"),
    [  # mpmath, 50 digits
        ("gelu_new", 0.841191990608276705, -0.0454023059122249812),
        ("gelu", 0.841344746068542949, -0.0455002638963584144),
        ("quick_gelu", 0.845795765932821296, -0.0643413768557918502),
        ("silu", 0.731058578630004879, -0.238405844044235112),
        ("relu", 1.0, 0.0),
        ("tanh", 0.761594155955764888, -0.964027580075816884),
    ],
)
def test_activations_at_known_points(name, at_one, at_minus_two):
    got = reference.activation(name, np.array([1.0, -2.0, 0.0]))
    assert np.abs(got - [at_one, at_minus_two, 0]).max() < 1e-15
    large = reference.activation(name, np.array([80.0, -80.0, 1e30]))
    assert large.tolist() == ([1, -1, 1] if name == "tanh" else [80, 0, 1e30])


def test_unknown_activation():
    with pytest.raises(ValueError, match="unknown activation 'selu': use gelu_new"):
        reference.activation("selu", np.zeros(1))


@given(strategies.sizes(2, 300), strategies.seeds, st.floats(-100, 100), st.floats(0.01, 100))
def test_layer_norm_forgets_shift_and_scale(n, seed, shift, scale):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, n))
    gain, bias = rng.standard_normal((2, n))
    plain = reference.layer_norm(x, np.ones(n), np.zeros(n), 1e-30)
    assert np.abs(plain.mean(axis=-1)).max() < 1e-11 and np.abs(plain.std(axis=-1) - 1).max() < 1e-11
    moved = reference.layer_norm(x * scale + shift, gain, bias, 1e-30)
    spread = x.std(axis=-1).min() * scale / (abs(shift) + scale)  # what is left of 53 bits
    assert np.abs(moved - (plain * gain + bias)).max() <= 1e-13 * n / spread


def test_epsilon_is_under_the_root():
    x = np.array([[3.0, -3.0]])
    assert reference.layer_norm(x, 1, 0, 16.0).tolist() == [[3 / 5, -3 / 5]]


@given(strategies.sizes(1, 300), strategies.seeds, st.sampled_from([1, 1e4, 1e30]))
def test_softmax(n, seed, scale):
    x = np.random.default_rng(seed).standard_normal((2, n)) * scale
    p = reference.softmax(x)
    assert np.abs(p.sum(axis=-1) - 1).max() <= n * 2.0**-52 and (p >= 0).all()
    assert np.abs(np.exp(reference.log_softmax(x)) - p).max() < 1e-13
    assert np.isfinite(reference.log_softmax(x)).all()


def test_float32_input_is_not_computed_in_float32():
    x = np.random.default_rng(1).standard_normal((4, 50)).astype(np.float32)
    weight = bias = x[0]
    for f in (
        reference.softmax,
        reference.log_softmax,
        lambda x: reference.layer_norm(x, weight, bias, 1e-5),
        *(lambda x, name=name: reference.activation(name, x) for name in strategies.ACTIVATIONS),
    ):
        assert f(x).dtype == np.float64
        assert np.array_equal(f(x), f(x.astype(np.float64)))
    config, weights = tiny_model()
    wide = {name: w.astype(np.float64) for name, w in weights.items()}
    a, b = (reference.forward(config, w, [0, 1, 2]) for w in (weights, wide))
    assert a.dtype == np.float64 and np.array_equal(a, b)


# -------------------------------------------------------------------------------- texts


@given(models)
def test_continuations_share_the_probability_of_the_text(model):
    config, weights, ids = model
    if len(ids) == config.n_ctx:
        ids = ids[:-1]
    text = reference.joint_log_probability(config, weights, ids)
    last = reference.log_softmax(reference.forward(config, weights, ids))[-1]
    longer = [reference.joint_log_probability(config, weights, [*ids, v]) for v in (0, config.n_vocab - 1)]
    assert np.allclose(longer, text + last[[0, -1]], rtol=1e-9, atol=1e-9)
    assert abs(np.exp(last).sum() - 1) < 1e-12


@settings(max_examples=20)
@given(models)
def test_greedy_takes_the_most_probable_token(model):
    config, weights, ids = model
    prompt = ids[: max(1, config.n_ctx // 2)]
    n = config.n_ctx - len(prompt)
    new = reference.generate(config, weights, prompt, n)
    assert len(new) == n and all(type(i) is int for i in new)
    logits = reference.forward(config, weights, [*prompt, *new])
    chosen = np.take_along_axis(logits[len(prompt) - 1 : -1], np.array(new, int)[:, None], axis=1)[:, 0]
    assert (logits[len(prompt) - 1 : -1].max(axis=1) - chosen <= 1e-9).all()
    assert reference.generate(config, weights, prompt, 0) == []


def test_one_token_has_no_log_probability():
    config, weights = tiny_model()
    assert reference.log_probabilities(config, weights, [3]).shape == (0,)
    assert reference.joint_log_probability(config, weights, [3]) == 0


def test_bad_ids():
    config, weights = tiny_model()
    with pytest.raises(ValueError, match=r"token ids must lie in 0 \.\.\. 4, not 1 \.\.\. 5"):
        reference.forward(config, weights, [1, 5])
    with pytest.raises(ValueError, match=r"not -1 \.\.\. 1"):
        reference.forward(config, weights, [1, -1])
    with pytest.raises(ValueError, match=r"at least one token id, not shape \(0,\)"):
        reference.forward(config, weights, [])
    with pytest.raises(ValueError, match=r"not shape \(1, 2\)"):
        reference.forward(config, weights, [[1, 2]])
    with pytest.raises(ContextLengthError, match=r"10 tokens exceed the model's 9 positions"):
        reference.forward(config, weights, [1] * 10)


# -------------------------------------------------------------------------------- loaded models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_a_loaded_model_in_the_place_of_configuration_and_weights(dtype):
    """Its numbers are those of its panels: in float32 the tensors it was made of."""
    model, tensors = random_gpt2(dtype=dtype, n_ctx=20)
    config, ids = model.config, [1, 2, 3, 7]
    weights = unpacked(config, tensors, dtype)
    assert same(reference.forward(model, ids), reference.forward(config, weights, ids))
    assert same(reference.forward(model, ids), reference.forward(config, tensors, ids)) == (
        dtype == "float32"
    )
    seen = []
    reference.forward(model, ids, lambda name, value: (seen.append(name), value)[1], causal=False)
    assert seen[0] == "hook_embed"
    assert reference.generate(model, ids, 3) == reference.generate(config, weights, ids, 3)
    logp = reference.log_probabilities(config, weights, ids)
    assert same(reference.log_probabilities(model, np.array(ids)), logp)
    assert reference.joint_log_probability(model, ids) == logp.sum()


def test_text_for_a_loaded_model(bundled):
    text = "The king"
    ids = bundled.tokenizer.encode(text)
    found = reference.forward(bundled, text)
    assert same(found, reference.forward(bundled.config, dict(bundled.weights), ids))
    logits = bundled.forward(ids)
    assert np.abs(found - logits).max() <= tolerance.model_bound(bundled.config, dict(bundled.weights), ids)
    with pytest.raises(ValueError, match=r"token ids must lie in 0 \.\.\. 4095"):
        reference.forward(bundled, [4096])


def test_arguments_by_keyword_and_their_errors(bundled):
    model, weights = random_gpt2(n_ctx=20)
    ids = [1, 2, 3]
    expected = reference.forward(model.config, weights, ids)
    assert same(reference.forward(model, ids=ids), expected)
    assert same(reference.forward(config=model.config, weights=weights, ids=ids), expected)
    assert reference.generate(model, n_new=2, ids=ids) == reference.generate(model, ids, 2)
    text = "The king"
    for found in (reference.forward(bundled, ids=text), reference.forward(model=bundled, ids=text)):
        assert same(found, reference.forward(bundled, text))
    both = r"generate takes \(model, ids or text, n_new\) or \(config, weights, ids, n_new\): "
    for args, options, message in (
        ((model, ids), {}, both + "missing a required argument: 'n_new'"),
        ((model,), {"n_new": 2}, both + "missing a required argument: 'ids'"),
        ((model.config, ids), {"n_new": 2}, both + "missing a required argument: 'ids'"),
        ((model, ids, 2), {"weights": {}}, both + "multiple values for argument 'weights'"),
        ((model, ids, 2), {"causal": False}, both + "got an unexpected keyword argument 'causal'"),
        (
            (model.config, weights, text, 2),
            {},
            both + "text needs a model, which has the tokenizer, not 'The king'",
        ),
        ((text, ids, 2), {}, both + "missing a required argument: 'n_new'"),
    ):
        with pytest.raises(TypeError, match=message):
            reference.generate(*args, **options)
    with pytest.raises(
        TypeError, match=r"log_probabilities takes \(model, ids or text\) or \(config, weights, ids\): "
    ):
        reference.log_probabilities(model)
    with pytest.raises(
        TypeError, match=r"forward takes \(model, ids or text, look, causal, states\) or \(config, "
    ):
        reference.forward(model)
    assert "generate(model, " in reference.generate.__doc__
