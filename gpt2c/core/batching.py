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
"""Tokens in one call of the engine, unless a single text has more."""

TEXTS_AT_ONCE = 64

MOST_EMPTY = 1024
"""Consecutive table rows without a text that wait for the texts before them."""

CACHE_BYTES = 2**30
"""For the caches of the texts computed together, unless a single one takes more."""


def within_bounds(items: Iterable[Item], measure: Callable[[Item], tuple[int, int]]) -> Iterator[list[Item]]:
    """Neighbours that share a call: ``ROWS_PER_CALL`` rows and ``CACHE_BYTES`` at most, or one item.

    ``measure`` returns the rows and the bytes of an item. If taking the next item fails, the items before it
    are yielded first. The caller may clear a list, so that its caches do not live on while the next is made.
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
    """Items in lists; a new list starts with each item that does not fit the ones before it.

    If taking the next item fails, the items before it are yielded first.
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
    """Neighbouring texts that share a call of the engine: at most ``ROWS_PER_CALL`` tokens, or one text."""
    begin = rows = 0
    for index, length in enumerate(lengths):
        if rows + length > ROWS_PER_CALL and index > begin:
            yield slice(begin, index)
            begin, rows = index, 0
        rows += length
    yield slice(begin, len(lengths))
