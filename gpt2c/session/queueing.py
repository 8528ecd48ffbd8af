"""Requests of a scheduler: waiting, order, and notification of results."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from threading import Condition
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ..errors import ContextLengthError, QueueFullError, counted
from ..generation.text import Text

if TYPE_CHECKING:
    from ..core.deadline import Deadline
    from ..generation.beam import Search
    from ..generation.job import Job
    from ..generation.results import FinishReason, Generation

__all__ = ["Call", "Counts", "Queue", "Request", "Step", "Waiting"]

Item = TypeVar("Item")


class Step(NamedTuple):
    """The tokens that a pass added to a text."""

    prompt_index: int
    sample_index: int
    """Index of the text in the request, as in `Generation`."""
    text: str
    """Whole characters; a possible start of a stop string is held back."""
    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]
    finish_reason: FinishReason | None
    """None: the text continues."""


class Counts(NamedTuple):
    """The load of a scheduler."""

    running: int
    """Texts that are running, or whose prompts are being computed."""
    waiting: int
    """Requests and other calls that have not started."""
    tokens: int
    """Positions reserved for the running texts."""
    max_tokens: int


class Call(NamedTuple):
    """A call other than generation to compute."""

    client: str
    work: Callable[[], Any]
    limit: Deadline
    future: Future[Any]


class Request:
    """One or several prompts that a scheduler continues; made by :meth:`Scheduler.submit`.

    Attributes
    ----------
    future : concurrent.futures.Future
        Of the list of `Generation`, as ``generate`` gives it for a list of prompts.
    client : str
    """

    def __init__(
        self,
        job: Job,
        texts: Sequence[Text | Search],
        client: str,
        notify: Callable[[list[Step]], object] | None,
    ) -> None:
        self.future: Future[list[Generation]] = Future()
        self.future.set_running_or_notify_cancel()  # `cancel` ends it, with the texts so far
        self.job, self.texts, self.client, self.notify = job, texts, client, notify
        self.rest = deque(texts)  # the waiting ones
        self.steps: list[Step] = []  # not yet passed to `notify`
        self.error: Exception | None = None
        self._seen = [0] * len(texts)

    def cancel(self) -> None:
        """End the texts within a token, from any thread; their finish_reason is "cancelled"."""
        self.job.options.deadline.cancel()

    @property
    def done(self) -> bool:
        """Whether all texts have ended."""
        return all(text.done for text in self.texts)

    @property
    def n_reused(self) -> int:
        """The number of prompt tokens that had been computed before; see ``prefix_cache``."""
        return sum(prompt.n_reused for prompt in {text.prompt for text in self.texts})

    def note(self, index: int) -> None:
        """Record the tokens that a pass added to a text."""
        text = self.texts[index]
        if self.notify is not None and isinstance(text, Text):
            ids, logprobs, top = text.since(self._seen[index])
            self._seen[index] += len(ids)
            place = (text.prompt_index, text.sample_index)
            if ids or text.done:  # contrastive search gets its first token a pass later
                self.steps.append(Step(*place, text.piece, ids, logprobs, top, text.finish_reason))

    def fail(self, error: Exception) -> None:
        """End all texts; the future raises the error."""
        self.error = self.error or error
        for text in self.texts:
            if not text.done:
                text.cut("cancelled")

    def tell(self) -> None:
        """Call ``notify`` with the new steps, and resolve the future if all texts have ended."""
        steps, self.steps = self.steps, []
        if steps and self.notify is not None and self.error is None:
            try:
                self.notify(steps)
            except Exception as error:
                self.fail(error)
        if self.done and not self.future.done():
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result([result for text in self.texts for result in text.results()])


class Waiting(Generic[Item]):
    """A queue in which clients take turns; each client's oldest item is next.

    Parameters
    ----------
    most : int
        The maximum number of waiting items; beyond it, only one per client.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._clients: OrderedDict[str, deque[Item]] = OrderedDict()

    def put(self, client: str, item: Item) -> None:
        """Add an item, or raise QueueFullError."""
        if len(self) >= self._most and client in self._clients:
            raise QueueFullError(
                f"{counted(len(self), 'request')} waiting, the maximum (max_waiting): try again later"
            )
        self._clients.setdefault(client, deque()).append(item)

    @property
    def first(self) -> Item:
        """The next item."""
        return next(iter(self._clients.values()))[0]

    def take(self) -> Item:
        """Remove the next item, and pass the turn to the other clients."""
        client, items = self._clients.popitem(last=False)
        item = items.popleft()
        if items:
            self._clients[client] = items
        return item

    def next_client(self) -> None:
        """Pass the turn to the other clients."""
        self._clients.move_to_end(next(iter(self._clients)))

    def discard(self, client: str, item: Item) -> bool:
        """Remove an item, if it still waits; returns whether it did."""
        items = self._clients.get(client, deque())
        if item not in items:
            return False
        items.remove(item)
        if not items:
            del self._clients[client]
        return True

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._clients.values() for item in items)


class Queue:
    """The source of texts for a scheduler's loop (`generation.loop.Source`).

    Clients take turns, text by text. No text overtakes one that needs more room than is free, so that large
    texts are not postponed forever.

    Parameters
    ----------
    max_texts, max_tokens, max_waiting : int
        As for :class:`Scheduler`.
    """

    def __init__(self, max_texts: int, max_tokens: int, max_waiting: int) -> None:
        self.max_texts, self.max_tokens = max_texts, max_tokens
        self.closed = False
        self._changed = Condition()
        self._waiting: Waiting[Request] = Waiting(max_waiting)
        self._owners: dict[Text | Search, tuple[Request, int]] = {}
        self._tokens = 0
        self._to_tell: dict[Request, None] = {}  # in order

    # ---- from any thread

    def check_room(self, texts: Sequence[Text | Search]) -> None:
        """Raise ValueError or ContextLengthError if one of these texts could never run."""
        options = texts[0].job.options
        places, tokens = places_of(texts[0]), max(map(tokens_of, texts))
        if places > self.max_texts:
            name = "num_beams" if options.num_beams > 1 else "top_k" if options.penalty_alpha else ""
            what = f"{name} is {places}" if name else f"guidance_scale computes {places} texts together"
            raise ValueError(f"{what}; allowed: 1 to {self.max_texts}, the scheduler's max_texts")
        if tokens > self.max_tokens:
            raise ContextLengthError(
                f"prompt and max_new_tokens={options.max_new_tokens} need room for {tokens} tokens, but "
                f"the scheduler has room for {self.max_tokens} in all (max_tokens): shorten the "
                "prompt, or lower max_new_tokens or num_beams"
            )

    def put(self, request: Request) -> None:
        """Queue a request, or raise QueueFullError."""
        with self._changed:
            if self.closed:
                raise RuntimeError("the scheduler is closed")
            self._waiting.put(request.client, request)
            self._changed.notify()

    def close(self) -> None:
        """Accept no more requests."""
        with self._changed:
            self.closed = True
            self._changed.notify()

    def wake(self) -> None:
        """Check the requests again: one may have been cancelled."""
        with self._changed:
            self._changed.notify()

    def counts(self) -> Counts:
        with self._changed:
            return Counts(len(self._owners), len(self._waiting), self._tokens, self.max_tokens)

    def requests(self) -> list[Request]:
        """All unfinished requests."""
        with self._changed:
            running = {request: None for request, _ in self._owners.values()}
            return [*running, *(request for request in self._waiting if request not in running)]

    @property
    def finished(self) -> bool:
        """Whether no work is left, now or later."""
        with self._changed:
            return self.closed and not self._waiting and not self._owners

    # ---- from the thread of the loop

    def take(self, present: Sequence[Text | Search]) -> list[Text | Search]:
        """See `Source`: the next texts; waits for one if none is present."""
        self.tell()
        with self._changed:
            while True:
                over = self._remove_over()
                taken = self._admit(present)
                if over or taken or present or self.closed:
                    break
                self._changed.wait()
        for request in over:
            self._to_tell[request] = None
        if over:
            self.tell()
        return taken

    def failed(self, text: Text | Search, error: Exception) -> None:
        """See `Source`: the text's request fails, the others continue."""
        request, _ = self._owners.get(text, (None, 0))
        if request is None:
            return
        request.fail(error)
        with self._changed:  # the loop yields none of those that it has advanced already
            for one in request.texts:
                self._owners.pop(one, None)
        self._to_tell[request] = None

    def note(self, text: Text | Search) -> None:
        """Record that a text has advanced or ended; nothing, if its request has failed."""
        request, index = self._owners.get(text, (None, 0))
        if request is None:
            return
        request.note(index)
        if text.done:
            with self._changed:
                del self._owners[text]
        self._to_tell[request] = None

    def fail_all(self, error: Exception) -> None:
        """Fail the running requests."""
        for request in dict.fromkeys(request for request, _ in self._owners.values()):
            request.fail(error)
            self._to_tell[request] = None
        with self._changed:
            self._owners.clear()
        self.tell()

    def tell(self) -> None:
        """Notify requests of the latest pass."""
        requests, self._to_tell = self._to_tell, {}
        for request in requests:
            request.tell()

    def _remove_over(self) -> list[Request]:
        """End and remove the waiting requests whose time is over."""
        over = []
        for request in list(self._waiting):
            if reason := request.job.options.deadline.reason:
                for text in request.rest:
                    if not text.done:
                        text.cut(reason)
                over.append(request)
            elif request.error is None:
                continue
            self._waiting.discard(request.client, request)
        return over

    def _admit(self, present: Sequence[Text | Search]) -> list[Text | Search]:
        """The next texts, as many as fit."""
        places = sum(places_of(text) for text in present)
        tokens = sum(tokens_of(text) for text in present)
        taken: list[Text | Search] = []
        while self._waiting:
            request = self._waiting.first
            text = request.rest[0]
            places, tokens = places + places_of(text), tokens + tokens_of(text)
            if places > self.max_texts or tokens > self.max_tokens:
                tokens -= tokens_of(text)
                break
            self._owners[text] = (request, len(request.texts) - len(request.rest))
            taken.append(request.rest.popleft())
            if request.rest:
                self._waiting.next_client()
            else:
                self._waiting.take()
        self._tokens = tokens
        return taken


def places_of(text: Text | Search) -> int:
    """The number of texts that a pass computes for it."""
    return text.job.options.n_places


def tokens_of(text: Text | Search) -> int:
    """The number of positions it needs, in all its caches."""
    return text.prompt.n_positions
