"""gpt2c serve as one process that batches on all cores, or as processes of one thread each.

    python bench/workers.py [--model FILE] [--dtype int8] [--workers N] [--clients 8] [--requests 32]
                            [--prompt 600] [--tokens 400] [--stream] [--rounds 3] [--json FILE]

Both ways get the same requests to /v1/completions from --clients clients at once: prompts of random tokens,
no two alike. Processes, by default one for each core, take turns, as behind a proxy. Told are medians of
alternating rounds: tokens per second of all together, and seconds from the start of the processes until all
answer; and the most memory that they took together, the sum of their proportional set sizes, in which pages
that several share count once. Without --model, GPT-2 124M with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.load import memory_of
from gpt2c.cli.bench.roofs import median_and_spread
from gpt2c.core.threads import default_threads

SECONDS = 600  # for a request, or a start


@contextlib.contextmanager
def served(model: str, threads: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Servers with so many threads each, once they answer: their process ids and ports."""
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in threads]
        started = []
        for port, number in zip(ports, threads, strict=True):
            command = [sys.executable, "-m", "gpt2c", "serve", "-m", model, "--port", str(port),
                       "--timeout", str(SECONDS), "-t", str(number)]  # fmt: skip
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = stack.enter_context(subprocess.Popen(command, stderr=log))
            stack.callback(process.terminate)
            started.append((process, log))
        for port, (process, log) in zip(ports, started, strict=True):
            wait(port, process, log)
        yield [process.pid for process, _ in started], ports


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait(port: int, process: subprocess.Popen, log: IO[str]) -> None:
    """Return when a server answers."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=SECONDS).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                log.seek(0)
                raise SystemExit(f"a server did not start: {log.read()[-500:]}") from None
            time.sleep(0.01)


def ask(port: int, number: int, options: argparse.Namespace) -> int:
    """One request; the number of tokens that came."""
    body = {
        "prompt": random.Random(number).choices(range(1000), k=options.prompt),
        "max_tokens": options.tokens,
        "ignore_eos": True,
        "temperature": 0.8,
        "seed": number,
    }
    if options.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    url = f"http://127.0.0.1:{port}/v1/completions"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=SECONDS) as answer:
        if options.stream:
            *_, usage, done = (line[len(b"data: ") :] for line in answer if line.startswith(b"data: "))
            assert done.strip() == b"[DONE]"
        else:
            usage = answer.read()
    tokens: int = json.loads(usage)["usage"]["completion_tokens"]
    assert tokens == options.tokens, "a text was cut"
    return tokens


def measure(model: str, threads: list[int], options: argparse.Namespace) -> dict:
    begin = time.perf_counter()
    with served(model, threads) as (pids, ports), ThreadPoolExecutor(options.clients) as pool:
        ready = time.perf_counter()
        answers = [pool.submit(ask, ports[n % len(ports)], n, options) for n in range(options.requests)]
        # Watched while they work: that is when caches exist.
        seen = [memory_of(pids)]
        while not all(answer.done() for answer in answers):
            time.sleep(0.2)
            seen.append(memory_of(pids))
        tokens = sum(answer.result() for answer in answers)
        seconds = time.perf_counter() - ready
    together = max(found["together"] for found in seen)
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
        rate, most = of["tokens_per_second"], of["together"]["high"] / 2**20
        print(f"| {way} | {ways[way][0]} each | {rate['median']:.0f} ({rate['low']:.0f}, {rate['high']:.0f}) "
              f"| {most:.0f} | {of['start']['median']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
