"""bfloat16, int8 and int4: what is packed, what inputs are rounded to, and sums exact to the last bit."""

import numpy as np
import pytest
from helpers import rounding, tolerance
from helpers.rounding import (
    GROUP,
    OWN_BFLOAT16,
    PACKED,
    PANEL,
    PARSE,
    WEIGHTS_PER_SCALE,
    from_bfloat16,
    to_bfloat16,
)
from helpers.strategies import FAMILIES, guarded, misaligned, offsets, seeds, sizes, values
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import FUNCTIONS, ISAS, all_exponents, same_bytes

from gpt2c.core import _ops

# Equal bit for bit, in every format: all but those with an instruction for pairs of bfloat16.
EQUAL = {
    "bfloat16": [isa for isa in ISAS if isa not in OWN_BFLOAT16],
    "int8": ISAS,
    "int4": ISAS,
}
HARD = (*FAMILIES, "zero", "outliers", "tiny_groups", "integers", "halves")
formats = st.sampled_from(PACKED)
integer_formats = st.sampled_from(("int8", "int4"))
hard = st.sampled_from(HARD)


def hard_values(family, shape, rng, axis):
    """Families of strategies.values, and some that are about groups along an axis (0 or 1).

    zero         all of them
    outliers     an element 2^12 times as large as usual in some of the groups
    tiny_groups  groups around 2^-100, under which inputs count as zeros, and around 2^-120, where weights do
    integers     whole numbers that reach 127 in every group: everything is exact
    halves       of a scale that is a power of two: most quotients are ties
    """
    if family in FAMILIES:
        return values(family, shape, rng, exponents=20)
    x = rng.standard_normal(shape).astype(np.float32)
    groups = -(-shape[axis] // 32)
    other = shape[1 - axis]

    def spread(per_group):  # [groups, other] along the axis
        long = np.repeat(per_group, 32, axis=0)[: shape[axis]]
        return long if axis == 0 else long.T

    if family == "zero":
        return np.zeros(shape, np.float32)
    if family == "outliers":
        at = np.arange(shape[axis]) % 32 == rng.integers(32)
        hit = spread(rng.random((groups, other)) < 0.5) & (at[:, None] if axis == 0 else at)
        return np.where(hit, x * np.float32(4096), x).astype(np.float32)
    if family == "tiny_groups":
        exponents = rng.choice(
            (-130, -121, -120, -119, -114, -113, -112, -102, -101, -100, -99, 0), (groups, other)
        )
        return np.ldexp(x, spread(exponents)).astype(np.float32)
    x = rng.integers(-127, 128, shape).astype(np.float32)
    edge = np.arange(shape[axis]) % 32 == rng.integers(32)
    x[edge if axis == 0 else (slice(None), edge)] = 127
    return x if family == "integers" else x / 2


def padded(x, rows, columns):
    wide = np.zeros((rows, columns), x.dtype)
    wide[: x.shape[0], : x.shape[1]] = x
    return wide


def in_panels(weight):
    """The weight with zeros up to whole panels and steps."""
    n_in, n_out = weight.shape
    return padded(weight, -(-n_in // GROUP) * GROUP, -(-n_out // PANEL) * PANEL)


def in_blocks(wide, size):
    """Parts of at most so many inputs."""
    return np.split(wide, range(size, len(wide), size))


# ---- bfloat16


def every_rounding():
    """Every upper half, NaN among them, with lower halves at and beside zero, the middle and the end."""
    upper = np.arange(2**16, dtype=np.uint32)[:, None] << 16
    return (upper | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32)


def test_weights_are_rounded_to_the_nearest_bfloat16():
    x = np.ascontiguousarray(every_rounding().T)
    bits = rounding.parse_bfloat16(_ops.pack(x, dtype="bfloat16"), len(x))[: len(x)]
    number = ~np.isnan(x)
    assert np.array_equal(bits[number], to_bfloat16(x)[number])
    assert np.isnan(from_bfloat16(bits[~number])).all()
    assert np.isinf(from_bfloat16(bits[np.abs(x) == np.finfo(np.float32).max])).all()


@pytest.mark.parametrize("isa", ISAS)
def test_inputs_are_rounded_to_the_nearest_bfloat16(isa):
    x = every_rounding().reshape(-1, GROUP)
    coded = _ops.encode(x, "bfloat16", isa=isa)
    if isa in OWN_BFLOAT16:  # words of two, the first of them in the upper half
        together = 32 if isa == "amx" else 1
        rows = np.pad(coded.view(np.uint16), (0, -len(coded) // 2 % (64 * together)))
        rows = rows.reshape(-1, 2, together, 16, 2).swapaxes(1, 2)[..., ::-1]  # line block, line, step
        bits = rows.reshape(-1, GROUP)[: len(x)]
    else:  # floats
        words = coded.view(np.uint32)[: x.size].reshape(x.shape)
        assert not (words & 0xFFFF)[~np.isnan(x)].any()
        bits = (words >> 16).astype(np.uint16)
    number = ~np.isnan(x.reshape(-1, 2)).any(
        axis=1
    )  # what stands beside a NaN does not matter: the sum is NaN
    number = np.repeat(number, 2).reshape(x.shape)
    assert np.array_equal(bits[number], to_bfloat16(x)[number])


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F80FFFF, 0x7FBFFFFF])
def test_a_bfloat16_sum_over_any_nan_is_nan(bits):
    nan = np.array([bits], np.uint32).view(np.float32)
    panels = _ops.pack(np.ones((4, 3), np.float32), dtype="bfloat16")
    for isa in ISAS:
        for at in range(4):
            x = np.ones((2, 4), np.float32)
            x[0, at] = nan[0]
            x.view(np.uint32)[0, at] = bits
            sums = _ops.linear(x, panels, 3, dtype="bfloat16", isa=isa)
            assert np.isnan(sums[0]).all() and (sums[1] == 4).all(), (isa, at)


# ---- packing


@given(sizes(1, 150), sizes(1, 150), hard, seeds, st.booleans())
@settings(max_examples=40)
def test_pack_bfloat16(n_in, n_out, family, seed, transposed):
    weight = hard_values(family, (n_in, n_out), np.random.default_rng(seed), 0)
    source = np.ascontiguousarray(weight.T) if transposed else weight
    panels = _ops.pack(source, transposed=transposed, dtype="bfloat16", threads=1 + seed % 3)
    assert panels.ctypes.data % 64 == 0 and panels.dtype == np.uint8
    bits = rounding.parse_bfloat16(panels, n_in)
    assert np.array_equal(bits, to_bfloat16(padded(weight, *bits.shape)))
    assert same_bytes(_ops.unpack(panels, n_in, n_out, "bfloat16"), rounding.bfloat16(weight))


def shift_of(found, per_scale):
    """The sum of each output's weights, block after block in float32."""
    shift = np.zeros(found.q.shape[1], np.float32)
    with np.errstate(all="ignore"):
        for block, scale in zip(found.blocks(per_scale), found.scales, strict=True):
            shift = shift + scale * block.sum(axis=0).astype(np.float32)
    return shift


@given(
    st.one_of(sizes(1, 200), st.sampled_from((4095, 4096, 4097, 4200))),
    sizes(1, 150),
    hard,
    seeds,
    st.booleans(),
)
@settings(max_examples=100)
def test_pack_int8(n_in, n_out, family, seed, transposed):
    n_out = n_out if n_in < 4000 else n_out % 3 + 1
    weight = hard_values(family, (n_in, n_out), np.random.default_rng(seed), 0)
    source = misaligned(weight.T if transposed else weight, seed % 4)
    panels = _ops.pack(source, transposed=transposed, dtype="int8", threads=1 + seed % 3)
    assert panels.ctypes.data % 64 == 0
    found = rounding.parse_int8(panels, n_in)
    for wide, q, scales in zip(
        in_blocks(in_panels(weight), 4096), found.blocks(4096), found.scales, strict=True
    ):
        greatest = np.abs(wide).max(axis=0)
        expected = greatest / np.float32(127)
        counts = expected >= np.float32(2.0**-120)
        assert np.array_equal(scales, np.where(counts, expected, 0))
        with np.errstate(divide="ignore"):
            inverse = np.where(counts, np.float32(1) / scales, np.float32(0))
        assert np.array_equal(q, np.clip(np.rint(wide * inverse), -127, 127))
        lost = np.abs(wide - q * scales.astype(np.float64))
        assert (lost <= scales * 0.50001 + np.where(counts, 0, greatest)).all(), "half a step"
    assert same_bytes(found.shift, shift_of(found, 4096))
    assert np.array_equal(_ops.unpack(panels, n_in, n_out, "int8"), found.values("int8")[:n_in, :n_out])


@given(sizes(1, 600), sizes(1, 150), hard, seeds, st.booleans())
@settings(max_examples=100)
def test_pack_int4(n_in, n_out, family, seed, transposed):
    weight = hard_values(family, (n_in, n_out), np.random.default_rng(seed), 0)
    source = misaligned(weight.T if transposed else weight, seed % 4)
    panels = _ops.pack(source, transposed=transposed, dtype="int4", threads=1 + seed % 3)
    found = rounding.parse_int4(panels, n_in)
    blocks = [rounding.int4_block(block) for block in in_blocks(in_panels(weight), 256)]
    scales, factors, q = (np.concatenate(part) for part in zip(*blocks, strict=True))
    assert same_bytes(found.scales, scales)
    assert np.array_equal(found.factors, factors)
    assert np.array_equal(found.q, q)
    assert same_bytes(found.shift, shift_of(found, 256))
    assert np.array_equal(_ops.unpack(panels, n_in, n_out, "int4"), found.values("int4")[:n_in, :n_out])


def test_int4_weights_lose_as_little_as_any_such_steps_would():
    """Normal weights: within 10 % of the best of 400 steps for each 32 (factors of 4 bits cost some 5 %)."""
    weight = np.random.default_rng(1).standard_normal((256, 64)).astype(np.float32)
    lost = weight - _ops.unpack(_ops.pack(weight, dtype="int4"), 256, 64, "int4")
    groups = weight.reshape(8, 32, 64)
    best = np.inf
    for share in np.linspace(0.6, 1.3, 200):
        for sign in (1, -1):
            step = sign * share * np.abs(groups).max(axis=1, keepdims=True) / 8
            error = ((groups - step * np.clip(np.rint(groups / step), -8, 7)) ** 2).sum(axis=1)
            best = np.minimum(best, error)
    assert (lost**2).sum() <= 1.1 * best.sum()


@pytest.mark.parametrize("dtype", PACKED)
def test_what_was_packed_is_packed_again_without_loss(dtype):
    """Values on the grid of a format stay what they are."""
    rng = np.random.default_rng(3)
    limit = 8 if dtype == "int4" else 128
    q = rng.integers(1 - limit, limit, (512, 70))
    q[::32] = -8 if dtype == "int4" else 127
    scale = np.ldexp(1.0, rng.integers(-9, 9, (1 if dtype == "int8" else 2, 70)))
    factors = rng.integers(1, 16, (16, 70)) if dtype == "int4" else np.ones((16, 70))
    factors[::8] = 15 if dtype == "int4" else 1
    weight = np.repeat(scale, 512 // len(scale), axis=0) * np.repeat(factors, 32, axis=0) * q
    weight = weight.astype(np.float32)
    assert same_bytes(_ops.unpack(_ops.pack(weight, dtype=dtype), 512, 70, dtype), weight)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_of_one_scale_that_are_not_finite(dtype, poison):
    """All of them are NaN, so that nobody mistakes them for numbers; their neighbours are untouched."""
    per_scale = WEIGHTS_PER_SCALE[dtype]
    weight = np.random.default_rng(1).standard_normal((300, 70)).astype(np.float32)
    clean = _ops.unpack(_ops.pack(weight, dtype=dtype), 300, 70, dtype)
    for k in (0, 77, 299):
        broken = weight.copy()
        broken[k, 66] = poison
        panels = _ops.pack(broken, dtype=dtype)
        group = slice(k // per_scale * per_scale, (k // per_scale + 1) * per_scale)
        expected = clean.copy()
        expected[group, 66] = np.nan
        assert np.array_equal(_ops.unpack(panels, 300, 70, dtype), expected, equal_nan=True)
        x = np.ones((9, 300), np.float32)
        sums = [_ops.linear(x, panels, 70, dtype=dtype, isa=isa) for isa in ISAS]
        for some in sums:
            assert np.isnan(some[:, 66]).all() and np.isfinite(np.delete(some, 66, axis=1)).all()


def test_other_shapes_of_panels_are_refused():
    for dtype in PACKED:
        panels = _ops.pack(np.ones((65, 2), np.float32), dtype=dtype)
        with pytest.raises(ValueError, match=rf"65 inputs and 65 outputs, with dtype='{dtype}'"):
            _ops.unpack(panels, 65, 65, dtype)
        with pytest.raises(ValueError, match=r"panels must come from pack\(\).*with dtype='float32'"):
            _ops.linear(np.ones((1, 65), np.float32), panels, 2)
    with pytest.raises(ValueError, match="dtype is 'int2'; allowed: 'float32', 'bfloat16', 'int8', 'int4'"):
        _ops.pack(np.ones((3, 2), np.float32), dtype="int2")
    with pytest.raises(ValueError, match="float32 is multiplied without encoding"):
        _ops.encode(np.ones((3, 2), np.float32), "float32")


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 16), ("int8", 8), ("int4", 4.25)])
def test_size_of_panels(dtype, bits):
    """Bits of a weight, and of an output its shift and, for each block of inputs, its scale."""
    blocks = {"bfloat16": (-1, -1), "int8": (1, 1), "int4": (1, 2)}[dtype]
    more = 32 if dtype == "bfloat16" else GROUP
    for n_in, count in zip((256, 257), blocks, strict=True):
        padded_in = 256 if n_in == 256 else 256 + more
        size = _ops.pack(np.ones((n_in, 640), np.float32), dtype=dtype).nbytes
        assert size == 640 * (padded_in * bits / 8 + 4 * (1 + count))


# ---- inputs as integers


def parse_encoded(coded, isa, rows, n, inputs, dtype, row0):
    """(q [rows, n rounded up to 64], heads [rows, 2], starts): what k_encode.inc.c lays out, line by line."""
    bytes_each = 1 if isa in ("avxvnni", "avx512vnni", "avx512bf16", "amx") else 2
    together = 32 if isa == "amx" else 1
    per_row = 2 if inputs == "wide" and bytes_each == 1 else 1
    steps, blocks = -(-n // GROUP), -(-n // WEIGHTS_PER_SCALE[dtype])
    starts = blocks + (2 * steps if dtype == "int4" else 0)
    head = -(-(8 + 4 * starts) // 16) * 16
    size = head + steps * GROUP * bytes_each
    lines = np.arange(row0 * per_row, (row0 + rows) * per_row)
    q, heads, all_starts = [], [], []
    for line in lines:
        block = line // together * together * size
        at = block + line % together * head
        heads.append(coded[at : at + 8].view(np.float32))
        all_starts.append(coded[at + 8 : at + 8 + 4 * starts].view(np.int32).astype(np.int64))
        data = coded[block + together * head :][: together * (size - head)]
        some = data.reshape(steps, together, GROUP * bytes_each)[:, line % together].reshape(-1)
        some = some.view(np.int16 if bytes_each == 2 else np.int8).astype(np.int64)
        if isa in ("avx2", "avx512"):  # of each four in the order 0, 2, 1, 3
            some = some.reshape(-1, 4)[:, [0, 2, 1, 3]].reshape(-1)
        q.append(some)
    heads, all_starts, q = np.array(heads)[::per_row], np.array(all_starts), np.array(q)
    halves = all_starts[:, blocks:]
    if dtype == "int4":
        assert np.array_equal(halves, -8 * q.reshape(len(q), -1, 32).sum(axis=-1)), isa
    whole = 64 * q[::2] + q[1::2] if per_row == 2 else q
    return whole, heads, all_starts[::per_row, :blocks]


@given(
    st.integers(1, 7),
    st.one_of(sizes(1, 300), st.sampled_from((4096, 4099))),
    hard,
    seeds,
    offsets,
    integer_formats,
    st.sampled_from(("signed", "wide", "shifted")),
    st.sampled_from((0, 3, 15, 31)),
)
@settings(max_examples=150)
def test_encode_integers(rows, n, family, seed, offset, dtype, inputs, row0):
    rng = np.random.default_rng(seed)
    wide = misaligned(hard_values(family, (rows, n + 3), rng, 1), offset)
    wide[:, n:] = np.nan  # not part of the rows
    x = wide[:, :n]
    expected, per_scale = rounding.integers(x, inputs), WEIGHTS_PER_SCALE[dtype]
    for isa in ISAS:
        coded = _ops.encode(x, dtype, inputs=inputs, row0=row0, isa=isa)
        q, heads, starts = parse_encoded(coded, isa, rows, n, inputs, dtype, row0)
        assert np.array_equal(q[:, :n], expected.q), isa
        assert not q[:, n:].any(), isa
        assert same_bytes(np.ascontiguousarray(heads[:, 0]), expected.scale), isa
        assert same_bytes(np.ascontiguousarray(heads[:, 1]), expected.offset), isa
        blocks = np.split(q, range(per_scale, q.shape[1], per_scale), axis=1)
        sums = [-128 * block.sum(axis=1) for block in blocks]
        assert np.array_equal(starts, np.stack(sums, axis=1).astype(np.int32)), isa
    lost = np.abs(x - expected.values)
    assert (lost <= expected.scale[:, None] * 0.502 + 2.0**-100).all(), "half a step"


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", PACKED)
def test_inputs_that_are_no_numbers(dtype, poison):
    """They make all of their row NaN (bfloat16: or infinite, as products say), and no other row."""
    rng = np.random.default_rng(5)
    x, weight = (
        rng.standard_normal((9, 130)).astype(np.float32),
        rng.standard_normal((130, 66)).astype(np.float32),
    )
    weight[:, 3] = 0
    panels = _ops.pack(weight, dtype=dtype)
    clean = _ops.linear(x, panels, 66, dtype=dtype, isa=EQUAL[dtype][-1])
    for at in (0, 63, 64, 129):
        broken = x.copy()
        broken[4, at] = poison
        for isa in EQUAL[dtype]:
            sums = _ops.linear(broken, panels, 66, dtype=dtype, isa=isa)
            assert same_bytes(np.delete(sums, 4, axis=0), np.delete(clean, 4, axis=0)), isa
            if dtype == "bfloat16" and not np.isnan(poison):
                expected = np.where(weight[at] < 0, -poison, poison)
                assert np.array_equal(sums[4], np.where(weight[at] == 0, np.nan, expected), equal_nan=True), (
                    isa
                )
            else:
                assert np.isnan(sums[4]).all(), isa


# ---- dense layers


def exact_sums(dtype, x, panels, n_out, inputs="signed"):
    """What every instruction set must give, bit by bit, and the weight that it stands for."""
    n_in = x.shape[1]
    weight = _ops.unpack(panels, n_in, n_out, dtype)
    if dtype == "bfloat16":
        return rounding.linear_bfloat16(x, weight), weight
    sums = rounding.linear_integers(x, PARSE[dtype](panels, n_in), dtype, inputs)
    return np.ascontiguousarray(sums[:, :n_out]), weight


def sum_bound(dtype, x, weight, inputs):
    """How far correct sums may be from the exact product of rounded inputs and weights.

    bfloat16: the bound of float32, over rounded numbers. Integers: a rounding for the product of the scales,
    one for the sum as a float, one for each block that is added, and those of the shift, a sum over blocks.
    """
    if dtype == "bfloat16":
        return tolerance.dense_bound(rounding.bfloat16(x), weight)
    rows, weight = rounding.integers(x, inputs), np.abs(weight.astype(np.float64))
    blocks = -(-x.shape[1] // WEIGHTS_PER_SCALE[dtype])
    size = np.abs(rows.q * rows.scale[:, None].astype(np.float64)) @ weight
    size += np.abs(rows.offset[:, None].astype(np.float64)) * weight.sum(axis=0)
    # A product of scales that is subnormal is off by half of 2^-149, times an integer sum.
    return tolerance.gamma(2 * blocks + 3) * size + 2.0**-149 * (1 + blocks * 2.0**31)


def rounded_inputs(dtype, x, inputs):
    if dtype == "bfloat16":
        return rounding.bfloat16(x).astype(np.float64)
    return rounding.integers(x, inputs).values


@given(
    formats,
    st.one_of(st.integers(1, 20), st.just(97)),
    sizes(1, 600),
    sizes(1, 140),
    hard,
    hard,
    seeds,
    offsets,
    st.sampled_from(("signed", "wide", "shifted")),
    st.sampled_from((0, 5, 30)),
)
@settings(max_examples=250)
def test_linear_is_exact_to_the_last_bit(
    dtype, rows, n_in, n_out, family, of_weights, seed, offset, inputs, row0
):
    if rows == 97:
        n_in, n_out = n_in % 300 + 1, n_out % 66 + 1
    if seed % 10 == 0:  # several blocks of int8 weights
        rows, n_in, n_out = rows % 14 + 1, 4000 + n_in, n_out % 3 + 1
    rng = np.random.default_rng(seed)
    wide = misaligned(hard_values(family, (rows, n_in + 3), rng, 1), offset)
    x = wide[:, :n_in]  # rows further apart than they are long
    panels = _ops.pack(hard_values(of_weights, (n_in, n_out), rng, 0), dtype=dtype)
    bias = values("normal", n_out, rng) if seed % 2 else None
    residual = values("normal", (rows, n_out), rng) if seed % 3 else None
    sums, weight = exact_sums(dtype, x, panels, n_out, inputs)
    expected = sums if bias is None else sums + bias
    expected = expected if residual is None else residual + expected

    def compute(isa, rows=slice(None), threads=1):
        some = x[rows]
        with guarded((len(some), n_out), offset) as out:
            return _ops.linear(
                some, panels, n_out, bias, "identity", None if residual is None else residual[rows], out,
                dtype=dtype, inputs=inputs, row0=row0, isa=isa, threads=threads,
            ).copy()  # fmt: skip

    for isa in EQUAL[dtype]:
        assert same_bytes(compute(isa), expected), isa
    product = rounded_inputs(dtype, x, inputs) @ weight.astype(np.float64)
    assert (np.abs(sums - product) <= sum_bound(dtype, x, weight, inputs)).all()
    best = EQUAL[dtype][-1]
    assert same_bytes(compute(best, threads=3), expected)
    row = seed % rows
    assert same_bytes(compute(best, slice(row, row + 1)), np.ascontiguousarray(expected[row : row + 1]))
    some = slice(row, row + 1 + seed % 7)
    assert same_bytes(compute(best, some), np.ascontiguousarray(expected[some]))


OWN = [isa for isa in ISAS if isa in OWN_BFLOAT16]


@pytest.mark.skipif(not OWN, reason="this CPU has no instruction for bfloat16")
@given(st.sampled_from(OWN or [None]), st.integers(1, 40), sizes(1, 600), sizes(1, 140), hard, seeds)
@settings(max_examples=60)
def test_pairs_of_bfloat16(isa, rows, n_in, n_out, family, seed):
    """The instructions take subnormals for zero; rows are equal to themselves in any company."""
    rng = np.random.default_rng(seed)
    x, weight = hard_values(family, (rows, n_in), rng, 1), values("normal", (n_in, n_out), rng)
    panels = _ops.pack(weight, dtype="bfloat16")
    actual = _ops.linear(x, panels, n_out, dtype="bfloat16", isa=isa)
    weight = _ops.unpack(panels, n_in, n_out, "bfloat16")
    expected = (rounding.linear_bfloat16_tiles if isa == "amx" else rounding.linear_bfloat16)(x, weight)
    nothing = 2.0**-126 * 3 * n_in * (1 + np.abs(weight).max())  # inputs, products and sums that became zero
    assert (
        np.abs(actual - rounded_inputs("bfloat16", x, "signed") @ weight.astype(np.float64))
        <= sum_bound("bfloat16", x, weight, "signed") + nothing
    ).all()
    if family in ("normal", "integers", "halves", "outliers"):
        assert same_bytes(actual, expected), "no subnormal was near: nothing else differs"
    for count in (1, 2, 7, 13, 20, 33):
        some = _ops.linear(x[:count], panels, n_out, dtype="bfloat16", isa=isa, threads=2)
        assert same_bytes(some, actual[:count])


@given(formats, st.integers(1, 26), sizes(1, 70), st.sampled_from(("identity", *FUNCTIONS)), seeds)
@settings(max_examples=40)
def test_epilogue(dtype, rows, n_out, function, seed):
    rng = np.random.default_rng(seed)
    x, weight = values("normal", (rows, 70), rng), values("normal", (70, n_out), rng) / np.float32(8)
    bias, residual = values("normal", n_out, rng), values("normal", (rows, n_out), rng)
    panels = _ops.pack(weight, dtype=dtype)
    sums = _ops.linear(x, panels, n_out, dtype=dtype, isa=EQUAL[dtype][-1])
    expected = residual + _ops.apply(function, (sums + bias).ravel()).reshape(sums.shape)
    for isa in EQUAL[dtype]:
        in_place = residual.copy()
        _ops.linear(x, panels, n_out, bias, function, in_place, in_place, dtype=dtype, isa=isa)
        assert same_bytes(in_place, expected), isa


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("rows", [1, 2, 3, 20])
def test_subnormals_count_outside_the_sums(dtype, rows):
    """An instruction may take them for zero within a sum; bias and residual keep theirs."""
    panels = _ops.pack(np.ones((64, 70), np.float32), dtype=dtype)
    residual = np.full((rows, 70), 1e-40, np.float32)
    for isa in ISAS:
        for threads in (1, 2):
            x = np.zeros((rows, 64), np.float32)
            out = _ops.linear(
                x, panels, 70, residual[0], "identity", residual, dtype=dtype, isa=isa, threads=threads
            )
            assert same_bytes(out, residual + residual), isa


@pytest.mark.parametrize("inputs", ["signed", "wide", "shifted"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("n_in", [64, 256, 4096, 8192])
def test_sums_of_extreme_integers(dtype, n_in, inputs):
    """Nothing saturates or overflows: every product as large as it can be, of either sign."""
    least = -127 if dtype == "int8" else -8
    limit = {"signed": 127, "wide": 4095, "shifted": 254}[inputs]
    for sign in (1, -1):
        weight = np.full((n_in, 65), least, np.float32)
        weight[:, 1::2] *= -1
        x = np.full((7, n_in), sign * limit, np.float32)
        x[::2, 0] = 0  # so that all others are at the end of the range
        panels = _ops.pack(weight, dtype=dtype)
        expected = x.astype(np.float64) @ _ops.unpack(panels, n_in, 65, dtype)
        for isa in ISAS:
            actual = _ops.linear(x, panels, 65, dtype=dtype, inputs=inputs, isa=isa)
            # one rounding for the sum of each block, and for its product with the scales
            assert np.allclose(actual, expected, rtol=1e-6 * (1 + n_in / 4096), atol=0), isa


def test_rows_of_all_exponents_as_bfloat16():
    """One input each, times one: every finite float comes out as its bfloat16."""
    x = all_exponents(per_exponent=4).reshape(-1, 1)
    panels = _ops.pack(np.ones((1, 1), np.float32), dtype="bfloat16")
    expected = rounding.bfloat16(x) + np.float32(0)
    for isa in EQUAL["bfloat16"]:
        assert same_bytes(_ops.linear(x, panels, 1, dtype="bfloat16", isa=isa), expected), isa
