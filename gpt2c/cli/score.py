"""`gpt2c score`: score a text token by token, or files of texts."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any, TypeGuard

from .console import open_output, read_text
from .dtype import load_to_score
from .score_tables import write_score
from .text_or_files import FILES_ONLY, given_options, names_files, refuse_for_a_text

if TYPE_CHECKING:
    from ..bert import BERT
    from ..corpus.tasks import Task
    from ..model import GPT2

__all__ = ["run"]

_OF_GPT2 = ("repeat_bos", "window", "stride", "min_context", "words", "edits")
"""The options that a BERT lacks."""

_OF_SCORES = ("bos", "repeat_bos", "special", "window", "stride", "min_context")
"""The options for a text and for files."""


def run(arguments: Namespace) -> None:
    """Score a text token by token, or files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and names_files(arguments):
        _score_files(arguments)
    else:
        _score_text(arguments)


def _score_files(arguments: Namespace) -> None:
    # Deferred, because a single text does not need them.
    from ..corpus.tasks import SCORES
    from .corpora import Work, run_files

    options = {name: getattr(arguments, name) for name in ("max_tokens", *_OF_SCORES)}
    work = Work(
        results="scores",
        for_a_text="for one text token by token: -f",
        of_a_text=("json", "csv", "words", "top", "edits"),
        columns=SCORES,
        make_task=lambda directory: _task(arguments, directory, options),
    )
    run_files(arguments, work)


def _task(arguments: Namespace, directory: str, options: dict[str, Any]) -> Task:
    from ..corpus.tasks import Scoring

    model = load_to_score(arguments, directory)
    if _is_masked(model, arguments):
        from ..corpus.masked_scoring import MaskedScoring

        names = ("max_tokens", "special", "within_word")
        return MaskedScoring(model, **{name: getattr(arguments, name) for name in names})
    return Scoring(model, **options)


def _is_masked(model: GPT2 | BERT, arguments: Namespace) -> TypeGuard[BERT]:
    """Whether the model is a BERT, which has options of its own and lacks others."""
    is_bert = model.config.is_bert
    of_gpt2 = [*given_options(arguments, _OF_GPT2), *["--bos or --no-bos"] * (arguments.bos is not True)]
    if is_bert and of_gpt2:
        raise ValueError(
            f"{of_gpt2[0]} is for a GPT-2, but {model.name} is a BERT, which masks token by token"
        )
    if not is_bert and arguments.within_word:
        raise ValueError("--within-word is for a BERT, which masks token by token")
    return is_bert


def _score_text(arguments: Namespace) -> None:
    refuse_for_a_text(arguments, (*FILES_ONLY, "max_tokens"))
    if arguments.top is not None and arguments.words and not arguments.json:
        raise ValueError("--top shows tokens, --words shows words: leave one out, or use --json")
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to score: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output, arguments.file) as out:
        model = load_to_score(arguments)
        if _is_masked(model, arguments):
            options = {name: getattr(arguments, name) for name in ("special", "within_word")}
            write_score(model, model.score(text, top=arguments.top or 0, **options), arguments, out)
            return
        options = {name: getattr(arguments, name) for name in _OF_SCORES}
        shown = {"top": arguments.top or 0, "words": arguments.words, "edits": arguments.edits}
        write_score(model, model.score(text, **options, **shown), arguments, out)
