"""The application: all endpoints behind the shell, around one scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import shown
from ..session.scheduler import Scheduler
from . import basics, chat, completions, page, texts
from .http import APIError, error_response
from .metrics import Metrics
from .shell import Guard, Shell
from .state import Settings, State

if TYPE_CHECKING:
    from ..bert import BERT
    from ..model import GPT2

__all__ = ["build_app"]

ROUTES: list[Route] = [
    *page.ROUTES,
    *basics.ROUTES,
    *completions.ROUTES,
    *chat.ROUTES,
    *texts.ROUTES,
]


def build_app(model: GPT2 | BERT, settings: Settings) -> Starlette:
    """The ASGI application that serves a model; its scheduler is ``app.state.gpt2c.scheduler``."""
    scheduler = Scheduler(
        model, max_texts=settings.max_texts, max_tokens=settings.max_tokens, max_waiting=settings.max_waiting
    )
    state = State(model, scheduler, settings, Metrics(scheduler))
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(Shell, state=state, paths={route.endpoint: route.path for route in ROUTES}),
            Middleware(Guard, settings=settings),
        ],
        exception_handlers={HTTPException: _no_route},
    )
    app.router.redirect_slashes = False
    app.state.gpt2c = state
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """Errors that Starlette itself raises: an unknown path, or an unknown method of a path."""
    assert isinstance(error, HTTPException)
    path, headers = shown(request.url.path)[1:-1], dict(error.headers or {})
    if error.status_code == 404:
        there = ", ".join(route.path.replace(":path", "") for route in ROUTES)
        return error_response(
            APIError(404, f"{path} does not exist; the paths are: {there}", code="unknown_url")
        )
    message = f"{path} takes {headers.get('Allow', 'other methods')}, not {shown(request.method)[1:-1]}"
    return error_response(APIError(error.status_code, message, headers=headers))
