"""Loading the model that the options of a command name."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Literal

from ..checkpoint.bundled import is_encoder_decoder
from ..model import GPT2
from ..views.ansi import is_terminal

if TYPE_CHECKING:
    from ..bert import BERT
    from ..encoder_decoder import EncoderDecoder

__all__ = ["load_any", "load_bert", "load_draft", "load_encoder_decoder", "load_model", "load_writer"]


def load_model(arguments: Namespace) -> GPT2:
    """Load the model, and show the progress of a download on a terminal."""
    return GPT2.from_pretrained(arguments.model, **_options(arguments))


def load_bert(arguments: Namespace) -> BERT:
    """The same for a BERT."""
    from ..bert import BERT

    return BERT.from_pretrained(arguments.model, **_options(arguments))


def load_any(arguments: Namespace) -> GPT2 | BERT:
    """The same for a model of either kind."""
    from ..any_model import from_pretrained

    return from_pretrained(arguments.model, **_options(arguments))


def load_writer(arguments: Namespace) -> GPT2 | EncoderDecoder:
    """The same for a model that generates texts."""
    return load_encoder_decoder(arguments) if is_encoder_decoder(arguments.model) else load_model(arguments)


def load_encoder_decoder(arguments: Namespace) -> EncoderDecoder:
    """The same for an encoder-decoder model."""
    from ..encoder_decoder import EncoderDecoder

    options = _options(arguments)
    if options.pop("adapter"):
        raise ValueError("--adapter is for GPT-2s: gpt2c cannot merge adapters into an encoder-decoder model")
    return EncoderDecoder.from_pretrained(arguments.model, **options)


def _options(arguments: Namespace) -> dict[str, Any]:
    return {
        "dtype": arguments.dtype,
        "backend": arguments.backend,
        "threads": arguments.threads,
        "tokenizer": arguments.tokenizer,
        "adapter": arguments.adapter,
        "revision": arguments.revision,
        "local_files_only": arguments.offline,
        "map": arguments.map,
        "strict": arguments.strict,
        "progress": is_terminal(sys.stderr),
    }


def load_draft(arguments: Namespace) -> GPT2 | Literal["prompt"] | None:
    """The value of ``--draft``; a model is loaded like the main one, without its adapter and revision."""
    if arguments.draft is None or arguments.draft == "prompt":
        return arguments.draft
    return load_model(
        Namespace(**vars(arguments) | {"model": arguments.draft, "adapter": None, "revision": None})
    )
