"""Continuing texts: any number of prompts, any number of continuations of each, in one loop.

Every text that is being continued owns a cache; in each step all of them advance in one call of the engine,
one token each, and prompts whose turn has come are computed in the same call. A text that ends makes room for
the next. The engine's results do not depend on who shares a call, and chance is keyed by (seed, number of the
continuation, position), so a text comes out the same alone and in any company.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from . import _engine
from .errors import ContextLengthError
from .sampling import SamplingOptions

if TYPE_CHECKING:
    from .model import GPT2

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
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    prompt_index: int
    sample_index: int
    prompt_token_ids: list[int]
    seed: int | None

    def __str__(self) -> str:
        return self.text


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
    job = _Job(model, options)
    texts = [
        _Text(job, shared, index, sample)
        for index, ids in enumerate(prompts)
        for shared in [_Prompt(job, ids, f"prompt {index}" if len(prompts) > 1 else "the prompt")]
        for sample in range(options.num_return_sequences)
    ]
    if batch_size is None:
        longest = max(text.prompt.capacity for text in texts)
        per_text = model.new_cache(longest).nbytes
        batch_size = max(1, min(TEXTS_AT_ONCE, CACHE_BYTES // per_text))
    for _ in _advance(job, texts, batch_size):
        pass
    return [text.result() for text in texts]


class Stream:
    """The pieces of a continuation as they come, whole characters always; made by :meth:`gpt2c.GPT2.stream`.

    Iterate over it for the text; afterwards ``result`` holds the :class:`Generation`. The work is done while
    iterating. Closing the stream early, leaving its ``with`` block or an exception during the work (Ctrl-C
    included) ends it: the cache is freed and ``result`` is what there was, "cancelled".
    """

    def __init__(self, model: GPT2, prompt: np.ndarray, options: SamplingOptions) -> None:
        job = _Job(model, options)
        self._text = _Text(job, _Prompt(job, prompt), 0, 0)
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
        return self._text.result()


class _Job:
    """What all texts of one call share: the model, the options, the sampler's arguments made from them."""

    def __init__(self, model: GPT2, options: SamplingOptions) -> None:
        config = model.config
        tokenizer = model.tokenizer if options.stop or model.has_tokenizer else None
        outside = [token for token in options.logit_bias if token >= config.n_vocab]
        if outside:
            raise ValueError(
                f"logit_bias names token {outside[0]}, but the vocabulary has {config.n_vocab} tokens: 0 to "
                f"{config.n_vocab - 1}"
            )
        # Ids past the tokenizer's end only pad the embedding to a round size: never chosen.
        padding = np.arange(model.n_text_tokens, config.n_vocab, dtype=np.int32)

        self.model = model
        self.options = options
        self.new_decoder = None if tokenizer is None else tokenizer.decoder
        self.eos = frozenset(config.eos_token_ids)
        self.forbidden = padding
        # (np.union1d imports numpy.ma, which takes as long as the first token.)
        self.forbidden_early = np.array(sorted({*padding.tolist(), *config.eos_token_ids}), np.int32)
        self.penalised = options.repetition_penalty != 1
        self.seed = options.seed
        if self.seed is None and not options.greedy:
            self.seed = int.from_bytes(os.urandom(4))  # short enough to be typed again
        self.constants = {
            "temperature": options.temperature,
            "top_k": min(options.top_k, config.n_vocab),
            "top_p": max(options.top_p, 1e-30),  # not 0 as float32
            "min_p": options.min_p,
            "repetition_penalty": options.repetition_penalty,
            "bias_ids": np.fromiter(options.logit_bias.keys(), np.int32),
            "bias_values": np.fromiter(options.logit_bias.values(), np.float32),
            "seed": self.seed or 0,
        }


class _Prompt:
    """A prompt: computed once, its cache then forked by each of its continuations."""

    def __init__(self, job: _Job, ids: np.ndarray, name: str = "the prompt") -> None:
        n_ctx, new = job.model.config.n_ctx, job.options.max_new_tokens
        room = n_ctx - len(ids)
        if new > room:
            advice = (
                f"at most {room} new token{'s fit' if room > 1 else ' fits'} after it: lower max_new_tokens "
                "or shorten the prompt"
                if room > 0
                else f"shorten the prompt to fewer than {n_ctx} tokens"
            )
            raise ContextLengthError(
                f"{name} has {len(ids)} tokens and max_new_tokens is {new}, together {len(ids) + new}, but "
                f"the model has {n_ctx} positions; {advice}"
            )
        self.ids = ids
        self.capacity = len(ids) + new
        self.cache: _engine.KVCache | None = None
        self.logits: np.ndarray | None = None  # float32 [n_vocab], of the token that follows the prompt
        self.unstarted = job.options.num_return_sequences


class _Text:
    """One continuation in the making."""

    def __init__(self, job: _Job, prompt: _Prompt, prompt_index: int, sample_index: int) -> None:
        self.job, self.prompt = job, prompt
        self.prompt_index, self.sample_index = prompt_index, sample_index
        self.cache: _engine.KVCache | None = None
        self.finish_reason: FinishReason | None = None
        self.piece = ""  # what the last token added to the text
        self.logprobs: list[float] = []
        self._pieces: list[str] = []
        self._tokens = _NO_IDS
        self._length = len(prompt.ids)
        self._decoder = job.new_decoder() if job.new_decoder else None
        self._filter = _StopFilter(job.options.stop)

    def start(self) -> None:
        """Take the first token from the prompt's logits, and a cache of one's own for those to come."""
        prompt = self.prompt
        self._tokens = np.empty(prompt.capacity, np.int32)
        self._tokens[: self._length] = prompt.ids
        prompt.unstarted -= 1
        self.take(prompt.logits)
        if prompt.unstarted == 0:
            self.cache, prompt.cache, prompt.logits = prompt.cache, None, None
        elif self.finish_reason is None:
            self.cache = prompt.cache.fork()

    @property
    def pending(self) -> np.ndarray:
        """The token that the engine has not seen yet, int32 [1]."""
        return self._tokens[self._length - 1 : self._length]

    def take(self, logits: np.ndarray) -> None:
        """Choose the next token from ``logits``, float32 [n_vocab], and see whether the text ends with it."""
        job, position = self.job, self._length
        n_new = position + 1 - len(self.prompt.ids)
        token, logprob = _engine.sample(
            logits,
            seen=self._tokens[:position] if job.penalised else _NO_IDS,
            forbidden=job.forbidden_early if n_new <= job.options.min_new_tokens else job.forbidden,
            stream=self.sample_index,
            position=position,
            **job.constants,
        )
        self._tokens[position] = token
        self._length = position + 1
        self.logprobs.append(logprob)

        piece = ""
        if token in job.eos:
            self.finish_reason = "eos"
        else:
            if self._decoder:
                piece = self._filter.push(self._decoder.push(token))
            if n_new == job.options.max_new_tokens:
                self.finish_reason = "length"
        if self.finish_reason and self._decoder and not self._filter.stopped:
            piece += self._filter.push(self._decoder.flush())
            piece += self._filter.flush()
        if self._filter.stopped:
            self.finish_reason = "stop"
        self.piece = piece
        if piece:
            self._pieces.append(piece)

    def cancel(self) -> None:
        """End the text as it is, unless it has ended already, and let its caches go."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
            self._pieces.append(self._filter.flush())
        self.cache = self.prompt.cache = self.prompt.logits = None

    def result(self) -> Generation:
        assert self.finish_reason is not None
        n_prompt = len(self.prompt.ids)
        return Generation(
            text="".join(self._pieces),
            token_ids=self._tokens[n_prompt : self._length].tolist(),
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            prompt_index=self.prompt_index,
            sample_index=self.sample_index,
            prompt_token_ids=self.prompt.ids.tolist(),
            seed=self.job.seed,
        )


class _StopFilter:
    """Lets text through up to the first stop string, holding back what could be the beginning of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stopped = False
        self._stop = stop
        self._reach = (
            max(map(len, stop), default=1) - 1
        )  # a stop string can have begun so many characters ago
        self._held = ""

    def push(self, text: str) -> str:
        """Add ``text``; what is certain to belong to the result comes back."""
        if not self._stop:
            return text
        text = self._held + text
        found = [at for at in map(text.find, self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        certain = len(text)
        for at in range(max(0, len(text) - self._reach), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stop):
                certain = at
                break
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back, once it is known that no stop string follows."""
        held, self._held = self._held, ""
        return held


def _advance(job: _Job, texts: Sequence[_Text], places: int) -> Iterator[_Text]:
    """Continue all ``texts``, at most ``places`` at once; yield a text whenever it has got a token.

    Continuations of one prompt stand next to each other in ``texts``.
    """
    model = job.model
    waiting = deque(texts)
    active: list[_Text] = []
    while waiting or active:
        # Texts whose prompt has been computed begin, as far as there are places.
        while waiting and len(active) < places and waiting[0].prompt.logits is not None:
            text = waiting.popleft()
            text.start()
            yield text
            if text.finish_reason is None:
                active.append(text)

        # The prompts of those that could begin next are computed together with the next token of the others.
        fresh: list[_Prompt] = []
        rows = len(active)
        for text in islice(waiting, places - len(active)):
            prompt = text.prompt
            if prompt.logits is None and prompt not in fresh:
                if fresh and rows + len(prompt.ids) > ROWS_PER_CALL:
                    break
                prompt.cache = model.new_cache(prompt.capacity)
                fresh.append(prompt)
                rows += len(prompt.ids)
        if rows == 0:
            continue
        logits = _engine.forward(
            model.weights,
            [(text.cache, text.pending) for text in active]
            + [(prompt.cache, prompt.ids) for prompt in fresh],
            keep=1,
            threads=model.threads,
        )
        for prompt, row in zip(fresh, logits[len(active) :], strict=True):
            prompt.logits = row
        for text, row in zip(active, logits, strict=False):
            text.take(row)
            yield text
            if text.finish_reason is not None:
                text.cache = None
        active = [text for text in active if text.finish_reason is None]
