"""The output of an encoder-decoder model for every text of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..heads.reading import read
from ..translation.translating import generate_rows, most_new, reading_options
from .tasks import Generating, Key, Row

if TYPE_CHECKING:
    from ..encoder_decoder import EncoderDecoder
    from ..generation.options import SamplingOptions

__all__ = ["Translating"]


class Translating(Generating):
    """Texts for texts: ``num_return_sequences`` rows of each, or one for None.

    Parameters
    ----------
    model : EncoderDecoder
    options : SamplingOptions
        As for `Generating`.
    limited : bool
        Whether ``max_new_tokens`` applies; otherwise the model's own limit does.
    """

    def __init__(self, model: EncoderDecoder, options: SamplingOptions, *, limited: bool = True) -> None:
        options = (
            options
            if limited
            else replace(options, max_new_tokens=most_new(model, options.penalty_alpha > 0))
        )
        super().__init__(model.decoder, options)
        self.model: Any = model
        self._reading = reading_options(model, special=options.special)

    def check(self, text: Any) -> None:
        """Raise ValueError if the encoder has no room for the text."""
        read(self.model.encoder, text, "a text", self._reading)

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """The outputs for each text, best first for beam search."""
        for key, results, cut in generate_rows(self.model, self.options, texts):
            yield key, [self._row(result, cut) for result in results] or [self._no_row()]
