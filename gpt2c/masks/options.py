"""The options of masks as keyword arguments, for type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from ..core.deadline import Deadline

__all__ = ["FillKwargs", "MaskedScoreKwargs"]


class FillKwargs(TypedDict, total=False):
    """The options of ``BERT.fill``."""

    num_beams: int
    targets: Sequence[str | int] | None
    max_tokens: int | None
    deadline: float | Deadline | None


class MaskedScoreKwargs(TypedDict, total=False):
    """The options of ``BERT.score``."""

    within_word: bool
    top: int
    max_tokens: int | None
    special: bool
    deadline: float | Deadline | None
