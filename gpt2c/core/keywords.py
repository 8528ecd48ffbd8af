"""Errors for unknown keywords: what to use instead, or what was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from types import MappingProxyType
from typing import ParamSpec, TypeVar

__all__ = ["answer", "explains_keywords"]

P = ParamSpec("P")
R = TypeVar("R")


def explains_keywords(
    answers: Mapping[str, str] = MappingProxyType({}), *, options: Collection[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: an unknown keyword of the method is a TypeError that says what to do instead.

    Parameters
    ----------
    answers : mapping of str to str
        Answers for names that other libraries have.
    options : collection of str
        Names that the method takes besides those in its signature.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(function).parameters.values()
        known = [item.name for item in parameters if item.kind in kinds][1:]  # without self
        known += options
        # For a constructor, its class.
        called = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def explaining(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                # For a method, the class of the object, which may have inherited it.
                owner = args[0] if isinstance(args[0], type) else type(args[0])
                inherited = "." in called
                where = f"help({owner.__name__}.{function.__name__})" if inherited else f"help({called})"
                said = [f"no option {name}: {answer(name, known, answers, where)}" for name in unknown]
                raise TypeError(f"{called.rpartition('.')[2]} has {'; and '.join(said)}")
            return function(*args, **kwargs)

        return explaining

    return decorate


def answer(name: str, known: Collection[str], answers: Mapping[str, str], where: str) -> str:
    """The answer for an option that is not among the ``known``; ``where`` documents those."""
    if name in answers:
        return answers[name]
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), known, n=2)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{meant}{where} lists all options"
