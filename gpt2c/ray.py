"""Scores for the rows of a table, batch by batch: with Ray Data, `datasets` or whatever else maps batches.

Ray is not imported here, and not needed. docs/integrations.md has examples, and says how to size a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from .model import GPT2
from .scoring import Options, Score

__all__ = ["COLUMNS", "Scorer"]

COLUMNS = {
    "n_tokens": np.int64,
    "logprob": np.float64,
    "bits": np.float64,
    "perplexity": np.float64,
    "bits_per_byte": np.float64,
}
"""What a Scorer can add, and of which type: attributes of :class:`gpt2c.Score`, and its length."""


class Scorer:
    """Adds to each batch of rows how probable the texts in one of its columns are.

    Ray makes one for every worker, ``ds.map_batches(Scorer, fn_constructor_kwargs={…}, …)``; elsewhere an
    instance is passed, ``ds.map(Scorer(…), batched=True, num_proc=2)``. The model is loaded with the first
    batch, and is not pickled: every process loads its own. What a row gets depends on its text alone, to the
    bit, never on its batch or on the number of workers, so work that is done again after a failure gives the
    same.

    Parameters
    ----------
    model : str or path, optional
        What :meth:`gpt2c.GPT2.from_pretrained` takes; the default is the small model that comes with gpt2c. A
        packed file loads in milliseconds, and the workers of one machine share its memory.
    text_column : str
        Where the texts are. A row whose text is null or empty has 0 tokens, and null (NaN) for the rest.
    columns : iterable of str
        What is added, of `COLUMNS`.
    prefix : str
        Before the names of the new columns.
    dtype : str, optional
        As for ``from_pretrained``.
    threads : int
        Of each process.
    **options
        As for :meth:`gpt2c.GPT2.score`, but without ``stride`` or ``min_context`` the stride is half the
        window, so that texts may have any length.

    Raises
    ------
    ValueError, TypeError
        An unknown column or option. With a batch: the text column is missing, a new one is there already, or
        what ``score`` raises.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        text_column: str = "text",
        columns: Iterable[str] = ("n_tokens", "logprob", "perplexity", "bits_per_byte"),
        prefix: str = "",
        dtype: str | None = None,
        threads: int = 1,
        **options: Any,
    ) -> None:
        self.columns = [columns] if isinstance(columns, str) else list(columns)
        for kind, given, known in (
            ("column", self.columns, COLUMNS),
            ("option", options, Options.__annotations__),
        ):
            unknown = sorted(set(given) - known.keys())
            if unknown:
                raise ValueError(f"unknown {kind} {', '.join(unknown)}; allowed: {', '.join(known)}")
        self.source, self.dtype, self.threads = model, dtype, threads
        self.text_column, self.prefix, self.options = text_column, prefix, options

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "model"}

    @cached_property
    def model(self) -> GPT2:
        """The model of this process."""
        return GPT2.from_pretrained(self.source, dtype=self.dtype, threads=self.threads)

    def __call__(self, batch: Any) -> Any:
        """A batch with its scores.

        Parameters
        ----------
        batch : dict of arrays or lists, pyarrow.Table or pandas.DataFrame

        Returns
        -------
        the same kind, with more columns
        """
        is_arrow = hasattr(batch, "column_names")
        present = batch.column_names if is_arrow else list(batch)
        names = [self.prefix + name for name in self.columns]
        if self.text_column not in present:
            raise ValueError(f"there is no column {self.text_column!r}; there are: {', '.join(present)}")
        taken = [name for name in names if name in present]
        if taken:
            raise ValueError(f"the rows have {', '.join(taken)} already: choose another prefix=")

        texts = batch[self.text_column]
        texts = texts.to_pylist() if is_arrow else list(texts)
        scores = self._scores(texts)
        added = {
            name: np.array([_value(score, column) for score in scores], COLUMNS[column])
            for name, column in zip(names, self.columns, strict=True)
        }
        if is_arrow:
            import pyarrow

            for name, values in added.items():  # NaN stands for null, which the type of the model never gives
                batch = batch.append_column(name, pyarrow.array(values, from_pandas=True))
            return batch
        return batch.assign(**added) if hasattr(batch, "assign") else {**batch, **added}

    def _scores(self, texts: list[Any]) -> list[Score | None]:
        options = self.options
        if options.get("stride") is None and options.get("min_context") is None:
            options = options | {"stride": max(1, (options.get("window") or self.model.config.n_ctx) // 2)}
        scores: list[Score | None] = [None] * len(texts)
        filled = [i for i, text in enumerate(texts) if not _is_missing(text)]
        found = self.model.score((texts[i] for i in filled), **options)
        for i, score in zip(filled, found, strict=True):
            scores[i] = score
        return scores


def _is_missing(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text) or (isinstance(text, float) and text != text)


def _value(score: Score | None, column: str) -> float:
    if column == "n_tokens":
        return 0 if score is None else len(score)
    return np.nan if score is None else getattr(score, column)
