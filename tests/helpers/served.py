"""A real server in a thread, and raw bytes sent to it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.client import HTTPResponse

from gpt2c.server.serving import bind, make_server
from gpt2c.server.state import Settings

TIMEOUT = 30


@contextlib.contextmanager
def served(model, **settings):
    """Serve a model; gives the server, whose ``port`` is free to use."""
    ready = threading.Event()
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        server = make_server(model, Settings(port=port, **settings), ready.set)
        server.port = port
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        assert ready.wait(TIMEOUT)
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def connect(server):
    connection = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Answer:
    """One response, read from a connection."""

    def __init__(self, connection, method="GET"):
        response = HTTPResponse(connection, method=method)
        response.begin()
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self):
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self):
        """What is wrong, in OpenAI's form."""
        assert set(self.json) == {"error"} and set(self.json["error"]) == {"message", "type", "param", "code"}
        return self.json["error"]


def request_bytes(method, path, body=b"", headers=()):
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(server, method, path, body=b"", headers=()):
    """Send one request on a connection of its own; a body that is not bytes is sent as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    with connect(server) as connection:
        connection.sendall(request_bytes(method, path, body, headers))
        return Answer(connection, method)


def send(server, data):
    """Send raw bytes and nothing more; gives all that comes back until the server closes the connection."""
    with connect(server) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        return read_all(connection)


def read_all(connection):
    """What comes until the end of a connection, however it ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            found += piece
    return found


def eventually(holds):
    """Wait until something holds: what a server does after its answer is seen a little later."""
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it still does not hold")
