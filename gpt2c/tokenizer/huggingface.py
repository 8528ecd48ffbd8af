"""Tokenizers that the tokenizers library runs: WordPiece, Unigram, WordLevel, BPE of every other form."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from .base import StreamDecoder, Tokenizer, check_id, check_size, check_text, id_list
from .postprocessor import read_post_processor, steps
from .vocabulary import spelled
from .window import WindowDecoder, window_offsets

__all__ = ["HuggingFaceTokenizer"]

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizers.Tokenizer``, and what its own description tells of it.

    Parameters
    ----------
    pipeline : tokenizers.Tokenizer
        It is copied, since its truncation, padding and switch for special tokens are set.
    name : str
        See `Tokenizer`.
    n_ids : int, optional
        How many ids the model has.
    special_tokens : dict of str to int, optional
        Those of an object that knows more of them than the pipeline.

    Raises
    ------
    TokenizerError
        The vocabulary is another model's, or the post-processor is of an unknown kind.
    """

    kind = "tokenizer run by tokenizers"

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        n_ids: int | None = None,
        special_tokens: dict[str, int] | None = None,
    ) -> None:
        self.name = name
        self._whole = _plain(pipeline)
        self._description: dict[str, Any] = json.loads(self._whole.to_str())
        self._pipelines = {(False, False): self._whole}
        around = read_post_processor(self._description.get("post_processor"), name)
        self.prefix, self.suffix = around.prefix, around.suffix
        self._added: dict[int, str] = {
            token["id"]: token["content"] for token in self._description["added_tokens"]
        }
        if special_tokens is None:
            special_tokens = {
                token["content"]: token["id"]
                for token in self._description["added_tokens"]
                if token["special"]
            }
        self.special_tokens = special_tokens
        self.n_vocab = 1 + max([*_ids(self._description["model"]), *self._added], default=-1)
        self._n_ids = self.n_vocab if n_ids is None else n_ids
        own = (index for index in _ids(self._description["model"]) if index not in self._added)
        check_size(name, 1 + max(own, default=-1), self._n_ids)
        self._decoding = steps(self._description.get("decoder"), "decoders")
        self._decodes = {step["type"] for step in self._decoding}

    def encode(self, text: str, special: bool = False, *, continued: bool = False) -> list[int]:
        check_text(text)
        ids: list[int] = self._pipeline(special, continued).encode(text, add_special_tokens=False).ids
        if ids and max(ids) >= self._n_ids:
            for index in ids:
                check_id(index, self._whole.id_to_token(index), self._n_ids)
        return ids

    encode.__doc__ = Tokenizer.encode.__doc__

    def decode(self, ids: Iterable[int]) -> str:
        return self._whole.decode(id_list(ids), skip_special_tokens=False)

    decode.__doc__ = Tokenizer.decode.__doc__

    def decoder(self, before: Iterable[int] = ()) -> StreamDecoder:
        return WindowDecoder(self.decode, id_list(before), self._is_byte)

    decoder.__doc__ = Tokenizer.decoder.__doc__

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token as the vocabulary has it, without a space that the decoder puts before."""
        if not 0 <= token_id < max(self.n_vocab, self._n_ids):
            last = max(self.n_vocab, self._n_ids) - 1
            raise ValueError(f"token id {token_id} is outside the vocabulary: 0 to {last} are allowed")
        piece: str | None = self._whole.id_to_token(token_id)
        if piece is None:
            return b""
        if "ByteLevel" in self._decodes:
            return spelled(piece, self.name)
        if self._is_byte(token_id):
            return bytes.fromhex(piece[3:5])
        if token_id not in self._added:
            piece = self._written(piece)
        return piece.encode("utf-8")

    def begins_word(self, token_id: int) -> bool:
        """Whether a token begins a word: with white space; or, in a vocabulary without, by its form.

        A WordPiece that does not go on with a word; any token where the decoder puts a space before each.
        """
        piece: str | None = self._whole.id_to_token(token_id)
        if piece is None:
            return False
        for step in self._decoding:
            if step["type"] == "WordPiece":
                return not piece.startswith(step["prefix"])
        return not self._decoding or super().begins_word(token_id)

    def offsets(
        self, text: str, ids: Iterable[int], *, special: bool = False
    ) -> list[tuple[int, int]] | None:
        ids = id_list(ids)
        for reads in (special, not special):
            for continued in (False, True):
                found = self._pipeline(reads, continued).encode(text, add_special_tokens=False)
                if found.ids[: len(ids)] == ids:
                    return found.offsets[: len(ids)]
        return window_offsets(self.decode, text, ids)

    offsets.__doc__ = Tokenizer.offsets.__doc__

    def packed(self) -> dict[str, Any]:
        return {
            "tokenizers": self._description,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
        }

    packed.__doc__ = Tokenizer.packed.__doc__

    def _is_byte(self, token_id: int) -> bool:
        """Whether it is one of the bytes that, if they make no characters together, all become U+FFFD."""
        return "ByteFallback" in self._decodes and bool(
            _BYTE.fullmatch(self._whole.id_to_token(token_id) or "")
        )

    def _pipeline(self, special: bool, continued: bool) -> Any:
        """The pipeline that reads special tokens, or a text that goes on behind another one."""
        continued = continued and self._without_dummy is not None
        found = self._pipelines.get((special, continued))
        if found is None:
            found = copy.deepcopy(self._without_dummy if continued else self._whole)
            found.encode_special_tokens = not special
            found = self._pipelines.setdefault((special, continued), found)
        return found

    @cached_property
    def _without_dummy(self) -> Any:
        """The pipeline that puts no space before a text; None if it never does."""
        import tokenizers

        pre_tokenizer = _without_space(self._description.get("pre_tokenizer"))
        normalizer = _without_space(self._description.get("normalizer"))
        if (pre_tokenizer, normalizer) == (
            self._description.get("pre_tokenizer"),
            self._description.get("normalizer"),
        ):
            return None
        small = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
        }
        parts = tokenizers.Tokenizer.from_str(json.dumps(small))
        pipeline = copy.deepcopy(self._whole)
        pipeline.normalizer, pipeline.pre_tokenizer = parts.normalizer, parts.pre_tokenizer
        return pipeline

    def _written(self, piece: str) -> str:
        """The text of a token of the model, by the steps of the decoder."""
        for step in self._decoding:
            kind = step["type"]
            if kind == "Metaspace":
                piece = piece.replace(step["replacement"], " ")
            elif kind == "Replace" and "String" in step["pattern"]:
                piece = piece.replace(step["pattern"]["String"], step["content"])
            elif kind == "WordPiece":
                piece = piece.removeprefix(step["prefix"])
            elif kind == "BPEDecoder":
                piece = piece.replace(step["suffix"], " ")
        return piece


def _plain(pipeline: Any) -> Any:
    """A copy that encodes whole texts, in which special tokens are ordinary text."""
    pipeline = copy.deepcopy(pipeline)
    pipeline.no_truncation()
    pipeline.no_padding()
    pipeline.encode_special_tokens = True
    return pipeline


def _ids(model: dict[str, Any]) -> Iterable[int]:
    """The ids of a model's vocabulary: a mapping of tokens to ids or, of Unigram, a list."""
    vocab = model["vocab"]
    return vocab.values() if isinstance(vocab, dict) else range(len(vocab))


def _without_space(node: Any) -> Any:
    """A normalizer or pre_tokenizer without what puts a space before a text."""
    if not isinstance(node, dict):
        return node
    node = dict(node)
    for children in ("normalizers", "pretokenizers"):
        if children in node:
            node[children] = [
                _without_space(child) for child in node[children] if child.get("type") != "Prepend"
            ]
    if node.get("type") == "Prepend":
        return None
    if node.get("type") == "Metaspace":
        node["prepend_scheme"] = "never"
    elif "add_prefix_space" in node:
        node["add_prefix_space"] = False
    return node
