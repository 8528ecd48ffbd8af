"""/v1/chat/completions: continuing dialogues, for models with a chat template.

A dialogue is written as one text, which is then a prompt as in /v1/completions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .chat_schema import ChatRequest
from .choices import completion, end, token_text
from .clients import unless_gone
from .completions import Work, check_limit, check_model
from .http import APIError, checked, read_json
from .rendering import prompt_ids
from .schemas import CompletionRequest
from .state import State

__all__ = ["ROUTES"]


async def chat(request: Request) -> Response:
    """Answer the messages of a request."""
    state = State.of(request)
    if state.model.chat_template is None:
        raise APIError(
            404,
            f"{state.model_id} continues texts and has no chat template: send the whole text of the dialogue "
            "as the prompt to /v1/completions",
            code="chat_not_supported",
        )
    asked = await read_json(request, ChatRequest)
    check_model(state, asked.model)
    check_limit("top_logprobs", asked.top_logprobs, state.settings.max_logprobs)
    prompt = await unless_gone(request, _prompt(state, asked.messages))
    # The last token needs no position, as it is not read again.
    room = max(1, state.model.config.n_ctx + 1 - len(prompt))
    whole = checked(asked.completion(prompt, room), CompletionRequest)
    return await ChatWork(state, request, whole).response()


async def _prompt(state: State, messages: list[dict[str, str]]) -> list[int]:
    model = state.model
    try:
        async with asyncio.timeout(state.settings.request_seconds):
            dialogue = await state.renderer.dialogue(model, messages)
            return await run_in_threadpool(prompt_ids, model.tokenizer, dialogue)
    except TimeoutError:
        raise APIError(504, "the chat template was not done in time", code="deadline") from None
    except ValueError as error:
        raise APIError(400, str(error), param="messages") from None


class ChatWork(Work):
    """A completion of a dialogue's text, returned as a message."""

    def beginning(self, seed: int | None) -> dict[str, Any]:
        """The first fields of the answer and of every event of a stream."""
        kind = "chat.completion.chunk" if self.asked.stream else "chat.completion"
        return completion(self.state.model_id, seed, kind, "chatcmpl")

    def openings(self) -> Iterator[dict[str, Any]]:
        """The role of the message."""
        for index in range(self.asked.n):
            delta = {"role": "assistant", "content": ""}
            yield {"index": index, "delta": delta, "logprobs": None, **end(None)}

    def choice(self, index: int, part: Any, *, whole: bool = False) -> dict[str, Any]:
        """A message, or the next part of one."""
        told: dict[str, Any] = {"delta": {"content": part.text}}
        if whole:
            told = {"message": {"role": "assistant", "content": part.text, "refusal": None}}
        logprobs = None if self.asked.logprobs is None else {"content": self._tokens(part), "refusal": None}
        return {"index": index, **told, "logprobs": logprobs, **end(part.finish_reason)}

    def _tokens(self, part: Any) -> list[dict[str, Any]]:
        """The tokens of a part with their log-probabilities, and the most probable ones in their places."""
        found = []
        for i, (token, logprob) in enumerate(zip(part.token_ids, part.logprobs, strict=True)):
            top = part.top_logprobs[i] if part.top_logprobs else ()
            found.append(self._token(token, logprob) | {"top_logprobs": [self._token(*one) for one in top]})
        return found

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        model = self.state.model
        return {"token": token_text(model, token), "logprob": logprob, "bytes": [*model.token_bytes(token)]}


ROUTES = [Route("/v1/chat/completions", chat, methods=["POST"])]
