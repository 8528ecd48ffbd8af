"""Scores for the rows of a table, batch by batch: with Ray Data, `datasets` or whatever else maps batches.

Ray is not imported here, and not needed. docs/integrations.md has examples, and says how to size a cluster.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from .model import GPT2
from .scoring import Score

__all__ = ["Scorer"]

COLUMNS = {
    "n_tokens": np.int64,
    "n_bytes": np.int64,
    "logprob": np.float64,
    "perplexity": np.float64,
    "bits_per_byte": np.float64,
    "bits_per_char": np.float64,
}
"""What is told of every text, and its type; as ``gpt2c score`` does of files."""


class Scorer:
    """Adds to each batch of rows how probable the texts in one of its columns are.

    Ray makes one for every worker, ``ds.map_batches(Scorer, fn_constructor_kwargs={…}, …)``; elsewhere an
    instance is passed, ``ds.map(Scorer(…), batched=True, num_proc=2)``. The model is loaded with the first
    batch and never pickled: every process loads its own. What a row gets depends on its text alone, to the
    bit, not on its batch or the number of workers; so what is done again after a failure comes out the same.

    The new columns are the number of scored tokens and of their bytes, and ``logprob``, ``perplexity``,
    ``bits_per_byte`` and ``bits_per_char`` of :class:`gpt2c.Score`. A text that is null, empty or, without
    bos, a single token has 0 tokens and bytes, and null (NaN) for the rest.

    Parameters
    ----------
    model : str or path, optional
        What :meth:`gpt2c.GPT2.from_pretrained` takes; the default is the small model that comes with gpt2c. A
        packed file loads in milliseconds, and the workers of one machine share its memory.
    text_column : str
        Where the texts are.
    prefix : str
        What the names of the new columns begin with.
    dtype : str, optional
        As for ``from_pretrained``.
    threads : int
        Of each process.
    bos, window, stride, min_context
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
        threads: int = 1,
        bos: bool = True,
        window: int | None = None,
        stride: int | None = None,
        min_context: int | None = None,
    ) -> None:
        self.source, self.dtype, self.threads = model, dtype, threads
        self.text_column, self.prefix = text_column, prefix
        self.bos, self.window, self.stride, self.min_context = bos, window, stride, min_context

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
        if self.text_column not in present:
            raise ValueError(f"there is no column {self.text_column!r}; there are: {', '.join(present)}")
        taken = [self.prefix + name for name in COLUMNS if self.prefix + name in present]
        if taken:
            raise ValueError(f"the rows have {', '.join(taken)} already: choose another prefix=")

        texts = batch[self.text_column]
        scores = self._scores(texts.to_pylist() if is_arrow else list(texts))
        added = {
            self.prefix + name: np.array([_value(score, name) for score in scores], dtype)
            for name, dtype in COLUMNS.items()
        }
        if is_arrow:
            import pyarrow

            for name, values in added.items():
                batch = batch.append_column(name, pyarrow.array(values, from_pandas=True))  # NaN is null
            return batch
        return batch.assign(**added) if hasattr(batch, "assign") else {**batch, **added}

    def _scores(self, texts: list[Any]) -> list[Score | None]:
        stride = self.stride
        if stride is None and self.min_context is None:
            stride = max(1, (self.window or self.model.config.n_ctx) // 2)
        scores: list[Score | None] = [None] * len(texts)
        scored = [i for i, text in enumerate(texts) if self._has_tokens(text)]
        found = self.model.score(
            (texts[i] for i in scored),
            bos=self.bos,
            window=self.window,
            stride=stride,
            min_context=self.min_context,
        )
        for i, score in zip(scored, found, strict=True):
            scores[i] = score
        return scores

    def _has_tokens(self, text: Any) -> bool:
        """Whether there is something to score; what is no text is left to ``score`` to refuse."""
        if text is None or (isinstance(text, float) and text != text):  # as pandas has nulls
            return False
        if not isinstance(text, str):
            return True
        return text != "" if self.bos else len(self.model.tokenizer.encode(text)) > 1


def _value(score: Score | None, column: str) -> float | None:
    if column == "n_tokens":
        return 0 if score is None else len(score)
    if score is None:
        return 0 if column == "n_bytes" else np.nan
    return getattr(score, column)
