"""The language of a page: English is in its scripts, another one in a table, languages/NAME.json.

A table maps each English text of the scripts, with the places of its values, to one of its language.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

__all__ = ["ENGLISH", "check_language", "languages", "said", "words_of"]

ENGLISH = "en"
_TABLES = files(__package__).joinpath("languages")


def languages() -> list[str]:
    """The languages that a page can have."""
    names = [table.name for table in _TABLES.iterdir()]
    return [ENGLISH, *sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))]


def check_language(lang: Any) -> None:
    """Raise ValueError where a page cannot be in this language."""
    if lang not in languages():
        raise ValueError(f"lang must be one of {', '.join(map(repr, languages()))}, not {lang!r}")


def words_of(lang: str) -> dict[str, Any]:
    """The table of a language; nothing for English."""
    check_language(lang)
    found: dict[str, Any] = {}
    if lang != ENGLISH:
        found = json.loads(_TABLES.joinpath(f"{lang}.json").read_text("utf-8"))
    return found


def said(lang: str, text: str) -> str:
    """A text outside the scripts, in this language."""
    return words_of(lang).get(text, text)
