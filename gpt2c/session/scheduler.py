"""Many requests at once: one loop continues the texts of all of them together."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from ..core.batching import CACHE_BYTES, ROWS_PER_CALL
from ..core.checks import check_integer
from ..core.deadline import Deadline, PartDeadline
from ..core.prompts import separate
from ..core.turns import Turns
from ..errors import ConfigError
from ..generation.job import Job
from ..generation.loop import advance, computed_prompts, texts_of
from ..generation.options import SamplingOptions
from .queueing import Call, Counts, Queue, Request, Step, Waiting

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..core.prompts import Prompt, Prompts
    from ..generation.options import GenerateKwargs
    from ..generation.results import Generation

__all__ = ["Scheduler"]

Result = TypeVar("Result")


class Scheduler:
    """Continues the texts of many requests at once; made by :meth:`gpt2c.GPT2.scheduler`.

    A request joins between two passes, and a text that ends makes room for the next. All running texts
    advance in one pass; prompts are computed in slices beside them, so no text waits longer than a pass with
    a slice. (But ``heal`` adds passes before a text starts, and with ``overflow="slide"`` the remaining
    window is recomputed at once when the start is dropped.) Texts are byte for byte those of ``generate``,
    whatever else runs. Methods may be called from any thread; coroutines, from any event loop.

    Parameters
    ----------
    model : LoadedModel
    max_texts, max_tokens, max_waiting, slice_tokens
        As for :meth:`gpt2c.GPT2.scheduler`.

    Examples
    --------
    >>> with model.scheduler(max_texts=8) as scheduler:
    ...     asyncio.run(scheduler.generate("Once upon a time", max_new_tokens=4)).text
    ' there was a man'
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_texts: int = 64,
        max_tokens: int | None = None,
        max_waiting: int = 64,
        slice_tokens: int = 64,
    ) -> None:
        if not model.config.is_bert:  # which supports other calls
            model.check_language_model()
        if model.config.add_cross_attention:
            raise ConfigError(
                f"{model.name} has cross-attention, but a scheduler's requests have no output of an "
                "encoder: use generate"
            )
        n_ctx = model.config.n_ctx
        if max_tokens is None:
            max_tokens = max(n_ctx, CACHE_BYTES // model.memory_plan()["cache_per_token"])
        self.model = model
        self._slice = check_integer("slice_tokens", slice_tokens, 1, ROWS_PER_CALL)
        max_waiting = check_integer("max_waiting", max_waiting, 1)
        self._queue = Queue(
            check_integer("max_texts", max_texts, 1), check_integer("max_tokens", max_tokens, 1), max_waiting
        )
        self._turns = Turns()
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="gpt2c-jobs")
        self._waiting: Waiting[Call] = Waiting(max_waiting)
        self._calls: list[Call] = []  # the waiting ones, and the running one
        self._lock = threading.Lock()
        self._process = os.getpid()
        # For the passes of all texts: each text has its own deadline, which is checked between passes.
        self._thread: threading.Thread | None = None
        if not model.config.is_bert:
            self._shared = Job(model, SamplingOptions(deadline=self._in_turns(None, ROWS_PER_CALL)))
            self._thread = threading.Thread(target=self._work, name="gpt2c-scheduler", daemon=True)
            self._thread.start()
        atexit.register(_close, weakref.ref(self))  # no pass may run when the interpreter exits

    # ---- texts

    def submit(
        self,
        prompts: Prompt | Prompts,
        *,
        client: str = "",
        notify: Callable[[list[Step]], object] | None = None,
        num_return_sequences: int = 1,
        **options: Unpack[GenerateKwargs],
    ) -> Request:
        """Submit texts to be continued; returns immediately.

        Parameters
        ----------
        prompts : str, token ids, or a list of either
        client : str
            The owner of the request: clients take turns.
        notify : function, optional
            Called as ``notify(steps)`` in the scheduler's thread, after each pass in which texts of the
            request have advanced, with a list of `Step`. It should return quickly.
        num_return_sequences : int
        **options
            As for :meth:`gpt2c.GPT2.generate`, except edits and names_filter. A deadline counts from now.

        Returns
        -------
        Request
            ``.future``, and ``.cancel()``.

        Raises
        ------
        QueueFullError
            ``max_waiting`` requests are waiting, one of them this client's.
        ContextLengthError, ValueError, TypeError
            As from ``generate``; or a text needs more room than the scheduler has in total.

        Examples
        --------
        >>> request = scheduler.submit(["Once upon a time", "A king"], max_new_tokens=4)
        >>> [found.text for found in request.future.result()]
        [' there was a man', "'s son was a"]
        """
        if os.getpid() != self._process:
            raise RuntimeError("a scheduler works in the process that made it: make one after the fork")
        self.model.check_language_model()
        given = cast("dict[str, Any]", options)
        given["deadline"] = self._in_turns(given.get("deadline"), self._slice)
        checked = SamplingOptions(num_return_sequences=num_return_sequences, **given)
        if checked.edits or checked.names_filter != ():
            raise ValueError("a scheduler takes neither edits nor names_filter: use model.generate for them")
        job = Job(self.model, checked, costs=self._costs(checked))
        computed = computed_prompts(job, separate(prompts)[1])
        texts = [text for i, prompt in enumerate(computed) for text in texts_of(job, prompt, i)]
        request = Request(job, texts, client, notify)
        self._queue.check_room(texts)
        checked.deadline.begin()
        self._queue.put(request)
        return request

    async def generate(
        self,
        prompts: Prompt | Prompts,
        *,
        client: str = "",
        num_return_sequences: int = 1,
        **options: Unpack[GenerateKwargs],
    ) -> Generation | list[Generation]:
        """The result of :meth:`gpt2c.GPT2.generate`: options and errors of :meth:`submit`.

        Cancelling the task ends the texts.

        Examples
        --------
        >>> asyncio.run(scheduler.generate("Once upon a time", max_new_tokens=4)).text
        ' there was a man'
        """
        request = self.submit(prompts, client=client, num_return_sequences=num_return_sequences, **options)
        try:
            results = await asyncio.wrap_future(request.future)
        except asyncio.CancelledError:
            request.cancel()
            raise
        several, _ = separate(prompts)
        return results if several or num_return_sequences > 1 else results[0]

    async def stream(
        self, prompt: Prompt, *, client: str = "", **options: Unpack[GenerateKwargs]
    ) -> AsyncIterator[str]:
        """The pieces of a continuation as they are generated, as from :meth:`gpt2c.GPT2.stream`.

        Leaving the loop early, or ``aclose()``, ends the text.

        Parameters
        ----------
        prompt, client, **options
            As for :meth:`submit`, but only one continuation and no beams.

        Examples
        --------
        >>> async def pieces():
        ...     return [piece async for piece in scheduler.stream("Once upon a time", max_new_tokens=4)]
        >>> asyncio.run(pieces())
        [' there', ' was', ' a', ' man']
        """
        if separate(prompt)[0]:
            raise TypeError("stream continues one prompt: use generate for several")
        if options.get("num_beams", 1) != 1:
            raise ValueError("stream cannot show the text of a beam search before it ends: use generate")
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[list[Step] | None] = asyncio.Queue()

        def put(steps: list[Step] | None) -> None:
            loop.call_soon_threadsafe(news.put_nowait, steps)

        request = self.submit(prompt, client=client, notify=put, **options)
        request.future.add_done_callback(lambda _: put(None))
        try:
            while (steps := await news.get()) is not None:
                for step in steps:
                    if step.text:
                        yield step.text
            request.future.result()
        finally:
            request.cancel()

    # ---- anything else

    def run(
        self,
        function: Callable[..., Result],
        *args: Any,
        client: str = "",
        deadline: float | Deadline | None = None,
        **options: Any,
    ) -> Future[Result]:
        """Compute something else beside the texts: in slices, which take turns with their passes.

        Parameters
        ----------
        function
            Takes ``deadline=``: ``model.score``, ``embed``, ``suggest``, the methods of a session …
        *args, **options
            Its arguments.
        client : str
            The owner of the call: clients take turns.
        deadline : float or Deadline, optional
            Counts from now; cancelling it ends the work.

        Returns
        -------
        concurrent.futures.Future

        Raises
        ------
        QueueFullError
            ``max_waiting`` others are waiting, one of them this client's.

        Examples
        --------
        >>> round(scheduler.run(model.score, "A king.", client="me").result().perplexity, 2)
        5378.23
        """
        limit = self._in_turns(deadline, self._slice)
        limit.begin()
        call = Call(client, partial(function, *args, deadline=limit, **options), limit, Future())
        with self._lock:
            if self._queue.closed:
                raise RuntimeError("the scheduler is closed")
            self._waiting.put(client, call)
            self._calls.append(call)
            self._jobs.submit(self._run_next)  # not necessarily this one
        call.future.add_done_callback(lambda _: self._ended(call))
        return call.future

    async def call(
        self,
        function: Callable[..., Result],
        *args: Any,
        client: str = "",
        deadline: float | Deadline | None = None,
        **options: Any,
    ) -> Result:
        """The result of :meth:`run`: options and errors are the same. Cancelling the task ends the work.

        Examples
        --------
        >>> asyncio.run(scheduler.call(model.suggest, "The king and the", 1))[0].text
        ' king'
        """
        limit = Deadline.of(deadline)
        try:
            future = self.run(function, *args, client=client, deadline=limit, **options)
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            limit.cancel()
            raise

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:  # one was cancelled
                return
            call = self._waiting.take()
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            call.limit.check()
            result = call.work()
        except BaseException as error:
            call.future.set_exception(error)
            del call  # otherwise the error's traceback would keep it alive
        else:
            call.future.set_result(result)

    def _ended(self, call: Call) -> None:
        with self._lock:
            self._calls.remove(call)
            waited = self._waiting.discard(call.client, call)
        if waited:  # it was cancelled: notify those who wait for the future
            call.future.set_running_or_notify_cancel()

    # ---- the scheduler itself

    @property
    def counts(self) -> Counts:
        """The running texts, the waiting requests and calls, and the room in use."""
        counts = self._queue.counts()
        with self._lock:
            return counts._replace(waiting=counts.waiting + len(self._waiting))

    def close(self, drain: float = 0.0) -> None:
        """Accept no more requests, give the present ones ``drain`` seconds, then cancel the rest.

        Parameters
        ----------
        drain : float, default 0
            Seconds.

        Examples
        --------
        >>> other = model.scheduler()
        >>> other.close(drain=1.0)
        """
        self._queue.close()
        end = perf_counter() + drain
        while (self._calls or not self._queue.finished) and perf_counter() < end:
            sleep(min(0.02, drain))
        for request in self._queue.requests():
            request.cancel()
        self._queue.wake()
        with self._lock:
            calls = [*self._calls]
        for call in calls:
            call.limit.cancel()
        if self._process == os.getpid():
            self._jobs.shutdown()
            if self._thread is not None:
                self._thread.join()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        counts = self.counts
        return f"<Scheduler of {self.model.name}: {counts.running} texts, {counts.waiting} requests waiting>"

    def _work(self) -> None:
        """Continue texts, until the scheduler is closed."""
        queue = self._queue
        while not queue.finished:
            try:
                for text in advance(self._shared, queue, self._slice):
                    queue.note(text)
            except Exception as error:  # from the engine: out of memory, for instance
                queue.fail_all(error)
        queue.tell()

    def _in_turns(self, deadline: float | Deadline | None, rows: int) -> Deadline:
        """A deadline for one piece of work, whose passes take turns with all others."""
        own = PartDeadline(Deadline.of(deadline))
        own.turns, own.turn_rows = self._turns, rows
        return own

    def _costs(self, options: SamplingOptions) -> Any:
        """The cost of passes, for guessing tokens: measured for all texts together."""
        if options.draft is None:
            return None
        if self._shared.costs is None:
            from ..generation.speculate import Costs

            self._shared.costs = Costs()
        return self._shared.costs


def _close(scheduler: weakref.ref[Scheduler]) -> None:
    known = scheduler()
    if known is not None:
        known.close()
