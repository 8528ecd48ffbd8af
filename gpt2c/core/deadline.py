"""Ending work early: at a time, or when another thread cancels it."""

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
    """A time limit for the option ``deadline``, which also takes a number of seconds.

    The clock starts with the first call that uses it. Texts end with the tokens they have by then; a call
    that would have nothing to return raises DeadlineError. A pass ends within a few milliseconds.

    Parameters
    ----------
    seconds : float, optional
        Above 0; None: no limit except :meth:`cancel`.

    Examples
    --------
    >>> from gpt2c import Deadline
    >>> limit = Deadline(0.05)
    >>> model.generate("Once", max_new_tokens=10**6, overflow="slide", deadline=limit).finish_reason
    'deadline'
    """

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None:
            allowed = "seconds above 0 (or a Deadline, or None for no limit)"
            seconds = check_number("deadline", seconds, lambda s: s > 0, allowed)
        self.seconds = seconds
        self.turns: Turns | None = None  # if others share the cores: each pass waits for its turn
        self.turn_rows = 0  # rows of a pass to compute in one turn
        self._end = math.inf
        self._cancelled = False

    @classmethod
    def of(cls, given: Any) -> Deadline:
        """The Deadline for a value of the option ``deadline``.

        Parameters
        ----------
        given : float, Deadline or None
            Seconds above 0; a Deadline is returned as it is.

        Raises
        ------
        ValueError, TypeError
            It is none of these.

        Examples
        --------
        >>> Deadline.of(2.5).seconds
        2.5
        """
        return given if isinstance(given, Deadline) else cls(given)

    def begin(self) -> None:
        """Start the clock, unless it is running.

        Examples
        --------
        >>> limit = Deadline(60)
        >>> limit.begin()
        >>> limit.reason is None
        True
        """
        if self.seconds is not None and self._end == math.inf:
            self._end = perf_counter() + self.seconds

    def cancel(self) -> None:
        """Stop the running computation, from any thread, and refuse later ones.

        Examples
        --------
        >>> limit = Deadline()
        >>> limit.cancel()
        >>> limit.reason
        'cancelled'
        """
        self._cancelled = True

    @property
    def reason(self) -> Literal["deadline", "cancelled"] | None:
        """Why the work must end now; None: it may continue."""
        if self._cancelled:
            return "cancelled"
        return "deadline" if perf_counter() >= self._end else None

    def check(self) -> None:
        """Raise DeadlineError if the work must end now. The engine calls this every few milliseconds.

        Raises
        ------
        DeadlineError
            The time has passed, or :meth:`cancel` was called.

        Examples
        --------
        >>> limit = Deadline()
        >>> limit.check()
        >>> limit.cancel()
        >>> limit.check()
        gpt2c.errors.DeadlineError: the call was cancelled before it had a result
        """
        reason = self.reason
        if reason == "cancelled":
            raise DeadlineError("the call was cancelled before it had a result")
        if reason:
            raise DeadlineError(f"there was no result within the deadline of {self.seconds:g} s")


class PartDeadline(Deadline):
    """The end of one of several pieces of work that share a deadline: it can be cancelled alone.

    Parameters
    ----------
    whole : Deadline
        Ends this one, too.
    """

    def __init__(self, whole: Deadline) -> None:
        super().__init__(whole.seconds)
        self._whole = whole

    def begin(self) -> None:
        """Start the clock of the whole."""
        self._whole.begin()

    @property
    def reason(self) -> Literal["deadline", "cancelled"] | None:
        """Why this work must end now; None: it may continue."""
        return super().reason or self._whole.reason
