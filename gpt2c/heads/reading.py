"""Texts as heads read them: whole, with the tokens that the tokenizer puts around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import _engine
from ..core.batching import within_bounds
from ..core.checks import check_flag, check_integer
from ..core.prompts import listed, separate
from ..errors import ContextLengthError, counted

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..core.lm import LoadedModel

__all__ = [
    "Options",
    "Reading",
    "check_options",
    "check_room",
    "check_single",
    "hidden_rows",
    "is_pair",
    "read",
    "read_all",
]

_ALLOWED = (
    "a text is a string or a list of token ids, several are a list of those (list(texts) makes one of an "
    "iterator)"
)


_TEXT = str | list | tuple | np.ndarray


class Options(NamedTuple):
    """How texts are read, checked."""

    max_tokens: int | None
    special: bool
    cutting: str = "with max_tokens={0} (--max-tokens {0}) the text is truncated"
    """Advice for texts that are too long; {0} is the model's positions."""


class Reading(NamedTuple):
    """A text as the model reads it."""

    ids: np.ndarray
    """int32 [at least 1]."""
    own: slice
    """Those that are the text's own."""
    text: str | None
    """None if token ids were given."""
    truncated: bool
    types: np.ndarray | None = None
    """int32, one per id; None: all 0."""


def check_options(model: LoadedModel, *, max_tokens: Any = None, special: Any = False) -> Options:
    """The options of `read`, or an error that says what is allowed."""
    if max_tokens is not None:
        most = model.config.n_ctx
        max_tokens = check_integer("max_tokens", max_tokens, 1, most, ", the model's positions")
    return Options(max_tokens, check_flag("special", special))


def read_all(model: LoadedModel, texts: Any, options: Options) -> tuple[bool, list[Reading]]:
    """Whether several texts were given, and all of them."""
    column = listed(texts)
    if isinstance(column, list | tuple) and not column:
        return True, []
    if model.config.is_bert and is_pair(texts) and not _holds_texts(texts):
        raise TypeError(
            "a tuple of two texts can mean two texts, or one pair: [a, b] are two texts, [(a, b)] is a pair"
        )
    several, given = separate(texts, _ALLOWED)
    readings = []
    for i, text in enumerate(given):
        name = f"text {i}" if several else "the text"
        reading = read(model, text, name, options)
        if reading is None:
            raise ValueError(f"{name} is empty: it needs at least one token")
        readings.append(reading)
    return several, readings


def read(model: LoadedModel, text: Any, name: str, options: Options) -> Reading | None:
    """One text, checked; errors call it ``name``. None if it has no tokens.

    A string, even an empty one, gets the tokens that the tokenizer puts around a text, as in transformers;
    token ids are used as they are. For a BERT it may be a pair of two texts.

    Raises
    ------
    ContextLengthError
        It has more tokens than the model has positions, without ``max_tokens``.
    """
    if model.config.is_bert and is_pair(text):
        return _read_pair(model, text, name, options)
    ids = model.encode_text(text, name, special=options.special)
    before: Sequence[int] = ()
    after: Sequence[int] = ()
    if isinstance(text, str):
        before, after = model.tokenizer.prefix, model.tokenizer.suffix
        if options.special and model.is_written_out(before, text, ids.tolist()):
            before = ()
    around, n_ctx = len(before) + len(after), model.config.n_ctx
    if len(ids) + around == 0:
        return None
    room = _room(options.max_tokens or n_ctx, around)
    truncated = len(ids) > room
    if truncated and options.max_tokens is None:
        raise _too_long(name, len(ids) + around, n_ctx, options)
    own = slice(len(before), len(before) + min(len(ids), room))
    ids = np.array([*before, *ids[:room], *after], np.int32)
    return Reading(ids, own, text if isinstance(text, str) else None, truncated)


def check_single(readings: Iterable[Reading], method: str) -> None:
    """Raise TypeError if one is a pair."""
    if any(reading.types is not None for reading in readings):
        raise TypeError(f"{method} takes texts, not pairs of texts: join the two, or pass each separately")


def is_pair(text: Any) -> bool:
    """Whether it is a tuple of two texts."""
    return isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, _TEXT) for part in text)


def _holds_texts(texts: tuple[Any, Any]) -> bool:
    """Whether both are lists of texts, or pairs, rather than texts."""
    return all(isinstance(part, list | tuple) and bool(part) and isinstance(part[0], _TEXT) for part in texts)


def _read_pair(model: LoadedModel, pair: tuple[Any, Any], name: str, options: Options) -> Reading | None:
    """Two texts; the second has token type 1, if the model has token types.

    If they do not fit, the longer one is truncated, then both equally, as in transformers.
    """
    first, second = (
        model.encode_text(part, f"the {which} of {name}", special=options.special)
        for part, which in zip(pair, ("first", "second"), strict=True)
    )
    if len({isinstance(part, str) for part in pair}) > 1:
        raise TypeError(
            f"{name} is a pair of a string and of token ids: give both as strings, or both as ids"
        )
    before: Sequence[int] = ()
    between: Sequence[int] = ()
    after: Sequence[int] = ()
    if isinstance(pair[0], str):
        before, between, after = model.tokenizer.prefix, model.tokenizer.between, model.tokenizer.suffix
    n, m = len(first), len(second)
    around, n_ctx = len(before) + len(between) + len(after), model.config.n_ctx
    if n + m + around == 0:
        return None
    room = _room(options.max_tokens or n_ctx, around)
    truncated = n + m > room
    if truncated and options.max_tokens is None:
        raise _too_long(name, n + m + around, n_ctx, options)
    if truncated:
        kept = min(n, m, room // 2)
        n, m = (kept, room - kept) if n <= m else (room - kept, kept)
    ids = np.array([*before, *first[:n], *between, *second[:m], *after], np.int32)
    types = np.zeros(len(ids), np.int32)
    if model.config.n_types > 1:
        types[len(before) + n + len(between) :] = 1
    return Reading(ids, slice(len(before), len(before) + n), None, truncated, types)


def _too_long(name: str, n_tokens: int, n_ctx: int, options: Options) -> ContextLengthError:
    return ContextLengthError(
        f"{name} has {counted(n_tokens, 'token')}, but the model has {n_ctx} positions: "
        f"{options.cutting.format(n_ctx)}; or split the text"
    )


def check_room(model: LoadedModel, options: Options) -> None:
    """Raise ValueError if the tokens around strings leave no room for the text."""
    _room(options.max_tokens or model.config.n_ctx, len(model.tokenizer.prefix) + len(model.tokenizer.suffix))


def _room(most: int, around: int) -> int:
    """The number of tokens that a text itself may have."""
    if most <= around:
        raise ValueError(
            f"the tokenizer puts {counted(around, 'token')} around a text, which leaves none for the text: "
            f"max_tokens (--max-tokens) must be at least {around + 1}"
        )
    return most - around


def hidden_rows(
    model: LoadedModel,
    readings: Iterable[Reading],
    wanted: Callable[[Reading], np.ndarray],
    deadline: Deadline | None = None,
) -> Iterator[tuple[Reading, np.ndarray]]:
    """The last hidden states of the ``wanted`` rows of texts, in order: float32 [rows, n_embd] of each.

    Neighbours share a call of the engine. Errors come after earlier results.
    """
    new = ((reading, model.new_cache(len(reading.ids))) for reading in readings)
    for batch in within_bounds(new, lambda item: (len(item[0].ids), item[1].nbytes)):
        some = [reading for reading, _ in batch]
        rows = [wanted(reading) for reading in some]
        typed = model.config.n_types > 0
        sequences = ((cache, reading.ids, reading.types if typed else None) for reading, cache in batch)
        found = _engine.hidden(model.weights, [*sequences], rows, threads=model.threads, deadline=deadline)
        batch.clear()  # free the caches while the caller uses the results
        ends = np.cumsum([len(which) for which in rows])[:-1]
        yield from zip(some, np.split(found, ends), strict=True)
