"""Requests to /v1/chat/completions: messages, and fields of /v1/completions, some renamed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, ValidationInfo, create_model, field_validator

from ..errors import shown
from .schemas import CompletionRequest, TextSchema

__all__ = ["ChatRequest"]

ROLES = ("system", "user", "assistant")
# Fields of a completion that need a prompt, or have another name here.
_NO_CHAT = ("prompt", "suffix", "echo", "best_of", "special", "heal", "json_schema", "negative_prompt")


def _messages(value: Any) -> list[dict[str, str]]:
    """The messages, each with its role and its text."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages is {shown(value)}; allowed: a list of at least one message")
    found = []
    for index, message in enumerate(value):
        name = f"messages[{index}]"
        if not isinstance(message, dict):
            raise ValueError(f'{name} is {shown(message)}; allowed: {{"role": …, "content": …}}')
        if others := message.keys() - {"role", "content"}:
            raise ValueError(f"{name} has {shown(min(others))}; allowed: role and content")
        if message.get("role") not in ROLES:
            raise ValueError(f"{name}.role is {shown(message.get('role'))}; allowed: {', '.join(ROLES)}")
        found.append({"role": message["role"], "content": _content(message.get("content"), name)})
    return found


def _content(value: Any, name: str) -> str:
    """The text of a message; parts are lines of it."""
    if isinstance(value, str):
        return value
    for part in value if isinstance(value, list) and value else [value]:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            allowed = 'a string, or a list of {"type": "text", "text": …}'
            raise ValueError(f"{name}.content has {shown(part)}; allowed: {allowed}")
        if not isinstance(part["text"], str):
            raise ValueError(f"{name}.content has the text {shown(part['text'])}; allowed: a string")
    return "\n".join(part["text"] for part in value)


def _schema_of_format(value: Any) -> dict[str, Any] | None:
    """The JSON schema in a response_format, if any."""
    if value is None or value == {"type": "text"}:
        return None
    asked = (
        value.get("json_schema") if isinstance(value, dict) and value.get("type") == "json_schema" else None
    )
    schema = asked.get("schema") if isinstance(asked, dict) else None
    if not isinstance(schema, dict):
        raise ValueError(
            f'response_format is {shown(value)}; allowed: {{"type": "text"}}, or {{"type": "json_schema", '
            '"json_schema": {"schema": …}}'
        )
    return schema


class _Own(TextSchema):
    """The fields that completions lack or define differently."""

    messages: Annotated[list[dict[str, str]], PlainValidator(_messages)]
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0)
    response_format: Annotated[dict[str, Any] | None, PlainValidator(_schema_of_format)] = None

    @field_validator("max_tokens")
    @classmethod
    def _said_once(cls, given: int, info: ValidationInfo) -> int:
        if info.data.get("max_completion_tokens") is not None:
            raise ValueError("max_tokens goes without max_completion_tokens, its newer name")
        return given

    @field_validator("top_logprobs")
    @classmethod
    def _beside_the_chosen(cls, given: int, info: ValidationInfo) -> int:
        if not info.data.get("logprobs"):
            raise ValueError("top_logprobs goes with logprobs=true only")
        return given

    def completion(self, prompt: list[int], room: int) -> dict[str, Any]:
        """The fields of a CompletionRequest that continues a prompt, with room for ``room`` tokens."""
        shared = {name: getattr(self, name) for name in SHARED}
        if shared["penalty_alpha"]:  # its last token needs a position, too
            room = max(1, room - 1)
        return shared | {
            "user": self.user,
            "prompt": [prompt],
            "max_tokens": self.max_completion_tokens or self.max_tokens or room,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "json_schema": self.response_format,
        }


SHARED = [name for name in CompletionRequest.model_fields if name not in {*_Own.model_fields, *_NO_CHAT}]
_shared: dict[str, Any] = {name: (Any, None) for name in SHARED}
ChatRequest: type[_Own] = create_model("ChatRequest", __base__=_Own, **_shared)
"""Fields that it shares with a CompletionRequest are checked there, see `_Own.completion`."""
