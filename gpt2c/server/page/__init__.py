"""The page at ``/``: one document to type into, which contacts only its own server."""

from __future__ import annotations

import html
from functools import cache

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from ...views import pages
from ...views.pages.language import ENGLISH, words_of
from ...views.pages.parts import json_text, part, script_of, source_hash
from ..state import State

__all__ = ["ROUTES"]

# The script in the order in which its parts use each other; what the page of an explanation also has.
SHARED = ("language.js", "elements.js", "pieces.js")
SCRIPTS = ("sheet.js", "tokens.js", "page.js")

ALTERNATIVES = 5  # shown for a token


async def page(request: Request) -> HTMLResponse:
    """The page, with the data about the model and the server that it needs."""
    state = State.of(request)
    template, style, script = _parts()
    config, settings = state.model.config, state.settings
    data = {
        "key": bool(settings.api_keys),
        "vocabulary": config.n_vocab,
        "stride": max(1, config.n_ctx // 2),  # texts may be longer than the model's positions
        "top": min(ALTERNATIVES, settings.max_logprobs),
        "words": words_of(ENGLISH),
    }
    document = template.format(
        model=html.escape(state.model_id),
        dtype=html.escape(state.model.dtype),
        style=style,
        script=script,
        data=json_text(data),
    )
    policy = (
        f"default-src 'none'; script-src '{source_hash(script)}'; style-src '{source_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(document, headers=headers)


@cache
def _parts() -> tuple[str, str, str]:
    """The template, the style and the script."""
    shared = pages.__name__
    style = part(shared, "base.css") + "\n" + part(__name__, "page.css")
    pieces = [part(__name__, "talk.js")]
    pieces += [part(shared, name) for name in SHARED] + [part(__name__, name) for name in SCRIPTS]
    return part(__name__, "page.html"), style, script_of(pieces)


ROUTES = [Route("/", page)]
