"""From the messages of a dialogue to the tokens of a prompt, with the model's chat template."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.concurrency import run_in_threadpool

if TYPE_CHECKING:
    from ..core.lm import LoadedModel
    from ..tokenizer.base import Tokenizer

__all__ = ["Dialogue", "Renderer", "prompt_ids"]

_WORKER = Path(__file__).with_name("template_worker.py")


class Dialogue(NamedTuple):
    """Messages as rendered by a template."""

    text: str
    blank: str
    """The same with `stand_in` for every character of a message except white space, which templates trim."""
    stand_in: str


class Renderer:
    """Renders chat templates in another process, which is started when needed.

    A template may run forever or take all memory: then the process ends, and the next call starts
    another.
    """

    def __init__(self) -> None:
        self._lock, self._pipes = asyncio.Lock(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    async def dialogue(self, model: LoadedModel, messages: list[dict[str, str]]) -> Dialogue:
        """The messages, written for the model to answer.

        Raises
        ------
        ValueError
            The template refuses the messages, fails, or needs too much time or memory.
        """
        template, tokenizer = model.chat_template, model.tokenizer
        assert template is not None
        known = template + "".join(message["content"] for message in messages)
        stand_in = next(char for char in map(chr, range(0xE000, 0xF900)) if char not in known)
        hidden = [{**one, "content": re.sub(r"\S", stand_in, one["content"])} for one in messages]
        shared = {**_named_tokens(tokenizer), "tools": None, "documents": None, "add_generation_prompt": True}
        contexts = [{"messages": each, **shared} for each in (messages, hidden)]
        async with self._lock:  # here, so that waiting callers do not hold a thread
            answer = await run_in_threadpool(self._answer, [template, contexts])
        if "error" in answer:
            raise ValueError(f"the model's chat template fails: {answer['error']}")
        text, blank = answer["texts"]
        return Dialogue(text, blank, stand_in)

    def _answer(self, asked: Any) -> dict[str, Any]:
        # A cancelled caller has released the other lock, but not this one: answers match their questions.
        with self._pipes:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(asked).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            if not line:
                self._end()
                return {"error": "it takes too much time or memory"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        """The process; starts it if there is none."""
        if self._process is None:
            # In a separate session, so that Ctrl-C does not end it before the server has finished.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the process."""
        with self._pipes:
            self._end()


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    texts = {index: text for text, index in tokenizer.special_tokens.items()}
    ids = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id}
    return {name: texts[index] for name, index in ids.items() if index in texts}


def prompt_ids(tokenizer: Tokenizer, dialogue: Dialogue) -> list[int]:
    """The tokens of a dialogue: only the template can write special tokens, not messages.

    Raises
    ------
    ValueError
        The template writes nothing; or a message has the text of a special token, and the template changes
        messages, so its origin is ambiguous.
    """
    text, blank, stand_in = dialogue
    if not text:
        raise ValueError("the model's chat template writes nothing for these messages")
    special = sorted(tokenizer.special_tokens, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    own = [*pattern.finditer(blank)]
    found = pattern.findall(text)
    if found == [match[0] for match in own]:
        return tokenizer.encode(text, True)
    if len(text) != len(blank) or any(b not in (a, stand_in) for a, b in zip(text, blank, strict=True)):
        raise ValueError(
            "a message has the text of a special token, which the model's chat template would recognize: "
            f"leave out {', '.join(dict.fromkeys(found))}"
        )
    ids: list[int] = []
    end = 0
    for match in own:
        ids += tokenizer.encode(text[end : match.start()], continued=end > 0)
        ids += tokenizer.encode(match[0], True)
        end = match.end()
    return ids + tokenizer.encode(text[end:], continued=end > 0)
