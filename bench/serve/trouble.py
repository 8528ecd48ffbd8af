"""Clients that misbehave."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from time import perf_counter

from .clients import Client, Goals, gpt2c_command, load, progress, request, serving

LEAVING, SLOW = 200, 200


def faults(options: argparse.Namespace) -> tuple[list[dict], Goals]:
    """Eight well-behaved clients alone and beside others."""
    seen: Counter[str] = Counter()

    async def bad_ones(port: int, begin: float, end: float) -> None:
        async def one(number: int, what: Callable) -> None:
            rng = random.Random(-number)
            await asyncio.sleep(begin + 0.9 * rng.random() * (end - begin) - perf_counter())
            with contextlib.suppress(OSError, EOFError):  # what a server may do to them
                await what(port, rng, seen)

        kinds = [leave] * LEAVING + [send_slowly, read_slowly] * (SLOW // 2)
        await asyncio.gather(*(one(number, what) for number, what in enumerate(kinds, 1)))

    rows = []
    with serving(gpt2c_command(options.model)) as server:
        for name, beside in (
            ("alone", None),
            ("beside bad ones", lambda begin, end: bad_ones(server.port, begin, end)),
        ):
            progress(f"8 clients {name}")
            rows.append({"8 clients": name, **asyncio.run(load(server, 8, options.seconds, beside))})
        if server.process.poll() is not None:
            raise SystemExit("the server has ended")
    rows[1] |= seen
    ratio = rows[1]["between tokens p99 ms"] / rows[0]["between tokens p99 ms"]
    return rows, [(f"p99 between tokens: {ratio:.2f} times that alone; goal: 1.5", ratio <= 1.5)]


async def leave(port: int, rng: random.Random, seen: Counter) -> None:
    """Disconnect in the middle of a text."""
    client = Client(port)
    await client.ask(request(rng) | {"user": "leaving"})
    pieces = client.pieces()
    for _ in range(rng.randint(1, 20)):
        await anext(pieces)
    client.close()
    seen["left"] += 1


async def send_slowly(port: int, rng: random.Random, seen: Counter) -> None:
    """Send a request byte by byte, until the server gives up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seen["slow to send"] += 1
    with contextlib.closing(writer):
        for byte in b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Filler: " + b"x" * 1000:
            writer.write(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.25)
                break


async def read_slowly(port: int, rng: random.Random, seen: Counter) -> None:
    """Read an answer byte by byte."""
    client = Client(port)
    await client.connect(limit=64, buffer=2048)
    await client.ask(request(rng) | {"user": "slow"})
    seen["slow to read"] += 1
    while await client.reader.read(1):
        await asyncio.sleep(0.1)
