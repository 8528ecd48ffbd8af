"""Reading the tokenizer files of a model: bounded in size, UTF-8 with or without a byte order mark."""

from __future__ import annotations

import codecs
import io
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from ..errors import TokenizerError, shown
from ..json_values import unique_keys

__all__ = ["MAX_SIZE", "read_bytes", "read_json", "read_text"]

# Bytes of one tokenizer file. GPT-2's are 0.5 and 1 MB; the largest published ones, for vocabularies of
# 256,000 tokens, are 35 MB. The Python objects made from one take about five times as much.
MAX_SIZE = 64 * 2**20


def read_json(path: Path, default: Any = None) -> Any:
    """An object from a JSON file, without duplicate keys; ``default``, if given, when the file is missing."""
    if default is not None and not path.is_file():
        return default
    try:
        value = json.loads(read_text(path), object_pairs_hook=unique_keys, parse_constant=_refuse)
    except RecursionError:
        raise TokenizerError(f"{path} is damaged: it is nested too deeply for a tokenizer's JSON") from None
    except ValueError as error:
        raise TokenizerError(f"{path} is damaged: it is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} must hold a JSON object, not {shown(value)}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def read_text(path: Path) -> str:
    """A file's text: line breaks of every kind as line feeds, without a byte order mark."""
    try:
        text = read_bytes(path).removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is damaged: it is not UTF-8: {error}") from None
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; its size is checked before it is read."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            data = file.read(size) if stat.S_ISREG(status.st_mode) and size <= MAX_SIZE else b""
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror or error}") from error
    if size > MAX_SIZE:
        raise TokenizerError(
            f"{path} has {size:,} bytes, but a tokenizer file may have at most {MAX_SIZE:,}: it is damaged, "
            "or another file under this name. Put the model's own file there, or give a tokenizer with "
            "tokenizer= (--tokenizer)"
        )
    return data
