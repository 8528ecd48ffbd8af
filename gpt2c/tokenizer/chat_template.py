"""The chat template of a model: how its tokenizer files write a dialogue as one text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import TokenizerError, shown
from .reading import read_json, read_text

__all__ = ["FILE", "MOST_CHARACTERS", "default_template", "read_chat_template"]

FILE = "chat_template.jinja"
MOST_CHARACTERS = 64 << 10

_DIALOGPT = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"


def read_chat_template(directory: Path) -> str | None:
    """The template that transformers would use: chat_template.jinja, else that of tokenizer_config.json.

    DialoGPT predates templates; if its files have none, it gets its authors' format: each message is followed
    by the end-of-text token.

    Raises
    ------
    TokenizerError
        A file cannot be read, or its template is not one or is too long.
    """
    path = directory / FILE
    if path.is_file():
        template: str | None = read_text(path)
    else:
        path = directory / "tokenizer_config.json"
        given = read_json(path, default={}).get("chat_template")
        template = default_template(given)
        if template is None and given is not None and not isinstance(given, list):
            raise TokenizerError(f"{path}: chat_template must be a text or a list, not {shown(given)}")
    if template is None:
        return _DIALOGPT if _is_dialogpt(directory / "config.json") else None
    if len(template) > MOST_CHARACTERS:
        raise TokenizerError(
            f"{path}: the chat template has {len(template):,} characters; allowed: {MOST_CHARACTERS:,}"
        )
    return template


def default_template(given: Any) -> str | None:
    """The effective template of ``chat_template``, which may be one, or several with names."""
    if isinstance(given, list):
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        given = named.get("default")
    elif isinstance(given, dict):  # as an object of transformers has it
        given = given.get("default")
    return given if isinstance(given, str) else None


def _is_dialogpt(path: Path) -> bool:
    """Whether a config.json is that of DialoGPT, or of a model derived from it."""
    config = read_json(path, default={})
    tasks = config.get("task_specific_params")
    name = config.get("_name_or_path")
    made_from = isinstance(name, str) and "dialogpt" in name.lower()
    return made_from or (isinstance(tasks, dict) and "conversational" in tasks)
