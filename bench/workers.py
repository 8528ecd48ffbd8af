"""gpt2c serve as one process that batches on all cores, or as processes of one thread each.

    python bench/workers.py [--model FILE] [--dtype int8] [--workers N] [--clients 8] [--requests 32]
                            [--prompt 600] [--tokens 400] [--stream] [--rounds 3] [--json FILE]

Both get the same requests to /v1/completions from --clients clients at once: prompts of random tokens, no two
alike. Processes, by default one for each core, take turns, as behind a proxy. Reported are medians of
alternating rounds: tokens per second in total; seconds from the start of the processes until all answer; and
their peak memory, the sum of their proportional set sizes, in which shared pages count once. Without --model,
GPT-2 124M with random weights.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from serve.clients import Client, Served, Text, gpt2c_command, serving, stream

from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.roofs import median_and_spread
from gpt2c.core.threads import default_threads

SECONDS = 600  # for a request


async def ask(server: Served, number: int, options: argparse.Namespace) -> int:
    """Send one request; return the number of tokens received."""
    body = {
        "prompt": random.Random(number).choices(range(1000), k=options.prompt),
        "max_tokens": options.tokens,
        "ignore_eos": True,
        "temperature": 0.8,
        "seed": number,
    }
    client = Client(server.port)
    if options.stream:
        text = Text(time.perf_counter())
        await stream(client, body | {"stream": True, "stream_options": {"include_usage": True}}, text)
        tokens = text.tokens
    else:
        await client.ask(body)
        tokens = json.loads(await client.rest())["usage"]["completion_tokens"]
    client.close()
    assert tokens == options.tokens, "a text was cut"
    return tokens


async def ask_all(servers: Sequence[Served], options: argparse.Namespace) -> tuple[int, float]:
    """Send all requests; return the number of tokens, and the peak memory meanwhile."""
    numbers = iter(range(options.requests))

    async def ask_in_turn() -> int:
        return sum([await ask(servers[number % len(servers)], number, options) for number in numbers])

    clients = asyncio.gather(*(ask_in_turn() for _ in range(options.clients)))
    # Watched while they work: that is when caches exist.
    most = 0.0
    while not clients.done():
        most = max(most, sum(server.memory for server in servers))
        await asyncio.wait([clients], timeout=0.2)
    return sum(clients.result()), most


def measure(model: str, threads: list[int], options: argparse.Namespace) -> dict:
    """Measure servers with this number of threads each, from their start to the last answer."""
    commands = [gpt2c_command(model, number, "--timeout", SECONDS) for number in threads]
    begin = time.perf_counter()
    with ExitStack() as stack, ThreadPoolExecutor(len(commands)) as pool:
        servers = list(pool.map(lambda command: stack.enter_context(serving(command)), commands))
        ready = time.perf_counter()
        tokens, together = asyncio.run(ask_all(servers, options))
        seconds = time.perf_counter() - ready
    return {"start": ready - begin, "tokens_per_second": tokens / seconds, "together": together}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a packed file instead of random weights")
    parser.add_argument("--dtype", default="int8", help="of random weights")
    parser.add_argument("--workers", type=int, default=default_threads())
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=600, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=400, help="tokens of an answer")
    parser.add_argument("--stream", action="store_true", help="ask for server-sent events")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = {
        "one process": [default_threads()],
        f"{options.workers} processes": [1] * options.workers,
    }
    rounds: dict[str, list[dict]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = os.path.join(folder, "model.gpt2c")
            random_model("124M", dtype=options.dtype).save(model)
        for _ in range(options.rounds):
            for way, threads in ways.items():
                rounds[way].append(measure(model, threads, options))
    found = {
        way: {what: median_and_spread([one[what] for one in done]) for what in done[0]}
        for way, done in rounds.items()
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    how = "streams" if options.stream else "whole answers"
    print(f"{options.requests} requests of {options.clients} clients, {how}: prompts of {options.prompt} "
          f"tokens, continued by {options.tokens}\n")  # fmt: skip
    print("| | threads | tokens/s (from, to) | memory MiB | ready after s |\n|---|---|---|---|---|")
    for way, of in found.items():
        rate, most = of["tokens_per_second"], of["together"]["high"]
        print(f"| {way} | {ways[way][0]} each | {rate['median']:.0f} ({rate['low']:.0f}, {rate['high']:.0f}) "
              f"| {most:.0f} | {of['start']['median']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
