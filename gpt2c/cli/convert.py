"""`gpt2c convert`: write a model into one packed file, and measure the cost of its number format."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.bundled import is_encoder_decoder
from ..checkpoint.packed import packed_path
from ..core.labels import harmless
from ..errors import TokenizerError
from ..model import GPT2
from ..pretrained import Pretrained
from ..scoring.comparison import SAMPLE, compare, windows
from .console import note, read_text
from .formatting import counted, print_json, size_text
from .loading import load_any, load_encoder_decoder, load_model

__all__ = ["run"]


def run(arguments: Namespace) -> None:
    """Write a packed file, and compare it with float32."""
    if packed_path(arguments.source) is not None:
        raise ValueError(f"{arguments.source} is already a packed file: convert the original model")
    if arguments.no_comparison and arguments.text is not None:
        raise ValueError("--text is for the comparison that --no-comparison leaves out: give one of them")
    if os.path.exists(arguments.destination) and packed_path(arguments.destination) is None:
        raise ValueError(
            f"{arguments.destination} exists and is not a packed file, so it is not replaced: choose another "
            "name, or remove it"
        )
    # Read before the long work, in case the name is wrong.
    text = read_text(None, arguments.text or str(SAMPLE)) or ""
    arguments.model, arguments.backend = arguments.source, "native"
    if is_encoder_decoder(arguments.model):
        _convert_parts(arguments)
        return
    model = load_any(arguments)
    if not model.has_tokenizer:
        note(next(remark for remark in reversed(model.notes) if remark.startswith("no tokenizer")))
    model.save(arguments.destination)
    size = os.stat(arguments.destination).st_size
    told: dict[str, Any] = {"file": arguments.destination, "bytes": size, "dtype": model.dtype}
    if not arguments.json:
        print(harmless(f"{arguments.destination}: {size_text(size)}, {model.dtype}"))
    texts = [] if arguments.no_comparison or model.dtype == "float32" else _windows(model, text)
    if texts:
        arguments.dtype = "float32"
        written = GPT2.from_pretrained(arguments.destination, threads=arguments.threads)
        loss, found = compare(texts, load_model(arguments), {model.dtype: written})
        cost = found[model.dtype]
        n = sum(len(ids) - 1 for ids in texts)
        told["comparison"] = {"text": arguments.text, "tokens": n, "float32_loss": loss, **cost}
        if not arguments.json:
            what = harmless(arguments.text or "gpt2c's sample text")
            print(
                f"against float32 on {what} ({counted(n, 'token')}; {loss:.4f} nats each): "
                f"log-loss {cost['delta_percent']:+.3f} %, "
                f"same most probable token {cost['agreement_percent']:.2f} %, "
                f"KL divergence {cost['kl']:.2e} nats"
            )
    if arguments.json:
        print_json(told, sys.stdout)


def _convert_parts(arguments: Namespace) -> None:
    """Write an encoder-decoder model, as a folder of two packed files."""
    model = load_encoder_decoder(arguments)
    model.save(arguments.destination)
    sizes = {path.name: path.stat().st_size for path in sorted(Path(arguments.destination).iterdir())}
    if arguments.json:
        print_json(
            {"directory": arguments.destination, "files": sizes, "dtype": model.decoder.dtype}, sys.stdout
        )
        return
    for name, size in sizes.items():
        print(harmless(f"{Path(arguments.destination) / name}: {size_text(size)}"))


def _windows(model: Pretrained, text: str) -> list[np.ndarray]:
    """The text for the comparison; None, with a note, if there can be none."""
    if model.config.is_bert:
        note("no comparison with float32: a BERT does not continue texts, so it has no log-loss")
    elif model.config.add_cross_attention:
        note("no comparison with float32: the model needs the output of an encoder")
    elif model.config.is_classifier:
        note("no comparison with float32: a classifier has no log-loss")
    elif not model.has_tokenizer:
        note("no comparison with float32: the model has no tokenizer")
    else:
        try:
            return windows(model, text)
        except TokenizerError as error:  # it knows only some characters
            note(f"no comparison with float32: {error}; give a text without others with --text FILE")
    return []
