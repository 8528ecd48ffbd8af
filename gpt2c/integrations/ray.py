"""Scores for the rows of a table, batch by batch: with Ray Data, `datasets` or all else that maps batches.

Ray is not imported here, and not needed. docs/integrations.md has examples, and says how to size a cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..corpus.records import ON_ERROR, not_utf8
from ..errors import shown
from ..model import GPT2
from ..scoring.options import default_stride
from ..scoring.results import SUMMARY, summary
from ..scoring.scoring import score_rows
from ..tokenizer.base import check_text

__all__ = ["Scorer"]

_log = logging.getLogger("gpt2c")


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
    on_error : "stop", "null" or "skip"
        What a row does whose text is none, such as a number or bytes that are not UTF-8: raise; or be kept as
        if it had no text, with a further column ``error``, where the place in the batch and the reason stand
        for it and "" for others; or be left out, with a warning in the log.

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
        on_error: str = "stop",
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error must be one of {', '.join(ON_ERROR)}; got {on_error!r}")
        self.source, self.dtype, self.tokenizer, self.threads = model, dtype, tokenizer, threads
        self.text_column, self.prefix = text_column, prefix
        self.bos, self.special = bos, special
        self.window, self.stride, self.min_context = window, stride, min_context
        self.on_error = on_error

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
        new = [self.prefix + name for name in (*SUMMARY, *["error"] * (self.on_error == "null"))]
        taken = [name for name in new if name in present]
        if taken:
            raise ValueError(f"the rows have {', '.join(taken)} already: choose another prefix=")

        values = batch[self.text_column]
        if isinstance(values, str | bytes) or values is None:
            raise TypeError(
                f"the column {self.text_column!r} is {shown(values)}, one value, and a batch has a list or "
                "an array of them: use ds.map_batches in Ray, ds.map(..., batched=True) in datasets"
            )
        texts, faults = self._checked(map(_value, values) if is_arrow else values)
        if self.on_error == "skip" and any(faults):
            kept = np.array([not fault for fault in faults])
            texts = [text for text, keep in zip(texts, kept, strict=True) if keep]
            batch = _kept(batch, kept)
        rows = self._summaries(texts)
        columns = {name: [row[name] for row in rows] for name in SUMMARY}
        if is_arrow:
            import pyarrow as pa

            types = {int: pa.int64(), float: pa.float64()}
            for name, values in columns.items():
                batch = batch.append_column(self.prefix + name, pa.array(values, types[SUMMARY[name]]))
            if self.on_error == "null":
                batch = batch.append_column(self.prefix + "error", pa.array(faults, pa.string()))
            return batch
        added = {self.prefix + name: _numbers(values, SUMMARY[name]) for name, values in columns.items()}
        if self.on_error == "null":
            added[self.prefix + "error"] = np.array(faults, object)
        return batch.assign(**added) if hasattr(batch, "assign") else {**batch, **added}

    def _checked(self, values: Iterable[Any]) -> tuple[list[Any], list[str]]:
        """The texts, None where there is none, and for each what is wrong with it, or an empty string."""
        texts, faults = [], []
        for row, value in enumerate(values):
            text, fault = (None if _is_null(value) else value), ""
            try:
                text = text.decode("utf-8") if isinstance(text, bytes) else text
                if isinstance(text, str):
                    check_text(text)
                elif text is not None:
                    self.model.encode_text(text, "the text")
            except (TypeError, ValueError) as error:
                wrong = f"the text is {not_utf8(error)}" if isinstance(error, UnicodeDecodeError) else error
                text, fault = None, f"row {row} of the batch: {wrong}"
                if self.on_error == "stop":
                    raise (TypeError if isinstance(error, TypeError) else ValueError)(fault) from None
                if self.on_error == "skip":
                    _log.warning("left out: %s", fault)
            texts.append(text)
            faults.append(fault)
        return texts, faults

    def _summaries(self, texts: Sequence[Any]) -> list[dict[str, Any]]:
        stride = self.stride
        if stride is None and self.min_context is None:
            stride = default_stride(self.model, self.window)
        scores = score_rows(
            self.model,
            enumerate(texts),
            bos=self.bos,
            special=self.special,
            window=self.window,
            stride=stride,
            min_context=self.min_context,
        )
        return [summary(score) for _, score, _ in scores]


def _value(scalar: Any) -> Any:
    """The value of an Arrow scalar; the bytes of a text that is not UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error.object


def _kept(batch: Any, rows: np.ndarray) -> Any:
    """Those rows of a batch that a boolean array marks."""
    if hasattr(batch, "column_names"):
        return batch.filter(rows)
    if hasattr(batch, "assign"):
        return batch[rows]
    return {
        name: column[rows] if hasattr(column, "dtype") else [column[i] for i in np.flatnonzero(rows)]
        for name, column in batch.items()
    }


def _is_null(text: Any) -> bool:
    """Whether this is None, NaN, or NA of pandas, which is known by its name: pandas may be missing."""
    is_nan = isinstance(text, float | np.floating) and text != text
    return text is None or is_nan or type(text).__name__ == "NAType"


def _numbers(values: Sequence[Any], kind: type) -> np.ndarray:
    """A column: float64 with NaN for None, else int64 or float64 as ``kind`` says."""
    if None in values:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(values, np.int64 if kind is int else np.float64)
