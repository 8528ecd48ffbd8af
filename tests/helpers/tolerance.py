"""The error model: how far float32 arithmetic may be from the exact result, derived from the inputs.

Every bound is an absolute one per element, in float64, and is meant for
``np.abs(result.astype(np.float64) - exact) <= bound``, where `exact` was computed in float64 from the same
float32 inputs. (The float64 result is itself off by about 2^-29 of the bound: not counted.)

One rounding to float32 turns a number y into y (1 + d) + e with |d| <= U = 2^-24, and |e| <= 2^-150 where y
is denormal. A number that goes through n roundings is off by at most gamma(n) = n U / (1 - n U) of the size
of what was added up on the way (Higham, "Accuracy and Stability of Numerical Algorithms", chapter 3). So a
bound is a count of roundings times a sum of absolute values, and a tolerance is never a matter of taste.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpt2c import reference

from .rounding import CACHES, inputs_of

U = 2.0**-24  # unit roundoff of float32: half the distance from 1 to the next number
TINY = 2.0**-150  # largest rounding error of a denormal result: half the smallest denormal
BLOCK = 256  # the native dense kernel's fma chains are this long; blocks are added in order
FUNCTION_ULP = 4  # exp, tanh, erf and sigmoid (0 below 2^-128) are within so many units in the last place


def gamma(n):
    """The relative error that n roundings can build up (n may be an array)."""
    return n * U / (1 - n * U)


def ulp32(x) -> np.ndarray:
    """From |x|, rounded to float32, to the next larger float32; 2^-149 at 0 and for denormals."""
    x = np.minimum(np.abs(np.asarray(x, np.float64)), np.finfo(np.float32).max)
    with np.errstate(over="ignore"):  # the largest float32 has no next one
        return np.spacing(x.astype(np.float32)).astype(np.float64)


def ulp_difference(actual, exact) -> np.ndarray:
    """|actual - exact| in units of the last place of `exact`: for reports."""
    return np.abs(np.asarray(actual, np.float64) - exact) / ulp32(exact)


# -------------------------------------------------------------------------------- one operation


def chain_steps(k: int, block: int | None = BLOCK) -> int:
    """Roundings between a product and the finished sum of k products.

    The native kernels add k products as fma chains of at most `block`, then the ceil(k / block) partial sums
    in order. `block` None is for sums in an unknown order without fma (BLAS): k additions and the product
    itself.
    """
    if block is None:
        return k + 1
    return min(k, block) + -(-k // block)


def dense_bound(x, w, bias=None, residual=None, *, block: int | None = BLOCK) -> np.ndarray:
    """For ``x @ w (+ bias) (+ residual)``: x [..., K], w [K, N] -> bound [..., N].

    steps U sum(|x| |w|), where adding a bias or a residual is one more step for everything under it.
    """
    x, w = np.abs(np.asarray(x, np.float64)), np.abs(np.asarray(w, np.float64))
    size = x @ w
    steps = chain_steps(w.shape[0], block)
    for term in (bias, residual):
        if term is not None:
            size = size + np.abs(np.asarray(term, np.float64))
            steps += 1
    return gamma(steps) * size + steps * TINY


def elementwise_bound(x, exact) -> np.ndarray:
    """For gelu_new, gelu, quick_gelu, silu, relu, tanh and exp of x: max(4 ulp of the result, 2^-23 |x|)."""
    return np.maximum(FUNCTION_ULP * ulp32(exact), 2.0**-23 * np.abs(np.asarray(x, np.float64)))


def layer_norm_bound(x, weight, bias, epsilon: float, *, sum_steps: int | None = None) -> np.ndarray:
    """For ``(x - mean) / sqrt(variance + epsilon) * weight + bias``: x [..., n] -> bound [..., n].

    The variance is that of the centred values. `sum_steps` is the number of roundings between a term and the
    sum over n terms: n for any order of summation, about n / 16 + 4 in 16 lanes.

    With s = sum_steps + 1 (the division by n), the computed mean is off by dm <= gamma(s) mean|x|. That moves
    every centred value alike, and the mean of their squares by only dm^2, because they add up to 0. The
    squares and their sum add s + 4 roundings; a relative error r of (variance + epsilon) becomes one of 1 /
    sqrt(1 - r) - 1 after the root, which costs 3 more roundings with the division and the product.
    """
    x = np.asarray(x, np.float64)
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    s = (x.shape[-1] if sum_steps is None else sum_steps) + 1
    mean = x.mean(axis=-1, keepdims=True)
    d_mean = gamma(s) * np.abs(x).mean(axis=-1, keepdims=True) + s * TINY
    centred = np.abs(x - mean)
    d_centred = d_mean + U * (centred + d_mean) + TINY
    variance = (centred**2).mean(axis=-1, keepdims=True)
    total = variance + epsilon
    d_total = d_mean**2 + gamma(s + 4) * (variance + d_mean**2) + 2 * U * total + s * TINY
    r = np.minimum(d_total / total, 1 - 2.0**-50)  # 1: the root may be of anything, the bound becomes huge
    d_scale = 1 / np.sqrt(1 - r) - 1 + 3 * U
    scaled = np.abs(weight) / np.sqrt(total)
    product = scaled * (centred + d_centred) * (1 + d_scale)
    error = scaled * (d_centred + (centred + d_centred) * d_scale)
    return error + gamma(3) * (product + np.abs(bias)) + (3 + np.abs(weight)) * TINY


def softmax_bound(x, *, sum_steps: int | None = None) -> np.ndarray:
    """For ``exp(x - max) / sum`` over the last axis, with exp within 4 ulp: x [..., n] -> bound [..., n].

    The difference x - max is rounded once, which the exponential turns into a relative error of U |x - max|;
    4 ulp are at most 8 U. The sum has the errors of its terms, weighted by their share, and its own
    sum_steps. Results under the smallest normal number may be rounded to 0.
    """
    x = np.asarray(x, np.float64)
    n = x.shape[-1] if sum_steps is None else sum_steps
    below = x.max(axis=-1, keepdims=True) - x
    p = reference.softmax(x)
    relative = U * np.where(p > 0, below, 0) + 2 * FUNCTION_ULP * U
    of_sum = (p * relative).sum(axis=-1, keepdims=True) + gamma(n)
    error = np.minimum(relative + of_sum + gamma(2), 1e9)
    return p * error * (1 + error) + 2.0**-126


def variance_and_bound(logits) -> tuple[float, float]:
    """The variance of a row of logits under their softmax, and how far the kernel's result may be from it.

    Below the greatest of them, which costs a rounding, the logits x have weights w = exp(x); their sums over
    blocks of 256, in 16 lanes, are taken around a mean c of the block, those of the blocks added exactly. An
    error e of the sums of w, w (x - c) and w (x - c)^2 then moves the sum of w (x - m)^2, m the mean of all,
    by at most e sum w (|x - c| + |c - m|)^2; what m is off by counts squared only.
    """
    x = np.asarray(logits, np.float64)
    x = x - x.max()
    w = np.exp(x)
    total = w.sum()
    x = np.where(w > 0, x, 0)
    mean = (w * x).sum() / total
    exact = (w * (x - mean) ** 2).sum() / total
    error = U * np.abs(x) + 2 * FUNCTION_ULP * U + gamma(BLOCK // 16 + 4 + 3)
    spread = 0.0
    for start in range(0, len(x), BLOCK):
        some = slice(start, start + BLOCK)
        centre = (w[some] * x[some]).sum() / max(w[some].sum(), 1e-300)
        spread += (error[some] * w[some] * (np.abs(x[some] - centre) + abs(centre - mean)) ** 2).sum()
    away = np.abs(x - mean)
    spread += 2 * (w * away * U * np.abs(x)).sum() + exact * (error * w).sum()
    of_mean = (w * (error * away + U * np.abs(x))).sum() / total
    return float(exact), float(spread / total + of_mean**2 + len(x) * 1e-36)


def attention_bound(q, k, v, scale: float, *, key_block: int = 128) -> np.ndarray:
    """For causal attention ``softmax(q k^T scale) v``: q, k, v [T, head_dim] -> bound [T, head_dim].

    A score is a dense sum of head_dim products and one rounding for the scale; its absolute error d becomes a
    relative error of the weight. Keys are taken in blocks of `key_block`; a merge multiplies what is there by
    an exponential of its own and adds: 2 exponentials' errors and 3 roundings for each block.
    """
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    T, head_dim = q.shape
    future = np.triu(np.ones((T, T), dtype=bool), k=1)
    scores = np.where(future, -np.inf, q @ k.T * scale)
    p = reference.softmax(scores)
    below = np.where(future, 0, scores.max(axis=-1, keepdims=True) - scores)
    size = np.abs(q) @ np.abs(k).T * abs(scale)
    d_score = gamma(head_dim + 2) * size + head_dim * TINY
    d_max = np.where(future, 0, d_score).max(axis=-1, keepdims=True)
    blocks = -(-T // key_block)
    merges = blocks * (2 * (2 * FUNCTION_ULP * U + U * below.max(axis=-1, keepdims=True)) + 3 * U)
    relative = d_score + d_max + U * below + 2 * FUNCTION_ULP * U + merges
    relative = np.expm1(np.minimum(relative, 50))
    of_sum = (p * relative).sum(axis=-1, keepdims=True) + gamma(min(T, key_block) + blocks)
    error = relative + of_sum * (1 + relative) + gamma(min(T, key_block) + blocks + 2)
    return (p * error) @ np.abs(v) + 2.0**-126 * np.abs(v).max(initial=0) + T * TINY


# -------------------------------------------------------------------------------- a whole model

MODEL_SAFETY = 4.0


def model_bound(
    config, weights, ids, *, unit: float = U, trials: int = 3, seed: int = 0, forward=reference.forward
) -> float:
    """How far the logits of a correct float32 engine may be from the exact ones: one number for all.

    Bounds of single operations, multiplied through many layers, are astronomically larger than what ever
    happens. So this asks the model itself how it passes errors on. A dense sum with rounding errors is the
    exact sum with slightly other weights, w (1 + d); s roundings of random sign add up to |d| of about
    sqrt(s) unit. The exact model is computed again with every weight disturbed so, at random, and with gains,
    biases and embeddings disturbed by 4 units for the operations on single elements. The bound is the largest
    change of any logit in `trials` disturbed models, times MODEL_SAFETY for what this leaves out (errors
    differ from row to row; the largest of many is not the largest elsewhere), plus 8 roundings of the head's
    sum of absolute values.

    Measured with NumPy's float32 as the engine, on 5,000 models of strategies.models(): its error was at most
    1 / 2.3 of the bound, in the median 1 / 15. Not for LayerNorm over two or three values, which is nearly a
    sign function. ``unit=2**-53`` gives the bound for another float64 implementation. ``forward`` is the
    exact model, if it is not the plain one: with edits, without a mask.
    """
    exact = forward(config, weights, ids)
    rng = np.random.default_rng(seed)
    largest = 0.0
    for _ in range(trials):
        disturbed = {}
        for name, w in weights.items():
            steps = 16
            if w.ndim == 2 and name not in ("wte.weight", "wpe.weight", "wtt.weight"):
                steps = chain_steps(config.n_embd if name == "lm_head.weight" else w.shape[0])
            noise = rng.uniform(-1, 1, w.shape) * (math.sqrt(steps) * unit)
            disturbed[name] = np.asarray(w, np.float64) * (1 + noise)
        largest = max(largest, float(np.abs(forward(config, disturbed, ids) - exact).max()))
    head = weights["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
    last = "ln_head" if config.is_bert else "ln_f"
    size = np.abs(weights[f"{last}.weight"]) + np.abs(weights[f"{last}.bias"])  # of what the head multiplies
    return MODEL_SAFETY * largest + 8 * unit * float((np.abs(head) @ size).max())


def forward_rounding_inputs(config, weights, ids, rounded, kept=lambda what, x: x) -> np.ndarray:
    """reference.forward, but dense layers multiply ``rounded(name, x)`` in place of x, both [rows, n].

    Attention multiplies ``kept(what, x)`` in place of "q", "k" and "v" of a head and its "weights",
    exp(score - max).
    """
    ids, epsilon = np.asarray(ids), config.layer_norm_epsilon

    def norm(name, x):
        return reference.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    def dense(name, x):
        return rounded(name, x) @ weights[f"{name}.weight"].astype(np.float64) + weights[f"{name}.bias"]

    future = np.triu(np.ones((len(ids), len(ids)), dtype=bool), k=1)
    x = reference.embed(weights, ids)
    for layer in range(config.n_layer):
        qkv = dense(f"h.{layer}.attn.c_attn", norm(f"h.{layer}.ln_1", x))
        mixed = []
        for head in range(config.n_head):
            # among the queries of all heads, then their keys, then their values
            shared = head * config.n_kv_head // config.n_head
            at = (head, config.n_head + shared, config.n_head + config.n_kv_head + shared)
            q, k, v = (
                kept(what, qkv[:, i * config.head_dim : (i + 1) * config.head_dim])
                for what, i in zip("qkv", at, strict=True)
            )
            scores = np.where(future, -np.inf, q @ k.T * config.attention_scale(layer))
            chances = kept("weights", np.exp(scores - scores.max(axis=1, keepdims=True)))
            mixed.append(chances @ v / chances.sum(axis=1, keepdims=True))
        x = x + dense(f"h.{layer}.attn.c_proj", np.concatenate(mixed, axis=1))
        hidden = dense(f"h.{layer}.mlp.c_fc", norm(f"h.{layer}.ln_2", x))
        x = x + dense(f"h.{layer}.mlp.c_proj", reference.activation(config.activation, hidden))
    head = weights["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
    return rounded("lm_head", norm("ln_f", x)) @ head.astype(np.float64).T


def half_steps(name: str, x, dtype: str) -> np.ndarray:
    """How far rounding moves an input of the dense layer of that name at most: [rows, n].

    bfloat16: half a unit in the last of its 8 bits. int8 and int4: half of (the greatest of a row / 127), or
    (that / 4095), or (the difference of its extremes, 0 among them, / 254).
    """
    if dtype == "bfloat16":
        return np.abs(x) * 2.0**-8
    inputs = inputs_of(name)
    if inputs == "shifted":
        high, low = np.maximum(x.max(axis=1, keepdims=True), 0), np.minimum(x.min(axis=1, keepdims=True), 0)
        step = (high - low) / 254
    else:
        step = np.abs(x).max(axis=1, keepdims=True) / (127 if inputs == "signed" else 4095)
    return np.broadcast_to(step / 2, x.shape)


def format_bound(config, weights, ids, dtype: str, *, trials: int = 30, seed: int = 0) -> float:
    """model_bound for a packed format: `weights` are what its panels stand for, its inputs are rounded.

    Made like model_bound: the exact model is computed again with every input of every dense layer moved by up
    to half a step at random, and the largest change of any logit is multiplied by MODEL_SAFETY. (A worst case
    multiplied through the layers would allow anything.) Steps of int8 are wide enough to show how a model
    bends, so errors have long tails, and the largest of 3 trials is now and then an unlucky draw: hence 30.
    Rounding to 8 bits is coarse, so this still forgives what changes little; that nothing at all changes is
    for the tests that compare bytes.

    Measured with gpt2c on 1,020 models of strategies.models(): its error was at most 1 / 2.4 (int8), 1 / 2.7
    (int4) and 1 / 3.4 (bfloat16) of the bound, in the median 1 / 7, 1 / 7 and 1 / 10. The bound was in the
    median 1 / 7, 1 / 7 and 1 / 11 of the standard deviation of the logits; where mlp.c_proj took its inputs
    (more than one) in reverse order, the logits were off by 15 to 21 bounds in the median, by more than one
    in 99 of 100 models.
    """
    exact = reference.forward(config, weights, ids)
    rng = np.random.default_rng(seed)
    largest = 0.0

    def kept(what, x):
        """float16 rounds keys and values to 11 bits, bfloat16 all that attention multiplies to 8."""
        bits = {"bfloat16": 8, "float16": 11 if what in "kv" else 53}[CACHES[dtype]]
        return x * (1 + rng.uniform(-1, 1, x.shape) * 2.0**-bits)

    for _ in range(trials):
        moved = forward_rounding_inputs(
            config,
            weights,
            ids,
            lambda name, x: x + rng.uniform(-1, 1, x.shape) * half_steps(name, x, dtype),
            kept,
        )
        largest = max(largest, float(np.abs(moved - exact).max()))
    return MODEL_SAFETY * largest + model_bound(config, weights, ids, seed=seed)


class Comparison(NamedTuple):
    """What `compare_logits` found."""

    largest: float  # max |actual - exact|
    rms: float  # root mean square of actual - exact
    relative: float  # largest, over the standard deviation of the exact logits
    kl: float  # largest Kullback-Leibler divergence of any row, in nats
    other_choices: int  # rows whose most probable token differs
    widest_gap: float  # largest distance of the exact top two among those rows; 0 if there are none


def compare_logits(actual, exact) -> Comparison:
    """Logits of an engine beside the exact ones: both [rows, n_vocab]."""
    exact = np.asarray(exact, np.float64)
    error = np.asarray(actual, np.float64) - exact
    p, q = reference.log_softmax(exact), reference.log_softmax(np.asarray(actual, np.float64))
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    differs = np.argmax(actual, axis=-1) != exact.argmax(axis=-1)
    return Comparison(
        largest=float(np.abs(error).max()),
        rms=float(np.sqrt((error**2).mean())),
        relative=float(np.abs(error).max() / max(exact.std(), 1e-300)),
        kl=float(kl.max()),
        other_choices=int(differs.sum()),
        widest_gap=float(top_two_gap(exact)[differs].max(initial=0)),
    )


def top_two_gap(logits) -> np.ndarray:
    """How far the largest logit is above the second largest: [rows, n_vocab] -> [rows]."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[-1] == 1:
        return np.full(logits.shape[:-1], np.inf)
    top = np.partition(logits, -2, axis=-1)[..., -2:]
    return top[..., 1] - top[..., 0]


def check_logits(actual, exact, bound: float, *, what: str = "logits") -> Comparison:
    """Fail unless `actual` is float32, finite, within `bound` of `exact`, and chooses the same tokens.

    The most probable token may differ where the exact top two are closer than twice the bound. The divergence
    of two distributions whose logits differ by at most b is below 2 b: their log-probabilities differ by no
    more.
    """
    actual = np.asarray(actual)
    assert actual.dtype == np.float32, f"{what}: {actual.dtype} instead of float32"
    assert actual.shape == exact.shape, f"{what}: shape {actual.shape} instead of {exact.shape}"
    assert np.isfinite(actual).all(), f"{what}: not finite in {(~np.isfinite(actual)).sum()} places"
    found = compare_logits(actual, exact)
    assert found.largest <= bound, f"{what}: off by {found.largest:.3g}, allowed {bound:.3g}; {found}"
    assert found.kl <= 2 * bound, f"{what}: {found}"
    assert found.widest_gap <= 2 * bound, f"{what}: another token chosen where it was not close; {found}"
    return found
