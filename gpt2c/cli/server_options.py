"""The options of ``gpt2c serve``."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError

__all__ = ["server_options"]


def server_options(parser: ArgumentParser) -> None:
    """The address, access and limits of a server."""
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1: only this machine)")
    add("--port", type=_port, default=8000, metavar="N", help="the port; 0: any free one (8000)")
    add(
        "--api-key-file",
        metavar="FILE",
        help="require one of the keys in FILE, one per line; needed to serve other machines",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        dest="allow_origins",
        metavar="URL",
        help="let pages of this site use the server, such as https://example.org; repeatable",
    )
    add("--max-texts", type=_count, default=64, metavar="N", help="texts computed at the same time (64)")
    add(
        "--max-tokens",
        type=_count,
        metavar="N",
        help="total tokens of these texts, including prompts: their caches take memory "
        "(as many as take 1 GiB)",
    )
    add("--max-waiting", type=_count, default=64, metavar="N", help="maximum number of waiting requests (64)")
    add("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for a whole request (60)")
    add(
        "--prefix-cache",
        default="256MB",
        metavar="SIZE",
        help="memory for cached starts of texts, which are not computed again; 0: none (256MB)",
    )


def _port(word: str) -> int:
    if not (word.isdecimal() and int(word) <= 65535):
        raise ArgumentTypeError(f"{word!r} is not a port from 0 to 65535")
    return int(word)


def _count(word: str) -> int:
    if not (word.isdecimal() and int(word) >= 1):
        raise ArgumentTypeError(f"{word!r} is not a number of at least 1")
    return int(word)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ArgumentTypeError(f"{word!r} is not a number of seconds above 0")
    return seconds
