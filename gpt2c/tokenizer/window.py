"""Text from tokens whose decoding depends on their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .base import StreamDecoder

__all__ = ["WindowDecoder", "window_offsets"]

_FEW = 16  # tokens; any number at which a window may begin is right

_Decode = Callable[[list[int]], str]


class WindowDecoder(StreamDecoder):
    """A stream decoder that decodes the latest tokens together with the next one.

    Text that ends with U+FFFD is held back, since it may be the first part of a character. The tokens shown
    last stay before the new ones, because many tokenizers decode the first token of a text differently.

    Parameters
    ----------
    decode : function of a list of token ids
    before : sequence of int
        The tokens before the text.
    waits : function of a token id
        Whether the text of a token may still change with the next one.
    """

    def __init__(
        self, decode: _Decode, before: Sequence[int] = (), waits: Callable[[int], bool] = lambda token: False
    ) -> None:
        self._decode = decode
        self._waits = waits
        self._before = self._tail(list(before))
        self._latest: list[int] = []
        # By how much the text is shorter than what was shown, where several U+FFFD became one character.
        self._owed = 0

    def alone(self, token_id: int) -> str:
        before = [*self._before, *self._latest]
        return self._decode([*before, token_id])[len(self._decode(before)) if before else 0 :]

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
        self._before = self._latest if self._may_begin(self._latest) else [*self._before, *self._latest]
        self._latest = []
        return piece

    def _may_begin(self, ids: list[int]) -> bool:
        """Whether a window may start with these tokens.

        It may not if some have no text, which would leave the next one the first, nor inside a character or a
        run of tokens whose text may change together.
        """
        if self._waits(ids[0]):
            return False
        text = self._decode(ids)
        return bool(text) and not text.startswith("\ufffd")

    def _tail(self, before: list[int]) -> list[int]:
        """The last tokens that affect the text of the next one."""
        size = _FEW
        while size < len(before) and not self._may_begin(before[-size:]):
            size *= 2
        return before[-size:]


def window_offsets(decode: _Decode, text: str, ids: Sequence[int]) -> list[tuple[int, int]] | None:
    """The positions of tokens in a text, if they decode to it; tokens may share a character."""
    spans: list[tuple[int, int]] = []
    decoder, done, waiting = WindowDecoder(decode), "", 0
    for token in [*ids, None]:
        piece = decoder.flush() if token is None else decoder.push(token)
        waiting += token is not None
        if piece or token is None:
            spans += [(len(done), len(done + piece))] * waiting
            done, waiting = done + piece, 0
    return spans if done == text else None
