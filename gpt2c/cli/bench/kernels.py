"""The kernels of a model, one by one, each checked against float64 before its speed is reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import reference
from ...config import Config
from ...core import _ops
from .cases import ACTIVATION, NORM, SOFTMAX, Result, measure

__all__ = ["KernelCase", "dense", "dense_check", "kernels"]

# A token, a few, and a block of a prompt.
ROWS = (1, 8, 256)
# The maximum number of layers side by side.
COPIES = 12
# With more rows, arithmetic takes longer than reading, wherever the weights are.
FEW_ROWS = 16
# The duration of a run, which repeats a kernel.
SECONDS = 0.02
# Columns of the head to measure: creating all of them would take long.
HEAD_PART = 16384
# Unit roundoff of float32.
U = 2.0**-24
# Unit roundoff of a dense layer's inputs.
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 1}


class KernelCase:
    """A kernel that can be timed repeatedly: `work(n)` calls it n times.

    ``pause`` is in seconds, before and after: idle threads of other libraries and of gpt2c spin for a while,
    and would slow down each other.
    """

    def __init__(
        self,
        name: str,
        rows: int,
        work: Callable[[int], Any],
        *,
        isa: str,
        threads: int,
        bytes: float,
        operations: dict[str, float],
        pause: float = 0.0,
    ) -> None:
        self.name, self.tokens, self.isa, self.threads = name, rows, isa, threads
        self.bytes, self.operations = bytes, operations
        self._work, self._pause, self.repeats = work, pause, 1
        self.run()
        self.repeats = max(1, round(SECONDS / self.run()))

    def run(self) -> float:
        """Seconds of one call."""
        time.sleep(self._pause)
        begin = time.perf_counter()
        self._work(self.repeats)
        seconds = time.perf_counter() - begin
        time.sleep(self._pause)
        return seconds / self.repeats


def dense_check(
    x: np.ndarray, weight: np.ndarray, result: np.ndarray, dtype: str, name: str = "dense"
) -> None:
    """Check a dense layer against float64.

    Parameters
    ----------
    x : array [rows, n_in]
    weight : array [n_in, n_out]
        As stored in the number format, exactly.
    result : array [rows, n_out]
    dtype : str

    Raises
    ------
    RuntimeError
        If an output differs by more than rounding ``x`` to the format and adding in float32 explain.
    """
    size = np.abs(x).astype(np.float64)
    if dtype == "float32":
        step = np.zeros_like(size)
    elif dtype == "bfloat16":
        step = size * 2.0**-9
    else:
        # Half of the largest of a row over 127.
        step = np.broadcast_to(size.max(axis=1, keepdims=True) / 254, size.shape)
    magnitude = np.abs(weight).astype(np.float64)
    allowed = 1.01 * step @ magnitude + (x.shape[1] + 8) * U * ((size + step) @ magnitude)
    _check(result, x.astype(np.float64) @ weight.astype(np.float64), allowed, name)


def _check(result: np.ndarray, expected: np.ndarray, allowed: Any, name: str) -> None:
    # Written so that NaN also fails.
    if not np.all(np.abs(result - expected) <= allowed):
        raise RuntimeError(f"{name} differs from float64, so its speed is meaningless; please report this")


def dense(
    name: str,
    n_in: int,
    n_out: int,
    copies: int,
    dtype: str,
    how: dict[str, Any],
    all_rows: Sequence[int] = (),
) -> list[KernelCase]:
    """A dense layer with different numbers of rows, checked.

    With few rows the weights of ``copies`` layers are side by side, as one layer: as in a model, few of the
    weights are then in a cache, and Python's overhead per call is negligible.
    """
    rng = np.random.default_rng(0)
    # Whole panels, so that copies can be side by side.
    n_out += -n_out % 64
    weight = rng.standard_normal((n_in, n_out), dtype=np.float32)
    one = _ops.pack(weight, dtype=dtype, threads=how["threads"])
    several = np.concatenate([one] * copies)
    weight = weight if dtype == "float32" else _ops.unpack(one, n_in, n_out, dtype)
    cases = []
    for rows in all_rows or ROWS:
        x = rng.standard_normal((rows, n_in), dtype=np.float32)
        layers, panels = (copies, several) if rows <= FEW_ROWS else (1, one)
        out = np.empty((rows, layers * n_out), np.float32)
        dense_check(x[:8], weight, _ops.linear(x, one, n_out, dtype=dtype, **how)[:8], dtype, name)
        given = x if dtype == "float32" else _ops.encode(x, dtype, isa=how["isa"])

        def work(
            n: int, given: np.ndarray = given, out: np.ndarray = out, panels: np.ndarray = panels
        ) -> None:
            for _ in range(n):
                _ops.linear(given, panels, out.shape[1], out=out, dtype=dtype, n_in=n_in, **how)

        cases.append(
            KernelCase(
                name if layers == 1 else f"{name}, {layers} layers", rows, work, **how,
                bytes=float(panels.nbytes + rows * n_in * BYTES[dtype]),
                operations={dtype: 2.0 * layers * rows * n_in * n_out},
            )
        )  # fmt: skip
    return cases


def _norm(config: Config, rows: int, how: dict[str, Any]) -> KernelCase:
    rng, n = np.random.default_rng(0), config.n_embd
    x = rng.standard_normal((rows, n), dtype=np.float32)
    gain, bias = rng.standard_normal((2, n), dtype=np.float32)
    out = np.empty_like(x)

    def work(times: int) -> np.ndarray:
        for _ in range(times):
            _ops.layer_norm(x, gain, bias, config.layer_norm_epsilon, out, **how)
        return out

    normal = reference.layer_norm(x, np.ones(n), np.zeros(n), config.layer_norm_epsilon)
    _check(
        work(1), normal * gain + bias, (n + 8) * U * (np.abs(normal * gain) + np.abs(bias) + 1), "LayerNorm"
    )
    return KernelCase(
        "LayerNorm", rows, work, **how, bytes=float(x.nbytes), operations={"float32": float(NORM * x.size)}
    )


def _activation(config: Config, rows: int, how: dict[str, Any]) -> KernelCase:
    x = np.random.default_rng(0).standard_normal(rows * config.n_inner, dtype=np.float32)
    out = np.empty_like(x)

    def work(times: int) -> np.ndarray:
        for _ in range(times):
            _ops.apply(config.activation, x, out, **how)
        return out

    expected = reference.activation(config.activation, x.astype(np.float64))
    _check(work(1), expected, 8 * U * np.maximum(np.abs(expected), np.abs(x)), config.activation)
    return KernelCase(
        config.activation, rows, work, **how,
        bytes=float(x.nbytes), operations={"float32": float(ACTIVATION * x.size)},
    )  # fmt: skip


def _attention(config: Config, rows: int, positions: int, isa: str) -> KernelCase:
    """One head on one thread: the engine distributes heads, not queries of unequal length."""
    rng, d = np.random.default_rng(0), config.head_dim
    q = rng.standard_normal((rows, d), dtype=np.float32)
    k, v = rng.standard_normal((2, positions, d), dtype=np.float32)
    scale = float(np.float32(d**-0.5))

    def work(times: int) -> np.ndarray:
        return _ops.attention(q, k, v, scale, isa=isa, repeats=times)

    scores = q.astype(np.float64) @ k.T.astype(np.float64) * scale
    first = positions - rows
    scores[np.arange(positions) > first + np.arange(rows)[:, None]] = -np.inf
    weights = reference.softmax(scores)
    # An error of a score is a relative error of its weight.
    size = np.abs(q).astype(np.float64) @ np.abs(k.T) * scale
    relative = (2 * (d + 8) * size.max() + 2 * positions + 64) * U
    _check(work(1), weights @ v, relative * (weights @ np.abs(v)), "attention")
    seen = rows * first + rows * (rows + 1) / 2
    return KernelCase(
        "attention, a head", rows, work, isa=isa, threads=1,
        bytes=float(k.nbytes + v.nbytes), operations={"float32": (4 * d + SOFTMAX) * seen},
    )  # fmt: skip


def kernels(config: Config, dtype: str, *, isa: str, threads: int) -> list[Result]:
    """Measure kernels of a model's sizes, on random numbers, in alternating rounds.

    Dense layers get 1, 8 and 256 rows already rounded to the number format; with 1 and 8, up to 12
    layers are side by side. The roof of reads is for the same size: that of a cache if they fit.

    Raises
    ------
    RuntimeError
        If a kernel differs from float64 arithmetic by more than rounding.
    """
    how: dict[str, Any] = {"isa": isa, "threads": threads}
    n, inner, copies = config.n_embd, config.n_inner, min(COPIES, config.n_layer)
    head = min(config.n_vocab, HEAD_PART)
    cases = [
        *dense("attn.c_attn", n, config.n_qkv, copies, dtype, how),
        *dense("attn.c_proj", n, n, copies, dtype, how),
        *dense("mlp.c_fc", n, inner, copies, dtype, how),
        *dense("mlp.c_proj", inner, n, copies, dtype, how),
        *dense("head", n, head, 1, "int8" if dtype == "int4" else dtype, how),
        _norm(config, 256, how),
        _activation(config, 256, how),
        _attention(config, 1, config.n_ctx, isa),
        _attention(config, min(256, config.n_ctx), config.n_ctx, isa),
    ]
    return measure(cases)
