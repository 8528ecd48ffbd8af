"""Options of generation that are collections: each function checks one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np

from ..core.checks import as_float, check_integer, check_number
from ..errors import shown

__all__ = [
    "LogitsProcessor",
    "bad_words_of",
    "biases_of",
    "decay_of",
    "ends_of",
    "processors_of",
    "sequence_of",
    "strings_of",
    "token_of",
    "tokens_of",
]

LARGEST_BIAS = 3.4e38  # still finite as float32

LogitsProcessor = Callable[[np.ndarray, np.ndarray], np.ndarray]


def token_of(name: str, token: Any) -> int:
    return check_integer(f"a token id in {name}", token, 0)


def tokens_of(name: str, tokens: Any, wanted: str) -> tuple[int, ...]:
    if isinstance(tokens, str | bytes | Mapping) or not isinstance(tokens, Iterable):
        raise TypeError(f"{name} must be {wanted}, not {shown(tokens)} ({type(tokens).__name__})")
    return tuple(token_of(name, token) for token in tokens)


def ends_of(tokens: Any) -> tuple[int, ...] | None:
    if tokens is None:
        return None
    several = tokens if isinstance(tokens, Iterable) else (tokens,)
    return tokens_of("eos_token_id", several, "a token id, a list of them, or None for the model's own")


def sequence_of(name: str, tokens: Any) -> tuple[int, ...]:
    sequence = tokens_of(f"a key of {name}", tokens, "a tuple of token ids")
    if not sequence:
        raise ValueError(f"{name} must not hold an empty sequence of tokens")
    return sequence


def bad_words_of(words: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(words, str | bytes | Mapping) or not isinstance(words, Iterable):
        raise TypeError(f"bad_words must be a list of words, not {shown(words)} ({type(words).__name__})")
    checked: list[str | tuple[int, ...]] = []
    for word in words:
        if not isinstance(word, str):
            word = tokens_of("bad_words", word, "a list of strings or of lists of token ids")
        if not word:
            raise ValueError("bad_words must not hold an empty word")
        checked.append(word)
    return tuple(checked)


def processors_of(processors: Any) -> tuple[LogitsProcessor, ...]:
    several = (processors,) if callable(processors) else processors
    if isinstance(several, str | bytes) or not isinstance(several, Iterable):
        raise TypeError(
            "logits_processor must be a function of (token_ids, logits), or several, not "
            f"{type(processors).__name__}"
        )
    several = tuple(several)
    for processor in several:
        if not callable(processor):
            raise TypeError(f"logits_processor must hold functions only, not {type(processor).__name__}")
    return several


def strings_of(name: str, given: Any, why_not_empty: str) -> tuple[str, ...]:
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(
            f"{name} must be a string or several strings, not {shown(given)} ({type(given).__name__})"
        )
    strings = (given,) if isinstance(given, str) else tuple(given)
    for text in strings:
        if not isinstance(text, str):
            raise TypeError(f"{name} must hold strings only, not {text!r} ({type(text).__name__})")
        if not text:
            raise ValueError(f"{name} must not hold an empty string: {why_not_empty}; leave it out")
    return tuple(dict.fromkeys(strings))


def decay_of(given: Any) -> tuple[int, float] | None:
    if given is None:
        return None
    name = "exponential_decay_length_penalty"
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) != 2:
        raise TypeError(
            f"{name} must be two numbers, the number of new tokens before it starts and its factor, such as "
            f"(30, 1.1), or None, not {shown(given)} ({type(given).__name__})"
        )
    start = check_integer(f"the first number of {name}", given[0], 0)
    factor = check_number(
        f"the factor of {name}", given[1], lambda x: 0 < x <= 1e6, "above 0 and at most 1e6"
    )
    return start, factor


def biases_of(name: str, bias: Any, key: Callable[[str, Any], Any]) -> Mapping[Any, float]:
    if bias is None:
        return MappingProxyType({})
    if not isinstance(bias, Mapping):
        what, example = (
            ("token ids", "{42: -100}") if key is token_of else ("tuples of token ids", "{(42, 7): -5}")
        )
        raise TypeError(f"{name} must map {what} to numbers, such as {example}, not {type(bias).__name__}")
    checked = {}
    for of, value in bias.items():
        of = key(name, of)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name}[{of}] must be a number, not {shown(value)} ({type(value).__name__})")
        value = as_float(value)
        if not value <= LARGEST_BIAS:  # also true of NaN
            raise ValueError(
                f"{name}[{of}] must be a finite float32, or -inf to forbid the token, not {value:g}"
            )
        checked[of] = value if value >= -LARGEST_BIAS else -math.inf
    return MappingProxyType(checked)
