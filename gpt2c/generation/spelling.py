"""The tokens of a vocabulary by their bytes: which ones match the start of a text, and where words end."""

from __future__ import annotations

import codecs
import unicodedata
from bisect import bisect_left
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..tokenizer.base import Tokenizer

__all__ = ["Spelling", "drops_space", "end_of_word", "is_word", "n_characters", "spelling_of", "split_last"]

# By the tokenizer and the number of its tokens that a model has.
_known: WeakKeyDictionary[Tokenizer, dict[int, Spelling]] = WeakKeyDictionary()

APOSTROPHES = "'\u2019"

_LONGEST = 24  # tokens of a word that may be spelled differently: their joint probability is a float64


class Spelling:
    """The bytes of the tokens that a model may generate as text, in byte order.

    Attributes
    ----------
    ids : int32 array [n]
    pieces : list of bytes
        The bytes of ``ids``. Special tokens and those without bytes are left out.
    bytes : list of bytes [n_text_tokens]
        The bytes that each token adds after others; empty for those left out.
    in_word, in_marks : float32 array [n_text_tokens]
        1 for tokens that continue a word, or a run of punctuation marks; else 0.
    """

    def __init__(self, tokenizer: Tokenizer, n_text: int) -> None:
        special = set(tokenizer.special_tokens.values())
        # A special token is not part of a word.
        self.bytes = [b"" if token in special else tokenizer.bytes_inside(token) for token in range(n_text)]
        pairs = sorted((data, token) for token, data in enumerate(self.bytes) if data)
        self.pieces = [piece for piece, _ in pairs]
        self.ids = np.array([token for _, token in pairs], np.int32)
        self.in_word, self.in_marks = np.zeros((2, n_text), np.float32)
        for piece, token in pairs:
            text = piece[:8].decode("utf-8", "replace")
            self.in_word[token] = end_of_word("a" + text, 1) != 1
            self.in_marks[token] = (
                end_of_word("." + text, 1) != 1 and not text[0].isspace() and not is_word(text[0])
            )

    @property
    def has_spaces(self) -> bool:
        """Whether there are tokens that start with a space."""
        found = self.beginning_with(b" ")
        return found.start < found.stop

    def beginning_with(self, data: bytes) -> slice:
        """Those of ``ids`` that start with these bytes."""
        begin = bisect_left(self.pieces, data)
        after = data.rstrip(b"\xff")
        if not after:
            return slice(begin, len(self.pieces))
        after = after[:-1] + bytes([after[-1] + 1])
        return slice(begin, bisect_left(self.pieces, after, begin))

    def inside(self, data: bytes) -> list[tuple[int, int]]:
        """The tokens that are a proper prefix of these bytes: ids and numbers of bytes."""
        found = []
        for n in range(1, len(data)):
            at = bisect_left(self.pieces, data[:n])
            while at < len(self.pieces) and self.pieces[at] == data[:n]:
                found.append((int(self.ids[at]), n))
                at += 1
        return found


def spelling_of(model: LoadedModel) -> Spelling:
    """The spelling of a model's tokenizer, computed once."""
    found = _known.setdefault(model.tokenizer, {})
    if model.n_text_tokens not in found:
        found[model.n_text_tokens] = Spelling(model.tokenizer, model.n_text_tokens)
    return found[model.n_text_tokens]


def split_last(model: LoadedModel, ids: np.ndarray, text: str = "") -> tuple[int, bytes]:
    """The start of the text's last unit, which may still change: a word, a number, marks, white space.

    Parameters
    ----------
    model : LoadedModel
    ids : int32 array
    text : str
        The original text, if known: some tokenizers drop white space at its end.

    Returns
    -------
    (int, bytes)
        The number of tokens before it, and the bytes of the others.
    """
    spelling = spelling_of(model)
    last: list[bytes] = []
    for token in reversed(ids[-_LONGEST:].tolist()):
        if token >= len(spelling.bytes) or not spelling.bytes[token]:
            break
        last.append(spelling.bytes[token])
    pieces = last[::-1]
    if text[-1:].isspace() and not (last and last[0][-1:].isspace()) and spelling.has_spaces:
        return len(ids), b" "  # represents the text's white space, whatever it is
    end = b"".join(pieces).decode("utf-8", "surrogateescape")
    size = len(end[_begin_of_last(end) :].encode("utf-8", "surrogateescape"))
    at = len(pieces)
    # A token that starts inside a character does not start a word.
    while at > 0 and (size > 0 or (at < len(pieces) and _is_inside(pieces[at]))):
        at -= 1
        size -= len(pieces[at])
    while at < len(pieces) and _is_inside(pieces[at]):
        at += 1
    return len(ids) - len(pieces) + at, b"".join(pieces[at:])


def _begin_of_last(text: str) -> int:
    """The start of the last piece of a text that GPT-2's tokenizer keeps together.

    Letters, digits, other characters, each with a space before it, or white space. Marks on letters and
    contractions are kept with them here, which costs time but never changes a result.
    """

    def is_apostrophe(at: int) -> bool:
        return text[at] in APOSTROPHES and at > 0 and _kind(text[at - 1]) == "letter"

    at = len(text)
    if at == 0:
        return 0
    kind = "letter" if is_apostrophe(at - 1) else _kind(text[-1])
    while at > 0 and (_kind(text[at - 1]) == kind or (kind == "letter" and is_apostrophe(at - 1))):
        at -= 1
    return at - 1 if kind != "space" and text[at - 1 : at] == " " else at


def drops_space(model: LoadedModel, ids: np.ndarray) -> bool:
    """Whether after these tokens, as at the start of a text, decoding drops a space of the next one."""
    spelling = spelling_of(model)
    if not spelling.has_spaces:
        return False
    token = int(spelling.ids[spelling.beginning_with(b" ")][0])
    return not model.tokenizer.decoder(ids).alone(token)[:1].isspace()


def n_characters(data: bytes) -> int:
    """The number of characters in bytes, without an incomplete one at the end."""
    return len(codecs.utf_8_decode(data, "replace", False)[0])


def end_of_word(text: str, begin: int) -> int | None:
    """The end of the word at or after ``text[:begin]``; None: it may continue after the text.

    A word is a run of letters, digits, marks on them and ``_``, with apostrophes between them; or, where none
    follows, a run of punctuation marks. White space before it belongs to it.
    """
    at, end = begin, len(text)
    if begin == 0 or not is_word(text[begin - 1]):
        while at < end and text[at].isspace():
            at += 1
        if at < end and not is_word(text[at]):
            while at < end and not text[at].isspace() and not is_word(text[at]):
                at += 1
            return at if at < end else None
        if at == end:
            return None
    while at < end:
        if not is_word(text[at]):
            apostrophe = text[at] in APOSTROPHES and at > 0 and is_word(text[at - 1])
            if not apostrophe or (at + 1 < end and not is_word(text[at + 1])):
                return at
        at += 1
    return None


def _is_inside(piece: bytes) -> bool:
    """Whether the bytes start inside a character."""
    return 0x80 <= piece[0] < 0xC0 if piece else False


def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    if character.isdecimal():
        return "digit"
    # A surrogate is a byte of an incomplete character.
    is_letter = character != "_" and (is_word(character) or "\ud800" <= character <= "\udfff")
    return "letter" if is_letter else "other"


def is_word(character: str) -> bool:
    """Whether it is always part of a word: a letter, a digit, a mark on one, or ``_``."""
    # U+FFFD represents an incomplete character.
    return character.isalnum() or character in "_\ufffd" or unicodedata.category(character)[0] == "M"
