"""`gpt2c score`: how probable a text is, token by token, or files of texts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from ..corpus.tasks import SCORES, Scoring
from .console import open_output, read_text
from .corpora import FILES_ONLY, Work, names_files, refuse_for_a_text, run_files
from .dtype import load_to_score
from .score_tables import write_score

__all__ = ["run"]

_OPTIONS_OF_ONE = ("repeat_bos", "window", "min_context", "top", "words")
"""What ``GPT2.score`` takes and files of texts do not."""


def run(arguments: Namespace) -> None:
    """Score a text token by token, or files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and names_files(arguments):
        _refuse_for_files(arguments)
        run_files(arguments, Work("scores", "for one text token by token: -f", SCORES, _task(arguments)))
    else:
        _score_text(arguments)


def _refuse_for_files(arguments: Namespace) -> None:
    for name in ("csv", *_OPTIONS_OF_ONE):
        if getattr(arguments, name) is not None and getattr(arguments, name) is not False:
            raise ValueError(f"--{name.replace('_', '-')} is for a single text, not for files of texts")


def _task(arguments: Namespace) -> Callable[[str], Scoring]:
    """What makes the task of scoring files into a directory."""
    options = {name: getattr(arguments, name) for name in ("max_tokens", "bos", "special", "stride")}
    return lambda directory: Scoring(load_to_score(arguments, directory), **options)


def _score_text(arguments: Namespace) -> None:
    refuse_for_a_text(arguments, (*FILES_ONLY, "max_tokens"))
    if arguments.top is not None and arguments.words and not arguments.json:
        raise ValueError("--top is of tokens, and --words shows words: leave one out, or use --json")
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to score: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output) as out:
        model = load_to_score(arguments)
        asked = {name: getattr(arguments, name) for name in ("bos", "special", "stride", *_OPTIONS_OF_ONE)}
        options = {name: value for name, value in asked.items() if value is not None}
        write_score(model, model.score(text, **options), arguments, out)
