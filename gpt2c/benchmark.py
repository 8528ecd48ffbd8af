"""How fast this machine runs a model, beside how fast it could: `gpt2c bench`.

Every rate stands next to a roof that was measured in the same run, alternating with it: decoding reads all
weights and the cache once per token, so its roof is the read bandwidth; a prompt is arithmetic, so its roof
is the multiply-add rate.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from . import _engine, _ops
from .config import Config
from .model import GPT2

__all__ = ["SHAPES", "bench", "main_bench", "random_model"]

# n_layer, n_head, n_embd of OpenAI's four models (their config.json on the Hugging Face hub).
SHAPES = {"124M": (12, 12, 768), "355M": (24, 16, 1024), "774M": (36, 20, 1280), "1558M": (48, 25, 1600)}
ROUNDS = 5  # alternating runs; medians are reported
PROMPT, DECODE, DECODE_PROMPT = 512, 128, 32
READ_BYTES = 512 << 20  # far beyond any cache
FMA_SECONDS = 0.1


def random_model(shape: str, *, backend: str = "native", threads: int | None = None, seed: int = 0) -> GPT2:
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
    rng = np.random.default_rng(seed)
    parts = {
        "wte": (config.n_vocab, n_embd),
        "wpe": (config.n_ctx, n_embd),
        "attn.c_attn": (n_embd, 3 * n_embd),
        "attn.c_proj": (n_embd, n_embd),
        "mlp.c_fc": (n_embd, config.n_inner),
        "mlp.c_proj": (config.n_inner, n_embd),
    }

    def read(name: str) -> np.ndarray:
        part, kind = re.sub(r"^h\.\d+\.", "", name).rsplit(".", 1)
        if part not in parts:  # a LayerNorm
            return np.full(n_embd, float(kind == "weight"), np.float32)
        shape = parts[part] if kind == "weight" else parts[part][1:]
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)

    weights = _engine.Weights(config, read, backend=backend)
    return GPT2(weights, threads=threads, name=f"random weights, shape {shape}")


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
        ``machine`` and ``model`` describe what was measured. ``roofs``: ``read`` (bytes per second) and
        ``fma`` (floating-point operations per second). ``rates``: for ``pp512`` (tokens of a prompt per
        second until its last logits are there) and ``tg128`` (tokens per second, one after the other):
        ``median``, ``low``, ``high``, and ``share`` of the roof named in ``roof``. Texts are shorter where
        the model has fewer positions, and named so.
    """
    threads, config = model.threads, model.config
    prompt = min(PROMPT, config.n_ctx)
    start = min(DECODE_PROMPT, config.n_ctx // 2)
    decode = min(DECODE, config.n_ctx - start)
    ids = np.random.default_rng(0).integers(config.n_vocab, size=config.n_ctx).astype(np.int32)
    memory = np.ones(READ_BYTES // 4, np.float32)

    def forward(cache: _engine.KVCache, ids: np.ndarray) -> np.ndarray:
        return _engine.forward(model.weights, [(cache, ids)], keep=1, threads=threads)

    _check_answers(model, ids[:prompt])
    steps = _steps_for(FMA_SECONDS, threads)
    read, fma, prefills, decodes = [], [], [], []
    for _ in range(ROUNDS):
        read.append(_rate(lambda: (_ops.read_all(memory, threads=threads), READ_BYTES)[1]))
        cache = model.new_cache()
        forward(cache, ids[:start])

        def one_by_one(cache=cache):
            for i in range(start, start + decode):
                forward(cache, ids[i : i + 1])
            return decode

        decodes.append(_rate(one_by_one))
        fma.append(_rate(lambda: _ops.multiply_add(steps, threads=threads)))
        prefills.append(_rate(lambda: (forward(model.new_cache(), ids[:prompt]), prompt)[1]))

    roofs = {"read": statistics.median(read), "fma": statistics.median(fma)}
    per_token = bytes_per_token(config, start + decode / 2)
    per_prompt = flop_of_prompt(config, prompt)
    return {
        "machine": {"cpu": _cpu_name(), "isa": model.weights.isa, "threads": threads, "team": _engine.TEAM},
        "model": {"name": model.name, "dtype": model.dtype, "backend": model.weights.backend,
                  "bytes": model.weights.nbytes, "load_seconds": load_seconds},
        "roofs": roofs,
        "rates": {
            f"pp{prompt}": _summary(prefills, "fma", per_prompt / prompt / roofs["fma"]),
            f"tg{decode}": _summary(decodes, "read", per_token / roofs["read"]),
        },
    }  # fmt: skip


def bytes_per_token(config: Config, context: float) -> float:
    """Bytes that decoding one token reads: every matrix and bias once, and the keys and values so far."""
    n, inner = config.n_embd, config.n_inner
    layer = 4 * n * n + 2 * n * inner + 9 * n + inner + 2 * n * context
    return 4.0 * (config.n_layer * layer + config.n_vocab * n + 4 * n)


def flop_of_prompt(config: Config, tokens: int) -> float:
    """Operations of a prompt until its last logits: matrices, attention, and one row of the head."""
    n = config.n_embd
    dense = 2 * tokens * (4 * n * n + 2 * n * config.n_inner)
    attention = 4 * n * tokens * (tokens + 1) / 2
    return float(config.n_layer * (dense + attention) + 2 * n * config.n_vocab)


def main_bench(arguments: Namespace) -> int:
    """`gpt2c bench`: loads or makes the model, measures, prints a table or JSON."""
    begin = time.perf_counter()
    if arguments.shape:
        if arguments.model:
            raise ValueError("give --shape or --model, not both")
        model = random_model(arguments.shape, backend=arguments.backend, threads=arguments.threads)
        load_seconds = None
    else:
        model = GPT2.from_pretrained(
            arguments.model,
            backend=arguments.backend,
            threads=arguments.threads,
            revision=arguments.revision,
            local_files_only=arguments.offline,
        )
        load_seconds = time.perf_counter() - begin
    print(f"measuring {ROUNDS} rounds; keep the machine quiet …", file=sys.stderr)
    result = bench(model, load_seconds=load_seconds)
    print(json.dumps(result, indent=2) if arguments.json else _table(result))
    return 0


def _check_answers(model: GPT2, ids: np.ndarray) -> None:
    """A speed is printed only for right answers: the prompt at once and in pieces must agree."""
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


def _steps_for(seconds: float, threads: int) -> int:
    steps = 10_000
    while True:
        begin = time.perf_counter()
        _ops.multiply_add(steps, threads=threads)
        if time.perf_counter() - begin > seconds / 2:
            return steps
        steps *= 2


def _rate(work) -> float:
    begin = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - begin)


def _summary(rates: list[float], roof: str, share_of_one: float) -> dict[str, Any]:
    median = statistics.median(rates)
    return {
        "median": median,
        "low": min(rates),
        "high": max(rates),
        "roof": roof,
        "share": median * share_of_one,
    }


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _table(result: dict[str, Any]) -> str:
    machine, model, roofs = result["machine"], result["model"], result["roofs"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads ({machine['team']}), {machine['isa']}",
        f"{model['name']}: {model['dtype']}, {model['backend']}, {model['bytes'] / 1e6:.0f} MB"
        + (f", loaded in {model['load_seconds']:.2f} s" if model["load_seconds"] is not None else ""),
        f"roofs: reads {roofs['read'] / 1e9:.1f} GB/s, multiply-adds {roofs['fma'] / 1e9:.0f} GFLOP/s",
        "",
        f"{'test':<8}{'tokens/s':>10}{'low to high':>21}{'share of roof':>16}",
    ]
    for name, rate in result["rates"].items():
        spread = f"{rate['low']:.1f} to {rate['high']:.1f}"
        roof = {"read": "reads", "fma": "multiply-adds"}[rate["roof"]]
        lines.append(f"{name:<8}{rate['median']:>10.1f}{spread:>21}{rate['share']:>9.0%} of {roof}")
    if any(rate["share"] > 1 for rate in result["rates"].values()):
        lines.append(
            "above 100%: the weights stay in a cache, or other work disturbed the measurement of the roof"
        )
    return "\n".join(lines)
