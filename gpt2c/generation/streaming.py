"""A continuation piece by piece, while it is computed."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any, Unpack, cast

from ..core.deadline import Deadline, PartDeadline
from ..core.prompts import Prompt, separate
from .job import Job
from .loop import computed_prompts, continued, texts_of
from .options import SamplingOptions

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prefixes import Prefixes
    from .options import GenerateKwargs
    from .results import Generation
    from .text import ComputedPrompt, Text

__all__ = ["Stream", "stream"]


def stream(
    model: LoadedModel,
    prompt: Prompt,
    *,
    prefixes: Prefixes | None = None,
    kind: type[Job] = Job,
    **options: Unpack[GenerateKwargs],
) -> Stream:
    """See :meth:`gpt2c.GPT2.stream`."""
    several, given = separate(prompt)
    if several:
        raise TypeError(f"stream continues one prompt, not a list of {len(given)}: use generate")
    # Separate, as cancelling the stream must not end other calls with the same deadline.
    options["deadline"] = PartDeadline(Deadline.of(options.get("deadline")))
    checked = SamplingOptions(**cast("dict[str, Any]", options))
    if checked.num_return_sequences != 1:
        raise ValueError("stream returns one continuation: use generate for num_return_sequences above 1")
    if checked.num_beams != 1:
        raise ValueError("stream cannot show the text of a beam search before it ends: use generate")
    job = kind(model, checked, prefixes)
    return Stream(job, *computed_prompts(job, given))


class Stream:
    """The pieces of a continuation, always whole characters; made by :meth:`gpt2c.GPT2.stream`.

    Iterate over it for the text; afterwards ``result`` holds the :class:`Generation`. The work is done while
    iterating. Closing the stream early, leaving its ``with`` block or an exception during the work (Ctrl-C
    included) ends it: the cache is freed and ``result`` is the text so far, "cancelled".

    Examples
    --------
    >>> with model.stream("Once upon a time", max_new_tokens=40) as stream:
    ...     piece = next(stream)
    >>> piece, stream.result.finish_reason
    (' there', 'cancelled')
    """

    def __init__(self, job: Job, prompt: ComputedPrompt) -> None:
        [self._text] = cast("list[Text]", texts_of(job, prompt, 0))
        self._steps = continued(job, [self._text])
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
        """End the stream and free its cache. Closing twice does no harm.

        Examples
        --------
        >>> stream = model.stream("Once upon a time", max_new_tokens=40)
        >>> piece = next(stream)
        >>> stream.close()
        >>> stream.result.text == piece
        True
        """
        self._steps.close()
        self._text.cut("cancelled")

    def cancel(self) -> None:
        """End the stream from another thread: the iterating thread gets no more pieces.

        Examples
        --------
        >>> stream = model.stream("Once upon a time", max_new_tokens=40)
        >>> stream.cancel()
        >>> list(stream), stream.result.finish_reason
        ([], 'cancelled')
        """
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
