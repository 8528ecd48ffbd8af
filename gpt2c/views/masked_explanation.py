"""How a BERT sees a text: as a page, as text for a terminal, as JSON values."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ..core.labels import harmless
from ..core.prompts import separate
from ..errors import counted
from ..introspection.edits import Edit, described
from ..introspection.head_scores import opening
from ..introspection.observer import checked_edits
from ..json_values import plain
from ..masks.filling import fill
from . import terminal
from .paged import Paged
from .pages import explain_masked_page
from .pages.explanation import Edits, checked_head, checked_layers
from .pages.language import ENGLISH, check_language
from .pages.masked import mask_id, read_masked, sides

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prompts import Prompt
    from ..masks.results import Filled

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
        What was changed in the pass, and how, in words.
    lang : str
        The language of the page.
    """

    def __init__(
        self,
        model: LoadedModel,
        text: Prompt,
        *,
        layer: int | None = None,
        head: int | None = None,
        layers: Sequence[int] | None = None,
        edits: Iterable[tuple[str, Edit]] = (),
        lang: str = ENGLISH,
    ) -> None:
        check_language(lang)
        self.lang = lang
        several, given = separate(text)
        if several:
            raise TypeError(f"explain takes one text, not a list of {len(given)}: explain each of them")
        self.model, self._given = model, text
        self._layer, self._head = checked_head(model, layer, head)
        self._layers = checked_layers(model, layers)
        self._edits: Edits = tuple(edits)
        checked_edits(model, self._edits)
        self.edits = described(model.config, self._edits)
        self._cache = read_masked(model, text, self._edits)
        self.token_ids = self._cache.token_ids
        self._place = opening(self._cache, self._layer, self._head)

    def __repr__(self) -> str:
        return f"<Explanation of {counted(len(self.token_ids), 'token')}: print it, or .save(path) its page>"

    def __str__(self) -> str:
        out = io.StringIO()
        self.print(out, 80)
        return out.getvalue().strip("\n")

    @cached_property
    def html(self) -> str:
        """The page: one HTML file, which needs no network."""
        return explain_masked_page(
            self.model,
            self._given,
            layer=self._layer,
            head=self._head,
            layers=self._layers,
            edits=self._edits,
            lang=self.lang,
        )

    @cached_property
    def _filled(self) -> Filled | None:
        """What its masks may stand for, if it has any and the model can tell."""
        if not self.model.config.masked_head or not self._masks or self._edits:
            return None
        found: Any = fill(self.model, self._given, CANDIDATES)
        return found

    @property
    def _masks(self) -> list[int]:
        return np.flatnonzero(self.token_ids == mask_id(self.model)).tolist()

    def print(self, out: TextIO, width: int) -> None:
        """Write it as text for a terminal of so many columns."""
        screen, c = terminal.Screen(out, width), self.model.config
        screen.line(
            f"{harmless(self.model.name)}: {c.n_layer} layers of {c.n_head} heads, {c.n_embd} numbers per "
            f"token, {c.n_vocab:,} tokens"
        )
        if self.edits:
            terminal.print_edits(screen, self.edits)
        for position, found in zip(self._masks, self._filled.masks if self._filled else [], strict=False):
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
            "tokens": self._cache.tokens,
            "layer": layer,
            "head": head,
            "token": token,
            "masks": [
                {"position": position, "candidates": [_plain(one) for one in found]}
                for position, found in zip(
                    self._masks, self._filled.masks if self._filled else [], strict=False
                )
            ],
            **plain(
                {
                    "pattern": self._cache["pattern", layer][head],
                    "sides": sides(self._cache),
                    "head_scores": vars(self._cache.head_scores()),
                }
            ),
        }


def _plain(one: Any) -> dict[str, Any]:
    return {**one._asdict(), "bytes": one.bytes.hex()}
