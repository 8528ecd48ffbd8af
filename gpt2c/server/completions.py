"""/v1/completions: continuations, whole or streamed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.deadline import Deadline
from ..errors import ContextLengthError, counted
from ..generation.results import Generation
from ..session.queueing import Step
from .choices import DONE, LogprobsWriter, choice, completion, event, joined, json_response, usage
from .clients import EventStream, unless_gone
from .http import APIError, error_body, read_json
from .schemas import CompletionRequest
from .state import State, client_of

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..scoring.results import Score
    from ..session.queueing import Request as Scheduled

__all__ = ["ROUTES", "Work", "check_limit", "check_model"]


async def completions(request: Request) -> Response:
    """Continue the prompts of a request."""
    state = State.of(request)
    asked = await read_json(request, CompletionRequest)
    check_model(state, asked.model)
    return await Work(state, request, asked).response()


def check_model(state: State, model: str | None, *, any_kind: bool = False) -> None:
    """Raise unless the requested model, if any, is the served one, and a language model.

    With ``any_kind`` it may be a BERT.
    """
    if model is not None and model not in state.model_ids:
        raise APIError(
            404,
            f"unknown model {model!r}; this server has {state.model_id!r}",
            param="model",
            code="model_not_found",
        )
    if state.model.config.is_bert and not any_kind:
        raise APIError(
            400,
            f"{state.model_id!r} is a BERT, not a language model: it serves only /v1/embeddings",
            param="model",
            code="not_a_language_model",
        )


def check_limit(name: str, given: int | None, most: int) -> None:
    """Raise if a field of a request exceeds this server's limit."""
    if given is not None and given > most:
        raise APIError(400, f"{name} is {given}; this server allows up to {most}", param=name)


class _Prompt(NamedTuple):
    """A prompt as the model reads it, and as it is displayed."""

    ids: list[int]
    text: str
    n_before: int
    """The number of tokens that the tokenizer put before it, which are not part of the text."""


def _read_prompts(model: LoadedModel, asked: CompletionRequest) -> list[_Prompt]:
    prompts = []
    arrays = model.encode(asked.prompt, special=asked.special)
    for index, (given, ids) in enumerate(
        zip(asked.prompt, (array.tolist() for array in arrays), strict=True)
    ):
        n_before = 0
        if asked.suffix is not None:
            ids = _filled(model, given, asked, f"prompt {index}")
        if not isinstance(given, str):
            text = model.tokenizer.decode(ids) if model.has_tokenizer else ""
        else:
            text, before = given, model.tokenizer.prefix
            if not (asked.special and model.is_written_out(before, text, ids)):
                n_before = len(before)
        prompts.append(_Prompt(ids, text, n_before))
    n_ctx = model.config.n_ctx
    for index, prompt in enumerate(prompts):
        if len(prompt.ids) + max(0, asked.max_tokens - 1) > n_ctx:  # the last token is not read again
            name = f"prompt {index}" if len(prompts) > 1 else "the prompt"
            raise ContextLengthError(
                f"{name} has {counted(len(prompt.ids), 'token')} and max_tokens is {asked.max_tokens}, but "
                f"the model has {n_ctx} positions; shorten the prompt or lower max_tokens"
            )
    return prompts


def _filled(model: LoadedModel, given: Any, asked: CompletionRequest, name: str) -> list[int]:
    """The tokens of a prompt with its suffix."""
    from ..generation.filling import in_the_middle

    assert asked.suffix is not None
    try:
        ids: list[int] = in_the_middle(model, given, asked.suffix, name, special=asked.special).tolist()
    except ValueError as error:
        raise APIError(400, str(error), param="suffix") from None
    return ids


class Work:
    """One request: its prompts in the scheduler, and their response.

    `beginning`, `openings` and `choice` format the response; a subclass may override them.
    """

    def __init__(self, state: State, request: Request, asked: CompletionRequest) -> None:
        settings = state.settings
        check_limit("n", asked.n, settings.max_n)
        check_limit("best_of", asked.best_of, settings.max_n)
        check_limit("logprobs", asked.logprobs, settings.max_logprobs)
        self.state, self.request, self.asked = state, request, asked
        self.client = client_of(request, asked.user)
        self.deadline = Deadline(settings.request_seconds)
        self.deadline.begin()
        self.options = asked.options()
        seed = asked.seed
        if seed is None and self.options["temperature"] > 0 and asked.max_tokens:
            seed = int.from_bytes(os.urandom(4))  # one for all prompts, so that it can be reported
        self.head = self.beginning(seed)
        self.prompts: list[_Prompt] = []
        self.n_written = 0
        self._scheduled: Scheduled | None = None
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[list[Step] | Future[list[Generation]]] = asyncio.Queue()
        self._echoed: list[dict[str, list[Any]]] = []  # the log-probabilities of prompts
        self._writers: dict[int, LogprobsWriter] = {}  # by the index of the choice

    async def response(self) -> Response:
        """All texts at once, or a stream of their parts."""
        if not self.asked.stream:
            return await unless_gone(self.request, self.answer())
        try:
            await unless_gone(self.request, self.begin())
        except BaseException:
            self.close()
            raise
        return EventStream(self.events(), self.close)

    # ---- the work

    async def begin(self) -> None:
        """Read everything and submit the first prompts: what fails here has its own status."""
        asked, model = self.asked, self.state.model
        self.prompts = await run_in_threadpool(_read_prompts, model, asked)
        options = self.options
        if asked.json_schema is not None:
            from .json_schema import bitmask_of

            options["token_bitmask"] = await run_in_threadpool(bitmask_of, model, asked.json_schema)
        if asked.echo and asked.logprobs is not None:
            await self._score_prompts(asked.logprobs)
        if asked.max_tokens:
            self._scheduled = await run_in_threadpool(
                self.state.scheduler.submit,
                [prompt.ids for prompt in self.prompts],
                client=self.client,
                notify=self._put if asked.stream else None,
                seed=self.head["seed"],
                deadline=self.deadline,
                **options,
            )
            self._scheduled.future.add_done_callback(self._put)

    def _put(self, news: Any) -> None:
        """From the scheduler's thread."""
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)

    def close(self) -> None:
        """End unfinished texts, and count."""
        self.deadline.cancel()
        n_read, n_reused = self._n_read, self._n_reused
        self.state.metrics.count_tokens(self.request, read=n_read, written=self.n_written, reused=n_reused)

    @property
    def _n_read(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def _n_reused(self) -> int:
        return 0 if self._scheduled is None else self._scheduled.n_reused

    async def _score_prompts(self, top: int) -> None:
        """The log-probabilities of the tokens of prompts, for ``echo``."""
        model, scheduler = self.state.model, self.state.scheduler
        several = [prompt.ids for prompt in self.prompts if len(prompt.ids) > 1]
        scores: Any = ()
        if several:
            options: Any = {"bos": False, "top": top, "client": self.client, "deadline": self.deadline}
            scores = await scheduler.call(model.score, several, **options)
        found: Iterator[Score] = iter(scores)
        for ids, _, n_before in self.prompts:
            logprobs: list[float | None] = [None]  # nothing precedes the first token
            tops: list[Any] = [()]
            if len(ids) > 1:
                score = next(found)
                logprobs += score.logprobs.tolist()
                assert score.top_ids is not None and score.top_logprobs is not None
                rows = zip(score.top_ids.tolist(), score.top_logprobs.tolist(), strict=True)
                tops += [list(zip(*row, strict=True)) for row in rows]
            self._echoed.append(LogprobsWriter(model, (), 0).write(ids, logprobs, tops, n_before))

    # ---- the response

    async def answer(self) -> Response:
        """All texts at once."""
        asked = self.asked
        texts: Sequence[Any] = ()
        try:
            await self.begin()
            if asked.max_tokens:
                [texts] = [found async for found in self._found()]
            else:
                places = range(asked.n * len(self.prompts))
                texts = [_part(index // asked.n, index % asked.n, "length") for index in places]
            self.n_written = sum(len(text.token_ids) for text in texts)
            if asked.max_tokens and not self.n_written:
                self.deadline.check()  # there is nothing to show
        finally:
            self.close()
        # There may be thousands, and others wait for the loop.
        return await run_in_threadpool(self._whole, texts)

    def _whole(self, texts: Sequence[Any]) -> Response:
        asked = self.asked
        choices = [
            self.choice(number * asked.n + i, text, whole=True)
            for number, of_prompt in groupby(texts, key=attrgetter("prompt_index"))
            for i, text in enumerate(self._best(of_prompt))
        ]
        return json_response({**self.head, "choices": choices, "usage": self._usage()})

    def _best(self, texts: Iterable[Any]) -> Iterable[Any]:
        """The texts of a prompt to return."""
        if self.asked.best_of is None:
            return texts
        ranked = sorted(texts, key=lambda text: -sum(text.logprobs) / max(1, len(text.logprobs)))
        return ranked[: self.asked.n]

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The texts as they are generated, an event for each part; an error is the last event."""
        options = self.asked.stream_options
        with_usage = options is not None and options.include_usage
        head = {**self.head, "usage": None} if with_usage else self.head
        try:
            for opening in self.openings():
                yield event({**head, "choices": [opening]})
            if self.asked.max_tokens:
                async for index, part in self._parts():
                    yield event({**head, "choices": [self.choice(index, part)]})
            if with_usage:
                yield event({**head, "choices": [], "usage": self._usage()})
            yield DONE
        except Exception as error:
            yield event(error_body(error))

    async def _parts(self) -> AsyncIterator[tuple[int, Any]]:
        """The parts of texts to send as events, with the index of the choice."""
        ended = set()
        async for found in self._found():
            for part in found:
                index = part.prompt_index * self.asked.n + part.sample_index
                if index in ended:
                    continue
                if isinstance(part, Generation):  # it ended before it started
                    part = _part(part.prompt_index, part.sample_index, part.finish_reason)
                if part.finish_reason is not None:
                    ended.add(index)
                self.n_written += len(part.token_ids)
                if part.text or part.finish_reason or self.asked.logprobs is not None:
                    yield index, part

    async def _found(self) -> AsyncIterator[Sequence[Any]]:
        """The steps of texts, if wanted, and finally the texts."""
        while not isinstance(news := await self._news.get(), Future):
            yield news
        yield news.result()

    def _usage(self) -> dict[str, Any]:
        return usage(self._n_read, self.n_written, self._n_reused)

    # ---- the format

    def beginning(self, seed: int | None) -> dict[str, Any]:
        """The first fields of the answer and of every event of a stream."""
        return completion(self.state.model_id, seed)

    def openings(self) -> Iterator[dict[str, Any]]:
        """The events for each choice before its text."""
        n = self.asked.n
        for index in range(n * len(self.prompts) if self.asked.echo else 0):
            prompt = _part(index // n, index % n, None if self.asked.max_tokens else "length")
            yield self.choice(index, prompt, whole=True)

    def choice(self, index: int, part: Any, *, whole: bool = False) -> dict[str, Any]:
        """A text, after its prompt if that is echoed; or the next part of one."""
        number, echo = index // self.asked.n, whole and self.asked.echo
        prompt = self.prompts[number]
        logprobs = None
        if self.asked.logprobs is not None:
            if index not in self._writers:
                self._writers[index] = LogprobsWriter(self.state.model, prompt.ids, len(prompt.text))
            logprobs = self._writers[index].write(part.token_ids, part.logprobs, part.top_logprobs)
            if echo:
                logprobs = joined([self._echoed[number], logprobs])
        text = prompt.text + part.text if echo else part.text
        return choice(index, text, logprobs, part.finish_reason)


def _part(prompt_index: int, sample_index: int, finish_reason: Any) -> Step:
    """A part of a text without tokens."""
    return Step(prompt_index, sample_index, "", [], [], [], finish_reason)


ROUTES = [Route("/v1/completions", completions, methods=["POST"])]
