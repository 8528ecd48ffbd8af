"""`gpt2c export`: write a model as a directory in Hugging Face layout, or as a GGUF file."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.bundled import is_encoder_decoder
from ..checkpoint.export import names_gguf
from ..checkpoint.files import is_gguf
from ..core.labels import harmless
from ..pretrained import Pretrained
from .console import note
from .formatting import print_json, size_text
from .loading import load_any, load_encoder_decoder

if TYPE_CHECKING:
    from ..encoder_decoder import EncoderDecoder

__all__ = ["run"]

# The kind of a head -> the class of transformers that loads the model with it.
_CLASSES = {
    None: "AutoModelForCausalLM",
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "choice": "GPT2DoubleHeadsModel",
}


def run(arguments: Namespace) -> None:
    """Write the directory or the file, and print its contents and what loads it."""
    path, dtype = Path(arguments.destination), arguments.dtype
    to_gguf = names_gguf(path)
    # Also reported before the long work.
    if to_gguf and path.exists() and not is_gguf(path):
        raise ValueError(f"{path} exists and is not a GGUF file, so it is not replaced: choose another name")
    if not to_gguf and path.exists() and not (path.is_dir() and not os.listdir(path)):
        raise ValueError(f"{path} exists and is not an empty directory: choose another name")
    if not to_gguf and dtype is not None:
        raise ValueError("--dtype is for a FILE.gguf: a directory always has float32 weights")
    arguments.model, arguments.dtype, arguments.backend = arguments.source, None, "native"
    if is_encoder_decoder(arguments.model):
        if to_gguf:
            raise ValueError("gpt2c writes no GGUF file of an encoder-decoder model: export a directory")
        _write_pair(load_encoder_decoder(arguments), path, arguments.json)
        return
    model = load_any(arguments)
    if to_gguf:
        _write_file(model, path, dtype or "f32", arguments.json)
    else:
        _write_directory(model, path, arguments.json)


def _write_pair(model: EncoderDecoder, directory: Path, as_json: bool) -> None:
    model.export(directory)
    if _print_files(directory, as_json):
        return
    loads = f"from_pretrained({str(directory)!r})"
    print(harmless(f"in Python: transformers.EncoderDecoderModel.{loads}"))
    print(harmless(f"here:      gpt2c generate TEXT -m {shlex.quote(str(directory))}"))


def _write_file(model: Pretrained, path: Path, dtype: str, as_json: bool) -> None:
    rounding = model.export(path, dtype)
    if model.dtype != "float32":
        note(
            f"the weights of {model.name} were already rounded to {model.dtype}, and that loss remains: "
            "export the original model to avoid it"
        )
    size = path.stat().st_size
    if as_json:
        print_json({"file": str(path), "bytes": size, "dtype": dtype, "rounding": rounding}, sys.stdout)
        return
    print(harmless(f"{path}: {size_text(size)}, {dtype}"))
    if rounding:
        print(f"rounding changed the weights by {rounding:.2%} (root mean square)")
    print(harmless(f"in llama.cpp: llama-server -m {shlex.quote(str(path))}"))
    print(harmless(f"here:         gpt2c generate TEXT -m {shlex.quote(str(path))}"))


def _write_directory(model: Pretrained, directory: Path, as_json: bool) -> None:
    model.export(directory)
    if not model.has_tokenizer:
        note(next(remark for remark in reversed(model.notes) if remark.startswith("no tokenizer")))
    if _print_files(directory, as_json):
        return
    loads = f"from_pretrained({str(directory)!r})"
    config = model.config
    usual = "AutoModelForMaskedLM" if config.masked_head else "AutoModel"
    loader = (
        usual if config.is_bert and not config.head else _CLASSES[config.head.kind if config.head else None]
    )
    print(harmless(f"in Python: transformers.{loader}.{loads}"))
    if model.has_tokenizer:
        print(harmless(f"           transformers.AutoTokenizer.{loads}"))
    if config.add_cross_attention:
        print(f"here:      gpt2c.GPT2.{loads}.given(STATES)")
        return
    command = "classify" if config.is_classifier else "fill" if config.masked_head else "generate"
    command = "embed" if config.is_bert and command == "generate" else command
    print(harmless(f"here:      gpt2c {command} TEXT -m {shlex.quote(str(directory))}"))


def _print_files(directory: Path, as_json: bool) -> bool:
    """Print the files of a directory and their sizes, and return whether that was JSON."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    sizes = {path.relative_to(directory).as_posix(): path.stat().st_size for path in paths}
    if as_json:
        print_json({"directory": str(directory), "files": sizes}, sys.stdout)
        return True
    for name, size in sizes.items():
        print(harmless(f"{directory / name}: {size_text(size)}"))
    return False
