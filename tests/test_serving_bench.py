"""The clients of bench/serving.py read what servers send, and their arithmetic; no speed is asserted."""

import asyncio
import importlib.util
import sys
from itertools import islice
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "serve" / "clients.py"
spec = importlib.util.spec_from_file_location("bench_clients", SCRIPT)
clients = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = clients  # dataclasses look there
spec.loader.exec_module(clients)

BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = [
    b'{"choices": [{"text": "a"}]}',
    b'{"choices": [{"text": "\\n\\nb"}]}',
    b'{"choices": [{"text": ""}]}',  # an end
    b'{"choices": [], "usage": {"completion_tokens": 3}}',
    b"[DONE]",
]


def streamed(size):
    """An answer in chunks of so many bytes, wherever that cuts an event."""
    body = b"".join(b"data: " + event + b"\n\n" for event in EVENTS)
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


async def asked(answers, times, per_connection=100):
    """A text for each of so many requests, from a server that gives these answers."""
    left = iter(answers)

    async def serve(reader, writer):
        for answer in islice(left, per_connection):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = clients.Client(server.sockets[0].getsockname()[1])
        texts = [clients.Text(0.0) for _ in range(times)]
        for text in texts:
            await clients.stream(client, {"prompt": [1]}, text)
    return texts


@pytest.mark.parametrize("per_connection", [1, 3, 100])
@pytest.mark.parametrize("size", [1, 7, 33, 1000])
def test_a_stream_is_read_however_it_is_cut(size, per_connection):
    first, second = asyncio.run(asked([BUSY, BUSY, streamed(size), streamed(size)], 2, per_connection))
    assert (len(first.times), first.tokens, first.refused) == (2, 3, 2)
    assert (len(second.times), second.tokens, second.refused) == (2, 3, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\noops",
        b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\ndata: {"error": "oops"}\n\n',
    ],
)
def test_errors_are_no_texts(answer):
    with pytest.raises(RuntimeError, match="oops"):
        asyncio.run(asked([answer], 1))


def test_only_what_comes_within_the_time_counts():
    ended = clients.Text(9.0, [9.5, 10.5, 11.0, 20.0], tokens=8, refused=1)  # two tokens a piece
    begun = clients.Text(12.0, [15.0])
    found = clients.summary([ended, begun, clients.Text(13.0)], 10.0, 20.0)
    assert found == {
        "tokens/s": 3 * (8 / 4) / 10,
        "first token p50 ms": 3000.0,
        "first token p99 ms": 3000.0,
        "between tokens p50 ms": 750.0,
        "between tokens p99 ms": pytest.approx(995.0),
        "refused": 1,
    }


def test_a_server_that_does_not_start_is_told_of():
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(SystemExit, match="did not start: no such model"), clients.serving(command):
        pass
