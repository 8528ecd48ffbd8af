"""The fastest number format on this machine, and the cost of each.

`gpt2c bench --recommend` shows all of it, `gpt2c score --dtype auto` takes the one for scoring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...core import _engine
from ...model import GPT2
from ...scoring.comparison import Cost, compare, windows
from .cases import DECODE_PROMPT, Case
from .roofs import ROUNDS, median_and_spread

__all__ = [
    "USES",
    "Format",
    "allowed_loss",
    "disturbed",
    "fastest",
    "load_formats",
    "measure_formats",
    "reason",
    "sample",
]

USES = ("scoring", "generating")

# The duration of a run of each format and use, unless a call takes longer.
RUN_SECONDS = 0.1
# No round starts after this many seconds: for large models, one round must suffice.
SECONDS = 5.0
# Tokens to score in a call, to generate in a run, and to compare with float32.
DOCUMENTS, DECODE, COMPARED = 512, 16, 4096
# The factor by which a less exact format must be faster.
CLEARLY = 1.05
# If a format's speeds differ by a larger factor, the machine was busy.
STEADY = 2


class Format(NamedTuple):
    """A number format of a model, as measured here."""

    dtype: str
    bytes: int  # of all weights
    speeds: Mapping[str, Mapping[str, float]]  # use -> median, low and high, in tokens per second
    cost: Cost


# ---- choosing


def allowed_loss(formats: Sequence[Format], max_loss: float | None = None) -> float:
    """The allowed increase of the log-loss, in percent: ``max_loss``, else that of bfloat16.

    On a short text bfloat16 may be better than float32 by chance, so without ``max_loss`` it is at least 0.
    """
    if max_loss is not None:
        return max_loss
    return max([0.0, *(found.cost["delta_percent"] for found in formats if found.dtype == "bfloat16")])


def fastest(formats: Sequence[Format], use: str, max_loss: float) -> Format:
    """The fastest format for a use among those that cost at most ``max_loss``.

    Formats are in order of exactness: a less exact one must be faster by more than repeated measurements
    vary.
    """
    best = formats[0]
    for found in formats[1:]:
        faster = found.speeds[use]["median"] > CLEARLY * best.speeds[use]["median"]
        if faster and found.cost["delta_percent"] <= max_loss:
            best = found
    return best


def reason(formats: Sequence[Format], use: str, max_loss: float) -> str:
    """The reason for the choice of `fastest`."""
    base, found = formats[0], fastest(formats, use, max_loss)
    if found is base:
        return "no other format within the allowed loss is clearly faster here"
    times = found.speeds[use]["median"] / base.speeds[use]["median"]
    return f"{times:.1f} times as fast as {base.dtype} here, loss {found.cost['delta_percent']:+.3f} %"


def disturbed(formats: Sequence[Format]) -> list[str]:
    """A warning if the speed of a format varies more between rounds than on a quiet machine."""
    speeds = [speed for found in formats for speed in found.speeds.values()]
    if not any(speed["high"] > STEADY * speed["low"] for speed in speeds):
        return []
    return [
        f"speeds differ by more than a factor of {STEADY} between rounds: the machine was busy, so repeat "
        "this when it is quiet"
    ]


# ---- measuring


def load_formats(load: Callable[[str], GPT2]) -> dict[str, GPT2]:
    """The model in every number format, all in memory at once; ``load`` takes the name of one."""
    models: dict[str, GPT2] = {}
    for dtype in _engine.DTYPES:
        models[dtype] = load(dtype)
        _ = models[dtype].tokenizer  # an error that says why, if there is none
    return models


def sample(model: GPT2, text: str) -> list[np.ndarray]:
    """The start of a text as windows of tokens, enough to compare formats.

    Raises
    ------
    ValueError
        The text has fewer than two tokens.
    """
    found = _first(windows(model, text), COMPARED)
    if not found:
        raise ValueError(
            "the text to compare number formats on is too short: give one of a few thousand words"
        )
    return found


def measure_formats(
    models: Mapping[str, GPT2], texts: Sequence[np.ndarray], uses: Sequence[str] = USES
) -> list[Format]:
    """The speed of a model in each number format, in alternating rounds, and the cost of the format.

    Parameters
    ----------
    models : mapping
        See `load_formats`; the first is the one that the others are compared with.
    texts : list of int32 arrays
        See `sample`.
    uses : sequence of str
        The uses to time, from `USES`.
    """
    first = next(iter(models))
    documents = _first(texts, DOCUMENTS)
    cases = {
        (dtype, use): Scoring(model, documents) if use == "scoring" else _generating(model)
        for dtype, model in models.items()
        for use in uses
    }
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in cases}
    until = time.perf_counter() + SECONDS
    for done in range(ROUNDS):
        if done and time.perf_counter() > until:
            break
        for key, case in cases.items():
            rates[key].append(case.tokens / case.run())
    others = {dtype: model for dtype, model in models.items() if dtype != first}
    none = Cost(delta_percent=0.0, agreement_percent=100.0, kl=0.0)
    costs = {first: none, **compare(texts, models[first], others)[1]}
    return [
        Format(
            dtype,
            model.weights.nbytes,
            {use: median_and_spread(rates[dtype, use]) for use in uses},
            costs[dtype],
        )
        for dtype, model in models.items()
    ]


def _first(texts: Sequence[np.ndarray], n_tokens: int) -> list[np.ndarray]:
    """The first ``n_tokens`` of some windows, each of which has at least two."""
    found = []
    for ids in texts:
        found.append(ids[: max(0, n_tokens)])
        n_tokens -= len(ids)
    return [ids for ids in found if len(ids) > 1]


class Scoring:
    """The scoring of documents, as a repeatable call."""

    def __init__(self, model: GPT2, documents: Sequence[np.ndarray]) -> None:
        self.model, self.documents = model, list(documents)
        self.tokens = sum(len(ids) - 1 for ids in documents)
        self.repeats = 1
        # The first run touches everything once.
        self.run()
        self.repeats = max(1, round(RUN_SECONDS / self.run()))

    def run(self) -> float:
        """Seconds of one call."""
        begin = time.perf_counter()
        for _ in range(self.repeats):
            self.model.score(self.documents, bos=False)
        return (time.perf_counter() - begin) / self.repeats


def _generating(model: GPT2) -> Case:
    """Tokens of one text, one after the other."""
    start = min(DECODE_PROMPT, model.config.n_ctx // 2)
    calls = min(DECODE, model.config.n_ctx - start)
    return Case("generating", model, [start], calls=calls, seconds=RUN_SECONDS)
