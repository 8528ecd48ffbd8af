"""GPT-2 in plain NumPy: the specification of the compiled engine and the oracle of its tests.

Everything is computed in float64, nothing is cached or clever, and every line states the shape of its result.
Read it from top to bottom beside any illustrated explanation of GPT-2; `forward` at the end is the whole
model.

Functions of a configuration, weights and token ids also take a loaded model instead of the first two, and
text instead of the ids: ``forward(model, "The king")``.

Letters used for shapes::

    T           tokens in the text                n_vocab     tokens in the vocabulary
    n_embd      width of the model                n_inner     width inside the feed-forward network
    n_head      attention heads per layer         head_dim    n_embd / n_head
    n_kv_head   heads of keys and values: n_head as in GPT-2, or 1 that all share
    S           positions of an encoder's output, with cross-attention

`weights` maps the canonical tensor names to arrays of any float type. Dense matrices are stored as (inputs,
outputs), the way OpenAI published them, so a layer is ``x @ weight + bias``::

    wte.weight                  [n_vocab, n_embd]       wpe.weight              [n_ctx, n_embd]
    h.{i}.ln_1.weight .bias     [n_embd]                h.{i}.ln_2.weight .bias [n_embd]
    h.{i}.attn.c_attn.weight    [n_embd, n_qkv]         .bias                   [n_qkv]
    h.{i}.attn.c_proj.weight    [n_embd, n_embd]        .bias                   [n_embd]
    h.{i}.mlp.c_fc.weight       [n_embd, n_inner]       .bias                   [n_inner]
    h.{i}.mlp.c_proj.weight     [n_inner, n_embd]       .bias                   [n_embd]
    ln_f.weight .bias           [n_embd]                lm_head.weight          [n_vocab, n_embd], if not tied

n_qkv is n_embd + 2 n_kv_head head_dim, in GPT-2 3 n_embd. A model with cross-attention also has::

    h.{i}.ln_cross_attn.weight .bias                [n_embd]
    h.{i}.crossattention.{q_attn, c_proj}.weight    [n_embd, n_embd]        .bias       [n_embd]
    h.{i}.crossattention.c_attn.weight              [n_embd, 2 n_embd]      .bias       [2 n_embd]

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and the code published
with it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from .config import Config
from .errors import ContextLengthError, shown

__all__ = [
    "activation",
    "attention",
    "attention_inputs",
    "cross_attention",
    "embed",
    "feed_forward",
    "forward",
    "generate",
    "joint_log_probability",
    "layer_norm",
    "log_probabilities",
    "log_softmax",
    "softmax",
]

Weights = Mapping[str, np.ndarray]
Look = Callable[[str, np.ndarray], np.ndarray]
_erf = np.vectorize(math.erf, otypes=[np.float64])

R = TypeVar("R")


def of_text(function: Callable[..., R]) -> Callable[..., R]:
    """Lets a function of config, weights and ids also be called with a loaded model and ids or text."""
    signature = inspect.signature(function)
    others = "".join(f", {name}" for name in list(signature.parameters)[3:])
    ways = f"(model, ids or text{others}) or (config, weights, ids{others})"

    @wraps(function)
    def called(*args: Any, **options: Any) -> R:
        model = options.pop("model", None)
        if args and hasattr(args[0], "weights"):
            model, args = args[0], args[1:]
        both = () if model is None else (model.config, model.weights)
        try:
            given = signature.bind(*both, *args, **options)
            ids = given.arguments["ids"]
            if isinstance(ids, str) and model is None:
                raise TypeError(f"text needs a model, which has the tokenizer, not {shown(ids)}")
        except TypeError as error:
            raise TypeError(f"{function.__name__} takes {ways}: {error}") from None
        if isinstance(ids, str):
            [given.arguments["ids"]] = model.encode([ids])
        return function(*given.args, **given.kwargs)

    return called


def softmax(x: np.ndarray) -> np.ndarray:
    """Scores to probabilities (last axis): ``[..., n] -> [..., n]``. Minus infinity gets exactly 0."""
    x = _float64(x)
    largest = x.max(axis=-1, keepdims=True)  # [..., 1]  subtracted so that exp cannot overflow
    e = np.exp(x - largest)  # [..., n]
    return e / e.sum(axis=-1, keepdims=True)  # [..., n]  each row sums to 1


def log_softmax(x: np.ndarray) -> np.ndarray:
    """The natural logarithm of `softmax`, exact also where that is tiny: ``[..., n] -> [..., n]``."""
    x = _float64(x)
    x = x - x.max(axis=-1, keepdims=True)  # [..., n]
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))  # [..., n]


def unseen(name: str, value: np.ndarray) -> np.ndarray:
    """The default `look`, which changes nothing."""
    return value


def layer_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    epsilon: float,
    look: Look = unseen,
    name: str = "ln",
) -> np.ndarray:
    """Each row to mean 0 and variance 1, then a learned scale and shift: ``[T, n_embd] -> [T, n_embd]``."""
    x = _float64(x)
    centred = x - x.mean(axis=-1, keepdims=True)  # [T, n_embd]
    variance = (centred**2).mean(axis=-1, keepdims=True)  # [T, 1]  divided by n, not n - 1
    scale = look(f"{name}.hook_scale", np.sqrt(variance + epsilon))  # [T, 1]
    normalized = look(f"{name}.hook_normalized", centred / scale)  # [T, n_embd]
    return normalized * weight + bias  # [T, n_embd]


def activation(name: str, x: np.ndarray) -> np.ndarray:
    """The function between the two feed-forward layers, element by element: ``[...] -> [...]``.

    GELU is x times the probability that a standard normal number is below x (Hendrycks & Gimpel 2016). GPT-2
    uses ``gelu_new``, its approximation by tanh; ``gelu`` is the exact one and ``quick_gelu`` a cruder one.
    """
    x = _float64(x)
    if name == "gelu_new":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "gelu":
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    if name == "quick_gelu":
        return x * _sigmoid(1.702 * x)
    if name == "silu":
        return x * _sigmoid(x)
    if name == "relu":
        return np.maximum(x, 0)
    if name == "tanh":
        return np.tanh(x)
    raise ValueError(f"unknown activation {name!r}: use gelu_new, gelu, quick_gelu, silu, relu or tanh")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))  # 1 / (1 + exp(-x)), but never overflows


def embed(weights: Weights, ids: np.ndarray, look: Look = unseen) -> np.ndarray:
    """Token embedding plus position embedding: ``[T] -> [T, n_embd]``."""
    token = look("hook_embed", _float64(weights["wte.weight"][ids]))  # [T, n_embd]
    position = look("hook_pos_embed", _float64(weights["wpe.weight"][: len(ids)]))  # [T, n_embd]
    return token + position  # [T, n_embd]


def attention_inputs(
    config: Config, weights: Weights, layer: int, x: np.ndarray, look: Look = unseen
) -> list[np.ndarray]:
    """The inputs of queries, keys and values: ``[T, n_embd] -> 3 x [T, heads or 1, n_embd]``.

    The residual stream after LayerNorm, the same for all; unless `look` makes one head read something else,
    which then gets its own LayerNorm.
    """
    block, ln_1 = f"blocks.{layer}.", _part(weights, f"h.{layer}.ln_1")

    def norm(x: np.ndarray, look: Look = unseen) -> np.ndarray:
        return layer_norm(x, **ln_1, epsilon=config.layer_norm_epsilon, look=look, name=block + "ln1")

    stream = np.broadcast_to(x[:, None], (len(x), config.n_head, config.n_embd))  # [T, n_head, n_embd]
    read = stream if config.is_multi_query else look(block + "hook_attn_in", stream)  # [T, n_head, n_embd]
    given = [read[:, :n] for n in (config.n_head, config.n_kv_head, config.n_kv_head)]
    inputs = [look(f"{block}hook_{part}_input", each) for part, each in zip("qkv", given, strict=True)]
    h = norm(x, look)[:, None]  # [T, 1, n_embd]  the input if nothing was edited
    return [
        h
        if each is before and read is stream
        else np.where((each == x[:, None]).all(axis=-1, keepdims=True), h, norm(each))
        for each, before in zip(inputs, given, strict=True)
    ]


def attention(
    config: Config,
    weights: Weights,
    layer: int,
    inputs: Sequence[np.ndarray],
    look: Look = unseen,
    *,
    causal: bool = True,
) -> np.ndarray:
    """Self-attention: every position attends to itself and those before it.

    The shapes are ``3 x [T, heads or 1, n_embd] -> [T, n_embd]``. If not `causal`, it attends to all
    positions, as in an auto-encoding model.
    """
    n_head, n_kv_head, T = config.n_head, config.n_kv_head, len(inputs[0])
    name = f"blocks.{layer}.attn.hook_"
    w = _part(weights, f"h.{layer}.attn")
    parts = n_head * config.head_dim, (n_head + n_kv_head) * config.head_dim  # stored side by side
    w_q, w_k, w_v = np.split(w["c_attn.weight"], parts, axis=1)  # [n_embd, heads * head_dim] each
    b_q, b_k, b_v = np.split(w["c_attn.bias"], parts)  # [heads * head_dim] each

    q_in, k_in, v_in = inputs  # [T, heads, n_embd] each, or with 1 for heads: the same for all
    q = look(name + "q", _of_heads(q_in, w_q, b_q, n_head))  # [T, n_head, head_dim]  queries
    k = look(name + "k", _of_heads(k_in, w_k, b_k, n_kv_head))  # [T, n_kv_head, head_dim]  keys
    v = look(name + "v", _of_heads(v_in, w_v, b_v, n_kv_head))  # [T, n_kv_head, head_dim]  values
    if n_kv_head < n_head:
        k, v = (
            np.repeat(each, n_head, axis=1) for each in (k, v)
        )  # [T, n_head, head_dim]  shared by all heads

    scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0)  # [n_head, T, T]  row: query, column: key
    scores = scores * config.attention_scale(layer)  # [n_head, T, T]  usually 1 / sqrt(head_dim)
    if causal:
        future = np.triu(np.ones((T, T), dtype=bool), k=1)  # [T, T]  True above the diagonal
        scores = np.where(future, -np.inf, scores)  # [n_head, T, T]  before softmax: minus infinity ...
    scores = look(name + "attn_scores", scores)
    a = look(name + "pattern", softmax(scores))  # [n_head, T, T]  ... after softmax: exactly 0

    mixed = look(name + "z", (a @ v.transpose(1, 0, 2)).transpose(1, 0, 2))  # [T, n_head, head_dim]
    w_o = w["c_proj.weight"].reshape(
        n_head, -1, config.n_embd
    )  # [n_head, head_dim, n_embd]  one of each head
    result = (mixed.transpose(1, 0, 2) @ w_o).transpose(1, 0, 2)  # [T, n_head, n_embd]
    return look(name + "result", result).sum(axis=1) + w["c_proj.bias"]  # [T, n_embd]


def cross_attention(
    config: Config, weights: Weights, layer: int, x: np.ndarray, states: np.ndarray, look: Look = unseen
) -> np.ndarray:
    """Adds cross-attention to the output of an encoder: ``[T, n_embd], [S, n_embd] -> [T, n_embd]``."""
    name, n_head = f"blocks.{layer}.cross_attn.hook_", config.n_head
    w, ln = _part(weights, f"h.{layer}.crossattention"), _part(weights, f"h.{layer}.ln_cross_attn")
    h = layer_norm(x, ln["weight"], ln["bias"], config.layer_norm_epsilon)  # [T, n_embd]
    w_k, w_v = np.split(w["c_attn.weight"], 2, axis=1)  # [n_embd, n_embd] each
    b_k, b_v = np.split(w["c_attn.bias"], 2)  # [n_embd] each
    q = _of_heads(h[:, None], w["q_attn.weight"], w["q_attn.bias"], n_head)  # [T, n_head, head_dim]
    k = _of_heads(states[:, None], w_k, b_k, n_head)  # [S, n_head, head_dim]
    v = _of_heads(states[:, None], w_v, b_v, n_head)  # [S, n_head, head_dim]
    scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0)  # [n_head, T, S]  without a mask
    a = look(name + "pattern", softmax(scores * config.attention_scale(layer)))  # [n_head, T, S]
    mixed = (a @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(len(h), -1)  # [T, n_embd]
    out = mixed @ w["c_proj.weight"] + w["c_proj.bias"]  # [T, n_embd]
    x = x + look(f"blocks.{layer}.hook_cross_attn_out", out)  # [T, n_embd]
    return look(f"blocks.{layer}.hook_resid_mid_cross", x)


def feed_forward(
    config: Config, weights: Weights, layer: int, x: np.ndarray, look: Look = unseen
) -> np.ndarray:
    """Two dense layers and an activation, on each position by itself: ``[T, n_embd] -> [T, n_embd]``."""
    name = f"blocks.{layer}.mlp.hook_"
    w = _part(weights, f"h.{layer}.mlp")
    hidden = look(name + "pre", x @ w["c_fc.weight"] + w["c_fc.bias"])  # [T, n_inner]
    hidden = look(name + "post", activation(config.activation, hidden))  # [T, n_inner]
    return hidden @ w["c_proj.weight"] + w["c_proj.bias"]  # [T, n_embd]


@of_text
def forward(
    config: Config,
    weights: Weights,
    ids: Sequence[int] | np.ndarray,
    look: Look = unseen,
    *,
    causal: bool = True,
    states: np.ndarray | None = None,
) -> np.ndarray:
    """The whole model: for each position, one logit per token of the vocabulary for the next token.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array
        Canonical names (see the top of this file); converted to float64 as they are used. A loaded model in
        place of both provides its own numbers: those that its number format represents.
    ids : sequence of int, shape [T]
        Token ids, 0 <= id < n_vocab, at most n_ctx of them; or text, for a loaded model.
    look : callable, optional
        Called as ``look(name, value)`` for named values (see :mod:`gpt2c.introspection.hooks`); its return
        value, such as ``value`` itself, is used instead.
    causal : bool
        If False, every position attends to all others.
    states : array, shape [S, n_embd]
        The output of an encoder, for a model with cross-attention, which needs it.

    Returns
    -------
    numpy.ndarray
        Logits, float64 [T, n_vocab]. Row t depends only on ids[: t + 1]; softmax turns it into probabilities.

    Raises
    ------
    ContextLengthError
        More ids than the model has positions.
    ValueError
        No ids, or an id outside the vocabulary; states without cross-attention, or the reverse.
    """
    ids = _check_ids(config, ids, states)  # [T]

    def norm(x: np.ndarray, part: str, name: str) -> np.ndarray:
        return layer_norm(x, **_part(weights, part), epsilon=config.layer_norm_epsilon, look=look, name=name)

    x = embed(weights, ids, look)  # [T, n_embd]  the residual stream, to which every layer adds
    for layer in range(config.n_layer):
        block = f"blocks.{layer}."
        x = look(block + "hook_resid_pre", x)
        read = attention_inputs(config, weights, layer, x, look)  # 3 x [T, n_head or 1, n_embd]
        h = attention(config, weights, layer, read, look, causal=causal)  # [T, n_embd]
        x = look(block + "hook_resid_mid", x + look(block + "hook_attn_out", h))  # [T, n_embd]
        if states is not None:
            x = cross_attention(config, weights, layer, x, states, look)  # [T, n_embd]
        h = norm(look(block + "hook_mlp_in", x), f"h.{layer}.ln_2", block + "ln2")  # [T, n_embd]
        h = feed_forward(config, weights, layer, h, look)  # [T, n_embd]
        x = look(block + "hook_resid_post", x + look(block + "hook_mlp_out", h))  # [T, n_embd]

    x = norm(x, "ln_f", "ln_final")  # [T, n_embd]
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    return x @ _float64(weights[head]).T  # [T, n_vocab]


@of_text
def generate(config: Config, weights: Weights, ids: Sequence[int] | np.ndarray, n_new: int) -> list[int]:
    """The greedy continuation: `n_new` times the most probable next token (the lowest id on ties).

    The whole text is computed again for every token, and no end-of-text token stops it. Returns the new ids.
    ``generate(model, ids or text, n_new)`` is the same for a loaded model.
    """
    text = [int(i) for i in ids]
    for _ in range(n_new):
        logits = forward(config, weights, text)  # [T, n_vocab]
        text.append(int(logits[-1].argmax()))
    return text[len(text) - n_new :]


@of_text
def log_probabilities(config: Config, weights: Weights, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """log p(ids[t] | ids[:t]) for t = 1 ... T-1, in nats; the first token is given: ``[T] -> [T - 1]``.

    ``log_probabilities(model, ids or text)`` is the same for a loaded model.
    """
    tokens = _check_ids(config, ids)  # [T]
    logp = log_softmax(forward(config, weights, tokens.tolist()))  # [T, n_vocab]  row t is about token t + 1
    return np.take_along_axis(logp[:-1], tokens[1:, None], axis=1)[:, 0]  # [T - 1]


@of_text
def joint_log_probability(config: Config, weights: Weights, ids: Sequence[int] | np.ndarray) -> float:
    """log p(ids[1], ids[2], ... | ids[0]) in nats: the whole text, given its first token.

    ``joint_log_probability(model, ids or text)`` is the same for a loaded model.
    """
    return float(log_probabilities(config, weights, ids).sum())


def _of_heads(x: np.ndarray, w: np.ndarray, b: np.ndarray, n_head: int) -> np.ndarray:
    """A dense layer whose outputs belong to heads: ``[T, n_head or 1, n_embd] -> [T, n_head, head_dim]``."""
    w = w.reshape(len(w), n_head, -1).transpose(1, 0, 2)  # [n_head, n_embd, head_dim]
    return (x.transpose(1, 0, 2) @ w).transpose(1, 0, 2) + b.reshape(n_head, -1)


def _part(weights: Weights, prefix: str) -> dict[str, np.ndarray]:
    """The tensors whose names start with `prefix`, in float64, by the rest of their names."""
    prefix += "."
    return {name.removeprefix(prefix): _float64(weights[name]) for name in weights if name.startswith(prefix)}


def _float64(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64)  # float32 anywhere would silently lower the precision of what follows


def _check_ids(
    config: Config, ids: Sequence[int] | np.ndarray, states: np.ndarray | None = None
) -> np.ndarray:
    if config.add_cross_attention != (states is not None):
        raise ValueError("states are needed if the model has cross-attention, and only then")
    ids = np.asarray(ids, np.int64)  # [T]
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(f"ids must be one sequence of at least one token id, not shape {ids.shape}")
    if len(ids) > config.n_ctx:
        raise ContextLengthError(f"{len(ids)} tokens exceed the model's {config.n_ctx} positions")
    if ids.min() < 0 or ids.max() >= config.n_vocab:
        raise ValueError(f"token ids must lie in 0 ... {config.n_vocab - 1}, not {ids.min()} ... {ids.max()}")
    return ids
