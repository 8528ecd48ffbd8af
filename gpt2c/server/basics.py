"""The endpoints that do not run the model: its name, its tokens, and the server's health."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import shown
from .http import APIError, Schema, read_json
from .state import State

__all__ = ["ROUTES"]


class Tokenize(Schema):
    """A request to ``/tokenize``."""

    text: str
    special: bool = False


class TokenizeAsVLLM(Schema):
    """A request to ``/tokenize`` in vLLM's form, which recognizes special tokens in a text."""

    prompt: str
    add_special_tokens: bool = True
    model: str | None = None


class Detokenize(Schema):
    """A request to ``/detokenize``."""

    token_ids: list[int] = Field(max_length=1 << 20, fail_fast=True)


class DetokenizeAsVLLM(Schema):
    """A request to ``/detokenize`` in vLLM's form."""

    tokens: list[int] = Field(max_length=1 << 20, fail_fast=True)
    model: str | None = None


async def health(request: Request) -> JSONResponse:
    """Whether the server is up; needs no key."""
    return JSONResponse({"status": "ok", "model": State.of(request).model_id})


async def metrics(request: Request) -> Response:
    """The metrics, in Prometheus's text format."""
    registry = State.of(request).metrics.registry
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def models(request: Request) -> JSONResponse:
    """The list of the one model."""
    return JSONResponse({"object": "list", "data": [_model(State.of(request))]})


async def model(request: Request) -> JSONResponse:
    """One model by its name."""
    state, name = State.of(request), request.path_params["model_id"]
    if name not in state.model_ids:
        raise APIError(
            404,
            f"unknown model {shown(name)}; this server has {state.model_id}",
            param="model",
            code="model_not_found",
        )
    return JSONResponse(_model(state))


def _model(state: State) -> dict[str, Any]:
    return {"id": state.model_id, "object": "model", "created": state.created, "owned_by": "gpt2c"}


async def tokenize(request: Request) -> JSONResponse:
    """The tokens of a text: without the tokens around it, unless vLLM's form requests them."""
    body = await read_json(request, Tokenize, TokenizeAsVLLM)
    model = State.of(request).model
    # In another thread: a long text takes a while.
    if isinstance(body, Tokenize):
        ids = await run_in_threadpool(model.encode_text, body.text, "text", special=body.special)
        return JSONResponse({"token_ids": ids.tolist(), "count": len(ids)})
    assert isinstance(body, TokenizeAsVLLM)
    if body.add_special_tokens:
        [ids] = await run_in_threadpool(model.encode, [body.prompt], special=True)
    else:
        ids = await run_in_threadpool(model.encode_text, body.prompt, "prompt", special=True)
    return JSONResponse({"tokens": ids.tolist(), "count": len(ids), "max_model_len": model.config.n_ctx})


async def detokenize(request: Request) -> JSONResponse:
    """The text of tokens."""
    body = await read_json(request, Detokenize, DetokenizeAsVLLM)
    model = State.of(request).model
    name, answer = ("token_ids", "text") if isinstance(body, Detokenize) else ("tokens", "prompt")
    ids = model.encode_text(getattr(body, name), name)
    return JSONResponse({answer: await run_in_threadpool(model.tokenizer.decode, ids)})


async def tokenizer_info(request: Request) -> JSONResponse:
    """The tokens at the ends of a text, in vLLM's form, for lm-evaluation-harness."""
    model = State.of(request).model
    ends = {"bos_token": model.tokenizer.bos_token_id, "eos_token": model.tokenizer.eos_token_id}
    found = {name: None if token is None else model.tokenizer.decode([token]) for name, token in ends.items()}
    return JSONResponse({**found, "model_max_length": model.config.n_ctx})


ROUTES = [
    Route("/health", health),
    Route("/metrics", metrics),
    Route("/v1/models", models),
    Route("/v1/models/{model_id:path}", model),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/tokenizer_info", tokenizer_info),
]
