"""Turns at computing for threads that share the same cores."""

from __future__ import annotations

from collections import deque
from threading import Lock

__all__ = ["Turns"]


class Turns:
    """Runs the passes of several threads one after the other, first come, first served.

    The engine takes a turn for each pass whose deadline has one, and gives way to others when the deadline's
    number of rows has passed through the layers.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken = False
        self._waiting: deque[Lock] = deque()

    def take(self) -> None:
        """Wait for this thread's turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()  # released by the thread that passes the turn on

    def give(self) -> None:
        """Pass the turn on."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def pass_on(self) -> None:
        """Let all waiting threads run before continuing."""
        if self._waiting:
            self.give()
            self.take()
