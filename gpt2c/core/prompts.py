"""What counts as one prompt, as several prompts, and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ContextLengthError, counted, shown

__all__ = [
    "Item",
    "Prompt",
    "Prompts",
    "check_lengths",
    "check_unambiguous",
    "listed",
    "separate",
    "split_pair",
    "token_ids",
]

Prompt = str | list[int] | tuple[int, ...] | np.ndarray
"""A text, or its token ids."""

Prompts = Sequence[Prompt]
"""One or several, for type checkers; ``separate`` decides which."""

Item = Prompt | tuple[Prompt, Prompt]
"""What can be scored: a text, or a pair (context, continuation); ``split_pair`` decides which."""

PROMPTS = "a prompt is a string or a list of token ids, several are a list of those"

_EMPTY = "to generate unconditionally, pass the empty string"
_TEXT = str | list | tuple | np.ndarray


def separate(prompts: Any, allowed: str = PROMPTS) -> tuple[bool, Sequence[Any]]:
    """Whether several prompts were given, and the prompts.

    A string or an array of integers is one prompt. A list or tuple holds several prompts if its first item is
    a string, a list, a tuple or an array; otherwise it is one prompt made of token ids. A column of a table
    holds several prompts, unless it holds integers. The error for anything else says what is ``allowed``.
    """
    column = listed(prompts)
    if column is not prompts and not (column and isinstance(column[0], int | np.integer)):
        if not column:
            raise ValueError(f"the column is empty; {_EMPTY}")
        return True, column
    prompts = column
    if isinstance(prompts, str | np.ndarray):
        return False, [prompts]
    if not isinstance(prompts, list | tuple):
        raise TypeError(f"{allowed}, not {type(prompts).__name__}")
    if not prompts:
        raise ValueError(f"the list is empty; {_EMPTY}")
    if isinstance(prompts[0], _TEXT):
        return True, prompts
    return False, [prompts]


def listed(column: Any) -> Any:
    """A column of a table (pandas, polars, Arrow, datasets, an array of str) as a list; else the value."""
    if isinstance(column, np.ndarray):
        return column.tolist() if column.ndim == 1 and column.dtype.kind in "OTU" else column
    for name in ("to_pylist", "to_list"):
        if callable(getattr(column, name, None)):
            return getattr(column, name)()
    is_known = isinstance(column, str | bytes | list | tuple) or not isinstance(column, Sequence)
    return column if is_known else list(column)


def split_pair(item: Any, name: str) -> tuple[Any, Any]:
    """The context and the text of an item, which errors call ``name``; the context may be empty.

    A tuple of two strings or lists of token ids (in any mixture) is a pair; a tuple of integers is a text.
    """
    if isinstance(item, tuple) and len(item) == 2:
        context, text = item
        if isinstance(context, _TEXT) and isinstance(text, _TEXT):
            return context, text
    if isinstance(item, tuple) and any(isinstance(part, _TEXT) for part in item):
        raise TypeError(
            f"{name} must be a text or a pair (context, continuation): a pair has two members, each a string "
            f"or token ids, not {shown(item)}"
        )
    return (), item


def check_unambiguous(texts: Any) -> None:
    """Raise for a tuple of two texts: it may mean two texts or a pair; see ``split_pair``."""
    if not isinstance(texts, tuple) or len(texts) != 2:
        return
    if all(isinstance(text, str | np.ndarray) or _holds_ids(text) for text in texts):
        raise TypeError(
            "a tuple of two texts can mean two texts, or a context and its continuation: score([a, b]) "
            "scores both, score([(a, b)]) scores b after a"
        )


def _holds_ids(text: Any) -> bool:
    return isinstance(text, list | tuple) and not (text and isinstance(text[0], _TEXT))


def token_ids(ids: Any, n_vocab: int, name: str, *, empty: str = _EMPTY) -> np.ndarray:
    """``ids`` as int32 [n], n at least 1, all inside the vocabulary; errors call them ``name``.

    If there are none, the error ends with ``empty``: what to do.
    """
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise TypeError(
                f"{name} must be a one-dimensional array of integers, not {ids.ndim} dimensions of "
                f"{ids.dtype}"
            )
    elif isinstance(ids, list | tuple):
        for token in ids:
            if isinstance(token, bool | np.bool_) or not isinstance(token, int | np.integer):
                raise TypeError(
                    f"{name} must hold integers only, not {shown(token)} ({type(token).__name__})"
                )
    else:
        raise TypeError(f"{name} must be a string or token ids in a list or array, not {type(ids).__name__}")
    if len(ids) == 0:
        raise ValueError(f"{name} has no token ids; {empty}")
    low, high = int(min(ids)), int(max(ids))
    if low < 0 or high >= n_vocab:
        outside = shown(low if low < 0 else high)
        raise ValueError(
            f"{name} has token id {outside}, but the vocabulary has {n_vocab} tokens: 0 to {n_vocab - 1}"
        )
    return np.ascontiguousarray(ids, np.int32)


def check_lengths(prompts: Sequence[np.ndarray], n_ctx: int) -> None:
    """Raise unless each of the prompts, int32 [n], fits into the model's ``n_ctx`` positions."""
    for index, ids in enumerate(prompts):
        if len(ids) > n_ctx:
            name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
            raise ContextLengthError(
                f"{name} has {counted(len(ids), 'token')}, but the model has {n_ctx} positions; shorten it"
            )
