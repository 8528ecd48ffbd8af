"""Texts that a decoder writes for the texts that an encoder reads.

For every source there is a copy of the decoder that attends to it (`core.crossing.given_each`), with all
abilities of a language model. Many of them advance in one loop, like the continuations of one model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batching import within_bounds
from ..core.checks import check_integer
from ..core.crossing import Beginning, given_each
from ..core.deadline import Deadline
from ..core.prompts import Prompt, separate
from ..generation.job import Job
from ..generation.loop import computed_prompts, in_order, texts_of
from ..generation.options import SamplingOptions
from ..generation.streaming import stream as stream_of
from ..heads.reading import Options, Reading, check_options, hidden_rows, read, read_all
from ..introspection.passes import capture
from ..scoring.options import ScoringOptions
from ..scoring.scoring import passage_of, scores_of

if TYPE_CHECKING:
    from ..core.encoder_decoder import LoadedEncoderDecoder
    from ..core.lm import LoadedModel
    from ..generation.beam import Search
    from ..generation.results import Generation
    from ..generation.streaming import Stream
    from ..generation.text import Text
    from ..introspection.passes import ActivationCache
    from ..scoring.passages import Passage
    from ..scoring.results import Score
    from ..tokenizer.writing import Writer

    Translator = LoadedEncoderDecoder[Any, Any]

__all__ = [
    "encode",
    "generate",
    "generate_rows",
    "given",
    "most_new",
    "reading_options",
    "run_with_cache",
    "score",
    "stream",
]

_MOST_NEW = 128


class _Writing(Job):
    """The state shared by all texts, none of which has a visible prompt."""

    def new_writer(self, before: Iterable[int], skip: int = 0) -> Writer:
        """A writer; the decoder's start token is not part of the text."""
        return super().new_writer([*before][1:], skip)


def encode(model: Translator, sources: Any, *, deadline: Any = None, **how: Any) -> Any:
    """See :meth:`gpt2c.EncoderDecoder.encode`."""
    several, readings = _read(model, sources, **how)
    found = list(_states(model, readings, Deadline.of(deadline)))
    return found if several else found[0]


def given(model: Translator, source: Any, *, deadline: Any = None, **how: Any) -> Any:
    """See :meth:`gpt2c.EncoderDecoder.given`."""
    return next(_given_each(model, _read_one(model, source, **how), Deadline.of(deadline)))


def generate(
    model: Translator,
    sources: Any,
    *,
    num_return_sequences: int = 1,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    **options: Any,
) -> Generation | list[Generation]:
    """See :meth:`gpt2c.EncoderDecoder.generate`."""
    checked = SamplingOptions(num_return_sequences=num_return_sequences, **_begun(model, options))
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, 1)
    several, readings = _read(model, sources, max_tokens=max_tokens, special=checked.special)
    found = _written(model, checked, enumerate(readings), batch_size)
    results = [one for _, texts, _ in found for one in texts]
    return results if several or num_return_sequences > 1 else results[0]


def generate_rows(
    model: Translator, options: SamplingOptions, rows: Iterable[tuple[Any, Any]]
) -> Iterator[tuple[Any, list[Generation], bool]]:
    """Texts for the sources of a table, in order; rows are consumed as needed.

    Yields like `generation.loop.generate_rows`.
    """
    how = reading_options(model, special=options.special)
    readings = (
        (key, None if text is None else read(model.encoder, text, "a text", how)) for key, text in rows
    )
    return _written(model, options, readings)


def _written(
    model: Translator,
    options: SamplingOptions,
    readings: Iterable[tuple[Any, Reading | None]],
    batch_size: int | None = None,
) -> Iterator[tuple[Any, list[Generation], bool]]:
    """The texts for each source, by its key; none for None."""
    # Shared by all: the passes, in which every text has its own cache, and the seed.
    nothing = np.zeros((1, model.decoder.config.n_embd), np.float32)
    shared = _Writing(given_each(model.decoder, [nothing], [None])[0], options)
    options, start = replace(options, seed=shared.seed), _start(model)

    def made() -> Iterator[tuple[Any, Sequence[Text | Search]]]:
        keys: deque[Any] = deque()

        def noted() -> Iterator[Reading | None]:
            for key, reading in readings:
                keys.append(key)
                yield reading

        for index, decoder in enumerate(_given_each(model, noted(), options.deadline)):
            key = keys.popleft()
            if decoder is None:
                yield key, ()
            else:
                job = _Writing(decoder, options)
                yield key, texts_of(job, computed_prompts(job, [start])[0], index)

    return in_order(shared, made(), batch_size)


def stream(model: Translator, source: Any, *, max_tokens: int | None = None, **options: Any) -> Stream:
    """See :meth:`gpt2c.EncoderDecoder.stream`."""
    decoder = given(model, source, max_tokens=max_tokens, special=options.get("special", False))
    return stream_of(decoder, _start(model), kind=_Writing, **_begun(model, options))


def score(
    model: Translator, sources: Any, targets: Any, *, max_tokens: int | None = None, **options: Any
) -> Score | list[Score]:
    """See :meth:`gpt2c.EncoderDecoder.score`."""
    several, readings = _read(model, sources, max_tokens=max_tokens, special=options.get("special", False))
    no_targets = isinstance(targets, list | tuple) and not targets
    several_targets, texts = (True, []) if no_targets else separate(targets)
    if several != several_targets or len(texts) != len(readings):
        raise ValueError(
            f"sources and targets must be one text each, or as many of each, not {len(readings)} sources and "
            f"{len(texts)} targets"
        )
    limit = Deadline.of(options.pop("deadline", None))
    decoders = (decoder for decoder in _given_each(model, readings, limit) if decoder is not None)
    found = list(scores_of(model.decoder, _passages(decoders, texts, {**options, "deadline": limit})))
    return found if several else found[0]


def _passages(
    decoders: Iterator[LoadedModel], texts: Sequence[Any], options: dict[str, Any]
) -> Iterator[Passage]:
    """The passages to score, one text per decoder; those of several share calls of the engine."""
    checked: ScoringOptions | None = None
    for i, (decoder, text) in enumerate(zip(decoders, texts, strict=True)):
        checked = checked or ScoringOptions.checked(decoder, bos=decoder.config.bos_token_id, **options)
        own = checked._replace(prefixes=Beginning(decoder))
        yield passage_of(decoder, ("", text), f"target {i}", own)


def run_with_cache(
    model: Translator, source: Any, target: Prompt, names_filter: Any = None, edits: Any = (), **how: Any
) -> tuple[np.ndarray, ActivationCache]:
    """See :meth:`gpt2c.EncoderDecoder.run_with_cache`."""
    special = how.pop("special", False)
    decoder = given(model, source, special=special)
    ids = decoder.encode_text(target, "the target", special=special)
    whole = np.array([*_start(model), *ids], np.int32)
    [cache] = capture(decoder, [whole], names_filter, edits, **how)
    return cache.logits, cache


def most_new(model: Translator, compares: bool = False) -> int:
    """The default limit of tokens of a text; where texts are compared, all need positions."""
    return max(1, min(_MOST_NEW, int(model.decoder.config.n_ctx) - compares))


def _begun(model: Translator, options: dict[str, Any]) -> dict[str, Any]:
    """Options of generation, with the different default of this class."""
    return {"max_new_tokens": most_new(model, bool(options.get("penalty_alpha"))), **options}


def _start(model: Translator) -> list[int]:
    """The decoder's start token."""
    return [model.decoder.config.bos_token_id]


def _read(model: Translator, sources: Any, **how: Any) -> tuple[bool, list[Reading]]:
    return read_all(model.encoder, sources, reading_options(model, **how))


def reading_options(model: Translator, **how: Any) -> Options:
    """How sources are read, checked."""
    cutting = "in Python, max_tokens={0} truncates it"
    return check_options(model.encoder, **how)._replace(cutting=cutting)


def _read_one(model: Translator, source: Any, **how: Any) -> list[Reading]:
    several, readings = _read(model, source, **how)
    if several:
        raise TypeError(f"give one text, not a list of {len(readings)}")
    return readings


def _states(
    model: Translator, readings: Sequence[Reading], deadline: Deadline | None
) -> Iterator[np.ndarray]:
    """The output of the encoder for each text, in the decoder's width: float32 [positions, n_embd]."""
    for _, rows in hidden_rows(model.encoder, readings, lambda text: np.arange(len(text.ids)), deadline):
        yield rows if model.projection is None else model.projection(rows)


def _given_each(
    model: Translator, readings: Iterable[Reading | None], deadline: Deadline | None
) -> Iterator[LoadedModel | None]:
    """The decoder with each of the texts, encoding some at a time; None for None."""
    for some in within_bounds(readings, lambda reading: (len(reading.ids) if reading else 1, 0)):
        present = [reading for reading in some if reading is not None]
        states = list(_states(model, present, deadline))
        tokens = [_tokens(model.encoder, reading) for reading in present]
        decoders = iter(given_each(model.decoder, states, tokens) if present else [])
        yield from (None if reading is None else next(decoders) for reading in some)


def _tokens(encoder: LoadedModel, reading: Reading) -> list[str] | None:
    return [encoder.token_text(token) for token in reading.ids.tolist()] if encoder.has_tokenizer else None
