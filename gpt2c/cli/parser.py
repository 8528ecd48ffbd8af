"""The arguments of the command line: a function per command. Groups that several have are in options.py."""

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
    """Whose messages are for a terminal: an argument, such as the name of a file, may hold any character."""

    def error(self, message: str) -> NoReturn:
        super().error(harmless(message))


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(
        prog="gpt2c",
        description="GPT-2 and BERT on CPUs: continue texts, suggest and fill in words, judge texts.",
        epilog="gpt2c COMMAND --help says more. Without -m, the small model that comes with gpt2c is used.",
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
        "Prints the prompt and its continuation as it comes. Chance plays a part: --seed N repeats a text, "
        "--temperature 0 always takes the most probable token. An encoder-decoder model writes another text "
        "for it, by default the most probable one: -m dates turns a date in words into digits. With -o DIR, "
        f"every file IN gives a file in DIR with a continuation beside each record. {FILES_HELP}",
    )
    parser.usage = "gpt2c generate [TEXT] [options]\n       gpt2c generate IN... -o DIR [options]"
    parser.add_argument(
        "text",
        nargs="*",
        metavar="TEXT | IN",
        help="the text to continue; - or nothing: stdin, without its final line break; on a terminal nothing "
        "means the beginning of a text. Or files of texts",
    )
    model_options(parser)
    sampling_options(parser)
    special_option(parser)
    edit_option(parser)
    typing_options(parser)
    parser.add_argument(
        "--skip-special-tokens",
        action="store_true",
        help="leave special tokens out of the continuation (the end of the text always is)",
    )
    parser.add_argument("--no-prompt", action="store_true", help="print the continuation only")
    parser.add_argument(
        "--stats", action="store_true", help="then tell on stderr how fast it was, the seed, and why it ended"
    )
    parser.add_argument(
        "--trace", action="store_true", help="then tell on stderr what was weighed at every step"
    )
    files_of_texts(parser)
    output_options(parser, "FILE | DIR")


def _suggest(command: Command) -> None:
    parser = command(
        "suggest",
        "what could come next, with probabilities",
        "On a terminal without a text it asks for one again and again, as a keyboard would.",
    )
    parser.add_argument("text", nargs="?", help="the text so far; - is stdin")
    model_options(parser)
    special_option(parser)
    edit_option(parser)
    parser.add_argument("-k", type=int, default=5, metavar="N", help="how many suggestions (5)")
    parser.add_argument(
        "--words",
        action="store_true",
        help="whole words instead of tokens, those that the last word may become included",
    )
    output_options(parser)


def _score(command: Command) -> None:
    parser = command(
        "score",
        "how probable texts are: one token by token, or files of them",
        "Log-probabilities and entropies are in nats; rank 0 is the model's first choice. A BERT masks every "
        "token in turn. With -o DIR, every "
        f"file IN gives a file in DIR with the scores beside each record. {FILES_HELP}",
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
        help="token ID stands before a text (what the tokenizer puts there, else the begin-of-text token)",
    )
    begin.add_argument(
        "--no-bos", action="store_false", dest="bos", help="nothing does: do not score the first token"
    )
    special_option(parser)
    parser.add_argument(
        "--within-word",
        action="store_true",
        help="of a BERT, which masks every token in turn: also mask those of the same word that follow",
    )
    edit_option(parser)
    _windows(parser)
    _tables(parser)
    files = files_of_texts(parser)
    files.add_argument("--max-tokens", type=int, metavar="N", help="cut longer texts to their first N tokens")
    form = output_options(parser, "FILE | DIR")
    form.add_argument("--csv", action="store_true", help="print the table as CSV, with more columns")


def _windows(parser: ArgumentParser) -> None:
    windows = parser.add_argument_group("texts longer than the window")
    windows.add_argument(
        "--window", type=int, metavar="N", help="what the model sees at once, in tokens (its positions)"
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
    windows.add_argument(
        "--repeat-bos", action="store_true", help="what begins a text stands before every window of it"
    )


def _tables(parser: ArgumentParser) -> None:
    tables = parser.add_argument_group("what is shown of a text")
    tables.add_argument(
        "--words",
        action="store_true",
        help="a table of its words, with the surprisal of each in bits; in JSON beside the tokens",
    )
    tables.add_argument(
        "--top", type=int, metavar="K", help="the K most probable tokens in the place of each, too"
    )


def _explain(command: Command) -> None:
    parser = command(
        "explain",
        "show how the model reads a text and goes on with it",
        "With -o it writes a page for a browser: one file, which needs no network. Otherwise it tells of the "
        "same in the terminal: tokens, the attention of one head in numbers, what every layer would say "
        "next, how probable the text is, what each head does. Steps and the search tree are for the page.",
    )
    parser.add_argument("text", nargs="?", help="the text; - or nothing: stdin, without its final line break")
    special_option(parser)
    edit_option(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the page to FILE, which appears once it is complete; - is stdout",
    )
    parser.add_argument("--open", action="store_true", help="then open the page in a browser")
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
        help="how many tokens to go on, at most (8)",
    )
    parser.add_argument(
        "--num-beams",
        type=int,
        default=3,
        metavar="N",
        help="also search the most probable continuation with N beams; 1: do not (3)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="of the page's drawn continuation (0.8; --seed 0, top k 40, top p 0.95)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the page's drawn continuation (0)"
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
        raise ArgumentTypeError(f"numbers with commas between them, such as 0,5,11; got {words!r}") from None


def _info(command: Command) -> None:
    parser = command(
        "info", "what a model is and how it would run here", "Loads it, so every tensor is checked."
    )
    parser.add_argument("source", nargs="?", metavar="MODEL", help="as for -m")
    model_options(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="look for what is wrong or surprising: configuration, tensors, hashes, logits against a "
        "reference in float64, tokenizer; the exit status is 1 if something is wrong",
    )
    output_options(parser)


def _convert(command: Command) -> None:
    parser = command(
        "convert",
        "write a model into one packed file, which starts at once",
        "Then tells what the number format costs against float32: on passages of old books that come with "
        "gpt2c, or better on a text of yours.",
    )
    parser.add_argument("source", metavar="SRC", help="a model, as for -m of the other commands")
    parser.add_argument("destination", metavar="DST", help="the file to write, usually NAME.gpt2c")
    parser.add_argument("--text", metavar="FILE", help="tell what the format costs on this text")
    parser.add_argument(
        "--no-comparison", action="store_true", help="do not compare with float32, which takes its memory"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    model_options(parser, model=False)


def _export(command: Command) -> None:
    parser = command(
        "export",
        "write a model as a directory that transformers loads, or a GGUF file for llama.cpp",
        "The directory gets config.json, model.safetensors in float32, generation_config.json and the "
        "tokenizer's files; the file has all in one. Either appears once it is complete.",
    )
    parser.add_argument("source", metavar="SRC", help="a model, as for -m of the other commands")
    parser.add_argument(
        "destination", metavar="DST", help="NAME.gguf for a file; else a new name, or an empty directory"
    )
    parser.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16", "q8_0"),
        help="how a GGUF file keeps matrices (f32)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    model_options(parser, model=False, dtype=False)


def _bench(command: Command) -> None:
    parser = command(
        "bench",
        "how fast this machine runs a model, and how fast it could",
        "load: new processes, to the first token, and their memory. roofline: what the machine could do. "
        "kernels: the model's, one by one. model: prompts (pp), decoding (tg), eight texts together (bg). "
        "Answers are checked before a speed is told, and every speed stands beside its share of the roof.",
    )
    parser.add_argument(
        "parts", nargs="*", type=_bench_part, metavar="PART", help=f"{', '.join(BENCH_PARTS)} (all of them)"
    )
    parser.add_argument(
        "--shape", metavar="SHAPE", help="random weights of this shape instead of a model, such as 124M"
    )
    model_options(parser)
    recommend = parser.add_argument_group("which number format")
    recommend.add_argument(
        "--recommend",
        action="store_true",
        help="instead, how fast each format scores and generates here, what it costs in log-loss, and which "
        "to use: about ten seconds for small models, under a minute for GPT-2 124M, minutes for the largest; "
        "all formats are in memory together, twice what float32 takes",
    )
    max_loss_option(recommend)
    recommend.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="the text on which losses are compared, its first 4,096 tokens (passages that come with gpt2c)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _serve(command: Command) -> None:
    parser = command(
        "serve",
        "answer over HTTP, in the forms of OpenAI's API",
        "All requests are computed together. SIGTERM or Ctrl-C ends it once what runs is finished, a second "
        "one at once (docs/serving.md).",
    )
    model_options(parser)
    server_options(parser)


def _bench_part(word: str) -> str:
    """A part to measure: argparse's ``choices`` would refuse an empty list of them."""
    if word not in BENCH_PARTS:
        raise ArgumentTypeError(f"there is no part {word!r}; choose from {', '.join(BENCH_PARTS)}")
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
"""What adds each command."""
