"""``gpt2c serve`` as a command: how it starts, ends, and what it refuses."""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path

import pytest
from helpers.command_line import command, environment, run
from helpers.served import Answer, ask, connect, eventually, read_all, request_bytes, served

KEY, OTHER = "sk-first-key", "sk-other-key"


@contextlib.contextmanager
def start(*arguments, port=0, **variables):
    """The command, once it listens, with its port; it is killed at the end."""
    words, pipe = command("serve", "--port", port, *arguments), subprocess.PIPE
    with subprocess.Popen(
        words, stderr=pipe, stdout=pipe, text=True, env=environment(**variables)
    ) as process:
        try:
            line = process.stderr.readline()
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
            assert found, line + process.stderr.read()
            process.port = int(found[1])
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(number, status):
    with start() as process, connect(process) as idle:
        assert ask(process, "GET", "/health").status == 200
        process.send_signal(number)
        assert process.wait(30) == status
        assert idle.recv(1) == b""
        assert process.stdout.read() == ""
        assert process.stderr.read().splitlines()[0].startswith("GET /health 200 ")


def test_what_has_begun_is_finished(tmp_path):
    """A request whose body is still on its way when the signal comes gets its answer."""
    with start() as process, connect(process) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{")
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            connect(process)
        connection.sendall(b'"text": "The"}')
        assert Answer(connection).status == 200
        assert process.wait(30) == 0


def events(data):
    """What a stream of events said: each event is whole, and nothing is between them."""
    pieces = data.split(b"\n\n")
    assert pieces[-1] == b"" and all(piece.startswith(b"data: ") for piece in pieces[:-1]), data
    return [piece.removeprefix(b"data: ") for piece in pieces[:-1]]


def streaming(server, n):
    """A connection on which a text of ``n`` tokens has begun to arrive."""
    asked = {"model": "gpt2c", "prompt": "Once", "max_tokens": n, "stream": True, "ignore_eos": True}
    connection = connect(server)
    connection.sendall(request_bytes("POST", "/v1/completions", json.dumps(asked).encode()))
    response = HTTPResponse(connection)
    response.begin()
    assert response.status == 200 and response.read1(6) == b"data: "
    return connection, response


def test_a_text_that_is_streamed_is_finished():
    with start() as process:
        connection, response = streaming(process, 400)
        process.send_signal(signal.SIGTERM)
        with connection:
            *texts, last = events(b"data: " + response.read())
        assert last == b"[DONE]"
        choices = [choice for text in texts for choice in json.loads(text)["choices"]]
        assert choices[-1]["finish_reason"] == "length" and len(choices) > 20
        assert process.wait(30) == 0
        assert re.search(r"POST /v1/completions 200 \d+\.\d{3} s 401 tokens", process.stderr.read())


def test_clients_that_leave_streams_get_one_line_of_the_log_each():
    asked = {"prompt": "Once", "max_tokens": 200, "n": 8, "stream": True, "ignore_eos": True}
    with start() as process:
        for n in range(20):
            with connect(process) as connection:
                connection.sendall(request_bytes("POST", "/v1/completions", json.dumps(asked).encode()))
                connection.recv(1)
                time.sleep(n / 400)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        lines = process.stderr.read().splitlines()
    assert len(lines) == 20 and all(line.startswith("POST /v1/completions ") for line in lines), lines


def test_a_text_that_takes_too_long_ends_with_what_it_has(bundled):
    with served(bundled, drain_seconds=0.0) as server:
        connection, response = streaming(server, 500)
        server.should_exit = True
        with connection:
            *texts, last = events(b"data: " + response.read())
    assert last == b"[DONE]"
    choices = [choice for text in texts for choice in json.loads(text)["choices"]]
    assert choices[-1]["finish_reason"] and len(choices) < 490


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", b'{"prompt": "Once"}'), ("/v1/score", b'{"input": "Once upon a time"}')],
)
def test_what_comes_too_late_is_told_so(bundled, path, body):
    with served(bundled) as server, connect(server) as connection:
        whole = request_bytes("POST", path, body)
        connection.sendall(whole[:-1])
        time.sleep(0.2)
        server.should_exit = True
        eventually(lambda: server._state.ending)
        time.sleep(0.2)
        connection.sendall(whole[-1:])
        answer = Answer(connection)
        assert (answer.status, answer.error["type"]) == (503, "server_error")
        assert "shut down" in answer.error["message"] and answer.headers["retry-after"]


def test_metrics_of_a_stream(bundled):
    with served(bundled) as server:
        connection, response = streaming(server, 30)
        with connection:
            n_events = len(events(b"data: " + response.read()))
        eventually(lambda: b'gpt2c_tokens_total{kind="written"} 30.0' in ask(server, "GET", "/metrics").body)
        lines = ask(server, "GET", "/metrics").body.decode().splitlines()
    assert "gpt2c_first_event_seconds_count 1.0" in lines
    assert f"gpt2c_between_events_seconds_count {n_events - 1}.0" in lines
    assert 'gpt2c_tokens_total{kind="read"} 1.0' in lines


def test_a_second_signal_ends_it_at_once():
    with start() as process, connect(process) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{")
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 128 + signal.SIGTERM


def test_a_server_that_was_killed_starts_again(tmp_path):
    """Nothing is in the way of the next one, and no client takes the text that it got for a whole one."""
    asked = {"prompt": "Once", "max_tokens": 20, "seed": 7}
    typed = {"prompt": "The king and the qu", "kind": "words", "session": "7f3"}

    def answers(server):
        choices = ask(server, "POST", "/v1/completions", asked).json["choices"]
        return choices, ask(server, "POST", "/v1/suggest", typed).body

    with start(TMPDIR=str(tmp_path)) as first, contextlib.ExitStack() as connections:
        wanted = answers(first)
        streams = [streaming(first, 500) for _ in range(3)]
        for connection, _ in streams:
            connections.enter_context(connection)
        idle = connections.enter_context(connect(first))
        first.kill()
        assert first.wait(30) == -signal.SIGKILL
        for _, response in streams:
            with pytest.raises((IncompleteRead, ConnectionError)) as cut:
                response.read()
            assert b"[DONE]" not in getattr(cut.value, "partial", b"")
        assert read_all(idle) == b""
        assert not list(tmp_path.iterdir())
        with start(port=first.port) as second:  # the connections to the first are still open on this side
            assert answers(second) == wanted


def test_other_machines_need_a_key(tmp_path):
    refused = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1 and "--api-key-file" in refused.stderr
    keys = tmp_path / "keys"
    for text, message in [("", "has no key"), ("# a comment\n\n", "has no key"), ("a b\n", "has a space")]:
        keys.write_text(text)
        refused = run("serve", "--host", "0.0.0.0", "--api-key-file", keys, "--port", "0")
        assert refused.returncode == 1 and message in refused.stderr
    keys.write_text(f"# ours\n{KEY}\n\n{OTHER}\n")
    with start("--api-key-file", keys) as process:
        assert ask(process, "GET", "/v1/models").status == 401
        assert ask(process, "GET", "/v1/models", headers=[f"Authorization: Bearer {OTHER}"]).status == 200
        process.terminate()
        assert KEY not in (told := process.communicate()[1]) and OTHER not in told


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = run("serve", "--port", taken.getsockname()[1])
    assert refused.returncode == 1 and "in use; choose another --port" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [("--port", "x"), ("--port", "70000"), ("--max-texts", "0"), ("--timeout", "0"), ("--timeout", "nan")],
)
def test_wrong_options(words):
    assert run("serve", *words).returncode == 2


def test_without_the_extra(tmp_path):
    (tmp_path / "starlette.py").write_text("raise ImportError('No module named starlette')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    refused = run("serve", env={"PYTHONPATH": path})
    assert refused.returncode == 1 and 'pip install "gpt2c[server]"' in refused.stderr


def test_nothing_of_it_is_imported_by_other_commands():
    code = (
        "import sys; from gpt2c.cli import main; main(['generate', 'Once', '-n', '1']);"
        "print(sorted({'starlette', 'uvicorn', 'pydantic', 'prometheus_client', 'asyncio', 'gpt2c.server'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [*command()[:1], "-c", code], capture_output=True, text=True, env=environment(), check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
