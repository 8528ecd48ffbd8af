"""Tokenizers of other libraries behind gpt2c's interface; see `gpt2c.tokenizer.load.as_tokenizer`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from ..errors import TokenizerError, shown
from .base import StreamDecoder, Tokenizer, check_text, id_list
from .chat_template import default_template
from .window import WindowDecoder, window_offsets

__all__ = ["ForeignTokenizer", "wrap"]

_UNKNOWN_SIZE = 2**31 - 1

# Overridden by classes of transformers that do more to a text than their pipeline does.
_DOING = {
    "__call__",
    "encode",
    "decode",
    "_encode_plus",
    "_batch_encode_plus",
    "_decode",
    "tokenize",
    "_tokenize",
}
# In these classes they belong to the library itself, or only check an option.
_PLAIN = {"PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerBase", "GPT2TokenizerFast"}
_PLAIN |= {"RobertaTokenizerFast", "SpecialTokensMixin", "PushToHubMixin", "object"}


def wrap(obj: Any, name: str | None, n_vocab: int | None) -> Tokenizer:
    """A tokenizer of another library; the arguments are those of `gpt2c.tokenizer.load.as_tokenizer`."""
    for method in ("encode", "decode"):
        if not callable(getattr(obj, method, None)):
            raise TypeError(
                f"a tokenizer needs the methods encode and decode; {type(obj).__name__} has no {method}"
            )
    library = _library(obj)
    name = name or f"{type(obj).__module__}.{type(obj).__qualname__}"
    if library == "tokenizers":
        found = _copied(obj, name, n_vocab, None)
    elif library == "transformers" and _is_plain(obj):
        found = _copied(obj.backend_tokenizer, name, n_vocab, _special_tokens(obj, library))
    else:
        found = ForeignTokenizer(obj, library, name, n_vocab)
    if library == "transformers":
        found.bos_token_id, found.eos_token_id = obj.bos_token_id, obj.eos_token_id
        found.mask_id = obj.mask_token_id
        found.chat_template = default_template(getattr(obj, "chat_template", None))
    else:  # it names none; this token is both wherever it is special
        found.bos_token_id = found.eos_token_id = found.special_tokens.get("<|endoftext|>")
    return found


def _copied(
    pipeline: Any, name: str, n_vocab: int | None, special_tokens: dict[str, int] | None
) -> Tokenizer:
    """A copy of an object of the tokenizers library, so that its switches can be set."""
    from .huggingface import HuggingFaceTokenizer

    try:
        description = json.loads(pipeline.to_str())
    except Exception as error:  # the library raises no narrower class
        raise TokenizerError(
            f"the tokenizer {name} cannot be copied ({error}): parts of it are written in Python; wrap it in "
            "an object with encode and decode"
        ) from None
    return HuggingFaceTokenizer(description, name=name, n_ids=n_vocab, special_tokens=special_tokens)


class ForeignTokenizer(Tokenizer):
    """Any object with ``encode`` and ``decode``.

    The bytes of a token come from the library if it has them (tiktoken). Otherwise they are the bytes by
    which the text of ``decode`` grows with the token; a part of a character is then U+FFFD.

    Parameters
    ----------
    obj, name, n_vocab
        See `gpt2c.tokenizer.load.as_tokenizer`.
    library : str
        The library it comes from: "tiktoken", "transformers", or "" for any other.
    """

    def __init__(self, obj: Any, library: str, name: str, n_vocab: int | None) -> None:
        self._object = obj
        self._library = library
        self._limit = n_vocab
        self.name = name
        self.kind = f"tokenizer run by {library}" if library else "tokenizer object"
        self.n_vocab = _size(obj) or n_vocab or _UNKNOWN_SIZE
        self.special_tokens = _special_tokens(obj, library)

    @property
    def prefix(self) -> tuple[int, ...]:  # type: ignore[override]
        """The ids that the object puts before a text."""
        return self._around[0]

    @property
    def suffix(self) -> tuple[int, ...]:  # type: ignore[override]
        """The ids that the object puts after a text."""
        return self._around[1]

    def encode(self, text: str, special: bool = False, *, continued: bool = False) -> list[int]:
        check_text(text)
        ids = self._continued(text, special) if continued and text else self._encoded(text, special)
        if self._limit is not None and ids and not 0 <= min(ids) <= max(ids) < self._limit:
            raise TokenizerError(
                f"the tokenizer {self.name} returned ids from {min(ids)} to {max(ids)}, but the model's are "
                f"0 to {self._limit - 1}: they do not belong together"
            )
        return ids

    encode.__doc__ = Tokenizer.encode.__doc__

    def decode(self, ids: Iterable[int]) -> str:
        ids = id_list(ids)
        if self._library == "tiktoken":
            return super().decode(ids)
        how: dict[str, bool] = {}
        if self._library == "transformers":
            how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        try:
            text = self._object.decode(ids, **how)
        except Exception as error:  # such as KeyError, for an unknown id
            raise TokenizerError(
                f"the tokenizer {self.name} cannot decode {shown(ids)}: {error!r}"
            ) from error
        if not isinstance(text, str):
            raise TypeError(
                f"decode of the tokenizer {self.name} must return a str, not {type(text).__name__}"
            )
        return text

    decode.__doc__ = Tokenizer.decode.__doc__

    def token_bytes(self, token_id: int) -> bytes:
        if self._library != "tiktoken":
            once = self.decode([token_id])
            return self.decode([token_id, token_id])[len(once) :].encode("utf-8", "replace")
        try:
            return self._object.decode_single_token_bytes(token_id)
        except KeyError:
            if 0 <= token_id < (self._limit or self.n_vocab):
                return b""
            raise ValueError(f"token id {token_id} is not in the vocabulary of {self.name}") from None

    token_bytes.__doc__ = Tokenizer.token_bytes.__doc__

    def bytes_inside(self, token_id: int) -> bytes:
        data = self.token_bytes(token_id)
        if self._library != "tiktoken" and "\ufffd".encode() in data:
            raise TokenizerError(
                f"the tokenizer {self.name} does not report the bytes of token {token_id}, a part of a "
                "character: words cannot be completed with it; give its files (tokenizer.json, "
                "vocab.json and merges.txt, spiece.model) as the tokenizer"
            )
        return data

    bytes_inside.__doc__ = Tokenizer.bytes_inside.__doc__

    def decoder(self, before: Iterable[int] = ()) -> StreamDecoder:
        if self._library == "tiktoken":
            return super().decoder(before)
        return WindowDecoder(self.decode, id_list(before))

    decoder.__doc__ = Tokenizer.decoder.__doc__

    def offsets(
        self, text: str, ids: Iterable[int], *, special: bool = False
    ) -> list[tuple[int, int]] | None:
        if self._library == "tiktoken":
            return super().offsets(text, ids)
        return window_offsets(self.decode, text, id_list(ids))

    offsets.__doc__ = Tokenizer.offsets.__doc__

    def _encoded(self, text: str, special: bool) -> list[int]:
        obj = self._object
        if self._library == "tiktoken":
            return id_list(obj.encode(text, allowed_special="all") if special else obj.encode_ordinary(text))
        if self._library == "transformers":
            return id_list(obj.encode(text, add_special_tokens=False, split_special_tokens=not special))
        return self._inside(self._ids(text))

    def _continued(self, text: str, special: bool) -> list[int]:
        """The ids of a text after a full stop, so without the space that is put before whole texts.

        If the stop changes the text, as with an object that only splits at white space, the text's own ids.
        """
        whole = self._encoded(text, special)
        if self._library == "tiktoken":
            return whole
        try:
            before, both = self._encoded(".", special), self._encoded("." + text, special)
            behind = self.decode(both)[len(self.decode(before)) :]
            same = before and both[: len(before)] == before and behind.strip() == self.decode(whole).strip()
        except Exception:  # an object without a token for the stop
            return whole
        return both[len(before) :] if same else whole

    def _ids(self, text: str) -> list[int]:
        found = self._object.encode(text)
        return id_list(getattr(found, "ids", found))

    def _inside(self, ids: list[int]) -> list[int]:
        """Token ids without those that the object puts around every text."""
        before, after = self.prefix, self.suffix
        end = len(ids) - len(after)
        if end < len(before) or tuple(ids[: len(before)]) != before or tuple(ids[end:]) != after:
            return ids
        return ids[len(before) : end]

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the object puts before and after a text: its ids for an empty one, split."""
        if self._library == "tiktoken":
            return (), ()
        if self._library == "transformers":
            around = list(self._object.build_inputs_with_special_tokens([-1]))
            return tuple(around[: around.index(-1)]), tuple(around[around.index(-1) + 1 :])
        try:
            empty = self._ids("")
            sample = self._ids("a") if empty else []
        except Exception:  # an object that cannot encode these: assume that it adds nothing
            empty = []
        if not empty:
            return (), ()
        for at in range(len(empty), -1, -1):
            rest = len(empty) - at
            if sample[:at] == empty[:at] and sample[len(sample) - rest :] == empty[at:]:
                return tuple(empty[:at]), tuple(empty[at:])
        return (), ()


def _library(obj: Any) -> str:
    """The library that the object's class, or a base class, comes from; "" if unknown."""
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
    if library == "tiktoken":
        return {token: obj.encode_single_token(token) for token in obj.special_tokens_set}
    return {}


def _is_plain(obj: Any) -> bool:
    """Whether an object of transformers processes text exactly as its pipeline does."""
    if getattr(obj, "backend_tokenizer", None) is None:
        return False
    return all(cls.__name__ in _PLAIN or not _DOING & vars(cls).keys() for cls in type(obj).__mro__)
