"""The options of ``gpt2c generate``: how to continue a text."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

__all__ = ["sampling_options", "typing_options"]


def sampling_options(parser: ArgumentParser) -> None:
    """All options for continuing a text."""
    add = parser.add_argument_group("sampling").add_argument
    _add_sampling(add)
    _add_filters(add)
    _add_restrictions(add)
    _add_dry(add)
    _add_search(add)
    _add_contexts(add)
    _add_overflow(add)


def typing_options(parser: ArgumentParser) -> None:
    """Options for completing a text while it is written."""
    parser.add_argument(
        "--heal", action="store_true", help="continue inside the last word, whatever its tokens"
    )
    parser.add_argument(
        "--draft",
        metavar="prompt | MODEL",
        help="guess tokens, which saves passes and never changes the text: 'prompt' guesses that the text "
        "repeats itself, a smaller model with the same vocabulary guesses its own continuation",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="end the text SECONDS after the model is loaded",
    )


def _add_sampling(add: Callable[..., object]) -> None:
    add(
        "-n",
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum number of new tokens (60; for an encoder-decoder model 128)",
    )
    add("--min-new-tokens", type=int, default=0, metavar="N", help="no end of text before N tokens (0)")
    add(
        "--eos-token-id",
        action="append",
        type=int,
        metavar="ID",
        help="token ID ends a text (the model's own); repeatable",
    )
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is greedy, higher is more random (0.8; 0 with --num-beams and --penalty-alpha)",
    )
    add(
        "--top-k",
        type=int,
        metavar="K",
        help="sample among the K most probable; 0: no limit (40; with --mirostat 0, with --penalty-alpha 4)",
    )
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="sample among the most probable with sum P (0.95; with --mirostat 1)",
    )
    add("--min-p", type=float, default=0.0, metavar="P", help="none below P times the greatest (0)")
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1: repeat tokens of the text less (1)",
    )
    add("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; repeatable")
    add(
        "--logit-bias",
        action="append",
        default=[],
        type=_bias,
        metavar="ID=BIAS",
        help="add BIAS to the logit of token ID; -inf forbids it; repeatable",
    )
    add("--seed", type=int, metavar="N", help="the same seed reproduces the text (a random one)")
    add("--num-return-sequences", type=int, default=1, metavar="N", help="number of continuations (1)")


def _add_filters(add: Callable[..., object]) -> None:
    add(
        "--typical-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample among tokens of typical surprisal with sum P (1)",
    )
    add(
        "--top-n-sigma",
        type=float,
        default=0.0,
        metavar="N",
        help="drop logits N standard deviations below the greatest; 0: no limit (0)",
    )
    add(
        "--xtc-probability",
        type=float,
        default=0.0,
        metavar="P",
        help="how often the most probable are dropped: all above --xtc-threshold but one (0)",
    )
    add("--xtc-threshold", type=float, default=0.1, metavar="P", help="see --xtc-probability (0.1)")
    add("--mirostat", type=int, default=0, metavar="2", help="2: keep the surprisal near --mirostat-tau (0)")
    add("--mirostat-tau", type=float, default=5.0, metavar="BITS", help="target surprisal of mirostat (5)")
    add("--mirostat-eta", type=float, default=0.1, metavar="X", help="how fast mirostat corrects it (0.1)")


def _add_restrictions(add: Callable[..., object]) -> None:
    add(
        "--presence-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="subtract from logits of tokens that occurred (0)",
    )
    add(
        "--frequency-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="subtract from logits of tokens per occurrence (0)",
    )
    add(
        "--no-repeat-ngram-size",
        type=int,
        default=0,
        metavar="N",
        help="never repeat a sequence of N tokens; 0: any (0)",
    )
    add(
        "--bad-word",
        action="append",
        default=[],
        dest="bad_words",
        metavar="TEXT",
        help="never generate TEXT; repeatable",
    )
    add(
        "--suppress-token",
        action="append",
        default=[],
        type=int,
        dest="suppress_tokens",
        metavar="ID",
        help="never generate token ID; repeatable",
    )
    add(
        "--exponential-decay-length-penalty",
        type=_decay,
        metavar="N,FACTOR",
        help="after N tokens, make the end more probable, by FACTOR to the power of the number of further "
        "tokens",
    )
    add(
        "--watermarking-config",
        type=_object,
        metavar="JSON",
        help='mark the text, for GPT2.detect_watermark: an object such as {} or {"bias": 2.5} '
        "(docs/generation.md)",
    )


def _add_dry(add: Callable[..., object]) -> None:
    add(
        "--dry-multiplier",
        type=float,
        default=0.0,
        metavar="X",
        help="subtract from logits of tokens that continue a repetition: X times --dry-base to the power of "
        "its length beyond --dry-allowed-length (0)",
    )
    add("--dry-base", type=float, default=1.75, metavar="B", help="see --dry-multiplier (1.75)")
    add(
        "--dry-allowed-length",
        type=int,
        default=2,
        metavar="N",
        help="repetitions of fewer than N tokens are allowed (2)",
    )
    add(
        "--dry-penalty-last-n",
        type=int,
        default=-1,
        metavar="N",
        help="consider the last N tokens; -1: the whole text (-1)",
    )
    add(
        "--dry-sequence-breaker",
        action="append",
        dest="dry_sequence_breakers",
        metavar="TEXT",
        help='repetitions do not extend over TEXT; repeatable (a line break, :, ", *)',
    )


def _add_search(add: Callable[..., object]) -> None:
    add(
        "--num-beams",
        type=int,
        default=1,
        metavar="N",
        help="search for the most probable text with N beams (1)",
    )
    add(
        "--num-beam-groups",
        type=int,
        default=1,
        metavar="N",
        help="N groups of beams, kept apart by --diversity-penalty (1)",
    )
    add(
        "--diversity-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="with groups: subtract from a token for each time that earlier groups just chose it (0)",
    )
    add(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="P",
        help="in beam search: above 0 favours length (1)",
    )
    add(
        "--early-stopping",
        choices=("false", "true", "never"),
        default="false",
        help="in beam search: 'true' stops once N texts have ended, 'never' only when no better one is "
        "possible (false: when the best live text would not improve on them)",
    )


def _add_contexts(add: Callable[..., object]) -> None:
    add(
        "--penalty-alpha",
        type=float,
        default=0.0,
        metavar="A",
        help="contrastive search: among the --top-k most probable, prefer what is least like the text; 0.6 "
        "is usual (0)",
    )
    add(
        "--guidance-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="above 1: emphasize the prompt over --negative-prompt or over only its last token (1)",
    )
    add("--negative-prompt", metavar="TEXT", help="the text that --guidance-scale steers away from")
    add(
        "--suffix",
        metavar="TEXT",
        help="fill the gap between the prompt and TEXT, with a model trained for it, such as StarCoder",
    )


def _add_overflow(add: Callable[..., object]) -> None:
    add(
        "--overflow",
        choices=("error", "truncate_left", "slide"),
        default="error",
        help="when the text exceeds the model's positions: an error; drop the start of the prompt; "
        "continue and drop the start (error)",
    )
    add("--hop", type=int, metavar="N", help="tokens that 'slide' drops at a time (half the positions)")


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    return int(token), float(bias)


def _decay(text: str) -> tuple[int, float]:
    start, _, factor = text.partition(",")
    return int(start), float(factor)


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError
    return found


# argparse says: invalid ID=BIAS value
_bias.__name__ = "ID=BIAS"
_decay.__name__ = "N,FACTOR"
_object.__name__ = "JSON object"
