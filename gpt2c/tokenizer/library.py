"""The common part of tokenizers that other libraries run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .base import Tokenizer, check_id, check_known, check_memory, check_text, id_list
from .window import window_offsets

__all__ = ["LibraryTokenizer", "Spans"]

# The most that tokenizers 0.23 took for a byte, of texts whose every second character is a space: 252.
_PER_BYTE = 320

Spans = list[tuple[int, int]]


class LibraryTokenizer(Tokenizer):
    """A tokenizer that knows its vocabulary and token positions; subclasses query the library.

    Attributes
    ----------
    _n_ids : int
        The number of ids that the model has.
    """

    _n_ids: int

    def _encoded(self, text: str, special: bool, continued: bool) -> tuple[list[int], Callable[[], Spans]]:
        """The ids of a text, and a function that computes their offsets."""
        raise NotImplementedError

    def _token(self, index: int) -> str | None:
        """A token as the vocabulary writes it; None for an id without one."""
        raise NotImplementedError

    def encode(self, text: str, special: bool = False, *, continued: bool = False) -> list[int]:
        check_text(text)
        check_memory(text, _PER_BYTE)
        ids, _ = self._encoded(text, bool(special), continued)
        if ids and max(ids) >= self._n_ids:
            self._check(ids)
        return ids

    encode.__doc__ = Tokenizer.encode.__doc__

    def offsets(self, text: str, ids: Iterable[int], *, special: bool = False) -> Spans | None:
        ids = id_list(ids)
        check_memory(text, _PER_BYTE)
        for reads in (special, not special):
            for continued in (False, True):
                found, places = self._encoded(text, reads, continued)
                if found[: len(ids)] == ids:
                    return places()[: len(ids)]
        return window_offsets(self.decode, text, ids)

    offsets.__doc__ = Tokenizer.offsets.__doc__

    def _check(self, ids: Iterable[int]) -> None:
        """Raise for a token that the model lacks."""
        for index in ids:
            check_id(index, self._token(index) or "", self._n_ids)

    def _known(self, token_id: int) -> str | None:
        """The token of an id that must be in the vocabulary, or among those of the model."""
        check_known(token_id, max(self.n_vocab, self._n_ids))
        return self._token(token_id)
