"""Results for texts: /v1/embeddings, /v1/score, /v1/suggest."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.deadline import Deadline
from ..heads.embedding import check_pooling, lowered
from ..heads.reading import read_all
from ..model import GPT2
from ..scoring.results import Score
from ..session.session import Session
from .choices import json_response, token_text, usage
from .clients import unless_gone
from .completions import check_model
from .http import APIError, read_json
from .schemas import EmbeddingRequest, ScoreRequest, SuggestRequest, TextSchema
from .sessions import Named
from .state import State, client_of

__all__ = ["ROUTES"]

T = TypeVar("T")


async def embeddings(request: Request) -> Response:
    """Texts as vectors."""
    state = State.of(request)
    asked = await read_json(request, EmbeddingRequest)
    check_model(state, asked.model, any_kind=True)
    pooling, options = check_pooling(state.model, asked.pooling, asked.normalize, special=asked.special)
    texts = lowered(asked.input, pooling)
    _, readings = await run_in_threadpool(read_all, state.model, texts, options)
    ids = [reading.ids for reading in readings]
    call = _call(request, asked, state.model.embed, ids, pooling=pooling.mode, normalize=pooling.normalize)
    vectors = await unless_gone(request, call)
    n_tokens = sum(map(len, ids))
    state.metrics.count_tokens(request, read=n_tokens)

    def shown(vector: Any) -> Any:
        if asked.encoding_format == "float":
            return vector.tolist()
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")

    data = [
        {"object": "embedding", "index": i, "embedding": shown(vector)} for i, vector in enumerate(vectors)
    ]
    return _listed(state, data, n_tokens)


async def score(request: Request) -> Response:
    """Scores of texts."""
    state = State.of(request)
    asked = await read_json(request, ScoreRequest)
    check_model(state, asked.model)
    if asked.top > state.settings.max_logprobs:
        allowed = state.settings.max_logprobs
        raise APIError(400, f"top is {asked.top}; this server allows up to {allowed}", param="top")
    items: list[Any] = asked.input
    if asked.context is not None:
        items = [(asked.context, text) for text in asked.input]
    assert isinstance(state.model, GPT2)  # as check_model has found
    call = _call(request, asked, state.model.score, items, **asked.options())
    scores: Any = await unless_gone(request, call)
    n_tokens = sum(map(len, scores))
    state.metrics.count_tokens(request, read=n_tokens)
    # There may be a hundred thousand rows, and others wait for the loop.
    return await run_in_threadpool(_scored, state, asked, scores, n_tokens)


def _scored(state: State, asked: ScoreRequest, scores: list[Score], n_tokens: int) -> Response:
    names = ("logprob", "perplexity", "bits", "bits_per_byte", "bits_per_char", "n_bytes", "n_chars")
    data = []
    for i, found in enumerate(scores):
        one = {"object": "score", "index": i, "n_tokens": len(found)}
        one |= {name: getattr(found, name) for name in names}
        if asked.tokens:
            one["tokens"] = rows = found.rows()
            for row in rows if asked.top else ():
                row["top_texts"] = [token_text(state.model, token) for token in row["top_ids"]]
        if asked.words:
            one["words"] = [word._asdict() for word in found.words()]
        data.append(one)
    return _listed(state, data, n_tokens)


async def suggest(request: Request) -> Response:
    """What could come next: tokens, words or texts."""
    state = State.of(request)
    asked = await read_json(request, SuggestRequest)
    check_model(state, asked.model)
    named = state.sessions.named(client_of(request), asked.session)

    async def answer() -> dict[str, Any]:
        async with named.lock:  # here, so that disconnected clients stop waiting
            assert isinstance(state.model, GPT2)  # as check_model has found
            found: dict[str, Any] = await _call(request, asked, _suggested, state.model, named, asked)
            return found

    found = await unless_gone(request, answer())
    counts = found["usage"]
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    state.metrics.count_tokens(request, read=counts["prompt_tokens"], reused=cached)
    return json_response({"object": "list", "model": state.model_id, "session": asked.session, **found})


def _suggested(model: GPT2, named: Named, asked: SuggestRequest, *, deadline: Deadline) -> dict[str, Any]:
    """In the scheduler's worker: the session gets the text, and computes."""
    session = named.session
    if session is None:
        session = named.session = model.session(asked.prompt, special=asked.special)
    else:
        session.special = asked.special
        session.following(model, asked.prompt)
    named.n_tokens = len(session.token_ids)
    found = _of_kind(session, asked, deadline)
    answer: dict[str, Any] = {"data": [item._asdict() for item in found]}
    for item in answer["data"]:
        item.pop("bytes", None)
    if asked.kind != "tokens":
        answer |= {"remaining": found.remaining, "finished": found.finished}
    answer["usage"] = usage(named.n_tokens, n_cached=session.n_reused)
    return answer


def _of_kind(session: Session, asked: SuggestRequest, deadline: Deadline) -> Any:
    if asked.kind == "tokens":
        return session.suggest(asked.k, deadline=deadline)
    if asked.kind == "words":
        return session.suggest_words(asked.k, deadline=deadline)
    return session.complete(asked.k, max_new_tokens=asked.max_tokens or 8, deadline=deadline)


def _listed(state: State, data: list[dict[str, Any]], n_tokens: int) -> Response:
    return json_response({"object": "list", "model": state.model_id, "data": data, "usage": usage(n_tokens)})


async def _call(
    request: Request, asked: TextSchema, function: Callable[..., T], *args: Any, **options: Any
) -> T:
    """The result of a function, computed at its client's turn within the time for a request."""
    state = State.of(request)
    client, seconds = client_of(request, asked.user), state.settings.request_seconds
    return await state.scheduler.call(function, *args, client=client, deadline=seconds, **options)


ROUTES = [
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/score", score, methods=["POST"]),
    Route("/v1/suggest", suggest, methods=["POST"]),
]
