"""How far the scoring of files is: a bar on a terminal, elsewhere a line now and then."""

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
"""Seconds between two lines where there is no terminal."""


class Progress:
    """A context manager around the scoring of files; Ctrl-C inside says what is done.

    Parameters
    ----------
    size : int
        Bytes of text in all files.
    n_files : int
    directory : str
        Where the outputs go.
    quiet : bool
        Whether nothing is shown.
    """

    def __init__(self, size: int, n_files: int, directory: str, quiet: bool) -> None:
        # Deferred, because a single text does without it.
        from tqdm import tqdm

        self.size, self.n_files, self.directory = size, n_files, directory
        self.bytes = self.tokens = self.files = 0
        self.begin = self.told = perf_counter()
        self._lines = not quiet and not is_terminal(sys.stderr)
        self._bar: Any = tqdm(
            total=size, desc="scoring", unit="B", unit_scale=True, leave=False, disable=quiet or self._lines
        )

    def __enter__(self) -> Progress:
        leave_at_interrupt(self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave_at_interrupt()
        self._bar.close()

    def advance(self, n_bytes: int, n_tokens: int) -> None:
        """A record is scored."""
        self.bytes += n_bytes
        self.tokens += n_tokens
        now = perf_counter()
        rate = f"{self.tokens / (now - self.begin):,.0f} tokens/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update(n_bytes)
        if self._lines and now - self.told >= EVERY:
            self.told = now
            left = (now - self.begin) * (self.size / max(1, self.bytes) - 1)
            share = f"{self.bytes / max(1, self.size):.0%} of {self.size / 1e6:,.1f} MB"
            note(f"{share} · {rate} · about {self._bar.format_interval(max(0.0, left))} left")

    def _done(self) -> str:
        """What to say at Ctrl-C."""
        finished = f"{self.files:,} of {counted(self.n_files, 'file')}"
        return f"stopped: {finished} finished in {self.directory}; the same command goes on with the others"
