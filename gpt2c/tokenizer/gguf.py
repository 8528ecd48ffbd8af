"""The tokenizer in the metadata of a GGUF file, in llama.cpp's form: byte-level BPE of GPT-2's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import TokenizerError, shown
from .base import Tokenizer
from .chat_template import MOST_CHARACTERS
from .classes import template
from .load import made_from
from .merges import byte_level_bpe

__all__ = ["CONTROL", "ENDS", "NORMAL", "UNUSED", "USER_DEFINED", "from_metadata"]

_KEYS = "tokenizer.ggml."
# Names of rules that split a text as GPT-2 does; "default" is the name of an unknown rule.
_WORDS = ("gpt-2", "phi-2", "default")
ENDS = ("eos", "eot", "eom")
"""llama.cpp's names for tokens that end a text: of the text, of a turn, of a message."""
# The kinds of tokens, by their number in the file.
NORMAL, _UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)
_OTHER = "Give the folder with the tokenizer's files as tokenizer= (--tokenizer)"


def from_metadata(metadata: Mapping[str, Any], where: str, n_vocab: int) -> Tokenizer:
    """The tokenizer that a file's metadata describes, for a model of ``n_vocab`` tokens.

    Raises
    ------
    TokenizerError
        There is none, or it is of an unsupported kind, damaged, or another model's.
    """
    given = {key[len(_KEYS) :]: value for key, value in metadata.items() if key.startswith(_KEYS)}
    _check_kind(given, where)
    tokens = _texts(given, "tokens", where)
    ids = {name: _id(given, name, tokens, where) for name in ("bos", *ENDS)}
    vocab, added = _sorted(tokens, _types(given, len(tokens), where), ids, where)
    description = byte_level_bpe(vocab, _texts(given, "merges", where))
    description["added_tokens"] = added
    before, behind = (_put_beside(given, name, ids, tokens, where) for name in ("bos", "eos"))
    if before or behind:
        steps = [description["post_processor"], template(before, behind, vocab)]
        description["post_processor"] = {"type": "Sequence", "processors": steps}
    tokenizer = made_from(description, where, n_vocab)
    tokenizer.bos_token_id, tokenizer.eos_token_id = ids["bos"], ids["eos"]
    chat = metadata.get("tokenizer.chat_template")
    if chat is not None and (not isinstance(chat, str) or len(chat) > MOST_CHARACTERS):
        raise TokenizerError(
            f"{where}: the chat template is {shown(chat)}; allowed: a text of at most {MOST_CHARACTERS:,} "
            "characters"
        )
    tokenizer.chat_template = chat
    return tokenizer


def _check_kind(given: Mapping[str, Any], where: str) -> None:
    """Refuse anything but byte-level BPE that splits texts into words as GPT-2 does."""
    model, words = given.get("model"), given.get("pre", "default")
    if model in (None, "none", "no_vocab"):
        raise TokenizerError(f"{where} holds no tokenizer. {_OTHER}; in Python, token ids work without")
    if model != "gpt2":
        raise TokenizerError(
            f"{where} has a tokenizer of the kind {shown(model)}; supported in GGUF files: 'gpt2'. {_OTHER}"
        )
    if words not in _WORDS:
        raise TokenizerError(
            f"{where} cuts texts into words by the rule {shown(words)} (tokenizer.ggml.pre); supported in "
            f"GGUF files: {', '.join(map(repr, _WORDS))}. {_OTHER}"
        )
    if given.get("add_sep_token", False) is not False:
        raise TokenizerError(f"{where} has add_sep_token, which is not supported in GGUF files. {_OTHER}")


def _texts(given: Mapping[str, Any], name: str, where: str) -> list[str]:
    found = given.get(name)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise TokenizerError(f"{where}: tokenizer.ggml.{name} is {shown(found)}; a list of texts is needed")
    return found


def _types(given: Mapping[str, Any], count: int, where: str) -> list[int]:
    """The kind of each token; all are ordinary if the file has no list."""
    found = given.get("token_type")
    if found is None:
        return [NORMAL] * count
    if not isinstance(found, list) or len(found) != count:
        raise TokenizerError(
            f"{where}: tokenizer.ggml.token_type does not give the kind of each of the {count} tokens"
        )
    return found


def _id(given: Mapping[str, Any], name: str, tokens: list[str], where: str) -> int | None:
    """The token named as the beginning or the end of a text."""
    found = given.get(f"{name}_token_id")
    if found is not None and (type(found) is not int or not 0 <= found < len(tokens)):
        raise TokenizerError(
            f"{where}: tokenizer.ggml.{name}_token_id is {shown(found)}; a token id below {len(tokens)} is "
            "needed"
        )
    return found


def _sorted(
    tokens: list[str], types: list[int], ids: Mapping[str, int | None], where: str
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The vocabulary and its added tokens, in the form of a tokenizer.json."""
    vocab: dict[str, int] = {}
    added: list[dict[str, Any]] = []
    for index, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == UNUSED or not text:
            continue  # a padding row of the embedding
        if text in vocab:
            raise TokenizerError(f"{where}: {shown(text)} is both token {vocab[text]} and token {index}")
        vocab[text] = index
        special = kind in (_UNKNOWN, CONTROL) or index in ids.values()
        if special or kind == USER_DEFINED:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": index, "content": text, **flags, "special": special})
        elif kind != NORMAL:
            raise TokenizerError(f"{where}: token {index} is of the type {kind}; allowed: 1 to 5. {_OTHER}")
    return vocab, added


def _put_beside(
    given: Mapping[str, Any], name: str, ids: Mapping[str, int | None], tokens: list[str], where: str
) -> list[str]:
    """The token that is put before ("bos") or after ("eos") every text."""
    asked, index = given.get(f"add_{name}_token", False), ids[name]
    if asked is False:
        return []
    if asked is not True or index is None:
        raise TokenizerError(
            f"{where}: tokenizer.ggml.add_{name}_token is {shown(asked)} and {name}_token_id is {index}; "
            "allowed: false, or true with a token"
        )
    return [tokens[index]]
