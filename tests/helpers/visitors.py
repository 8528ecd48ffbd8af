"""Clients on asyncio that read answers strictly (by h11), and a server in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import h11

from .any_requests import MARK, http
from .command_line import command, environment
from .gates import Failure, require

__all__ = ["Answer", "Process", "Visitor", "ask", "checked"]

PATIENCE = 60  # seconds; what takes longer hangs
LINE = re.compile(r"\S+ .*? \d{3} \d+\.\d{3} s \d+ tokens|.*listening on http://127\.0\.0\.1:(\d+)")
LATE = 3  # seconds, after which a 408 may be right
KINDS = {429: "rate_limit_error"}


class Answer(NamedTuple):
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Visitor:
    """A connection to a server: an async context manager that ends it at once."""

    def __init__(self, port: int, buffer: int | None = None) -> None:
        self.port, self.socket = port, socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer is not None:  # of what the system keeps unread
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.protocol: Any = None
        self.left = b""  # the beginning of the next answer

    async def __aenter__(self) -> Visitor:
        try:
            await self.loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        except BaseException:
            self.socket.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        """Send all of it, or as much as the server takes before it closes the connection."""
        with contextlib.suppress(ConnectionError):
            await self.loop.sock_sendall(self.socket, data)

    async def read(self, most: int = 1 << 16) -> bytes:
        """The next bytes; none at the end."""
        return await self.loop.sock_recv(self.socket, most)

    def is_served(self) -> bool:
        """Whether the server keeps its end of the connection open (by Linux's table of connections)."""
        ends = f":{self.port:04X} 0100007F:{self.socket.getsockname()[1]:04X} 01 "  # 01: established
        return ends in Path("/proc/net/tcp").read_text()

    def reset(self) -> None:
        """Leave without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def answer(self, method: str | None = "GET", *, pause: float = 0) -> Answer | None:
        """The next response; None at the end of the connection. It must be valid HTTP.

        ``pause``: seconds between small reads.
        """
        if self.protocol is None:
            self.protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
            self.protocol.send(h11.Request(method=method or "GET", target="/", headers=[("Host", "a")]))
            self.protocol.send(h11.EndOfMessage())
            if self.left:
                self.protocol.receive_data(self.left)
        status, headers, body, begun = 0, {}, bytearray(), bool(self.left)
        try:
            while True:
                event = self.protocol.next_event()
                if event is h11.NEED_DATA:
                    data = await self.read(64 if pause else 1 << 16)
                    if pause:
                        await asyncio.sleep(pause)
                    if not (data or begun):
                        return None
                    begun = True
                    self.protocol.receive_data(data)
                elif isinstance(event, h11.Response):
                    status, begun = event.status_code, True
                    headers = {name.decode(): text.decode("latin-1") for name, text in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif isinstance(event, h11.ConnectionClosed):
                    return None
        except h11.RemoteProtocolError as error:
            raise Failure(f"no valid HTTP: {error}") from None
        self.left, _ = self.protocol.trailing_data
        self.protocol = None
        return Answer(status, headers, bytes(body))


async def ask(port: int, sent: bytes, method: str | None = "POST") -> Answer | None:
    """The answer to a request on a connection of its own, if any."""
    for _ in range(5):
        begun = time.monotonic()
        async with asyncio.timeout(PATIENCE), Visitor(port) as visitor:
            await visitor.send(sent)
            seconds = time.monotonic() - begun
            answer = await visitor.answer(method)
            require(not visitor.left, f"more than one answer: {visitor.left[:80]!r}")
        if answer is None or answer.status != 408 or seconds < LATE:
            break  # otherwise the system let this process wait, not the server
    return answer


def checked(answer: Answer, method: str | None = "POST") -> Answer:
    """An answer that is as documented: errors in OpenAI's form, JSON without NaN, whole events."""
    status, headers, body = answer
    kind = headers.get("content-type", "")
    if method == "HEAD" or status == 204:
        require(not body, f"{status} with a body")
    elif status >= 400:
        require(kind == "application/json", f"the error is {kind}: {body[:80]!r}")
        check_error(status, parsed(body))
    elif kind == "application/json":
        require(isinstance(parsed(body), dict), f"the answer is not an object: {body[:80]!r}")
    elif kind.startswith("text/event-stream"):
        *events, done, end = body.split(b"\n\n")
        require((done, end) == (b"data: [DONE]", b""), f"the stream ends with {body[-200:]!r}")
        for event in events:
            require(event.startswith(b"data: "), f"an event is {event[:80]!r}")
            require("choices" in parsed(event[6:]), f"an event is {event[:80]!r}")
    return answer


def check_error(status: int, given: Any) -> None:
    """An error has OpenAI's form."""
    require(isinstance(given, dict) and given.keys() == {"error"}, f"the error is {given}")
    error = given["error"]
    require(error.keys() == {"message", "type", "param", "code"}, f"the error has {sorted(error)}")
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    require(error["type"] == kind, f"the type of {status} is {error['type']}")
    require(isinstance(error["message"], str) and error["message"], f"the message is {error['message']!r}")
    require(len(error["message"]) < 5000, f"the message has {len(error['message'])} characters")
    for name in ("param", "code"):
        require(isinstance(error[name], str | None), f"{name} is {error[name]!r}")


def parsed(data: bytes) -> Any:
    """JSON, which knows no NaN."""

    def refused(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        return json.loads(data, parse_constant=refused)
    except ValueError as error:
        raise Failure(f"no valid JSON: {error}: {data[:80]!r}") from None


class Process:
    """`gpt2c serve` in a process of its own, and what it writes to its log: only lines of requests."""

    def __init__(self) -> None:
        self.port, self.n_lines, self.problems = 0, 0, []
        self.process: Any = None
        self._reading: Any = None

    async def start(self, *arguments: object) -> None:
        """Start it, and wait until it listens."""
        words, pipe = command("serve", "--port", 0, *arguments), asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.DEVNULL, stderr=pipe, env=environment(), start_new_session=True
        )
        line = await asyncio.wait_for(self.process.stderr.readline(), PATIENCE)
        found = LINE.fullmatch(line.decode().rstrip("\n"))
        require(found and found[1], f"the server does not start: {line.decode()}")
        self.port = int(found[1])
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for data in self.process.stderr:
            self.n_lines += 1
            line = data.decode(errors="replace").rstrip("\n")
            if not LINE.fullmatch(line) or MARK in line or not line.isprintable():
                self.problems.append(line)

    def check_log(self) -> None:
        """Raise if anything else is in the log, such as a traceback."""
        problems, self.problems = self.problems, []
        require(not problems, "the log says: " + " / ".join(problems[:20]))

    async def end(self) -> int:
        """SIGTERM, and the status when it has ended."""
        self.process.terminate()
        status = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await self._reading
        return status

    async def kill(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def left(self) -> list[str]:
        """Processes of its session that are still there."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getsid(int(folder.name)) == self.process.pid:
                    found.append(folder.joinpath("cmdline").read_text().replace("\0", " "))
        return found

    async def gauges(self) -> dict[str, float]:
        """The metrics without labels, by name."""
        answer = await ask(self.port, http("GET", "/metrics"), "GET")
        require(answer and answer.status == 200, f"metrics: {answer}")
        lines = answer.body.decode().splitlines()
        pairs = [line.split(" ") for line in lines if not line.startswith("#") and "{" not in line]
        return {name: float(number) for name, number in pairs}

    def sizes(self) -> dict[str, float]:
        """MiB of it and its workers, file descriptors, threads."""
        pid = self.process.pid
        pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        status = [Path(f"/proc/{each}/status").read_text() for each in pids]
        memory = sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in status)
        threads = int(re.search(r"Threads:\s+(\d+)", status[0])[1])
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return {"MiB": memory / 1024, "files": files, "threads": threads}
