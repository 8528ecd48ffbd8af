"""The model that the options of a command ask for."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Literal

from ..model import GPT2
from ..views.ansi import is_terminal

if TYPE_CHECKING:
    from ..bert import BERT

__all__ = ["load_any", "load_bert", "load_draft", "load_model"]


def load_model(arguments: Namespace) -> GPT2:
    """Load the model, and show the progress of a download on a terminal."""
    return GPT2.from_pretrained(arguments.model, **_options(arguments))


def load_bert(arguments: Namespace) -> BERT:
    """The same of a BERT."""
    from ..bert import BERT

    if arguments.model is None:
        raise ValueError(
            "name a BERT with -m: the model that comes with gpt2c is a GPT-2, which has no masks"
        )
    return BERT.from_pretrained(arguments.model, **_options(arguments))


def load_any(arguments: Namespace) -> GPT2 | BERT:
    """The same of a model of either kind."""
    from ..bert import from_pretrained

    return from_pretrained(arguments.model, **_options(arguments))


def _options(arguments: Namespace) -> dict[str, Any]:
    return {
        "dtype": arguments.dtype,
        "backend": arguments.backend,
        "threads": arguments.threads,
        "tokenizer": arguments.tokenizer,
        "adapter": arguments.adapter,
        "revision": arguments.revision,
        "local_files_only": arguments.offline,
        "strict": arguments.strict,
        "progress": is_terminal(sys.stderr),
    }


def load_draft(arguments: Namespace) -> GPT2 | Literal["prompt"] | None:
    """What ``--draft`` names; a model is loaded as the other one is, without its adapter and its revision."""
    if arguments.draft is None or arguments.draft == "prompt":
        return arguments.draft
    return load_model(
        Namespace(**vars(arguments) | {"model": arguments.draft, "adapter": None, "revision": None})
    )
