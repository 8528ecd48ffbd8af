"""Continuing texts: any number of prompts, any number of continuations of each, in one loop.

Every text owns a cache; in each step all of them advance in one call of the engine, one token each, and due
prompts are computed in the same call. A text that ends makes room for the next. The engine's results do not
depend on who shares a call, and random numbers are keyed by (seed, number of the continuation, position), so
a text is the same alone and in any company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from ..core.batching import CACHE_BYTES, MOST_EMPTY, ROWS_PER_CALL, TEXTS_AT_ONCE
from ..core.checks import check_integer
from ..core.prompts import Prompt, Prompts, separate
from ..errors import DeadlineError
from .job import Job, Pending
from .options import SamplingOptions
from .text import ComputedPrompt, Text

if TYPE_CHECKING:
    import numpy as np

    from ..core.lm import LoadedModel
    from ..core.prefixes import Prefixes
    from ..introspection.activations import Captured
    from .beam import Search
    from .options import GenerateKwargs
    from .results import Generation

__all__ = [
    "Source",
    "advance",
    "check_prompt",
    "computed_prompts",
    "continue_prompts",
    "continued",
    "generate",
    "generate_rows",
    "in_order",
    "texts_of",
]

# A prompt to compute, with the first of its texts, and its next part.
_Fresh = tuple["Text | Search", ComputedPrompt, Pending]

_SHARE = 16  # tokens of a prompt, where several are computed in slices


def generate(
    model: LoadedModel,
    prompts: Prompt | Prompts,
    *,
    num_return_sequences: int = 1,
    batch_size: int | None = None,
    prefixes: Prefixes | None = None,
    **options: Unpack[GenerateKwargs],
) -> Generation | list[Generation]:
    """See :meth:`gpt2c.GPT2.generate`."""
    checked = SamplingOptions(num_return_sequences=num_return_sequences, **cast("dict[str, Any]", options))
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, 1)
    several, given = separate(prompts)
    results = continue_prompts(model, given, checked, batch_size, prefixes)
    return results if several or num_return_sequences > 1 else results[0]


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
        The maximum number of texts that advance together. It changes speed and memory, never a result. By
        default as many as keep their caches within 1 GiB, and at most 64.
    prefixes : Prefixes, optional
        A store of earlier texts; default: nothing is kept.
    """
    job = Job(model, options, prefixes)
    shared = computed_prompts(job, prompts)
    texts = [text for index, prompt in enumerate(shared) for text in texts_of(job, prompt, index)]
    for _ in continued(job, texts, batch_size):
        pass
    return [result for text in texts for result in text.results()]


def generate_rows(job: Job, rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, list[Generation], bool]]:
    """Continue the prompts of a table, in order; rows are consumed as needed.

    Parameters
    ----------
    job : Job
    rows : iterable of (key, prompt)
        A prompt is a string, token ids or None.

    Yields
    ------
    (key, results, cut)
        The result of `continue_prompts` for the prompt, nothing for None; and whether the start of the prompt
        was left out.

    Raises
    ------
    ValueError, TypeError
        As from ``GPT2.generate``.
    """
    made = (
        (key, () if prompt is None else texts_of(job, computed_prompts(job, [prompt])[0], index))
        for index, (key, prompt) in enumerate(rows)
    )
    return in_order(job, made)


def in_order(
    job: Job, made: Iterator[tuple[Any, Sequence[Text | Search]]], batch_size: int | None = None
) -> Iterator[tuple[Any, list[Generation], bool]]:
    """Continue the texts of each key, made as needed; yields like `generate_rows`."""
    waiting: deque[tuple[Any, Sequence[Text | Search]]] = deque()
    ended = False

    def texts() -> Iterator[Text | Search]:
        nonlocal ended
        empty = 0
        for key, some in made:
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
        for _ in continued(job, texts(), batch_size):
            yield from finished()
        yield from finished()


def check_prompt(job: Job, prompt: Prompt) -> None:
    """Raise the error that `generate_rows` would raise for a prompt."""
    computed_prompts(job, [prompt])


def computed_prompts(job: Job, prompts: Sequence[Prompt]) -> list[ComputedPrompt]:
    """Prompts as tokens, checked to fit."""
    suffix, special = job.options.suffix, job.options.special
    name = "prompt {}" if len(prompts) > 1 else "the prompt"
    if suffix is None:
        all_ids = job.model.encode(prompts, special=special)
    else:
        from .filling import in_the_middle  # deferred, as most prompts have no suffix

        all_ids = [
            in_the_middle(job.model, prompt, suffix, name.format(i), special=special)
            for i, prompt in enumerate(prompts)
        ]
    return [
        ComputedPrompt(job, ids, name.format(i), text=prompt)
        for i, (prompt, ids) in enumerate(zip(prompts, all_ids, strict=True))
    ]


def texts_of(job: Job, prompt: ComputedPrompt, index: int) -> Sequence[Text | Search]:
    """The continuations of a prompt: a search, or one text each."""
    if job.options.num_beams > 1:
        from .beam import Search

        return [Search(job, prompt, index)]
    kind: type[Text] = Text
    if job.options.penalty_alpha:
        from .contrastive import Contrastive

        kind = Contrastive
    elif job.options.guidance_scale != 1:
        from .guidance import Guided

        kind = Guided
    return [kind(job, prompt, index, sample) for sample in range(job.options.num_return_sequences)]


class Source(Protocol):
    """A source of texts."""

    def take(self, present: Sequence[Text | Search]) -> list[Text | Search]:
        """The next texts, as many as fit beside those that are ``present``."""

    def failed(self, text: Text | Search, error: Exception) -> None:
        """Handle an error from a text's option, such as a processor: raise it, or end the text."""


class Texts:
    """Texts of one call, taken as room allows.

    Room for ``batch_size`` texts; by default for `TEXTS_AT_ONCE`, and caches of `CACHE_BYTES`, or one.
    """

    def __init__(self, job: Job, texts: Iterable[Text | Search], batch_size: int | None = None) -> None:
        self._places = max(1, (batch_size or TEXTS_AT_ONCE) // job.options.n_places)
        self._texts = iter(texts)
        self._next = next(self._texts, None)
        self._per_token = 0
        if batch_size is None and self._next:
            # Of the first text's size: malloc then keeps freed memory of that size for the caches to come.
            n_tokens = self._next.prompt.capacity
            self._per_token = job.model.new_cache(n_tokens).nbytes // n_tokens

    def take(self, present: Sequence[Text | Search]) -> list[Text | Search]:
        """See `Source`."""
        taken: list[Text | Search] = []
        n_tokens = sum(text.prompt.n_positions for text in present) if self._next else 0
        while self._next and len(present) + len(taken) < self._places:
            n_tokens += self._next.prompt.n_positions
            if n_tokens * self._per_token > CACHE_BYTES and (present or taken):
                break
            taken.append(self._next)
            self._next = next(self._texts, None)
        return taken

    def failed(self, text: Text | Search, error: Exception) -> None:
        """See `Source`."""
        raise error


def continued(
    job: Job, texts: Iterable[Text | Search], batch_size: int | None = None
) -> Generator[Text | Search, None, None]:
    """Continue the texts of one call, as room allows; yields like `advance`."""
    yield from advance(job, Texts(job, texts, batch_size))


def advance(job: Job, source: Source, most_rows: int | None = None) -> Generator[Text | Search, None, None]:
    """Continue all texts of a source; yield a text whenever it has a new token or has ended.

    Continuations of one prompt are adjacent in the source.

    Parameters
    ----------
    job : Job
        The texts' job; or that of a scheduler, whose texts have their own jobs.
    source : Source
    most_rows : int, optional
        The maximum number of prompt tokens per pass, so that other texts get their next tokens soon. By
        default prompts are computed whole.
    """
    job.options.deadline.begin()
    waiting: list[Text | Search] = []
    active: list[Text | Search] = []
    while True:
        waiting += source.take([*active, *waiting])
        if not (waiting or active):
            return
        for text in (*active, *waiting):
            if not text.done and (reason := text.job.options.deadline.reason):
                text.cut(reason)
            if text.done:
                yield text
        # Start the texts whose prompt has been computed.
        ready = [text for text in waiting if text.prompt.ready and not text.done]
        waiting = [text for text in waiting if not (text.prompt.ready or text.done)]
        for text in ready:
            if not text.done:  # together with a failed one of the same request
                _try(source, text, text.start)
            yield text
        active = [text for text in (*active, *ready) if not text.done]

        # Compute the prompts of the others together with the next tokens of started texts.
        pending = [text.pending(len(active)) for text in active]
        parts = [part for of_text in pending for part in of_text]
        fresh = _begun(waiting, sum(len(part.ids) for part in parts), most_rows)
        parts += [part for _, _, part in fresh]
        if not parts:
            continue
        try:
            logits, captured = job.forward(parts, only_steps=not fresh)
        except DeadlineError:
            continue
        for i, (text, prompt, part) in enumerate(fresh, -len(fresh)):
            _note(source, text, prompt, part, logits[i], captured[i] if captured else None)
        done = 0
        for text, of_text in zip(active, pending, strict=True):
            if captured and isinstance(text, Text):
                text.capture(captured[done], logits[done])
            n_rows = sum(part.n_rows for part in of_text)
            if not text.done:  # as above
                _try(source, text, partial(text.advance, list(logits[done : done + n_rows])))
            done += n_rows
            yield text
        active = [text for text in active if not text.done]


def _note(
    source: Source,
    text: Text | Search,
    prompt: ComputedPrompt,
    part: Pending,
    logits: np.ndarray,
    captured: Captured | None,
) -> None:
    """Record the computed part of a text's prompt."""
    if len(part.cache) == len(prompt.visible):
        prompt.logits, prompt.captured = logits, captured
        prompt.prefixes.keep(prompt.visible, part.cache)
        _try(source, text, partial(prompt.heal, text.job))


def _try(source: Source, text: Text | Search, step: Callable[[], None]) -> None:
    try:
        step()
    except DeadlineError:
        pass  # the text ends before the next pass
    except Exception as error:
        source.failed(text, error)


def _begun(waiting: Iterable[Text | Search], rows: int, most_rows: int | None) -> list[_Fresh]:
    """The prompt parts to compute beside ``rows`` tokens of texts, each with the first of its texts."""
    first: dict[int, tuple[Text | Search, ComputedPrompt]] = {}
    for text in waiting:
        for prompt in text.prompt.contexts:
            if prompt.logits is None:
                first.setdefault(id(prompt), (text, prompt))
    if most_rows is not None:
        return _slices(list(first.values()), most_rows)
    fresh: list[_Fresh] = []
    for text, prompt in first.values():
        if fresh and rows + len(prompt.visible) > ROWS_PER_CALL:
            break
        part = prompt.pending(text.job)
        fresh.append((text, prompt, part))
        rows += len(part.ids)
    return fresh


def _slices(prompts: Sequence[tuple[Text | Search, ComputedPrompt]], most_rows: int) -> list[_Fresh]:
    """A part of each prompt, so that short ones do not wait for long ones; the first gets the remainder."""
    share, taken = max(_SHARE, most_rows // max(1, len(prompts))), []
    # The oldest first, then those that need least.
    for text, prompt in [*prompts[:1], *sorted(prompts[1:], key=lambda pair: _rest(*pair))]:
        if most_rows <= 0:
            break
        n = min(share, most_rows, _rest(text, prompt))
        taken.append((text, prompt, n))
        most_rows -= n
    fresh = []
    for text, prompt, n in taken:
        more = min(most_rows, _rest(text, prompt) - n)
        most_rows -= more
        fresh.append((text, prompt, prompt.pending(text.job, n + more)))
    return fresh


def _rest(text: Text | Search, prompt: ComputedPrompt) -> int:
    """The number of prompt tokens not yet computed."""
    return len(prompt.visible) - len(prompt.begun(text.job))
