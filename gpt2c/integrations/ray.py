"""Scores, texts or vectors for the rows of a table, batch by batch: with Ray Data, `datasets` and similar.

Ray is not imported here, and not needed. docs/integrations.md has examples and explains cluster sizes.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Unpack

from ..any_model import from_pretrained
from ..bert import BERT
from ..core.checks import check_integer
from ..core.foreign_names import OF_GENERATION, OF_PROMPTS
from ..core.keywords import explains_keywords
from ..corpus.embedding import EMBEDDINGS, Embedding
from ..corpus.parquet import arrow_types
from ..corpus.records import FileOptions, not_utf8
from ..corpus.tasks import SCORES, Generating, Scoring, Task, check_seed, continuation_columns
from ..errors import shown
from ..generation.options import GenerateKwargs, SamplingOptions, lists_options
from ..model import GPT2
from ..tokenizer.base import check_text
from .columns import array_of, is_null, rows_of, value_of

__all__ = ["Embedder", "Generator", "Scorer"]

_log = logging.getLogger("gpt2c")


class _Mapper(ABC):
    """Adds columns to each batch of rows, with a model's results for the texts in one column."""

    columns: Mapping[str, type]
    _load: Callable[..., GPT2 | BERT] = GPT2.from_pretrained

    def __init__(
        self,
        model: Any,
        *,
        text_column: str,
        prefix: str,
        dtype: str | None,
        tokenizer: Any,
        threads: int,
        on_error: str,
    ) -> None:
        FileOptions(prefix=prefix, on_error=on_error)
        if not isinstance(text_column, str):
            raise TypeError(f"text_column must be the name of a column, not {shown(text_column)}")
        self.source, self.dtype, self.tokenizer, self.threads = model, dtype, tokenizer, threads
        self.text_column, self.prefix = text_column, prefix
        self.on_error = on_error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("model", "_task")}

    @cached_property
    def model(self) -> GPT2 | BERT:
        """The model of this process."""
        return self._load(self.source, dtype=self.dtype, tokenizer=self.tokenizer, threads=self.threads)

    @cached_property
    def _task(self) -> Task:
        return self._new_task()

    @abstractmethod
    def _new_task(self) -> Task:
        """The task for the texts."""

    def __call__(self, batch: Any) -> Any:
        """A batch with the new columns.

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
            raise ValueError(
                f"no column is called {self.text_column!r}; the columns are: {', '.join(present)}"
            )
        kinds = {**self.columns, **({"error": str} if self.on_error == "null" else {})}
        taken = [self.prefix + name for name in kinds if self.prefix + name in present]
        if taken:
            raise ValueError(f"the rows already have {', '.join(taken)}: choose another prefix=")

        values = batch[self.text_column]
        if isinstance(values, str | bytes) or values is None:
            raise TypeError(
                f"the column {self.text_column!r} is {shown(values)}, one value, but a batch has a list or "
                "an array of them: use ds.map_batches in Ray, ds.map(..., batched=True) in datasets"
            )
        # Wrong options are their own error, not a row's.
        task = self._task
        texts, faults = self._checked(map(value_of, values) if is_arrow else values)
        wanted = [row for row, fault in enumerate(faults) if not (fault and self.on_error == "skip")]
        rows: list[dict[str, Any]] = []
        places: list[int] = []
        for place, found in task.rows((row, texts[row]) for row in wanted):
            rows += [{**row, "error": faults[place]} for row in found]
            places += [place] * len(found)
        if places != [*range(len(texts))]:
            batch = rows_of(batch, places)
        columns = {name: [row[name] for row in rows] for name in kinds}
        if is_arrow:
            import pyarrow as pa

            types = arrow_types()
            for name, values in columns.items():
                batch = batch.append_column(self.prefix + name, pa.array(values, types[kinds[name]]))
            return batch
        added = {self.prefix + name: array_of(values, kinds[name]) for name, values in columns.items()}
        return batch.assign(**added) if hasattr(batch, "assign") else {**batch, **added}

    def _checked(self, values: Iterable[Any]) -> tuple[list[Any], list[str]]:
        """The texts, None if missing, and for each its fault, or an empty string."""
        texts, faults = [], []
        for row, value in enumerate(values):
            text, fault = (None if is_null(value) else value), ""
            try:
                text = text.decode("utf-8") if isinstance(text, bytes) else text
                if isinstance(text, str):
                    check_text(text)
                elif text is not None:
                    self.model.encode_text(text, "the text")
                if text is not None:
                    self._task.check(text)
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


class Scorer(_Mapper):
    """Adds scores of the texts in a column to each batch of rows.

    Ray creates one for every worker, ``ds.map_batches(Scorer, fn_constructor_kwargs={…}, …)``; elsewhere an
    instance is passed, ``ds.map(Scorer(…), batched=True, num_proc=2)``. The model is loaded with the first
    batch and never pickled: every process loads its own. The scores of a row depend bit for bit on its text
    alone, not on its batch or the number of workers: work repeated after a failure gives the same results.

    The new columns are those of ``gpt2c score``: the number of scored tokens and of their bytes,
    ``logprob``, ``perplexity``, ``bits_per_byte`` and ``bits_per_char`` of :class:`gpt2c.Score`, and whether
    the text was ``truncated``. A text that is null, has no tokens or, without bos, a single one has 0 tokens
    and bytes, and null for the rest. Unknown or non-finite values are null, too. In NumPy and pandas null
    is NaN, and makes a column of integers one of floats.

    Parameters
    ----------
    model : str or path, optional
        As for :meth:`gpt2c.GPT2.from_pretrained`; default: the bundled small model. A
        packed file loads in milliseconds, and the workers of one machine share its memory.
    text_column : str
        The column of the texts.
    prefix : str
        The prefix of the names of the new columns.
    dtype, tokenizer
        As for ``from_pretrained``.
    threads : int
        Threads per process.
    max_tokens : int, optional
        Longer texts are truncated to this many tokens.
    bos, repeat_bos, special, window, stride, min_context
        As for :meth:`gpt2c.GPT2.score`; but without ``stride`` and ``min_context`` the stride is half the
        window, so that texts may have any length.
    on_error : "stop", "null" or "skip"
        On a row whose text is not one, such as a number or bytes that are not UTF-8: raise; keep it without
        a text, with a column ``error`` of place and reason ("" for others); or leave it out, with a warning.

    Raises
    ------
    ValueError, TypeError
        With a batch: the text column is missing, a new one exists already, or an error of ``score``.

    Examples
    --------
    >>> from gpt2c.ray import Scorer
    >>> Scorer()({"text": ["The king had three daughters."]})["gpt2c_perplexity"].round(2)
    array([230.02])
    """

    columns = SCORES

    @explains_keywords(OF_PROMPTS)
    def __init__(
        self,
        model: Any = None,
        *,
        text_column: str = "text",
        prefix: str = "gpt2c_",
        dtype: str | None = None,
        tokenizer: Any = None,
        threads: int = 1,
        max_tokens: int | None = None,
        bos: bool | int = True,
        repeat_bos: bool = False,
        special: bool = False,
        window: int | None = None,
        stride: int | None = None,
        min_context: int | None = None,
        on_error: str = "stop",
    ) -> None:
        super().__init__(
            model,
            text_column=text_column,
            prefix=prefix,
            dtype=dtype,
            tokenizer=tokenizer,
            threads=threads,
            on_error=on_error,
        )
        if max_tokens is not None:
            check_integer("max_tokens", max_tokens, 1)
        self.options = {
            "max_tokens": max_tokens,
            "bos": bos,
            "repeat_bos": repeat_bos,
            "special": special,
            "window": window,
            "stride": stride,
            "min_context": min_context,
        }

    def _new_task(self) -> Scoring:
        return Scoring(self.model, **self.options)


class Generator(_Mapper):
    """Adds continuations of the texts in a column to each batch of rows.

    Like :class:`Scorer`, except for the columns, which are those of ``gpt2c generate``:
    ``continuation``, the number of its tokens ``continuation_tokens`` and their log-probability
    ``continuation_logprob`` (by the raw logits), the ``finish_reason`` of :class:`gpt2c.Generation`, and
    ``prompt_truncated``, whether the start of the text was left out (``overflow="truncate_left"``). With
    ``num_return_sequences`` above 1 each row is repeated that many times, with ``sample_index`` from 0. A
    null text has null and 0 tokens; the empty text is continued unconditionally.

    Parameters
    ----------
    model, text_column, prefix, dtype, tokenizer, threads
        As for :class:`Scorer`.
    on_error : "stop", "null" or "skip"
        As for :class:`Scorer`; a text that leaves no room for ``max_new_tokens`` counts as bad, too.
    num_return_sequences : int
        The number of continuations per text.
    **options
        As for :meth:`gpt2c.GPT2.generate`, except ``trace`` and ``names_filter``. A temperature needs a
        ``seed``: results depend only on it, the text and the number of the continuation.

    Raises
    ------
    ValueError, TypeError
        As from :class:`Scorer` or ``generate``.

    Examples
    --------
    >>> from gpt2c.ray import Generator
    >>> Generator(max_new_tokens=4)({"text": ["Once upon a time"]})["gpt2c_continuation"]
    array([' there was a man'], dtype=object)
    """

    @explains_keywords(OF_GENERATION, options=[*GenerateKwargs.__annotations__])
    @lists_options
    def __init__(
        self,
        model: Any = None,
        *,
        text_column: str = "text",
        prefix: str = "gpt2c_",
        dtype: str | None = None,
        tokenizer: Any = None,
        threads: int = 1,
        on_error: str = "stop",
        num_return_sequences: int = 1,
        **options: Unpack[GenerateKwargs],
    ) -> None:
        super().__init__(
            model,
            text_column=text_column,
            prefix=prefix,
            dtype=dtype,
            tokenizer=tokenizer,
            threads=threads,
            on_error=on_error,
        )
        self.options: dict[str, Any] = {**options, "num_return_sequences": num_return_sequences}
        checked = SamplingOptions(**self.options)
        check_seed(checked)
        self.columns = continuation_columns(checked)

    def _new_task(self) -> Generating:
        return Generating(self.model, SamplingOptions(**self.options))


class Embedder(_Mapper):
    """Adds vectors of the texts in a column to each batch of rows, by a BERT or a GPT-2.

    Like :class:`Scorer`, except for the columns, which are those of ``gpt2c embed``: ``embedding``,
    float32, the number of tokens ``n_tokens``, and whether the text was ``truncated``. A text that is null
    or has no tokens has 0 tokens and null for a vector. In NumPy and pandas the vectors are an array [rows,
    width], or one of arrays and None.

    Parameters
    ----------
    model : str or path
        As for :meth:`gpt2c.BERT.from_pretrained` or :meth:`gpt2c.GPT2.from_pretrained`.
    text_column, prefix, dtype, tokenizer, threads, on_error
        As for :class:`Scorer`; a text that is too long counts as bad, too.
    pooling, normalize, max_tokens, special
        As for :meth:`gpt2c.BERT.embed`.

    Raises
    ------
    ValueError, TypeError
        As from :class:`Scorer` or ``embed``.

    Examples
    --------
    >>> from gpt2c.ray import Embedder
    >>> Embedder("masked")({"text": ["a king", "a queen"]})["gpt2c_embedding"].shape
    (2, 256)
    """

    columns = EMBEDDINGS
    _load = staticmethod(from_pretrained)

    @explains_keywords(OF_PROMPTS)
    def __init__(
        self,
        model: Any = None,
        *,
        text_column: str = "text",
        prefix: str = "gpt2c_",
        dtype: str | None = None,
        tokenizer: Any = None,
        threads: int = 1,
        pooling: str | None = None,
        normalize: bool | None = None,
        max_tokens: int | None = None,
        special: bool = False,
        on_error: str = "stop",
    ) -> None:
        super().__init__(
            model,
            text_column=text_column,
            prefix=prefix,
            dtype=dtype,
            tokenizer=tokenizer,
            threads=threads,
            on_error=on_error,
        )
        self.options: dict[str, Any] = {
            "pooling": pooling,
            "normalize": normalize,
            "max_tokens": max_tokens,
            "special": special,
        }

    def _new_task(self) -> Embedding:
        return Embedding(self.model, **self.options)
