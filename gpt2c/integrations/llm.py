"""gpt2c as a model of `llm <https://llm.datasette.io>`_: ``llm -m gpt2c "Once upon a time"``, in its process.

llm finds it by this package's entry point in the group "llm" and imports it at every start, so the engine is
imported only with the first text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import llm
from pydantic import Field

if TYPE_CHECKING:
    from ..model import GPT2

__all__ = ["GPT2Model", "register_models"]


@llm.hookimpl
def register_models(register: Any) -> None:
    """Register the model with llm."""
    register(GPT2Model())


@lru_cache(maxsize=1)
def _load(name: str | None, dtype: str | None) -> GPT2:
    from ..model import GPT2

    return GPT2.from_pretrained(name, dtype=dtype)


class GPT2Model(llm.Model):
    """A GPT-2 that continues the prompt; the option ``model`` replaces the bundled one."""

    model_id = "gpt2c"
    can_stream = True
    supports_conversation = False

    class Options(llm.Options):
        """Options for llm's ``-o``; the defaults are those of ``gpt2c generate``."""

        model: str | None = Field(None, description="a folder, a file or a name, as for gpt2c -m")
        dtype: str | None = Field(None, description="float32, bfloat16, int8 or int4")
        max_tokens: int = Field(60, ge=1, description="maximum number of new tokens")
        temperature: float = Field(0.8, ge=0, description="0 is greedy; higher is more random")
        top_k: int = Field(40, ge=0, description="sample among the most probable tokens; 0: no limit")
        top_p: float = Field(0.95, gt=0, le=1, description="sample among the most probable with this sum")
        min_p: float = Field(0.0, ge=0, le=1, description="minimum probability relative to the greatest")
        repetition_penalty: float = Field(1.0, gt=0, description="above 1: repeat tokens of the text less")
        stop: str | None = Field(None, min_length=1, description="end before this text")
        seed: int | None = Field(None, ge=0, lt=2**64, description="reproduce a text")

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """The continuation, as it is generated."""
        if prompt.system:
            raise llm.ModelError(
                "gpt2c takes no system prompt: GPT-2 continues one text; put it before the prompt"
            )
        options = prompt.options.model_dump()
        model = _load(options.pop("model"), options.pop("dtype"))
        options["max_new_tokens"] = options.pop("max_tokens")
        options["stop"] = options["stop"] or ()
        with model.stream(prompt.prompt or "", **options) as pieces:
            yield from pieces
        found = pieces.result
        response.set_usage(input=len(found.prompt_token_ids), output=len(found.token_ids))
        response.response_json = {"seed": found.seed, "finish_reason": found.finish_reason}
