"""The arguments of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser

__all__ = ["BENCH_PARTS", "build_parser"]

BENCH_PARTS = ("load", "roofline", "kernels", "model")


def _part(word: str) -> str:
    """A part of `bench`. (`choices` refuses that none is given.)"""
    from argparse import ArgumentTypeError

    if word not in BENCH_PARTS:
        raise ArgumentTypeError(f"there is no part {word!r}; choose from {', '.join(BENCH_PARTS)}")
    return word


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    import argparse

    from ..version import __version__

    parser = argparse.ArgumentParser(
        prog="gpt2c",
        description="GPT-2 on CPUs: continue texts, suggest words, judge texts.",
        epilog="gpt2c COMMAND --help says more. Without -m, the small model that comes with gpt2c is used.",
    )
    parser.add_argument("--version", action="version", version=f"gpt2c {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, summary: str, details: str = "") -> ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
            allow_abbrev=False,
        )
        added.set_defaults(parser=added)
        return added

    generate = command(
        "generate",
        "continue a text",
        "Prints the prompt and its continuation as it comes. Chance plays a part: --seed N repeats a text, "
        "--temperature 0 always takes the most probable token.",
    )
    generate.add_argument(
        "prompt",
        nargs="?",
        help="the text to continue; - or nothing: stdin, without its final line break; on a terminal nothing "
        "means the beginning of a text",
    )
    _model_options(generate)
    _sampling_options(generate)
    generate.add_argument("--no-prompt", action="store_true", help="print the continuation only")
    generate.add_argument(
        "--stats", action="store_true", help="then tell on stderr how fast it was, the seed, and why it ended"
    )
    generate.add_argument(
        "--trace", action="store_true", help="then tell on stderr what was weighed at every step"
    )
    _output_options(generate)

    suggest = command(
        "suggest",
        "what could come next, with probabilities",
        "On a terminal without a text it asks for one again and again, as a keyboard would.",
    )
    suggest.add_argument("text", nargs="?", help="the text so far; - is stdin")
    _model_options(suggest)
    suggest.add_argument("-k", type=int, default=5, metavar="N", help="how many suggestions (5)")
    _output_options(suggest)

    score = command(
        "score",
        "how probable texts are: one token by token, or files of them",
        "Log-probabilities and entropies are in nats; rank 0 is the model's first choice. With -o DIR, every "
        "file IN (.txt .jsonl .csv, also with .gz or .zst, and .parquet) gives a file in DIR with the scores "
        "beside each record. Those that are there already are left alone, so the same command resumes.",
    )
    score.usage = "gpt2c score [TEXT | -f FILE] [options]\n       gpt2c score IN... -o DIR [options]"
    score.add_argument(
        "text", nargs="*", metavar="TEXT | IN", help="the text; - or nothing: stdin. Or files of texts"
    )
    score.add_argument(
        "-f", "--file", metavar="FILE", help="read the text from FILE, without its final line break"
    )
    _model_options(score)
    score.add_argument(
        "--no-bos",
        action="store_true",
        help="do not score the first token (otherwise: as what follows the begin-of-text token)",
    )
    score.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="score a text longer than the model's positions in overlapping windows, N tokens each (files of "
        "texts: half of the positions)",
    )
    files = score.add_argument_group("files of texts")
    files.add_argument("--text-field", metavar="NAME", help="the field or column that holds the text (text)")
    files.add_argument(
        "--lines", action="store_true", help="each line of a .txt file is a text (otherwise: the file is one)"
    )
    files.add_argument("--max-tokens", type=int, metavar="N", help="cut longer texts to their first N tokens")
    files.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="take records I, I + N, I + 2 N, ... of every file: one of N processes, I from 1 to N",
    )
    files.add_argument(
        "--prefix", metavar="NAME", help="what the names of the new fields begin with (gpt2c_)"
    )
    score.add_argument("--json", action="store_true", help="print JSON")
    score.add_argument(
        "-o",
        "--output",
        metavar="FILE | DIR",
        help="write to FILE, which appears once it is complete; for files of texts: the directory for theirs",
    )

    explain = command(
        "explain",
        "show how the model reads a text and goes on with it",
        "With -o it writes a page for a browser: one file, which needs no network. Otherwise it tells of the "
        "same in the terminal: tokens, the attention of one head in numbers, what every layer would say "
        "next, how probable the text is, what each head does. Steps and the search tree are for the page.",
    )
    explain.add_argument(
        "text", nargs="?", help="the text; - or nothing: stdin, without its final line break"
    )
    explain.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the page to FILE, which appears once it is complete; - is stdout",
    )
    explain.add_argument("--open", action="store_true", help="then open the page in a browser")
    forms = explain.add_mutually_exclusive_group()
    forms.add_argument(
        "--text", action="store_true", dest="text_view", help="text instead of a page, also with -o"
    )
    forms.add_argument(
        "--json", action="store_true", help="print JSON: the arrays themselves, and their shapes"
    )
    explain.add_argument(
        "--layer", type=int, metavar="L", help="whose attention is told in numbers, from 0 (the first layer)"
    )
    explain.add_argument(
        "--head",
        type=int,
        metavar="H",
        help="and of which head, from 0 (the one whose last token attends most to one other)",
    )
    explain.add_argument(
        "-n",
        "--max-new-tokens",
        type=int,
        default=8,
        metavar="N",
        help="how many tokens to go on, at most (8)",
    )
    explain.add_argument(
        "--num-beams",
        type=int,
        default=3,
        metavar="N",
        help="also search the most probable continuation with N beams; 1: do not (3)",
    )
    explain.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="of the page's drawn continuation (0.8; --seed 0, top k 40, top p 0.95)",
    )
    explain.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the page's drawn continuation (0)"
    )
    _model_options(explain)

    info = command(
        "info", "what a model is and how it would run here", "Loads it, so every tensor is checked."
    )
    info.add_argument("source", nargs="?", metavar="MODEL", help="as for -m")
    _model_options(info)
    info.add_argument(
        "--check", action="store_true", help="read all of a packed file and compare its checksum"
    )
    _output_options(info)

    convert = command(
        "convert",
        "write a model into one packed file, which starts at once",
        "Then tells what the number format costs against float32: on passages of old books that come with "
        "gpt2c, or better on a text of yours.",
    )
    convert.add_argument("source", metavar="SRC", help="a model, as for -m of the other commands")
    convert.add_argument("destination", metavar="DST", help="the file to write, usually NAME.gpt2c")
    convert.add_argument("--text", metavar="FILE", help="tell what the format costs on this text")
    convert.add_argument(
        "--no-comparison", action="store_true", help="do not compare with float32, which takes its memory"
    )
    convert.add_argument("--json", action="store_true", help="print JSON")
    _model_options(convert, model=False)

    bench = command(
        "bench",
        "how fast this machine runs a model, and how fast it could",
        "load: new processes, to the first token, and their memory. roofline: what the machine could do. "
        "kernels: the model's, one by one. model: prompts (pp), decoding (tg), eight texts together (bg). "
        "Answers are checked before a speed is told, and every speed stands beside its share of the roof.",
    )
    bench.add_argument(
        "parts", nargs="*", type=_part, metavar="PART", help=f"{', '.join(BENCH_PARTS)} (all of them)"
    )
    bench.add_argument(
        "--shape", metavar="SHAPE", help="random weights of this shape instead of a model, such as 124M"
    )
    _model_options(bench)
    bench.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _model_options(parser: ArgumentParser, model: bool = True) -> None:
    """The options of every command that loads a model; without ``model``, of one that is named already."""
    group = parser.add_argument_group("model")
    if model:
        group.add_argument(
            "-m",
            "--model",
            metavar="MODEL",
            help="a directory, a .safetensors file, a packed file or a name on the Hugging Face hub",
        )
    group.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    group.add_argument("--offline", action="store_true", help="never download")
    group.add_argument(
        "-t", "--threads", type=int, metavar="N", help="threads (OMP_NUM_THREADS, else physical cores)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8", "int4"),
        help="how weights are kept: each smaller, faster and less exact than the one before (float32)",
    )
    if not model:
        return
    group.add_argument(
        "--backend",
        choices=("native", "blas"),
        default="native",
        help="gpt2c's own arithmetic, or NumPy's BLAS (native)",
    )


def _sampling_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")

    def option(*names: str, **settings: object) -> None:
        group.add_argument(*names, **settings)  # type: ignore[arg-type]

    option(
        "-n",
        "--max-new-tokens",
        type=int,
        default=60,
        metavar="N",
        help="how many tokens to add, at most (60)",
    )
    option("--min-new-tokens", type=int, default=0, metavar="N", help="no end of text before N tokens (0)")
    option(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is greedy, above 1 daring (0.8; 0 with --num-beams, so that nothing is drawn)",
    )
    option(
        "--top-k", type=int, default=40, metavar="K", help="draw among the K most probable; 0: no limit (40)"
    )
    option(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="draw among the most probable that make up P (0.95)",
    )
    option("--min-p", type=float, default=0.0, metavar="P", help="none below P times the most probable (0)")
    option(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1: tokens of the text count less (1)",
    )
    option(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before TEXT; may be given several times",
    )
    option(
        "--logit-bias",
        action="append",
        default=[],
        type=_bias,
        metavar="ID=BIAS",
        help="add BIAS to the logit of token ID; -inf forbids it; may be given several times",
    )
    option("--seed", type=int, metavar="N", help="repeat the text of this seed (a fresh one)")
    option("--num-return-sequences", type=int, default=1, metavar="N", help="so many continuations (1)")
    option(
        "--presence-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="off the logits of tokens that came (0)",
    )
    option(
        "--frequency-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="off the logits of tokens as often as they came (0)",
    )
    option(
        "--no-repeat-ngram-size",
        type=int,
        default=0,
        metavar="N",
        help="no N tokens in a row twice; 0: any (0)",
    )
    option(
        "--bad-word",
        action="append",
        default=[],
        dest="bad_words",
        metavar="TEXT",
        help="never write TEXT; may be given several times",
    )
    option(
        "--suppress-token",
        action="append",
        default=[],
        type=int,
        dest="suppress_tokens",
        metavar="ID",
        help="never write token ID; may be given several times",
    )
    option(
        "--num-beams", type=int, default=1, metavar="N", help="search the most probable text with N beams (1)"
    )
    option(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="P",
        help="of a search: above 0 favours length (1)",
    )
    option(
        "--early-stopping",
        choices=("false", "true", "never"),
        default="false",
        help="of a search: 'true' ends it once N texts have ended, 'never' only when no better one can come "
        "(false: when the best live text would not be better as it is)",
    )
    option(
        "--overflow",
        choices=("error", "truncate_left", "slide"),
        default="error",
        help="when the text passes the model's positions: an error; leave out the beginning of the prompt; "
        "go on and forget the beginning (error)",
    )
    option(
        "--hop", type=int, metavar="N", help="how many tokens 'slide' forgets at a time (half the positions)"
    )


def _shard(word: str) -> tuple[int, int]:
    from argparse import ArgumentTypeError

    shard, _, shards = word.partition("/")
    if not (shard.isdecimal() and shards.isdecimal() and 1 <= int(shard) <= int(shards)):
        raise ArgumentTypeError(f"{word!r} is no I/N with I from 1 to N, such as 1/4")
    return int(shard), int(shards)


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    return int(token), float(bias)


_bias.__name__ = "ID=BIAS"  # argparse says: invalid ID=BIAS value


def _output_options(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write to FILE, which appears once it is complete"
    )
