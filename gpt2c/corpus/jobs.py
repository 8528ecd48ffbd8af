"""Work on whole files of texts: each becomes a file of the same format, with results in every record."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..core.files import create, replacing
from .formats import FORMATS, read, remark, require, write
from .journal import Journal
from .lines import COMPRESSIONS
from .records import Done, Fault, FileOptions, Job, Record

if TYPE_CHECKING:
    from ..tokenizer.base import Tokenizer
    from .tasks import Task

__all__ = [
    "Fault",
    "FileOptions",
    "Job",
    "Totals",
    "check_input",
    "check_settings",
    "claim",
    "discard_journals",
    "is_input",
    "perform",
    "plan",
    "recorded",
    "remark",
    "survey",
]

# In the directory of outputs; readers of data sets skip names that start with _.
SETTINGS = "_gpt2c.json"


def is_input(path: str) -> bool:
    """Whether a file of this name can be read record by record."""
    return _kind(path) is not None


def _kind(path: str) -> tuple[str, str, str] | None:
    """The name without its endings, format and compression."""
    stem, compression = os.path.splitext(path)
    if compression not in COMPRESSIONS:
        stem, compression = path, ""
    stem, format = os.path.splitext(stem)
    # Parquet has its own compression.
    if format in FORMATS and not (format == ".parquet" and compression):
        return os.path.basename(stem), format, compression
    return None


def check_input(source: str) -> None:
    """Raise ValueError or OSError unless ``source`` names a file."""
    if source == "-":
        raise ValueError("stdin has no name for the output: give files")
    if os.path.isdir(source):
        raise IsADirectoryError(
            f"{source} is a directory: give its files, such as {source.rstrip('/')}/*.jsonl; if "
            "that is a text, give it on stdin"
        )
    if not os.path.exists(source):
        raise FileNotFoundError(
            f"the file {source} does not exist: several arguments, or one with -o DIR, are names of files; "
            "put a text of several words in quotes, without -o DIR"
        )
    if not os.path.isfile(source):
        raise ValueError(f"{source} is not a regular file, and inputs are read twice: give a file")


def plan(inputs: Sequence[str], directory: str, options: FileOptions) -> list[Job]:
    """The jobs that turn ``inputs`` into files in ``directory``; ValueError or OSError if they cannot."""
    shard, shards = options.shard
    jobs: dict[str, Job] = {}
    for source in inputs:
        check_input(source)
        kind = _kind(source)
        if kind is None:
            raise ValueError(
                f"{source} is of an unknown format: file names must end with .txt, .jsonl, .ndjson, .json, "
                ".csv or .tsv, optionally followed by .gz, .zst, .bz2 or .xz, or with .parquet; if that is "
                "a text, give it on stdin"
            )
        stem, format, compression = kind
        part = f".{shard}-of-{shards}" if shards > 1 else ""
        # The whole name, so that a.txt and a.jsonl have different outputs.
        name = f"{stem}{part}{'.txt.jsonl' if format == '.txt' else format}{compression}"
        job = Job(source, os.path.join(directory, name), format, compression)
        if name in jobs and os.path.samefile(jobs[name].source, source):
            raise ValueError(f"{source} is given twice")
        if name in jobs:
            raise ValueError(
                f"{jobs[name].source} and {source} would both be written to {job.target}: choose "
                "different directories"
            )
        jobs[name] = job
        require(job)
    if options.delimiter is not None and not any(job.format in (".csv", ".tsv") for job in jobs.values()):
        raise ValueError(f"delimiter {options.delimiter!r} is for .csv and .tsv files, but there are none")
    sources = {os.path.realpath(job.source): job.source for job in jobs.values()}
    for job in jobs.values():
        for output in (job.target,) if options.on_error == "stop" else (job.target, job.errors):
            overwritten = sources.get(os.path.realpath(output))
            if overwritten is not None:
                raise ValueError(
                    f"the output {output} would replace the input {overwritten}: give another directory"
                )
        other = jobs.get(os.path.basename(job.errors))
        if other is not None and options.on_error != "stop":
            raise ValueError(
                f"the bad records of {job.source} and the output of {other.source} would both be written to "
                f"{job.errors}: choose different directories"
            )
    return list(jobs.values())


def recorded(directory: str) -> dict[str, Any]:
    """The settings of the outputs in ``directory``, as recorded by `claim`; empty if not recorded."""
    path = os.path.join(directory, SETTINGS)
    try:
        with open(path, "rb") as file:
            return dict(json.load(file))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError):
        raise ValueError(f"{path} is damaged: choose another directory, or remove {directory}") from None


def claim(directory: str, task: Task, options: FileOptions, jobs: Sequence[Job]) -> None:
    """Record the settings of the outputs in ``directory``, unless recorded.

    If several processes start at once, one records and the others compare: see `check_settings`.
    """
    check_settings(directory, task, options, jobs)
    values = {"model": task.model.name, **settings(task, options)}
    text = f"{json.dumps(values, ensure_ascii=False, indent=2)}\n"
    create(os.path.join(directory, SETTINGS), text.encode("utf-8", "backslashreplace"))
    check_settings(directory, task, options, jobs)


def check_settings(directory: str, task: Task, options: FileOptions, jobs: Sequence[Job]) -> None:
    """Raise ValueError if outputs in ``directory`` have, or may have, other settings.

    Existing outputs count as finished, so all in a directory must have the same settings.
    """
    found, mine = recorded(directory), settings(task, options)
    if not found:
        for job in jobs:
            if os.path.lexists(job.target):
                raise ValueError(
                    f"{job.target} exists, but was not made by this command: choose another directory"
                )
        return
    # As JSON, in which true and the token id 1 differ.
    names = [name for name, value in mine.items() if json.dumps(found.get(name)) != json.dumps(value)]
    if not names:
        return
    # Settings of another task differ in nearly everything.
    names = names[:1] if names[0] == "task" else names
    # A random seed may differ because of another difference.
    names = [name for name in names if name != "seed"] or names
    told = "; ".join(f"{name} was {found.get(name)!r}, now {mine[name]!r}" for name in names)
    raise ValueError(
        f"{directory} holds outputs with other settings ({told}): choose another directory, or remove it"
    )


def settings(task: Task, options: FileOptions) -> dict[str, Any]:
    """Everything besides their inputs that outputs depend on, as JSON."""
    model = task.model
    of_files = ("text_field", "lines", "on_error", "delimiter", "prefix")
    values = {
        "task": task.doing,
        "weights_sha256": model.source_sha256(),
        "tokenizer_sha256": _sha256(model.tokenizer) if model.has_tokenizer else None,
        "numerics": model.numerics,
        **{name: getattr(options, name) for name in of_files},
        "shards": options.shard[1],
        **task.settings,
    }
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


@lru_cache(maxsize=1)
def _sha256(tokenizer: Tokenizer) -> str | None:
    """The hash of a tokenizer in packed form, wherever it was read; None if it cannot be packed."""
    import hashlib

    packed = tokenizer.packed()
    if packed is None:
        return None
    return hashlib.sha256(json.dumps(packed, sort_keys=True).encode()).hexdigest()


def discard_journals(jobs: Iterable[Job]) -> None:
    """Remove files that a process killed at the very end left beside finished outputs."""
    for job in jobs:
        Journal(job).remove()


def survey(job: Job, options: FileOptions, task: Task) -> int:
    """Read and check a file, and return the size of the work, as in `Task.size`."""
    return sum(task.size(record.text) for record in read(job, options, text_only=True, check=task.check))


@dataclass
class Totals:
    """Counts and times of finished work."""

    records: int = 0
    resumed: int = 0
    """The records that an earlier run had computed; tokens and bytes exclude these."""
    empty: int = 0
    truncated: int = 0
    faults: int = 0
    tokens: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def add(self, other: Totals) -> None:
        """Add all counts and times of ``other``."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def perform(
    job: Job,
    options: FileOptions,
    task: Task,
    advance: Callable[[int, int | None], object] = lambda *_: None,
) -> Totals:
    """Process the records of a file; the output appears once it is complete.

    Bad records, unless they stop the work, are listed in ``job.errors``, which appears before it. Results
    that an earlier run had computed before it was stopped come from its journal.

    Parameters
    ----------
    job : Job
        From `plan`. Any output of that name is replaced.
    options : FileOptions
    task : Task
    advance : callable, optional
        Called after every record with its size, as `survey` counts, and its number of tokens; None if it was
        computed by an earlier run.

    Raises
    ------
    ValueError, OSError
        As from `survey`, or the output cannot be written; nothing is then written.
    """
    totals, begin = Totals(), perf_counter()
    journal = Journal(job, task.columns, settings(task, options))

    def counted(report: Callable[[Record], object]) -> Done:
        records = read(job, options, check=task.check, report=report)
        for record, rows, is_new in journal.done(records, task.rows):
            yield record, rows
            counts = task.count(rows)
            totals.records += 1
            totals.resumed += not is_new
            totals.empty += counts.empty
            totals.truncated += counts.truncated
            if is_new:
                totals.tokens += counts.tokens
                totals.bytes += counts.bytes
            advance(task.size(record.text), counts.tokens if is_new else None)

    with _appearing(job.target) as out, _listed(job, options, totals) as report, journal:
        write(out, job, options, counted(report))
    journal.remove()
    totals.seconds = perf_counter() - begin
    return totals


@contextlib.contextmanager
def _appearing(path: str) -> Iterator[Any]:
    """A file of bytes: if its name exists after a crash, its contents are complete."""
    with replacing(path, binary=True, take_over=True) as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


@contextlib.contextmanager
def _listed(job: Job, options: FileOptions, totals: Totals) -> Iterator[Callable[[Record], object]]:
    """Writes and counts bad records; their file, if any, appears before the output."""
    if options.on_error == "stop":
        yield lambda _: None
        return
    with _appearing(job.errors) as out:

        def report(record: Record) -> None:
            fault = record.fault
            assert fault is not None
            told = {
                "file": fault.place.source,
                fault.place.unit: fault.place.number,
                "field": fault.field,
                "reason": fault.reason,
                "kept": record.original is not None,
            }
            # Half a surrogate pair, in the name of a file, becomes an escape, as in JSON.
            out.write(f"{json.dumps(told, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace"))
            totals.faults += 1

        yield report
    if not totals.faults:
        os.unlink(job.errors)
