"""Checks of arguments: each gives back the value, or raises an error that says what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["check_flag", "check_index", "check_integer", "check_number"]


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


def check_number(name: str, value: Any, fits: Callable[[float], bool], allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, {allowed}; got {value!r} ({type(value).__name__})")
    number = float(value)
    if not math.isfinite(number) or not fits(number):
        raise ValueError(f"{name} must be {allowed}; got {number:g}")
    return number


def check_index(name: str, value: Any, n: int) -> int:
    """Which of ``n`` layers or heads, counted from 0, negative ones from the end."""
    return check_integer(name, value, -n, n - 1, f": the model has {n}, counted from 0 or back from -1") % n


def check_flag(name: str, value: Any) -> bool:
    """``value`` as a bool, or a TypeError."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)
