"""Progress of work on files: a bar on a terminal, otherwise an occasional line."""

from __future__ import annotations

import sys
from time import perf_counter
from types import TracebackType
from typing import Any

from ..views.ansi import is_terminal
from .console import leave_at_interrupt, note
from .formatting import counted

__all__ = ["Progress"]

EVERY = 30.0
"""Seconds between two lines without a terminal."""


class Progress:
    """A context manager around the work on files; Ctrl-C inside reports the progress.

    Parameters
    ----------
    doing : str
        The name of the work.
    size : int
        Its size.
    unit : str
        Unit of the size: "B" for bytes, or the items counted.
    n_files : int
    directory : str
        The directory of the outputs.
    quiet : bool
        Whether nothing is shown.
    """

    def __init__(self, doing: str, size: int, unit: str, n_files: int, directory: str, quiet: bool) -> None:
        # Deferred, because a single text does not need it.
        from tqdm import tqdm

        self.size, self.unit, self.n_files, self.directory = size, unit, n_files, directory
        self.done = self.resumed = self.tokens = self.files = self.records = 0
        self.begin = self.told = perf_counter()
        self._lines = not quiet and not is_terminal(sys.stderr)
        self._bar: Any = tqdm(
            desc=doing,
            total=size,
            unit=unit,
            unit_scale=unit == "B",
            leave=False,
            disable=quiet or self._lines,
        )

    def __enter__(self) -> Progress:
        leave_at_interrupt(self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave_at_interrupt()
        self._bar.close()

    def advance(self, size: int, n_tokens: int | None) -> None:
        """A record is done; without a number of tokens, in an earlier run."""
        self.done += size
        self.records += 1
        if n_tokens is None:
            self.resumed += size
            # Not part of the rate.
            if not self._bar.disable:
                self._bar.initial += size
                self._bar.last_print_n += size
        self.tokens += n_tokens or 0
        now = perf_counter()
        rate = f"{self.tokens / max(1e-9, now - self.begin):,.0f} tokens/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update(size)
        if self._lines and now - self.told >= EVERY:
            self.told = now
            left = (now - self.begin) * (self.size - self.done) / max(1, self.done - self.resumed)
            whole = f"{self.size / 1e6:,.1f} MB" if self.unit == "B" else f"{self.size:,} {self.unit}"
            share = f"{self.done / max(1, self.size):.0%} of {whole}"
            note(f"{share} · {rate} · about {self._bar.format_interval(max(0.0, left))} left")

    def finish(self) -> None:
        """A file is done."""
        self.files += 1
        self.records = 0

    def _done(self) -> str:
        """The message at Ctrl-C or SIGTERM."""
        done = f"{self.files:,} of {counted(self.n_files, 'file')} finished in {self.directory}"
        begun = f", {counted(self.records, 'record')} of the next done" if self.records else ""
        return f"stopped: {done}{begun}; the same command resumes here"
