"""Servers as processes, and clients that are light on the cores they share: HTTP/1.1 on asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np

from gpt2c.cli.bench.load import memory_of

THREADS = 2
N_VOCAB = 50256  # without the end of a text
FEWEST, MOST = 40, 64  # new tokens of a text
WARM_UP = 2.0  # seconds before the measurement,
WARM_UP_EACH = 0.06  # and this for each client: their first texts all begin at once
Goals = list[tuple[str, bool]]
"""What was to be reached, with the figure, and whether it was."""


# ---- servers


@dataclass
class Served:
    """A running server."""

    port: int
    process: subprocess.Popen

    @property
    def memory(self) -> float:
        """MiB of it and its workers: the sum of their proportional set sizes."""
        pid = self.process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return memory_of([pid, *map(int, workers)])["together"] / 2**20


@contextlib.contextmanager
def serving(command: Sequence[object], **options) -> Iterator[Served]:
    """Run a server, whose command contains {port}, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(word).replace("{port}", str(port)) for word in command]
    # Into a file: a pipe that nobody reads would fill up.
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(words, stderr=log, stdout=log, **options) as process,
    ):
        try:
            end = time.monotonic() + 300  # some compile first
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.01)
            else:
                process.terminate()
            if process.poll() is not None:
                log.seek(0)
                raise SystemExit(f"{words[0]} did not start: {log.read()[-500:]}")
            yield Served(port, process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def gpt2c_command(model: Path | str, threads: int = THREADS, *more: object) -> list[object]:
    """The command that serves a packed file."""
    return [sys.executable, "-m", "gpt2c", "serve", "-m", model, "-t", threads, "--port", "{port}", *more]


# ---- clients


class Client:
    """One connection, kept from request to request and opened again where the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.headers: dict[bytes, bytes] = {}

    async def connect(self, limit: int = 1 << 16, buffer: int | None = None) -> None:
        """Open the connection; ``limit`` and ``buffer`` bound the unread bytes, here and in the system."""
        opened = socket.socket()
        if buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", self.port))
        self.reader, self.writer = await asyncio.open_connection(sock=opened, limit=limit)

    async def send(self, path: str, body: dict | bytes) -> int:
        """Send a request; the status of its answer, whose body is to be read with `pieces`."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
        message = f"{head}Content-Type: application/json\r\n\r\n".encode() + data
        first = b""
        if self.writer is not None:  # unless the server has closed it meanwhile
            with contextlib.suppress(OSError):
                first = await self._first_line(message)
        if not first:
            self.close()
            await self.connect()
            first = await self._first_line(message)
        if not first:
            raise ConnectionResetError("the server has closed the connection")
        self.headers = {}
        while line := (await self.reader.readline()).strip():
            name, value = line.split(b":", 1)
            self.headers[name.lower()] = value.strip()
        return int(first.split()[1])

    async def _first_line(self, message: bytes) -> bytes:
        self.writer.write(message)
        return await self.reader.readline()

    async def ask(self, body: dict) -> int:
        """Request a text, again while the server is busy; return the number of refusals."""
        refused = 0
        while (status := await self.send("/v1/completions", body)) == 429:
            await self.rest()
            refused += 1
            await asyncio.sleep(float(self.headers[b"retry-after"]))
        if status != 200:
            raise RuntimeError(f"status {status}: {(await self.rest()).decode(errors='replace')}")
        return refused

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body of an answer as it arrives."""
        reader = self.reader
        if self.headers.get(b"transfer-encoding") == b"chunked":
            while size := int(await reader.readline(), 16):
                yield (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif (length := self.headers.get(b"content-length")) is not None:
            yield await reader.readexactly(int(length))
        else:
            yield await reader.read()
            self.close()
        if self.headers.get(b"connection", b"").lower() == b"close":
            self.close()

    async def rest(self) -> bytes:
        """The whole body of an answer."""
        return b"".join([piece async for piece in self.pieces()])

    def close(self) -> None:
        """Close the connection at once, whatever is in progress on it."""
        if self.writer is not None:
            self.writer.transport.abort()
            self.reader = self.writer = None


@dataclass
class Text:
    """What a client received for one request."""

    begin: float
    times: list[float] = field(default_factory=list)
    """When its pieces came, each a token or, where tokens are parts of a character, several."""
    tokens: int = 0
    """How many the server has counted; 0: it has not come to its end."""
    refused: int = 0
    """How often the client was asked to retry later."""


async def stream(client: Client, body: dict, text: Text) -> None:
    """Receive a text piece by piece."""
    text.refused = await client.ask(body)
    left = b""
    async for piece in client.pieces():
        now = perf_counter()
        *events, left = (left + piece).split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: {"):
                continue
            found = json.loads(event[6:])
            if "error" in found:
                raise RuntimeError(f"an event of the stream: {found['error']}")
            if found["choices"] and found["choices"][0]["text"]:
                text.times.append(now)
            if found.get("usage"):
                text.tokens = found["usage"]["completion_tokens"]


def request(rng: random.Random) -> dict:
    """A stream of 40 to 64 tokens after a prompt of 30 to 60, which no other request shares."""
    return {
        "prompt": [rng.randrange(N_VOCAB) for _ in range(rng.randint(30, 60))],
        "max_tokens": rng.randint(FEWEST, MOST),
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


async def load(server: Served, clients: int, seconds: float, beside: Callable | None = None) -> dict:
    """The answers to this number of clients, which send one request after another.

    ``beside(begin, end)`` is awaited at the same time; its result is left out.
    """
    begin = perf_counter() + WARM_UP + WARM_UP_EACH * clients
    end = begin + seconds
    texts: list[Text] = []

    async def ask(number: int) -> None:
        rng, client = random.Random(number), Client(server.port)
        while True:
            texts.append(Text(perf_counter()))
            await stream(client, request(rng) | {"user": f"client {number}"}, texts[-1])

    others = [] if beside is None else [beside(begin, end)]
    memory = await until(end, server, [*map(ask, range(clients)), *others])
    return {"clients": clients, **summary(texts, begin, end), "MiB": memory}


async def until(end: float, server: Served, work: Iterable[Coroutine]) -> float:
    """Let all of this go on until a moment; the server's memory then, in MiB."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        await asyncio.sleep(end - perf_counter())
        memory = server.memory
        for task in tasks:
            task.cancel()
    return memory


def summary(texts: Sequence[Text], begin: float, end: float) -> dict:
    """Rates and waits of the pieces that arrived between two moments."""
    ended = [text for text in texts if text.tokens]
    n_pieces = sum(len(text.times) for text in ended)
    per_piece = sum(text.tokens for text in ended) / n_pieces if n_pieces else 1
    pieces = sum(begin <= at < end for text in texts for at in text.times)
    first = [text.times[0] - text.begin for text in texts if text.times and begin <= text.times[0] < end]
    gaps = [b - a for text in texts for a, b in pairwise(text.times) if begin <= b < end]
    return {
        "tokens/s": pieces * per_piece / (end - begin),
        **percentiles("first token", first),
        **percentiles("between tokens", gaps),
        "refused": sum(text.refused for text in texts),
    }


def percentiles(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """The median and the 99th percentile in milliseconds; None if there is nothing."""
    found = (1e3 * np.percentile(seconds, [50, 99])).tolist() if seconds else (None, None)
    return {f"{name} p50 ms".strip(): found[0], f"{name} p99 ms".strip(): found[1]}


def table(rows: Sequence[dict]) -> str:
    """Rows as Markdown."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(shown(row.get(name)) for name in columns)} |" for row in rows]
    return re.sub(r"  +", " ", "\n".join(lines))


def shown(value: object) -> str:
    """A cell: numbers with three significant digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def progress(what: str) -> None:
    """Report on stderr what is being measured."""
    print(f"… {what}", file=sys.stderr, flush=True)
