"""Continuing texts: any number of prompts, any number of continuations of each, in one loop.

Every text that is being continued owns a cache; in each step all of them advance in one call of the engine,
one token each, and prompts whose turn has come are computed in the same call. A text that ends makes room for
the next. The engine's results do not depend on who shares a call, and chance is keyed by (seed, number of the
continuation, position), so a text comes out the same alone and in any company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack, cast

from ..core import _engine
from ..core.batching import CACHE_BYTES, ROWS_PER_CALL, TEXTS_AT_ONCE
from ..core.checks import check_integer
from ..core.prompts import Prompt, Prompts, separate
from .job import Job
from .options import SamplingOptions
from .text import ComputedPrompt, Text

if TYPE_CHECKING:
    import numpy as np

    from ..core.lm import LoadedModel
    from .beam import Search
    from .options import GenerateKwargs
    from .results import Generation

__all__ = ["Stream", "continue_prompts", "generate", "stream"]


def generate(
    model: LoadedModel,
    prompts: Prompt | Prompts,
    *,
    num_return_sequences: int = 1,
    batch_size: int | None = None,
    **options: Unpack[GenerateKwargs],
) -> Generation | list[Generation]:
    """What :meth:`gpt2c.GPT2.generate` does."""
    checked = SamplingOptions(num_return_sequences=num_return_sequences, **cast("dict[str, Any]", options))
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, 1)
    several, given = separate(prompts)
    results = continue_prompts(model, model.encode(given, special=checked.special), checked, batch_size)
    return results if several or num_return_sequences > 1 else results[0]


def stream(model: LoadedModel, prompt: Prompt, **options: Unpack[GenerateKwargs]) -> Stream:
    """What :meth:`gpt2c.GPT2.stream` does."""
    several, given = separate(prompt)
    if several:
        raise TypeError(f"stream continues one prompt, but got a list of {len(given)}: use generate")
    checked = SamplingOptions(**cast("dict[str, Any]", options))
    if checked.num_return_sequences != 1:
        raise ValueError("stream gives one continuation: use generate for num_return_sequences above 1")
    if checked.num_beams != 1:
        raise ValueError("stream cannot tell the text of a beam search before its end: use generate")
    return Stream(model, model.encode(given, special=checked.special)[0], checked)


def continue_prompts(
    model: LoadedModel, prompts: Sequence[np.ndarray], options: SamplingOptions, batch_size: int | None = None
) -> list[Generation]:
    """Continue every prompt ``options.num_return_sequences`` times; results in the order of the prompts.

    Parameters
    ----------
    model : LoadedModel
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
    shared = [
        ComputedPrompt(job, ids, f"prompt {i}" if several else "the prompt") for i, ids in enumerate(prompts)
    ]
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

    def __init__(self, model: LoadedModel, prompt: np.ndarray, options: SamplingOptions) -> None:
        job = Job(model, options)
        self._text = Text(job, ComputedPrompt(job, prompt), 0, 0)
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
            for _ in self._steps:
                if self.first_token_seconds is None:
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


def _advance(
    job: Job, texts: Sequence[Text] | Sequence[Search], places: int
) -> Generator[Text | Search, None, None]:
    """Continue all ``texts``, at most ``places`` at once; yield a text whenever it has got a token.

    Continuations of one prompt stand next to each other in ``texts``.
    """
    model = job.model
    waiting: deque[Text | Search] = deque(texts)
    active: list[Text | Search] = []
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
        fresh: list[tuple[ComputedPrompt, _engine.KVCache]] = []
        rows = sum(len(ids) for _, ids in sequences)
        for text in islice(waiting, places - len(active)):
            prompt = text.prompt
            if prompt.logits is None and all(prompt is not other for other, _ in fresh):
                if fresh and rows + len(prompt.visible) > ROWS_PER_CALL:
                    break
                fresh.append((prompt, model.new_cache(prompt.capacity)))
                rows += len(prompt.visible)
        if rows == 0:
            continue
        done = len(sequences)
        sequences += [(cache, prompt.visible) for prompt, cache in fresh]
        observer = job.observer(sequences)
        logits = _engine.forward(model.weights, sequences, keep=1, threads=model.threads, observer=observer)
        captured = observer.captured if observer is not None and job.names else None
        for i, (prompt, cache) in enumerate(fresh, done):
            prompt.cache, prompt.logits = cache, logits[i]
            prompt.captured = captured[i] if captured else None
        done = 0
        for text, of_text in zip(active, pending, strict=True):
            if captured and isinstance(text, Text):
                text.capture(captured[done], logits[done])
            text.advance(list(logits[done : done + len(of_text)]))
            done += len(of_text)
            yield text
        active = [text for text in active if not text.done]
