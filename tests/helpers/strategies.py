"""What the tests feed to kernels and models: awkward sizes, hard values, misaligned views, random models.

Hypothesis draws sizes, families of values and a seed; NumPy makes the arrays from the seed. So a failing
example is a handful of small numbers that can be typed again.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from hypothesis import strategies as st

from gpt2c.checkpoint.names import expected
from gpt2c.config import Config

# Around the virtual vector (16), the panel (64), the attention block (128) and the dense block (256).
AROUND_VECTOR = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
AROUND_BLOCKS = (255, 256, 257, 511, 512, 513)

FAMILIES = ("normal", "wide", "equal", "one_huge", "denormal", "signed_zero")
ACTIVATIONS = ("gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh")

seeds = st.integers(0, 2**32 - 1)
offsets = st.integers(0, 3)
families = st.sampled_from(FAMILIES)


def sizes(lowest: int = 1, highest: int = 257):
    """Sizes from `lowest` to `highest`: mostly at the edges of vectors and blocks, sometimes any."""
    edges = [n for n in (0, *AROUND_VECTOR, *AROUND_BLOCKS) if lowest <= n <= highest]
    anywhere = st.integers(lowest, highest)
    return st.one_of(st.sampled_from(edges), anywhere) if edges else anywhere


def values(family: str, shape, rng: np.random.Generator, *, exponents: int = 30) -> np.ndarray:
    """A float32 array of one family.

    normal       standard normal
    wide         normal times 2^e, e uniform in -exponents ... exponents (30: sums of squares stay finite)
    equal        one normal number everywhere
    one_huge     normal, and one element of size 2^exponents
    denormal     of size below 2^-126, both signs
    signed_zero  +0 and -0, every fourth element normal
    """
    x = rng.standard_normal(shape).astype(np.float32)
    if family == "normal" or x.size == 0:
        return x
    if family == "wide":
        return np.ldexp(x, rng.integers(-exponents, exponents + 1, shape)).astype(np.float32)
    if family == "equal":
        return np.full(shape, x.flat[0], np.float32)
    if family == "one_huge":
        x.flat[rng.integers(x.size)] = np.ldexp(np.float32(rng.choice((-1.0, 1.0))), exponents)
        return x
    if family == "denormal":
        return (np.clip(x, -3, 3) * np.float32(2.0**-128)).astype(np.float32)
    if family == "signed_zero":
        zeros = np.where(rng.random(shape) < 0.5, np.float32(0), np.float32(-0.0))
        return np.where(rng.random(shape) < 0.25, x, zeros).astype(np.float32)
    raise ValueError(f"unknown family {family!r}: one of {FAMILIES}")


def misaligned(array, offset: int) -> np.ndarray:
    """A C-contiguous copy that begins `offset` elements after a 64-byte boundary."""
    array = np.asarray(array)
    raw = np.zeros(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + offset * array.itemsize
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


CANARY = np.float32(np.uint32(0x7FC0C0DE).view(np.float32))  # a NaN with a pattern of its own
MARGIN = 32  # floats on either side: more than one vector


@contextmanager
def guarded(shape, offset: int = 0):
    """A float32 output full of NaN canaries, with more of them on both sides that must survive.

    >>> with guarded((3, 5), offset=1) as out:
    ...     out[:] = 0

    Leaving the block fails if a float outside was written, or if one inside was not.
    """
    n = int(np.prod(shape))
    buffer = misaligned(np.full(n + 2 * MARGIN, CANARY), offset)
    out = buffer[MARGIN : MARGIN + n].reshape(shape)
    yield out
    pattern = CANARY.view(np.uint32)
    bits = buffer.view(np.uint32)
    for side, margin in (("before", bits[:MARGIN]), ("after", bits[MARGIN + n :])):
        written = np.flatnonzero(margin != pattern)
        assert written.size == 0, f"{written.size} floats {side} the output were written, at {written[:8]}"
    left = np.flatnonzero(bits[MARGIN : MARGIN + n] == pattern)
    assert left.size == 0, f"{left.size} of {n} outputs were not written, at {left[:8]}"


# -------------------------------------------------------------------------------- models


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of this configuration has, by canonical name."""
    if config.is_bert:
        return {name: shape for name, _, shape in expected(config)}
    n_embd, n_inner = config.n_embd, config.n_inner
    n_qkv = n_embd + 2 * config.n_kv_head * (n_embd // config.n_head)
    shapes = {"wte.weight": (config.n_vocab, n_embd), "wpe.weight": (config.n_ctx, n_embd)}
    for i in range(config.n_layer):
        shapes |= {
            f"h.{i}.ln_1.weight": (n_embd,),
            f"h.{i}.ln_1.bias": (n_embd,),
            f"h.{i}.attn.c_attn.weight": (n_embd, n_qkv),
            f"h.{i}.attn.c_attn.bias": (n_qkv,),
            f"h.{i}.attn.c_proj.weight": (n_embd, n_embd),
            f"h.{i}.attn.c_proj.bias": (n_embd,),
            f"h.{i}.ln_2.weight": (n_embd,),
            f"h.{i}.ln_2.bias": (n_embd,),
            f"h.{i}.mlp.c_fc.weight": (n_embd, n_inner),
            f"h.{i}.mlp.c_fc.bias": (n_inner,),
            f"h.{i}.mlp.c_proj.weight": (n_inner, n_embd),
            f"h.{i}.mlp.c_proj.bias": (n_embd,),
        }
        if config.add_cross_attention:
            for part, shape in {
                "ln_cross_attn.weight": (n_embd,),
                "ln_cross_attn.bias": (n_embd,),
                "crossattention.q_attn.weight": (n_embd, n_embd),
                "crossattention.q_attn.bias": (n_embd,),
                "crossattention.c_attn.weight": (n_embd, 2 * n_embd),
                "crossattention.c_attn.bias": (2 * n_embd,),
                "crossattention.c_proj.weight": (n_embd, n_embd),
                "crossattention.c_proj.bias": (n_embd,),
            }.items():
                shapes[f"h.{i}.{part}"] = shape
    shapes |= {"ln_f.weight": (n_embd,), "ln_f.bias": (n_embd,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.n_vocab, n_embd)
    return shapes


def random_model(config: Config, rng: np.random.Generator, std: float = 0.2) -> dict[str, np.ndarray]:
    """Float32 weights for every tensor: normal with `std`, gains of LayerNorm around 1; biases are not 0."""
    weights = {}
    for name, shape in tensor_shapes(config).items():
        w = std * rng.standard_normal(shape, dtype=np.float32)
        weights[name] = 1 + w if ".ln_" in f".{name}" and name.endswith("weight") else w
    return weights


@st.composite
def configs(
    draw,
    *,
    max_layer: int = 3,
    max_head: int = 4,
    max_head_dim: int = 40,
    max_ctx: int = 48,
    multi_query: bool = True,
):
    """Small configurations over every flag: odd widths, n_inner of any size, a head of its own.

    Heads may share keys and values (`multi_query`), as in models of type gpt_bigcode.

    At least 4 wide: LayerNorm over two values is a sign function, where no bound on errors says anything.
    """
    n_head = draw(st.integers(1, max_head))
    n_embd = n_head * draw(sizes(-(-4 // n_head), max_head_dim))
    n_kv_head = draw(st.sampled_from((n_head, n_head, 1))) if multi_query else n_head
    return Config(
        n_layer=draw(st.integers(1, max_layer)),
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        n_inner=draw(st.one_of(st.just(4 * n_embd), sizes(1, 129))),
        n_ctx=draw(st.integers(2, max_ctx)),
        n_vocab=draw(sizes(2, 129)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        layer_norm_epsilon=draw(st.sampled_from((1e-5, 1e-6, 1e-3))),
        scale_attn_weights=draw(st.booleans()),
        scale_attn_by_inverse_layer_idx=draw(st.booleans()) and n_kv_head == n_head,
        reorder_and_upcast_attn=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
    )


@st.composite
def models(draw, **limits):
    """(config, weights, ids): a small random model and a text for it."""
    config = draw(configs(**limits))
    rng = np.random.default_rng(draw(seeds))
    weights = random_model(config, rng)
    ids = rng.integers(config.n_vocab, size=draw(st.integers(1, config.n_ctx)))
    return config, weights, ids


@st.composite
def berts(draw, *, max_ctx: int = 48, masked_head: bool | None = None):
    """(config, weights, ids, types): a small random BERT, a text, and the types of its tokens, or None."""
    n_head = draw(st.integers(1, 4))
    masked = draw(st.booleans()) if masked_head is None else masked_head
    n_embd = n_head * draw(sizes(-(-4 // n_head), 40))
    config = Config(
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_embd=n_embd,
        n_inner=draw(st.one_of(st.just(4 * n_embd), sizes(1, 129))),
        n_ctx=draw(st.integers(2, max_ctx)),
        n_vocab=draw(sizes(2, 129)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        layer_norm_epsilon=draw(st.sampled_from((1e-12, 1e-5, 1e-3))),
        model_type="bert",
        n_types=draw(st.integers(0, 3)),
        masked_head=masked,
        tie_word_embeddings=not masked or draw(st.booleans()),
    )
    rng = np.random.default_rng(draw(seeds))
    weights = random_model(config, rng)
    ids = rng.integers(config.n_vocab, size=draw(st.integers(1, config.n_ctx))).astype(np.int32)
    types = rng.integers(config.n_types, size=len(ids)).astype(np.int32) if config.n_types > 1 else None
    return config, weights, ids, types
