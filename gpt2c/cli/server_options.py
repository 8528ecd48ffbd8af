"""The options of ``gpt2c serve``."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError

__all__ = ["server_options"]


def server_options(parser: ArgumentParser) -> None:
    """Where a server listens, to whom, and how much it takes on."""
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1: this machine alone)")
    add("--port", type=_port, default=8000, metavar="N", help="the port; 0: any that is free (8000)")
    add(
        "--api-key-file",
        metavar="FILE",
        help="ask for one of the keys in FILE, one a line; needed to serve other machines",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        dest="allow_origins",
        metavar="URL",
        help="let pages of this site use the server, such as https://example.org; may be given several times",
    )
    add("--max-texts", type=_count, default=64, metavar="N", help="texts computed at the same time (64)")
    add(
        "--max-tokens",
        type=_count,
        metavar="N",
        help="tokens that all these texts together may have, prompts included: their caches take memory "
        "(as many as take 1 GiB)",
    )
    add("--max-waiting", type=_count, default=64, metavar="N", help="requests that may wait for them (64)")
    add("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for a whole request (60)")
    add(
        "--prefix-cache",
        default="256MB",
        metavar="SIZE",
        help="memory for the beginnings of texts, which are not computed again; 0: none (256MB)",
    )


def _port(word: str) -> int:
    if not (word.isdecimal() and int(word) <= 65535):
        raise ArgumentTypeError(f"{word!r} is not a port from 0 to 65535")
    return int(word)


def _count(word: str) -> int:
    if not (word.isdecimal() and int(word) >= 1):
        raise ArgumentTypeError(f"{word!r} is not a number of 1 or more")
    return int(word)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ArgumentTypeError(f"{word!r} is not a number of seconds above 0")
    return seconds
