"""vocab.txt alone: the pipeline of BertTokenizer."""

from __future__ import annotations

from typing import Any

from ..errors import TokenizerError, shown
from .classes import BERT, Settings, bert_normalizer, content

__all__ = ["from_vocab_txt"]

_HELP = "save it as tokenizer.json, or give tokenizer=transformers.AutoTokenizer.from_pretrained(...)"


def from_vocab_txt(text: str, settings: Settings, where: str) -> dict[str, Any]:
    """The description of a WordPiece whose vocabulary has one token per line: the line number is its id.

    If a token occurs twice the last id counts, as in transformers; the other becomes a hole.
    """
    if settings.family not in BERT:
        raise TokenizerError(
            f"{where}: the files name {shown(settings.tokenizer_class)}, whose rules gpt2c does not know; of "
            f"vocab.txt it reads BertTokenizer's. If it has a fast form, {_HELP}"
        )
    lines = text.removesuffix("\n").split("\n")
    vocab = {token: index for index, token in enumerate(lines)}
    unknown = content(settings.values.get("unk_token")) or "[UNK]"
    if unknown not in vocab:
        raise TokenizerError(
            f"{where}: the unknown token {shown(unknown)} is not in it: this is not a vocabulary of "
            "BertTokenizer, one token a line, or tokenizer_config.json should name another unk_token"
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": True} | bert_normalizer(settings.values),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,  # from the class, when the ids of [CLS] and [SEP] are known
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
