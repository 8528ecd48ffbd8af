"""Continuing texts: any number of prompts, any number of continuations of each, in one loop.

Every text that is being continued owns a cache; in each step all of them advance in one call of the engine,
one token each, and prompts whose turn has come are computed in the same call. A text that ends makes room for
the next. The engine's results do not depend on who shares a call, and chance is keyed by (seed, number of the
continuation, position), so a text comes out the same alone and in any company.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import _engine
from .errors import ContextLengthError
from .processors import LogitsProcessors
from .sampling import SamplingOptions
from .writing import Writer

if TYPE_CHECKING:
    from .beam import Search
    from .introspect import ActivationCache, Captured, Observer, Watch
    from .model import GPT2
    from .trace import Trace

__all__ = ["Generation", "Stream", "generate"]

FinishReason = Literal["length", "eos", "stop", "cancelled"]

# How much goes on at once: enough to be efficient, little enough for any number of prompts to fit in memory.
ROWS_PER_CALL = 2048  # tokens in one call of the engine, unless one prompt alone has more
TEXTS_AT_ONCE = 64
CACHE_BYTES = 2**30  # for the caches of the texts that advance together, unless one alone takes more

_NO_IDS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Generation:
    """One continuation. ``str()`` gives its text.

    Attributes
    ----------
    text : str
        The continuation without the prompt, without the end-of-text token and without the stop string. Bytes
        that are no UTF-8 appear as U+FFFD. Empty when the model has no tokenizer.
    token_ids : list of int
        The new tokens, with the end-of-text token or the tokens of the stop string if one ended the text.
    logprobs : list of float
        The natural logarithm of the probability of each new token by the model's raw logits: before
        temperature, penalties, biases and filters.
    finish_reason : str
        "length" (max_new_tokens reached), "eos" (an end-of-text token), "stop" (a stop string) or "cancelled"
        (a stream closed before the end).
    prompt_index, sample_index : int
        Which prompt of the list, and which of its ``num_return_sequences`` continuations; both from 0.
    prompt_token_ids : list of int
        The prompt as the model saw it.
    seed : int or None
        What makes the text come out again; None where nothing was left to chance.
    score : float or None
        Of beam search: the sum of the log-probabilities after the options that change logits, divided by the
        number of new tokens to the power of ``length_penalty``.
    trace : Trace or None
        Of ``trace=True``: what was weighed at every step.
    cache : ActivationCache or None
        Of ``names_filter``: what was computed of the prompt and of every new token but the last, which the
        model has not seen; byte for byte what one pass over all of them computes (but for
        ``attn.hook_result``, which NumPy multiplies).
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_index: int
    sample_index: int
    prompt_token_ids: list[int]
    seed: int | None
    score: float | None = None
    trace: Trace | None = None
    cache: ActivationCache | None = None

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from .notebook import generation_html

        return generation_html(self)


def calls_of(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbouring texts that share a call of the engine: ``ROWS_PER_CALL`` tokens at most, or one text."""
    begin = rows = 0
    for index, length in enumerate(lengths):
        if rows + length > ROWS_PER_CALL and index > begin:
            yield slice(begin, index)
            begin, rows = index, 0
        rows += length
    yield slice(begin, len(lengths))


def generate(
    model: GPT2, prompts: Sequence[np.ndarray], options: SamplingOptions, batch_size: int | None = None
) -> list[Generation]:
    """Continue every prompt ``options.num_return_sequences`` times; results in the order of the prompts.

    Parameters
    ----------
    model : GPT2
    prompts : sequence of np.ndarray
        Token ids, int32 [at least 1] each.
    options : SamplingOptions
    batch_size : int, optional
        How many texts advance together, at most. It changes speed and memory, never a result. By default as
        many as keep their caches within 1 GiB, and no more than 64.
    """
    job = Job(model, options)
    texts: list[Text] | list[Search]
    several = len(prompts) > 1
    shared = [Prompt(job, ids, f"prompt {i}" if several else "the prompt") for i, ids in enumerate(prompts)]
    if options.num_beams > 1:
        from .beam import Search

        texts = [Search(job, prompt, index) for index, prompt in enumerate(shared)]
    else:
        samples = range(options.num_return_sequences)
        texts = [
            Text(job, prompt, index, sample) for index, prompt in enumerate(shared) for sample in samples
        ]
    if batch_size is None:
        longest = max(prompt.capacity for prompt in shared)
        per_text = model.new_cache(longest).nbytes
        batch_size = max(1, min(TEXTS_AT_ONCE, CACHE_BYTES // per_text))
    for _ in _advance(job, texts, max(1, batch_size // options.num_beams)):
        pass
    return [result for text in texts for result in text.results()]


class Stream:
    """The pieces of a continuation as they come, whole characters always; made by :meth:`gpt2c.GPT2.stream`.

    Iterate over it for the text; afterwards ``result`` holds the :class:`Generation`. The work is done while
    iterating. Closing the stream early, leaving its ``with`` block or an exception during the work (Ctrl-C
    included) ends it: the cache is freed and ``result`` is what there was, "cancelled".
    """

    def __init__(self, model: GPT2, prompt: np.ndarray, options: SamplingOptions) -> None:
        job = Job(model, options)
        self._text = Text(job, Prompt(job, prompt), 0, 0)
        self._steps = _advance(job, [self._text], 1)
        self._started: float | None = None
        self.first_token_seconds: float | None = None
        """Seconds from the first ``next()`` to the first token: the time the prompt took."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._started is None:
            self._started = perf_counter()
        try:
            for text in self._steps:
                if self.first_token_seconds is None:
                    self.first_token_seconds = perf_counter() - self._started
                if text.piece:
                    return text.piece
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the stream and free its cache. Closing twice does no harm."""
        self._steps.close()
        self._text.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def result(self) -> Generation:
        """The continuation, once the stream has ended or was closed."""
        if self._text.finish_reason is None:
            raise RuntimeError(
                "the stream has not ended: iterate to its end, or close() it, before asking for the result"
            )
        return self._text.results()[0]


class Job:
    """What all texts of one call share: the model, the options, and what was made from them."""

    def __init__(self, model: GPT2, options: SamplingOptions) -> None:
        tokenizer = model.tokenizer if options.stop or model.has_tokenizer else None
        self.model = model
        self.options = options
        self.process = LogitsProcessors(model, options)
        self.new_decoder = None if tokenizer is None else tokenizer.decoder
        self.eos = frozenset(model.config.eos_token_ids)
        self.n_ctx = model.config.n_ctx
        self.hop = max(1, self.n_ctx // 2) if options.hop is None else options.hop
        if self.hop > self.n_ctx:
            raise ValueError(f"hop is {self.hop}; allowed: 1 to {self.n_ctx}, the model's positions")
        self.names: list[str] = []
        self.edits: dict[str, list[Any]] = {}
        self._watch: Watch | None = None
        if options.edits or options.names_filter != ():
            from .hooks import matching
            from .introspect import Watch, checked_edits

            self.names = matching(model.config, options.names_filter)
            self.edits = checked_edits(model, options.edits)
            self._watch = Watch(model.config, self.names, self.edits, complete=False)
        self.seed = options.seed
        if self.seed is None and not options.greedy:
            self.seed = int.from_bytes(os.urandom(4))  # short enough to be typed again
        self.constants = {
            "temperature": options.temperature,
            "top_k": min(options.top_k, model.config.n_vocab),
            "top_p": max(options.top_p, 1e-30),  # not 0 as float32
            "min_p": options.min_p,
            "seed": self.seed or 0,
        }

    def observer(self, sequences: Sequence[tuple[_engine.KVCache, np.ndarray]]) -> Observer | None:
        """Who looks at a pass, if anybody does."""
        if self._watch is None:
            return None
        from .introspect import Observer

        return Observer(self.model, self._watch, sequences, self.edits, keep=1)

    def new_writer(self) -> Writer:
        return Writer(self.new_decoder, self.options.stop)

    def written(self, new_ids: Iterable[int]) -> Writer:
        """A writer that has got all of a continuation; an end-of-text token is no part of its text."""
        writer = self.new_writer()
        for token in new_ids:
            if token not in self.eos:
                writer.push(token)
        return writer

    def window(self, length: int) -> int:
        """Which token is the first that the model sees of a text of ``length`` tokens.

        It depends on the length alone: however a text was come by, it goes on in the same way.
        """
        return max(0, -((self.n_ctx - length) // self.hop)) * self.hop


class Prompt:
    """A prompt: computed once, its cache then read by each of its continuations."""

    def __init__(self, job: Job, ids: np.ndarray, name: str = "the prompt") -> None:
        n_ctx, new, overflow = job.n_ctx, job.options.max_new_tokens, job.options.overflow
        if overflow == "truncate_left" and new < n_ctx:
            ids = ids[-(n_ctx - new) :]
        room = n_ctx - len(ids)
        if new > room and overflow != "slide":
            if overflow == "truncate_left":
                advice = f"lower max_new_tokens to at most {n_ctx - 1}, or use overflow='slide'"
            elif room > 0:
                advice = (
                    f"at most {room} new token{'s fit' if room > 1 else ' fits'} after it: lower "
                    "max_new_tokens, shorten the prompt, or choose an overflow"
                )
            else:
                advice = f"shorten the prompt to fewer than {n_ctx} tokens, or choose an overflow"
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens and max_new_tokens is {new}, together {len(ids) + new}, but "
                f"the model has {n_ctx} positions; {advice}"
            )
        self.ids = ids
        self.visible = ids[job.window(len(ids)) :]
        self.capacity = min(len(ids) + new, n_ctx)
        self.cache: _engine.KVCache | None = None
        self.logits: np.ndarray | None = None  # float32 [n_vocab], of the token that follows the prompt
        self.captured: Captured | None = None
        self.unstarted = 1 if job.options.num_beams > 1 else job.options.num_return_sequences
        self.shared = max(self.unstarted, job.options.num_beams) > 1

    def take_cache(self) -> _engine.KVCache:
        """A cache that holds the prompt, for one of those that continue it."""
        self.unstarted -= 1
        cache = self.cache
        if self.shared:
            cache = cache.branch(self.capacity)
        if self.unstarted == 0:
            self.cache = self.logits = None
        return cache


class Text:
    """One continuation in the making."""

    def __init__(self, job: Job, prompt: Prompt, prompt_index: int, sample_index: int) -> None:
        self.job, self.prompt = job, prompt
        self.prompt_index, self.sample_index = prompt_index, sample_index
        self.cache: _engine.KVCache | None = None
        self.finish_reason: FinishReason | None = None
        self.piece = ""  # what the last token added to the text
        self.logprobs: list[float] = []
        self.trace = new_trace(job)
        self._captured: list[tuple[Captured, np.ndarray]] = []  # of each pass, with its row of logits
        self._tokens = _NO_IDS
        self._length = len(prompt.ids)
        self._writer = job.new_writer()

    @property
    def done(self) -> bool:
        return self.finish_reason is not None

    def start(self) -> None:
        """Take the first token from the prompt's logits, and a cache of one's own for those to come."""
        self._tokens = np.empty(self._length + self.job.options.max_new_tokens, np.int32)
        self._tokens[: self._length] = self.prompt.ids
        logits = self.prompt.logits
        if self.prompt.captured is not None:
            self.keep(self.prompt.captured, logits)
        self.cache = self.prompt.take_cache()
        self.take([logits])

    def keep(self, captured: Captured, logits: np.ndarray) -> None:
        """Remember what was captured in a pass, and its row of logits."""
        self._captured.append((captured, logits.copy()))

    def pending(self) -> list[tuple[_engine.KVCache, np.ndarray]]:
        """The cache, and the tokens that are to be computed with it next."""
        begin, seen = self.job.window(self._length), self._length - 1
        if begin != self.job.window(seen):  # the positions of all that is kept change
            self.cache, seen = self.job.model.new_cache(), begin
        return [(self.cache, self._tokens[seen : self._length])]

    def take(self, rows: Sequence[np.ndarray]) -> None:
        """Choose the next token from its logits, float32 [n_vocab], and see whether the text ends with it."""
        job, position, logits = self.job, self._length, rows[0]
        n_new = position + 1 - len(self.prompt.ids)
        ids = self._tokens[:position]
        removed = None if self.trace is None else {}
        processed = job.process(logits, ids, len(self.prompt.ids), removed)
        token, logprob = _engine.sample(
            logits, processed, stream=self.sample_index, position=position, **job.constants
        )
        if self.trace is not None:
            self.trace.add_choice(
                job, ids[len(self.prompt.ids) :], position, logits, processed, removed, token
            )
        self._tokens[position] = token
        self._length = position + 1
        self.logprobs.append(logprob)

        self.piece = ""
        if token in job.eos:
            self.finish_reason = "eos"
        else:
            self.piece = self._writer.push(token)
            if n_new == job.options.max_new_tokens:
                self.finish_reason = "length"
        if self.finish_reason:
            self.piece += self._writer.finish()
        if self._writer.stopped:
            self.finish_reason = "stop"
        if self.finish_reason:
            self.cache = None

    def cancel(self) -> None:
        """End the text as it is, unless it has ended already, and let its caches go."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
            self._writer.cancel()
        self.cache = self.prompt.cache = self.prompt.logits = None

    def results(self) -> list[Generation]:
        assert self.finish_reason is not None
        n_prompt = len(self.prompt.ids)
        return [
            Generation(
                text=self._writer.text,
                token_ids=self._tokens[n_prompt : self._length].tolist(),
                logprobs=self.logprobs,
                finish_reason=self.finish_reason,
                prompt_index=self.prompt_index,
                sample_index=self.sample_index,
                prompt_token_ids=self.prompt.ids.tolist(),
                seed=self.job.seed,
                trace=self.trace,
                cache=self._cache(),
            )
        ]

    def _cache(self) -> ActivationCache | None:
        if not self._captured:
            return None
        from .introspect import ActivationCache, joined

        parts = {name: [captured[name][0] for captured, _ in self._captured] for name in self.job.names}
        logits = np.stack([row for _, row in self._captured])
        return ActivationCache(self.job.model, self._tokens[: self._length - 1], joined(parts), logits)


def new_trace(job: Job) -> Trace | None:
    """A record to fill, if one is wanted."""
    if not job.options.trace:
        return None
    from .trace import Trace

    return Trace()


def _advance(job: Job, texts: Sequence[Text] | Sequence[Search], places: int) -> Iterator[Any]:
    """Continue all ``texts``, at most ``places`` at once; yield a text whenever it has got a token.

    Continuations of one prompt stand next to each other in ``texts``.
    """
    model = job.model
    waiting = deque(texts)
    active: list[Any] = []
    while waiting or active:
        # Texts whose prompt has been computed begin, as far as there are places.
        while waiting and len(active) < places and waiting[0].prompt.logits is not None:
            text = waiting.popleft()
            text.start()
            yield text
            if not text.done:
                active.append(text)

        # The prompts of those that could begin next are computed together with the next tokens of the others.
        pending = [text.pending() for text in active]
        sequences = [sequence for of_text in pending for sequence in of_text]
        fresh: list[Prompt] = []
        rows = sum(len(ids) for _, ids in sequences)
        for text in islice(waiting, places - len(active)):
            prompt = text.prompt
            if prompt.logits is None and prompt not in fresh:
                if fresh and rows + len(prompt.visible) > ROWS_PER_CALL:
                    break
                prompt.cache = model.new_cache(prompt.capacity)
                fresh.append(prompt)
                rows += len(prompt.visible)
        if rows == 0:
            continue
        done = len(sequences)
        sequences += [(prompt.cache, prompt.visible) for prompt in fresh]
        observer = job.observer(sequences)
        logits = _engine.forward(model.weights, sequences, keep=1, threads=model.threads, observer=observer)
        for i, prompt in enumerate(fresh, done):
            prompt.logits = logits[i]
            prompt.captured = observer.captured[i] if job.names else None
        done = 0
        for text, of_text in zip(active, pending, strict=True):
            if job.names:
                text.keep(observer.captured[done], logits[done])
            text.take(logits[done : done + len(of_text)])
            done += len(of_text)
            yield text
        active = [text for text in active if not text.done]
