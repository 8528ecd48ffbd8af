"""Processors that change the logits of a step before a token is chosen, and filters of tokens.

In this order, which is transformers' where it has the same: ``sequence_bias``, ``logit_bias``,
``repetition_penalty``, ``presence_penalty`` and ``frequency_penalty``, DRY, ``no_repeat_ngram_size``,
``bad_words``, ``min_new_tokens``, ``exponential_decay_length_penalty``, ``suppress_tokens`` (and ids without
a text), ``logits_processor``, ``token_bitmask``. Then, when sampling, ``temperature``, ``top_k``, ``top_p``
and ``min_p``, in ``_engine.sample``; ``filtered`` does the same where all probabilities are needed, and has
the filters that ``_engine.sample`` lacks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .options import SamplingOptions

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["LogitsProcessors", "filtered"]

LARGEST_LOGIT = 3.4e38  # still finite as float32

Stage = Callable[[np.ndarray, np.ndarray, int], np.ndarray | None]


class LogitsProcessors:
    """The options that change logits, prepared for a model.

    Parameters
    ----------
    model : LoadedModel
    options : SamplingOptions

    Attributes
    ----------
    eos : frozenset of int
        The tokens that end a text.

    Raises
    ------
    ValueError
        A token id is not in the vocabulary.
    TokenizerError
        There are ``bad_words`` as strings, but no tokenizer.
    """

    def __init__(self, model: LoadedModel, options: SamplingOptions) -> None:
        self.options = options
        self.n_vocab = model.config.n_vocab
        self._n_text_tokens = model.n_text_tokens
        own = model.config.eos_token_ids
        self.eos = frozenset(own if options.eos_token_id is None else options.eos_token_id)
        self._sequence_bias = dict(options.sequence_bias)
        self._bad_words = _bad_sequences(model, options.bad_words)
        for name, tokens in (
            ("sequence_bias", (token for sequence in self._sequence_bias for token in sequence)),
            ("logit_bias", options.logit_bias),
            ("bad_words", (token for word in self._bad_words for token in word)),
            ("suppress_tokens", options.suppress_tokens),
            ("eos_token_id", options.eos_token_id or ()),
        ):
            outside = [token for token in tokens if token >= self.n_vocab]
            if outside:
                raise ValueError(
                    f"{name} names token {outside[0]}, but the vocabulary has {self.n_vocab} tokens: 0 to "
                    f"{self.n_vocab - 1}"
                )
        self._bias_ids = np.fromiter(options.logit_bias.keys(), np.intp)
        self._bias_values = np.fromiter(options.logit_bias.values(), np.float32)
        # Ids past the tokenizer's end only pad the embedding to a round size: never chosen.
        self._suppressed = [*options.suppress_tokens, *range(self._n_text_tokens, self.n_vocab)]
        dry: Stage | None = None
        if options.dry_multiplier and options.dry_penalty_last_n:
            from .dry import Dry

            dry = Dry(model, options)
        stages: list[tuple[str, Stage | None, object]] = [
            ("sequence_bias", self._add_sequence_bias, self._sequence_bias),
            ("logit_bias", self._add_logit_bias, options.logit_bias),
            ("repetition_penalty", self._penalise_repetition, options.repetition_penalty != 1),
            (
                "presence and frequency penalty",
                self._penalise_presence,
                options.presence_penalty or options.frequency_penalty,
            ),
            ("dry", dry, dry),
            ("no_repeat_ngram_size", self._forbid_ngrams, options.no_repeat_ngram_size),
            ("bad_words", self._forbid_bad_words, self._bad_words),
            ("min_new_tokens", self._forbid_end, options.min_new_tokens and self.eos),
            (
                "exponential_decay_length_penalty",
                self._favour_end,
                options.exponential_decay_length_penalty and self.eos,
            ),
            ("suppress_tokens", self._suppress, self._suppressed),
            ("logits_processor", self._call, options.logits_processor),
            ("token_bitmask", self._apply_bitmask, options.token_bitmask),
        ]
        self._stages = [(name, stage) for name, stage, wanted in stages if stage and wanted]

    def __call__(
        self, logits: np.ndarray, ids: np.ndarray, n_prompt: int, removed: dict[int, str] | None = None
    ) -> np.ndarray:
        """The processed logits of the token that follows ``ids``.

        Parameters
        ----------
        logits : np.ndarray, float32 [n_vocab]
            Logits, or log-probabilities. Not modified.
        ids : np.ndarray, int32
            The text so far.
        n_prompt : int
            The number of these that belong to the prompt.
        removed : dict, optional
            Filled, for every token that can no longer be chosen, with the name of the option that removed it.

        Returns
        -------
        np.ndarray, float32 [n_vocab]
            A new array, or ``logits`` itself where nothing applies.
        """
        if not self._stages:
            return logits
        row = logits.copy()
        for name, stage in self._stages:
            allowed = None if removed is None else ~np.isneginf(row)
            changed = stage(row, ids, n_prompt)
            row = row if changed is None else changed
            if removed is not None and allowed is not None:
                removed.update(dict.fromkeys(np.flatnonzero(np.isneginf(row) & allowed).tolist(), name))
        return row

    def _add_sequence_bias(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        total: defaultdict[int, float] = defaultdict(float)
        for sequence, bias in self._sequence_bias.items():
            if _ends_with(ids, sequence[:-1]):
                total[sequence[-1]] += bias
        for token, bias in total.items():
            row[token] += np.float32(bias)

    def _add_logit_bias(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        row[self._bias_ids] += self._bias_values

    def _penalise_repetition(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        penalty = np.float32(self.options.repetition_penalty)
        seen = row.take(ids)  # every copy of a repeated id is equal, so it counts once
        with np.errstate(over="ignore"):
            np.put(row, ids, np.where(seen > 0, seen / penalty, seen * penalty))

    def _penalise_presence(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        presence, frequency = self.options.presence_penalty, self.options.frequency_penalty
        for token, count in Counter(ids[n_prompt:].tolist()).items():
            row[token] -= np.float32(presence + frequency * count)

    def _forbid_ngrams(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        n = self.options.no_repeat_ngram_size
        if len(ids) < n:
            return
        ngrams = np.lib.stride_tricks.sliding_window_view(ids, n)
        repeats = (ngrams[:, :-1] == ids[len(ids) + 1 - n :]).all(axis=1)
        row[ngrams[repeats, -1]] = -np.inf

    def _forbid_bad_words(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        for word in self._bad_words:
            if _ends_with(ids, word[:-1]):
                row[word[-1]] = -np.inf

    def _forbid_end(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        if len(ids) - n_prompt < self.options.min_new_tokens:
            row[list(self.eos)] = -np.inf

    def _favour_end(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        start, factor = self.options.exponential_decay_length_penalty or (0, 1.0)
        more = len(ids) - n_prompt - start
        for token in self.eos if more > 0 else ():
            if np.isfinite(row[token]):
                with np.errstate(over="ignore"):
                    growth = min(np.float64(factor) ** more, LARGEST_LOGIT) - 1
                logit = float(row[token])
                row[token] = min(logit + abs(logit) * growth, LARGEST_LOGIT)

    def _suppress(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        row[self._suppressed] = -np.inf

    def _call(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> np.ndarray:
        for processor in self.options.logits_processor:
            result = processor(ids.copy(), row)
            if not isinstance(result, np.ndarray) or result.shape != (self.n_vocab,):
                found = (
                    f"an array of shape {result.shape}" if isinstance(result, np.ndarray) else repr(result)
                )
                raise ValueError(
                    f"a logits_processor must return the logits, an array of shape ({self.n_vocab},), not "
                    f"{found}"
                )
            row = result.astype(np.float32, copy=False)
            if np.isnan(row).any():
                raise ValueError("a logits_processor returned NaN; to forbid a token, make its logit -inf")
        return row

    def _apply_bitmask(self, row: np.ndarray, ids: np.ndarray, n_prompt: int) -> None:
        bitmask = self.options.token_bitmask
        mask = None if bitmask is None else bitmask(ids[n_prompt:].copy())
        if mask is None:
            return
        words = -(-self._n_text_tokens // 32)
        mask = np.asarray(mask)
        if mask.dtype.kind not in "iu" or mask.dtype.itemsize != 4 or mask.size < words:
            raise ValueError(
                f"a token_bitmask must return at least {words} int32, a bit for each of "
                f"{self._n_text_tokens} tokens, or None, not {mask.size} of {mask.dtype}"
            )
        allowed = np.unpackbits(
            np.ascontiguousarray(mask).reshape(-1).view(np.uint8),
            bitorder="little",
            count=self._n_text_tokens,
        )
        row[: self._n_text_tokens][allowed == 0] = -np.inf


def filtered(
    logits: np.ndarray,
    options: SamplingOptions,
    removed: dict[int, str] | None = None,
    *,
    coin: float = 1.0,
    most_bits: float = math.inf,
) -> np.ndarray:
    """Logits divided by the temperature, with -inf for tokens that are filtered out: float64 [n_vocab].

    First comes top_n_sigma, which uses the spread of all logits; then top_k, top_p, min_p and typical_p, as
    in transformers; then XTC, which removes the top of the remaining tokens; last mirostat, which needs the
    effective probabilities. Of equal logits at a boundary the lowest ids stay.

    ``removed`` is as for :class:`LogitsProcessors`. XTC applies if ``coin``, in [0, 1), is below
    ``xtc_probability``; ``most_bits`` is the maximum surprisal that mirostat allows.
    """
    scaled = logits.astype(np.float64) / options.temperature
    order = np.argsort(-scaled, kind="stable")
    order = order[np.isfinite(scaled[order])]
    result = np.full(len(scaled), -np.inf)
    if not len(order):
        return result
    weights = np.exp(scaled[order] - scaled[order[:1]])

    def keep(option: str, which: slice | np.ndarray) -> None:
        nonlocal order, weights
        if removed is not None:
            removed.update(dict.fromkeys(np.setdiff1d(order, order[which]).tolist(), option))
        order, weights = order[which], weights[which]

    if options.top_n_sigma:
        values = scaled[order]
        with np.errstate(over="ignore"):  # by a tiny temperature, which keeps only the greatest anyway
            least_logit = values[0] - options.top_n_sigma * values.std()
        keep("top_n_sigma", values >= least_logit)
    if options.top_k:
        keep("top_k", slice(options.top_k))
    if options.top_p < 1:  # as few as it takes to reach top_p
        n = int(np.searchsorted(np.cumsum(weights), options.top_p * weights.sum())) + 1
        keep("top_p", slice(n))
    if options.min_p:
        keep("min_p", weights >= options.min_p)
    if options.typical_p < 1:
        keep("typical_p", _typical(weights, options.typical_p))
    if coin < options.xtc_probability:  # of those above the threshold the least probable stays
        above = int((weights >= options.xtc_threshold * weights.sum()).sum())
        keep("xtc", slice(max(0, above - 1), None))
    if most_bits < math.inf:
        least = 2 ** -max(most_bits, -1.0)  # no probability is above 1
        keep("mirostat", slice(max(1, int((weights >= least * weights.sum()).sum()))))
    result[order] = scaled[order]
    return result


def _typical(weights: np.ndarray, mass: float) -> np.ndarray:
    """The tokens whose surprisal is closest to the expected one: as few as needed to reach ``mass``."""
    p = weights / weights.sum()
    surprises = -np.log(np.maximum(p, np.finfo(np.float64).tiny))
    order = np.argsort(np.abs(surprises - (p * surprises).sum()), kind="stable")
    which = np.zeros(len(p), bool)
    which[order[: int(np.searchsorted(np.cumsum(p[order]), mass)) + 1]] = True
    return which


def _ends_with(ids: np.ndarray, tokens: Sequence[int]) -> bool:
    n = len(tokens)
    return n <= len(ids) and bool((ids[len(ids) - n :] == tokens).all())


def _bad_sequences(model: LoadedModel, words: Iterable[str | tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Token ids of the words; for a string also those after a space."""
    sequences: dict[tuple[int, ...], None] = {}
    for word in words:
        spellings: list[tuple[int, ...]]
        if isinstance(word, str):
            written = [word] if word[0].isspace() else [word, f" {word}"]
            spellings = [tuple(model.tokenizer.encode(text, continued=True)) for text in written]
        else:
            spellings = [word]
        sequences.update(dict.fromkeys(spelling for spelling in spellings if spelling))
    return list(sequences)
