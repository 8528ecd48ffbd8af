"""What every reader here shares: regular files only, strict and bounded JSON, errors that name the file."""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CheckpointError, shown
from ..json_values import unique_keys

__all__ = ["MAX_JSON", "open_regular", "parse_object", "read_object", "reading"]

MAX_JSON = 4 * 2**20  # bytes of JSON in one file; the header of a GPT-2 checkpoint has 20 to 80 kB


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into CheckpointErrors that name the file."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, inside ``with reading(path)``. CheckpointError if it is not a regular file."""
    # Asked before it is opened: opening a pipe would wait for its writer.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    return open(path, "rb")


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, of at most ``MAX_JSON`` bytes. Raises CheckpointError."""
    with reading(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON:
            raise CheckpointError(
                f"{path} has {size} bytes, too many for a model's JSON file (at most {MAX_JSON})"
            )
        data = file.read(size)
    return parse_object(data, str(path))


def parse_object(data: bytes, where: str, *, integers_only: bool = False) -> dict[str, Any]:
    """Parse one JSON object, strictly: UTF-8 only, no duplicate keys, no NaN, no lone surrogates.

    Parameters
    ----------
    data : bytes
        The JSON text.
    where : str
        What is being read; errors begin with it.
    integers_only : bool
        Accept no numbers but integers from 0 to 2**63 - 1, written with digits only.

    Raises
    ------
    CheckpointError
        The text is not one JSON object, or not a strict one.
    """
    numbers: dict[str, Callable[[str], Any]] = {"parse_constant": _refuse_number}
    if integers_only:
        numbers |= {"parse_float": _refuse_number, "parse_int": _natural_number}
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique_keys, **numbers)
        if "\\u" in text:  # only an escape can make a lone surrogate, which no UTF-8 text may hold
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply for a model's JSON") from None
    except ValueError as error:  # UnicodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds {shown(value)}; a JSON object is needed")
    return value


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {shown(text)} is not allowed")


def _natural_number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        _refuse_number(text)
    return int(text)
