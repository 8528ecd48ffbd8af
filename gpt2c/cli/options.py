"""Groups of options that several commands share."""

from __future__ import annotations

import math
import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _ArgumentGroup, _MutuallyExclusiveGroup

__all__ = [
    "FILES_HELP",
    "Command",
    "edit_option",
    "files_of_texts",
    "max_loss_option",
    "model_options",
    "output_options",
    "special_option",
    "text_or_files",
]


Command = Callable[..., ArgumentParser]
"""Adds a command, by its name, a summary and details, and returns its parser."""

FILES_HELP = (
    "Files are .txt, .jsonl, .ndjson, .json, .csv and .tsv, also with .gz, .bz2, .xz or .zst, and .parquet. "
    "Existing outputs are kept, so the same command resumes, also within a file."
)


def model_options(
    parser: ArgumentParser, *, model: bool = True, auto: bool = False, dtype: bool = True
) -> None:
    """The options of every command that loads a model.

    Without ``model``, for a command with the model as an argument; with ``auto``, for one that can measure
    its dtype; without ``dtype``, for one that needs float32.
    """
    group = parser.add_argument_group("model")
    if model:
        group.add_argument(
            "-m",
            "--model",
            metavar="MODEL",
            help="a directory, a file of weights, a packed file or a name on the Hugging Face hub",
        )
    group.add_argument(
        "--tokenizer",
        metavar="SOURCE",
        help="use a tokenizer other than the model's: a directory, a file (tokenizer.json, vocab.txt, "
        "spiece.model, nanoGPT's meta.pkl, a GGUF file) or a name on the hub",
    )
    group.add_argument(
        "--adapter",
        action="append",
        type=_adapter,
        metavar="DIR[=WEIGHT]",
        help="merge a LoRA adapter into the model: a directory that PEFT wrote or a name on the hub, with a "
        "factor on its changes (1); repeatable",
    )
    group.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    group.add_argument("--offline", action="store_true", help="never download")
    group.add_argument(
        "--no-map",
        dest="map",
        action="store_const",
        const=False,
        help="read a packed file into memory (it is mapped, except on network file systems)",
    )
    group.add_argument(
        "--no-strict",
        dest="strict",
        action="store_false",
        help="ignore tensors that GPT-2 does not have, with a note",
    )
    group.add_argument(
        "-t", "--threads", type=int, metavar="N", help="threads (OMP_NUM_THREADS, else physical cores)"
    )
    if dtype:
        _arithmetic_options(group, model, auto)


def _arithmetic_options(group: _ArgumentGroup, backend: bool, auto: bool) -> None:
    """The number format of weights, and the arithmetic."""
    group.add_argument(
        "--dtype",
        type=str if auto else _fixed_dtype,
        choices=("float32", "bfloat16", "int8", "int4") + ("auto",) * auto,
        help="number format of the weights: each is smaller and less exact than the one before; which is "
        "fastest depends on the CPU: gpt2c bench --recommend measures it"
        + "; auto, for files of texts: measure first, and use the fastest within --max-loss" * auto
        + " (float32)",
    )
    if auto:
        max_loss_option(group)
    if not backend:
        return
    group.add_argument(
        "--backend",
        choices=("native", "blas"),
        default="native",
        help="gpt2c's own arithmetic, or NumPy's BLAS (native)",
    )


def _adapter(words: str) -> tuple[str, float]:
    path, _, weight = words.rpartition("=")
    # The name of a directory may also contain "=".
    if not path or os.path.exists(words):
        return words, 1.0
    try:
        return path, float(weight)
    except ValueError:
        raise ArgumentTypeError(f"the weight of adapter {path!r} is {weight!r}; needed: a number") from None


def max_loss_option(parser: ArgumentParser | _ArgumentGroup) -> None:
    """The allowed loss of a number format chosen by speed."""
    parser.add_argument(
        "--max-loss",
        type=_percent,
        metavar="PERCENT",
        help="use the fastest format whose log-loss is at most PERCENT above float32's (the loss of "
        "bfloat16, so that float32 and bfloat16 always qualify)",
    )


def _fixed_dtype(word: str) -> str:
    if word == "auto":
        raise ArgumentTypeError(
            "auto is for gpt2c score: elsewhere name a format; gpt2c bench --recommend shows which is fastest"
        )
    return word


def _percent(word: str) -> float:
    try:
        value = float(word.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{word!r} is not a percentage of at least 0, such as 0.1")
    return value


def output_options(parser: ArgumentParser, metavar: str = "FILE") -> _MutuallyExclusiveGroup:
    """The destination and format of the result; more formats can be added to the returned group."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    files = "; for files of texts: the output directory" if "DIR" in metavar else ""
    parser.add_argument(
        "-o",
        "--output",
        metavar=metavar,
        help=f"write to FILE, which appears once it is complete{files}",
    )
    return form


def text_or_files(parser: ArgumentParser) -> None:
    """A text, its file, or files of texts."""
    parser.add_argument(
        "text", nargs="*", metavar="TEXT | IN", help="the text; - or nothing: stdin. Or files of texts"
    )
    parser.add_argument(
        "-f", "--file", metavar="FILE", help="read the text from FILE, without its final line break"
    )


def files_of_texts(parser: ArgumentParser) -> _ArgumentGroup:
    """The options of commands that take files of texts."""
    files = parser.add_argument_group("files of texts")
    files.add_argument(
        "--text-field",
        metavar="NAME",
        help="the field or column that holds the text (text); a.b is the field b of a",
    )
    files.add_argument(
        "--lines", action="store_true", help="each line of a .txt file is a text (otherwise: the file is one)"
    )
    files.add_argument(
        "--on-error",
        choices=("stop", "null", "skip"),
        help="on a bad record: stop before any work (the default), or continue, keeping it with null "
        "values or skipping it; OUTPUT.errors.jsonl lists them",
    )
    files.add_argument(
        "--delimiter",
        type=lambda word: "\t" if word == "\\t" else word,
        metavar="C",
        help=r"the delimiter of .csv and .tsv files, such as ';' or '\t' (detected)",
    )
    files.add_argument("-q", "--quiet", action="store_true", help="show no progress and no counts")
    files.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="take records I, I + N, I + 2 N, ... of every file: one of N processes, I from 1 to N",
    )
    files.add_argument("--prefix", metavar="NAME", help="prefix of the names of the new fields (gpt2c_)")
    return files


def _shard(word: str) -> tuple[int, int]:
    shard, _, shards = word.partition("/")
    if not (shard.isdecimal() and shards.isdecimal() and 1 <= int(shard) <= int(shards)):
        raise ArgumentTypeError(f"{word!r} is not of the form I/N with I from 1 to N, such as 1/4")
    return int(shard), int(shards)


def special_option(parser: ArgumentParser) -> None:
    """How special tokens in a text are read."""
    parser.add_argument(
        "--special",
        action="store_true",
        help="recognize special tokens such as <|endoftext|> or [SEP] in the text (otherwise ordinary text)",
    )


def edit_option(parser: ArgumentParser) -> None:
    """Interventions in the pass."""
    parser.add_argument(
        "--edit",
        action="append",
        default=[],
        dest="edits",
        type=_edit,
        metavar="NAME:EDIT[:WHERE]",
        help="change activations on the way: blocks.3.attn.hook_z:zero:heads=1 silences a head. EDIT is "
        "zero, scale=X or add=X; WHERE is positions=, heads= or units= with 3, 1,4, 0-5 or 7-; repeatable "
        "(docs/introspection.md)",
    )


def _edit(words: str) -> tuple[str, Any]:
    # Deferred: it needs NumPy, and --help must be quick.
    from ..introspection.notation import parse_edit

    try:
        return parse_edit(words)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
