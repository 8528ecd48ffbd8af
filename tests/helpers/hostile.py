"""Hostile clients of a server, for the gate `tests/long/server.py`; and requests whose results are known.

A client is a function of the gate and of a ``random.Random``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from itertools import pairwise

from .any_requests import GETS, SAMPLE, http, malformed, nearly_valid, raw, text, valid
from .gates import require
from .visitors import PATIENCE, Visitor, ask, checked

__all__ = ["CASES", "KNOWN", "TEXT", "VARYING", "post"]

HEAD_SECONDS, BODY_SECONDS, UNREAD_SECONDS = 5, 10, 10  # docs/serving.md
SLACK = 5  # seconds; the server looks once a second
VARYING = re.compile(rb'"id":"\w+-\w+"|"created":\d+|"cached_tokens":\d+')
TEXT = SAMPLE[:300]
KNOWN = [
    ("/v1/completions", {"prompt": TEXT, "max_tokens": 20, "seed": 7}),
    ("/v1/completions", {"prompt": TEXT, "max_tokens": 20, "seed": 7, "stream": True, "logprobs": 2}),
    ("/v1/completions", {"prompt": [TEXT[:50], [1, 2, 3]], "max_tokens": 9, "n": 3, "seed": 1, "top_k": 9}),
    ("/v1/completions", {"prompt": TEXT[:80], "max_tokens": 6, "num_beams": 3, "n": 2}),
    ("/v1/completions", {"prompt": "A", "max_tokens": 8, "seed": 2, "json_schema": {"enum": ["king"]}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "A"}], "max_tokens": 9, "seed": 3}),
    ("/v1/embeddings", {"input": [TEXT, "king"], "encoding_format": "base64"}),
    ("/v1/score", {"input": [TEXT], "top": 2, "words": True}),
    ("/v1/suggest", {"prompt": f"{TEXT[:60]}<|endoftext|>A ki", "kind": "words", "session": "7"}),
    ("/tokenize", {"text": TEXT}),
    ("/detokenize", {"token_ids": [*range(300)]}),
    ("/detokenize", {"token_ids": [-1]}),
]  # fmt: skip


def post(path, body):
    return http("POST", path, json.dumps(body).encode())


async def fuzz(gate, rng):
    """One request of any kind."""
    kinds = (valid, nearly_valid, malformed, raw)
    make = rng.choices(kinds, (4, 2, 2, 1))[0]
    sent = make(rng)
    if sent.method is not None:
        gate.judge(await ask(gate.server.port, sent.data, sent.method), sent.statuses, sent.method)
        return
    async with Visitor(gate.server.port) as visitor:  # what is no HTTP may have any number of answers
        await visitor.send(sent.data)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.5):
                while answer := await visitor.answer():
                    gate.judge(answer, sent.statuses)


async def leave(gate, rng):
    """A request whose client goes away."""
    longest = 0.5
    if rng.random() < 0.5:
        words, n = text(rng)[:60], rng.randint(20, 480)
        fields = {"stream": rng.random() < 0.7, "n": rng.randint(1, 8), "ignore_eos": True}
        if rng.random() < 0.3:
            fields, longest = {"num_beams": rng.randint(2, 4)}, 0.1
        data = post("/v1/completions", {"prompt": words, "max_tokens": n, **fields})
    else:
        data = valid(rng).data
    async with Visitor(gate.server.port, 2048) as visitor:
        await visitor.send(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        how = rng.randrange(4)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(rng.random() ** 2 * longest):
                while how == 1 and await visitor.read(rng.randint(1, 2000)):
                    pass
                await asyncio.sleep(1)
        with contextlib.suppress(OSError):
            if how == 2:
                visitor.reset()
            elif how == 3:  # half of it, which the server may take for the whole
                visitor.socket.shutdown(1)
                async with asyncio.timeout(PATIENCE):
                    while await visitor.read():
                        pass


async def never_finished(gate, rng):
    """Headers a byte at a time, or not at all."""
    each = rng.random() < 0.7
    async with asyncio.timeout(HEAD_SECONDS + SLACK), Visitor(gate.server.port) as visitor:

        async def bytewise():
            for byte in http("GET", "/health", headers=[b"X-Filler: " + b"x" * 1000])[:-2]:
                await visitor.send(bytes([byte]))
                await asyncio.sleep(0.1)

        sending = asyncio.create_task(bytewise()) if each else None
        try:
            # A byte that comes after the end resets the connection, and its answer may be lost.
            with contextlib.suppress(ConnectionResetError) if each else contextlib.nullcontext():
                gate.judge(await visitor.answer(), {408})
                require(await visitor.read() == b"", "it goes on after a 408")
        finally:
            if sending:
                sending.cancel()


async def body_that_never_comes(gate, rng):
    """A body announced, of which a part comes, or a byte at a time."""
    path, body = rng.choice(KNOWN)
    data = post(path, body)
    n_body = len(json.dumps(body).encode())
    async with asyncio.timeout(BODY_SECONDS + SLACK), Visitor(gate.server.port) as visitor:
        await visitor.send(data[: -rng.randint(1, n_body)])
        gate.judge(await visitor.answer(), {408})
        require(await visitor.read() == b"", "it goes on after a 408")


async def slow_but_fine(gate, rng):
    """A known request in pieces, within the time that the server gives."""
    number = rng.randrange(len(KNOWN))
    data = post(*KNOWN[number])
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(6))})
    async with asyncio.timeout(PATIENCE), Visitor(gate.server.port) as visitor:
        for a, b in pairwise(cuts):
            await visitor.send(data[a:b])
            await asyncio.sleep(rng.random() * 0.6)
        answer = await visitor.answer(pause=0.001)
        checked(answer)
        gate.same(number, VARYING.sub(b"", answer.body))


async def hardly_reading(gate, rng):
    """Answers that are read too slowly are cut off; an answer read slowly is whole, if not."""
    body = {
        "prompt": TEXT,
        "max_tokens": 60,
        "stream": True,
        "n": 4,
        "logprobs": 20,
        "user": f"{rng.random()}",
    }
    async with Visitor(gate.server.port, 2048) as visitor:
        await visitor.send(post("/v1/completions", body))
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(UNREAD_SECONDS):
                while await visitor.read(rng.randint(1, 64)):
                    await asyncio.sleep(0.05)


async def not_reading(gate, rng):
    """Many requests whose answers nobody reads: the server ends the connection."""
    many = http("GET", rng.choice(GETS[2:3] + GETS[:1])) * 500
    begun = time.monotonic()
    async with Visitor(gate.server.port, 2048) as visitor:
        while True:
            try:
                async with asyncio.timeout(0.5):
                    await visitor.loop.sock_sendall(visitor.socket, many)
            except TimeoutError:
                pass
            except ConnectionError:
                return
            seconds = time.monotonic() - begun
            require(seconds < UNREAD_SECONDS + 2 * SLACK, f"{seconds:.0f} s without reading")
            await asyncio.sleep(0.2)


async def not_reading_a_stream(gate, rng):
    """A long stream that nobody reads: the server ends the connection, though its client cannot know."""
    body = {"prompt": "A", "max_tokens": 300, "stream": True, "n": 8, "logprobs": 20, "ignore_eos": True}
    async with asyncio.timeout(PATIENCE), Visitor(gate.server.port, 2048) as visitor:
        await visitor.send(post("/v1/completions", body))
        while visitor.is_served():
            await asyncio.sleep(0.5)
        found = b""
        with contextlib.suppress(ConnectionError):
            while data := await visitor.read():
                found += data
    require(found.startswith(b"HTTP/1.1 200 ") and b"[DONE]" not in found, "an unread stream was finished")


async def slow(gate, rng):
    """One of the slow ones."""
    weights = {
        **{never_finished: 8, body_that_never_comes: 8, slow_but_fine: 12},
        **{hardly_reading: 4, not_reading: 2, not_reading_a_stream: 1},
    }
    await rng.choices([*weights], weights.values())[0](gate, rng)


async def flood(gate, rng):
    """One of many requests at once, for which the queue has no room."""
    body = {"prompt": text(rng) or "a", "max_tokens": rng.randint(8, 32)}
    if rng.random() < 0.2:
        body["user"] = f"user {rng.randrange(5)}"
    answer = await ask(gate.server.port, post("/v1/completions", body))
    gate.judge(answer, {200, 429})
    if answer.status == 429:
        require(answer.headers.get("retry-after") == "1", f"429 with {answer.headers}")


async def crowd(gate, rng):
    """One of many connections: it may be refused, even before the answer can be read."""
    number = rng.randrange(len(KNOWN))
    with contextlib.suppress(ConnectionError):
        found = await gate.result(number, (200, 503))
        if found is not None:
            gate.same(number, found)


CASES = {"fuzz": fuzz, "leave": leave, "slow": slow, "flood": flood, "crowd": crowd}
