"""The tasks for every text of a table: scoring, classifying, or generating."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..core.batching import TEXTS_AT_ONCE
from ..core.checks import check_integer
from ..errors import ContextLengthError
from ..generation.job import Job as GenerationJob
from ..generation.loop import check_prompt, generate_rows
from ..heads.heads import classifications, head_of
from ..heads.reading import check_options, check_room, read
from ..json_values import plain
from ..scoring.options import ScoringOptions, default_stride
from ..scoring.results import SUMMARY, summary
from ..scoring.rows import score_rows

if TYPE_CHECKING:
    from ..config import Head
    from ..core.lm import LoadedModel
    from ..generation.options import SamplingOptions
    from ..generation.results import Generation
    from ..heads.reading import Reading
    from ..heads.results import Classification

__all__ = [
    "SCORES",
    "Classifying",
    "Counts",
    "Generating",
    "Key",
    "Row",
    "Scoring",
    "Task",
    "check_seed",
    "continuation_columns",
    "portions",
]

Key = TypeVar("Key")
Item = TypeVar("Item")
Row = dict[str, Any]
"""The results for a text, by the names of `Task.columns`."""

_BIASES = ("logit_bias", "sequence_bias")
_OBJECTS = ("logits_processor", "token_bitmask", "edits", "names_filter", "trace", "deadline", "draft")

SCORES = {**SUMMARY, "truncated": bool}
"""The columns of `Scoring`, with their types."""


class Counts(NamedTuple):
    """The contribution of one text's rows to the summary."""

    empty: bool
    """Whether there was nothing to do."""
    truncated: bool
    tokens: int
    """Scored, or added."""
    bytes: int
    """Scored."""


class Task(Protocol):
    """A task for texts, with its model and its results."""

    model: LoadedModel
    doing: str
    """The activity, as in "scoring"."""
    unit: str
    """The unit of `size`."""
    without: str
    """The phrase for a record with nothing to do."""
    seed: int | None
    """The seed for sampling, if any."""

    @property
    def columns(self) -> Mapping[str, type]:
        """The names of the results, and their types: bool, int, float, str, or list of float32."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything besides model and text that results depend on, as JSON."""

    def check(self, text: Any) -> None:
        """Raise ValueError if this text cannot be processed."""

    def size(self, text: str | None) -> int:
        """A rough measure of a text's work: bytes of text to score, or prompts to continue."""

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """The results of texts, in order: at least one row each; a text is a string, token ids or None."""

    def count(self, rows: Sequence[Row]) -> Counts:
        """The summary of the rows of a text."""


class Scoring:
    """Scores of texts.

    Parameters
    ----------
    model : LoadedModel
    max_tokens : int, optional
        Longer texts are truncated to this many tokens.
    **options
        As for ``GPT2.score``; but without ``stride`` and ``min_context`` the stride is half of the window, so
        that texts may have any length.
    """

    columns: Mapping[str, type] = SCORES
    doing, unit, without = "scoring", "B", "without a score"
    seed: int | None = None

    def __init__(self, model: LoadedModel, *, max_tokens: int | None = None, **options: Any) -> None:
        if max_tokens is not None:
            max_tokens = check_integer("max_tokens", max_tokens, 1)
        if options.get("stride") is None and options.get("min_context") is None:
            options["stride"] = default_stride(model, options.get("window"))
        self.model, self._max_tokens, self._options = model, max_tokens, options
        checked = ScoringOptions.checked(model, **options)
        # Report missing tokens before the long work.
        if checked.bos is True:
            _ = model.start_ids
        self.settings = {
            "max_tokens": max_tokens,
            **{name: getattr(checked, name) for name in ("bos", "repeat_bos", "special", "window", "stride")},
        }

    def check(self, text: Any) -> None:
        """Every text can be scored."""

    def size(self, text: str | None) -> int:
        """The bytes that are scored."""
        size = len((text or "").encode("utf-8"))
        return size if self._max_tokens is None else min(size, 4 * self._max_tokens)

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """One row per text."""
        for key, score, cut in score_rows(self.model, texts, max_tokens=self._max_tokens, **self._options):
            yield key, [{**summary(score), "truncated": cut}]

    def count(self, rows: Sequence[Row]) -> Counts:
        """The summary of the row."""
        [row] = rows
        return Counts(row["logprob"] is None, row["truncated"], row["n_tokens"], row["n_bytes"] or 0)


def label_columns(head: Head) -> dict[str, type]:
    """The columns of `Classifying`, with their types."""
    found: dict[str, type]
    if head.problem != "regression":
        found = {"label": str, "probability": float, **{f"probability_{name}": float for name in head.labels}}
    elif len(head.labels) == 1:
        found = {"value": float}
    else:
        found = {f"value_{name}": float for name in head.labels}
    return {**found, "n_tokens": int, "truncated": bool}


class Classifying:
    """Labels of texts.

    Parameters
    ----------
    model : LoadedModel
        One with the head of a GPT2ForSequenceClassification.
    max_tokens, special
        As for ``GPT2.classify``.
    """

    doing, unit, without = "classifying", "texts", "without a label"
    seed: int | None = None

    def __init__(self, model: LoadedModel, *, max_tokens: int | None = None, special: bool = False) -> None:
        head = head_of(model, "sequence")
        self.columns: Mapping[str, type] = label_columns(head)
        self.model, self._options = model, check_options(model, max_tokens=max_tokens, special=special)
        check_room(model, self._options)
        # The head is described by config.json, not by the weights.
        self.settings = {**self._options._asdict(), **dataclasses.asdict(head)}

    def check(self, text: Any) -> None:
        """Raise ValueError if a text is too long."""
        read(self.model, text, "the text", self._options)

    def size(self, text: str | None) -> int:
        """One text."""
        return int(text is not None)

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """One row per text."""
        for some in portions((key, self._read(text)) for key, text in texts):
            found = classifications(self.model, (reading for _, reading in some if reading is not None))
            for key, reading in some:
                yield key, [self._row(None if reading is None else next(found))]

    def _read(self, text: Any) -> Reading | None:
        return None if text is None else read(self.model, text, "a text", self._options)

    def _row(self, found: Classification | None) -> Row:
        if found is None:
            return {**dict.fromkeys(self.columns), "n_tokens": 0, "truncated": False}
        each = {f"probability_{label}": value for label, value in found.probabilities.items()}
        values = {f"value_{label}": value for label, value in found.values.items()}
        names = ("label", "probability", "value", "n_tokens", "truncated")
        row = {**{name: getattr(found, name) for name in names}, **each, **values}
        return plain({name: row[name] for name in self.columns})

    def count(self, rows: Sequence[Row]) -> Counts:
        """The summary of the row."""
        [row] = rows
        return Counts(row["n_tokens"] == 0, row["truncated"], row["n_tokens"], 0)


def portions(items: Iterable[Item]) -> Iterator[list[Item]]:
    """`TEXTS_AT_ONCE` items at a time. Errors come after earlier results."""
    some: list[Item] = []
    try:
        for item in items:
            some.append(item)
            if len(some) == TEXTS_AT_ONCE:
                yield some
                some = []
    except Exception:
        if some:
            yield some
        raise
    if some:
        yield some


def continuation_columns(options: SamplingOptions) -> dict[str, type]:
    """The columns of `Generating`, with their types."""
    several = {"sample_index": int} if options.num_return_sequences > 1 else {}
    return {
        "continuation": str,
        "continuation_tokens": int,
        "continuation_logprob": float,
        "finish_reason": str,
        "prompt_truncated": bool,
        **several,
    }


def check_seed(options: SamplingOptions) -> None:
    """Raise ValueError if repeated work would give other continuations."""
    if options.seed is None and not options.greedy:
        raise ValueError("temperature needs a seed here, so that repeated work gives the same result")


class Generating:
    """Continuations of texts: ``num_return_sequences`` rows of each, or one for None.

    Parameters
    ----------
    model : LoadedModel
    options : SamplingOptions
        Sampling needs a seed, so that repeated work gives the same texts.
    """

    doing, unit, without = "generating", "prompts", "without a prompt"

    def __init__(self, model: LoadedModel, options: SamplingOptions) -> None:
        check_seed(options)
        if options.trace or options.names_filter != ():
            raise ValueError(
                "trace and names_filter record values that no column can hold: use model.generate"
            )
        if options.deadline.seconds is not None:
            raise ValueError("a deadline would end texts at a different point each time: use model.generate")
        most = model.config.n_ctx
        if options.max_new_tokens > most and options.overflow != "slide":
            raise ContextLengthError(
                f"max_new_tokens is {options.max_new_tokens}, but the model has {most} positions: no prompt "
                "leaves that much room; lower it (-n), or use overflow='slide' "
                "(--overflow slide)"
            )
        self.model, self.options = model, options
        self.columns = continuation_columns(options)
        self.seed = options.seed

    @cached_property
    def _job(self) -> GenerationJob:
        return GenerationJob(self.model, self.options)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The options that JSON can hold: functions can be passed only in Python."""
        given = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(self.options)}
        biases = {name: [[key, value] for key, value in given[name].items()] for name in _BIASES}
        if self.options.watermarking_config is not None:
            given["watermarking_config"] = dataclasses.asdict(self.options.watermarking_config)
        return {name: value for name, value in {**given, **biases}.items() if name not in _OBJECTS}

    def check(self, text: Any) -> None:
        """Raise ValueError if the continuation has no room."""
        check_prompt(self._job, text)

    def size(self, text: str | None) -> int:
        """One prompt."""
        return int(text is not None)

    def rows(self, texts: Iterable[tuple[Key, Any]]) -> Iterator[tuple[Key, list[Row]]]:
        """The continuations of each text, best first for beam search."""
        for key, results, cut in generate_rows(self._job, texts):
            yield key, [self._row(result, cut) for result in results] or [self._no_row()]

    def _row(self, result: Generation, cut: bool) -> Row:
        row = {
            "continuation": result.text,
            "continuation_tokens": len(result.token_ids),
            "continuation_logprob": plain(sum(result.logprobs)),
            "finish_reason": result.finish_reason,
            "prompt_truncated": cut,
            "sample_index": result.sample_index,
        }
        return {name: row[name] for name in self.columns}

    def _no_row(self) -> Row:
        nothing = {"continuation_tokens": 0, "prompt_truncated": False, "sample_index": 0}
        return {name: nothing.get(name) for name in self.columns}

    def count(self, rows: Sequence[Row]) -> Counts:
        """The summary of all continuations."""
        tokens = sum(row["continuation_tokens"] for row in rows)
        return Counts(rows[0]["continuation"] is None, rows[0]["prompt_truncated"], tokens, 0)
