"""The options of text generation: their defaults, and the one place where they are checked.

How the next token is then drawn is the engine's business (``_engine.sample``); in order: repetition penalty,
logit bias and forbidden tokens change the logits; temperature 0 takes the largest; otherwise the logits are
divided by the temperature and ``top_k``, ``top_p`` and ``min_p`` leave out the improbable tokens before one
is drawn.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, TypedDict

__all__ = ["Options", "SamplingOptions", "check_integer"]

SEEDS = 2**64
LARGEST_BIAS = 3.4e38  # still finite as float32


class Options(TypedDict, total=False):
    """The options of :class:`SamplingOptions` as keyword arguments, for type checkers.

    Without ``num_return_sequences``, which decides the type of the result.
    """

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    stop: str | Iterable[str]
    logit_bias: Mapping[int, float] | None
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a text is to be continued. Every value is checked here, before anything is computed.

    Attributes
    ----------
    max_new_tokens, min_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, logit_bias,
    seed, num_return_sequences
        As explained at :meth:`gpt2c.GPT2.generate`.

    Raises
    ------
    ValueError, TypeError
        Naming the option, what was given and what is allowed.
    """

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: str | Iterable[str] = ()
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # the instance is frozen for everybody else

        put("max_new_tokens", check_integer("max_new_tokens", self.max_new_tokens, 1))
        put("min_new_tokens", check_integer("min_new_tokens", self.min_new_tokens, 0))
        put("top_k", check_integer("top_k", self.top_k, 0, note=" (0 is no limit)"))
        put("num_return_sequences", check_integer("num_return_sequences", self.num_return_sequences, 1))
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) must not be above max_new_tokens "
                f"({self.max_new_tokens})"
            )
        if self.seed is not None:
            put(
                "seed",
                check_integer("seed", self.seed, 0, SEEDS - 1, note=" (2**64 - 1), or None for a fresh one"),
            )
        put(
            "temperature",
            _number("temperature", self.temperature, lambda t: t >= 0, "0 (greedy) or above, and finite"),
        )
        put(
            "top_p",
            _number("top_p", self.top_p, lambda p: 0 < p <= 1, "above 0 and at most 1 (1 is no limit)"),
        )
        put("min_p", _number("min_p", self.min_p, lambda p: 0 <= p <= 1, "from 0 (no limit) to 1"))
        put(
            "repetition_penalty",
            _number(
                "repetition_penalty",
                self.repetition_penalty,
                lambda r: 1e-6 <= r <= 1e6,
                "from 1e-6 to 1e6 (1 is none)",
            ),
        )
        put("stop", _stop_strings(self.stop))
        put("logit_bias", _biases(self.logit_bias))

    @property
    def greedy(self) -> bool:
        """Whether chance plays no part."""
        return self.temperature == 0


def check_integer(name: str, value: Any, low: int, high: int | None = None, note: str = "") -> int:
    """``value`` as an int in low..high (both allowed), or an error that says what is."""
    allowed = f"at least {low}{note}" if high is None else f"from {low} to {high}{note}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, {allowed}; got {value!r} ({type(value).__name__})"
        ) from None
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {allowed}; got {number}")
    return number


def _number(name: str, value: Any, fits, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, {allowed}; got {value!r} ({type(value).__name__})")
    number = float(value)
    if not math.isfinite(number) or not fits(number):
        raise ValueError(f"{name} must be {allowed}; got {number:g}")
    return number


def _stop_strings(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, bytes) or not isinstance(stop, Iterable):
        raise TypeError(f"stop must be a string or several strings; got {stop!r} ({type(stop).__name__})")
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    for text in strings:
        if not isinstance(text, str):
            raise TypeError(f"stop must hold strings only; got {text!r} ({type(text).__name__})")
        if not text:
            raise ValueError("stop must not hold an empty string: every text would end at once; leave it out")
    return tuple(dict.fromkeys(strings))


def _biases(bias: Any) -> Mapping[int, float]:
    if bias is None:
        return MappingProxyType({})
    if not isinstance(bias, Mapping):
        raise TypeError(
            f"logit_bias must map token ids to numbers, such as {{42: -100}}; got {type(bias).__name__}"
        )
    checked = {}
    for token, value in bias.items():
        token = check_integer("a token id in logit_bias", token, 0)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"logit_bias[{token}] must be a number; got {value!r} ({type(value).__name__})")
        value = float(value)
        if not value <= LARGEST_BIAS:  # also true of NaN
            raise ValueError(
                f"logit_bias[{token}] must be a finite float32, or -inf to forbid the token; got {value:g}"
            )
        checked[token] = value if value >= -LARGEST_BIAS else -math.inf
    return MappingProxyType(checked)
