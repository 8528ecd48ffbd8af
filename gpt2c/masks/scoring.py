"""How probable texts are to a BERT: every token is masked in turn (pseudo-log-likelihood)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import _engine
from ..core.batching import within_bounds
from ..core.checks import check_flag, check_integer
from ..core.deadline import Deadline
from ..core.roles import check_predicts_tokens
from ..heads.reading import Options, Reading, check_options, check_single, read, read_all
from ..scoring.extent import extent
from ..scoring.options import MOST_TOP
from ..scoring.results import Score

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["check_scoring", "masked_scores", "score"]


class _Masked(NamedTuple):
    """A text with a token masked."""

    reading: Reading
    ids: np.ndarray
    place: int  # position of the scored token
    cache: _engine.KVCache


def score(
    model: LoadedModel,
    texts: Any,
    *,
    within_word: Any = False,
    top: Any = 0,
    max_tokens: Any = None,
    special: Any = False,
    deadline: Any = None,
) -> Score | list[Score] | Iterator[Score]:
    """See :meth:`gpt2c.BERT.score`."""
    check_scoring(model)
    within_word = check_flag("within_word", within_word)
    top = check_integer("top", top, 0, min(MOST_TOP, model.n_text_tokens))
    options = check_options(model, max_tokens=max_tokens, special=special)
    how = {"within_word": within_word, "top": top, "deadline": Deadline.of(deadline)}
    if isinstance(texts, Iterator):
        return masked_scores(model, _read(model, texts, options), options, **how)
    several, readings = read_all(model, texts, options)
    names = [f"text {i}" if several else "the text" for i in range(len(readings))]
    found = list(masked_scores(model, zip(names, readings, strict=True), options, **how))
    return found if several else found[0]


def check_scoring(model: LoadedModel) -> None:
    """Raise ConfigError or TokenizerError if the model cannot predict masked tokens."""
    check_predicts_tokens(model.config, model.name)
    _ = model.mask_token_id


def _read(model: LoadedModel, texts: Iterator[Any], options: Options) -> Iterator[tuple[str, Reading]]:
    for i, text in enumerate(texts):
        reading = read(model, text, f"text {i}", options)
        if reading is None:
            raise ValueError(f"text {i} is empty: there is nothing to score")
        yield f"text {i}", reading


def masked_scores(
    model: LoadedModel,
    readings: Iterable[tuple[str, Reading]],
    options: Options,
    *,
    within_word: bool,
    top: int = 0,
    deadline: Deadline | None = None,
) -> Iterator[Score]:
    """The scores of texts, in order; errors come after earlier results."""
    masked = (one for name, reading in readings for one in _copies(model, name, reading, within_word))
    found: list[tuple[np.ndarray, ...]] = []  # of the tokens of the current text
    contexts: list[int] = []
    for batch in within_bounds(masked, lambda one: (len(one.ids), one.cache.nbytes)):
        wanted = [(np.array([one.place]), one.reading.ids[one.place : one.place + 1]) for one in batch]
        values = _engine.score(
            model.weights,
            [(one.cache, one.ids) for one in batch],
            wanted,
            top=top,
            n_text=model.n_text_tokens,
            threads=model.threads,
            deadline=deadline,
        )
        some = [one._replace(cache=None) for one in batch]  # type: ignore[arg-type]  # it need not live on
        batch.clear()
        for i, one in enumerate(some):
            found.append(tuple(array[i : i + 1] for array in values))
            contexts.append(int(np.count_nonzero(one.ids != model.mask_token_id)))
            if one.place == one.reading.own.stop - 1:
                yield _finished(model, one.reading, options, found, contexts)
                found, contexts = [], []


def _copies(model: LoadedModel, name: str, reading: Reading, within_word: bool) -> Iterator[_Masked]:
    """One copy of a text per token, with that token masked."""
    check_single([reading], "score")
    first, stop, mask = reading.own.start, reading.own.stop, model.mask_token_id
    if first == stop:
        raise ValueError(f"{name} is empty: there is nothing to score")
    begins = [True] * len(reading.ids)
    if within_word:
        begins[first:stop] = [
            model.tokenizer.begins_word(token) for token in reading.ids[reading.own].tolist()
        ]
    for place in range(first, stop):
        end = place + 1
        while end < stop and not begins[end]:
            end += 1
        ids = reading.ids.copy()
        ids[place:end] = mask
        yield _Masked(reading, ids, place, model.new_cache(len(ids)))


def _finished(
    model: LoadedModel,
    reading: Reading,
    options: Options,
    found: list[tuple[np.ndarray, ...]],
    contexts: list[int],
) -> Score:
    logprobs, ranks, entropies, variances, top_ids, top_logprobs, _ = map(
        np.concatenate, zip(*found, strict=True)
    )
    ids, text, offsets = reading.ids[reading.own], reading.text, None
    if text is not None:
        offsets = model.tokenizer.offsets(text, ids.tolist(), special=options.special)
        if reading.truncated:  # to the scored part
            text = None if offsets is None else text[: max(end for _, end in offsets)]
            offsets = None if text is None else offsets
    offsets, n_bytes, n_chars = extent(model, text, ids, offsets)
    return Score(
        token_ids=ids.tolist(),
        logprobs=logprobs,
        ranks=ranks,
        entropies=entropies,
        variances=variances,
        contexts=np.array(contexts, np.int64),
        offsets=offsets,
        n_bytes=n_bytes,
        n_chars=n_chars,
        text=text,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )
