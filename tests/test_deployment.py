"""The four-worker example of docs/deployment.md, run as it says there, with the bundled model."""

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpt2c import GPT2

FOLDER = Path(__file__).resolve().parent.parent / "docs/deployment"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("deployment") / "model.gpt2c"
    GPT2.from_pretrained(dtype="int8").save(path)
    return path


@pytest.fixture(scope="module")
def app(packed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2C_MODEL", str(packed))
        patch.syspath_prepend(FOLDER)
        import app
    return app


def call(app, method, path, body=b""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(data)),
               "wsgi.input": io.BytesIO(data)}  # fmt: skip
    seen = []
    answer = b"".join(app.app(environ, lambda status, headers: seen.extend((status, dict(headers)))))
    assert seen[1]["Content-Length"] == str(len(answer))
    return int(seen[0][:3]), json.loads(answer)


def test_answers(app, packed):
    model = GPT2.from_pretrained(packed)
    assert call(app, "GET", "/health") == (200, {"model": str(packed)})
    request = {"prompt": "The king", "max_new_tokens": 9, "temperature": 0.7, "seed": 3}
    status, answer = call(app, "POST", "/generate", request)
    expected = model.generate("The king", max_new_tokens=9, temperature=0.7, seed=3)
    assert (status, answer["text"], answer["seed"], answer["tokens"]) == (200, expected.text, 3, 9)
    status, answer = call(app, "POST", "/score", {"text": "The king had three daughters."})
    assert (status, answer["perplexity"]) == (200, model.score("The king had three daughters.").perplexity)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/", b"", 404, "there is no GET /; there is: GET /health, POST /generate"),
        ("GET", "/generate", b"", 404, "there is no GET /generate"),
        ("POST", "/generate", b"{", 400, "Expecting property name"),
        ("POST", "/generate", b"\xff", 400, "can't decode"),
        ("POST", "/generate", [1], 400, "must be a JSON object"),
        ("POST", "/generate", {"prompt": 7}, 400, "prompt is 7; a text is needed"),
        (
            "POST",
            "/generate",
            {"prompt": "x", "topk": 7},
            400,
            "unknown options: topk; allowed: max_new_tokens",
        ),
        ("POST", "/generate", {"max_new_tokens": 10**6}, 400, "allowed: up to 1024"),
        ("POST", "/generate", {"max_new_tokens": "9"}, 400, "max_new_tokens is '9'"),
        ("POST", "/generate", {"temperature": -1}, 400, "temperature"),
        ("POST", "/generate", {"prompt": "word " * 2000}, 400, "positions"),
        ("POST", "/score", {}, 400, "text is None"),
        ("POST", "/score", b"x" * (2**20 + 1), 413, "allowed: 1048576"),
    ],
)
def test_wrong_requests(app, method, path, body, status, message):
    found, answer = call(app, method, path, body)
    assert found == status and message in answer["error"]


def test_four_workers(packed):
    """What the documentation starts; the memory of four workers with GPT-2 124M: bench/deployment.py."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--workers", "4", "--bind", f"127.0.0.1:{port}", "--chdir",
               str(FOLDER), "app:app"]  # fmt: skip
    environment = os.environ | {"GPT2C_MODEL": str(packed), "OMP_NUM_THREADS": "1"}

    def ask(path, request=None):
        data = None if request is None else json.dumps(request).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=60) as answer:
            return json.load(answer)

    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            for _ in range(600):
                try:
                    ask("/health")
                    break
                except urllib.error.URLError:
                    assert server.poll() is None, server.stderr.read()
                    time.sleep(0.1)
            requests = [
                {"prompt": "Once", "max_new_tokens": 30, "temperature": 0.9, "seed": n} for n in range(12)
            ]
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda request: ask("/generate", request)["text"], requests))
            for _ in range(600):  # a worker may start after others have answered
                children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
                maps = [Path(f"/proc/{child}/maps").read_text().splitlines() for child in children]
                mapped = [
                    any(line.endswith(str(packed)) and " r--" in line for line in lines) for lines in maps
                ]
                if len(mapped) == 4 and all(mapped):
                    break
                time.sleep(0.1)
            assert len(mapped) == 4
            assert all(mapped), "a worker has read the file instead of mapping it"
        finally:
            server.terminate()
    model = GPT2.from_pretrained(packed)
    assert answers == [
        model.generate("Once", max_new_tokens=30, temperature=0.9, seed=n).text for n in range(12)
    ]
