"""The tokens that fit the masks of a text, each alone and all together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import _engine
from ..core.batching import within_bounds
from ..core.checks import check_integer
from ..core.deadline import Deadline
from ..core.prompts import token_ids
from ..core.roles import check_predicts_tokens
from ..errors import shown
from ..heads.reading import Reading, check_options, check_single, read_all
from ..scoring.options import MOST_TOP
from ..scoring.results import Suggestion
from .results import Filled, Filling

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["fill"]

_Candidates = tuple[np.ndarray, np.ndarray]
"""Token ids, the most probable first, and the logarithms of their probabilities, float64."""


class _Way(NamedTuple):
    """A text with some of its masks filled."""

    logprob: float
    ids: np.ndarray  # ids of the whole text
    left: tuple[int, ...]  # positions of remaining masks
    chosen: dict[int, float]  # the log-probability of each filled mask, by position


def fill(
    model: LoadedModel,
    texts: Any,
    k: Any,
    *,
    num_beams: Any = 5,
    targets: Any = None,
    max_tokens: Any = None,
    deadline: Any = None,
) -> Filled | list[Filled]:
    """See :meth:`gpt2c.BERT.fill`."""
    check_predicts_tokens(model.config, model.name)
    wanted = None if targets is None else _target_ids(model, targets)
    most = min(MOST_TOP, model.n_text_tokens)
    k = check_integer("k", k, 1, most)
    width = min(most, max(k, check_integer("num_beams", num_beams, 1, 1024)))
    limit = Deadline.of(deadline)
    several, readings = read_all(model, texts, check_options(model, max_tokens=max_tokens, special=True))
    check_single(readings, "fill")
    begun = [_begin(model, reading, i if several else None) for i, reading in enumerate(readings)]
    found = []
    look = _Look(model, width, wanted, limit)
    for reading, way, each in zip(readings, begun, look.at(begun), strict=True):
        masks = [_suggestions(model, ids[:k], logprobs[:k]) for ids, logprobs in each]
        ways = _search(look, way, each, width)[:k]
        found.append(Filled((_filling(model, reading, one) for one in ways), masks, reading.truncated))
    return found if several else found[0]


def _target_ids(model: LoadedModel, targets: Any) -> np.ndarray:
    """The token ids that may fill masks, ascending, each once."""
    if isinstance(targets, str) or not isinstance(targets, Sequence | np.ndarray) or len(targets) == 0:
        raise TypeError(f"targets must be a list of at least one word or token id, not {shown(targets)}")
    found = []
    for target in targets:
        ids = model.encode_text(
            target if isinstance(target, str) else [target], f"the target {shown(target)}"
        )
        if len(ids) != 1:
            raise ValueError(
                f"the target {shown(target)} has {len(ids)} tokens, but a mask is one token: give words "
                "that are tokens (after a space, if tokens start with one), or token ids"
            )
        found += ids.tolist()
    return np.unique(token_ids(found, model.config.n_vocab, "targets"))


def _begin(model: LoadedModel, reading: Reading, index: int | None) -> _Way:
    mask = model.mask_token_id
    left = tuple(np.flatnonzero(reading.ids == mask).tolist())
    if not left:
        name = "the text" if index is None else f"text {index}"
        written = model.tokenizer.decode([mask]).strip()
        cut = f" in its first {len(reading.ids)} tokens" if reading.truncated else ""
        raise ValueError(f"{name} has no mask{cut}: put {shown(written)} where a token is to be predicted")
    return _Way(0.0, reading.ids, left, {})


class _Look:
    """The model's predictions for the masks of texts."""

    def __init__(
        self, model: LoadedModel, width: int, wanted: np.ndarray | None, deadline: Deadline | None
    ) -> None:
        self.model, self.width, self.wanted, self.deadline = model, width, wanted, deadline

    def at(self, ways: Iterable[_Way]) -> Iterator[list[_Candidates]]:
        """For each text and each of its masks the most probable tokens, ``width`` of them."""
        model = self.model
        new = ((way, model.new_cache(len(way.ids))) for way in ways)
        for batch in within_bounds(new, lambda item: (len(item[0].ids), item[1].nbytes)):
            some = [way for way, _ in batch]
            sequences = [(cache, way.ids) for way, cache in batch]
            values = _engine.score(
                model.weights,
                sequences,
                [self._rows(way) for way in some],
                top=self.width if self.wanted is None else 0,
                n_text=model.n_text_tokens,
                threads=model.threads,
                deadline=self.deadline,
            )
            batch.clear()  # free the caches
            sequences.clear()
            each = iter(self._ranked(values))
            for way in some:
                yield [next(each) for _ in way.left]

    def _rows(self, way: _Way) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the masks, and the targets of each."""
        left = np.array(way.left, np.intp)
        if self.wanted is None:
            return left, np.full(len(left), -1, np.int32)
        return np.repeat(left, len(self.wanted)), np.tile(self.wanted, len(left))

    def _ranked(self, values: Sequence[np.ndarray]) -> Iterator[_Candidates]:
        """The tokens for each mask, from the engine's results."""
        logprobs, _, _, _, top_ids, top_logprobs, _ = values
        if self.wanted is not None:
            logprobs = logprobs.reshape(-1, len(self.wanted))
            order = np.argsort(-logprobs, axis=1, kind="stable")[:, : self.width]  # ids ascend
            top_ids, top_logprobs = self.wanted[order], np.take_along_axis(logprobs, order, axis=1)
        if not np.isfinite(top_logprobs[:, 0]).all():
            raise ValueError("the logits of a mask hold NaN or infinities: the weights are too large")
        yield from zip(top_ids, top_logprobs.astype(np.float64), strict=True)


def _search(look: _Look, way: _Way, each: list[_Candidates], width: int) -> list[_Way]:
    """Beam search over fillings: every text fills the mask about which the model is most certain.

    When two texts split they differ in one position, so they never become equal again.
    """
    ways, said = [way], [each]
    while ways[0].left:
        found: list[_Way] = []
        for one, candidates in zip(ways, said, strict=True):
            surest = max(range(len(one.left)), key=lambda i: (candidates[i][1][0], -i))
            found += _filled(one, surest, *candidates[surest])
        # Equal ones are in the order of their ids.
        ways = sorted(found, key=lambda one: (-one.logprob, one.ids.tolist()))[:width]
        said = list(look.at(ways)) if ways[0].left else []
    return ways


def _filled(way: _Way, which: int, ids: np.ndarray, logprobs: np.ndarray) -> Iterator[_Way]:
    place = way.left[which]
    left = way.left[:which] + way.left[which + 1 :]
    for token, logprob in zip(ids.tolist(), logprobs.tolist(), strict=True):
        if token < 0 or logprob == -math.inf:
            continue
        filled = way.ids.copy()
        filled[place] = token
        yield _Way(way.logprob + logprob, filled, left, {**way.chosen, place: logprob})


def _filling(model: LoadedModel, reading: Reading, way: _Way) -> Filling:
    places = sorted(way.chosen)
    tokens = _suggestions(model, way.ids[places], np.array([way.chosen[place] for place in places]))
    text = model.tokenizer.decode(way.ids[reading.own].tolist())
    return Filling(text, math.exp(way.logprob), tuple(tokens))


def _suggestions(model: LoadedModel, ids: np.ndarray, logprobs: np.ndarray) -> list[Suggestion]:
    return [
        Suggestion(model.tokenizer.decode([token]), math.exp(logprob), token, model.token_bytes(token))
        for token, logprob in zip(ids.tolist(), logprobs.tolist(), strict=True)
        if token >= 0
    ]
