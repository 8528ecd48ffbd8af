"""Sessions that clients return to, by a name they choose."""

from __future__ import annotations

from asyncio import Lock
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["Named", "Sessions"]

MOST_SESSIONS = 64


class Named:
    """A session, once created, and the lock for using it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.session: Session | None = None
        self.n_tokens = 0
        """The number of tokens of its text."""


class Sessions:
    """The most recently used sessions; clients cannot reach each other's.

    Parameters
    ----------
    max_tokens : int
        The maximum number of tokens of all texts except the latest one: their caches take memory.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._named: OrderedDict[tuple[str, str], Named] = OrderedDict()

    def named(self, client: str, name: str | None) -> Named:
        """The session of this name, or a new one; without a name, a temporary one."""
        if name is None:
            return Named()
        found = self._named.setdefault((client, name), Named())
        self._named.move_to_end((client, name))
        others = [*self._named.values()][:-1]
        n_tokens = sum(one.n_tokens for one in others)
        for one in others:
            if len(self._named) <= MOST_SESSIONS and n_tokens <= self._max_tokens:
                break
            self._named.popitem(last=False)
            n_tokens -= one.n_tokens
        return found
