"""SentencePiece models: as the pipeline of transformers' T5Tokenizer, or as they are.

The file is a message of Google's protocol buffers; the package sentencepiece has its schema.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import chain
from typing import Any

from ..errors import TokenizerError, shown
from .classes import Settings, content

__all__ = ["MODEL_TYPE", "from_sentencepiece", "parsed"]

MODEL_TYPE = "SentencePiece"
"""The type of the model in a description that the tokenizers library cannot run."""

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_CONTROL, _USER_DEFINED = 3, 4  # ModelProto.SentencePiece.Type


def from_sentencepiece(data: bytes, settings: Settings, where: str) -> dict[str, Any]:
    """The description of a SentencePiece model, Unigram or BPE: its pieces, followed by ``extra_ids``.

    GPTSw3Tokenizer's contains the file itself, which no pipeline can replace.
    """
    if settings.family == "GPTSw3":
        return _as_it_is(data, settings, where)
    if settings.family != "T5":
        raise TokenizerError(
            f"{where}: the files name {shown(settings.tokenizer_class)}, whose rules gpt2c does not know; of "
            "SentencePiece models it reads T5Tokenizer's and GPTSw3Tokenizer's. Give tokenizer="
            "transformers.AutoTokenizer.from_pretrained(...), or, if that has a fast form, save it as "
            "tokenizer.json"
        )
    proto = parsed(data, where)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    extra = reversed(range(settings.values["extra_ids"]))
    pieces += [(f"<extra_id_{index}>", 0.0) for index in extra]
    added = [
        {"id": index, "content": piece.piece, "special": piece.type == _CONTROL, "normalized": False}
        for index, piece in enumerate(proto.pieces)
        if piece.type in (_CONTROL, _USER_DEFINED)
    ]
    scheme = "always" if settings.values.get("legacy") is not False else "first"
    if settings.values.get("add_prefix_space") is False:
        scheme = "never"
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            entry | dict.fromkeys(("single_word", "lstrip", "rstrip"), False) for entry in added
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(proto)},
        "pre_tokenizer": metaspace,
        "post_processor": None,  # from the class, when the id of </s> is known
        "decoder": metaspace,
        "model": _model(proto, pieces, where),
    }


def _as_it_is(data: bytes, settings: Settings, where: str) -> dict[str, Any]:
    for name in ("do_lower_case", "sp_model_kwargs"):
        if settings.values.get(name):
            raise TokenizerError(
                f"{where}: the settings have {name} = {shown(settings.values[name])}, which gpt2c does not "
                "support for GPTSw3Tokenizer; give another tokenizer with tokenizer= (--tokenizer)"
            )
    lists = [settings.values.get(name) for name in ("additional_special_tokens", "extra_special_tokens")]
    more = chain.from_iterable(names for names in lists if isinstance(names, list))
    return {
        "added_tokens": [],
        "model": {
            "type": MODEL_TYPE,
            "proto": base64.b64encode(data).decode(),
            "vocab": {piece.piece: index for index, piece in enumerate(parsed(data, where).pieces)},
            "named": [content(token) for token in settings.special_tokens()],
            "additional": [content(token) for token in more],
        },
    }


def parsed(data: bytes, where: str) -> Any:
    """A SentencePiece model as an object of the protobuf library."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise TokenizerError(
            f"{where}: a SentencePiece model needs a package that cannot be imported ({error}): "
            'pip install "gpt2c[sentencepiece]"; or give another tokenizer with tokenizer= (--tokenizer)'
        ) from None
    schema: Any = sentencepiece_model_pb2  # its classes are created on import
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise TokenizerError(f"{where} is damaged: it is not a SentencePiece model: {error}") from None
    if not proto.pieces:
        raise TokenizerError(f"{where} is damaged: a SentencePiece model without pieces")
    return proto


def _normalizers(proto: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if proto.normalizer_spec.precompiled_charsmap:
        charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
        found.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    found.append({"type": "Strip", "strip_left": False, "strip_right": True})
    found.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"})
    return found


def _model(proto: Any, pieces: list[tuple[str, float]], where: str) -> dict[str, Any]:
    kind = proto.trainer_spec.model_type
    if kind == _UNIGRAM:
        vocab: Any = [list(piece) for piece in pieces]
        unknown = proto.trainer_spec.unk_id
        return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": False}
    if kind == _BPE:
        vocab = {piece: index for index, (piece, _) in enumerate(pieces)}
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": proto.trainer_spec.unk_piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": list(_merges(pieces, len(proto.pieces))),
        }
    raise TokenizerError(
        f"{where}: a SentencePiece model of kind {kind} (word or char); supported: Unigram and BPE"
    )


def _merges(pieces: list[tuple[str, float]], n_own: int) -> Iterable[list[str]]:
    """The merges that make a BPE's pieces, the piece with the highest score first.

    SentencePiece stores no merges: any two pieces that spell a third one are a pair. Pieces that were added
    after the ``n_own`` of the model take no part in pairs.
    """
    ids = {piece: index for index, (piece, _) in enumerate(pieces[:n_own])}
    found = []
    for piece, score in dict(pieces).items():
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [(a, b) for a, b in cuts if a in ids and b in ids]
        found += [(score, a, b) for a, b in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    found.sort(key=lambda pair: (pair[0], len(pair[1]), len(pair[2])), reverse=True)
    return ([a, b] for _, a, b in found)
