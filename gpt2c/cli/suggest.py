"""`gpt2c suggest`: suggest what could come next, for one text or as on a keyboard."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ..views.ansi import bold, is_terminal
from .console import note, open_output, raise_at_interrupt, read_text
from .formatting import print_json, quoted
from .loading import load_model

if TYPE_CHECKING:
    from ..introspection.edits import Edit
    from ..model import GPT2
    from ..scoring.results import Suggestion

__all__ = ["run", "suggestion_dict"]


def run(arguments: Namespace) -> None:
    """Suggest what could come next, once or repeatedly."""
    if arguments.words and arguments.edits:
        raise ValueError("--words goes without edits: leave one of them out")
    if arguments.k < 1:
        raise ValueError(f"-k must be at least 1, not {arguments.k}")
    text = read_text(arguments.text)
    if text is None:
        if arguments.json or arguments.output or not is_terminal(sys.stdout):
            text = ""
        else:
            _ask(arguments)
            return
    with open_output(arguments.output) as out:
        model = load_model(arguments)
        if arguments.words:
            _print_words(model, text, arguments, out)
            return
        suggestions = model.suggest(text, arguments.k, special=arguments.special, edits=arguments.edits)
        if arguments.json:
            print_json({"text": text, "suggestions": list(map(suggestion_dict, suggestions))}, out)
        else:
            for suggestion in suggestions:
                print(_shown(suggestion), file=out)


def _print_words(model: GPT2, text: str, arguments: Namespace, out: TextIO) -> None:
    """The words that complete the last one, or follow it."""
    words = model.suggest_words(text, arguments.k, special=arguments.special)
    if arguments.json:
        told = [word._asdict() for word in words]
        print_json({"text": text, "words": told, "remaining": words.remaining}, out)
    else:
        for word in words:
            print(f"{word.probability:7.2%}  {quoted(word.word)}", file=out)


def _ask(arguments: Namespace) -> None:
    """Suggest words while the user types, if the terminal and the installed packages allow it."""
    model = load_model(arguments)
    _ = model.tokenizer  # an error that says why, if there is none
    if not arguments.edits and is_terminal(sys.stdin) and os.environ.get("TERM") != "dumb":
        try:
            from .keyboard import type_texts
        except ImportError:
            note('pip install "gpt2c[keyboard]" suggests words while you type')
        else:
            note(
                "Type. Tab adds the first word below the line, Alt and a number another one; the right arrow "
                "accepts the text after the cursor. Enter starts a new text, Ctrl-D ends."
            )
            type_texts(model, arguments.k, arguments.special)
            return
    _keyboard(model, arguments.k, arguments.special, arguments.edits)


def _keyboard(model: GPT2, k: int, special: bool, edits: Sequence[tuple[str, Edit]]) -> None:
    """Suggest words for a text that grows by typing and picking."""
    with contextlib.suppress(ImportError):
        # Line editing, if Python has it.
        import readline  # noqa: F401
    note(
        "Type the start of a text. A number picks a suggestion, Enter alone the first; a line that starts "
        "with a space continues the text, any other line starts a new one. Ctrl-D ends."
    )
    text, ids = "", np.empty(0, np.int32)
    suggestions: list[Suggestion] = []
    while True:
        try:
            with raise_at_interrupt():
                line = input("> ")
        except EOFError:
            print()
            return
        _decodable(line)
        picked = None
        if suggestions and not line:
            picked = suggestions[0]
        elif line.isdecimal() and 1 <= int(line) <= len(suggestions):
            picked = suggestions[int(line) - 1]
        # A longer number may be a text, such as 1001.
        elif suggestions and line.isdecimal() and len(line) <= 3:
            note(f"suggestion {line} does not exist: 1 to {len(suggestions)}")
            continue
        try:
            if picked:  # its token, which its text alone may not reproduce
                text, ids = text + picked.text, np.append(ids, np.int32(picked.token_id))
            elif text and line.startswith(" "):
                more = model.encode_text(line, "the typed text", special=special, continued=True)
                text, ids = text + line, np.concatenate([ids, more])
            else:
                text, ids = line, model.encode([line], special=special)[0]
            suggestions = model.suggest(ids, k, edits=edits)
        except ValueError as error:
            # For example, the text has outgrown the context.
            note(str(error))
            continue
        print(bold(text, sys.stdout))
        for number, suggestion in enumerate(suggestions, 1):
            print(f"{number:3} {_shown(suggestion)}")


def _decodable(line: str) -> None:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the typed line is not UTF-8 text") from None


def _shown(suggestion: Suggestion) -> str:
    return f"{suggestion.probability:7.2%}  {quoted(suggestion.text)}"


def suggestion_dict(suggestion: Suggestion) -> dict[str, Any]:
    """A suggestion for JSON, its bytes in hexadecimal."""
    return {**suggestion._asdict(), "bytes": suggestion.bytes.hex()}
