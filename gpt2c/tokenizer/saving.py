"""A tokenizer as files that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import TokenizerError
from .base import Tokenizer
from .chat_template import FILE, read_chat_template
from .files import FILES, OPENAI_PAIR, PAIR, pair_of
from .reading import read_json

__all__ = ["write_tokenizer"]

_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    FILE,
)
# The standard names of files that may have others.
_USUAL = {".json": "tokenizer.json", ".txt": "vocab.txt", ".model": "spiece.model"}


def write_tokenizer(tokenizer: Tokenizer, directory: Path, n_ctx: int) -> dict[str, Any]:
    """Write a tokenizer's files: the originals, unchanged, or else a tokenizer.json.

    Parameters
    ----------
    tokenizer : Tokenizer
    directory : path
    n_ctx : int
        The maximum number of tokens that the model takes.

    Returns
    -------
    dict
        The entries of config.json that concern the tokenizer.

    Raises
    ------
    TokenizerError
        It cannot be written, or the files that it was read from are gone.
    """
    found = _written(tokenizer, directory, n_ctx)
    if tokenizer.chat_template not in (None, read_chat_template(directory)):
        (directory / FILE).write_text(tokenizer.chat_template, encoding="utf-8", newline="")
    return found


def _written(tokenizer: Tokenizer, directory: Path, n_ctx: int) -> dict[str, Any]:
    if tokenizer.source is not None:
        return _copied(tokenizer.source, directory)
    description = tokenizer.described()
    if description is None:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} cannot be written as files: give the directory that its files "
            "are in as tokenizer= (--tokenizer), or export the model from such a directory"
        )
    names = {index: text for text, index in tokenizer.special_tokens.items()}
    named = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id}
    named["mask_token"] = tokenizer.mask_id
    settings: dict[str, Any] = {
        # The class that follows tokenizer.json exactly, except for the space before a text.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": n_ctx,
        "clean_up_tokenization_spaces": False,
        # By default it returns token_type_ids, too, for which GPT-2 adds embeddings to its input.
        "model_input_names": ["input_ids", "attention_mask"],
        **{name: names[index] for name, index in named.items() if index in names},
    }
    step = description.get("pre_tokenizer")
    if isinstance(step, dict) and step.get("type") == "ByteLevel":
        settings["add_prefix_space"] = bool(step.get("add_prefix_space", True))
    for name, content in (("tokenizer.json", description), ("tokenizer_config.json", settings)):
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    return {}


def _copied(source: Path, directory: Path) -> dict[str, Any]:
    if not source.exists():
        raise TokenizerError(f"the tokenizer's files are no longer at {source}: load the model again")
    folder = source if source.is_dir() else source.parent
    names = {name: name for name in _SETTINGS}
    pair = pair_of(source)
    if source.is_dir():
        # Files first that others override where both exist.
        names |= dict(zip(OPENAI_PAIR, PAIR, strict=True))
        names |= {name: name for name in FILES if name not in OPENAI_PAIR}
    elif pair is not None:
        names |= dict(zip(pair, PAIR, strict=True))
    else:
        names[source.name] = source.name if source.name in FILES else _USUAL[source.suffix]
    for name, usual in names.items():
        if (folder / name).is_file():
            shutil.copyfile(folder / name, directory / usual)
    # The class may be named only there.
    config = folder / "config.json"
    named = read_json(config).get("tokenizer_class") if config.is_file() else None
    return {} if named is None else {"tokenizer_class": named}
