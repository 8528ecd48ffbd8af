"""How fast this machine runs a model, beside how fast it could: `gpt2c bench`.

Every time stands next to a roof that was measured in the same run, alternating with it. A call reads all
weights once, and the keys and values of its sequences (`bytes_of_call`); it multiplies and adds
(`operations_of_call`). It takes at least the time that this machine needs to read so many bytes, and at least
that of the arithmetic: the share is the greater of the two, divided by the time measured.

The roof of reads is measured over a buffer of as many bytes as the call reads, again and again: a large
shared cache then keeps as much of the buffer as it may keep of the model.
"""

from __future__ import annotations

import json
import math
import platform
import re
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import _engine, _ops
from .config import Config
from .model import GPT2
from .threads import default_threads

__all__ = ["SHAPES", "Case", "Result", "bench", "main_bench", "measure", "random_model", "random_weights"]

# n_layer, n_head, n_embd of OpenAI's four models (their config.json on the Hugging Face hub).
SHAPES = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280), "1558M": (48, 25, 1600)}
ROUNDS = 5  # alternating runs; medians are reported
PROMPT, DECODE, DECODE_PROMPT, BATCH, BATCH_DECODE = 512, 128, 32, 8, 32
ROOF_SECONDS = 0.05  # that each measurement of a roof takes
ROOF_STEPS = 400_000  # long beside what it takes to bring the threads together
# Operations per element, counted in our own recipes; small beside the matrices.
NORM, ACTIVATION, SOFTMAX = 8, 35, 30


# ---- models


def random_model(
    shape: str, *, dtype: str = "float32", backend: str = "native", threads: int | None = None, seed: int = 0
) -> GPT2:
    """A model of one of the `SHAPES` with random weights: as fast as the real one, and as wise as a die.

    Raises
    ------
    ValueError
        If the shape is not in `SHAPES`.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}; allowed: {', '.join(SHAPES)}")
    n_layer, n_head, n_embd = SHAPES[shape]
    config = Config(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        n_inner=4 * n_embd,
        n_ctx=1024,
        n_vocab=50257,
        activation="gelu_new",
        layer_norm_epsilon=1e-5,
        bos_token_id=50256,
        eos_token_ids=(),
    )
    weights = random_weights(config, dtype=dtype, backend=backend, threads=threads, seed=seed)
    return GPT2(weights, threads=threads, name=f"random weights, shape {shape}")


def random_weights(
    config: Config,
    *,
    dtype: str = "float32",
    backend: str = "native",
    threads: int | None = None,
    seed: int = 0,
) -> _engine.Weights:
    """Random weights of any configuration, one tensor at a time: no more memory than the packed ones take."""
    n_embd = config.n_embd
    shapes = {
        "wte": (config.n_vocab, n_embd),
        "lm_head": (config.n_vocab, n_embd),
        "wpe": (config.n_ctx, n_embd),
        "attn.c_attn": (n_embd, 3 * n_embd),
        "attn.c_proj": (n_embd, n_embd),
        "mlp.c_fc": (n_embd, config.n_inner),
        "mlp.c_proj": (config.n_inner, n_embd),
    }
    rng = np.random.default_rng(seed)
    # Repeated: drawing a thousand million numbers takes longer than measuring. An odd length, so that no two
    # columns are the same.
    numbers = rng.standard_normal((1 << 20) + 7, dtype=np.float32) * np.float32(0.02)

    def read(name: str) -> np.ndarray:
        part, kind = re.sub(r"^h\.\d+\.", "", name).rsplit(".", 1)
        if part not in shapes:  # a LayerNorm
            return np.full(n_embd, float(kind == "weight"), np.float32)
        shape = shapes[part] if kind == "weight" else shapes[part][1:]
        found, mine = np.empty(shape, np.float32), np.roll(numbers, rng.integers(len(numbers)))
        flat = found.reshape(-1)
        for i in range(0, flat.size, len(mine)):
            flat[i : i + len(mine)] = mine[: flat.size - i]
        return found

    threads = default_threads() if threads is None else threads
    return _engine.Weights(config, read, dtype=dtype, backend=backend, threads=threads)


# ---- what a call has to do


def bytes_of_call(weights: _engine.Weights, sequences: Iterable[tuple[float, int]]) -> float:
    """Bytes that a call reads at least once.

    All that `Weights.nbytes` counts (packed matrices with their scales, biases, LayerNorms) but for the
    tables of which single rows are read (positions; the embedding where the head is another matrix), and per
    sequence the keys and values of all positions, its new rows included; keys lie in blocks of 16 positions.

    Parameters
    ----------
    weights : Weights
    sequences : iterable of (past, rows)
        How many positions each sequence has in its cache, and how many it gets.
    """
    c = weights.config
    tables = c.n_ctx * c.n_embd
    if weights.backend == "native" and not c.tie_word_embeddings:
        tables += c.n_vocab * c.n_embd
    width = -(-c.head_dim // 16) * 16  # of a value, padded
    per_head = sum(
        c.head_dim * 16 * math.ceil((past + rows) / 16) + width * (past + rows) for past, rows in sequences
    )
    return weights.nbytes - 4.0 * tables + 4.0 * c.n_layer * c.n_head * per_head


def operations_of_call(
    config: Config, dtype: str, sequences: Iterable[tuple[float, int]], outputs: int
) -> dict[str, float]:
    """Operations of a call by the number format they are done in.

    Parameters
    ----------
    config : Config
    dtype : str
        Format of the dense layers; with int4 the head is int8. All else is float32.
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
    found[dtype] += config.n_layer * 2.0 * rows * (4 * n * n + 2 * n * inner)
    found["int8" if dtype == "int4" else dtype] += 2.0 * outputs * n * config.n_vocab
    return found


# ---- roofs


def read_rate(memory: np.ndarray, *, isa: str | None = None, threads: int = 1) -> float:
    """Bytes per second of reading all of `memory` (float32) again and again."""
    _ops.read_all(
        memory, isa=isa, threads=threads
    )  # whoever ran before has filled the caches with something else
    begin, passes = time.perf_counter(), 0
    while passes == 0 or time.perf_counter() - begin < ROOF_SECONDS:
        _ops.read_all(memory, isa=isa, threads=threads)
        passes += 1
    return passes * memory.nbytes / (time.perf_counter() - begin)


def operation_rate(dtype: str, *, isa: str | None = None, threads: int = 1) -> float:
    """Operations per second in a number format, two per weight multiplied, out of registers.

    bfloat16 has two ways, as pairs with an instruction of their own or widened to float32: the faster counts.
    """
    if dtype == "bfloat16":
        instruction = _rate_of_steps(dtype, isa, threads)
        return max(instruction, _rate_of_steps("float32", isa, threads))
    return _rate_of_steps(dtype, isa, threads)


def _rate_of_steps(dtype: str, isa: str | None, threads: int) -> float:
    """The best of many short runs: registers have no neighbours, so what is slower was disturbed."""
    until, best = time.perf_counter() + ROOF_SECONDS, 0.0
    while best == 0 or time.perf_counter() < until:
        begin = time.perf_counter()
        done = _ops.operations(dtype, ROOF_STEPS, isa=isa, threads=threads)
        best = max(best, done / (time.perf_counter() - begin))
    return best


# ---- measuring


class Case:
    """A call of the model that can be timed again and again.

    Parameters
    ----------
    name : str
    model : GPT2
    past : list of int
        How many positions each sequence has before; a sequence without any gets a new cache at every run.
    rows : int
        How many rows each sequence gets by a call.
    calls : int
        So many calls, one after the other, before the caches are cut back.
    keep : int
        As for `_engine.forward`.
    seconds : float
        A run repeats all this until it takes about so long.
    threads : int, optional
        Other than the model's.
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
        self.threads = threads or model.threads
        ids = np.random.default_rng(0).integers(
            model.config.n_vocab, size=max(past) + rows * calls, dtype=np.int32
        )
        self.ids = np.split(ids[len(ids) - rows * calls :], calls)
        self.caches = self._filled(ids)
        mean = rows * (calls - 1) / 2  # positions that calls before it have added
        self.sequences = [(n + mean, rows) for n in past]
        self.tokens = rows * len(past)
        outputs = len(past) * (min(keep, rows) or rows)
        self.bytes = bytes_of_call(model.weights, self.sequences)
        self.operations = operations_of_call(model.config, model.dtype, self.sequences, outputs)
        self.repeats = 1
        if seconds:
            self.run()  # touches everything once
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
    """What was measured of a `Case`: seconds of a call, and beside them the roofs of the same run."""

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
        """The greater of the two: of the time that no program could do without."""
        return max(self.read_share, self.arithmetic_share)

    @property
    def roof(self) -> str:
        """Which one it is: "read" or "arithmetic"."""
        return "read" if self.read_share >= self.arithmetic_share else "arithmetic"


def measure(cases: Sequence[Case], rounds: int | None = None) -> list[Result]:
    """Time all cases in alternating rounds, each after the roof of reading its bytes; medians.

    Arithmetic roofs are measured once per round for every instruction set, format and number of threads, and
    the best of all rounds counts.
    """
    rounds = rounds or ROUNDS
    memory = _engine.aligned_empty(max(1, int(max(case.bytes for case in cases)) // 4))
    memory.fill(1)
    kinds: dict[tuple[str, str, int], list[float]] = {
        (dtype, case.model.weights.isa, case.threads): [] for case in cases for dtype in case.operations
    }
    times: list[list[float]] = [[] for _ in cases]
    reads: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for (dtype, isa, threads), found in kinds.items():
            found.append(operation_rate(dtype, isa=isa, threads=threads))
        for case, seconds, read in zip(cases, times, reads, strict=True):
            part = memory[: max(1, int(case.bytes) // 4)]
            read.append(read_rate(part, isa=case.model.weights.isa, threads=case.threads))
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
            {dtype: max(kinds[dtype, case.model.weights.isa, case.threads]) for dtype in case.operations},
        )
        for case, seconds, read in zip(cases, times, reads, strict=True)
    ]


def bench(model: GPT2, *, load_seconds: float | None = None) -> dict[str, Any]:
    """Measure a model and the machine's roofs, in `ROUNDS` alternating rounds.

    Parameters
    ----------
    model : GPT2
    load_seconds : float, optional
        How long loading took, to be reported with the rest.

    Returns
    -------
    dict
        ``machine`` and ``model`` describe what was measured. ``roofs``: ``read`` (bytes per second, over as
        many bytes as one token of tg128 reads) and, by number format, operations per second. ``rates`` in
        tokens per second: ``pp512`` (of a prompt, until its last logits are there), ``tg128`` (one after the
        other) and ``bg8`` (of 8 sequences decoded together), each with ``median``, ``low``, ``high``, the
        ``share`` of the roof, which roof it is, and what the share is made of. Texts are shorter where the
        model has fewer positions, and named so.

    Raises
    ------
    RuntimeError
        If the model answers otherwise in pieces than at once.
    """
    config = model.config
    prompt = min(PROMPT, config.n_ctx)
    start = min(DECODE_PROMPT, config.n_ctx // 2)
    decode = min(DECODE, config.n_ctx - start)
    check_answers(model, prompt)
    results = measure(
        [
            Case(f"tg{decode}", model, [start], calls=decode),
            Case(f"bg{BATCH}", model, [start] * BATCH, calls=min(BATCH_DECODE, decode)),
            Case(f"pp{prompt}", model, [0], prompt, keep=1),
        ]
    )
    return {
        "machine": {"cpu": cpu_name(), "isa": model.weights.isa, "threads": model.threads,
                    "team": _engine.TEAM},
        "model": {"name": model.name, "dtype": model.dtype, "backend": model.weights.backend,
                  "bytes": model.weights.nbytes, "load_seconds": load_seconds},
        "roofs": {"read": results[0].read, **results[0].rates},
        "rates": {r.name: _rate(r) for r in (results[2], results[0], results[1])},
    }  # fmt: skip


def _rate(result: Result) -> dict[str, Any]:
    return {
        "median": result.tokens_per_second,
        "low": result.tokens / result.high,
        "high": result.tokens / result.low,
        "roof": result.roof,
        "share": result.share,
        "bytes": result.bytes,
        "operations": result.operations,
        "read": result.read,
    }


def main_bench(arguments: Namespace) -> int:
    """`gpt2c bench`: loads or makes the model, measures, prints a table or JSON."""
    begin = time.perf_counter()
    if arguments.shape and arguments.model:
        raise ValueError("give --shape or --model, not both")
    how: dict[str, Any] = {"backend": arguments.backend, "threads": arguments.threads}
    if arguments.shape:
        model = random_model(arguments.shape, dtype=arguments.dtype or "float32", **how)
        load_seconds = None
    else:
        model = GPT2.from_pretrained(
            arguments.model,
            dtype=arguments.dtype,
            revision=arguments.revision,
            local_files_only=arguments.offline,
            **how,
        )
        load_seconds = time.perf_counter() - begin
    print(f"measuring {ROUNDS} rounds; keep the machine quiet …", file=sys.stderr)
    result = bench(model, load_seconds=load_seconds)
    print(json.dumps(result, indent=2) if arguments.json else _table(result))
    return 0


def check_answers(model: GPT2, tokens: int) -> None:
    """A speed is printed only for right answers: a prompt at once and in pieces must agree.

    Raises
    ------
    RuntimeError
        If they do not: bit by bit with back end native, else within rounding.
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
            "the model answers otherwise in pieces than at once: its speed means nothing; please report this"
        )


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _table(result: dict[str, Any]) -> str:
    machine, model, roofs, rates = result["machine"], result["model"], result["roofs"], result["rates"]
    token = next(rate for name, rate in rates.items() if name.startswith("tg"))
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads ({machine['team']}), {machine['isa']}",
        f"{model['name']}: {model['dtype']}, {model['backend']}, {model['bytes'] / 1e6:.0f} MB"
        + (f", loaded in {model['load_seconds']:.2f} s" if model["load_seconds"] is not None else ""),
        f"roofs: reads {roofs['read'] / 1e9:.1f} GB/s (of {token['bytes'] / 1e6:.0f} MB), "
        + ", ".join(f"{name} {rate / 1e9:.0f} Gop/s" for name, rate in roofs.items() if name != "read"),
        "",
        f"{'test':<8}{'tokens/s':>10}{'low to high':>21}{'share of roof':>16}",
    ]
    for name, rate in rates.items():
        spread = f"{rate['low']:.1f} to {rate['high']:.1f}"
        roof = {"read": "reads", "arithmetic": "arithmetic"}[rate["roof"]]
        lines.append(f"{name:<8}{rate['median']:>10.1f}{spread:>21}{rate['share']:>9.0%} of {roof}")
    if any(rate["share"] > 1 for rate in rates.values()):
        lines.append("above 100%: other work disturbed the measurement of the roof")
    return "\n".join(lines)
