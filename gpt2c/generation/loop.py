"""Continuing texts: any number of prompts, any number of continuations of each, in one loop.

Every text that is being continued owns a cache; in each step all of them advance in one call of the engine,
one token each, and prompts whose turn has come are computed in the same call. A text that ends makes room for
the next. The engine's results do not depend on who shares a call, and chance is keyed by (seed, number of the
continuation, position), so a text comes out the same alone and in any company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack, cast

from ..core.batching import CACHE_BYTES, MOST_EMPTY, ROWS_PER_CALL, TEXTS_AT_ONCE
from ..core.checks import check_integer
from ..core.deadline import Deadline, PartDeadline
from ..core.prompts import Prompt, Prompts, separate
from ..errors import DeadlineError
from .job import Job, Pending
from .options import SamplingOptions
from .text import ComputedPrompt, Text

if TYPE_CHECKING:
    from ..core import _engine
    from ..core.lm import LoadedModel
    from ..core.prefixes import Prefixes
    from .beam import Search
    from .options import GenerateKwargs
    from .results import Generation

__all__ = ["Stream", "check_prompt", "continue_prompts", "generate", "generate_rows", "stream"]


def generate(
    model: LoadedModel,
    prompts: Prompt | Prompts,
    *,
    num_return_sequences: int = 1,
    batch_size: int | None = None,
    prefixes: Prefixes | None = None,
    **options: Unpack[GenerateKwargs],
) -> Generation | list[Generation]:
    """What :meth:`gpt2c.GPT2.generate` does."""
    checked = SamplingOptions(num_return_sequences=num_return_sequences, **cast("dict[str, Any]", options))
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, 1)
    several, given = separate(prompts)
    results = continue_prompts(model, given, checked, batch_size, prefixes)
    return results if several or num_return_sequences > 1 else results[0]


def stream(
    model: LoadedModel,
    prompt: Prompt,
    *,
    prefixes: Prefixes | None = None,
    **options: Unpack[GenerateKwargs],
) -> Stream:
    """What :meth:`gpt2c.GPT2.stream` does."""
    several, given = separate(prompt)
    if several:
        raise TypeError(f"stream continues one prompt, but got a list of {len(given)}: use generate")
    # Of its own, as cancelling the stream is not to end other calls with the same deadline.
    options["deadline"] = PartDeadline(Deadline.of(options.get("deadline")))
    checked = SamplingOptions(**cast("dict[str, Any]", options))
    if checked.num_return_sequences != 1:
        raise ValueError("stream gives one continuation: use generate for num_return_sequences above 1")
    if checked.num_beams != 1:
        raise ValueError("stream cannot tell the text of a beam search before its end: use generate")
    job = Job(model, checked, prefixes)
    return Stream(job, _prompt(job, given[0]))


def continue_prompts(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    options: SamplingOptions,
    batch_size: int | None = None,
    prefixes: Prefixes | None = None,
) -> list[Generation]:
    """Continue every prompt ``options.num_return_sequences`` times; results in the order of the prompts.

    Parameters
    ----------
    model : LoadedModel
    prompts : sequence of str or token ids
    options : SamplingOptions
    batch_size : int, optional
        How many texts advance together, at most. It changes speed and memory, never a result. By default as
        many as keep their caches within 1 GiB, and no more than 64.
    prefixes : Prefixes, optional
        What is kept of earlier texts; default: nothing.
    """
    job = Job(model, options, prefixes)
    several = len(prompts) > 1
    shared = [
        ComputedPrompt(job, ids, f"prompt {i}" if several else "the prompt", text=prompt)
        for i, (prompt, ids) in enumerate(
            zip(prompts, model.encode(prompts, special=options.special), strict=True)
        )
    ]
    texts = [text for index, prompt in enumerate(shared) for text in _texts(job, prompt, index)]
    for _ in _advance(job, texts, batch_size):
        pass
    return [result for text in texts for result in text.results()]


def generate_rows(job: Job, rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, list[Generation], bool]]:
    """Continue the prompts of a table, in order; rows are taken as they are needed.

    Parameters
    ----------
    job : Job
    rows : iterable of (key, prompt)
        A prompt is a string, token ids or None.

    Yields
    ------
    (key, results, cut)
        What `continue_prompts` gives for the prompt, nothing for None; and whether the beginning of the
        prompt was left out.

    Raises
    ------
    ValueError, TypeError
        As from ``GPT2.generate``.
    """
    waiting: deque[tuple[Any, Sequence[Text | Search]]] = deque()

    numbered = enumerate(rows)
    ended = False

    def texts() -> Iterator[Text | Search]:
        nonlocal ended
        empty = 0
        for index, (key, prompt) in numbered:
            some = () if prompt is None else _texts(job, _prompt(job, prompt), index)
            waiting.append((key, some))
            yield from some
            empty = 0 if some else empty + 1
            if empty == MOST_EMPTY:
                return
        ended = True

    def finished() -> Iterator[tuple[Any, list[Generation], bool]]:
        while waiting and all(text.done for text in waiting[0][1]):
            key, some = waiting.popleft()
            cut = any(text.prompt.truncated for text in some)
            yield key, [result for text in some for result in text.results()], cut

    while not ended:
        for _ in _advance(job, texts()):
            yield from finished()
        yield from finished()


def check_prompt(job: Job, prompt: Prompt) -> None:
    """Raise what `generate_rows` would raise for a prompt."""
    _prompt(job, prompt)


def _prompt(job: Job, prompt: Prompt) -> ComputedPrompt:
    [ids] = job.model.encode([prompt], special=job.options.special)
    return ComputedPrompt(job, ids, text=prompt)


def _texts(job: Job, prompt: ComputedPrompt, index: int) -> Sequence[Text | Search]:
    """What continues a prompt: a search, or a text for each of the continuations."""
    if job.options.num_beams > 1:
        from .beam import Search

        return [Search(job, prompt, index)]
    return [Text(job, prompt, index, sample) for sample in range(job.options.num_return_sequences)]


class Stream:
    """The pieces of a continuation as they come, whole characters always; made by :meth:`gpt2c.GPT2.stream`.

    Iterate over it for the text; afterwards ``result`` holds the :class:`Generation`. The work is done while
    iterating. Closing the stream early, leaving its ``with`` block or an exception during the work (Ctrl-C
    included) ends it: the cache is freed and ``result`` is what there was, "cancelled".
    """

    def __init__(self, job: Job, prompt: ComputedPrompt) -> None:
        self._text = Text(job, prompt, 0, 0)
        self._steps = _advance(job, [self._text])
        self._started: float | None = None
        self.first_token_seconds: float | None = None
        """Seconds from the first ``next()`` to the first token: the time the prompt took."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._started is None:
            self._started = perf_counter()
        try:
            for _ in self._steps:
                if self.first_token_seconds is None and self._text.logprobs:
                    self.first_token_seconds = perf_counter() - self._started
                if self._text.piece:
                    return self._text.piece
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the stream and free its cache. Closing twice does no harm."""
        self._steps.close()
        self._text.cut("cancelled")

    def cancel(self) -> None:
        """End the stream from another thread: the one that iterates gets no more pieces."""
        self._text.job.options.deadline.cancel()

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


class _Source:
    """Texts that come as there is room for them.

    There is for ``batch_size`` texts; by default for `TEXTS_AT_ONCE`, and caches of `CACHE_BYTES`, or one.
    """

    def __init__(self, job: Job, texts: Iterable[Text | Search], batch_size: int | None) -> None:
        n_beams = job.options.num_beams
        self._places = max(1, (batch_size or TEXTS_AT_ONCE) // n_beams)
        self._texts = iter(texts)
        self._next = next(self._texts, None)
        self._per_token = 0
        if batch_size is None and self._next:
            # Of the first text's size: malloc then keeps freed memory of that size for the caches to come.
            n_tokens = self._next.prompt.capacity
            self._per_token = n_beams * job.model.new_cache(n_tokens).nbytes // n_tokens

    def take(self, present: Sequence[Text | Search]) -> list[Text | Search]:
        """The next ones, as far as there is room for them beside those that are ``present``."""
        taken: list[Text | Search] = []
        n_tokens = sum(text.prompt.capacity for text in present) if self._next else 0
        while self._next and len(present) + len(taken) < self._places:
            n_tokens += self._next.prompt.capacity
            if n_tokens * self._per_token > CACHE_BYTES and (present or taken):
                break
            taken.append(self._next)
            self._next = next(self._texts, None)
        return taken


def _begun(
    job: Job, waiting: Iterable[Text | Search], rows: int
) -> list[tuple[ComputedPrompt, _engine.KVCache]]:
    """The next prompts that are to be computed beside ``rows`` others, each with its cache."""
    fresh: list[tuple[ComputedPrompt, _engine.KVCache]] = []
    for text in waiting:
        prompt = text.prompt
        if prompt.logits is None and all(prompt is not other for other, _ in fresh):
            if fresh and rows + len(prompt.visible) > ROWS_PER_CALL:
                break
            cache = job.prefixes.begin(job.model, prompt.visible, prompt.capacity)
            fresh.append((prompt, cache))
            rows += len(prompt.visible) - len(cache)
    return fresh


def _advance(
    job: Job, texts: Iterable[Text | Search], batch_size: int | None = None
) -> Generator[Text | Search, None, None]:
    """Continue all ``texts``; yield a text whenever it has got a token.

    Continuations of one prompt stand next to each other in ``texts``, which are taken as there is room.
    """
    deadline = job.options.deadline
    deadline.begin()
    source = _Source(job, texts, batch_size)
    waiting: deque[Text | Search] = deque()
    active: list[Text | Search] = []
    while True:
        waiting += source.take([*active, *waiting])
        if not (waiting or active):
            return
        if reason := deadline.reason:
            for text in (*active, *waiting):
                text.cut(reason)
                yield text
            active, waiting = [], deque()
            continue
        # Texts whose prompt has been computed begin.
        while waiting and waiting[0].prompt.logits is not None:
            text = waiting.popleft()
            text.start()
            yield text
            if not text.done:
                active.append(text)

        # The prompts of the others are computed together with the next tokens of those that have begun.
        pending = [text.pending(len(active)) for text in active]
        parts = [part for of_text in pending for part in of_text]
        fresh = _begun(job, waiting, sum(len(part.ids) for part in parts))
        parts += [Pending(cache, prompt.visible[len(cache) :], 1) for prompt, cache in fresh]
        if not parts:
            continue
        try:
            logits, captured = job.forward(parts, only_steps=not fresh)
            for i, (prompt, cache) in enumerate(fresh, -len(fresh)):
                prompt.cache, prompt.logits = cache, logits[i]
                job.prefixes.keep(prompt.visible, cache)
                prompt.captured = captured[i] if captured else None
                prompt.heal(job)
        except DeadlineError:
            continue
        done = 0
        for text, of_text in zip(active, pending, strict=True):
            if captured and isinstance(text, Text):
                text.capture(captured[done], logits[done])
            n_rows = sum(part.n_rows for part in of_text)
            text.advance(list(logits[done : done + n_rows]))
            done += n_rows
            yield text
        active = [text for text in active if not text.done]
