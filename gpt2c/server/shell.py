"""The layer between the connection and the endpoints: access control, and logging of requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Mapping
from time import perf_counter
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.labels import harmless
from ..errors import shown
from .http import APIError, api_error, error_response
from .state import Settings, State

__all__ = ["Guard", "Shell"]

log = logging.getLogger("gpt2c.server")

OPEN = ("/", "/health")
"""The paths that need no key."""
DISCARDED = 4
"""A body of up to this many times the limit is read and discarded, so that its sender sees the answer."""


class Shell:
    """The outermost layer: it answers every exception, counts every request, and logs it in a line.

    Parameters
    ----------
    app : ASGI application
    state : State
    paths : mapping
        The path that metrics show for each endpoint; others are "other", so that their number is bounded.
    """

    def __init__(self, app: ASGIApp, state: State, paths: Mapping[object, str]) -> None:
        self._app, self._state, self._paths = app, state, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._state)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass
        except (Exception, asyncio.CancelledError) as error:
            told = self._told(error)
            if exchange.status:  # too late for another response: the connection ends
                raise
            await error_response(told)(scope, exchange.receive, exchange.send)
        finally:
            self._tell(scope, exchange)

    def _told(self, error: BaseException) -> APIError:
        # The scheduler then accepts nothing, and cancels waiting requests.
        if self._state.ending and not isinstance(error, APIError):
            return APIError(503, "the server is being shut down", headers={"Retry-After": "10"})
        return api_error(error)

    def _tell(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = perf_counter() - exchange.began
        path = self._paths.get(scope.get("endpoint"), "other")
        # nginx's status for a client that disconnects before the answer.
        status = exchange.status or 499
        metrics = self._state.metrics
        metrics.requests.labels(path, str(status)).inc()
        metrics.seconds.labels(path).observe(seconds)
        tokens = scope.get("gpt2c.tokens", 0)
        target = scope.get("raw_path", b"").decode("latin-1")[:200]
        log.info("%s", harmless(f"{scope['method']} {target} {status} {seconds:.3f} s {tokens} tokens"))


class _Exchange:
    """One request and its response: the parts read and sent, and when."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, state: State) -> None:
        self._scope, self._receive, self._send, self._state = scope, receive, send, state
        self.began = self._last = perf_counter()
        self.status = 0
        """Status of the response; 0 until it starts."""
        self._asked = self._complete = self._events = False

    async def receive(self) -> Message:
        self._asked = True
        message = await self._receive()
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(self._scope.get("gpt2c.headers", {}))
            if not self._complete:
                await self._discard()
            if not self._complete:
                headers["connection"] = "close"
            self._events = headers.get("content-type", "").startswith("text/event-stream")
            self.status = message["status"]
        elif self._events and message.get("body"):
            now = perf_counter()
            metrics = self._state.metrics
            (metrics.first if self._last == self.began else metrics.between).observe(now - self._last)
            self._last = now
        await self._send(message)

    async def _discard(self) -> None:
        """Read the rest of an unwanted body, for at most a second and up to a limit."""
        headers = Headers(scope=self._scope)
        if "expect" in headers and not self._asked:
            return  # its sender waits for permission to send
        left = DISCARDED * self._state.settings.max_body
        try:
            async with asyncio.timeout(min(1, self._state.settings.body_seconds)):
                while left > 0 and not self._complete:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass


class Guard:
    """Access control: requires a key, and refuses pages of other sites.

    Without keys, the server answers only requests that address it by a name of this machine: otherwise a page
    of another site could point its own name at this machine's address, and read everything.

    Parameters
    ----------
    app : ASGI application
    settings : Settings
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._keys = [_digest(key) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_size(scope)
            if not self._keys:
                self._check_host(headers)
            scope["gpt2c.client"] = (scope["client"] or ("",))[0]
            foreign = self._check_origin(headers, scope)
            if foreign and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight(headers)(scope, receive, send)
                return
            if self._keys and scope["path"] not in OPEN:
                self._authenticate(headers, scope)
        await self._app(scope, receive, send)

    def _check_size(self, scope: Scope) -> None:
        most = self._settings.max_header
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size + len(scope.get("raw_path", b"")) + len(scope["query_string"]) > most:
            raise APIError(431, f"the request line and headers are too long; allowed: {most} bytes")

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "localhost")
        if _host_name(host) not in ("localhost", self._settings.host) and not is_loopback(_host_name(host)):
            raise APIError(
                403,
                f"the server was called {shown(host)}; without --api-key-file it answers to localhost only",
            )

    def _check_origin(self, headers: Headers, scope: Scope) -> bool:
        """Whether an allowed page of another site asks; raises if it is not allowed."""
        origin = headers.get("origin")
        if origin is None or origin.partition("://")[2] == headers.get("host"):
            return False
        if origin not in self._settings.allow_origins:
            raise APIError(
                403, f"pages of {shown(origin)} may not use this server; --allow-origin allows one"
            )
        scope["gpt2c.headers"] = {"access-control-allow-origin": origin, "vary": "Origin"}
        return True

    def _authenticate(self, headers: Headers, scope: Scope) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # All are compared, each in constant time.
        found = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(found):
            said = "the API key is wrong" if scheme else "an API key is missing"
            raise APIError(
                401,
                f"{said}; send one of the server's keys as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope["gpt2c.client"] = f"key {found.index(True)}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by a name that no other machine can use."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """The name in a Host header, without the port, and of an address of IPv6 without the brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _digest(key: str) -> bytes:
    # Of equal length, as comparing keys of different lengths would reveal the length.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _preflight(headers: Headers) -> Response:
    """A browser's preflight request for a page of another site."""
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", ""),
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=allowed)
