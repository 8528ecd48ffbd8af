"""Checks of arguments: each returns the value or raises an error that says what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from ..errors import shown

__all__ = ["as_float", "check_flag", "check_index", "check_integer", "check_number"]


def check_integer(name: str, value: Any, low: int, high: int | None = None, note: str = "") -> int:
    """``value`` as an int in low..high (both included), or an error."""
    allowed = f"at least {low}{note}" if high is None else f"from {low} to {high}{note}"
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, {allowed}, not {shown(value)} ({type(value).__name__})"
        ) from None
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {allowed}, not {shown(number)}")
    return number


def as_float(value: Any) -> float:
    """A number as a float: infinity if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_number(name: str, value: Any, fits: Callable[[float], bool], allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, {allowed}, not {shown(value)} ({type(value).__name__})")
    number = as_float(value)
    if not math.isfinite(number) or not fits(number):
        given = shown(value) if isinstance(value, int) else f"{number:g}"
        raise ValueError(f"{name} must be {allowed}, not {given}")
    return number


def check_index(name: str, value: Any, n: int) -> int:
    """The index of one of ``n`` layers or heads, counted from 0; negative ones count from the end."""
    return check_integer(name, value, -n, n - 1, f": the model has {n}, counted from 0 or back from -1") % n


def check_flag(name: str, value: Any) -> bool:
    """``value`` as a bool, or a TypeError."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)
