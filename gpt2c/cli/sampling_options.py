"""The options of ``gpt2c generate``: how a text is continued."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

__all__ = ["sampling_options", "typing_options"]


def sampling_options(parser: ArgumentParser) -> None:
    """All that decides how a text is continued."""
    add = parser.add_argument_group("sampling").add_argument
    _add_sampling(add)
    _add_filters(add)
    _add_restrictions(add)
    _add_dry(add)
    _add_search(add)
    _add_contexts(add)
    _add_overflow(add)


def typing_options(parser: ArgumentParser) -> None:
    """How a text goes on that someone is writing."""
    parser.add_argument(
        "--heal", action="store_true", help="go on inside the last word, in whatever tokens it is written"
    )
    parser.add_argument(
        "--draft",
        metavar="prompt | MODEL",
        help="guess tokens, which saves passes and changes no text: 'prompt' guesses that the text repeats "
        "itself, a smaller model with the same vocabulary what it would write",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="end the text as it is, so many seconds after the model is loaded",
    )


def _add_sampling(add: Callable[..., object]) -> None:
    add(
        "-n",
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="how many tokens to add, at most (60; for an encoder-decoder model 128)",
    )
    add("--min-new-tokens", type=int, default=0, metavar="N", help="no end of text before N tokens (0)")
    add(
        "--eos-token-id",
        action="append",
        type=int,
        metavar="ID",
        help="token ID ends a text (those that the model names); may be given several times",
    )
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is greedy, above 1 daring (0.8; 0, no draw, with --num-beams and --penalty-alpha)",
    )
    add(
        "--top-k",
        type=int,
        metavar="K",
        help="draw among the K most probable; 0: no limit (40; with --mirostat 0, with --penalty-alpha 4)",
    )
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="draw among the most probable that make up P (0.95; with --mirostat 1)",
    )
    add("--min-p", type=float, default=0.0, metavar="P", help="none below P times the most probable (0)")
    add(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1: tokens of the text count less (1)",
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before TEXT; may be given several times",
    )
    add(
        "--logit-bias",
        action="append",
        default=[],
        type=_bias,
        metavar="ID=BIAS",
        help="add BIAS to the logit of token ID; -inf forbids it; may be given several times",
    )
    add("--seed", type=int, metavar="N", help="repeat the text of this seed (a fresh one)")
    add("--num-return-sequences", type=int, default=1, metavar="N", help="how many continuations (1)")


def _add_filters(add: Callable[..., object]) -> None:
    add(
        "--typical-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw among those that surprise as expected and make up P (1)",
    )
    add(
        "--top-n-sigma",
        type=float,
        default=0.0,
        metavar="N",
        help="none whose logit is N standard deviations below the greatest; 0: no limit (0)",
    )
    add(
        "--xtc-probability",
        type=float,
        default=0.0,
        metavar="P",
        help="how often the most probable are left out: all above --xtc-threshold but one (0)",
    )
    add("--xtc-threshold", type=float, default=0.1, metavar="P", help="see --xtc-probability (0.1)")
    add("--mirostat", type=int, default=0, metavar="2", help="2: keep the surprise near --mirostat-tau (0)")
    add("--mirostat-tau", type=float, default=5.0, metavar="BITS", help="surprise that mirostat aims at (5)")
    add("--mirostat-eta", type=float, default=0.1, metavar="X", help="how fast mirostat corrects it (0.1)")


def _add_restrictions(add: Callable[..., object]) -> None:
    add(
        "--presence-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="off the logits of tokens that came (0)",
    )
    add(
        "--frequency-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="off the logits of tokens as often as they came (0)",
    )
    add(
        "--no-repeat-ngram-size",
        type=int,
        default=0,
        metavar="N",
        help="no N tokens in a row twice; 0: any (0)",
    )
    add(
        "--bad-word",
        action="append",
        default=[],
        dest="bad_words",
        metavar="TEXT",
        help="never write TEXT; may be given several times",
    )
    add(
        "--suppress-token",
        action="append",
        default=[],
        type=int,
        dest="suppress_tokens",
        metavar="ID",
        help="never write token ID; may be given several times",
    )
    add(
        "--exponential-decay-length-penalty",
        type=_decay,
        metavar="N,FACTOR",
        help="after N tokens the end becomes more probable with each, by FACTOR to the power of their number",
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
        help="off the logits of tokens that go on with a repetition: X times --dry-base to the power of its "
        "length beyond --dry-allowed-length (0)",
    )
    add("--dry-base", type=float, default=1.75, metavar="B", help="see --dry-multiplier (1.75)")
    add(
        "--dry-allowed-length",
        type=int,
        default=2,
        metavar="N",
        help="repetitions of fewer than N tokens go free (2)",
    )
    add(
        "--dry-penalty-last-n",
        type=int,
        default=-1,
        metavar="N",
        help="repetitions within the last N tokens; -1: in all of the text (-1)",
    )
    add(
        "--dry-sequence-breaker",
        action="append",
        dest="dry_sequence_breakers",
        metavar="TEXT",
        help='repetitions begin anew after TEXT; may be given several times (a line break, :, ", *)',
    )


def _add_search(add: Callable[..., object]) -> None:
    add(
        "--num-beams", type=int, default=1, metavar="N", help="search the most probable text with N beams (1)"
    )
    add(
        "--num-beam-groups",
        type=int,
        default=1,
        metavar="N",
        help="of a search: beams in N groups, which differ by --diversity-penalty (1)",
    )
    add(
        "--diversity-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="of a search in groups: off a token for each time that the groups before have just taken it (0)",
    )
    add(
        "--length-penalty",
        type=float,
        default=1.0,
        metavar="P",
        help="of a search: above 0 favours length (1)",
    )
    add(
        "--early-stopping",
        choices=("false", "true", "never"),
        default="false",
        help="of a search: 'true' ends it once N texts have ended, 'never' only when no better one can come "
        "(false: when the best live text would not be better as it is)",
    )


def _add_contexts(add: Callable[..., object]) -> None:
    add(
        "--penalty-alpha",
        type=float,
        default=0.0,
        metavar="A",
        help="contrastive search: of the --top-k most probable, what is least like the text; 0.6 is usual "
        "(0)",
    )
    add(
        "--guidance-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="above 1: stress the prompt, against --negative-prompt or its own last token alone (1)",
    )
    add("--negative-prompt", metavar="TEXT", help="what --guidance-scale leads away from")
    add(
        "--suffix",
        metavar="TEXT",
        help="fill the gap between the prompt and TEXT, by a model trained for it, such as StarCoder",
    )


def _add_overflow(add: Callable[..., object]) -> None:
    add(
        "--overflow",
        choices=("error", "truncate_left", "slide"),
        default="error",
        help="when the text passes the model's positions: an error; leave out the beginning of the prompt; "
        "go on and forget the beginning (error)",
    )
    add("--hop", type=int, metavar="N", help="how many tokens 'slide' forgets at a time (half the positions)")


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
