"""The tokens that fit the masks of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..scoring.results import Suggestion

__all__ = ["Filled", "Filling"]


class Filling(NamedTuple):
    """One way to fill all masks of a text.

    Attributes
    ----------
    text : str
        The filled text, as the tokenizer decodes it; "" without one.
    probability : float
        The product of the probabilities of ``tokens``.
    tokens : tuple of Suggestion
        The token for each mask, in the order of the text; each probability is conditional on the tokens that
        were filled before it.

    Examples
    --------
    >>> best = bert.fill("The [MASK] had three [MASK].")[0]
    >>> best.text, [token.text for token in best.tokens]
    ('The children had three children.', [' children', ' children'])
    """

    text: str
    probability: float
    tokens: tuple[Suggestion, ...]


class Filled(list[Filling]):
    """The most probable ways to fill all masks of a text, the most probable first.

    Attributes
    ----------
    masks : list of list of Suggestion
        For each mask, in the order of the text, the most probable tokens while the other masks remain masked.
    truncated : bool
        Whether the text had more than ``max_tokens``.

    Examples
    --------
    >>> found = bert.fill("The [MASK] had three [MASK].", k=2)
    >>> [filling.text for filling in found], len(found.masks)
    (['The children had three children.', 'The children had three sons.'], 2)
    """

    def __init__(
        self, fillings: Iterable[Filling], masks: list[list[Suggestion]], truncated: bool = False
    ) -> None:
        super().__init__(fillings)
        self.masks, self.truncated = masks, truncated
