"""The parts that pages are put together from: files of packages, and data."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

__all__ = ["json_text", "part", "script_of", "source_hash"]


def part(package: str, name: str) -> str:
    """A file of a package: a template, a style or a piece of a script."""
    return files(package).joinpath(name).read_text("utf-8")


def script_of(pieces: Iterable[str]) -> str:
    """One script, whose pieces see each other and nothing else sees them."""
    joined = "\n".join(pieces)
    return f'(() => {{\n"use strict";\n{joined}}})();'


def json_text(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element: ASCII, without a character that means anything in HTML."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 and its like are escaped
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def source_hash(text: str) -> str:
    """What the content security policy calls an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
