"""The model that the options of a command ask for."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Literal

from ..model import GPT2
from ..views.ansi import is_terminal

__all__ = ["load_draft", "load_model"]


def load_model(arguments: Namespace) -> GPT2:
    """Load the model, and show the progress of a download on a terminal."""
    return GPT2.from_pretrained(
        arguments.model,
        dtype=arguments.dtype,
        backend=arguments.backend,
        threads=arguments.threads,
        tokenizer=arguments.tokenizer,
        adapter=arguments.adapter,
        revision=arguments.revision,
        local_files_only=arguments.offline,
        strict=arguments.strict,
        progress=is_terminal(sys.stderr),
    )


def load_draft(arguments: Namespace) -> GPT2 | Literal["prompt"] | None:
    """What ``--draft`` names; a model is loaded as the other one is, without its adapter and its revision."""
    if arguments.draft is None or arguments.draft == "prompt":
        return arguments.draft
    return load_model(
        Namespace(**vars(arguments) | {"model": arguments.draft, "adapter": None, "revision": None})
    )
