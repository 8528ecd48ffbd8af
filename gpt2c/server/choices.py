"""The format of OpenAI's text completions: choices, log-probabilities, usage, events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ..json_values import plain

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = [
    "DONE",
    "LogprobsWriter",
    "choice",
    "completion",
    "end",
    "event",
    "joined",
    "json_response",
    "token_text",
    "usage",
]

DONE = b"data: [DONE]\n\n"

Top = Sequence[tuple[int, float]]


def json_response(value: Any) -> Response:
    """An answer. NaN and the infinities, which JSON lacks, are null."""
    return Response(_json(value), media_type="application/json")


def event(value: Any) -> bytes:
    """A complete server-sent event, in ASCII, since some clients treat U+2028 and similar as line ends."""
    return b"data: " + _json(value) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(plain(value), separators=(",", ":")).encode("ascii")


def completion(
    model_id: str, seed: int | None, kind: str = "text_completion", prefix: str = "cmpl"
) -> dict[str, Any]:
    """The first fields of the answer and of every event of a stream."""
    return {
        "id": f"{prefix}-{token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model_id,
        "seed": seed,
    }


def choice(index: int, text: str, logprobs: dict[str, Any] | None, ended_by: str | None) -> dict[str, Any]:
    """A text, or the next part of one."""
    return {"text": text, "index": index, "logprobs": logprobs, **end(ended_by)}


def end(ended_by: str | None) -> dict[str, Any]:
    """The finish reason of a text, if it has ended.

    ``ended_by`` is gpt2c's finish reason; OpenAI has two words for all of them: "stop" if the text ended by
    itself or at a stop string, and "length" if it was cut off.
    """
    reason = None if ended_by is None else "stop" if ended_by in ("eos", "stop") else "length"
    return {"finish_reason": reason, "ended_by": ended_by}


def usage(n_prompt: int, n_completion: int = 0, n_cached: int | None = None) -> dict[str, Any]:
    """The number of tokens read and generated, and of those read that were reused."""
    found: dict[str, Any] = {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }
    if n_cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": n_cached}
    return found


def token_text(model: LoadedModel, token: int) -> str:
    """A token by its text: as ``bytes:\\xe5`` if it is part of a character, by its id if it has no text."""
    data = model.token_bytes(token)
    if not data:
        return f"token_id:{token}"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class LogprobsWriter:
    """OpenAI's ``logprobs`` of a text that comes in parts.

    Parameters
    ----------
    model : LoadedModel
    before : iterable of int
        The tokens before the first.
    offset : int
        The position of the first token, in characters of prompt and text together.
    """

    def __init__(self, model: LoadedModel, before: Iterable[int], offset: int) -> None:
        self._model = model
        self._decoder = model.tokenizer.decoder(before) if model.has_tokenizer else None
        self._offset = offset

    def write(
        self, ids: Sequence[int], logprobs: Sequence[float | None], top: Sequence[Top], n_hidden: int = 0
    ) -> dict[str, list[Any]]:
        """The next tokens, with the most probable ones at their positions (``top`` may be empty).

        The first ``n_hidden`` are not part of the text. A log-probability of None is that of a token that
        nothing precedes.
        """
        texts, offsets = [], []
        for i, token in enumerate(ids):
            texts.append(token_text(self._model, token))
            offsets.append(self._offset)
            piece = "" if self._decoder is None else self._decoder.push(token)
            if i >= n_hidden:
                self._offset += len(piece)
        return {
            "tokens": texts,
            "token_logprobs": list(logprobs),
            "top_logprobs": [
                None if logprob is None else self._alternatives(text, logprob, top[i] if top else ())
                for i, (text, logprob) in enumerate(zip(texts, logprobs, strict=True))
            ],
            "text_offset": offsets,
        }

    def _alternatives(self, text: str, logprob: float, top: Top) -> dict[str, float]:
        """The most probable tokens, the best first, then the chosen one if it is not among them."""
        found: dict[str, float] = {}
        for token, its in top:
            found.setdefault(token_text(self._model, token), its)
        found.setdefault(text, logprob)
        return found


def joined(parts: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Join the log-probabilities of neighbouring parts of a text."""
    return {name: [item for part in parts for item in part[name]] for name in parts[0]}
