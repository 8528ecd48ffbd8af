"""`gpt2c export`: write a model as a directory in Hugging Face layout."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from ..core.labels import harmless
from .console import note
from .formatting import print_json, size_text
from .loading import load_model

__all__ = ["run"]

# The kind of a head -> the class of transformers that loads the model with it.
_CLASSES = {
    None: "AutoModelForCausalLM",
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "choice": "GPT2DoubleHeadsModel",
}


def run(arguments: Namespace) -> None:
    """Write the directory, and tell what is in it and what loads it."""
    directory = Path(arguments.destination)
    if directory.exists() and not (directory.is_dir() and not os.listdir(directory)):
        # Told before the long work, too.
        raise ValueError(f"{directory} is there and is no empty directory: choose another name")
    arguments.model, arguments.dtype, arguments.backend = arguments.source, None, "native"
    model = load_model(arguments)
    model.export(directory)
    if not model.has_tokenizer:
        note(next(remark for remark in reversed(model.notes) if remark.startswith("no tokenizer")))
    sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    if arguments.json:
        print_json({"directory": str(directory), "files": sizes}, sys.stdout)
        return
    for name, size in sizes.items():
        print(harmless(f"{directory / name}: {size_text(size)}"))
    loads = f"from_pretrained({str(directory)!r})"
    head = model.config.head
    print(harmless(f"in Python: transformers.{_CLASSES[head.kind if head else None]}.{loads}"))
    if model.has_tokenizer:
        print(harmless(f"           transformers.AutoTokenizer.{loads}"))
    command = "classify" if model.config.is_classifier else "generate"
    print(harmless(f"here:      gpt2c {command} TEXT -m {shlex.quote(str(directory))}"))
