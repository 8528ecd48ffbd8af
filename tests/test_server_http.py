"""The shell of ``gpt2c serve``: a real server, and whatever bytes clients may send it."""

import json
import logging
import re
import socket
import subprocess
import sys
import time
from copy import copy

import pytest
from helpers import toys
from helpers.bodies import IDS, bodies
from helpers.served import Answer, ask, connect, eventually, read_all, request_bytes, send, served
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2c.errors import QueueFullError
from gpt2c.server import http

KEY, OTHER = "sk-first-key", "sk-other-key"
QUICK = {"header_seconds": 0.5, "body_seconds": 0.5, "write_seconds": 0.5, "keep_alive_seconds": 1}
LINES = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def server(bundled):
    with served(bundled) as server:
        yield server


@pytest.fixture(scope="module")
def quick(bundled):
    with served(bundled, **QUICK) as server:
        yield server


@pytest.fixture(scope="module")
def locked(bundled):
    with served(bundled, api_keys=(KEY, OTHER), allow_origins=("https://example.org",)) as server:
        yield server


# ---- endpoints


def test_basic_endpoints(server, bundled):
    assert ask(server, "GET", "/health").json["status"] == "ok"
    listed = ask(server, "GET", "/v1/models").json
    assert listed["object"] == "list" and len(listed["data"]) == 1
    one = listed["data"][0]
    assert one["object"] == "model" and abs(one["created"] - time.time()) < 600
    assert ask(server, "GET", f"/v1/models/{one['id']}").json == one
    missing = ask(server, "GET", "/v1/models/gpt-4/x")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")
    assert "'gpt-4/x'" in missing.error["message"] and one["id"] in missing.error["message"]


def test_tokens(server, bundled):
    text = "The king's ☃ <|endoftext|> three daughters."
    plain = bundled.tokenizer.encode(text)
    assert ask(server, "POST", "/tokenize", {"text": text}).json == {"token_ids": plain, "count": len(plain)}
    special = bundled.tokenizer.encode(text, True)
    assert special != plain
    asked = {"text": text, "special": True}
    assert ask(server, "POST", "/tokenize", asked).json["token_ids"] == special
    assert ask(server, "POST", "/detokenize", {"token_ids": plain}).json == {"text": text}
    assert ask(server, "POST", "/tokenize", {"text": ""}).json == {"token_ids": [], "count": 0}
    assert ask(server, "POST", "/detokenize", {"token_ids": []}).json == {"text": ""}
    for ids in ([4096], [-1], [10**20]):
        assert ask(server, "POST", "/detokenize", {"token_ids": ids}).status == 400


def test_tokens_in_the_form_of_vllm(server, bundled):
    text = "<|endoftext|>The king's ☃"
    special = [0, *bundled.tokenizer.encode("The king's ☃")]
    for asked in ({"add_special_tokens": False}, {"model": "gpt2c"}):
        found = ask(server, "POST", "/tokenize", {"prompt": text, **asked})
        assert found.json == {"tokens": special, "count": len(special), "max_model_len": 512}
    assert ask(server, "POST", "/detokenize", {"tokens": special}).json == {"prompt": text}
    answer = ask(server, "POST", "/tokenize", {"prompt": text, "special": True})
    assert "special is not a field of this request" in answer.error["message"]
    answer = ask(server, "POST", "/detokenize", {"tokens": [4096]})
    assert answer.status == 400 and answer.error["message"].startswith("tokens")
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "model_max_length": 512}
    assert ask(server, "GET", "/tokenizer_info").json == ends


def test_tokens_before_a_text_in_the_form_of_vllm():
    tokenizer = copy(toys.bundled_tokenizer())
    tokenizer.prefix = (7,)
    model, _ = toys.random_gpt2(n_vocab=4096, tokenizer=tokenizer, eos_token_ids=(0,))
    plain = tokenizer.encode("The king")
    with served(model) as server:
        for around, tokens in ((True, [7, *plain]), (False, plain)):
            asked = {"prompt": "The king", "add_special_tokens": around}
            assert ask(server, "POST", "/tokenize", asked).json["tokens"] == tokens


def test_metrics_count(bundled):
    with served(bundled) as server:
        for path in ("/health", "/health", "/v1/models/a", "/v1/models/b", "/x", "/y"):
            ask(server, "GET", path)
        ask(server, "PUT", "/health")
        told = ask(server, "GET", "/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=")
    lines = told.body.decode().splitlines()
    assert 'gpt2c_requests_total{path="/health",status="200"} 2.0' in lines
    assert 'gpt2c_requests_total{path="/health",status="405"} 1.0' in lines
    assert 'gpt2c_requests_total{path="/v1/models/{model_id:path}",status="404"} 2.0' in lines
    assert 'gpt2c_requests_total{path="other",status="404"} 2.0' in lines
    assert {"gpt2c_running 0.0", "gpt2c_waiting 0.0", 'gpt2c_tokens_total{kind="read"} 0.0'} <= {*lines}


# ---- methods and paths


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v2/completions", 404, None),
        ("GET", "/health/", 404, None),
        ("HEAD", "/nothing", 404, None),
        ("OPTIONS", "*", 404, None),
        ("GET", "/%00%ff%0aX", 404, None),
        ("POST", "/health", 405, {"GET", "HEAD"}),
        ("OPTIONS", "/tokenize", 405, {"POST"}),
        ("GET", "/tokenize", 405, {"POST"}),
        ("BREW", "/v1/models", 405, {"GET", "HEAD"}),
    ],
)
def test_unknown_paths_and_methods(server, method, path, status, allow):
    answer = ask(server, method, path)
    assert answer.status == status
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert answer.error["type"] == "invalid_request_error"
    if allow:
        assert set(answer.headers["allow"].split(", ")) == allow


def test_head(server):
    answer = ask(server, "HEAD", "/health")
    assert (answer.status, answer.body) == (200, b"") and int(answer.headers["content-length"]) > 0


# ---- bodies

BODIES = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[1]", "the body is [1]; needed: a JSON object"),
    (b"\xff", "not UTF-8: byte 0 is 0xff"),
    (b'\xef\xbb\xbf{"text": "x"}', "byte order mark"),
    (b'{"text": "x", "text": "y"}', "the key 'text' occurs twice"),
    (b'{"text": NaN}', "NaN"),
    (b'{"text": 1e999}', "1e999"),
    (b'{"text": -Infinity}', "-Infinity"),
    (b'{"text": ' + b"9" * 5000 + b"}", "number 999"),
    (b'{"text": ' + b"[" * 200_000, "nested too deeply"),
    (b'{"text": "\\ud800"}', "surrogate"),
    (b'{"\\udfff": "x"}', "surrogate"),
    (b'{"text": "\xed\xa0\x80"}', "not UTF-8: byte 10 is 0xed"),
    (b"{}", "text is missing"),
    (b'{"text": 7}', "text is 7; it should be a valid string"),
    (b'{"text": "x", "special": 1}', "special is 1; it should be a valid boolean"),
    (b'{"text": "x", "specail": true}', "specail is not a field of this request; did you mean special?"),
    (b'{"text": "x", "x": 1}', "x is not a field of this request; allowed: text, special"),
    (b'{"text": 7, "special": 1}', "string; special is 1"),
]


@pytest.mark.parametrize(("body", "message"), BODIES, ids=range(len(BODIES)))
def test_bad_bodies(server, body, message):
    answer = ask(server, "POST", "/tokenize", body)
    assert answer.status == 400 and message in answer.error["message"]
    assert len(answer.error["message"]) < 300


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/detokenize", {"token_ids": [""] * 200_000}),
        ("/detokenize", {"tokens": [0.5] * 200_000}),
        ("/v1/completions", {"dry_sequence_breakers": [1] * 300_000}),
        ("/v1/completions", {"exponential_decay_length_penalty": [""] * 200_000}),
        ("/v1/completions", {"logit_bias": {f"{n}": "" for n in range(60_000)}}),
        ("/v1/completions", {f"{n:x}": 1 for n in range(80_000)}),
    ],
    ids=["ids", "tokens", "breakers", "penalty", "biases", "fields"],
)
def test_many_mistakes_are_few_sentences(server, monkeypatch, path, body):
    counts = []
    problems = http._problems

    def counted(error, schema):
        counts.append(error.error_count())
        return problems(error, schema)

    monkeypatch.setattr(http, "_problems", counted)
    answer = ask(server, "POST", path, body)
    assert answer.status == 400 and 0 < len(answer.error["message"]) < 5000
    assert counts[0] < 10  # each would take a kilobyte and 20 microseconds, while others wait


LIMITED = """
import resource
from gpt2c.server.basics import Detokenize
from gpt2c.server.http import APIError, checked
fields = {"token_ids": list(range(400_000))}
checked({"token_ids": [1]}, Detokenize)
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 20), size + (2 << 20)))
try:
    checked(fields, Detokenize, 1_000_000)
except APIError as error:
    print(error.status, error.message)
"""


def test_without_memory_to_check_a_body_there_is_an_answer():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "503 the server has not enough memory for this request; try again later\n"


def test_the_wrong_field_is_named(server):
    assert ask(server, "POST", "/tokenize", {"text": "x", "special": 3}).error["param"] == "special"
    assert ask(server, "POST", "/tokenize", b"[]").error["param"] is None


def test_long_bodies(server):
    text = "a " * ((1 << 19) - 100)
    assert ask(server, "POST", "/tokenize", {"text": text}).status == 200
    body = json.dumps({"text": "a" * (1 << 20)}).encode()
    answer = ask(server, "POST", "/tokenize", body)
    assert answer.status == 413 and "1048576" in answer.error["message"]
    with connect(server) as connection:  # refused by its length, before it is sent
        connection.sendall(
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        data = read_all(connection)
    assert statuses(data) == [413] and b"connection: close" in data  # and not 100, which asks for more


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def test_chunked_bodies(server):
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(head + chunked(b'{"te', b'xt": "The ', b'king"}'))
        first = Answer(connection)
        connection.sendall(head + chunked(*[b"x" * (1 << 16)] * 17))
        second = Answer(connection)
    assert first.json == ask(server, "POST", "/tokenize", {"text": "The king"}).json and first.json["count"]
    assert second.status == 413


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 413)])
def test_the_longest_body_and_one_byte_more(server, more, status):
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'{"text": "The king"}'.ljust((1 << 20) + more)
    with connect(server) as connection:
        connection.sendall(
            head + chunked(*[body[at : at + (1 << 16)] for at in range(0, len(body), 1 << 16)])
        )
        assert Answer(connection).status == status


def test_keep_alive_and_pipelining(server):
    one = request_bytes("POST", "/tokenize", b'{"text": "The"}')
    two = request_bytes("POST", "/tokenize", b'{"text": 1}')
    with connect(server) as connection:
        connection.sendall(one + two + one)
        data = b""
        while len(LINES.findall(data)) < 3 or not data.endswith(b"}"):
            data += connection.recv(1 << 16)
        assert LINES.findall(data) == [b"200", b"400", b"200"]
        connection.sendall(request_bytes("GET", "/health"))
        assert Answer(connection).status == 200


def test_an_unread_body_does_not_become_the_next_request(server):
    smuggled = request_bytes("GET", "/metrics")
    last = request_bytes("GET", "/nothing", headers=["Connection: close"])
    data = send(server, request_bytes("GET", "/health", smuggled) + last)
    assert statuses(data) == [200, 404]


# ---- hostile bytes


def statuses(data):
    return [int(status) for status in LINES.findall(data)]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA\x00: b\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
        (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            400,
        ),
        (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nA: " + b"a" * 40_000, 431),
    ],
    ids=range(13),
)
def test_what_is_no_http(server, data, status):
    with connect(server) as connection:
        connection.sendall(data)
        answer = Answer(connection)
        assert answer.status == status and answer.error["message"]
    assert ask(server, "GET", "/health").status == 200


WORDS = (
    b"GET|POST|/tokenize|/health| |\r\n|\r\n\r\n|HTTP/1.1|Host: localhost|Content-Length: 2|"
    b"Content-Length: 999|Transfer-Encoding: chunked|Expect: 100-continue|Upgrade: websocket|"
    b'Connection: upgrade|Connection: close|{}|{"text": "x"}|0\r\n\r\n|2\r\n{}\r\n|:|\x00|\xff'
)
TOKENS = st.sampled_from(WORDS.split(b"|"))
RAW = st.lists(TOKENS | st.binary(max_size=20), max_size=20).map(b"".join)
HEADED = st.builds(
    lambda path, rest: b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + rest,
    st.sampled_from([b"/tokenize", b"/detokenize", b"/health", b"*", b"http://localhost/health"]),
    RAW,
)


@pytest.fixture(scope="module")
def hasty(bundled):
    """A server that soon ends what is incomplete."""
    with served(bundled, header_seconds=0.05, body_seconds=0.05, keep_alive_seconds=0) as server:
        yield server


@given(data=RAW | HEADED)
@example(data=b"")
def test_any_bytes(hasty, data):
    """Whatever is sent, what comes back is 2xx or 4xx (501: an encoding that nobody has), errors in JSON."""
    answers = list(parsed(send(hasty, data)))
    assert answers
    for status, body in answers:
        assert 200 <= status < 300 or 400 <= status < 500 or status in (100, 501)
        if status >= 400 and not data.startswith(b"HEAD"):
            assert json.loads(body)["error"]["message"]


def parsed(data):
    """The responses in bytes, all of which tell their length."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        n = int(length[1]) if length else 0
        yield int(LINES.match(head)[1]), data[:n]
        data = data[n:]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)
ASKED = st.one_of(
    st.tuples(st.sampled_from(["/tokenize", "/detokenize"]), VALUES),
    st.tuples(st.just("/tokenize"), bodies({"special": st.booleans()}, text=st.text())),
    st.tuples(st.just("/tokenize"), bodies({"add_special_tokens": st.booleans()}, prompt=st.text())),
    st.tuples(st.just("/detokenize"), bodies({}, token_ids=IDS)),
    st.tuples(st.just("/detokenize"), bodies({"model": st.text()}, tokens=IDS)),
)


@given(asked=ASKED)
def test_any_json(server, asked):
    path, body = asked
    answer = ask(server, "POST", path, body)
    assert answer.status in (200, 400) and answer.json
    if answer.status == 400:
        assert answer.error["message"]


# ---- time


def test_slow_headers(quick):
    with connect(quick) as silent, connect(quick) as slow, connect(quick) as second:
        second.sendall(request_bytes("GET", "/health"))
        assert Answer(second).status == 200
        for piece in (b"GET /he", b"alth HT", b"TP/1.1\r\n", b"Host: l", b"ocalho", b"st\r\nA: ", b"b"):
            for connection in (slow, second):
                try:
                    connection.sendall(piece)
                except ConnectionError:
                    break
            time.sleep(0.15)
        for connection in (silent, slow, second):
            assert statuses(read_all(connection)) == [408]


def test_slow_bodies(quick):
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    for length in (b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n2\r\n"):
        with connect(quick) as connection:
            connection.sendall(head + length + b"{")
            began = time.monotonic()
            answer = Answer(connection)
            assert answer.status == 408 and "0.5 s" in answer.error["message"]
            assert answer.headers["connection"] == "close"
            assert connection.recv(1) == b""
            assert time.monotonic() - began < 10


def test_a_client_that_does_not_read(quick):
    """Its answers fill what the system keeps; then the connection ends, and the server is free again."""
    many = request_bytes("GET", "/metrics") * 1000
    with connect(quick) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        eventually(lambda: quick.server_state.connections)
        kept = [
            one.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            for one in quick.server_state.connections
        ]
        assert max(kept) <= 2 * (1 << 16)  # Linux doubles what is set
        ended = False
        for _ in range(100):
            try:
                connection.send(many)
            except TimeoutError:
                pass
            except ConnectionError:
                ended = True
                break
            time.sleep(0.1)
        assert ended
    eventually(lambda: not quick.server_state.connections)


def test_too_many_connections(bundled):
    with served(bundled, max_connections=2) as server:
        with connect(server) as one, connect(server) as two:
            for connection in (one, two):
                connection.sendall(request_bytes("GET", "/health"))
                assert Answer(connection).status == 200
            with connect(server) as three:
                refused = Answer(three)
                assert refused.status == 503 and "too many" in refused.error["message"]
        eventually(lambda: ask(server, "GET", "/health").status == 200)


# ---- who may ask


def test_keys(locked):
    assert ask(locked, "GET", "/health").status == 200
    for key in (KEY, OTHER):
        assert ask(locked, "GET", "/v1/models", headers=[f"Authorization: Bearer {key}"]).status == 200
        assert ask(locked, "GET", "/v1/models", headers=[f"authorization: bearer  {key}"]).status == 200
    for path in ("/v1/models", "/metrics", "/nothing", "//health", "/health/x"):
        answer = ask(locked, "GET", path)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for wrong in (
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer é",
    ):
        assert ask(locked, "GET", "/metrics", headers=[f"Authorization: {wrong}"]).status == 401


def test_pages_of_other_sites(server, locked):
    foreign, allowed = ["Origin: https://evil.example"], ["Origin: https://example.org"]
    for one in (server, locked):
        answer = ask(one, "POST", "/tokenize", {"text": "x"}, foreign)
        assert answer.status == 403 and "evil.example" in answer.error["message"]
        assert "access-control-allow-origin" not in answer.headers
    assert ask(server, "POST", "/tokenize", {"text": "x"}, ["Origin: http://localhost"]).status == 200
    preflight = [
        *allowed,
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization",
    ]
    answer = ask(locked, "OPTIONS", "/tokenize", headers=preflight)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert answer.headers["access-control-allow-headers"] == "authorization"
    answer = ask(locked, "POST", "/tokenize", {"text": "x"}, allowed)  # a page can read that it needs a key
    assert answer.status == 401 and answer.headers["access-control-allow-origin"] == "https://example.org"


def test_only_names_of_this_machine(server):
    """A name of another site with this machine's address would open the server to that site's pages."""
    for host, status in [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("127.1.2.3", 200),
                         ("evil.example", 403), ("localhost.evil.example", 403), ("[::1", 403), ("", 403),
                         ("10.0.0.1", 403)]:  # fmt: skip
        with connect(server) as connection:
            connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert Answer(connection).status == status, host


# ---- the log


def test_the_log_has_a_line_for_each_request_and_no_text(server, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gpt2c.server"), "propagate", True)
    with caplog.at_level(logging.INFO, "gpt2c.server"):
        ask(server, "POST", "/tokenize?secret=1", {"text": "a secret"})
        ask(server, "POST", "/tokenize", {"secret": "a secret"})
        ask(server, "GET", "/%1b[31m%0d%0asecond", headers=["Authorization: Bearer secret"])
        eventually(lambda: "second" in caplog.text)
    lines = [record.getMessage() for record in caplog.records]
    assert [re.sub(r"\d\.\d{3} s", "S", line) for line in lines[-3:]] == [
        "POST /tokenize 200 S 0 tokens", "POST /tokenize 400 S 0 tokens",
        "GET /%1b[31m%0d%0asecond 404 S 0 tokens",
    ]  # fmt: skip


def test_a_full_queue_says_when_to_come_back():
    answer = http.error_response(QueueFullError("3 requests are waiting"))
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")


def test_an_unexpected_error_tells_the_client_nothing(bundled, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gpt2c.server"), "propagate", True)

    def fail(*_, **__):
        raise KeyError(prompt)

    prompt = " ".join(["the", "prompt"])

    with served(bundled) as server, caplog.at_level(logging.ERROR, "gpt2c.server"):
        monkeypatch.setattr(server._state, "model", type("Model", (), {"encode_text": fail})())
        answer = ask(server, "POST", "/tokenize", {"text": prompt})
    assert answer.status == 500 and answer.error["type"] == "server_error"
    assert "prompt" not in answer.body.decode()
    assert "KeyError" in caplog.text and "in fail" in caplog.text and prompt not in caplog.text
