"""The interface of gpt2c's tokenizers; see `gpt2c.tokenizer.load`."""

from __future__ import annotations

import codecs
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import TokenizerError, shown

__all__ = ["StreamDecoder", "Tokenizer", "check_text", "id_list"]


class Tokenizer:
    """Turns text into token ids and back.

    Attributes
    ----------
    name : str
        Its source, for display.
    kind : str
        What it is and which library runs it, for display.
    n_vocab : int
        Number of token ids, special ones included; 2**31 - 1 for a wrapped object that does not report it.
    special_tokens : dict of str to int
        The tokens with a meaning beyond their text, such as ``<|endoftext|>``, and their ids.
    """

    name: str
    kind: str
    n_vocab: int
    special_tokens: dict[str, int]
    _prefix: tuple[int, ...] = ()  # what encode() puts before every text

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Turn a text into token ids.

        Parameters
        ----------
        text : str
            Any text; an empty one has no tokens. Lone surrogates are refused: they are not Unicode text.
        allow_special : bool, default False
            Whether ``<|endoftext|>`` and other special tokens are recognised in the text. By default they
            are ordinary text, so that a text cannot inject them.

        Returns
        -------
        list of int
            If the model's files ask for tokens before every text (``add_bos_token``), they are included.

        Raises
        ------
        TypeError
            ``text`` is not a str.
        TokenizerError
            The text cannot be encoded, or it needs a token that the model does not have.
        """
        raise NotImplementedError

    def without_prefix(self, ids: list[int]) -> list[int]:
        """``ids``, which `encode` gave for a text, without the tokens that it puts before every text."""
        before = self.encode("")
        return ids[len(before) :] if ids[: len(before)] == before else ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; perhaps a part of a UTF-8 character. Empty for an id without a token.

        Raises
        ------
        ValueError
            The id is outside the model's vocabulary.
        """
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids (list, tuple, one-dimensional array). What is not UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, id_list(ids))).decode("utf-8", "replace")

    def decoder(self) -> StreamDecoder:
        """A new decoder for one text that arrives token by token."""
        return StreamDecoder(self.token_bytes)

    def offsets(self, text: str, ids: Iterable[int]) -> list[tuple[int, int]] | None:
        """Where the tokens of a text stand in it.

        Parameters
        ----------
        text : str
        ids : iterable of int
            Its tokens: ``encode(text)``, or any ids with ``decode(ids) == text``.

        Returns
        -------
        list of (start, end), or None
            ``text[start:end]`` is the smallest piece of the text, in whole characters, that holds the token's
            bytes: tokens that share a character overlap there. A token without text, such as one that the
            tokenizer puts before every text, has ``start == end``. None where it is not known: a wrapped
            object that changes the text.

        Raises
        ------
        ValueError
            The ids do not spell the text.
        """
        ids = id_list(ids)
        pieces = [self.token_bytes(token) for token in ids]
        data = b"".join(pieces)
        n_prefix = len(self._prefix)
        if data.decode("utf-8", "replace") != text and tuple(ids[:n_prefix]) == self._prefix:
            pieces[:n_prefix] = [b""] * n_prefix
            data = b"".join(pieces)
        if data.decode("utf-8", "replace") != text:
            raise ValueError(
                "these token ids do not spell this text: give the ids encode(text), or the text decode(ids)"
            )
        sizes = np.array([len(piece) for piece in pieces], np.int64)
        ends = np.cumsum(sizes)
        begun = np.concatenate([[0], np.cumsum(_begins_character(data))])  # characters begun before byte i
        stops = begun[ends]
        starts = np.where(sizes > 0, begun[np.minimum(ends - sizes + 1, len(data))] - 1, stops)
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    def packed(self) -> dict[str, Any] | None:
        """The input of `gpt2c.tokenizer.load.unpack`, for JSON; None if the tokenizer cannot be saved."""
        return None

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.name}>"


class StreamDecoder:
    """Text from tokens that arrive one by one; never half a character.

    What `push` and `flush` return, joined, is exactly ``tokenizer.decode`` of all the tokens (wrapped objects
    that decode a token differently next to others, as some do with spaces, may differ there).
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that it completes, often all of its own."""
        return self._utf8.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """End the text; returns U+FFFD if it ends inside a character. A new text may begin after this."""
        return self._utf8.decode(b"", True)


def check_text(text: Any) -> None:
    """Raise unless ``text`` is a str of Unicode characters."""
    if not isinstance(text, str):
        is_bytes = isinstance(text, bytes | bytearray | memoryview)
        hint = "; decode bytes first: data.decode('utf-8')" if is_bytes else ""
        raise TypeError(f"a text must be a str, not {type(text).__name__}{hint}")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}: "
            "it is not Unicode; read it as UTF-8, or use text.encode('utf-8', 'replace').decode('utf-8')"
        ) from None


def id_list(ids: Any) -> list[int]:
    """Token ids as a list of int, from a list, tuple, range or one-dimensional array."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        if isinstance(values, str | bytes):
            raise TypeError
        return [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(
            f"token ids must be a flat list or array of whole numbers, not {shown(ids)}"
        ) from None


def _begins_character(data: bytes) -> np.ndarray:
    """Where ``data.decode("utf-8", "replace")`` has the first byte of a character; bool [len(data)]."""
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    view, at = memoryview(data), 0
    while True:
        try:
            codecs.utf_8_decode(view[at:], "strict", True)
            return begins
        except UnicodeDecodeError as error:  # one U+FFFD for all of these bytes
            begins[at + error.start : at + error.end] = False
            begins[at + error.start] = True
            at += error.end
