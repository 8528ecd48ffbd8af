"""When work is to end early: at a time, or at a word from another thread."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DeadlineError
from .checks import check_number

if TYPE_CHECKING:
    from .turns import Turns

__all__ = ["Deadline", "PartDeadline"]


class Deadline:
    """Until when a call may work, for the option ``deadline``; a number of seconds there does the same.

    The time runs from the beginning of the first call that has it. Texts end with the tokens that they have
    got by then; what gives nothing before its end raises DeadlineError. A pass ends within some milliseconds.

    Parameters
    ----------
    seconds : float, optional
        Above 0; None: no limit but :meth:`cancel`.
    """

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None:
            allowed = "seconds above 0 (or a Deadline, or None for no limit)"
            seconds = check_number("deadline", seconds, lambda s: s > 0, allowed)
        self.seconds = seconds
        self.turns: Turns | None = None  # where others want the same cores: each pass waits for its own
        self.turn_rows = 0  # how many rows of a pass are computed in one turn
        self._end = math.inf
        self._cancelled = False

    @classmethod
    def of(cls, given: Any) -> Deadline:
        """What the option ``deadline`` stands for."""
        return given if isinstance(given, Deadline) else cls(given)

    def begin(self) -> None:
        """Let the time run, unless it does already."""
        if self.seconds is not None and self._end == math.inf:
            self._end = perf_counter() + self.seconds

    def cancel(self) -> None:
        """End what is being computed, from any thread, and refuse what begins later."""
        self._cancelled = True

    @property
    def reason(self) -> Literal["deadline", "cancelled"] | None:
        """Why the work is to end now; None: it may go on."""
        if self._cancelled:
            return "cancelled"
        return "deadline" if perf_counter() >= self._end else None

    def check(self) -> None:
        """Raise DeadlineError if the work is to end now. The engine asks this every few milliseconds."""
        reason = self.reason
        if reason == "cancelled":
            raise DeadlineError("the call was cancelled before there was a result")
        if reason:
            raise DeadlineError(f"there was no result within the deadline of {self.seconds:g} s")


class PartDeadline(Deadline):
    """The end of one piece of work among those that share a deadline: it may be cancelled alone.

    Parameters
    ----------
    whole : Deadline
        With which it ends too.
    """

    def __init__(self, whole: Deadline) -> None:
        super().__init__(whole.seconds)
        self._whole = whole

    def begin(self) -> None:
        """Let the time of the whole run."""
        self._whole.begin()

    @property
    def reason(self) -> Literal["deadline", "cancelled"] | None:
        """Why this work is to end now; None: it may go on."""
        return super().reason or self._whole.reason
