"""Renders chat templates in a separate process: a template is a program from a model's files.

Run as a script by `rendering`. A line of stdin is a JSON list [template, [variables, ...]]; a line of stdout
answers it: {"texts": [...]} or {"error": "..."}. A template that takes too long ends the process.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

SECONDS = 2.0
MOST_MEMORY = 512 << 20
MOST_CHARACTERS = 1 << 22
# Variables that transformers passes to templates beside bos_token and eos_token, and gpt2c lacks.
UNKNOWN = {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "additional_special_tokens"}


def main() -> None:
    """Answer line by line."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    for line in sys.stdin.buffer:
        template, contexts = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # its signal ends the process in any case
        answer = rendered(template, contexts)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), flush=True)


def rendered(template: str, contexts: list[dict[str, Any]]) -> dict[str, Any]:
    """The texts that a template renders for some variables, or the reason for failure."""
    try:
        program = _compiled(template)
        texts = [program.render(context) for context in contexts]
    except ImportError:
        return {"error": 'it needs jinja2 on the server: pip install "gpt2c[server]"'}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # a template can raise anything
        return {"error": f"{error}"[:500] or type(error).__name__}
    if sum(map(len, texts)) > MOST_CHARACTERS:
        return {"error": "it writes too much"}
    return {"texts": texts}


@lru_cache(maxsize=1)
def _compiled(template: str) -> Any:
    """A template as transformers compiles it."""
    from jinja2 import TemplateError, meta, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what an assistant wrote, for training; renders its content."""

        tags = {"generation"}  # noqa: RUF012 (so jinja2 has it)

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
               sort_keys: bool = False) -> str:  # fmt: skip
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    names = UNKNOWN & meta.find_undeclared_variables(environment.parse(template))
    if names:
        raise TemplateError(f"it uses {', '.join(sorted(names))}, which gpt2c does not have")
    return environment.from_string(template)


if __name__ == "__main__":
    main()
