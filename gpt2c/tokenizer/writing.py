"""From tokens to text: bytes become characters, and stop strings end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import StreamDecoder

__all__ = ["Writer"]


class Writer:
    """The text of a continuation, token by token, up to the first stop string.

    Parameters
    ----------
    decoder : StreamDecoder or None
        None writes nothing.
    stop : tuple of str
    skip : int
        The number of characters to drop at the start.

    Attributes
    ----------
    text : str
        The text that certainly belongs to the continuation.
    stopped : bool
        Whether a stop string was found; nothing may be added after that.
    """

    def __init__(self, decoder: StreamDecoder | None, stop: tuple[str, ...], skip: int = 0) -> None:
        self._decoder, self._skip = decoder, skip
        self._filter = _StopFilter(stop)
        self._pieces: list[str] = []

    @property
    def stopped(self) -> bool:
        return self._filter.stopped

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """Add a token; returns what it adds to the text."""
        return self._add(self._decoder.push(token)) if self._decoder else ""

    def finish(self) -> str:
        """End the continuation; returns the text held back, unless a stop string ended it."""
        if not self._decoder or self.stopped:
            return ""
        piece = self._add(self._decoder.flush())
        if not self.stopped:
            held = self._filter.flush()
            self._pieces.append(held)
            piece += held
        return piece

    def cancel(self) -> str:
        """End an abandoned continuation; returns the text held back. An incomplete character is dropped."""
        held = self._filter.flush()
        self._pieces.append(held)
        return held

    def _add(self, text: str) -> str:
        text, self._skip = text[self._skip :], max(0, self._skip - len(text))
        piece = self._filter.push(text)
        self._pieces.append(piece)
        return piece


class _StopFilter:
    """Lets text through up to the first stop string, holding back what could be the beginning of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stopped = False
        self._stop = stop
        # At most this many characters at the end of the text can be the beginning of a stop string.
        self._reach = max(map(len, stop), default=1) - 1
        self._held = ""

    def push(self, text: str) -> str:
        """Add ``text``; returns the text that certainly belongs to the result."""
        if not self._stop:
            return text
        text = self._held + text
        found = [at for at in map(text.find, self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        certain = len(text)
        for at in range(max(0, len(text) - self._reach), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stop):
                certain = at
                break
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """The text held back, once it is known that no stop string follows."""
        held, self._held = self._held, ""
        return held
