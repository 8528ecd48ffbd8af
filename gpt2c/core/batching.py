"""How much goes through the engine at once: enough to be efficient, and never more than fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

__all__ = [
    "CACHE_BYTES",
    "MOST_EMPTY",
    "ROWS_PER_CALL",
    "TEXTS_AT_ONCE",
    "calls_of",
    "neighbours",
    "within_bounds",
]

Item = TypeVar("Item")

ROWS_PER_CALL = 2048
"""Tokens in one call of the engine, unless one text alone has more."""

TEXTS_AT_ONCE = 64

MOST_EMPTY = 1024
"""Rows of a table without a text, one after the other, that wait for the texts before them."""

CACHE_BYTES = 2**30
"""For the caches of the texts that are computed together, unless one alone takes more."""


def within_bounds(items: Iterable[Item], measure: Callable[[Item], tuple[int, int]]) -> Iterator[list[Item]]:
    """Neighbours that share a call: ``ROWS_PER_CALL`` rows and ``CACHE_BYTES`` at most, or one item.

    ``measure`` tells the rows and the bytes of an item. An error in taking the next one comes after those
    before it. Who takes a list may clear it, so that its caches do not live on while the next is made.
    """
    rows = size = 0

    def fits(item: Item) -> bool:
        nonlocal rows, size
        more_rows, more_size = measure(item)
        if rows + more_rows > ROWS_PER_CALL or size + more_size > CACHE_BYTES:
            rows, size = more_rows, more_size
            return False
        rows, size = rows + more_rows, size + more_size
        return True

    return neighbours(items, fits)


def neighbours(items: Iterable[Item], fits: Callable[[Item], bool]) -> Iterator[list[Item]]:
    """Items in lists, of which each begins with one that does not fit to those before it.

    An error in taking the next item comes after those before it.
    """
    batch: list[Item] = []
    try:
        for item in items:
            if not fits(item) and batch:
                yield batch
                batch = []
            batch.append(item)
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def calls_of(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbouring texts that share a call of the engine: ``ROWS_PER_CALL`` tokens at most, or one text."""
    begin = rows = 0
    for index, length in enumerate(lengths):
        if rows + length > ROWS_PER_CALL and index > begin:
            yield slice(begin, index)
            begin, rows = index, 0
        rows += length
    yield slice(begin, len(lengths))
