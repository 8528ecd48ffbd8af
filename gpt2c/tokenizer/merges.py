"""vocab.json + merges.txt: the pipelines of GPT2Tokenizer and RobertaTokenizer."""

from __future__ import annotations

from typing import Any

from ..errors import TokenizerError, shown
from .classes import Settings
from .vocabulary import BYTE_CHARS

__all__ = ["byte_level_bpe", "from_vocab_and_merges"]

_FAMILIES = ("GPT2", "Roberta", "Bart")


def from_vocab_and_merges(
    vocab: dict[str, Any], merges: str, settings: Settings, added: set[str], where: str
) -> dict[str, Any]:
    """The description of a byte-level BPE; ``added`` are the tokens that the other files name."""
    if settings.family not in _FAMILIES:
        raise TokenizerError(
            f"{where}: the files name {shown(settings.tokenizer_class)}, whose rules gpt2c does not know; "
            "save it as tokenizer.json, or give tokenizer=transformers.AutoTokenizer.from_pretrained(...)"
        )
    return byte_level_bpe(vocab, _lines(merges, vocab, added, where))


def byte_level_bpe(vocab: dict[str, Any], merges: list[str]) -> dict[str, Any]:
    """The description of a byte-level BPE with GPT-2's rules, from its tokens and merges ("a b")."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None}
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    model |= {"vocab": vocab, "merges": merges}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,  # the class sets add_prefix_space
        "post_processor": byte_level | {"add_prefix_space": True, "trim_offsets": False},
        "decoder": byte_level | {"add_prefix_space": True},
        "model": model,
    }


def _lines(text: str, vocab: dict[str, Any], added: set[str], where: str) -> list[str]:
    """The merges that transformers reads: every line but the first, up to the last line break.

    The first line is usually "#version: 0.2". If it is a merge, or if the last line has no line break,
    transformers 4.57 loses that merge, and so does gpt2c: the model was trained with the tokens of
    transformers. ("#" does not start a comment: "# #" is a merge.)

    Raises
    ------
    TokenizerError
        The file is truncated: the vocabulary has tokens that no merge makes, but that two of its tokens
        spell, as merges would: with ids beyond the last merged token, since training numbers tokens in the
        order of the merges; or, in vocabularies in another order, more than one in a hundred. Tokens that
        enter a vocabulary without a merge do not count: added tokens, anything in brackets, like <s> and
        [PAD], and tokens that no two others spell, like madeupword0000.
    """
    first, *lines = text.split("\n")
    last = lines.pop() if lines else ""
    made = {left + right for left, _, right in (line.partition(" ") for line in (first, *lines, last))}
    end = max((index for token in made if type(index := vocab.get(token)) is int), default=-1)
    unmade = {
        token: index
        for token, index in vocab.items()
        if token not in made and token not in added and _spelled_by_two(token, vocab)
    }
    late = [token for token, index in unmade.items() if type(index) is int and index > end]
    if late or 100 * len(unmade) > len(vocab):
        raise TokenizerError(
            f"{where}: the merges are truncated: none of them makes {shown((late or list(unmade))[0])}, the "
            f"first of {len(unmade)} tokens. Get the file again; or give another with tokenizer= "
            "(--tokenizer)"
        )
    return [line for line in lines if line]


def _spelled_by_two(token: str, vocab: dict[str, Any]) -> bool:
    """Whether a merge of two tokens could make this one, which does not look like a special token."""
    if token[:1] + token[-1:] in ("<>", "[]") or not BYTE_CHARS.issuperset(token):
        return False
    return any(token[:at] in vocab and token[at:] in vocab for at in range(1, len(token)))
