"""`gpt2c score`: how probable a text is, token by token, or files of texts."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..corpus.jobs import (
    Fault,
    FileOptions,
    Job,
    Totals,
    check_input,
    claim,
    is_input,
    plan,
    remark,
    score_file,
    survey,
)
from ..scoring.options import ScoringOptions
from ..views.ansi import is_terminal
from .console import note, open_output, read_text
from .formatting import counted
from .loading import load_model
from .progress import Progress
from .score_tables import write_score

if TYPE_CHECKING:
    from ..model import GPT2

__all__ = ["run"]

_OPTIONS_OF_ONE = ("repeat_bos", "window", "min_context", "top", "words")
"""What ``GPT2.score`` takes and files of texts do not."""

_FILES_ONLY = ("text_field", "lines", "on_error", "delimiter", "max_tokens", "shard", "prefix")


def run(arguments: Namespace) -> None:
    """Score a text token by token, or files of texts."""
    if arguments.text and arguments.file is not None:
        raise ValueError("give a text or a file (-f), not both")
    if arguments.file is None and _names_files(arguments):
        _score_files(arguments)
    else:
        _score_text(arguments)


def _names_files(arguments: Namespace) -> bool:
    """Whether the arguments are names of files rather than a text."""
    given, output = arguments.text, arguments.output or ""
    return (
        len(given) > 1
        or output.endswith("/")
        or os.path.isdir(output)
        or (len(given) == 1 and is_input(given[0]) and os.path.isfile(given[0]))
    )


# ---- a text


def _score_text(arguments: Namespace) -> None:
    asked = {name: getattr(arguments, name) for name in (*_FILES_ONLY, "quiet")}
    given = [name for name, value in asked.items() if value is not None and value is not False]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for files of texts: give them as arguments, with -o DIR"
        )
    if arguments.top is not None and arguments.words and not arguments.json:
        raise ValueError("--top is of tokens, and --words shows words: leave one out, or use --json")
    text = read_text(arguments.text[0] if arguments.text else None, arguments.file)
    if text is None:
        raise ValueError("no text to score: give it as an argument, with -f FILE, or on stdin")
    with open_output(arguments.output) as out:
        model = load_model(arguments)
        asked = {name: getattr(arguments, name) for name in ("bos", "special", "stride", *_OPTIONS_OF_ONE)}
        options = {name: value for name, value in asked.items() if value is not None}
        write_score(model, model.score(text, **options), arguments, out)


# ---- files of texts


def _score_files(arguments: Namespace) -> None:
    directory = _output_directory(arguments)
    if arguments.json:
        raise ValueError("--json is for a single text; scores of files are in the format of the files")
    for name in ("csv", *_OPTIONS_OF_ONE):
        if getattr(arguments, name) is not None and getattr(arguments, name) is not False:
            raise ValueError(f"--{name.replace('_', '-')} is for a single text, not for files of texts")
    given = {name: getattr(arguments, name) for name in _FILES_ONLY if getattr(arguments, name) is not None}
    options = FileOptions(bos=arguments.bos, special=arguments.special, stride=arguments.stride, **given)
    jobs = plan(arguments.text, directory, options)
    model = load_model(arguments)
    # What is wrong or missing is raised before the long work.
    ScoringOptions.checked(model, bos=options.bos, stride=options.stride)
    _ = model.tokenizer, options.bos is True and model.start_ids
    os.makedirs(directory, exist_ok=True)
    claim(directory, model, options, jobs)
    todo = [job for job in jobs if not os.path.isfile(job.target)]
    if len(todo) < len(jobs):
        rest = "" if todo else ": nothing to do"
        note(f"already in {directory}: {len(jobs) - len(todo)} of {counted(len(jobs), 'output')}{rest}")
    if todo:
        _run_jobs(model, todo, options, arguments.quiet)


def _output_directory(arguments: Namespace) -> str:
    """The directory that -o names; raises ValueError or OSError where the arguments make no sense."""
    directory = arguments.output and (arguments.output.rstrip("/") or "/")
    if directory == "":
        raise ValueError("-o takes the name of a directory, and got an empty one")
    if not arguments.text:
        raise ValueError(f"{directory} is a directory: give the files whose scores it is for, or -o FILE")
    if (
        directory is None
        or os.path.isfile(directory)
        or (is_input(directory) and not os.path.isdir(directory))
    ):
        for source in arguments.text:
            check_input(source)
        name = arguments.text[0]
        got = "" if directory is None else f"; {directory} is the name of a file"
        raise ValueError(
            f"scores of files go to a directory: give it with -o DIR{got} (for one text token by token: -f "
            f"{name})"
        )
    return directory


def _run_jobs(model: GPT2, jobs: Sequence[Job], options: FileOptions, quiet: bool) -> None:
    """Check all inputs, then score them, and show how far that is."""
    # Deferred, because a single text does without it.
    from tqdm import tqdm

    size = 0
    problems: list[ValueError] = []
    hidden = quiet or not is_terminal(sys.stderr)
    for job in tqdm(jobs, "reading", unit="file", delay=1.5, leave=False, disable=hidden):
        try:
            size += survey(job, options)
        except ValueError as error:
            problems.append(error)
    if problems:
        go_on = "\n--on-error null or skip goes on, and lists such records in a file"
        some = any(isinstance(error, Fault) for error in problems)
        raise ValueError("\n".join(map(str, problems)) + go_on * some)
    for found in filter(None, (remark(job, options) for job in jobs)):
        note(found)
    totals = Totals()
    with Progress(size, len(jobs), os.path.dirname(jobs[0].target), quiet) as progress:
        for job in jobs:
            done = score_file(model, job, options, progress.advance)
            progress.files += 1
            totals.add(done)
            with tqdm.external_write_mode(sys.stderr):
                if not quiet:
                    note(f"{job.target}: {_summary(done)}")
                if done.faults:
                    note(f"{counted(done.faults, 'bad record')}, with place and reason: {job.errors}")
    if quiet:
        return
    cost = ""
    if totals.bytes:
        hours = model.threads * totals.seconds / 3600 / (totals.bytes / 1e9)
        cost = f" · {hours:,.1f} vCPU-hours per GB with {counted(model.threads, 'thread')}"
    note(f"{counted(len(jobs), 'file')}: {_summary(totals)}{cost}")


def _summary(totals: Totals) -> str:
    """What was done, and how fast."""
    counts = [(totals.unscored, "without a score"), (totals.truncated, "cut"), (totals.faults, "bad")]
    some = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    return (
        f"{totals.records:,} record{'s' * (totals.records != 1)}{f' ({some})' * bool(some)} · "
        f"{totals.tokens:,} tokens · {totals.bytes / 1e6:,.3f} MB in {totals.seconds:,.1f} s · "
        f"{totals.tokens / totals.seconds:,.0f} tokens/s · {totals.bytes / 1e6 / totals.seconds:,.3f} MB/s"
    )
