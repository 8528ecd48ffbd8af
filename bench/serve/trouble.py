"""Clients that misbehave, and requests of all kinds for a long time."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from time import perf_counter

import numpy as np

from .clients import (
    Client,
    Goals,
    Served,
    gpt2c_command,
    load,
    progress,
    request,
    serving,
    until,
    words,
)

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


def soak(options: argparse.Namespace) -> tuple[list[dict], Goals]:
    """Requests of all kinds for a long time."""
    statuses: Counter[int] = Counter()
    memory: list[float] = []

    async def ask(port: int, number: int) -> None:
        rng, client = random.Random(number), Client(port)
        while True:
            statuses[await client.send(*any_request(rng))] += 1
            pieces = client.pieces()
            if rng.random() < 0.1:
                await anext(pieces)
                client.close()
            else:
                _ = [piece async for piece in pieces]

    async def watch(server: Served) -> None:
        while True:
            await asyncio.sleep(1)
            memory.append(server.memory)

    async def all_of_them(server: Served) -> None:
        end = perf_counter() + 60 * options.soak
        await until(end, server, [watch(server), *(ask(server.port, number) for number in range(8))])

    with serving(gpt2c_command(options.model)) as server:
        asyncio.run(all_of_them(server))
    thirds = [float(np.mean(part)) for part in np.array_split(memory, 3)]
    rows = [
        {"part": name, "MiB": mean}
        for name, mean in zip(("first third", "middle", "last"), thirds, strict=True)
    ]
    more, most = thirds[2] - thirds[1], max(4.0, 0.02 * thirds[1])
    answers = ", ".join(f"{n} of {status}" for status, n in sorted(statuses.items()))
    return rows, [
        (f"memory: {more:+.1f} MiB in the last third; goal: up to {most:.1f}", more <= most),
        (f"answers: {answers}; goal: below 500", max(statuses, default=500) < 500),
    ]


def any_request(rng: random.Random) -> tuple[str, dict | bytes]:
    """A request of any kind, or bytes that are not a request."""
    text, ids = words(rng), request(rng)
    plain = {"prompt": text, "max_tokens": rng.randint(1, 48), "seed": rng.randrange(2**32)}
    kinds = ("tokens", "words", "completions")
    return rng.choice(
        [
            ("/v1/completions", ids),
            ("/v1/completions", plain | {"n": 2, "logprobs": 3, "echo": True}),
            ("/v1/completions", plain | {"stream": True, "stop": ["the", "\n"], "top_p": 0.9}),
            ("/v1/completions", plain | {"num_beams": 3, "seed": None}),
            ("/v1/completions", plain | {"prompt": [text, ids["prompt"]], "frequency_penalty": 0.5}),
            ("/v1/completions", plain | {"prompts": text}),
            ("/v1/embeddings", {"input": [text, words(rng, 1000)]}),
            ("/v1/score", {"input": text, "top": 2, "words": True}),
            ("/v1/suggest", {"prompt": text, "kind": rng.choice(kinds), "session": f"{rng.randrange(100)}"}),
            ("/tokenize", {"text": text}),
            ("/detokenize", {"token_ids": ids["prompt"]}),
            ("/v1/completions", rng.randbytes(rng.randint(1, 2000))),
        ]
    )
