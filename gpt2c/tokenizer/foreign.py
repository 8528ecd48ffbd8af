"""Tokenizers of other libraries behind gpt2c's interface; see `gpt2c.tokenizer.load.as_tokenizer`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import TokenizerError
from .base import StreamDecoder, Tokenizer, check_text, id_list

__all__ = ["ForeignTokenizer"]

_UNKNOWN_SIZE = 2**31 - 1


class ForeignTokenizer(Tokenizer):
    """Any object with ``encode`` and ``decode``.

    The bytes of a token come from the library if it has them (tiktoken). Otherwise they are those of the text
    that ``decode`` returns for the token alone, in which a part of a character is U+FFFD.

    Parameters
    ----------
    obj, name, n_vocab
        See `gpt2c.tokenizer.load.as_tokenizer`.
    description : dict, optional
        The tokenizer.json that the object was made from: what a packed file holds of it.
    """

    def __init__(
        self,
        obj: Any,
        *,
        name: str | None = None,
        n_vocab: int | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        for method in ("encode", "decode"):
            if not callable(getattr(obj, method, None)):
                raise TypeError(
                    f"a tokenizer needs the methods encode and decode; {type(obj).__name__} has no {method}"
                )
        library = _library(obj)
        if library == "tokenizers":
            # A copy, because encode sets its switch for special tokens.
            obj = copy.deepcopy(obj)
        self._object = obj
        self._library = library
        self._lock = threading.Lock()
        self._limit = n_vocab
        self._description = description
        self.name = name or f"{type(obj).__module__}.{type(obj).__qualname__}"
        self.kind = f"tokenizer run by {library}" if library else "tokenizer object"
        self.n_vocab = _size(obj) or n_vocab or _UNKNOWN_SIZE
        self.special_tokens = _special_tokens(obj, library)

    def packed(self) -> dict[str, Any] | None:
        return None if self._description is None else {"tokenizers": self._description}

    packed.__doc__ = Tokenizer.packed.__doc__

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        check_text(text)
        obj = self._object
        if self._library == "tiktoken":
            found = obj.encode(text, allowed_special="all") if allow_special else obj.encode_ordinary(text)
        elif self._library == "transformers":
            found = obj.encode(text, split_special_tokens=not allow_special)
        elif self._library == "tokenizers":
            with self._lock:
                obj.encode_special_tokens = not allow_special
                found = obj.encode(text)
        else:
            found = obj.encode(text)
        ids = id_list(getattr(found, "ids", found))
        if self._limit is not None and ids and not 0 <= min(ids) <= max(ids) < self._limit:
            raise TokenizerError(
                f"the tokenizer {self.name} gave ids from {min(ids)} to {max(ids)}, but the model's are 0 to "
                f"{self._limit - 1}: they do not belong together"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        ids = id_list(ids)
        if self._library == "tiktoken":
            return super().decode(ids)
        if self._library in ("tokenizers", "transformers"):
            text = self._object.decode(ids, skip_special_tokens=False)
        else:
            text = self._object.decode(ids)
        if not isinstance(text, str):
            raise TypeError(f"decode of the tokenizer {self.name} must give a str, not {type(text).__name__}")
        return text

    def token_bytes(self, token_id: int) -> bytes:
        if self._library != "tiktoken":
            return self.decode([token_id]).encode("utf-8", "replace")
        try:
            return self._object.decode_single_token_bytes(token_id)
        except KeyError:
            if 0 <= token_id < (self._limit or self.n_vocab):
                return b""
            raise ValueError(f"token id {token_id} is not in the vocabulary of {self.name}") from None

    def decoder(self) -> StreamDecoder:
        return StreamDecoder(self.token_bytes) if self._library == "tiktoken" else _WindowDecoder(self.decode)

    def offsets(self, text: str, ids: Iterable[int]) -> list[tuple[int, int]] | None:
        if self._library == "tiktoken":
            return super().offsets(text, ids)
        spans: list[tuple[int, int]] = []
        decoder, done, waiting = _WindowDecoder(self.decode), "", 0
        ids = id_list(ids)
        for token in [*ids, None]:
            piece = decoder.flush() if token is None else decoder.push(token)
            waiting += token is not None
            if piece or token is None:
                spans += [(len(done), len(done + piece))] * waiting
                done, waiting = done + piece, 0
        return spans if done == text else None


class _WindowDecoder(StreamDecoder):
    """A stream decoder for tokenizers without token bytes: decodes the last tokens with the next one.

    Text that ends with U+FFFD is held back, since it may be the first part of a character. The tokens shown
    last stay before the new ones, because many tokenizers decode the first token of a text differently.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._before: list[int] = []
        self._new: list[int] = []

    def push(self, token_id: int) -> str:
        self._new.append(token_id)
        text = self._decode([*self._before, *self._new])
        return "" if text.endswith("\ufffd") else self._show(text)

    def flush(self) -> str:
        piece = self._show(self._decode([*self._before, *self._new])) if self._new else ""
        self._before = []
        return piece

    def _show(self, text: str) -> str:
        piece = text[len(self._decode(self._before)) :] if self._before else text
        self._before, self._new = self._new, []
        return piece


def _library(obj: Any) -> str:
    """The library that the object's class, or one it is derived from, comes from; "" if unknown."""
    names = [cls.__module__.partition(".")[0] for cls in type(obj).__mro__]
    return next((name for name in names if name in ("tiktoken", "tokenizers", "transformers")), "")


def _size(obj: Any) -> int | None:
    """The number of token ids, if the object reports it."""
    for ask in (lambda: obj.get_vocab_size(), lambda: len(obj), lambda: obj.n_vocab, lambda: obj.vocab_size):
        try:
            size = ask()
        except (AttributeError, TypeError):
            continue
        if type(size) is int and size > 0:
            return size
    return None


def _special_tokens(obj: Any, library: str) -> dict[str, int]:
    if library == "transformers":
        return dict(zip(obj.all_special_tokens, obj.all_special_ids, strict=True))
    if library == "tokenizers":
        return {
            token.content: index for index, token in obj.get_added_tokens_decoder().items() if token.special
        }
    if library == "tiktoken":
        return {token: obj.encode_single_token(token) for token in obj.special_tokens_set}
    return {}
