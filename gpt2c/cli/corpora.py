"""Work on files of texts, for the commands that take them."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..corpus.jobs import (
    Fault,
    FileOptions,
    Job,
    Totals,
    check_input,
    check_settings,
    claim,
    discard_journals,
    is_input,
    perform,
    plan,
    remark,
    survey,
)
from ..views.ansi import is_terminal
from .console import note
from .formatting import counted
from .progress import Progress
from .text_or_files import FILES_ONLY, given_options

if TYPE_CHECKING:
    from ..corpus.tasks import Task

__all__ = ["Work", "run_files"]


class Work(NamedTuple):
    """What a command does with files."""

    results: str
    """Its results, as in "scores"."""
    for_a_text: str
    """What to do with a file that is one text."""
    of_a_text: Sequence[str]
    """The options, by their names in the arguments, that are for a single text."""
    columns: Mapping[str, type]
    """The columns of the task."""
    make_task: Callable[[str], Task]
    """Creates the task, with a model, for a directory, whose recorded settings may matter."""


def run_files(arguments: Namespace, work: Work) -> None:
    """Do the work on the files in the arguments."""
    directory = _output_directory(arguments, work)
    for option in given_options(arguments, work.of_a_text):
        raise ValueError(
            f"{option} is for a single text; {work.results} of files have the format of the files"
        )
    given = {name: getattr(arguments, name) for name in FILES_ONLY if name != "quiet"}
    given = {name: value for name, value in given.items() if value is not None}
    options = FileOptions(columns=work.columns, **given)
    jobs = plan(arguments.text, directory, options)
    task = work.make_task(directory)
    # Report missing libraries before the long work.
    _ = task.model.tokenizer
    check_settings(directory, task, options, jobs)
    finished = [job for job in jobs if os.path.isfile(job.target)]
    todo = [job for job in jobs if job not in finished]
    if finished:
        discard_journals(finished)
        rest = "" if todo else ": nothing to do"
        note(f"already in {directory}: {len(finished)} of {counted(len(jobs), 'output')}{rest}")
    if todo:
        size = _survey_all(task, todo, options, arguments.quiet)
        os.makedirs(directory, exist_ok=True)
        claim(directory, task, options, jobs)
        _perform_all(task, todo, options, size, arguments.quiet)


def _output_directory(arguments: Namespace, work: Work) -> str:
    """The directory that -o names; raises ValueError or OSError if the arguments make no sense."""
    directory = arguments.output and (arguments.output.rstrip("/") or "/")
    if directory == "":
        raise ValueError("-o takes the name of a directory, not an empty one")
    if not arguments.text:
        raise ValueError(
            f"{directory} is a directory: give the files whose {work.results} it is for, or -o FILE"
        )
    if (
        directory is None
        or os.path.isfile(directory)
        or (is_input(directory) and not os.path.isdir(directory))
    ):
        for source in arguments.text:
            check_input(source)
        name = arguments.text[0]
        other = "" if directory is None else f"; {directory} is the name of a file"
        raise ValueError(
            f"{work.results} of files go to a directory: give it with -o DIR{other} "
            f"({work.for_a_text} {name})"
        )
    return directory


def _survey_all(task: Task, jobs: Sequence[Job], options: FileOptions, quiet: bool) -> int:
    """Check all inputs, and return the size of the work."""
    # Deferred, because a single text does not need it.
    from tqdm import tqdm

    size = 0
    problems: list[ValueError] = []
    hidden = quiet or not is_terminal(sys.stderr)
    for job in tqdm(jobs, "reading", unit="file", delay=1.5, leave=False, disable=hidden):
        try:
            size += survey(job, options, task)
        except ValueError as error:
            problems.append(error)
    if problems:
        go_on = "\n--on-error null or skip continues, and lists such records in a file"
        some = any(isinstance(error, Fault) for error in problems)
        raise ValueError("\n".join(map(str, problems)) + go_on * some)
    for found in filter(None, (remark(job, options) for job in jobs)):
        if not quiet:
            note(found)
    return size


def _perform_all(task: Task, jobs: Sequence[Job], options: FileOptions, size: int, quiet: bool) -> None:
    """Do the work, and show its progress."""
    from tqdm import tqdm

    totals = Totals()
    directory = os.path.dirname(jobs[0].target)
    with Progress(task.doing, size, task.unit, len(jobs), directory, quiet) as progress:
        for job in jobs:
            done = perform(job, options, task, progress.advance)
            progress.finish()
            totals.add(done)
            with tqdm.external_write_mode(sys.stderr):
                if not quiet:
                    note(f"{job.target}: {_summary(done, task)}")
                if done.faults and not quiet:
                    bad = f"{done.faults:,} bad record{'s' * (done.faults != 1)}"
                    note(f"{bad}, with place and reason: {job.errors}")
    if quiet:
        return
    rest = "" if task.seed is None else f" · seed {task.seed}"
    if totals.bytes:
        hours = task.model.threads * totals.seconds / 3600 / (totals.bytes / 1e9)
        rest += f" · {hours:,.1f} vCPU-hours per GB with {counted(task.model.threads, 'thread')}"
    note(f"{counted(len(jobs), 'file')}: {_summary(totals, task)}{rest}")


def _summary(totals: Totals, task: Task) -> str:
    """A summary of the work and its speed."""
    counts = [
        (totals.resumed, "done by an earlier run"),
        (totals.empty, task.without),
        (totals.truncated, "cut"),
        (totals.faults, "bad"),
    ]
    some = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    megabytes = totals.bytes / 1e6
    size, rate = "", ""
    if task.unit == "B":
        size, rate = f" · {megabytes:,.3f} MB", f" · {megabytes / totals.seconds:,.3f} MB/s"
    return (
        f"{totals.records:,} record{'s' * (totals.records != 1)}{f' ({some})' * bool(some)} · "
        f"{totals.tokens:,} tokens{size} in {totals.seconds:,.1f} s · "
        f"{totals.tokens / totals.seconds:,.0f} tokens/s{rate}"
    )
