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
    """

    def __init__(self, decode: _Decode, before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._before = list(before)
        self._latest: list[int] = []

    def push(self, token_id: int) -> str:
        self._latest.append(token_id)
        text = self._decode([*self._before, *self._latest])
        return "" if text.endswith("\ufffd") else self._show(text)

    def flush(self) -> str:
        piece = self._show(self._decode([*self._before, *self._latest])) if self._latest else ""
        self._before = []
        return piece

    def _show(self, text: str) -> str:
        piece = text[len(self._decode(self._before)) :] if self._before else text
        # Tokens without text would leave the next one the first.
        self._before = self._latest if self._decode(self._latest) else [*self._before, *self._latest]
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
