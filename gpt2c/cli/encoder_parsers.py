"""The arguments of commands that read whole texts: fill, embed, classify."""

from __future__ import annotations

from argparse import ArgumentParser

from .options import (
    FILES_HELP,
    Command,
    files_of_texts,
    model_options,
    output_options,
    special_option,
    text_or_files,
)

__all__ = ["classify", "embed", "fill"]

_POOLINGS = ("mean", "cls", "last", "max", "mean_sqrt_len", "weighted_mean")


def fill(command: Command) -> None:
    """Add ``gpt2c fill``."""
    parser = command(
        "fill",
        "the words that the masks of a text may stand for, with probabilities",
        "For a BERT with the head that predicts tokens; without -m, the small one that comes with gpt2c. "
        "Several masks are filled one after the other, "
        "the surest first; --json also tells the tokens of each mask alone.",
    )
    parser.add_argument(
        "text",
        nargs="?",
        metavar="TEXT",
        help="the text, with [MASK], or the tokenizer's mask, in place of a token; - or nothing: stdin",
    )
    model_options(parser)
    parser.add_argument("-k", type=int, default=5, metavar="N", help="number of ways to fill it (5)")
    parser.add_argument(
        "--num-beams",
        type=int,
        default=5,
        metavar="N",
        help="number of texts that the search keeps at each step (5)",
    )
    parser.add_argument(
        "--target",
        action="append",
        dest="targets",
        metavar="WORD",
        help="consider only this word, which must be one token; repeatable",
    )
    _max_tokens_option(parser)
    output_options(parser)


def embed(command: Command) -> None:
    """Add ``gpt2c embed``."""
    parser = command(
        "embed",
        "the vector of a text, or those of files",
        "Pooled from the last hidden states, by default as the model's sentence-transformers files "
        "say. With -o DIR, every file IN becomes a file in DIR with a vector added to each record. "
        f"{FILES_HELP}",
    )
    parser.usage = "gpt2c embed [TEXT | -f FILE] [options]\n       gpt2c embed IN... -o DIR [options]"
    text_or_files(parser)
    model_options(parser)
    special_option(parser)
    parser.add_argument("--pooling", choices=_POOLINGS, help="how token vectors are combined (mean)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--normalize", action="store_true", default=None, help="scale vectors to length 1")
    length.add_argument(
        "--no-normalize",
        action="store_false",
        dest="normalize",
        help="do not scale, whatever the model's files say",
    )
    _max_tokens_option(parser)
    files_of_texts(parser)
    output_options(parser, "FILE | DIR")


def classify(command: Command) -> None:
    parser = command(
        "classify",
        "the labels of a text, or of those of files",
        "For models trained for it: GPT2ForSequenceClassification and the like for BERT, or, for one text, "
        "also ...ForTokenClassification, which labels every token. With -o DIR, every file IN becomes a "
        f"file in DIR with a label and its probability added to each record. {FILES_HELP}",
    )
    parser.usage = "gpt2c classify [TEXT | -f FILE] [options]\n       gpt2c classify IN... -o DIR [options]"
    text_or_files(parser)
    model_options(parser)
    special_option(parser)
    _max_tokens_option(parser)
    files_of_texts(parser)
    output_options(parser, "FILE | DIR")


def _max_tokens_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="truncate longer texts to N tokens, including those that the tokenizer puts around them "
        "(otherwise texts longer than the model's positions are an error)",
    )
