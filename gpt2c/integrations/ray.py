"""Scores for the rows of a table, batch by batch: with Ray Data, `datasets` or all else that maps batches.

Ray is not imported here, and not needed. docs/integrations.md has examples, and says how to size a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..model import GPT2
from ..scoring.options import default_stride
from ..scoring.results import SUMMARY, summary
from ..scoring.scoring import score_rows

__all__ = ["Scorer"]


class Scorer:
    """Adds scores of the texts in a column to each batch of rows.

    Ray makes one for every worker, ``ds.map_batches(Scorer, fn_constructor_kwargs={…}, …)``; elsewhere an
    instance is passed, ``ds.map(Scorer(…), batched=True, num_proc=2)``. The model is loaded with the first
    batch and never pickled: every process loads its own. To the bit, the scores of a row depend on its
    text alone, not on its batch or the number of workers: work repeated after a failure gives the same.

    The new columns are those of ``gpt2c score``: the number of scored tokens and of their bytes, and
    ``logprob``, ``perplexity``, ``bits_per_byte`` and ``bits_per_char`` of :class:`gpt2c.Score`. A text that
    is null, has no tokens or, without bos, a single one has 0 tokens and bytes, and null for the rest. What
    is not known or not finite is null, too. In NumPy and pandas null is NaN, and makes a column of integers
    one of floats.

    Parameters
    ----------
    model : str or path, optional
        What :meth:`gpt2c.GPT2.from_pretrained` takes; the default is the small model that comes with gpt2c. A
        packed file loads in milliseconds, and the workers of one machine share its memory.
    text_column : str
        Where the texts are.
    prefix : str
        What the names of the new columns begin with.
    dtype, tokenizer
        As for ``from_pretrained``.
    threads : int
        Of each process.
    bos, special, window, stride, min_context
        As for :meth:`gpt2c.GPT2.score`; but without ``stride`` and ``min_context`` the stride is half the
        window, so that texts may have any length.

    Raises
    ------
    ValueError, TypeError
        With a batch: the text column is missing, a new one is there already, or what ``score`` raises.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        text_column: str = "text",
        prefix: str = "gpt2c_",
        dtype: str | None = None,
        tokenizer: Any = None,
        threads: int = 1,
        bos: bool | int = True,
        special: bool = False,
        window: int | None = None,
        stride: int | None = None,
        min_context: int | None = None,
    ) -> None:
        self.source, self.dtype, self.tokenizer, self.threads = model, dtype, tokenizer, threads
        self.text_column, self.prefix = text_column, prefix
        self.bos, self.special = bos, special
        self.window, self.stride, self.min_context = window, stride, min_context

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "model"}

    @cached_property
    def model(self) -> GPT2:
        """The model of this process."""
        return GPT2.from_pretrained(
            self.source, dtype=self.dtype, tokenizer=self.tokenizer, threads=self.threads
        )

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
        if self.text_column not in present:
            raise ValueError(f"there is no column {self.text_column!r}; there are: {', '.join(present)}")
        taken = [self.prefix + name for name in SUMMARY if self.prefix + name in present]
        if taken:
            raise ValueError(f"the rows have {', '.join(taken)} already: choose another prefix=")

        texts = batch[self.text_column]
        rows = self._summaries(texts.to_pylist() if is_arrow else list(texts))
        columns = {name: [row[name] for row in rows] for name in SUMMARY}
        if is_arrow:
            import pyarrow as pa

            types = {int: pa.int64(), float: pa.float64()}
            for name, values in columns.items():
                batch = batch.append_column(self.prefix + name, pa.array(values, types[SUMMARY[name]]))
            return batch
        added = {self.prefix + name: _numbers(values, SUMMARY[name]) for name, values in columns.items()}
        return batch.assign(**added) if hasattr(batch, "assign") else {**batch, **added}

    def _summaries(self, texts: Sequence[Any]) -> list[dict[str, Any]]:
        stride = self.stride
        if stride is None and self.min_context is None:
            stride = default_stride(self.model, self.window)
        scores = score_rows(
            self.model,
            ((i, None if _is_null(text) else text) for i, text in enumerate(texts)),
            bos=self.bos,
            special=self.special,
            window=self.window,
            stride=stride,
            min_context=self.min_context,
        )
        return [summary(score) for _, score, _ in scores]


def _is_null(text: Any) -> bool:
    """Whether this is None, NaN, or NA of pandas, which is known by its name: pandas may be missing."""
    is_nan = isinstance(text, float | np.floating) and text != text
    return text is None or is_nan or type(text).__name__ == "NAType"


def _numbers(values: Sequence[Any], kind: type) -> np.ndarray:
    """A column: float64 with NaN for None, else int64 or float64 as ``kind`` says."""
    if None in values:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(values, np.int64 if kind is int else np.float64)
