"""The command lines of gates (tests/long): how many cases, from which seed, which of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

__all__ = ["Failure", "gate_parser", "numbers_of", "require"]


class Failure(Exception):
    """Something that a gate forbids."""


def require(fine: object, problem: str) -> None:
    """Raise Failure unless something holds."""
    if not fine:
        raise Failure(problem)


def gate_parser(doc: str, cases: int, names: Sequence[str] | None, what: str) -> argparse.ArgumentParser:
    """A parser with the options that gates share; without ``names``, any may be given."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--minutes", type=float, help="stop after this time instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="I", help="begin with this case")
    parser.add_argument("--only", nargs="+", choices=names, default=[*(names or ())], help=what)
    return parser


def numbers_of(options: argparse.Namespace) -> Iterator[int]:
    """The numbers of the cases: as many as are wanted, or until the time is over."""
    begun, number = time.monotonic(), options.first
    while (
        time.monotonic() - begun < 60 * options.minutes
        if options.minutes is not None
        else number < options.first + options.cases
    ):
        yield number
        number += 1
