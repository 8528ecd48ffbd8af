"""Every kernel against float64, within the error model, and bit for bit against itself: on every instruction
set, for every split of the work, and whatever lies around its arguments."""

import bisect
import ctypes
import math
import mmap

import numpy as np
import pytest
from helpers import tolerance
from helpers.rounding import bfloat16, narrowed
from helpers.strategies import families, guarded, misaligned, offsets, seeds, sizes, values
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import reference
from gpt2c.core import _engine, _ops
from gpt2c.errors import UnsupportedISAError

ISAS = _engine.isas()
FUNCTIONS = ("gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh", "exp", "erf", "sigmoid")


def exact_function(name, x):
    """The function in float64, with libm's exp and erf as the source of truth."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        if name == "exp":
            return np.exp(x)
        if name == "sigmoid":
            return np.where(x < -700, 0.0, 1 / (1 + np.exp(-np.maximum(x, -700))))
        if name == "erf":
            return np.array([math.erf(v) for v in x])
        if name == "tanh":
            return np.tanh(x)
        return reference.activation(name, x)


def same_bytes(a, b):
    return a.tobytes() == b.tobytes()


def on_every_isa(compute, isas=ISAS):
    """The result on the first instruction set, after checking that all others give the same bytes."""
    first = compute(isas[0])
    for isa in isas[1:]:
        assert same_bytes(first, compute(isa)), f"{isa} differs from {isas[0]}"
    return first


def all_exponents(per_exponent=48, seed=0):
    """Finite floats of both signs and every exponent, subnormals included, with edge and random mantissas."""
    rng = np.random.default_rng(seed)
    exponents = np.arange(255, dtype=np.uint32)
    edges = np.tile(np.array([0, 1, 2**22, 2**23 - 1], np.uint32), (255, 1))
    mantissas = np.concatenate([edges, rng.integers(0, 2**23, (255, per_exponent), dtype=np.uint32)], axis=1)
    bits = (exponents[:, None] << 23 | mantissas).ravel()
    return np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)


# ---- elementwise ----


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_within_the_bound_over_all_exponents(name):
    ordinary = np.random.default_rng(1).uniform(-20, 20, 20_000).astype(np.float32)
    x = np.concatenate([all_exponents(), ordinary])
    actual = on_every_isa(lambda isa: _ops.apply(name, x, isa=isa))
    exact = exact_function(name, x)
    overflows = np.abs(exact) > np.finfo(np.float32).max
    assert np.array_equal(actual[overflows], np.where(exact[overflows] > 0, np.inf, -np.inf))
    error = np.abs(actual[~overflows].astype(np.float64) - exact[~overflows])
    bound = tolerance.elementwise_bound(x[~overflows], exact[~overflows])
    worst = np.argmax(error / bound)
    assert error[worst] <= bound[worst], f"{name}({x[~overflows][worst]!r}): {error[worst]} > {bound[worst]}"


@pytest.mark.parametrize(
    ("name", "at_minus_inf", "at_inf"),
    [("exp", 0, np.inf), ("tanh", -1, 1), ("erf", -1, 1), ("sigmoid", 0, 1), ("relu", 0, np.inf),
     *((gate, np.nan, np.inf) for gate in ("gelu_new", "gelu", "quick_gelu", "silu"))],
)  # fmt: skip
def test_functions_of_infinities_and_nan(name, at_minus_inf, at_inf):
    for isa in ISAS:
        actual = _ops.apply(name, np.array([-np.inf, np.inf, np.nan], np.float32), isa=isa)
        assert np.array_equal(actual, np.array([at_minus_inf, at_inf, np.nan], np.float32), equal_nan=True), (
            isa
        )


@pytest.mark.parametrize("name", ["tanh", "erf", "gelu_new", "gelu", "quick_gelu", "silu"])
def test_functions_of_zero_keep_its_sign(name):
    zeros = np.array([0.0, -0.0], np.float32)
    for isa in ISAS:
        assert same_bytes(_ops.apply(name, zeros, isa=isa), zeros), isa


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_element_does_not_depend_on_where_it_stands(name):
    x = np.random.default_rng(2).standard_normal(70).astype(np.float32) * 3
    whole = _ops.apply(name, x, isa=ISAS[0])
    for isa in ISAS:
        for n in range(1, 71):
            with guarded((n,), offset=n % 4) as out:
                _ops.apply(name, misaligned(x[:n], n % 4), out, isa=isa, threads=1 + n % 3)
                assert same_bytes(out.copy(), whole[:n]), (isa, n)


# ---- fused multiply-add ----


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("start", "a", "b", "expected"),
    [  # the product is a hair above or below half a unit, where rounding to double first loses the hair
        (1.0, 1 + 2**-12, 1 - 2**-12 + 2**-24, 1 + 2**-23),
        (1 + 2**-23, 1 - 2**-11, 1 + 2**-11 + 2**-22, 1 + 2**-23),
    ],
)
def test_multiply_add_is_rounded_once(start, a, b, expected, sign):
    x = np.array([[sign * start, sign * a * 2**-12]], np.float32)
    panels = _ops.pack(np.array([[1.0], [b * 2**-12]], np.float32))
    for isa in ISAS:
        assert _ops.linear(x, panels, 1, isa=isa)[0, 0] == np.float32(sign * expected), isa


# ---- LayerNorm ----


@given(st.integers(1, 5), sizes(1, 1601), families, seeds, offsets)
def test_layer_norm(rows, n, family, seed, offset):
    rng = np.random.default_rng(seed)
    x = misaligned(values(family, (rows, n), rng), offset)
    gain, bias = values("normal", n, rng), values("normal", n, rng)

    def compute(isa, threads=1):
        with guarded((rows, n), offset) as out:
            return _ops.layer_norm(x, gain, bias, 1e-5, out, isa=isa, threads=threads).copy()

    actual = on_every_isa(compute)
    exact = reference.layer_norm(x.astype(np.float64), gain, bias, 1e-5)
    bound = tolerance.layer_norm_bound(x, gain, bias, 1e-5, sum_steps=-(-n // 16) + 4)
    assert (np.abs(actual - exact) <= bound).all()
    for threads in (2, 3):
        assert same_bytes(actual, compute(ISAS[-1], threads))
    in_place = x.copy()
    assert same_bytes(_ops.layer_norm(in_place, gain, bias, 1e-5, in_place), actual)


# ---- dense layers ----


@given(
    st.integers(1, 14), sizes(1, 600), sizes(1, 200), families, seeds, offsets, st.booleans(), st.booleans()
)
@settings(max_examples=60)
def test_linear(rows, n_in, n_out, family, seed, offset, with_bias, with_residual):
    rng = np.random.default_rng(seed)
    wide = misaligned(values(family, (rows, n_in + 3), rng, exponents=20), offset)
    x = wide[:, :n_in]  # rows further apart than they are long
    weight = values("normal", (n_in, n_out), rng)
    bias = values("normal", n_out, rng) if with_bias else None
    residual = values("normal", (rows, n_out), rng) if with_residual else None
    panels = _ops.pack(weight)

    def compute(isa, threads=1):
        with guarded((rows, n_out), offset) as out:
            return _ops.linear(
                x, panels, n_out, bias, "identity", residual, out, isa=isa, threads=threads
            ).copy()

    actual = on_every_isa(compute)
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    exact += 0 if bias is None else bias
    exact += 0 if residual is None else residual
    assert (np.abs(actual - exact) <= tolerance.dense_bound(x, weight, bias, residual)).all()
    assert same_bytes(actual, compute(ISAS[-1], threads=3))
    for row in range(rows):  # a row alone has the bits it has in company
        alone = _ops.linear(
            x[row : row + 1],
            panels,
            n_out,
            bias,
            "identity",
            residual[row : row + 1] if with_residual else None,
        )
        assert same_bytes(alone[0], actual[row])


@given(st.integers(1, 7), sizes(1, 70), st.sampled_from(("identity", *FUNCTIONS)), seeds)
def test_linear_epilogue_is_bias_then_function_then_residual(rows, n_out, function, seed):
    rng = np.random.default_rng(seed)
    x, weight = values("normal", (rows, 9), rng), values("normal", (9, n_out), rng)
    bias, residual = values("normal", n_out, rng), values("normal", (rows, n_out), rng)
    panels = _ops.pack(weight)
    sums = _ops.linear(x, panels, n_out)
    expected = residual + _ops.apply(function, (sums + bias).ravel()).reshape(sums.shape)

    def compute(isa):
        in_place = residual.copy()  # as the residual stream is updated
        return _ops.linear(x, panels, n_out, bias, function, in_place, in_place, isa=isa)

    assert same_bytes(on_every_isa(compute), expected)


@given(sizes(1, 70), sizes(1, 200), st.booleans(), seeds)
def test_pack(n_in, n_out, transposed, seed):
    weight = np.random.default_rng(seed).standard_normal((n_in, n_out), dtype=np.float32)
    panels = _ops.pack(np.ascontiguousarray(weight.T) if transposed else weight, transposed=transposed)
    assert panels.ctypes.data % 64 == 0
    unpacked = panels.swapaxes(0, 1).reshape(n_in, -1)
    assert same_bytes(np.ascontiguousarray(unpacked[:, :n_out]), weight)
    assert not unpacked[:, n_out:].any()


def test_linear_refuses_panels_of_another_kind():
    panels = _ops.pack(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"panels must come from pack\(\)"):
        _ops.linear(np.ones((1, 3), np.float32), panels.astype(np.float64), 2)


# ---- attention ----


def numbers_of(group, kind, dtype, d):
    """The view [16 positions, inputs] of the memory of 16 positions, as the contract of a cache has it."""
    if dtype != "bfloat16":
        numbers = group.view("u4" if dtype == "float32" else "u2")
        return numbers.reshape(-1, 16).T if kind == "keys" else numbers.reshape(16, -1)
    halves = group.view("u2")  # the upper half of a word, which is its first number, comes second in memory
    if kind == "keys":
        return halves.reshape(-1, 16, 2)[..., ::-1].swapaxes(0, 1).reshape(16, -1)
    return halves.reshape(8, -1, 2)[..., ::-1].swapaxes(1, 2).reshape(16, -1)


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@pytest.mark.parametrize("kind", ["keys", "values"])
@given(sizes(1, 80), st.integers(1, 16), families, seeds)
@settings(max_examples=40)
def test_a_cache_holds_what_is_stored_and_nothing_else_changes(kind, dtype, d, rows, family, seed):
    """A float32 keeps its bits, others are rounded; the padding is zero; other positions and inputs stay."""
    rng = np.random.default_rng(seed)
    first, lane = int(rng.integers(0, d)), int(rng.integers(0, 17 - rows))
    n = int(rng.integers(1, min(64, d - first) + 1))
    x = misaligned(values(family, (rows, n + n % 3), rng, exponents=14), seed % 4)[:, :n]
    special = np.uint32(0x7F80DEAD).view(np.float32) if dtype == "float32" else np.float32(np.inf)
    x.view(np.uint32)[rng.random(x.shape) < 0.05] = special.view(np.uint32)
    width = (d + 15) // 16 * 16 if kind == "values" else d + d % 2 if dtype == "bfloat16" else d
    before = rng.integers(0, 256, 16 * width * (4 if dtype == "float32" else 2), np.uint8)
    expected = before.copy()
    numbers = numbers_of(expected, kind, dtype, d).copy()
    stored = narrowed(x, dtype).view(np.uint32)
    if dtype == "float16":
        stored = stored.view(np.float32).astype(np.float16).view(np.uint16)
    elif dtype == "bfloat16":
        stored = stored >> 16
    numbers[lane : lane + rows, first : first + n] = stored
    if first + n == d:
        numbers[lane : lane + rows, d:] = 0
    for isa in ISAS:
        actual = before.copy()
        _ops.store(kind, actual, dtype, lane, first, d, x, isa=isa)
        assert np.array_equal(numbers_of(actual, kind, dtype, d), numbers), isa


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@pytest.mark.parametrize("kind", ["keys", "values"])
def test_rows_to_be_stored_are_read_no_further_than_their_ends(kind, dtype):
    """The rows end where a page ends, and the page behind it cannot be read."""
    page, no_access = mmap.PAGESIZE, 0
    memory = mmap.mmap(-1, 2 * page)
    floats = np.frombuffer(memory, np.float32)
    libc = ctypes.CDLL(None)
    behind = ctypes.c_void_p(floats.ctypes.data + page)
    assert libc.mprotect(behind, ctypes.c_size_t(page), no_access) == 0
    try:
        for isa in ISAS:
            for rows in range(1, 17):
                for n in (*range(1, 21), 63, 64):
                    x = floats[page // 4 - rows * n : page // 4].reshape(rows, n)
                    x[...] = np.arange(rows * n, dtype=np.float32).reshape(rows, n) % 251
                    group = np.zeros(16 * 80 * 4, np.uint8)
                    width = (
                        (n + 15) // 16 * 16 if kind == "values" else n + n % 2 if dtype == "bfloat16" else n
                    )
                    group = group[: 16 * width * (4 if dtype == "float32" else 2)]
                    _ops.store(kind, group, dtype, 0, 0, n, x, isa=isa)
                    found = numbers_of(group, kind, dtype, n)[:rows, :n]
                    assert np.array_equal(found != 0, x != 0), (isa, rows, n)
    finally:
        libc.mprotect(behind, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE)


def attention_case(positions, d, seed, family="normal"):
    rng = np.random.default_rng(seed)
    return [values(family, (positions, d), rng, exponents=4) for _ in range(3)]


def arithmetics(dtype):
    """Instruction sets whose results over a cache of ``dtype`` are the same bytes, each list for itself."""
    own = [isa for isa in ISAS if dtype == "bfloat16" and isa in _engine.OWN_BFLOAT16]
    return [[isa for isa in ISAS if isa not in own], *([isa] for isa in own)]


def attention_exactly(q, k, v, scale, dtype):
    """Attention over what a cache of ``dtype`` holds, in float64, and the bound of the error."""
    k, v = narrowed(k, dtype), narrowed(v, dtype)
    if dtype == "bfloat16":
        q = bfloat16(q)
    n = len(q)
    future = np.triu(np.ones((n, n), bool), 1)
    scores = np.where(future, -np.inf, q.astype(np.float64) @ k.T.astype(np.float64) * np.float32(scale))
    weights = reference.softmax(scores)
    bound = tolerance.attention_bound(q, k, v, scale)
    if dtype == "bfloat16":  # every weight is rounded, to 8 significant bits, and so is their sum
        relative = 2 * 2.0**-8 / (1 - 2.0**-8)
        bound = bound * (1 + relative) + relative * (weights @ np.abs(v.astype(np.float64)))
        # numbers below 2^-126 count as zero: products, and weights
        bound = bound + 2.0**-126 * (1 + np.abs(v).sum(axis=0)) * 8
    return weights @ v.astype(np.float64), bound


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@given(sizes(1, 300), sizes(1, 80), families, seeds, st.integers(1, 24))
@settings(max_examples=60)
def test_attention(dtype, positions, d, family, seed, tile):
    q, k, v = attention_case(positions, d, seed, family)
    scale = 1 / math.sqrt(d)

    def compute(isa, tile=6, threads=1, beyond=math.nan, rows=positions):
        with guarded((rows, d), seed % 4) as out:
            queries = misaligned(q[positions - rows :], seed % 3)
            how = {"isa": isa, "tile": tile, "threads": threads, "beyond": beyond, "dtype": dtype}
            return _ops.attention(queries, k, v, scale, out, **how).copy()

    exact, bound = attention_exactly(q, k, v, scale, dtype)
    for isas in arithmetics(dtype):
        actual = on_every_isa(compute, isas)
        assert (np.abs(actual - exact) <= bound).all(), isas
        best = isas[-1]
        assert same_bytes(actual, compute(best, tile=tile, threads=2)), (
            "queries taken together change nothing"
        )
        assert same_bytes(actual, compute(best, beyond=0.0)), "what lies beyond the cache's end is never used"
        rows = 1 + seed % positions
        assert same_bytes(actual[-rows:], compute(best, rows=rows)), "earlier queries change nothing"


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@given(sizes(1, 300), sizes(1, 80), seeds, st.integers(1, 30), st.booleans())
@settings(max_examples=60)
def test_attention_of_heads_that_share_keys(dtype, positions, d, seed, heads, in_two):
    """Queries of several heads at the last position, together, are what each is alone."""
    k, v = attention_case(positions, d, seed)[1:]
    q = np.random.default_rng(seed).standard_normal((heads, d)).astype(np.float32)
    how = {"dtype": dtype, "shared": (positions - 1) // 32 * 16 if in_two else 0}
    for isas in arithmetics(dtype):
        found = on_every_isa(
            lambda isa: _ops.attention(q, k, v, 0.3, one_position=True, isa=isa, **how), isas
        )
        for head in range(heads):
            alone = _ops.attention(q[head : head + 1], k, v, 0.3, isa=isas[-1], **how)
            assert same_bytes(found[head : head + 1], alone), head


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@pytest.mark.parametrize("positions", [24, 31, 33, 100, 128, 161, 290])
@pytest.mark.parametrize("d", [32, 64, 96])
def test_attention_of_heads_as_wide_as_the_models(dtype, positions, d):
    """Of widths that are multiples of 32, which "amx" multiplies in tiles; for every number of queries."""
    q, k, v = attention_case(positions, d, d + positions)
    exact, bound = attention_exactly(q, k, v, 0.125, dtype)
    for isas in arithmetics(dtype):
        actual = on_every_isa(lambda isa: _ops.attention(q, k, v, 0.125, isa=isa, dtype=dtype), isas)
        assert (np.abs(actual - exact) <= bound).all(), isas
        for tile in range(1, 24):
            assert same_bytes(_ops.attention(q, k, v, 0.125, isa=isas[-1], tile=tile, dtype=dtype), actual), (
                tile
            )


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@pytest.mark.parametrize("positions", [17, 40, 128, 129, 150, 257, 300])
@pytest.mark.parametrize("d", [8, 25, 64])
def test_attention_over_a_shared_part_is_the_same(positions, d, dtype):
    q, k, v = attention_case(positions, d, 1)
    for shared in {16, 32, 112, 128, 144, 240, 256, positions // 16 * 16}:
        for rows in {1, 5, positions - shared}:
            if not 1 <= rows <= positions - shared:
                continue
            for isa in ISAS:
                expected = _ops.attention(q[-rows:], k, v, 0.2, isa=isa, dtype=dtype)
                actual = _ops.attention(q[-rows:], k, v, 0.2, isa=isa, dtype=dtype, shared=shared)
                assert same_bytes(actual, expected), (shared, rows, isa)


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [1, 2, 5, 127, 128, 130, 200])
@pytest.mark.parametrize("d", [24, 32])
def test_attention_never_touches_later_tokens(poison, at, d, dtype):
    q, k, v = attention_case(257, d, 3)
    clean = {isa: _ops.attention(q, k, v, 0.2, isa=isa, dtype=dtype) for isa in ISAS}
    k[at], v[at], q[at] = poison, poison, poison
    for isa in ISAS:
        found = _ops.attention(q, k, v, 0.2, isa=isa, dtype=dtype)
        assert same_bytes(found[:at], clean[isa][:at]), isa
        assert not np.isfinite(found[at:]).all(axis=1).any(), isa


def test_attention_weights_survive_huge_scores():
    q, k, v = attention_case(200, 16, 5)
    actual = on_every_isa(lambda isa: _ops.attention(q * 1e9, k * 1e9, v, 1.0, isa=isa))
    winner = [np.argmax(q[i].astype(np.float64) @ k[: i + 1].T.astype(np.float64)) for i in range(200)]
    assert np.array_equal(actual, v[winner]), "one weight is 1, the others 0"


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
@given(sizes(1, 300), sizes(1, 80), families, seeds)
@settings(max_examples=40)
def test_scores_softmax_and_values_apart(dtype, positions, d, family, seed):
    q, k, v = attention_case(positions, d, seed, family)
    scale = np.float32(1 / math.sqrt(d))
    shared = seed % (positions // 16 + 1) * 16

    def compute(isa, beyond=math.nan, shared=0):
        scores = _ops.attention_scores(q, k, scale, beyond=beyond, shared=shared, dtype=dtype, isa=isa)
        pattern = np.array([_ops.softmax(row, isa=isa) for row in scores])
        values = _ops.attention_values(pattern, v, beyond=beyond, shared=shared, dtype=dtype, isa=isa)
        return np.concatenate([scores, pattern, values], axis=1)

    seen = np.tri(positions, dtype=bool)
    kept = {name: narrowed(x, dtype) for name, x in (("k", k), ("v", v))}
    rounded = bfloat16(q) if dtype == "bfloat16" else q
    for isas in arithmetics(dtype):
        found = on_every_isa(compute, isas)
        assert same_bytes(found, compute(isas[-1], beyond=0.0)), (
            "what lies beyond the cache's end is never used"
        )
        assert same_bytes(found, compute(isas[-1], shared=shared)), "nor does it matter where keys lie"
        scores, pattern, values = np.split(found, [positions, 2 * positions], axis=1)
        exact = rounded.astype(np.float64) @ kept["k"].T.astype(np.float64) * scale
        bound = (
            tolerance.dense_bound(rounded, kept["k"].T) * scale + tolerance.U * np.abs(exact) + tolerance.TINY
        )
        if dtype == "bfloat16":
            bound = bound + d * 2.0**-126  # subnormal numbers count as zero
        assert (np.abs(scores - exact) <= bound)[seen].all() and (scores[~seen] == -np.inf).all()
        bound = tolerance.softmax_bound(scores.astype(np.float64))
        assert (np.abs(pattern - reference.softmax(scores)) <= bound).all() and (pattern[~seen] == 0).all()
        exact = pattern.astype(np.float64) @ kept["v"].astype(np.float64)
        assert (np.abs(values - exact) <= tolerance.dense_bound(pattern, kept["v"], block=None)).all()


@pytest.mark.parametrize("dtype", _engine.CACHE_DTYPES)
def test_scores_apart_are_those_of_attention(dtype):
    """With one-hot values, attention gives the weights."""
    q, k, _ = attention_case(96, 64, 7)
    for isa in ISAS:
        weights = _ops.attention(q, k, np.eye(96, dtype=np.float32)[:, :64], 0.1, isa=isa, dtype=dtype)
        scores = _ops.attention_scores(q, k, 0.1, isa=isa, dtype=dtype)
        pattern = np.array([_ops.softmax(row, isa=isa) for row in scores])
        relative = 1e-6 if dtype != "bfloat16" else 2 * 2.0**-8
        assert np.allclose(weights, pattern[:, :64], rtol=relative, atol=0), isa


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
def test_softmax_of_nothing(n):
    for isa in ISAS:
        assert (_ops.softmax(np.full(n, -np.inf, np.float32), isa=isa) == 0).all()
        assert np.isnan(_ops.softmax(np.full(n, np.nan, np.float32), isa=isa)).all()


# ---- rows of logits ----


@given(sizes(1, 600), families, seeds)
def test_log_sum(n, family, seed):
    logits = values(family, n, np.random.default_rng(seed), exponents=5)
    threshold = float(logits[seed % n])
    results = [_ops.log_sum(logits, threshold, isa=isa) for isa in ISAS]
    assert len(set(results)) == 1
    maximum, total, moment, variance, greater = results[0]
    below = logits.astype(np.float64) - logits.max()
    relative = (
        tolerance.U * np.abs(below) + 2 * tolerance.FUNCTION_ULP * tolerance.U + tolerance.gamma(16 + 4)
    )
    terms = np.exp(below)
    assert maximum == logits.max()
    assert greater == (logits > threshold).sum()
    assert abs(total - terms.sum()) <= (terms * relative).sum() + n * tolerance.TINY
    sizes_of_terms = np.abs(terms * below)
    assert (
        abs(moment - (terms * below).sum())
        <= (sizes_of_terms * (relative + 2 * tolerance.U)).sum() + n * 1e-36
    )
    exact, bound = tolerance.variance_and_bound(logits)
    assert abs(variance - exact) <= bound


@pytest.mark.parametrize("below", [-86, -88, -95, -100, -103, -105, -250, -math.inf])
@pytest.mark.parametrize("n", [2, 16, 17, 300])
def test_log_sum_of_logits_far_below_the_greatest(below, n):
    logits = np.full(n, below, np.float32)
    logits[n // 2] = 0
    results = {_ops.log_sum(logits, below, isa=isa) for isa in ISAS}
    assert len(results) == 1
    maximum, total, moment, variance, greater = results.pop()
    assert (maximum, total, greater) == (0, 1, 1)
    weight = float(np.float32(math.exp(below)))
    share = (n - 1) * weight / (1 + (n - 1) * weight)
    if weight:
        assert variance == pytest.approx(
            share * (1 - share) * below**2, rel=1e-4 + 2 * 2.0**-149 / weight, abs=0
        )
        assert moment == pytest.approx((n - 1) * weight * below, rel=1e-4 + 2.0**-149 / weight, abs=0)
    else:
        assert moment == 0 and variance == 0


def variance_of(logits):
    found = {_ops.log_sum(np.asarray(logits, np.float32), 0.0, isa=isa)[3] for isa in ISAS}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("below", [-0.01, -1, -4, -9, -10.5, -30])
@pytest.mark.parametrize("n", [2, 300, 50257])
def test_a_variance_far_smaller_than_the_square_of_the_mean(n, below):
    """All tokens alike but for one: in a mean square less the squared mean most digits are lost."""
    logits = np.full(n, below, np.float32)
    logits[n // 3] = 0
    weight = np.exp(np.float64(np.float32(below)))
    share = 1 / (1 + (n - 1) * weight)
    exact, bound = tolerance.variance_and_bound(logits)
    assert exact == pytest.approx(share * (1 - share) * np.float64(np.float32(below)) ** 2, rel=1e-9)
    assert bound <= 1e-5 * exact and abs(variance_of(logits) - exact) <= bound


@given(sizes(2, 900), families, seeds, st.sampled_from((0.0, 1e-3, 1.0, 60.0)), st.floats(0, 0.9))
def test_variances_of_rows_that_are_partly_forbidden(n, family, seed, offset, forbidden):
    rng = np.random.default_rng(seed)
    logits = values(family, n, rng, exponents=5) - np.float32(offset)
    logits[rng.random(n) < forbidden] = -math.inf
    logits[seed % n] = 1
    exact, bound = tolerance.variance_and_bound(logits)
    assert abs(variance_of(logits) - exact) <= bound


def test_variances_without_spread_are_zero():
    assert variance_of([3.5]) == variance_of([-math.inf, 2, -math.inf]) == variance_of(np.full(999, 7.3)) == 0
    certain = np.full(5000, -1000)
    certain[4321] = 1000
    assert variance_of(certain) == 0
    alike = np.full(700, -math.inf)
    alike[[5, 300, 699]] = 12.5
    assert variance_of(alike) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_variances_of_what_is_no_distribution(bad):
    logits = np.zeros(600)
    logits[400] = bad
    assert all(math.isnan(_ops.log_sum(logits.astype(np.float32), 0.0, isa=isa)[3]) for isa in ISAS)


@given(sizes(1, 600), families, seeds, st.sampled_from((0.0, 0.01, 0.5, 1.0)))
def test_subset_sum(n, family, seed, share):
    rng = np.random.default_rng(seed)
    logits = values(family, n, rng, exponents=5)
    mask = rng.random(n) < share
    results = {_ops.subset_sum(logits, mask, isa=isa) for isa in ISAS}
    assert len(results) == 1
    maximum, total = results.pop()
    if not mask.any():
        assert (maximum, total) == (-math.inf, 0)
        return
    below = logits[mask].astype(np.float64) - logits[mask].max()
    relative = (
        tolerance.U * np.abs(below) + 2 * tolerance.FUNCTION_ULP * tolerance.U + tolerance.gamma(16 + 4)
    )
    assert maximum == logits[mask].max()
    assert abs(total - np.exp(below).sum()) <= (np.exp(below) * relative).sum() + n * tolerance.TINY
    alone = np.where(mask, logits, np.float32(-math.inf))  # in the order of all, whatever is left out
    assert (maximum, total) == _ops.log_sum(alone, 0.0)[:2]


def test_subset_sum_does_not_depend_on_what_is_left_out():
    logits, mask = np.full(50, 700, np.float32), np.zeros(50, bool)
    logits[[3, 40]], mask[[3, 40]] = (-300, -301), True
    for other in (-math.inf, 0, 3e38, math.inf, math.nan):
        logits[~mask] = other
        for isa in ISAS:
            assert _ops.subset_sum(logits, mask, isa=isa) == (-300, pytest.approx(1 + math.exp(-1), rel=1e-6))
    logits[mask], logits[~mask] = -math.inf, 1  # a subset without probability
    assert {_ops.subset_sum(logits, mask, isa=isa) for isa in ISAS} == {(-math.inf, 0)}


@given(sizes(1, 600), families, seeds)
def test_count_greater(n, family, seed):
    logits = values(family, n, np.random.default_rng(seed), exponents=5)
    for threshold in (float(logits[seed % n]), math.inf, -math.inf, math.nan):
        for isa in ISAS:
            assert _ops.count_greater(logits, threshold, isa=isa) == (logits > threshold).sum()


def philox(seed, stream, position):
    """The number that NumPy's Philox gives; it steps its counter before the first block."""
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=(position - 1) % 2**256)
    return int(generator.random_raw() >> 11) * 2.0**-53


DEFAULTS = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, stream=0, position=0)


def draw(logits, processed=None, *, isa=None, **options):
    if processed is not None:
        processed = np.asarray(processed, np.float32)
    return _engine.sample(np.asarray(logits, np.float32), processed, isa=isa, **{**DEFAULTS, **options})


def weights_by_definition(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Weights (greatest 1) of every id that stays, by sorting; ties at an edge go to the lowest id."""
    logits = np.asarray(logits, np.float64)
    order = np.lexsort((np.arange(logits.size), -logits))
    stays = np.zeros(logits.size, bool)
    stays[order[: top_k or logits.size]] = True
    weights = np.where(stays, np.exp((logits - logits.max()) / temperature), 0)
    mass = np.cumsum(weights[order])
    last = np.searchsorted(mass, top_p * mass[-1])  # the first whose mass reaches the share
    weights[order[last + 1 :]] = 0
    return np.where(weights >= min_p, weights, 0)


@given(
    sizes(1, 300), seeds, st.sampled_from((0.3, 1.0, 2.5)), st.one_of(st.just(0), st.integers(1, 310)),
    st.sampled_from((1.0, 0.95, 0.5, 0.05, 1e-6)), st.sampled_from((0.0, 0.02, 0.3, 1.0)),
)  # fmt: skip
def test_sample_draws_by_definition(n, seed, temperature, top_k, top_p, min_p):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(n) * 2).astype(np.float32)
    if seed % 3 == 0:
        logits = np.round(logits)  # many equal
    filters = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    key = dict(seed=seed * 7919, stream=seed % 5, position=seed % 1000)
    drawn = {draw(logits, isa=isa, **filters, **key) for isa in ISAS}
    assert len(drawn) == 1
    (token, logprob) = drawn.pop()
    logprobs = reference.log_softmax(logits.astype(np.float64))
    assert abs(logprob - logprobs[token]) < 1e-5

    # Float32 weights differ by some units in the last place, which can move an id across an edge or a border.
    slack = 1e-5
    candidates = [
        weights_by_definition(logits, temperature=temperature, top_k=top_k, top_p=p, min_p=m)
        for p in {top_p, min(top_p * (1 + slack), 1.0), top_p * (1 - slack)}
        for m in {min_p, min_p * (1 - slack), min_p * (1 + slack)}
    ]

    def allows(weights):
        total = weights.sum()
        before = weights[:token].sum()
        target = philox(**key) * total
        return (
            weights[token] > 0 and before - slack * total <= target <= before + weights[token] + slack * total
        )

    assert any(allows(weights) for weights in candidates if weights.any())


def uniform_for(share, margin, tries=20_000):
    """A position whose random number lies within ``margin`` above ``share``, None if that is too rare."""
    if not NUMBERS:
        NUMBERS.extend(sorted((philox(0, 0, position), position) for position in range(tries)))
    number, position = NUMBERS[min(bisect.bisect_left(NUMBERS, (share, 0)), tries - 1)]
    return position if share < number < share + margin else None


NUMBERS = []


def hard_rows(n):
    """Rows whose greatest values lie, or tie, where a shortcut could lose them."""
    rng = np.random.default_rng(n)
    normal = (3 * rng.standard_normal(n)).astype(np.float32)
    few = np.full(n, -np.inf, np.float32)
    few[rng.integers(0, n, 20)] = normal[:1] + np.arange(20, dtype=np.float32) // 3
    crowded = normal - 100
    crowded[5::1024] += 100  # the greatest meet in one column of maxima
    last = np.zeros(n, np.float32)
    last[-3:] = 1
    signed = np.zeros(n, np.float32)
    signed[::2] = -0.0
    return {
        "normal": normal,
        "ascending": np.sort(normal),
        "descending": np.sort(normal)[::-1].copy(),
        "pipe": np.minimum(np.arange(n), np.arange(n)[::-1]).astype(np.float32),
        "equal": np.full(n, 2.5, np.float32),
        "ties": np.round(normal),
        "negative": np.round(normal) - 50,
        "few": few,
        "crowded": crowded,
        "last": last,
        "zeros of both signs": signed,
        "subnormal": normal * np.float32(1e-39),
    }


def greatest_ids(logits, k):
    order = np.lexsort((np.arange(logits.size), -logits.astype(np.float64)))[:k]
    return np.sort(order[np.isfinite(logits[order])])


ROW_SIZES = (1, 2, 15, 16, 17, 1023, 1024, 1025, 1040, 2047, 2048, 2049, 50_257)


@pytest.mark.parametrize("n", ROW_SIZES)
def test_sample_top_k_keeps_exactly_the_greatest(n):
    for name, logits in hard_rows(n).items():
        for k in {1, 2, 3, 15, 16, 17, 50, 256, 257, 300, 1024, n // 2, n - 1, n, n + 1} - {0}:
            kept = greatest_ids(logits, k)
            # At this temperature all weights are 1: each random number has its id.
            edge = int(np.argmin(logits[kept]))
            for rank in {0, edge, kept.size // 2, kept.size - 1}:
                position = uniform_for((rank + 0.001) / kept.size, 0.998 / kept.size)
                if position is not None:
                    for isa in ISAS if n < 3000 or k == 50 else ISAS[-1:]:
                        token = draw(logits, temperature=1e30, top_k=k, position=position, isa=isa)[0]
                        assert token == kept[rank], (name, k, rank, isa)


@pytest.mark.parametrize("n", ROW_SIZES)
def test_top_is_exactly_the_greatest(n):
    for name, logits in hard_rows(n).items():
        for k in {1, 2, 3, 15, 16, 17, 50, 256, 257, 300, 1024, n // 2, n - 1, n} & set(range(1, n + 1)):
            kept = greatest_ids(logits, k)
            for isa in ISAS if n < 3000 or k == 50 else ISAS[-1:]:
                ids, value = _ops.top(logits, k, isa=isa)
                assert np.array_equal(ids[: kept.size], kept), (name, k, isa)
                assert value[: kept.size].tobytes() == logits[kept].tobytes()
                assert (ids[kept.size :] == -1).all() and (value[kept.size :] == -math.inf).all()


@given(sizes(1, 600), families, seeds, st.integers(1, 600))
def test_top(n, family, seed, k):
    logits, k = values(family, n, np.random.default_rng(seed)), min(k, n)
    for isa in ISAS:
        ids, value = _ops.top(logits, k, isa=isa)
        assert np.array_equal(ids, greatest_ids(logits, k)) and value.tobytes() == logits[ids].tobytes()


def kept_weights(logits, *, temperature, top_k, top_p, min_p):
    """As weights_by_definition, but of the float32 weights: no doubt is left about ties and edges."""
    scaled = (logits - logits.max()) / np.float32(temperature)
    weights = _ops.apply("exp", scaled).astype(np.float64)
    weights[np.setdiff1d(np.arange(logits.size), greatest_ids(logits, top_k or logits.size))] = 0
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order])
    weights[order[np.searchsorted(mass, np.float32(top_p) * mass[-1] * (1 - 1e-13)) + 1 :]] = 0
    return np.where(weights >= np.float32(min_p), weights, 0)


@pytest.mark.parametrize("n", ROW_SIZES)
@pytest.mark.parametrize("top_k", [0, 50])
@pytest.mark.parametrize(
    ("temperature", "top_p", "min_p"),
    [(0.8, 0.95, 0.0), (3.0, 0.95, 0.0), (50.0, 0.3, 0.0), (3.0, 1e-6, 0.0), (3.0, 0.999, 0.0),
     (3.0, 1.0, 0.0), (1e30, 0.5, 0.0), (5.0, 0.9, 0.3), (1.0, 1.0, 1.0)],
)  # fmt: skip
def test_sample_draws_by_definition_on_long_rows(n, top_k, temperature, top_p, min_p):
    filters = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for name, logits in hard_rows(n).items():
        weights = kept_weights(logits, **filters)
        mass = np.cumsum(weights) / weights.sum()
        kept = np.flatnonzero(weights)
        edge = kept[::-1][np.argmin(weights[kept[::-1]])]
        for token in {kept[0], kept[kept.size // 2], kept[-1], edge}:
            share = weights[token] / weights.sum()
            position = uniform_for(mass[token] - share * 0.999, share * 0.998)
            if position is not None:
                for isa in ISAS if n < 3000 or name == "normal" else ISAS[-1:]:
                    assert draw(logits, position=position, isa=isa, **filters)[0] == token, (name, isa)


@pytest.mark.parametrize("n", ROW_SIZES)
def test_sample_greedy_on_long_rows(n):
    for name, logits in hard_rows(n).items():
        for isa in ISAS:
            assert draw(logits, temperature=0.0, isa=isa)[0] == np.argmax(logits), (name, isa)


@pytest.mark.parametrize("n", [16, 17, 1025, 50_257])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sample_draws_from_the_processed_row(n, temperature):
    logits, one, two = np.zeros(n, np.float32), np.full(n, -np.inf, np.float32), np.zeros(n, np.float32)
    one[n - 2], two[[n - 1, 5]] = 0, 200
    before = [row.copy() for row in (logits, one, two)]
    for top_k in (0, 1, 2, 50):
        for isa in ISAS:
            options = dict(temperature=temperature, top_k=top_k, isa=isa)
            token, logprob = draw(logits, one, **options)
            assert token == n - 2
            assert abs(logprob + math.log(n)) < 1e-6, "the log-probability is that of the raw logits"
            assert draw(logits, two, top_p=1e-6, **options)[0] == 5
    assert all(map(same_bytes, (logits, one, two), before))


def test_sample_keeps_the_lowest_ids_of_equals_at_the_edge():
    logits = [1.0, 3.0, 1.0, 1.0, 0.0]
    for isa in ISAS:
        drawn = {draw(logits, top_k=3, temperature=9.0, position=i, isa=isa)[0] for i in range(200)}
        assert drawn == {0, 1, 2}
        drawn = {draw([0.0] * 4, top_p=0.5, position=i, isa=isa)[0] for i in range(200)}
        assert drawn == {0, 1}


def test_sample_frequencies():
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125]))
    n = 20_000
    counts = np.bincount([draw(logits, position=i)[0] for i in range(n)], minlength=4)
    expected = n * np.array([0.5, 0.25, 0.125, 0.125])
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 21.1  # chi-squared, 3 degrees of freedom, 1 in 10,000


def test_sample_random_numbers_are_philox():
    logits = np.zeros(1000, np.float32)
    for key in (
        dict(seed=0, stream=0, position=0),
        dict(seed=2**64 - 1, stream=3, position=7),
        dict(seed=42, stream=0, position=1),
    ):
        assert draw(logits, **key)[0] == int(philox(**key) * 1000)


@given(sizes(1, 100), seeds)
def test_sample_greedy_takes_the_lowest_of_equals(n, seed):
    logits = np.round(np.random.default_rng(seed).standard_normal(n)).astype(np.float32)
    for isa in ISAS:
        assert draw(logits, temperature=0.0, isa=isa)[0] == np.argmax(logits)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[math.nan], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_sample_says_when_nothing_can_be_chosen(logits, temperature):
    with pytest.raises(ValueError, match="no token can be chosen"):
        draw(logits, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sample_refuses_a_row_with_one_bad_logit(bad, temperature):
    for at in range(40):
        logits = np.arange(40, dtype=np.float32)
        logits[at] = bad
        for rows in ((logits,), (logits, np.zeros(40)), (np.zeros(40), logits)):
            with pytest.raises(ValueError, match="logits hold NaN or infinities"):
                draw(*rows, temperature=temperature)


def test_sample_survives_extreme_temperatures():
    logits = np.array([1.0, 3.0, -3e38, 3.0], np.float32)
    assert draw(logits, temperature=1e-45)[0] in (1, 3)
    seen = {draw(logits, temperature=3e38, position=i)[0] for i in range(200)}
    assert {0, 1, 3} <= seen


def test_sample_refuses_rows_of_different_lengths():
    with pytest.raises(ValueError, match="processed has 5 logits, but there are 4"):
        draw(np.zeros(4), np.zeros(5))


# ---- choosing an instruction set ----


def test_unknown_isa_is_refused():
    with pytest.raises(UnsupportedISAError, match=r"isa is 'sse9'.*this build lacks; compiled in: generic"):
        _ops.apply("exp", np.zeros(1, np.float32), isa="sse9")


def test_environment_names_the_isa(monkeypatch):
    for isa in ISAS:
        monkeypatch.setenv("GPT2C_ISA", isa)
        assert _engine.default_isa() == isa
    monkeypatch.setenv("GPT2C_ISA", "avx1024")
    with pytest.raises(UnsupportedISAError, match="GPT2C_ISA is 'avx1024'"):
        _engine.default_isa()


@given(st.integers(1, 300), st.integers(0, 20), st.booleans(), seeds)
def test_greatest_of_a_row(n, k, forbidden, seed):
    rng = np.random.default_rng(seed)
    row = np.round(rng.normal(size=n), 1).astype(np.float32)
    if forbidden:
        row[rng.integers(n, size=n // 2)] = -np.inf
    expected = [i for i in np.argsort(-row, kind="stable").tolist() if row[i] > -np.inf][:k]
    assert _engine.top(row, k).tolist() == expected
    for infinite in (np.nan, np.inf):  # the kernel must not see it
        row[rng.integers(n)] = infinite
        assert _engine.top(row, k).tolist() == []
        with pytest.raises(ValueError, match=r"neither NaN nor \+inf"):
            _ops.top(row, 1)
