"""Vectors of the texts of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..heads.embedding import check_pooling, embeddings, lowered
from ..heads.reading import check_room, read
from .tasks import Counts, Key, Row, portions

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..heads.reading import Reading

__all__ = ["EMBEDDINGS", "Embedding"]

EMBEDDINGS: Mapping[str, type] = {"embedding": list, "n_tokens": int, "truncated": bool}
"""The columns of `Embedding`, with their types; a list is one of float32."""


class Embedding:
    """Vectors of texts: a `Task`.

    Parameters
    ----------
    model : LoadedModel
    pooling, normalize, max_tokens, special
        As for ``BERT.embed``.
    """

    columns = EMBEDDINGS
    doing, unit, without = "embedding", "texts", "without a vector"
    seed: int | None = None

    def __init__(
        self,
        model: LoadedModel,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_tokens: int | None = None,
        special: bool = False,
    ) -> None:
        how = {"max_tokens": max_tokens, "special": special}
        self.model = model
        self._pooling, self._options = check_pooling(model, pooling, normalize, **how)
        if model.has_tokenizer:
            check_room(model, self._options)
        names = ("mode", "normalize", "lower")
        asked = {name: getattr(self._pooling, name) for name in names}
        self.settings = {**asked, **self._options._asdict()}

    def check(self, text: Any) -> None:
        """Raise ValueError if a text is too long."""
        self._read(text)

    def size(self, text: str | None) -> int:
        """One text."""
        return int(text is not None)

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """One row per text."""
        for some in portions((key, self._read(text)) for key, text in texts):
            readings = (reading for _, reading in some if reading is not None)
            found = embeddings(self.model, readings, self._pooling)
            for key, reading in some:
                yield key, [_row(None if reading is None else next(found))]

    def _read(self, text: Any) -> Reading | None:
        return (
            None if text is None else read(self.model, lowered(text, self._pooling), "a text", self._options)
        )

    def count(self, rows: Sequence[Row]) -> Counts:
        """The summary of the row."""
        [row] = rows
        return Counts(row["n_tokens"] == 0, row["truncated"], row["n_tokens"], 0)


def _row(found: tuple[Reading, np.ndarray] | None) -> Row:
    if found is None:
        return {"embedding": None, "n_tokens": 0, "truncated": False}
    reading, vector = found
    # The shortest numbers with these float32 values; null if not all are finite.
    numbers = [float(number) for number in vector.astype(str)] if np.isfinite(vector).all() else None
    return {"embedding": numbers, "n_tokens": len(reading.ids), "truncated": reading.truncated}
