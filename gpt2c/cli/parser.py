"""The arguments of the command line: a function per command. Shared groups are in options.py."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import NoReturn

from ..core.labels import harmless
from ..version import __version__
from .encoder_parsers import classify, embed, fill
from .options import (
    FILES_HELP,
    Command,
    edit_option,
    files_of_texts,
    max_loss_option,
    model_options,
    output_options,
    special_option,
    text_or_files,
)
from .sampling_options import sampling_options, typing_options
from .server_options import server_options

__all__ = ["BENCH_PARTS", "COMMANDS", "build_parser"]

BENCH_PARTS = ("load", "roofline", "kernels", "model")


class _Parser(ArgumentParser):
    """A parser with safe messages: an argument, such as a file name, may hold any character."""

    def error(self, message: str) -> NoReturn:
        super().error(harmless(message))


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(
        prog="gpt2c",
        description="GPT-2 and BERT on CPUs: continue texts, suggest and fill in words, score texts.",
        epilog="gpt2c COMMAND --help has details. Without -m, the bundled small model is used.",
    )
    parser.add_argument("--version", action="version", version=f"gpt2c {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, summary: str, details: str) -> ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {details}",
            allow_abbrev=False,
        )
        added.set_defaults(parser=added)
        return added

    for add in COMMANDS.values():
        add(command)
    return parser


def _generate(command: Command) -> None:
    parser = command(
        "generate",
        "continue a text, or those of files",
        "Prints the prompt and its continuation as it is generated. The text is random: --seed N reproduces "
        "a text, --temperature 0 always takes the most probable token. An encoder-decoder model writes "
        "another text for it, by default the most probable one: -m dates turns a date in words into digits. "
        "With -o DIR, every file IN becomes a file in DIR with a continuation added to each record. "
        f"{FILES_HELP}",
    )
    parser.usage = "gpt2c generate [TEXT] [options]\n       gpt2c generate IN... -o DIR [options]"
    parser.add_argument(
        "text",
        nargs="*",
        metavar="TEXT | IN",
        help="the text to continue; - or nothing: stdin, without its final line break; on a terminal nothing "
        "generates unconditionally. Or files of texts",
    )
    model_options(parser)
    sampling_options(parser)
    special_option(parser)
    edit_option(parser)
    typing_options(parser)
    parser.add_argument(
        "--skip-special-tokens",
        action="store_true",
        help="leave special tokens out of the continuation (the end token always is)",
    )
    parser.add_argument("--no-prompt", action="store_true", help="print only the continuation")
    parser.add_argument(
        "--stats", action="store_true", help="then print speed, seed and finish reason to stderr"
    )
    parser.add_argument(
        "--trace", action="store_true", help="then print the candidates of every step to stderr"
    )
    files_of_texts(parser)
    output_options(parser, "FILE | DIR")


def _suggest(command: Command) -> None:
    parser = command(
        "suggest",
        "suggest what could come next, with probabilities",
        "On a terminal without a text it suggests as you type, like a phone keyboard.",
    )
    parser.add_argument("text", nargs="?", help="the text so far; - is stdin")
    model_options(parser)
    special_option(parser)
    edit_option(parser)
    parser.add_argument("-k", type=int, default=5, metavar="N", help="number of suggestions (5)")
    parser.add_argument(
        "--words",
        action="store_true",
        help="whole words instead of tokens, including completions of the last word",
    )
    output_options(parser)


def _score(command: Command) -> None:
    parser = command(
        "score",
        "score texts: one token by token, or files of texts",
        "Log-probabilities and entropies are in nats; rank 0 is the model's first choice. A BERT masks every "
        "token in turn. With -o DIR, every "
        f"file IN becomes a file in DIR with scores added to each record. {FILES_HELP}",
    )
    parser.usage = "gpt2c score [TEXT | -f FILE] [options]\n       gpt2c score IN... -o DIR [options]"
    text_or_files(parser)
    model_options(parser, auto=True)
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--bos",
        type=int,
        default=True,
        metavar="ID",
        help="put token ID before a text (the tokenizer's prefix, else the begin-of-text token)",
    )
    begin.add_argument(
        "--no-bos",
        action="store_false",
        dest="bos",
        help="put nothing before a text: the first token is not scored",
    )
    special_option(parser)
    parser.add_argument(
        "--within-word",
        action="store_true",
        help="for a BERT, which masks every token in turn: also mask later tokens of the same word",
    )
    edit_option(parser)
    _windows(parser)
    _tables(parser)
    files = files_of_texts(parser)
    files.add_argument("--max-tokens", type=int, metavar="N", help="truncate longer texts to N tokens")
    form = output_options(parser, "FILE | DIR")
    form.add_argument("--csv", action="store_true", help="print the table as CSV, with more columns")


def _windows(parser: ArgumentParser) -> None:
    windows = parser.add_argument_group("texts longer than the window")
    windows.add_argument(
        "--window", type=int, metavar="N", help="tokens that the model sees at once (its positions)"
    )
    step = windows.add_mutually_exclusive_group()
    step.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="score a text longer than the window in overlapping windows, N tokens each (files of texts: "
        "half of the positions)",
    )
    step.add_argument(
        "--min-context",
        type=int,
        metavar="N",
        help="the same, with at least N tokens before each: a stride of window - N + 1",
    )
    windows.add_argument("--repeat-bos", action="store_true", help="put the start token before every window")


def _tables(parser: ArgumentParser) -> None:
    tables = parser.add_argument_group("output for a single text")
    tables.add_argument(
        "--words",
        action="store_true",
        help="a table of words, with the surprisal of each in bits; in JSON also the tokens",
    )
    tables.add_argument(
        "--top", type=int, metavar="K", help="also the K most probable tokens at each position"
    )


def _explain(command: Command) -> None:
    parser = command(
        "explain",
        "show how the model reads a text and continues it",
        "With -o it writes a page for a browser: one file, which needs no network. Otherwise it prints the "
        "same in the terminal: tokens, the attention of one head in numbers, the prediction after every "
        "layer, the score of the text, what each head does. Steps and the search tree are only on the page.",
    )
    parser.add_argument("text", nargs="?", help="the text; - or nothing: stdin, without its final line break")
    parser.add_argument("--second", metavar="TEXT", help="for a BERT: the second text of a pair")
    special_option(parser)
    edit_option(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the page to FILE, which appears when complete; - is stdout",
    )
    parser.add_argument("--open", action="store_true", help="then open the page in a browser")
    parser.add_argument("--lang", metavar="LANG", help="the language of the page, such as zh (en)")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--text", action="store_true", dest="text_view", help="text instead of a page, also with -o"
    )
    forms.add_argument(
        "--json", action="store_true", help="print JSON: the arrays themselves, and their shapes"
    )
    _head_options(parser)
    parser.add_argument(
        "-n",
        "--max-new-tokens",
        type=int,
        default=8,
        metavar="N",
        help="maximum number of new tokens (8)",
    )
    parser.add_argument(
        "--num-beams",
        type=int,
        default=3,
        metavar="N",
        help="also search for the most probable continuation with N beams; 1: no search (3)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="temperature of the page's sampled continuation (0.8; --seed 0, top k 40, top p 0.95)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the page's sampled continuation (0)"
    )
    model_options(parser)


def _head_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--layer",
        type=int,
        metavar="L",
        help="whose attention to begin with, from 0 (the one with the most telling head)",
    )
    parser.add_argument(
        "--head",
        type=int,
        metavar="H",
        help="and of which head, from 0 (the most telling one)",
    )
    parser.add_argument(
        "--layers",
        type=_numbers,
        metavar="L,L,...",
        help="of which layers the page of a long text tells all attention (as many as there is room for)",
    )


def _numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"numbers with commas between them, such as 0,5,11, not {words!r}") from None


def _info(command: Command) -> None:
    parser = command(
        "info", "describe a model and how it would run here", "Loads it, so every tensor is checked."
    )
    parser.add_argument("source", nargs="?", metavar="MODEL", help="as for -m")
    model_options(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="look for problems and surprises: configuration, tensors, hashes, logits against a "
        "reference in float64, tokenizer; the exit status is 1 if something is wrong",
    )
    output_options(parser)


def _convert(command: Command) -> None:
    parser = command(
        "convert",
        "write a model into one packed file, which loads instantly",
        "Then prints the cost of the number format against float32: on bundled passages of old books, "
        "or better on your own text.",
    )
    parser.add_argument("source", metavar="SRC", help="a model, as for -m of the other commands")
    parser.add_argument("destination", metavar="DST", help="the file to write, usually NAME.gpt2c")
    parser.add_argument("--text", metavar="FILE", help="measure the cost of the format on this text")
    parser.add_argument(
        "--no-comparison", action="store_true", help="do not compare with float32, which needs memory for it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    model_options(parser, model=False)


def _export(command: Command) -> None:
    parser = command(
        "export",
        "write a model as a directory that transformers loads, or a GGUF file for llama.cpp",
        "The directory gets config.json, model.safetensors in float32, generation_config.json and the "
        "tokenizer's files; the file has all in one. Either appears when complete.",
    )
    parser.add_argument("source", metavar="SRC", help="a model, as for -m of the other commands")
    parser.add_argument(
        "destination", metavar="DST", help="NAME.gguf for a file; else a new name, or an empty directory"
    )
    parser.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16", "q8_0"),
        help="number format of the matrices in a GGUF file (f32)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    model_options(parser, model=False, dtype=False)


def _bench(command: Command) -> None:
    parser = command(
        "bench",
        "measure how fast this machine runs a model, and how fast it could",
        "load: new processes, to the first token, and their memory. roofline: the machine's limits. "
        "kernels: the model's, one by one. model: prompts (pp), decoding (tg), eight texts together (bg). "
        "Results are checked before a speed is reported, and every speed has its share of the roof.",
    )
    parser.add_argument(
        "parts", nargs="*", type=_bench_part, metavar="PART", help=f"{', '.join(BENCH_PARTS)} (all of them)"
    )
    parser.add_argument(
        "--shape", metavar="SHAPE", help="random weights of this shape instead of a model, such as 124M"
    )
    model_options(parser)
    recommend = parser.add_argument_group("number formats")
    recommend.add_argument(
        "--recommend",
        action="store_true",
        help="instead, measure the speed and log-loss of each format here, and recommend "
        "one: about ten seconds for small models, under a minute for GPT-2 124M, minutes for the largest; "
        "all formats are in memory together, twice what float32 takes",
    )
    max_loss_option(recommend)
    recommend.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="the text for comparing losses, its first 4,096 tokens (bundled passages)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _serve(command: Command) -> None:
    parser = command(
        "serve",
        "serve a model over HTTP, compatible with OpenAI's API",
        "All requests are computed together. SIGTERM or Ctrl-C ends it after running requests, a second "
        "one at once (docs/serving.md).",
    )
    model_options(parser)
    server_options(parser)


def _bench_part(word: str) -> str:
    """A part to measure: argparse's ``choices`` would refuse an empty list."""
    if word not in BENCH_PARTS:
        raise ArgumentTypeError(f"unknown part {word!r}; choose from {', '.join(BENCH_PARTS)}")
    return word


COMMANDS: dict[str, Callable[[Command], None]] = {
    "generate": _generate,
    "suggest": _suggest,
    "score": _score,
    "fill": fill,
    "embed": embed,
    "classify": classify,
    "explain": _explain,
    "info": _info,
    "convert": _convert,
    "export": _export,
    "serve": _serve,
    "bench": _bench,
}
"""The function that adds each command."""
