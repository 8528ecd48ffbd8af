"""Text from tokens whose decoding depends on their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .base import StreamDecoder

__all__ = ["WindowDecoder", "window_offsets"]

_Decode = Callable[[list[int]], str]


class WindowDecoder(StreamDecoder):
    """A stream decoder that decodes the latest tokens together with the next one.

    Text that ends with U+FFFD is held back, since it may be the first part of a character. The tokens shown
    last stay before the new ones, because many tokenizers decode the first token of a text differently.

    Parameters
    ----------
    decode : function of a list of token ids
    before : sequence of int
        The tokens that stand before the text.
    waits : function of a token id
        Whether the text of a token may yet change with the next one.
    """

    def __init__(
        self, decode: _Decode, before: Sequence[int] = (), waits: Callable[[int], bool] = lambda token: False
    ) -> None:
        self._decode = decode
        self._waits = waits
        self._before = list(before)
        self._latest: list[int] = []
        # How many characters fewer the text has than those shown: U+FFFD, of which some became one character.
        self._owed = 0

    def push(self, token_id: int) -> str:
        self._latest.append(token_id)
        if self._waits(token_id):
            return ""
        text = self._decode([*self._before, *self._latest])
        return "" if text.endswith("\ufffd") else self._show(text)

    def flush(self) -> str:
        piece = self._show(self._decode([*self._before, *self._latest])) if self._latest else ""
        self._before = []
        return piece

    def _show(self, text: str) -> str:
        shown = self._owed + (len(self._decode(self._before)) if self._before else 0)
        piece = text[shown:]
        self._owed = max(0, shown - len(text))
        # The window does not begin with tokens without text, which would leave the next one the first, nor
        # inside a character.
        alone = self._decode(self._latest)
        begins = alone and not alone.startswith("\ufffd")
        self._before = self._latest if begins else [*self._before, *self._latest]
        self._latest = []
        return piece


def window_offsets(decode: _Decode, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """Where the tokens of a text stand in it, if they decode to it: those that share a character share it."""
    spans: list[tuple[int, int]] = []
    decoder, done, waiting = WindowDecoder(decode), "", 0
    for token in [*ids, None]:
        piece = decoder.flush() if token is None else decoder.push(token)
        waiting += token is not None
        if piece or token is None:
            spans += [(len(done), len(done + piece))] * waiting
            done, waiting = done + piece, 0
    return spans if done == text else None
