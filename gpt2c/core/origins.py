"""Where a model comes from: what its constructor takes, and what a pickle of it records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

from . import _engine
from .threads import check_threads

__all__ = ["pickled", "takes_weights"]

P = ParamSpec("P")


def takes_weights(init: Callable[P, None]) -> Callable[P, None]:
    """Explains to users who pass ``__init__`` the name of a model how to load one."""

    @wraps(init)
    def checking(*args: P.args, **kwargs: P.kwargs) -> None:
        given = args[1] if len(args) > 1 else kwargs.get("weights")
        if not isinstance(given, _engine.Weights):
            cls = type(args[0]).__name__
            source = repr(given) if isinstance(given, str | os.PathLike) else "..."
            raise TypeError(
                f"{cls}.from_pretrained({source}) loads a model; {cls}(...) itself takes weights that are "
                "loaded already"
            )
        init(*args, **kwargs)

    return checking


def pickled(model: object, threads: int, origin: Mapping[str, Any] | None, **now: Any) -> tuple[Any, ...]:
    """The result of a model's ``__reduce__``: the arguments that load it again, some as they are ``now``."""
    if origin is None:
        raise TypeError(
            f"this {type(model).__name__} was not made by from_pretrained, so a pickle cannot say where it "
            "comes from: model.save(path), and pickle from_pretrained(path) or the path itself"
        )
    how = {**origin, **now}
    if check_threads(how["threads"]) != threads:  # they were set later
        how["threads"] = threads
    return _loaded, (type(model), how)


def _loaded(cls: Any, how: dict[str, Any]) -> Any:
    return cls.from_pretrained(**how)
