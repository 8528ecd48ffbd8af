"""The error model itself: NumPy's float32 keeps the bounds, and results that are wrong do not."""

import numpy as np
import pytest
from helpers import rounding, strategies, tolerance
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import reference
from gpt2c.config import Config

FINITE = st.sampled_from(strategies.FAMILIES)


def chain(x, w, block=tolerance.BLOCK):
    """x @ w as the native kernel is specified: fma chains of `block`, added in ascending order.

    A float32 product is exact in float64; its sum there, rounded to float32, stands for fma.
    """
    total = None
    for start in range(0, w.shape[0], block):
        acc = np.zeros((len(x), w.shape[1]), np.float32)
        for k in range(start, min(start + block, w.shape[0])):
            product = x[:, k, None].astype(np.float64) * w[k].astype(np.float64)
            acc = (product + acc).astype(np.float32)
        total = acc if total is None else total + acc
    return total


@given(st.integers(1, 3), strategies.sizes(1, 600), st.integers(1, 4), FINITE, strategies.seeds)
def test_dense(rows, k, n, family, seed):
    rng = np.random.default_rng(seed)
    x, w = strategies.values(family, (rows, k), rng), strategies.values(family, (k, n), rng)
    bias, residual = strategies.values("normal", n, rng), strategies.values(family, (rows, n), rng)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    assert (np.abs(chain(x, w) - exact) <= tolerance.dense_bound(x, w)).all()
    assert (np.abs(x @ w - exact) <= tolerance.dense_bound(x, w, block=None)).all()
    bound = tolerance.dense_bound(x, w, bias, residual)
    assert (np.abs((chain(x, w) + bias) + residual - (exact + bias + residual)) <= bound).all()


def test_dense_bound_notices_a_missing_product():
    rng = np.random.default_rng(0)
    x, w = (strategies.values("normal", shape, rng) for shape in ((1, 257), (257, 3)))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    assert (np.abs(chain(x[:, :-1], w[:-1]) - exact) > tolerance.dense_bound(x, w)).all()


@given(strategies.sizes(1, 600), FINITE, strategies.seeds, st.sampled_from([1e-5, 1e-12]))
def test_layer_norm(n, family, seed, epsilon):
    rng = np.random.default_rng(seed)
    x = strategies.values(family, (2, n), rng)
    gain, bias = (strategies.values("normal", n, rng) for _ in range(2))
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    assert centred.dtype == scale.dtype == np.float32
    exact = reference.layer_norm(x, gain, bias, epsilon)
    bound = tolerance.layer_norm_bound(x, gain, bias, epsilon)
    assert (np.abs(centred / scale * gain + bias - exact) <= bound).all()


def test_layer_norm_bound_notices_another_variance():
    x = strategies.values("normal", (1, 64), np.random.default_rng(0))
    one, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    exact = reference.layer_norm(x, one, zero, 1e-5)
    wrong = exact * np.sqrt(63 / 64)  # divided by n - 1
    assert (np.abs(wrong - exact) > tolerance.layer_norm_bound(x, one, zero, 1e-5)).all()


@given(strategies.sizes(1, 600), FINITE, strategies.seeds)
def test_softmax(n, family, seed):
    x = strategies.values(family, (2, n), np.random.default_rng(seed), exponents=6)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    assert p.dtype == np.float32
    assert (np.abs(p - reference.softmax(x)) <= tolerance.softmax_bound(x)).all()


@given(strategies.sizes(1, 300), strategies.sizes(1, 80), strategies.seeds, st.sampled_from([0.125, 1.0]))
def test_attention(T, head_dim, seed, scale):
    rng = np.random.default_rng(seed)
    q, k, v = (strategies.values("normal", (T, head_dim), rng) for _ in range(3))
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    scores = np.where(future, np.float32(-np.inf), q @ k.T * np.float32(scale))
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    actual = e @ v / e.sum(axis=-1, keepdims=True)
    assert actual.dtype == np.float32
    exact = reference.softmax(
        np.where(future, -np.inf, q.astype(np.float64) @ k.astype(np.float64).T * scale)
    ) @ v.astype(np.float64)
    assert (np.abs(actual - exact) <= tolerance.attention_bound(q, k, v, scale)).all()


def test_attention_bound_notices_a_missing_key():
    rng = np.random.default_rng(0)
    q, k, v = (strategies.values("normal", (300, 16), rng) for _ in range(3))
    scores = np.float64(q[-1]) @ np.float64(k).T / 4
    exact, wrong = (reference.softmax(scores[s:]) @ np.float64(v[s:]) for s in (0, 1))
    assert (np.abs(wrong - exact) > tolerance.attention_bound(q, k, v, 1 / 4)[-1]).mean() > 0.9


@pytest.mark.parametrize("name", strategies.ACTIVATIONS)
def test_elementwise(name):
    x = np.concatenate([np.linspace(-12, 12, 4001), np.logspace(-44, 38, 300)]).astype(np.float32)
    exact = reference.activation(name, x)
    assert (np.abs(exact.astype(np.float32) - exact) <= tolerance.elementwise_bound(x, exact)).all()
    assert (np.abs(exact * (1 + 1e-5) - exact) > tolerance.elementwise_bound(x, exact))[
        np.abs(x) > 20
    ].any() or (name == "relu" or name == "tanh")


def test_ulp():
    assert tolerance.ulp32([1.0, 1.5, 2.0, 0.0, -3.0]).tolist() == [2**-23, 2**-23, 2**-22, 2**-149, 2**-22]
    assert tolerance.ulp_difference(np.float32(1) + np.float32(2**-22), 1.0) == 2


def test_check_logits():
    exact = np.random.default_rng(0).standard_normal((4, 9))
    good = exact.astype(np.float32)
    assert tolerance.check_logits(good, exact, 1e-6).other_choices == 0
    with pytest.raises(AssertionError, match=r"off by 0\.001"):
        tolerance.check_logits(good + np.float32(1e-3), exact, 1e-6)
    with pytest.raises(AssertionError, match="float64 instead of float32"):
        tolerance.check_logits(exact, exact, 1e-6)
    with pytest.raises(AssertionError, match="not finite in 1 places"):
        tolerance.check_logits(np.where(exact == exact.max(), np.nan, good).astype(np.float32), exact, 1e-6)
    with pytest.raises(AssertionError, match="shape"):
        tolerance.check_logits(good[:1], exact, 1e-6)


@given(strategies.models())
def test_model_bound_holds_and_is_not_empty(model):
    config, weights, ids = model
    bound = tolerance.model_bound(config, weights, ids)
    exact = reference.forward(config, weights, ids)
    assert 0 < bound < 1e-2 * max(1, np.abs(exact).max())
    wrong = dict(weights)  # one bias forgotten
    wrong["h.0.attn.c_proj.bias"] = np.zeros_like(weights["h.0.attn.c_proj.bias"])
    assert np.abs(reference.forward(config, wrong, ids) - exact).max() > bound


@given(strategies.models())
def test_rounding_nothing_is_the_reference(model):
    config, weights, ids = model
    exact = reference.forward(config, weights, ids)
    same = tolerance.forward_rounding_inputs(config, weights, ids, lambda _, x: x)
    np.testing.assert_allclose(same, exact, rtol=1e-9, atol=1e-9 * np.abs(exact).max())


def test_half_steps_are_what_rounding_moves_at_most():
    x = strategies.values("normal", (50, 130), np.random.default_rng(0))
    moved = np.abs(rounding.bfloat16(x) - x.astype(np.float64)) / tolerance.half_steps("any", x, "bfloat16")
    assert 0.95 < moved.max() <= 1
    for name in ("h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "lm_head"):
        moved = np.abs(rounding.integers(x, rounding.inputs_of(name)).values - x)
        share = moved / tolerance.half_steps(name, x.astype(np.float64), "int8")
        assert 0.95 < share.max() <= 1 + 1e-3, name


@pytest.mark.parametrize("dtype", rounding.PACKED)
def test_format_bound_is_not_empty(dtype):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        config = Config(n_layer=2, n_head=2, n_embd=70, n_inner=100, n_ctx=12, n_vocab=33)
        weights, ids = strategies.random_model(config, rng), rng.integers(33, size=9)
        exact = reference.forward(config, weights, ids)
        bound = tolerance.format_bound(config, weights, ids, dtype)
        assert 0 < bound < exact.std()
        name = "h.0.mlp.c_proj.weight"
        wrong = reference.forward(config, weights | {name: weights[name][::-1]}, ids)
        assert np.abs(wrong - exact).max() > bound


# -------------------------------------------------------------------------------- strategies


@given(FINITE, st.lists(st.integers(0, 5), max_size=3), strategies.seeds)
def test_values(family, shape, seed):
    x = strategies.values(family, shape, np.random.default_rng(seed))
    assert x.dtype == np.float32 and x.shape == tuple(shape) and np.isfinite(x).all()
    if family == "denormal":
        assert (np.abs(x) < 2.0**-126).all()


@given(st.integers(0, 3), strategies.sizes(0, 40))
def test_misaligned(offset, n):
    x = np.arange(n, dtype=np.float32)
    view = strategies.misaligned(x, offset)
    assert np.array_equal(view, x) and view.flags.c_contiguous
    assert n == 0 or view.ctypes.data % 64 == 4 * offset


@given(st.integers(0, 3), strategies.sizes(1, 40), st.data())
def test_guarded(offset, n, data):
    with strategies.guarded((2, n), offset) as out:
        assert out.shape == (2, n) and out.ctypes.data % 64 == (4 * offset + 4 * strategies.MARGIN) % 64
        out[:] = np.nan  # any other NaN is a result
    with (
        pytest.raises(AssertionError, match=r"1 of .* outputs were not written"),
        strategies.guarded((2, n)) as out,
    ):
        out.ravel()[1:] = 0
    for at, side in ((-1, "before"), (2 * n, "after")):
        with (
            pytest.raises(AssertionError, match=f"1 floats {side}"),
            strategies.guarded((2, n), offset) as out,
        ):
            out[:] = 0
            wide = np.lib.stride_tricks.as_strided(out.base, out.base.shape, out.base.strides)
            wide = wide.view(np.float32).ravel()
            first = (out.ctypes.data - wide.ctypes.data) // 4
            wide[first + at] = 0


@given(strategies.models())
def test_models(model):
    config, weights, ids = model
    assert {name: w.shape for name, w in weights.items()} == strategies.tensor_shapes(config)
    assert all(w.dtype == np.float32 and w.flags.c_contiguous for w in weights.values())
    assert 1 <= len(ids) <= config.n_ctx and config.n_embd >= 4
