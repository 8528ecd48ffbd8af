"""Whether the arguments are a text or files of texts, and which options go with either."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence

__all__ = ["FILES_ONLY", "given_options", "names_files", "refuse_for_a_text"]

FILES_ONLY = ("text_field", "lines", "on_error", "delimiter", "shard", "prefix", "quiet")
"""The options, by argument name, that have no effect on a single text."""


def names_files(arguments: Namespace) -> bool:
    """Whether the arguments are names of files rather than a text.

    Raises
    ------
    FileNotFoundError
        A single one looks like the name of a file, and there is none.
    """
    given, output = arguments.text, arguments.output or ""
    if len(given) > 1 or output.endswith("/") or os.path.isdir(output):
        return True
    if not given or given == ["-"] or given[0].split() != given:
        return False
    # A single word is a name if such a path exists, or if it has a known suffix.
    if os.path.exists(given[0]):
        return True
    if "." in given[0]:
        # Deferred, as most texts do not need it.
        from ..corpus.jobs import is_input

        if is_input(given[0]):
            raise FileNotFoundError(
                f"the file {given[0]} does not exist; if that is a text, give it on stdin: echo {given[0]} | "
                f"gpt2c {arguments.command}"
            )
    return False


def refuse_for_a_text(arguments: Namespace, names: Sequence[str] = FILES_ONLY) -> None:
    """Raise ValueError if one of these options is given."""
    for option in given_options(arguments, names):
        raise ValueError(f"{option} is for files of texts: give them as arguments, with -o DIR")


def given_options(arguments: Namespace, names: Sequence[str]) -> Iterator[str]:
    """Those of the options that are given."""
    for name in names:
        value = getattr(arguments, name)
        # The value may be 0.
        if value is not None and value is not False and value != []:
            yield "--" + {"edits": "edit"}.get(name, name).replace("_", "-")
