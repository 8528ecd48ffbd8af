"""Tokenizer files of small models in the forms that GPT-2s have, written by hand: name -> file -> contents.

The vocabularies have words of one story, so that models with random weights can be asked about texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.tiny_checkpoints import tiny_tensors, write_model

END = "<|endoftext|>"
WORDS = [
    "the",
    "king",
    "had",
    "a",
    "son",
    "and",
    "he",
    "was",
    "very",
    "fond",
    "of",
    "his",
    "old",
    "horse",
    "so",
    "they",
    "went",
    "to",
    "sea",
]

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _byte_chars() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def byte_level() -> tuple[dict[str, int], list[str]]:
    """Bytes, and words with a space before that merges make letter by letter."""
    tokens, merges = _byte_chars(), []
    for word in WORDS:
        made = "Ġ"
        for letter in word:
            if made + letter not in tokens:
                merges.append(f"{made} {letter}")
                tokens.append(made + letter)
            made += letter
    return {token: index for index, token in enumerate(tokens)}, merges


def _added(tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": index, "content": text} | flags for text, index in tokens.items()]


def _template(before: list[str], after: list[str], ids: Mapping[str, int]) -> dict[str, Any]:
    def special(names: list[str]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]

    return {
        "type": "TemplateProcessing",
        "single": [*special(before), {"Sequence": {"id": "A", "type_id": 0}}, *special(after)],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in before + after
        },
    }


def _described(model: dict[str, Any], added: Mapping[str, int], **parts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(added)}
    return base | empty | {"model": model} | parts


def _gpt2_json() -> dict[str, Any]:
    vocab, merges = byte_level()
    vocab[END] = len(vocab)
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    return _described(model, {END: vocab[END]}, pre_tokenizer=_BYTE_LEVEL, decoder=_BYTE_LEVEL)


def _word_piece() -> dict[str, Any]:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz.,這是"
    tokens = [*names, *letters, *(f"##{letter}" for letter in letters), *(w for w in WORDS if len(w) > 1)]
    vocab = {token: index for index, token in enumerate(tokens)}
    return _described(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        {name: vocab[name] for name in names},
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_template(["[CLS]"], ["[SEP]"], vocab),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def _metaspace(before: list[str], after: list[str]) -> dict[str, Any]:
    names = ["<unk>", "<s>", "</s>"]
    pieces = [*(f"▁{word}" for word in WORDS), "▁", *"abcdefghijklmnopqrstuvwxyz.,"]
    tokens = [*names, *pieces]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    vocab = [[token, 0.0 if token in names else -2.0 - 0.1 * i] for i, token in enumerate(tokens)]
    return _described(
        {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False},
        {name: index for index, name in enumerate(names)},
        pre_tokenizer=space,
        decoder=space,
        post_processor=_template(before, after, {name: index for index, name in enumerate(names)}),
    )


def _pair(**settings: Any) -> dict[str, Any]:
    vocab, merges = byte_level()
    return {
        "vocab.json": vocab | {END: len(vocab)},
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": settings,
    }


_ANGLED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
_BERT = {"tokenizer_class": "BertTokenizer", "clean_up_tokenization_spaces": False}
_WORD_PIECE, _JSON = _word_piece(), _gpt2_json()

FOLDERS: dict[str, dict[str, Any]] = {
    # "config.json" here: what it says beside other sizes. 50256 is the default of both ids.
    "bert": {
        "tokenizer.json": _WORD_PIECE,
        "tokenizer_config.json": _BERT | {"bos_token": "[CLS]", "eos_token": "[SEP]"},
        "config.json": {"vocab_size": 83, "bos_token_id": 2, "eos_token_id": 3},
    },
    "other-ends": {  # config.json names other special tokens than the tokenizer
        "tokenizer.json": _WORD_PIECE,
        "tokenizer_config.json": _BERT | {"bos_token": "[CLS]", "eos_token": "[SEP]"},
        "config.json": {"vocab_size": 83, "bos_token_id": 0, "eos_token_id": 4},
    },
    "metaspace": {
        "tokenizer.json": _metaspace(["<s>"], []),
        "tokenizer_config.json": _FAST | _ANGLED,
        "config.json": {"vocab_size": 51, "bos_token_id": 40, "eos_token_id": 41},  # ordinary words
    },
    "end-only": {
        "tokenizer.json": _metaspace([], ["</s>"]),
        "tokenizer_config.json": _FAST,
        "special_tokens_map.json": {"eos_token": "</s>"},
        "config.json": {"vocab_size": 51},
    },
    "add-bos": _pair(add_bos_token=True) | {"config.json": {"vocab_size": 302}},
    "pair": _pair() | {"config.json": {"vocab_size": 302, "bos_token_id": 5, "eos_token_id": [5, 6]}},
    "gpt2": {"tokenizer.json": _JSON, "config.json": {"vocab_size": 302}},
}


# Of weights that make the model write special tokens.
SEEDS = {"other-ends": 147}


def write_files(directory: Path, files: Mapping[str, Any]) -> Path:
    """Write tokenizer files, JSON or text; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_text(text, encoding="utf-8", newline="\n")
    return directory


def write_folder(directory: Path, name: str) -> Path:
    """A model with random weights and the tokenizer `FOLDERS` has under this name; returns the directory."""
    files = FOLDERS[name]
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_inner": 16, "n_positions": 48}
    values = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]} | sizes | files["config.json"]
    write_files(directory, {name: content for name, content in files.items() if name != "config.json"})
    write_model(directory, values, tiny_tensors(values, SEEDS.get(name, 0)))
    return directory
