"""The model that the options of a command ask for."""

from __future__ import annotations

import sys
from argparse import Namespace

from ..model import GPT2
from ..views.ansi import is_terminal

__all__ = ["load_model"]


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
