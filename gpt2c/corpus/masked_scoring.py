"""Scores of the texts of a table by a BERT, which masks their tokens in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.checks import check_flag
from ..heads.reading import check_options, check_room, read
from ..masks.scoring import check_scoring, masked_scores
from ..scoring.results import summary
from .tasks import SCORES, Counts, Key, Row, portions

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..heads.reading import Reading

__all__ = ["MaskedScoring"]


class MaskedScoring:
    """Scores of texts: a `Task`.

    Parameters
    ----------
    model : LoadedModel
        A BERT.
    max_tokens, special, within_word
        As for ``BERT.score``.
    """

    columns: Mapping[str, type] = SCORES
    doing, unit, without = "scoring", "B", "without a score"
    seed: int | None = None

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_tokens: int | None = None,
        special: bool = False,
        within_word: bool = False,
    ) -> None:
        check_scoring(model)
        self.model, self._options = model, check_options(model, max_tokens=max_tokens, special=special)
        check_room(model, self._options)
        self._within_word = check_flag("within_word", within_word)
        self.settings = {**self._options._asdict(), "within_word": within_word}

    def check(self, text: Any) -> None:
        """Raise ValueError if a text is too long."""
        self._read(text)

    def size(self, text: str | None) -> int:
        """Bytes."""
        return len((text or "").encode("utf-8"))

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """One row per text."""
        for some in portions((key, self._read(text)) for key, text in texts):
            readings = (("a text", reading) for _, reading in some if reading is not None)
            found = masked_scores(self.model, readings, self._options, within_word=self._within_word)
            for key, reading in some:
                score = None if reading is None else next(found)
                yield key, [{**summary(score), "truncated": reading is not None and reading.truncated}]

    def _read(self, text: Any) -> Reading | None:
        """A text that has tokens; None if it has none."""
        reading = None if text is None else read(self.model, text, "a text", self._options)
        return reading if reading is not None and reading.own.stop > reading.own.start else None

    def count(self, rows: Sequence[Row]) -> Counts:
        """The summary of the row."""
        [row] = rows
        return Counts(row["logprob"] is None, row["truncated"], row["n_tokens"], row["n_bytes"] or 0)
