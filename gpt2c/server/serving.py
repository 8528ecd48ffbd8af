"""Running the application: connections with time limits, and a shutdown that finishes running requests."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import build_app
from .http import APIError, error_body
from .state import Settings, State

if TYPE_CHECKING:
    from ..bert import BERT
    from ..model import GPT2

__all__ = ["bind", "make_server"]

SEND_BUFFER = 1 << 16
"""The system's buffer for a client that does not read; the default is several megabytes."""


class Connection(H11Protocol):
    """A connection whose client must send headers and read answers within the time limits of the settings.

    Parameters
    ----------
    settings : Settings
    *arguments, **named
        uvicorn's arguments of a protocol.
    """

    def __init__(self, settings: Settings, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = settings
        self._head_since: float | None = self.loop.time()
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch a new connection, or refuse it if there are too many."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._watch = self.loop.call_later(self._interval, self._look)
        if len(self.connections) > self._settings.max_connections:
            self._refuse(APIError(503, "the server has too many connections; try again later"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Record when the head of a request starts."""
        if self.conn.their_state is h11.IDLE and self._head_since is None:
            self._head_since = self.loop.time()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP; called when h11 has raised the reason."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", 400)
        # After the colon, h11 quotes the data.
        self._refuse(APIError(status, f"the request is not valid HTTP: {str(error).partition(': ')[0]}"))

    @property
    def _interval(self) -> float:
        return min(self._settings.header_seconds, self._settings.write_seconds) / 5

    def _look(self) -> None:
        """End the connection if its client has used up its time; otherwise check again later."""
        now = self.loop.time()
        unread = self.transport.get_write_buffer_size() > 0
        self._unread_since = (self._unread_since or now) if unread else None
        if self._unread_since is not None and now - self._unread_since >= self._settings.write_seconds:
            self.transport.abort()
            return
        if self._head_since is not None and now - self._head_since >= self._settings.header_seconds:
            seconds = self._settings.header_seconds
            self._refuse(APIError(408, f"the headers of the request did not arrive within {seconds:g} s"))
        self._watch = self.loop.call_later(self._interval, self._look)

    def _refuse(self, error: APIError) -> None:
        """Answer without passing a request to the application, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error_body(error)).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body))),
                       ("connection", "close")]  # fmt: skip
            response = h11.Response(status_code=error.status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """A server that finishes running requests at the first signal, and exits at once at the second.

    Parameters
    ----------
    config : uvicorn.Config
    state : State
    ready : function
        Called once connections are accepted.
    """

    def __init__(self, config: uvicorn.Config, state: State, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._state, self._ready = state, ready
        self.signal: int | None = None
        """The signal that ended the server."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and report it."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no new connections or requests, and wait for the present ones."""
        self._state.ending = True
        seconds = self._state.settings.drain_seconds
        closing = asyncio.get_running_loop().run_in_executor(None, self._close, seconds)
        await super().shutdown(sockets)
        await closing

    def _close(self, seconds: float) -> None:
        self._state.scheduler.close(drain=seconds)
        self._state.renderer.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown, or exit."""
        if self.signal is not None:
            os._exit(128 + sig)
        self.signal = sig
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket on which a server can listen, so that a port in use is noticed before a model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from None
    return bound


def make_server(model: GPT2 | BERT, settings: Settings, ready: Callable[[], None] = lambda: None) -> Server:
    """A server for a model; ``server.run([socket])`` serves until a signal, or ``server.should_exit``."""
    app = build_app(model, settings)
    protocol: Any = partial(Connection, settings)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",  # the application does the logging
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=settings.max_header,
        timeout_keep_alive=int(settings.keep_alive_seconds),
        # The scheduler ends its texts first, so that their last events are still sent.
        timeout_graceful_shutdown=int(settings.drain_seconds) + 2,
    )
    return Server(config, app.state.gpt2c, ready)
