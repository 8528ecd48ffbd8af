"""The size of the text of scored tokens."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["extent"]

_Offsets = list[tuple[int, int]]


def extent(
    model: LoadedModel, text: str | None, ids: np.ndarray, offsets: _Offsets | None, first: int = 0
) -> tuple[_Offsets | None, int | None, int | None]:
    """Character offsets of the scored tokens, and their number of bytes and of characters.

    Parameters
    ----------
    model : LoadedModel
    text : str or None
        None if token ids were given.
    ids : np.ndarray
        Its tokens.
    offsets : list of (int, int), or None
        The positions of these in the text.
    first : int
        The index of the first scored token.
    """
    if not model.has_tokenizer:
        return None, None, None
    pieces = [model.tokenizer.token_bytes(token) for token in ids.tolist()]
    if text is None:
        data = b"".join(pieces[first:])
        return None, len(data), len(data.decode("utf-8", "replace"))
    if offsets is not None and first:
        end = max(end for _, end in offsets[:first])
        text, offsets = text[min(end, offsets[first][0]) :], offsets[first:]
    elif first:  # a wrapped tokenizer that changes the text
        return None, None, None
    # The scored tokens may start, and a truncated text may end, inside a character.
    n_bytes = len(text.encode("utf-8")) - _begun_character(b"".join(pieces[:first]))
    begun = _begun_character(b"".join(pieces))
    if begun:
        n_bytes -= len(text[-1].encode("utf-8")) - begun
    return offsets, n_bytes, len(text)


def _begun_character(data: bytes) -> int:
    """The number of bytes of an incomplete character at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-4:])
    return len(decoder.getstate()[0])
