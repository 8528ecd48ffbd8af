"""The tokenizer files of a model directory, read into one form: that of ``tokenizer.json``.

Two layouts are known: ``tokenizer.json``, and the older ``vocab.json`` + ``merges.txt``. Either may come with
``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json``, which are merged as in
transformers 4.57. Other files (vocab.txt, SentencePiece models) belong to tokenizers of another kind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import TokenizerError, shown
from ..json_values import unique_keys

__all__ = ["FOREIGN_FILES", "read_description"]

FOREIGN_FILES = ("vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "spm.model")
_END = "<|endoftext|>"  # GPT2Tokenizer's default for bos, eos and unk


def read_description(directory: Path) -> tuple[dict[str, Any], str] | None:
    """Read the tokenizer files of a directory.

    Returns
    -------
    (description, where) or None
        The content of ``tokenizer.json``, read or made from the older files, and what to name in messages;
        None when the directory has neither layout.

    Raises
    ------
    TokenizerError
        A file cannot be read, is damaged, or the files contradict each other.
    """
    config = _read_json(directory / "tokenizer_config.json", default={})
    vocab_path, merges_path = directory / "vocab.json", directory / "merges.txt"
    if (directory / "tokenizer.json").is_file():
        where = str(directory / "tokenizer.json")
        description = _read_json(directory / "tokenizer.json")
        step = description.get("pre_tokenizer")
        if isinstance(step, dict) and "add_prefix_space" in step:
            step["add_prefix_space"] = config.get("add_prefix_space", step["add_prefix_space"])
    elif vocab_path.is_file() and merges_path.is_file():
        where = f"{directory} (vocab.json, merges.txt)"
        description = _from_vocab_and_merges(_read_json(vocab_path), _read_merges(merges_path), config, where)
    elif vocab_path.is_file() or merges_path.is_file():
        missing = merges_path if vocab_path.is_file() else vocab_path
        raise TokenizerError(f"{missing} is missing: a GPT-2 tokenizer needs vocab.json and merges.txt")
    else:
        return None
    description["added_tokens"] = _added_tokens(directory, description, config, where)
    return description, where


def _from_vocab_and_merges(
    vocab: Any, merges: list[str], config: dict[str, Any], where: str
) -> dict[str, Any]:
    """The description of transformers' GPT2Tokenizer with these files and settings."""
    name = config.get("tokenizer_class")
    if name not in (None, "GPT2Tokenizer", "GPT2TokenizerFast"):
        raise TokenizerError(
            f"{where}: tokenizer_config.json names {shown(name)}, whose rules gpt2c does not know; save it "
            "as tokenizer.json, or give tokenizer=transformers.AutoTokenizer.from_pretrained(...)"
        )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    description: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level | {"add_prefix_space": bool(config.get("add_prefix_space"))},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    if config.get("add_bos_token"):
        bos = _content(config.get("bos_token")) or _END
        if bos not in vocab:
            raise TokenizerError(
                f"{where}: add_bos_token is set, but the bos token {shown(bos)} is not in vocab.json"
            )
        description["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}},
        }
    return description


def _added_tokens(
    directory: Path, description: dict[str, Any], config: dict[str, Any], where: str
) -> list[dict[str, Any]]:
    """The added tokens of all files, by id. What ``tokenizer.json`` says of a token comes first."""
    model = description.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    vocab = vocab if isinstance(vocab, dict) else {}
    names = _read_json(directory / "special_tokens_map.json", default={})
    decoder = config.get("added_tokens_decoder") or {}
    older = _read_json(directory / "added_tokens.json", default={})
    listed = description.get("added_tokens") or []
    if not isinstance(listed, list) or not isinstance(decoder, dict):
        raise TokenizerError(f"{where}: the added tokens must be a list, and added_tokens_decoder an object")

    special = {_END, *_named(config), *_named(names)}
    found: dict[str, dict[str, Any]] = {}
    entries = [*listed]
    entries += [_entry(index, token) for index, token in decoder.items()]
    entries += [_entry(index, {"content": text, "special": text in special}) for text, index in older.items()]
    entries += [_entry(vocab[text], {"content": text, "special": True}) for text in special if text in vocab]
    for entry in entries:
        text, index = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or not text or type(index) is not int or index < 0:
            raise TokenizerError(f"{where}: an added token needs a text and an id, not {shown(entry)}")
        if found.setdefault(text, entry)["id"] != index:
            raise TokenizerError(
                f"{where}: the token {shown(text)} has two ids, {found[text]['id']} and {index}"
            )
    return sorted(found.values(), key=lambda entry: entry["id"])


def _entry(index: Any, token: Any) -> Any:
    """One added token as ``tokenizer.json`` writes it."""
    if isinstance(index, str) and index.isdecimal() and len(index) < 10:  # a key of added_tokens_decoder
        index = int(index)
    flags = token if isinstance(token, dict) else {}
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": index, "content": _content(token)} | {name: bool(flags.get(name)) for name in names}


def _named(settings: dict[str, Any]) -> set[str]:
    """The texts of the special tokens that a settings file names, as bos_token and so on."""
    values = [value for key, value in settings.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key) or []
        values += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    return {text for value in values if (text := _content(value))}


def _content(token: Any) -> str | None:
    """The text of a token written as a string or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read_merges(path: Path) -> list[str]:
    lines = _read_text(path).split("\n")
    if lines[0].startswith("#version"):
        lines[0] = ""
    return [line for line in lines if line]


def _read_json(path: Path, default: Any = None) -> Any:
    """An object from a JSON file, without duplicate keys; ``default``, if given, when the file is missing."""
    if default is not None and not path.is_file():
        return default
    try:
        value = json.loads(_read_text(path), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged, it is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} must hold a JSON object, not {shown(value)}")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is damaged, it is not UTF-8: {error}") from None
