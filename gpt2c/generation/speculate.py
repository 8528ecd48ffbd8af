"""Guessing the next tokens, so that one pass over the weights confirms several of them.

The guesses are computed after the last token, in one call; then each token is chosen from its row as it would
be without them, with the same random number. As long as it equals the guess, the next row is valid, too. So
the text, its log-probabilities and its trace are the same as without guesses, and processors are called for
the same tokens in the same order.

Guesses come from the text itself: the tokens that followed an earlier occurrence of the last ones (A. Saxena
2023, "prompt lookup decoding"). Or they come from a smaller model with the same vocabulary (Leviathan et al.
2023, arXiv 2211.17192), which samples with the same random numbers. Their number adapts to how often they
were right, and to the cost of additional rows in this run.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import _engine
from ..core.prefixes import common_length
from ..errors import DeadlineError, shown

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..core.lm import LoadedModel

__all__ = ["Costs", "Drafter", "check_draft", "new_drafter"]

MOST = 15  # guesses; with the last token at most 16 rows
_LONGEST = 6  # longest sequence of tokens to look up in the text
_PRIOR = 0.5  # assumed share of right guesses before there are any
_WEIGHT = 0.1  # weight of the newest observation in an average
_PAUSE = 16  # tokens without a guess, when guessing costs more time than it saves
_REVIVAL = 0.001  # how much of the prior returns with each skipped guess

_NO_IDS = np.empty(0, np.int32)


class Costs:
    """Duration of passes in seconds, by their rows."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def add(self, rows: int, seconds: float) -> None:
        """Record a pass. Slow ones among several of one size count less: the machine may have been busy."""
        known = self._seconds.get(rows, seconds)
        self._seconds[rows] = known + (seconds - known) * (_WEIGHT if seconds > known else 0.5)

    def of(self, rows: int) -> float:
        """The duration of a pass with this many rows, measured or estimated from the nearest smaller ones."""
        if rows in self._seconds:
            return self._seconds[rows]
        below = [known for known in self._seconds if known < rows]
        if not below:
            return min(self._seconds.values(), default=1.0)
        near = max(below)
        # Until measured, an additional row is assumed to cost a fiftieth of a pass.
        return self._seconds[near] * (1 + 0.02 * (rows - near))


class FromText:
    """The tokens that followed the latest earlier occurrence of the text's last tokens."""

    def guess(self, ids: np.ndarray, most: int) -> tuple[list[int], int]:
        """The kind is the number of tokens that matched."""
        place, kind = len(ids), 0
        places = np.flatnonzero(ids[:-1] == ids[-1]) + 1  # positions after earlier copies of the last token
        longest = min(_LONGEST, len(ids) - 1)
        while len(places) and kind < longest:
            place, kind = int(places[-1]), kind + 1
            places = places[places > kind]
            places = places[ids[places - 1 - kind] == ids[-1 - kind]]
        return ids[place : place + most].tolist(), kind

    def seconds(self) -> float:
        return 0.0


class FromModel:
    """The continuation by a smaller model, sampled with the same random numbers."""

    def __init__(
        self,
        model: LoadedModel,
        constants: dict[str, Any],
        sample_index: int,
        n_text: int,
        deadline: Deadline | None = None,
    ) -> None:
        self._model, self._constants, self._stream, self._n_text = model, constants, sample_index, n_text
        self._deadline = deadline
        self._cache = model.new_cache()
        self._held = np.empty(0, np.int32)
        self._seconds = 0.0

    def guess(self, ids: np.ndarray, most: int) -> tuple[list[int], int]:
        """There is only one kind."""
        try:
            return self._guess(ids, most), 0
        except DeadlineError:
            return [], 0

    def _guess(self, ids: np.ndarray, most: int) -> list[int]:
        found: list[int] = []
        self._held = self._held[: len(self._cache)]  # if an earlier guess was given up
        most = min(most, self._model.config.n_ctx - len(ids))
        if most < 1:
            return found
        begin = perf_counter()
        n = min(common_length(self._held, ids), len(ids) - 1)
        self._cache.truncate(n)
        new = ids[n:]
        while True:
            [logits] = _engine.forward(
                self._model.weights,
                [(self._cache, new)],
                keep=1,
                threads=self._model.threads,
                deadline=self._deadline,
            )
            position = len(ids) + len(found)
            token, _ = _engine.sample(
                logits[: self._n_text], stream=self._stream, position=position, **self._constants
            )
            found.append(token)
            if len(found) == most:
                break
            new = np.array([token], np.int32)
        self._held = np.concatenate([ids, np.array(found[:-1], np.int32)])
        took = (perf_counter() - begin) / most
        self._seconds = self._seconds + (took - self._seconds) * _WEIGHT if self._seconds else took
        return found

    def seconds(self) -> float:
        return self._seconds


class Drafter:
    """The guesses for one text."""

    def __init__(self, source: FromText | FromModel, costs: Costs) -> None:
        self._source, self._costs = source, costs
        self._right: dict[int, float] = {}  # by kind of guess
        self._kind, self._n_texts = 0, 1
        self._looked = 0.0  # seconds that the latest lookup took
        self._gain: float | None = None  # seconds that a lookup saves, minus those it takes
        self._pause = 0  # tokens until the next lookup

    def propose(self, ids: np.ndarray, most: int, n_texts: int) -> np.ndarray:
        """Guesses of the tokens after ``ids``, int32: as many as pay off with ``n_texts`` in a call."""
        self._looked = 0.0
        if self._pause:
            self._pause -= 1
            return _NO_IDS
        most, self._n_texts = min(most, MOST), n_texts
        if isinstance(self._source, FromText):
            guesses = self._look(ids, most)
        else:
            most = self._worth(0, most, n_texts)
            guesses, self._kind = self._source.guess(ids, most) if most > 0 else ([], 0)
        if not guesses:
            right = self._right.get(self._kind, _PRIOR)
            self._right[self._kind] = right + (_PRIOR - right) * _REVIVAL
        return np.array(guesses, np.int32)

    def observe(self, n_right: int, n_guesses: int) -> None:
        """Record how many of the latest guesses were right; those after a wrong one do not count."""
        for was_right in [True] * n_right + [False] * (n_right < n_guesses):
            known = self._right.get(self._kind, _PRIOR)
            self._right[self._kind] = known + (was_right - known) * _WEIGHT
        if self._looked:
            step = self._costs.of(self._n_texts)
            more = self._costs.of(self._n_texts * (n_guesses + 1)) - step if n_guesses else 0.0
            saved = (n_right * step - more) / self._n_texts - self._looked
            gain = step if self._gain is None else self._gain
            self._gain = gain + (saved - gain) * _WEIGHT
            if self._gain < 0:
                self._pause = _PAUSE

    def _look(self, ids: np.ndarray, most: int) -> list[int]:
        """Guesses from the text itself, as far as they pay off."""
        if most < 1:
            return []
        begin = perf_counter()
        guesses, self._kind = self._source.guess(ids, most)
        guesses = guesses[: self._worth(self._kind, len(guesses), self._n_texts)]
        self._looked = perf_counter() - begin
        return guesses

    def _worth(self, kind: int, most: int, n_texts: int) -> int:
        """The number of guesses that gives the most tokens per second."""
        right, drafting = self._right.get(kind, _PRIOR), self._source.seconds()
        best, best_rate, tokens = 0, 1 / self._costs.of(n_texts), 1.0
        for n in range(1, most + 1):
            tokens += right**n
            rate = tokens / (self._costs.of(n_texts * (n + 1)) + n * drafting)
            if rate > best_rate:
                best, best_rate = n, rate
            elif n > best + 3:
                break  # measured costs are not smooth, but it does not improve further
        return best


def new_drafter(
    draft: Any,
    constants: dict[str, Any],
    sample_index: int,
    n_text: int,
    costs: Costs,
    deadline: Deadline,
) -> Drafter:
    """The guesser of one text, by the option ``draft``."""
    if draft == "prompt":
        return Drafter(FromText(), costs)
    return Drafter(FromModel(draft, constants, sample_index, n_text, deadline), costs)


def check_draft(draft: Any, model: LoadedModel) -> None:
    """Raise unless ``draft`` can guess for ``model``."""
    if draft is None or (isinstance(draft, str) and draft == "prompt"):
        return
    if not hasattr(draft, "new_cache"):
        raise TypeError(f"draft must be 'prompt', a model, or None, not {shown(draft)}")
    draft.check_language_model()
    one, other = draft.config.n_vocab, model.config.n_vocab
    same = one == other
    if draft.has_tokenizer and model.has_tokenizer:
        # Embeddings may be padded to different sizes.
        n = model.n_text_tokens
        same = draft.n_text_tokens == n
        if same and draft.tokenizer is not model.tokenizer:
            same = all(draft.token_bytes(token) == model.token_bytes(token) for token in range(n))
    if not same:
        raise ValueError(
            f"the draft {draft.name} has a different vocabulary from {model.name}; needed: a smaller model "
            "with the same vocabulary"
        )
