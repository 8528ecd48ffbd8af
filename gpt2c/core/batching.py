"""How much goes through the engine at once: enough to be efficient, and never more than fits in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["CACHE_BYTES", "MOST_EMPTY", "ROWS_PER_CALL", "TEXTS_AT_ONCE", "calls_of"]

ROWS_PER_CALL = 2048
"""Tokens in one call of the engine, unless one text alone has more."""

TEXTS_AT_ONCE = 64

MOST_EMPTY = 1024
"""Rows of a table without a text, one after the other, that wait for the texts before them."""

CACHE_BYTES = 2**30
"""For the caches of the texts that are computed together, unless one alone takes more."""


def calls_of(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbouring texts that share a call of the engine: ``ROWS_PER_CALL`` tokens at most, or one text."""
    begin = rows = 0
    for index, length in enumerate(lengths):
        if rows + length > ROWS_PER_CALL and index > begin:
            yield slice(begin, index)
            begin, rows = index, 0
        rows += length
    yield slice(begin, len(lengths))
