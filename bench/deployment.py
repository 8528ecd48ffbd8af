"""Memory and speed of the four-worker example (docs/deployment.md), with GPT-2 124M of random weights.

    python bench/deployment.py [--model FILE] [--dtype int8] [--workers 4] [--requests 40] [--json FILE]

Starts gunicorn (pip install gunicorn) with docs/deployment/app.py as the Dockerfile does, sends requests from
as many clients as there are workers, and tells the most that all processes took together while they worked:
the sum of their proportional set sizes, in which pages that several share count once. Exit status 1 if that
is more than --limit MiB (1024).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpt2c.cli.bench import random_model
from gpt2c.cli.bench.load import memory_of

APP = Path(__file__).resolve().parent.parent / "docs/deployment"


def ask(port: int, path: str, request: dict | None = None) -> dict:
    data = None if request is None else json.dumps(request).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=120) as answer:
        return json.load(answer)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a packed file instead of random weights")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--limit", type=float, default=1024, help="MiB of all processes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model and str(Path(options.model).resolve())
        if model is None:
            model = os.path.join(folder, "model.gpt2c")
            random_model("124M", dtype=options.dtype).save(model)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--workers", str(options.workers), "--timeout", "120",
                   "--bind", f"127.0.0.1:{port}", "--chdir", str(APP), "app:app"]  # fmt: skip
        environment = os.environ | {
            "GPT2C_MODEL": model,
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        begin = time.perf_counter()
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
            try:
                found = measure(server, port, options)
            finally:
                server.terminate()
    found["first_answer_seconds"] = found["first_answer"] - begin
    del found["first_answer"]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    memory = found["memory"]
    mib = {name: memory[name] / 2**20 for name in ("together", "resident", "private")}
    seconds, rate = found["first_answer_seconds"], found["tokens_per_second"]
    print(f"first answer {seconds:.2f} s after the start of the server; page cache warm")
    print(f"{options.workers} workers, {found['requests']} requests of up to 400 tokens after prompts of 600 "
          f"words: {rate:.0f} tokens/s together")  # fmt: skip
    print(f"memory: {mib['together']:.0f} MiB together ({memory['count']} processes), each at most "
          f"{mib['resident']:.0f} resident and {mib['private']:.0f} private")  # fmt: skip
    return int(mib["together"] > options.limit)


def measure(server: subprocess.Popen, port: int, options: argparse.Namespace) -> dict:
    for attempt in range(600):
        try:
            ask(port, "/health")
            break
        except OSError:
            if server.poll() is not None or attempt == 599:
                raise SystemExit(f"the server did not start: {server.stderr.read()[-500:]}") from None
            time.sleep(0.05)
    first = time.perf_counter()
    words = " the king and the queen" * 120  # most of the context: caches are as large as they get

    def one(number: int) -> int:
        request = {"prompt": words, "max_new_tokens": 400, "temperature": 0.8, "seed": number}
        return ask(port, "/generate", request)["tokens"]

    begin = time.perf_counter()
    with ThreadPoolExecutor(options.workers) as pool:
        # Watched while all of them work: that is when caches exist.
        answers, seen = [pool.submit(one, i) for i in range(options.requests)], []
        while not all(answer.done() for answer in answers):
            workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            seen.append(memory_of([server.pid, *map(int, workers)]))
            time.sleep(0.5)
        tokens = sum(answer.result() for answer in answers)
    seconds = time.perf_counter() - begin
    return {
        "first_answer": first,
        "requests": options.requests,
        "tokens_per_second": tokens / seconds,
        "memory": max(seen, key=lambda found: found["together"]),
    }


if __name__ == "__main__":
    sys.exit(main())
