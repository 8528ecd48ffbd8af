"""Whose turn it is to compute, where several have work for the same cores."""

from __future__ import annotations

from collections import deque
from threading import Lock

__all__ = ["Turns"]


class Turns:
    """Passes of several threads one after the other, in the order in which they asked.

    The engine takes a turn for each pass whose deadline has one, and lets others have theirs when the
    deadline's number of rows has gone through the layers.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken = False
        self._waiting: deque[Lock] = deque()

    def take(self) -> None:
        """Wait until it is one's turn."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()  # whoever gives the turn releases it

    def give(self) -> None:
        """Let the next one work."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def pass_on(self) -> None:
        """Let all those who wait work before one goes on."""
        if self._waiting:
            self.give()
            self.take()
