"""Requests to every endpoint of a server: valid by its schemas, nearly valid, malformed, and no HTTP at all.

Everything is drawn from a ``random.Random``, so that a seed gives the same requests again. Where a schema
leaves a field open, or allows what would take minutes, `OWN` has its values.
"""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from typing import Any, NamedTuple

from gpt2c.checkpoint import BUNDLED
from gpt2c.server.basics import Detokenize, DetokenizeAsVLLM, Tokenize, TokenizeAsVLLM
from gpt2c.server.chat_schema import ChatRequest
from gpt2c.server.schemas import CompletionRequest, EmbeddingRequest, ScoreRequest, SuggestRequest

__all__ = ["GETS", "MARK", "Sent", "http", "malformed", "nearly_valid", "raw", "valid", "valid_body"]

MARK = "Xyzzy"
"""In many texts, queries and keys: a log must not contain it."""
POSTS = {
    "/v1/completions": [CompletionRequest] * 6,
    "/v1/chat/completions": [ChatRequest] * 3,
    "/v1/embeddings": [EmbeddingRequest],
    "/v1/score": [ScoreRequest],
    "/v1/suggest": [SuggestRequest],
    "/tokenize": [Tokenize, TokenizeAsVLLM],
    "/detokenize": [Detokenize, DetokenizeAsVLLM],
}
GETS = ("/", "/health", "/metrics", "/v1/models", "/v1/models/gpt2c", "/tokenizer_info")
FORMS = [(path, model.model_json_schema()) for path, models in POSTS.items() for model in models]
SAMPLE = (BUNDLED / "sample.txt").read_text()
N_VOCAB = 4096  # a little more than the model has
STRANGE = (
    "",
    " ",
    "\n\n",
    "\0",
    "é",
    "你好",
    "👩‍👧",
    "\u2028",
    "\ufeff",
    "<|endoftext|>",
    "a\u0300" * 9,
    MARK,
)
NUMBERS = (0, -1, 1, 2**31, -(2**31), 2**63, 2**64, 10**28, 1e-300, 1e308, -0.0, 0.5, math.pi)


class Sent(NamedTuple):
    """What a client sends, and how a server may answer it; a ``method`` of None: who knows."""

    data: bytes
    statuses: frozenset[int]
    method: str | None = "POST"


def text(rng: random.Random) -> str:
    """A short text, now and then a strange one or a long one."""
    if rng.random() < 0.15:
        return "".join(rng.choices(STRANGE, k=rng.randint(1, 3)))
    start = rng.randrange(len(SAMPLE))
    end = start + (rng.randint(200, 1500) if rng.random() < 0.05 else rng.randint(1, 60))
    return (MARK if rng.random() < 0.1 else "") + SAMPLE[start:end]


def ids(rng: random.Random) -> list[int]:
    """A few token ids."""
    return [rng.randrange(N_VOCAB) for _ in range(rng.randint(1, 20))]


def prompt(rng: random.Random) -> Any:
    """One text."""
    return ids(rng) if rng.random() < 0.25 else text(rng)


def prompts(rng: random.Random) -> Any:
    """One text or several."""
    return [prompt(rng) for _ in range(rng.randint(1, 4))] if rng.random() < 0.25 else prompt(rng)


def messages(rng: random.Random) -> list[dict[str, Any]]:
    """A dialogue."""
    found: list[dict[str, Any]] = [{"role": "system", "content": text(rng)}] if rng.random() < 0.3 else []
    for turn in range(rng.choice((1, 1, 3))):
        content: Any = text(rng)
        if rng.random() < 0.1:
            content = [{"type": "text", "text": content}]
        found.append({"role": ("user", "assistant")[turn % 2], "content": content})
    return found


def schema(rng: random.Random) -> dict[str, Any]:
    """A JSON schema for texts."""
    known = ({"type": "integer"}, {"enum": ["a", "the"]}, {"type": "no"}, {"type": "array", "maxItems": 2})
    return rng.choice(known)


def few(rng: random.Random) -> int:
    """1, seldom more."""
    return 1 + int(rng.expovariate(1.5))


OWN: dict[str, Any] = {
    "prompt": prompts, "input": prompts, "context": prompt, "negative_prompt": prompt, "messages": messages,
    "token_ids": ids, "tokens": ids, "n": few, "best_of": few, "num_beams": few, "num_beam_groups": few,
    "model": lambda rng: rng.choice(["gpt2c"] * 20 + ["other"]),
    "max_tokens": lambda rng: rng.randint(1, 24), "max_completion_tokens": lambda rng: rng.randint(1, 24),
    "min_tokens": lambda rng: rng.randint(0, 4), "logprobs": lambda rng: rng.randint(0, 5),
    "top_logprobs": lambda rng: rng.randint(0, 5),
    "stop": lambda rng: [text(rng) for _ in range(rng.randint(0, 4))],
    "logit_bias": lambda rng: {str(rng.randrange(N_VOCAB)): rng.uniform(-9, 9) for _ in range(3)},
    "response_format": lambda rng: {"type": "json_schema", "json_schema": {"schema": schema(rng)}},
    "json_schema": schema, "watermarking_config": lambda rng: {"bias": rng.uniform(0, 3)},
    "exponential_decay_length_penalty": lambda rng: [rng.randint(0, 9), rng.uniform(1, 2)],
    "session": lambda rng: str(rng.choice((7, rng.randrange(200)))),
    "user": lambda rng: rng.choice(["", "one", "two", MARK]),
    "repetition_penalty": lambda rng: rng.uniform(0.5, 2), "guidance_scale": lambda rng: rng.uniform(0, 3),
    "presence_penalty": lambda rng: rng.uniform(-2, 2), "frequency_penalty": lambda rng: rng.uniform(-2, 2),
}  # fmt: skip
FLAGS = {"tokens": "ScoreRequest", "logprobs": "ChatRequest"}  # boolean there
COMPLETION = CompletionRequest.model_json_schema()["properties"]


def field(name: str, form: dict[str, Any], rng: random.Random) -> Any:
    """A value of a field."""
    given = form["properties"][name]
    if name in OWN and FLAGS.get(name) != form["title"]:
        kind, text_only = OWN[name], form["title"] in ("TokenizeAsVLLM", "SuggestRequest")
        return (text if name == "prompt" and text_only else kind)(rng)
    if not given.keys() - {"default", "title"}:  # a chat's, checked as a completion's
        given = COMPLETION.get(name, given)
    return value(given, rng)


def value(given: dict[str, Any], rng: random.Random) -> Any:
    """A value that a JSON schema allows."""
    if "anyOf" in given:
        return value(rng.choice(given["anyOf"]), rng)
    if "$ref" in given:
        return {"include_usage": rng.random() < 0.5}
    if "enum" in given:
        return rng.choice(given["enum"])
    kind = given.get("type")
    low = given.get("minimum", given.get("exclusiveMinimum", 0))
    high = given.get("maximum", given.get("exclusiveMaximum", low + 9))
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "integer":
        return rng.choice((low, min(high, low + few(rng)), rng.randint(low, high - 1)))
    if kind == "number":
        return rng.choice((high, low + (high - low) * (1 - rng.random())))
    if kind == "string":
        return text(rng)[: given.get("maxLength")] or "a"
    if kind == "array":
        return [value(given["items"], rng) for _ in range(rng.randint(0, 3))]
    return {} if kind == "object" else None if kind == "null" else junk(rng)


def junk(rng: random.Random, depth: int = 2) -> Any:
    """Any JSON."""
    if depth and rng.random() < 0.3:
        inner = [junk(rng, depth - 1) for _ in range(rng.randint(0, 3))]
        return inner if rng.random() < 0.5 else {text(rng)[:9]: item for item in inner}
    return rng.choice((None, True, False, text(rng), rng.choice(NUMBERS), -rng.choice(NUMBERS)))


def valid_body(rng: random.Random, form: dict[str, Any]) -> dict[str, Any]:
    """A body with a few fields, each of which is valid; some exclude others."""
    names = list(form["properties"].keys() - {"dimensions"} - set(form.get("required", ())))
    names = [*form.get("required", ()), *rng.sample(sorted(names), min(len(names), few(rng) + few(rng)))]
    body = {name: field(name, form, rng) for name in names}
    if "max_completion_tokens" in form["properties"] and "max_completion_tokens" not in body:
        body.setdefault("max_tokens", rng.randint(1, 24))  # otherwise as many as the model has positions
    return body


# ---- messages of HTTP


def http(method: str, target: str, body: bytes = b"", headers: list[bytes] | None = None) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1"), b"Host: 127.0.0.1", *(headers or ())]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def framed(rng: random.Random, path: str, body: bytes, headers: list[bytes]) -> bytes:
    """A request whose body has its length, or comes in chunks."""
    if rng.random() < 0.8:
        return http("POST", path, body, headers)
    cuts = sorted({0, len(body), *(rng.randint(0, len(body)) for _ in range(rng.randint(0, 4)))})
    pieces = [body[a:b] for a, b in pairwise(cuts)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return http("POST", path, b"", [*headers, b"Transfer-Encoding: chunked"]) + chunks


def valid(rng: random.Random) -> Sent:
    """A request that follows its schema."""
    if rng.random() < 0.15:
        path = rng.choice(GETS)
        method = "HEAD" if rng.random() < 0.2 else "GET"
        return Sent(http(method, f"{path}?{MARK}=1"), frozenset({200}), method)
    path, form = rng.choice(FORMS)
    body = json.dumps(valid_body(rng, form), ensure_ascii=rng.random() < 0.5).encode()
    return Sent(framed(rng, path, body, harmless_headers(rng)), frozenset({200, 400, 404}))


def harmless_headers(rng: random.Random) -> list[bytes]:
    """Headers that change nothing."""
    known = (
        b"Content-Type: application/json", b"Content-Type: text/plain; charset=utf-16", b"Content-Type: \xff",
        b"Content-Encoding: gzip", b"Accept: image/*", b"Accept-Encoding: br", b"Expect: 100-continue",
        b"Authorization: Bearer %b" % MARK.encode(), b"Cookie: a=%b" % (b"b" * 3000), b"X-Empty:",
        b"Connection: close", b"Origin: http://127.0.0.1", b"Referer: \xc3\xa9\xff", b"TE: trailers",
        b"Upgrade: websocket", b"X-Forwarded-For: 1.2.3.4", b"X-HTTP-Method-Override: DELETE",
    )  # fmt: skip
    return rng.sample(known, rng.choice((0, 0, 1, 2, 3)))


def nearly_valid(rng: random.Random) -> Sent:
    """A valid request with a few changes of its JSON."""
    path, form = rng.choice(FORMS)
    body = valid_body(rng, form)
    for _ in range(few(rng)):
        name = rng.choice([*body, *form["properties"]])
        change = rng.randrange(5)
        if change == 0:
            body.pop(name, None)
        elif change == 1:
            body[name[:-1] + rng.choice("sx ")] = body.get(name)
        elif change == 2 and name not in ("max_tokens", "n"):
            body[name] = rng.choice(NUMBERS)
        elif change == 3:
            body[name] = [body.get(name)]
        else:
            body[name] = junk(rng)
    whole = json.dumps(body).encode()
    if rng.random() < 0.1:
        whole = whole[:-1] + b", " + json.dumps(rng.choice([*body, "a"])).encode() + b": 1}"
    return Sent(framed(rng, path, whole, harmless_headers(rng)), frozenset({200, 400, 404}))


def malformed(rng: random.Random) -> Sent:
    """A well-formed message with a body that is not JSON, or a path, method or header that does not exist."""
    path, form = rng.choice(FORMS)
    body = json.dumps(valid_body(rng, form)).encode()
    kind = rng.randrange(4)
    if kind == 0:
        body = damaged(rng, body)
        return Sent(framed(rng, path, body, harmless_headers(rng)), frozenset({200, 400, 404, 413}))
    if kind == 1:
        method = rng.choice(("GET", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD", "TRACE", "BREW", "post"))
        return Sent(http(method, path, b"", harmless_headers(rng)), frozenset({404, 405}), method)
    if kind == 2:
        return target(rng)
    return headers(rng, path, body)


def damaged(rng: random.Random, body: bytes) -> bytes:
    """A body that is hardly JSON, or far too much of it."""
    at = rng.randrange(len(body))
    if rng.random() < 0.1:
        return many_mistakes(rng)
    if rng.random() < 0.2:
        return rng.choice((
            b"[" * 90_000, b'{"a":' * 90_000, b'{"text": "%s"}' % (b"a" * (1 << 20)),
            b'{"a": %s}' % (b"9" * 5000), rng.randbytes(rng.randint(1, 3000)),
        ))  # fmt: skip
    return rng.choice((
        body[:at], body[:at] + rng.randbytes(3) + body[at:], body[:at] + b"NaN" + body[at:], b"",
        b"\xef\xbb\xbf" + body, body.replace(b'"', b"'"), body.replace(b': "', b': "\\ud800', 1),
        body.decode().encode("utf-16"),
    ))  # fmt: skip


def many_mistakes(rng: random.Random) -> bytes:
    """A body of nearly the greatest size with mistakes in every item."""
    field = rng.choice(("tokens", "token_ids", "dry_sequence_breakers", "input", "messages", "stop"))
    body = rng.choice((
        {field: [rng.choice((None, 0.5, {}))] * 150_000},
        {f"{n:x}": None for n in range(70_000)},
        {"logit_bias": {f"{n}": "" for n in range(60_000)}},
    ))  # fmt: skip
    return json.dumps(body).encode()


def target(rng: random.Random) -> Sent:
    """A request of a path that hardly exists."""
    known = rng.choice([*GETS, *POSTS])
    path = rng.choice((
        known + "/", known.upper(), "/" + known, known + "%00", known + "/../health", "/..%2f..%2fetc/passwd",
        "/v1/models/" + "%2e%2e/" * 9, "*", "http://127.0.0.1/nothing", "/" + "a" * 3000, "/v1/models/\xff",
        "/%ff%fe", "/" + "".join(rng.choices("abc/%2.;&=", k=20)), known + "#part", "/v1/models/" + "x" * 99,
    ))  # fmt: skip
    found = frozenset({200, 400, 404, 405, 431})
    return Sent(http("GET", path, b"", harmless_headers(rng)), found, "GET")


def headers(rng: random.Random, path: str, body: bytes) -> Sent:
    """A request with headers that are refused."""
    some, statuses = rng.choice((
        (b"Origin: https://example.org", {403}), (b"Host: 127.0.0.1", {400}), (b"Bad Name: a", {400}),
        (b"Origin: null", {403}), (b"A: " + b"a" * 17_000, {431}), (b"A\x00: b", {400}),
        (b"\r\n".join(b"H%d: v" % n for n in range(3000)), {431}), (b": empty", {400}),
        (b"Content-Length: %d, 1" % len(body), {400}), (b"Content-Length: -1", {400}),
        (b"Transfer-Encoding: gzip", {501}), (b"Transfer-Encoding: chunked, chunked", {400, 501}),
        (b"Content-Length: 99999999999", {400}), (b"A: b\r\n folded", {200, 400, 404}),
    ))  # fmt: skip
    return Sent(http("POST", path, body, [some]), frozenset(statuses))


WORDS = [
    b"GET", b"POST", b" ", b"/health", b"/tokenize", b"*", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0",
    b"\r\n", b"\n", b"\r\n\r\n", b"Host: 127.0.0.1", b"Host:", b"Content-Length: 2", b"Content-Length: 999",
    b"Transfer-Encoding: chunked", b"Connection: close", b"Expect: 100-continue", b"Upgrade: h2c", b"{}",
    b"0\r\n\r\n", b"2\r\n{}\r\n", b"fffffffffffffffff\r\n", b":", b"\x00", b"\xff", b"\x16\x03\x01\x02",
    b"PRI * HTTP/2.0", b'{"text": "x"}', b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\n",
]  # fmt: skip


def raw(rng: random.Random) -> Sent:
    """Bytes that are hardly HTTP, but look like it."""
    if rng.random() < 0.3:
        sent = bytearray(valid(rng).data.replace(b"HEAD", b"GET").replace(MARK.encode(), b"x"))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(sent), 200))
            sent[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        data = bytes(sent)
    else:
        parts = [
            rng.choice(WORDS) if rng.random() < 0.9 else rng.randbytes(9) for _ in range(rng.randint(1, 20))
        ]
        data = b"".join(parts)
    return Sent(data, frozenset({200, 400, 403, 404, 405, 408, 413, 431, 501, 503}), None)
