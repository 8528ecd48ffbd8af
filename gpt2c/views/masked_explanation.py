"""How a BERT sees a text: as a page, as text for a terminal, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from ..heads.reading import is_pair
from ..introspection.edits import Edit
from ..introspection.head_scores import Opening, opening
from ..json_values import plain
from ..scoring.results import Suggestion
from . import terminal
from .paged import Paged, check_one_text
from .pages import masked_page
from .pages.language import ENGLISH
from .pages.masked import best_tokens, masks_of, read_masked, reading_of, second_of, sides

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prompts import Item
    from ..introspection.passes import ActivationCache

__all__ = ["MaskedExplanation"]

CANDIDATES = 5  # for each mask


class MaskedExplanation(Paged):
    """What :meth:`gpt2c.BERT.explain` returns. Pages, text and JSON are made when they are asked for.

    In a notebook it shows its page; ``print`` shows its text.

    Attributes
    ----------
    model : LoadedModel
    token_ids : np.ndarray
        The tokens of the text, int32 [T], with what the tokenizer puts around it.
    edits : list of str
        Descriptions of the edits in the pass.
    lang : str
        The language of the page.
    """

    def __init__(
        self,
        model: LoadedModel,
        text: Item,
        *,
        layer: int | None = None,
        head: int | None = None,
        layers: Sequence[int] | None = None,
        edits: Iterable[tuple[str, Edit]] = (),
        lang: str = ENGLISH,
    ) -> None:
        if not is_pair(text):
            check_one_text(text)
        super().__init__(model, text, layer=layer, head=head, layers=layers, edits=edits, lang=lang)
        self._reading = reading_of(model, text)
        self.token_ids = self._reading.ids
        self._second = second_of(model, text, self._reading)

    @cached_property
    def html(self) -> str:
        """The page: one HTML file, which works offline."""
        return masked_page(
            self._cache,
            self._place,
            given=self._given,
            second=self._second,
            layers=self._layers,
            edits=self._edits,
            lang=self.lang,
        )

    @cached_property
    def _cache(self) -> ActivationCache:
        """The one pass that page, text and JSON show."""
        return read_masked(self.model, self._reading, self._edits)

    @cached_property
    def _place(self) -> Opening:
        return opening(self._cache, self._layer, self._head)

    @property
    def _masks(self) -> list[tuple[int, list[Suggestion]]]:
        """The position of each mask, and the tokens that it may stand for, if the model can tell."""
        if not self.model.config.masked_head:
            return []
        found = []
        for position in masks_of(self._cache):
            [ids], [logprobs] = best_tokens(self._cache, [position], CANDIDATES)
            each = zip(ids.tolist(), logprobs.tolist(), strict=True)
            found.append((position, [_suggestion(self.model, *one) for one in each]))
        return found

    def print(self, out: TextIO, width: int) -> None:
        """Write it as text for a terminal of ``width`` columns."""
        screen = terminal.Screen(out, width)
        terminal.print_model(screen, self.model, self.edits)
        for position, found in self._masks:
            screen.title(f"The mask at position {position}")
            terminal.print_suggestions(screen, found)
        layer, head, _ = self._place
        terminal.print_pattern(screen, self._cache, layer, head)

    def to_dict(self) -> dict[str, Any]:
        """All of it for `json.dumps`: arrays as lists."""
        layer, head, token = self._place
        return {
            "model": self.model.name,
            "numerics": self.model.numerics,
            "edits": self.edits,
            "token_ids": self.token_ids.tolist(),
            "second": self._second,
            "tokens": self._cache.tokens,
            "layer": layer,
            "head": head,
            "token": token,
            "masks": [
                {
                    "position": position,
                    "candidates": [{**one._asdict(), "bytes": one.bytes.hex()} for one in found],
                }
                for position, found in self._masks
            ],
            **plain(
                {
                    "pattern": self._cache["pattern", layer][head],
                    "sides": sides(self._cache),
                    "head_scores": vars(self._cache.head_scores()),
                }
            ),
        }


def _suggestion(model: LoadedModel, token: int, logprob: float) -> Suggestion:
    return Suggestion(model.tokenizer.decode([token]), math.exp(logprob), token, model.token_bytes(token))
