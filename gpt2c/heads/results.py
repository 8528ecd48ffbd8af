"""Results of classifiers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = ["Choice", "Classification", "Entity", "Tag", "Tagging"]


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """The labels of one text.

    Attributes
    ----------
    label : str or None
        The most probable one; None for a regression, whose logits are numbers.
    probability : float or None
        The probability of ``label``.
    probabilities : dict of str to float
        Of every label, in the order of their ids. They sum to 1 if exactly one label is true; if each may be
        (``problem_type`` "multi_label_classification", or a single label), each is independent.
    values : dict of str to float
        For a regression, by the names of its outputs; otherwise empty.
    logits : np.ndarray
        float32 [labels].
    n_tokens : int
        The number of tokens that the model read, including those around the text.
    truncated : bool
        Whether the text had more than ``max_tokens``.

    Examples
    --------
    >>> found = classifier.classify("The king had three daughters.")
    >>> list(found.probabilities), found.logits.shape
    (['bad', 'so-so', 'great'], (3,))
    """

    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    values: dict[str, float]
    logits: np.ndarray
    n_tokens: int
    truncated: bool

    def __repr__(self) -> str:
        """Without fields that a model of this kind does not have."""
        names = ("label", "probability", "probabilities", "values", "n_tokens", "truncated")
        told = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, {})}
        return f"Classification({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def value(self) -> float | None:
        """The result of a regression with one output; otherwise None."""
        return next(iter(self.values.values())) if len(self.values) == 1 else None


class Tag(NamedTuple):
    """One token of a text and its labels."""

    text: str
    """The piece of the text that holds the token, or, for token ids, its own text; "" if unknown."""
    start: int | None
    """The start of the piece in the text, in characters; None if unknown."""
    end: int | None
    token_id: int
    label: str
    """The most probable label."""
    probability: float
    probabilities: dict[str, float]
    """Probabilities of all labels, in the order of their ids."""
    logits: np.ndarray
    """float32 [labels]."""


class Entity(NamedTuple):
    """Neighbouring tokens with labels of one kind."""

    label: str
    """Without the "B-" or "I-" before it."""
    probability: float
    """The mean over its tokens."""
    text: str
    start: int | None
    end: int | None


@dataclass(frozen=True, eq=False)
class Tagging:
    """The labels of the tokens of one text.

    Attributes
    ----------
    tags : list of Tag
        One for each token of the text, not for the tokens around it.
    entities : list of Entity
        Neighbours with the same kind of label form one entity; a label "B-..." starts a new one, and tokens
        labelled "O" are left out: as ``aggregation_strategy="simple"`` in transformers.
    n_tokens : int
        The number of tokens that the model read, including those around the text.
    truncated : bool
        Whether the text had more than ``max_tokens``.

    Examples
    --------
    >>> found = tagger.tag("The king")
    >>> len(found.tags) == found.n_tokens
    True
    """

    tags: list[Tag]
    entities: list[Entity]
    n_tokens: int
    truncated: bool


@dataclass(frozen=True, eq=False)
class Choice:
    """Which of several texts fits best.

    Attributes
    ----------
    index : int
        Index of the most probable text, from 0.
    probabilities : list of float
        Probability of each text; they sum to 1.
    logits : np.ndarray
        float32 [texts].

    Examples
    --------
    >>> found = chooser.choose(["The king had three daughters.", "The king had three moons."])
    >>> found.index, [round(one, 2) for one in found.probabilities]
    (0, [0.64, 0.36])
    """

    index: int
    probabilities: list[float]
    logits: np.ndarray = field(repr=False)
