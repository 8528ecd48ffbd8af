"""Texts that a decoder writes for the texts that an encoder reads.

For every source there is a copy of the decoder that attends to it (`core.crossing.given_each`), with all that
a language model can do. Many of them advance in one loop, as the continuations of one model do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..core.batching import calls_of
from ..core.checks import check_integer
from ..core.crossing import Beginning, given_each
from ..core.deadline import Deadline
from ..core.prompts import Prompt, separate
from ..generation.job import Job
from ..generation.loop import computed_prompts, in_order, texts_of
from ..generation.options import SamplingOptions
from ..generation.streaming import stream as stream_of
from ..heads.reading import Reading, check_options, hidden_rows, read_all
from ..introspection.passes import capture
from ..scoring.options import ScoringOptions
from ..scoring.scoring import passage_of, scores_of

if TYPE_CHECKING:
    from ..core.encoder_decoder import LoadedEncoderDecoder
    from ..core.lm import LoadedModel
    from ..generation.results import Generation
    from ..generation.streaming import Stream
    from ..introspection.passes import ActivationCache
    from ..scoring.passages import Passage
    from ..scoring.results import Score

    Translator = LoadedEncoderDecoder[Any, Any]

__all__ = ["encode", "generate", "given", "run_with_cache", "score", "stream"]

_MOST_NEW = 128


def encode(model: Translator, sources: Any, *, deadline: Any = None, **how: Any) -> Any:
    """What :meth:`gpt2c.EncoderDecoder.encode` does."""
    several, readings = _read(model, sources, **how)
    found = list(_states(model, readings, Deadline.of(deadline)))
    return found if several else found[0]


def given(model: Translator, source: Any, *, deadline: Any = None, **how: Any) -> Any:
    """What :meth:`gpt2c.EncoderDecoder.given` does."""
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
    """What :meth:`gpt2c.EncoderDecoder.generate` does."""
    checked = SamplingOptions(num_return_sequences=num_return_sequences, **_begun(model, options))
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, 1)
    several, readings = _read(model, sources, max_tokens=max_tokens, special=checked.special)
    if not readings:
        return []
    decoders = _given_each(model, readings, checked.deadline)
    # The first one's job says what all have in common: draws are keyed by one seed.
    first = Job(next(decoders), checked)
    checked = replace(checked, seed=first.seed)
    jobs = chain([first], (Job(decoder, checked) for decoder in decoders))
    start = _start(model)
    made = ((i, texts_of(job, computed_prompts(job, [start])[0], i)) for i, job in enumerate(jobs))
    results = [one for _, found, _ in in_order(first, made, batch_size) for one in found]
    return results if several or num_return_sequences > 1 else results[0]


def stream(model: Translator, source: Any, *, max_tokens: int | None = None, **options: Any) -> Stream:
    """What :meth:`gpt2c.EncoderDecoder.stream` does."""
    decoder = given(model, source, max_tokens=max_tokens, special=options.get("special", False))
    return stream_of(decoder, _start(model), **_begun(model, options))


def score(
    model: Translator, sources: Any, targets: Any, *, max_tokens: int | None = None, **options: Any
) -> Score | list[Score]:
    """What :meth:`gpt2c.EncoderDecoder.score` does."""
    several, readings = _read(model, sources, max_tokens=max_tokens, special=options.get("special", False))
    no_targets = isinstance(targets, list | tuple) and not targets
    several_targets, texts = (True, []) if no_targets else separate(targets)
    if several != several_targets or len(texts) != len(readings):
        raise ValueError(
            f"sources and targets must be one text each, or as many of each; got {len(readings)} sources and "
            f"{len(texts)} targets"
        )
    limit = Deadline.of(options.pop("deadline", None))
    decoders = _given_each(model, readings, limit)
    found = list(scores_of(model.decoder, _passages(decoders, texts, {**options, "deadline": limit})))
    return found if several else found[0]


def _passages(
    decoders: Iterator[LoadedModel], texts: Sequence[Any], options: dict[str, Any]
) -> Iterator[Passage]:
    """What is scored, of each decoder a text; those of several share calls of the engine."""
    checked: ScoringOptions | None = None
    for i, (decoder, text) in enumerate(zip(decoders, texts, strict=True)):
        checked = checked or ScoringOptions.checked(decoder, bos=decoder.config.bos_token_id, **options)
        own = checked._replace(prefixes=Beginning(decoder))
        yield passage_of(decoder, ("", text), f"target {i}", own)


def run_with_cache(
    model: Translator, source: Any, target: Prompt, names_filter: Any = None, edits: Any = (), **how: Any
) -> tuple[np.ndarray, ActivationCache]:
    """What :meth:`gpt2c.EncoderDecoder.run_with_cache` does."""
    special = how.pop("special", False)
    decoder = given(model, source, special=special)
    ids = decoder.encode_text(target, "the target", special=special)
    whole = np.array([*_start(model), *ids], np.int32)
    [cache] = capture(decoder, [whole], names_filter, edits, **how)
    return cache.logits, cache


def _begun(model: Translator, options: dict[str, Any]) -> dict[str, Any]:
    """Options of generation, with the default that is another one here."""
    return {"max_new_tokens": min(_MOST_NEW, model.decoder.config.n_ctx), **options}


def _start(model: Translator) -> list[int]:
    """What a text begins with in the decoder."""
    return [model.decoder.config.bos_token_id]


def _read(model: Translator, sources: Any, **how: Any) -> tuple[bool, list[Reading]]:
    return read_all(model.encoder, sources, check_options(model.encoder, **how))


def _read_one(model: Translator, source: Any, **how: Any) -> list[Reading]:
    several, readings = _read(model, source, **how)
    if several:
        raise TypeError(f"one text is needed here, but got a list of {len(readings)}")
    return readings


def _states(
    model: Translator, readings: Sequence[Reading], deadline: Deadline | None
) -> Iterator[np.ndarray]:
    """The output of the encoder for each text, as wide as the decoder: float32 [positions, n_embd]."""
    for _, rows in hidden_rows(model.encoder, readings, lambda text: np.arange(len(text.ids)), deadline):
        yield rows if model.projection is None else model.projection(rows)


def _given_each(
    model: Translator, readings: Sequence[Reading], deadline: Deadline | None
) -> Iterator[LoadedModel]:
    """The decoder with each of the texts, of which some are encoded at a time."""
    for part in calls_of([len(reading.ids) for reading in readings]) if readings else ():
        states = list(_states(model, readings[part], deadline))
        tokens = [_tokens(model.encoder, reading) for reading in readings[part]]
        yield from cast("list[LoadedModel]", given_each(model.decoder, states, tokens))


def _tokens(encoder: LoadedModel, reading: Reading) -> list[str] | None:
    return [encoder.token_text(token) for token in reading.ids.tolist()] if encoder.has_tokenizer else None
