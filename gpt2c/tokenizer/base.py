"""The interface of gpt2c's tokenizers; see `gpt2c.tokenizer.load`."""

from __future__ import annotations

import codecs
import mmap
import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TokenizerError, counted, shown

__all__ = [
    "StreamDecoder",
    "Tokenizer",
    "can_reserve",
    "check_id",
    "check_known",
    "check_memory",
    "check_size",
    "check_text",
    "id_list",
    "is_failure",
]


class Tokenizer:
    """Turns text into token ids and back.

    Attributes
    ----------
    name : str
        Its source, for display.
    kind : str
        What it is and which library runs it, for display.
    n_vocab : int
        The largest token id + 1, special tokens included (smaller ids may be missing); 2**31 - 1 for a
        wrapped object that does not report it.
    special_tokens : dict of str to int
        The tokens with a meaning beyond their text, such as ``<|endoftext|>``, and their ids.
    prefix, suffix : tuple of int
        The ids that the model's files put before and after a whole text (``add_bos_token``, a
        post-processor). `encode` returns neither: prompts and scored texts start with the prefix, and the
        suffix, which would end a text that is to be continued, is left out.
    bos_token_id, eos_token_id : int or None
        The special tokens that the tokenizer's files, or the wrapped object, name as the beginning and the
        end of a text.
    mask_id : int or None
        The mask token, if named: it marks a token for a BERT to predict.
    chat_template : str or None
        The Jinja template that writes a dialogue as one text, from the tokenizer's files.
    source : Path or None
        The directory, or the file, that it was read from.
    takes_bos : bool
        Whether the setting ``add_bos_token`` would put the bos token before every text: beside vocab.json and
        merges.txt it does; beside a tokenizer.json it has no effect.
    """

    name: str
    kind: str
    n_vocab: int
    special_tokens: dict[str, int]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    mask_id: int | None = None
    takes_bos: bool = False
    chat_template: str | None = None
    source: Path | None = None

    @property
    def between(self) -> tuple[int, ...]:
        """The ids between the two texts of a pair: the suffix; in RoBERTa's family ``</s>`` twice."""
        doubled = self.special_tokens.get("</s>") in self.suffix
        return self.suffix * (1 + doubled)

    def encode(self, text: str, special: bool = False, *, continued: bool = False) -> list[int]:
        """Turn a text into token ids, without the `prefix` and the `suffix`.

        Parameters
        ----------
        text : str
            Any text; an empty one has no tokens. Lone surrogates are refused: they are not Unicode text.
        special : bool, default False
            Whether ``<|endoftext|>`` and other special tokens are recognized in the text. By default they
            are ordinary text, so that a text cannot inject them.
        continued : bool, default False
            Whether the text continues another one: then no space is put before it, as some tokenizers do
            with a whole text.

        Raises
        ------
        TypeError
            ``text`` is not a str.
        TokenizerError
            The text cannot be encoded, or needs a token that the model lacks.
        """
        raise NotImplementedError

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, possibly part of a UTF-8 character. Empty for an id without a token.

        Raises
        ------
        ValueError
            The id is outside the model's vocabulary.
        """
        raise NotImplementedError

    def bytes_inside(self, token_id: int) -> bytes:
        """The bytes that a token adds after others, including a space that decoding puts before it.

        Empty for an id without a token, and for the unknown token.

        Raises
        ------
        TokenizerError
            These bytes are unknown or depend on the neighbouring tokens: words cannot be completed.
        """
        return self.token_bytes(token_id)

    def begins_word(self, token_id: int) -> bool:
        """Whether a token starts a word: with white space, or by the rules of the vocabulary."""
        return self.token_bytes(token_id).decode("utf-8", "replace")[:1].isspace()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids (list, tuple, one-dimensional array). Invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, id_list(ids))).decode("utf-8", "replace")

    def decoder(self, before: Iterable[int] = ()) -> StreamDecoder:
        """A new decoder for a text that arrives token by token, after the token ids ``before``."""
        return StreamDecoder(self.token_bytes, id_list(before))

    def offsets(
        self, text: str, ids: Iterable[int], *, special: bool = False
    ) -> list[tuple[int, int]] | None:
        """The position of each token in a text.

        Parameters
        ----------
        text : str
        ids : iterable of int
            Its tokens: ``encode(text)``, the first few of these, or any ids with ``decode(ids) == text``.
        special : bool, default False
            Whether special tokens were recognized in the text.

        Returns
        -------
        list of (start, end), or None
            ``text[start:end]`` is the shortest piece of the text, in whole characters, that contains the
            token's bytes: tokens that share a character overlap. None if the positions are unknown: the ids
            do not spell the text, or a wrapped object changes it.
        """
        pieces = self._pieces(text, id_list(ids), special)
        data = b"".join(pieces)
        if not _spells(data, text):
            return None
        sizes = np.array([len(piece) for piece in pieces], np.int64)
        ends = np.cumsum(sizes)
        begun = np.concatenate([[0], np.cumsum(_begins_character(data))])  # characters begun before byte i
        stops = begun[ends]
        starts = np.where(sizes > 0, begun[np.minimum(ends - sizes + 1, len(data))] - 1, stops)
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    def _pieces(self, text: str, ids: list[int], special: bool) -> list[bytes]:
        """The bytes of a text that its tokens stand for."""
        return [self.token_bytes(token) for token in ids]

    def packed(self) -> dict[str, Any] | None:
        """The input of `gpt2c.tokenizer.load.unpack`, for JSON; None if the tokenizer cannot be saved."""
        found = self._packed_vocabulary()
        for name in ("mask_id", "chat_template"):
            if found is not None and getattr(self, name) is not None:
                found[name] = getattr(self, name)
        return found

    def _packed_vocabulary(self) -> dict[str, Any] | None:
        """`packed` without the mask and the chat template."""
        return None

    def described(self) -> dict[str, Any] | None:
        """The content of an equivalent tokenizer.json; None if none can exist."""
        return None

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.name}>"


class StreamDecoder:
    """Text from tokens that arrive one by one; never half a character.

    What `push` and `flush` return, joined, is what the tokens add to the text before them: all of
    ``tokenizer.decode(before + ids)`` but the first ``len(tokenizer.decode(before))`` characters.

    Parameters
    ----------
    token_bytes : function of a token id
    before : list of int
        The tokens before the text.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], before: Sequence[int] = ()) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        data, at = b"", len(before)
        while at and len(data) < 3:  # an incomplete character has no more bytes
            at -= 1
            data = token_bytes(before[at]) + data
        self._utf8.decode(data)
        # A character left incomplete in them counts as one U+FFFD.
        self._shown = len(self._utf8.getstate()[0].decode("utf-8", "replace"))

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that it completes, usually its own."""
        return self._new(self._utf8.decode(self._token_bytes(token_id)))

    def flush(self) -> str:
        """End the text; returns U+FFFD if it ends inside a character. A new text may start after this."""
        return self._new(self._utf8.decode(b"", True))

    def alone(self, token_id: int) -> str:
        """The text that a token would add if the text ended with it; the state does not change."""
        data = self._utf8.getstate()[0] + self._token_bytes(token_id)
        return data.decode("utf-8", "replace")[self._shown :]

    def _new(self, text: str) -> str:
        piece = text[self._shown :]
        self._shown -= len(text) - len(piece)
        return piece


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


def can_reserve(size: int) -> bool:
    """Whether a library that is written in Rust, which ends the process without, can have this many bytes.

    They are reserved and given back, which guarantees nothing while other threads allocate.
    """
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True


def check_memory(text: str, per_byte: int, before: int = 1 << 20) -> None:
    """Raise MemoryError unless a library can have ``per_byte`` bytes for each of a text, and ``before``."""
    size = before + len(text) * (1 if text.isascii() else 4) * per_byte
    if not can_reserve(size):
        raise MemoryError(
            f"tokenizing {counted(len(text), 'character')} can take {-(-size >> 20):,} MiB, which the system "
            "does not give: split the text, or raise the limit"
        )


def check_size(name: str, n_vocab: int, n_ids: int) -> None:
    """Raise unless a vocabulary of ``n_vocab`` ids, added tokens aside, can be that of a model of ``n_ids``.

    Some models lack rows for a few tokens of the vocabulary, or for tokens added to it, by its files or by
    the tokenizer's class: such a token is refused when a text needs it (`check_id`).
    """
    if n_vocab > n_ids and 20 * (n_vocab - n_ids) > n_vocab:
        raise TokenizerError(
            f"{name}: this vocabulary has ids up to {n_vocab - 1}, but the model's end at {n_ids - 1}: the "
            "tokenizer files belong to another model"
        )


def check_id(index: int, text: str, n_ids: int) -> None:
    """Raise if the model lacks the id of a token that a text needs."""
    if index >= n_ids:
        raise TokenizerError(
            f"the token {shown(text)} has the id {index}, but the model's end at {n_ids - 1}: its embedding "
            "was not resized when the token was added"
        )


def is_failure(error: BaseException) -> bool:
    """Whether a library failed rather than being interrupted: Rust's PanicException is not an Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def check_known(token_id: int, n_ids: int) -> None:
    """Raise unless an id is one of 0 to ``n_ids`` - 1."""
    if not 0 <= token_id < n_ids:
        raise ValueError(f"token id {token_id} is outside the vocabulary: 0 to {n_ids - 1} are allowed")


def id_list(ids: Any) -> list[int]:
    """Token ids as a list of int, from a list, tuple, range or one-dimensional array."""
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    try:
        if isinstance(values, str | bytes):
            raise TypeError
        return [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(f"token ids must be a flat list or array of integers, not {shown(ids)}") from None


def _spells(data: bytes, text: str) -> bool:
    """Whether the bytes are a prefix of the text's, which may end inside a character."""
    return data.decode("utf-8", "replace") == text or text.encode("utf-8").startswith(data)


def _begins_character(data: bytes) -> np.ndarray:
    """Whether a byte starts a character of ``data.decode("utf-8", "replace")``; bool [len(data)]."""
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
