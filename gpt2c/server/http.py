"""Shared by all endpoints: errors in OpenAI's form, and reading untrusted JSON bodies.

An endpoint raises errors; `error_response` words them, for all endpoints in one place. A client that does not
read its response is cut off by the connection itself (`serving.py`): an endpoint then finds
``http.disconnect``, as with every client that has disconnected.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ..errors import ContextLengthError, DeadlineError, GPT2CError, QueueFullError, shown
from ..json_values import unique_keys
from ..tokenizer.base import can_reserve
from .state import State

__all__ = ["APIError", "Schema", "api_error", "checked", "error_body", "error_response", "read_json"]

log = logging.getLogger("gpt2c.server")

MOST_UNKNOWN = 3  # named in an error
_PER_BYTE = 16  # of a body; pydantic took 8 for a list of one-digit numbers


class Schema(BaseModel):
    """The body of a request: no field is converted, and none is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


S = TypeVar("S", bound=BaseModel)


class APIError(Exception):
    """An error for the client.

    Parameters
    ----------
    status : int
        The status of HTTP.
    message : str
        What was given, what is allowed, what to do.
    param : str, optional
        The field that is wrong.
    code : str, optional
        A word for programs, such as "context_length_exceeded".
    type : str, optional
        OpenAI's kind of error; the default follows from the status.
    headers : mapping, optional
        More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        kinds = {429: "rate_limit_error"}
        self.type = type or kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})


def api_error(error: BaseException) -> APIError:
    """The error that a client sees for an exception; an unexpected one has no details."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, HTTPException):
        return APIError(error.status_code, f"{error.detail}", headers=error.headers)
    if isinstance(error, QueueFullError):
        return APIError(429, str(error), code="queue_full", headers={"Retry-After": "1"})
    if isinstance(error, DeadlineError):
        return APIError(504, str(error), code="deadline")
    if isinstance(error, ContextLengthError):
        return APIError(400, str(error), code="context_length_exceeded")
    if isinstance(error, (GPT2CError, ValueError, TypeError)):
        return APIError(400, str(error))
    # Without the message, which may quote a prompt.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, where.rstrip())
    return APIError(500, "the server failed to answer; see its log")


def error_body(error: BaseException) -> dict[str, Any]:
    """An exception in OpenAI's form, also for an event of a running stream."""
    told = api_error(error)
    return {"error": {"message": told.message, "type": told.type, "param": told.param, "code": told.code}}


def error_response(error: BaseException) -> JSONResponse:
    """An exception as a response in OpenAI's form."""
    told = api_error(error)
    return JSONResponse(error_body(told), told.status, told.headers)


async def read_json(request: Request, *schemas: type[S]) -> S:
    """The body of a request, checked.

    Parameters
    ----------
    request : Request
    *schemas : type
        The possible forms, distinguished by their first fields; the first one if it has none of these.

    Raises
    ------
    APIError
        The body is too long, came too slowly, is not a JSON object, or does not follow its schema.
    """
    body = await _body(request)
    given = _parsed(body)
    schema = next((one for one in schemas if next(iter(one.model_fields)) in given), schemas[0])
    return checked(given, schema, len(body))


def checked(fields: dict[str, Any], schema: type[S], n_bytes: int = 0) -> S:
    """The fields of a request of ``n_bytes`` by a schema.

    APIError names the wrong ones, of unknown ones the first few.
    """
    if not can_reserve((1 << 20) + _PER_BYTE * n_bytes):  # for pydantic
        message = "the server has not enough memory for this request; try again later"
        raise APIError(503, message, headers={"Retry-After": "1"})
    known = schema.model_fields
    unknown = [name for name in fields if name not in known]
    if len(unknown) > MOST_UNKNOWN:
        fields = {name: value for name, value in fields.items() if name in known}
        fields |= dict.fromkeys(unknown[:MOST_UNKNOWN])
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _problems(error, schema) from None


async def _body(request: Request) -> bytes:
    settings = State.of(request).settings
    most, seconds = settings.max_body, settings.body_seconds
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        _too_long(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    _too_long(most)
    except TimeoutError:
        raise APIError(408, f"the body did not arrive within {seconds:g} s") from None
    except ClientDisconnect:
        raise APIError(400, "the connection ended before the body did") from None
    return bytes(body)


def _too_long(most: int) -> NoReturn:
    raise APIError(413, f"the body is too long; allowed: {most} bytes")


def _parsed(body: bytes) -> dict[str, Any]:
    """A JSON object, or an error of one sentence; Python's reader by itself accepts more than JSON."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise APIError(
            400, f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}"
        ) from None
    if text.startswith("\ufeff"):
        raise APIError(400, "the body starts with a byte order mark; leave it out")
    try:
        value = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_float=_float,
            parse_int=_integer,
            parse_constant=_refused,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise APIError(400, f"the body is not JSON: {error.msg} ({where})") from None
    except UnicodeEncodeError:
        raise APIError(400, "the body has half of a surrogate pair, which is not a character") from None
    except ValueError as error:
        raise APIError(400, str(error)) from None
    except RecursionError:
        raise APIError(400, "the body is nested too deeply") from None
    if not isinstance(value, dict):
        raise APIError(400, f"the body is {shown(value)}; needed: a JSON object")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refused(digits)


def _integer(digits: str) -> int:
    return int(digits) if len(digits) < 30 else _refused(digits)


def _refused(word: str) -> NoReturn:
    raise APIError(
        400, f"the body has the number {shown(word)[1:-1]}; numbers must be finite and of reasonable size"
    )


def _problems(error: ValidationError, schema: type[BaseModel]) -> APIError:
    """One sentence for each field that is wrong."""
    sentences: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        loc = problem["loc"]
        name = shown(loc[0])[1:-1] if loc and isinstance(loc[0], str) else ""
        sentences.setdefault(name, _sentence(name, problem, schema))
    return APIError(400, "; ".join(sentences.values()), param=next(iter(sentences)) or None)


def _sentence(name: str, problem: Any, schema: type[BaseModel]) -> str:
    if problem["type"] == "missing":
        return f"{name} is missing"
    if problem["type"] == "extra_forbidden":
        known = list(schema.model_fields)
        close = get_close_matches(name, known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"allowed: {', '.join(known)}"
        return f"{name} is not a field of this request; {meant}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    wanted = problem["msg"].replace("Input should", "it should", 1)
    return f"{name} is {shown(problem['input'])}; {wanted}"
