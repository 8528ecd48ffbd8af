"""Edits written as text, for command lines: ``blocks.3.attn.hook_z:zero:heads=1``."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np

from ..errors import shown
from .edits import Edit, add, scale, zero

__all__ = ["parse_edit"]

_FORM = (
    "an edit is NAME:EDIT[:positions=P][:heads=H][:units=U], EDIT is zero, scale=X or add=X, and P, H and U "
    "are numbers from 0 such as 3, 1,4, 0-5 (5 included) or 7- (all from 7 on), as in "
    "blocks.3.attn.hook_z:zero:heads=1"
)
_AXES = ("positions", "heads", "units")
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)
_FROM = re.compile(r"(\d{1,6})-", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)


def parse_edit(text: str) -> tuple[str, Edit]:
    """The name and the edit in such a text, as ``edits=`` takes them.

    Parameters
    ----------
    text : str
        ``NAME:EDIT[:positions=P][:heads=H][:units=U]``. NAME as for ``names_filter``, wildcards and short
        names allowed; EDIT is ``zero``, ``scale=X`` or ``add=X``; P, H and U are one index or several,
        ``1,4``, ``0-5`` with both ends, ``0-2,7``, or ``7-``, which is open-ended.

    Raises
    ------
    ValueError
        Anything else; the message says what is allowed.
    """
    name, *words = text.split(":")
    if not name or not words or not words[0]:
        raise _refused(text, "the EDIT is missing" if name else "the NAME is missing")
    kind, equals, value = words[0].partition("=")
    choices: dict[str, Any] = {}
    for before, word in itertools.pairwise(words):
        axis, _, choice = word.partition("=")
        if not word:
            raise _refused(text, f"there is an empty part after {before + ':'!r}")
        if axis not in _AXES:
            raise _refused(text, f"{word!r} is unknown")
        if axis in choices:
            raise _refused(text, f"{axis} is given twice")
        choices[axis] = _choice(text, axis, choice)
    if kind == "zero" and not equals:
        return name, zero(**choices)
    if kind not in ("scale", "add"):
        raise _refused(text, f"{words[0]!r} is not an edit")
    return name, (scale if kind == "scale" else add)(_number(text, kind, value), **choices)


def _number(text: str, kind: str, value: str) -> float:
    if not _NUMBER.fullmatch(value):
        raise _refused(text, f"{kind} needs a number, not {value!r}")
    number = float(value)
    if abs(number) > _LARGEST:
        raise _refused(text, f"{kind} needs a number from -3.4e38 to 3.4e38, not {value!r}")
    return number


def _choice(text: str, axis: str, written: str) -> int | slice | list[int]:
    """The indices on an axis: one, several, or all from one on."""
    if not written:
        raise _refused(text, f"{axis} needs a value")
    if beginning := _FROM.fullmatch(written):
        return slice(int(beginning[1]), None)
    chosen: list[int] = []
    for part in written.split(","):
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise _refused(text, f"{axis} must not be {written!r}")
        chosen += range(first, last + 1)
    return chosen[0] if len(chosen) == 1 else chosen


def _refused(text: str, what: str) -> ValueError:
    return ValueError(f"in the edit {shown(text)} {what}; {_FORM}")
