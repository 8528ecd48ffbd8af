"""GPT-2 behind HTTP, as small as it can be: a WSGI application for gunicorn or any other server.

GET  /health     {"model": …}
POST /generate   {"prompt": text, …}: options of GPT2.generate such as max_new_tokens, temperature, seed
POST /score      {"text": text}

GPT2C_MODEL names the model; give a packed file, so that workers share its memory.
"""

import json
import os

from gpt2c import GPT2, GPT2CError

MOST_BYTES = 1 << 20  # of a request
MOST_TOKENS = 1024  # of an answer
OPTIONS = {"max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed"}

# Without --preload this is done in each worker: no process should be forked from one that has used threads.
model = GPT2.from_pretrained(os.environ.get("GPT2C_MODEL"))


def generate(request: dict) -> dict:
    prompt = _text(request.pop("prompt", ""), "prompt")
    if unknown := sorted(set(request) - OPTIONS):
        raise ValueError(f"unknown options: {', '.join(unknown)}; allowed: {', '.join(sorted(OPTIONS))}")
    n = request.get("max_new_tokens", 20)
    if not isinstance(n, int) or n > MOST_TOKENS:
        raise ValueError(f"max_new_tokens is {n!r}; allowed: up to {MOST_TOKENS}")
    out = model.generate(prompt, **{"max_new_tokens": n, **request})
    return {
        "text": out.text,
        "tokens": len(out.token_ids),
        "finish_reason": out.finish_reason,
        "seed": out.seed,
    }


def score(request: dict) -> dict:
    score = model.score(_text(request.get("text"), "text"))
    return {
        "tokens": len(score.logprobs),
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
    }


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; a text is needed")
    return value


ROUTES = {
    ("GET", "/health"): lambda request: {"model": model.name},
    ("POST", "/generate"): generate,
    ("POST", "/score"): score,
}


def app(environ, start_response):
    """Answer one request, always with JSON."""
    status, answer = _answer(environ)
    body = json.dumps(answer).encode() + b"\n"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _answer(environ) -> tuple[str, dict]:
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
    route = ROUTES.get((method, path))
    if route is None:
        known = ", ".join(" ".join(key) for key in ROUTES)
        return "404 Not Found", {"error": f"there is no {method} {path}; there is: {known}"}
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        if size > MOST_BYTES:
            return "413 Content Too Large", {"error": f"{size} bytes; allowed: {MOST_BYTES}"}
        request = json.loads(environ["wsgi.input"].read(size)) if size else {}
        if not isinstance(request, dict):
            raise ValueError("the request must be a JSON object")
        return "200 OK", route(request)
    except (GPT2CError, TypeError, ValueError) as error:
        return "400 Bad Request", {"error": str(error)}
