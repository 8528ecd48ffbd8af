"""The time of calls of a model, compared with the minimum possible.

Every time is compared with a roof measured in the same run, alternating with it. A call reads all weights
once, and the keys and values of its sequences (`bytes_of_call`); it multiplies and adds
(`operations_of_call`). It takes at least the time that this machine needs to read these bytes, and at least
that of the arithmetic: the share is the longer of the two, divided by the time measured.

The roof of reads is measured over a buffer of the call's size, repeatedly: a large
shared cache then keeps as much of the buffer as it may keep of the model.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...config import Config
from ...core import _engine
from ...model import GPT2
from .roofs import ROUNDS, operation_rate, read_rate

__all__ = [
    "Case",
    "Measurable",
    "Result",
    "bytes_of_call",
    "check_answers",
    "measure",
    "operations_of_call",
    "rates",
]

PROMPT, DECODE, DECODE_PROMPT, BATCH, BATCH_DECODE = 512, 128, 32, 8, 32
# Operations per element, counted in gpt2c's code; small compared with the matrices.
NORM, ACTIVATION, SOFTMAX = 8, 35, 30


# ---- the work of a call


def bytes_of_call(weights: _engine.Weights, sequences: Iterable[tuple[float, int]]) -> float:
    """The minimum number of bytes that a call reads.

    All that `Weights.nbytes` counts (packed matrices with their scales, biases, LayerNorms) except the
    tables of which single rows are read (positions; the embedding where the head is another matrix), and per
    sequence the keys and values of all positions, its new rows included; keys lie in blocks of 16 positions.

    Parameters
    ----------
    weights : Weights
    sequences : iterable of (past, rows)
        The number of positions in each sequence's cache, and of new ones.
    """
    c = weights.config
    tables = c.n_ctx * c.n_embd
    if weights.backend == "native" and not c.tie_word_embeddings:
        tables += c.n_vocab * c.n_embd
    width = -(-c.head_dim // 16) * 16  # of a value, padded
    per_head = sum(
        c.head_dim * 16 * math.ceil((past + rows) / 16) + width * (past + rows) for past, rows in sequences
    )
    return weights.nbytes - 4.0 * tables + 4.0 * c.n_layer * c.n_kv_head * per_head


def operations_of_call(
    config: Config, dtype: str, sequences: Iterable[tuple[float, int]], outputs: int
) -> dict[str, float]:
    """Operations of a call, by number format.

    Parameters
    ----------
    config : Config
    dtype : str
        Format of the dense layers; with int4 the head is int8. Everything else is float32.
    sequences : iterable of (past, rows)
    outputs : int
        Rows of logits.
    """
    n, inner = config.n_embd, config.n_inner
    sequences = list(sequences)
    rows = sum(new for _, new in sequences)
    seen = sum(new * past + new * (new + 1) / 2 for past, new in sequences)  # pairs of query and key
    attention = (4 * n + SOFTMAX * config.n_head) * seen
    found = dict.fromkeys(("float32", dtype, "int8" if dtype == "int4" else dtype), 0.0)
    found["float32"] += config.n_layer * (attention + (2 * NORM * n + ACTIVATION * inner) * rows)
    found[dtype] += config.n_layer * 2.0 * rows * n * (config.n_qkv + n + 2 * inner)
    found["int8" if dtype == "int4" else dtype] += 2.0 * outputs * n * config.n_vocab
    return found


# ---- measuring


class Measurable(Protocol):
    """A repeatable call for `measure` to time, with the bytes and operations that it needs."""

    name: str
    tokens: int
    bytes: float
    operations: dict[str, float]
    isa: str
    threads: int

    def run(self) -> float:
        """Seconds of one call."""


class Case:
    """A call of the model that can be timed repeatedly.

    Parameters
    ----------
    name : str
    model : GPT2
    past : list of int
        The previous positions of each sequence; a sequence without any gets a new cache in every run.
    rows : int
        The rows of each sequence per call.
    calls : int
        Consecutive calls before the caches are truncated.
    keep : int
        As for `_engine.forward`.
    seconds : float
        A run repeats all this until it takes about this long.
    threads : int, optional
        If different from the model's.
    """

    def __init__(
        self,
        name: str,
        model: GPT2,
        past: Sequence[int],
        rows: int = 1,
        *,
        calls: int = 1,
        keep: int = 0,
        seconds: float = 0.0,
        threads: int | None = None,
    ) -> None:
        self.name, self.model, self.past, self.rows, self.keep = name, model, past, rows, keep
        self.threads, self.isa = threads or model.threads, model.weights.isa
        ids = np.random.default_rng(0).integers(
            model.config.n_vocab, size=max(past) + rows * calls, dtype=np.int32
        )
        self.ids = np.split(ids[len(ids) - rows * calls :], calls)
        self.caches = self._filled(ids)
        # The average number of positions added by earlier calls.
        mean = rows * (calls - 1) / 2
        self.sequences = [(n + mean, rows) for n in past]
        self.tokens = rows * len(past)
        outputs = len(past) * (min(keep, rows) or rows)
        self.bytes = bytes_of_call(model.weights, self.sequences)
        self.operations = operations_of_call(model.config, model.dtype, self.sequences, outputs)
        self.repeats = 1
        if seconds:
            # The first run touches everything once.
            self.run()
            self.repeats = max(1, round(seconds / (self.run() * calls)))

    def _filled(self, ids: np.ndarray) -> list[_engine.KVCache]:
        room = len(ids)
        longest = self.model.new_cache(room)
        if max(self.past):
            _engine.forward(
                self.model.weights, [(longest, ids[: max(self.past)])], keep=1, threads=self.threads
            )
        caches = [longest.fork() for _ in self.past[1:]] + [longest]
        for cache, n in zip(caches, self.past, strict=True):
            cache.truncate(n)
        return caches

    def run(self) -> float:
        """Seconds of one call."""
        begin = time.perf_counter()
        for _ in range(self.repeats):
            caches = self.caches
            if not any(self.past):
                caches = [self.model.new_cache(cache.n_ctx) for cache in caches]
            for ids in self.ids:
                _engine.forward(
                    self.model.weights,
                    [(cache, ids) for cache in caches],
                    keep=self.keep,
                    threads=self.threads,
                )
            for cache, n in zip(caches, self.past, strict=True):
                cache.truncate(n)
        return (time.perf_counter() - begin) / (self.repeats * len(self.ids))


class Result(NamedTuple):
    """The measurements of a `Measurable`: seconds of a call, and the roofs of the same run."""

    name: str
    tokens: int
    seconds: float
    low: float
    high: float
    bytes: float
    operations: dict[str, float]
    read: float
    rates: dict[str, float]

    @property
    def tokens_per_second(self) -> float:
        """Rows per second, of all sequences together."""
        return self.tokens / self.seconds

    @property
    def read_share(self) -> float:
        """Seconds in which the machine could have read the call's bytes, divided by those it took."""
        return self.bytes / self.read / self.seconds

    @property
    def arithmetic_share(self) -> float:
        """The same for its operations."""
        return sum(n / self.rates[dtype] for dtype, n in self.operations.items()) / self.seconds

    @property
    def share(self) -> float:
        """The larger of the two: the share of the time that no program could avoid."""
        return max(self.read_share, self.arithmetic_share)

    @property
    def roof(self) -> str:
        """The larger one: "read" or "arithmetic"."""
        return "read" if self.read_share >= self.arithmetic_share else "arithmetic"

    def report(self) -> dict[str, Any]:
        """All of it, for JSON: ``median``, ``low`` and ``high`` are tokens (rows) per second."""
        speeds = {"median": self.seconds, "low": self.high, "high": self.low}
        rest = {"name": self.name, "tokens": self.tokens, **{k: self.tokens / v for k, v in speeds.items()}}
        keep = ("seconds", "share", "roof", "bytes", "operations", "read", "rates")
        return rest | {key: getattr(self, key) for key in keep}


def measure(cases: Sequence[Measurable], rounds: int | None = None) -> list[Result]:
    """Time all cases in alternating rounds, each after the roof of reading its bytes; medians.

    Arithmetic roofs are measured once per round for every instruction set, format and number of threads, and
    the best of all rounds is used.
    """
    rounds = rounds or ROUNDS
    memory = _engine.aligned_empty(max(1, int(max(case.bytes for case in cases)) // 4))
    memory.fill(1)
    kinds: dict[tuple[str, str, int], list[float]] = {
        (dtype, case.isa, case.threads): [] for case in cases for dtype in case.operations
    }
    times: list[list[float]] = [[] for _ in cases]
    reads: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for (dtype, isa, threads), found in kinds.items():
            found.append(operation_rate(dtype, isa=isa, threads=threads))
        for case, seconds, read in zip(cases, times, reads, strict=True):
            part = memory[: max(1, int(case.bytes) // 4)]
            read.append(read_rate(part, isa=case.isa, threads=case.threads))
            seconds.append(case.run())
    return [
        Result(
            case.name,
            case.tokens,
            statistics.median(seconds),
            min(seconds),
            max(seconds),
            case.bytes,
            case.operations,
            statistics.median(read),
            {dtype: max(kinds[dtype, case.isa, case.threads]) for dtype in case.operations},
        )
        for case, seconds, read in zip(cases, times, reads, strict=True)
    ]


def rates(model: GPT2) -> list[Result]:
    """The speeds that llama-bench reports too, after checking the results, in alternating rounds.

    ``pp512``: a prompt, up to its last logits. ``tg128``: tokens one after the other, after 32 others.
    ``bg8``: the same for 8 sequences together. Texts are shorter, and the names reflect it, if the model has
    fewer positions.

    Raises
    ------
    RuntimeError
        If the model's results differ between pieces and a whole.
    """
    config = model.config
    prompt = min(PROMPT, config.n_ctx)
    start = min(DECODE_PROMPT, config.n_ctx // 2)
    decode = min(DECODE, config.n_ctx - start)
    check_answers(model, prompt)
    return measure(
        [
            Case(f"pp{prompt}", model, [0], prompt, keep=1),
            Case(f"tg{decode}", model, [start], calls=decode),
            Case(f"bg{BATCH}", model, [start] * BATCH, calls=min(BATCH_DECODE, decode)),
        ]
    )


def check_answers(model: GPT2, tokens: int) -> None:
    """Check that a prompt at once and in pieces agree: speeds are reported only for correct results.

    Raises
    ------
    RuntimeError
        If they do not: to the bit with the native back end, else within rounding.
    """
    ids = np.random.default_rng(0).integers(model.config.n_vocab, size=tokens, dtype=np.int32)
    at_once = _engine.forward(model.weights, [(model.new_cache(), ids)], keep=1, threads=model.threads)
    cache = model.new_cache()
    _engine.forward(model.weights, [(cache, ids[:-1])], keep=1, threads=1)
    in_pieces = _engine.forward(model.weights, [(cache, ids[-1:])], threads=1)
    same = np.array_equal(at_once, in_pieces) if model.weights.backend == "native" else np.allclose(
        at_once, in_pieces, rtol=0, atol=1e-4 * max(1.0, float(np.abs(at_once).max())))  # fmt: skip
    if not same:
        raise RuntimeError(
            "the results differ between pieces and a whole, so the speed is meaningless; please report this"
        )
