"""A loaded encoder-decoder model: a BERT, and a GPT-2 that attends to its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import numpy as np

from .lm import LoadedModel
from .origins import pickled

if TYPE_CHECKING:
    from ..tokenizer.base import Tokenizer

__all__ = ["LoadedEncoderDecoder", "Projection"]

Encoder = TypeVar("Encoder", bound=LoadedModel)
Decoder = TypeVar("Decoder", bound=LoadedModel)


class Projection(NamedTuple):
    """A dense layer between an encoder and a decoder of another width."""

    weight: np.ndarray
    """float32 [decoder's n_embd, encoder's n_embd]."""
    bias: np.ndarray
    """float32 [decoder's n_embd]."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """``[positions, encoder's n_embd] -> [positions, decoder's n_embd]``.

        In float64 and row by row, so that a result does not depend on the rest of its batch.
        """
        weight = self.weight.astype(np.float64)
        rows = [weight @ row + self.bias for row in states.astype(np.float64)]
        return np.array(rows, np.float32)


class LoadedEncoderDecoder(Generic[Encoder, Decoder]):
    """What translation works on; :class:`gpt2c.EncoderDecoder` adds the public methods.

    Attributes
    ----------
    encoder, decoder : LoadedModel
        The decoder starts a text with its configuration's bos token.
    projection : Projection or None
        The layer between the two, if their widths differ.
    name : str
    notes : list of str
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        projection: Projection | None = None,
        *,
        name: str = "an encoder-decoder model",
        notes: Iterable[str] = (),
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.encoder, self.decoder, self.projection = encoder, decoder, projection
        self.name, self.notes = name, list(notes)
        self._origin = origin

    @property
    def numerics(self) -> str:
        """Everything besides the weights that results depend on: see :attr:`gpt2c.GPT2.numerics`."""
        return self.decoder.numerics

    @property
    def threads(self) -> int:
        """The number of threads a call uses; may be set (None: the default)."""
        return self.decoder.threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        self.decoder.threads = threads
        self.encoder.threads = threads

    @property
    def has_tokenizer(self) -> bool:
        """Whether the encoder has a tokenizer for sources."""
        return self.encoder.has_tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of sources."""
        return self.encoder.tokenizer

    def source_sha256(self) -> str:
        """The hash of the files that both parts were read from; "" if there are none.

        Examples
        --------
        >>> len(dates.source_sha256())
        64
        """
        return self.decoder.source_sha256()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.encoder!r} -> {self.decoder!r}>"

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with the same weights and tokenizers, which never change."""
        other = memo[id(self)] = copy(self)
        other.encoder, other.decoder = deepcopy((self.encoder, self.decoder), memo)
        other.notes = list(self.notes)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle records where the model comes from, and loads it again."""
        return pickled(self, self.threads, self._origin)
