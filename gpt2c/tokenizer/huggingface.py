"""Tokenizers that the tokenizers library runs: WordPiece, Unigram, WordLevel, BPE of every other form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import tokenizers

from ..errors import TokenizerError, shown
from .base import StreamDecoder, Tokenizer, check_size, id_list, is_failure
from .continuing import SMALL, Continuing, puts_space
from .inside import inside
from .library import LibraryTokenizer, Spans
from .postprocessor import read_post_processor, steps
from .vocabulary import check_unique, spelled
from .window import WindowDecoder

__all__ = ["HuggingFaceTokenizer"]

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class HuggingFaceTokenizer(LibraryTokenizer):
    """A ``tokenizers.Tokenizer`` with the facts of its description.

    Parameters
    ----------
    description : dict
        The content of a tokenizer.json that the library accepts. (The library is not asked for it again: for
        vocabularies with holes some versions then print a warning to stdout.)
    name : str
        See `Tokenizer`.
    n_ids : int, optional
        The number of ids that the model has.
    special_tokens : dict of str to int, optional
        Those of an object that has more of them than the pipeline.

    Raises
    ------
    TokenizerError
        The library refuses the description or gives an added token another id, or the vocabulary belongs to
        another model.
    """

    kind = "tokenizer run by tokenizers"

    def __init__(
        self,
        description: dict[str, Any],
        *,
        name: str,
        n_ids: int | None = None,
        special_tokens: dict[str, int] | None = None,
    ) -> None:
        self.name = name
        self._description = _in_full(description, name)
        self._whole = self._made(special=False)
        vocab = self._description["model"]["vocab"]
        if isinstance(vocab, dict):
            check_unique(vocab, name)
        around = read_post_processor(self._description.get("post_processor"), name)
        self.prefix, self.suffix = around.prefix, around.suffix
        self._added: dict[int, str] = {
            token["id"]: token["content"] for token in self._description["added_tokens"]
        }
        self.special_tokens = dict(special_tokens or {})
        for token in self._description["added_tokens"]:
            if token["special"]:
                self.special_tokens[token["content"]] = token["id"]
        self.n_vocab = 1 + max([*_ids(self._description["model"]), *self._added], default=-1)
        self._n_ids = self.n_vocab if n_ids is None else n_ids
        own = (index for index in _ids(self._description["model"]) if index not in self._added)
        check_size(name, 1 + max(own, default=-1), self._n_ids)
        self._check(self.prefix)
        self._decoding = steps(self._description.get("decoder"), "decoders")
        self._decodes = {step["type"] for step in self._decoding}
        model = self._description["model"]
        # The prefix of WordPieces that continue a word.
        self._joint: str = model["continuing_subword_prefix"] if model.get("type") == "WordPiece" else ""

    def decode(self, ids: Iterable[int]) -> str:
        ids = id_list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < 2**32:  # the library's limit
            raise ValueError(f"token ids must be at least 0; these run from {min(ids)} to {max(ids)}")
        return self._whole.decode(ids, skip_special_tokens=False)

    decode.__doc__ = Tokenizer.decode.__doc__

    def decoder(self, before: Iterable[int] = ()) -> StreamDecoder:
        return WindowDecoder(self.decode, id_list(before), self._is_byte)

    decoder.__doc__ = Tokenizer.decoder.__doc__

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token in the vocabulary, without a space that the decoder puts before it."""
        piece = self._known(token_id)
        if piece is None:
            return b""
        if "ByteLevel" in self._decodes:
            return spelled(piece, self.name)
        if self._is_byte(token_id):
            return bytes.fromhex(piece[3:5])
        if token_id not in self._added:
            piece = self._written(piece)
        return piece.encode("utf-8")

    def bytes_inside(self, token_id: int) -> bytes:
        piece = self._known(token_id)
        if piece is None or token_id == self._unknown:
            return b""
        if "ByteLevel" in self._decodes or self._is_byte(token_id):
            return self.token_bytes(token_id)
        return self._inside(piece).encode("utf-8")

    bytes_inside.__doc__ = Tokenizer.bytes_inside.__doc__

    def begins_word(self, token_id: int) -> bool:
        """Whether a token starts a word: with white space or, in a vocabulary without it, by its form.

        By its form: a WordPiece that does not continue a word; any token if the decoder puts spaces between.
        """
        piece = self._known(token_id)
        if piece is None:
            return False
        if self._joint:
            return not piece.startswith(self._joint)
        return not self._decoding or super().begins_word(token_id)

    def _packed_vocabulary(self) -> dict[str, Any]:
        return {
            "tokenizers": self._description,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "takes_bos": self.takes_bos,
        }

    def described(self) -> dict[str, Any]:
        return self._description

    described.__doc__ = Tokenizer.described.__doc__

    def _token(self, index: int) -> str | None:
        piece: str | None = self._whole.id_to_token(index)
        return piece

    def _is_byte(self, token_id: int) -> bool:
        """Whether it is a byte token: a run of them that is not valid UTF-8 becomes U+FFFD, all of it."""
        return "ByteFallback" in self._decodes and bool(_BYTE.fullmatch(self._token(token_id) or ""))

    def _encoded(self, text: str, special: bool, continued: bool) -> tuple[list[int], Callable[[], Spans]]:
        try:
            if continued and self._continuing is not None:
                ids, spans = self._continuing.encode(text, special)
                return ids, lambda: spans
            found = self._pipeline(special).encode(text, add_special_tokens=False)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise TokenizerError(f"the tokenizer {self.name} cannot encode {shown(text)}: {error}") from None
        return found.ids, lambda: found.offsets

    def _pipeline(self, special: bool) -> Any:
        """The pipeline; with ``special`` a copy that recognizes special tokens."""
        return self._reading if special else self._whole

    @cached_property
    def _reading(self) -> Any:
        return self._made(special=True)

    def _made(self, special: bool) -> Any:
        pipeline = _parsed(self._description, self.name)
        added = self._description["added_tokens"]
        if _misplaced(pipeline, added):
            # In vocabularies with holes the library numbers new tokens correctly only after loading.
            has = set(map(_text, self._description["model"]["vocab"]))
            inside = [token for token in added if token["content"] in has]
            pipeline = _parsed(self._description | {"added_tokens": inside}, self.name)
            for token in added:
                if token["content"] not in has:
                    flags = {name: value for name, value in token.items() if name not in ("id", "content")}
                    pipeline.add_tokens([tokenizers.AddedToken(token["content"], **flags)])
        for token in _misplaced(pipeline, added):
            raise TokenizerError(
                f"{self.name}: the added token {shown(token['content'])} has the id {token['id']}, but "
                f"{pipeline.token_to_id(token['content'])} is next: the files contradict each other"
            )
        pipeline.encode_special_tokens = not special
        return pipeline

    @cached_property
    def _continuing(self) -> Continuing | None:
        if not puts_space(self._description):
            return None
        return Continuing(self._pipeline, self._made, self._description)

    @cached_property
    def _unknown(self) -> int | None:
        """The id of the unknown token."""
        model = self._description["model"]
        index: int | None = model.get("unk_id")
        if index is None and model.get("unk_token") is not None:
            index = self._whole.token_to_id(model["unk_token"])
        return index

    @cached_property
    def _inside(self) -> Callable[[str], str]:
        """The text that a token adds after others, by the steps of the decoder."""
        return inside(self._decoding, self.name)

    def _written(self, piece: str) -> str:
        """The text of a token of the model, by the steps of the decoder."""
        piece = piece.removeprefix(self._joint)
        for step in self._decoding:
            kind = step["type"]
            if kind == "Metaspace":
                piece = piece.replace(step["replacement"], " ")
            elif kind == "Replace" and "String" in step["pattern"]:
                piece = piece.replace(step["pattern"]["String"], step["content"])
            elif kind == "BPEDecoder":
                piece = piece.replace(step["suffix"], " ")
        return piece


def _parsed(description: dict[str, Any], name: str) -> Any:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(description))
    except BaseException as error:  # the library raises no narrower class
        if not is_failure(error):
            raise
        raise TokenizerError(f"{name}: the tokenizers library refuses it: {error}") from None


def _misplaced(pipeline: Any, added: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The added tokens of a description that have another id in a pipeline."""
    return [token for token in added if pipeline.token_to_id(token["content"]) != token["id"]]


def _text(token: Any) -> str:
    """The text of a token in a vocabulary: a key, or of Unigram a pair with its score."""
    return token if isinstance(token, str) else token[0]


def _in_full(description: dict[str, Any], name: str) -> dict[str, Any]:
    """A description as the library writes it, with every field, and without truncation and padding."""
    description = description | {"added_tokens": description.get("added_tokens") or []}
    small = description | SMALL
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    small |= {part: description.get(part) for part in parts}
    full = json.loads(_parsed(small, name).to_str())
    return description | {part: full[part] for part in parts} | {"truncation": None, "padding": None}


def _ids(model: dict[str, Any]) -> Iterable[int]:
    """The ids of a model's vocabulary: a mapping of tokens to ids or, of Unigram, a list."""
    vocab = model["vocab"]
    return vocab.values() if isinstance(vocab, dict) else range(len(vocab))
