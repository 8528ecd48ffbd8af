"""Interventions in a forward pass: replacements of named values (see :mod:`gpt2c.introspection.hooks`).

An edit is a function ``edit(value, hook)``: it changes the array it is given in place and returns None, or
returns another of the same shape. ``hook`` is a `Hook`. The functions below make the usual ones. Each takes
the same selection of what to edit, by default everything:

- ``positions``: positions in the text, from 0: an int, a slice with non-negative ends, or an iterable of
  ints. Positions outside the text are refused, but during generation the positions continue. They are the
  model's: see `Hook`.
- ``heads``: attention heads: an int or an iterable of ints; for values that have heads.
- ``units``: indices along the last axis: neurons of the feed-forward layer, dimensions, or the keys of a
  pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..config import Config
from ..core.checks import check_integer
from ..errors import shown
from .hooks import Hook, axes, matching

__all__ = ["Edit", "add", "described", "mean", "replace", "scale", "zero"]

Edit = Callable[[np.ndarray, Hook], np.ndarray | None]
Choice = int | slice | Iterable[int] | None
# Large numbers may give infinities: the results are checked at the end of a pass.
_quiet = np.errstate(over="ignore", invalid="ignore")


def zero(*, positions: Choice = None, heads: Choice = None, units: Choice = None) -> Edit:
    """Set to 0: zero ablation.

    Parameters
    ----------
    positions, heads, units
        What to edit: see :mod:`gpt2c.introspection.edits`.

    Raises
    ------
    ValueError
        In a pass: the value lacks what is selected.

    Examples
    --------
    >>> ablated = [("blocks.*.attn.hook_z", edits.zero(heads=1))]  # head 1 of every layer
    >>> model.generate("The king and the", max_new_tokens=6, edits=ablated).text
    ' queen were all the same.'
    """
    edit = scale(0.0, positions=positions, heads=heads, units=units)
    return _called(edit, "zero", positions=positions, heads=heads, units=units)


def scale(factor: float, *, positions: Choice = None, heads: Choice = None, units: Choice = None) -> Edit:
    """Multiply by a number.

    Parameters
    ----------
    factor : float
        0 always gives 0.
    positions, heads, units
        What to edit: see :mod:`gpt2c.introspection.edits`.

    Raises
    ------
    TypeError
        The factor is not a number.
    ValueError
        In a pass: the value lacks what is selected.

    Examples
    --------
    >>> louder = [("blocks.2.hook_mlp_out", edits.scale(2.0))]
    >>> model.generate("The king and the", max_new_tokens=6, edits=louder).text
    ' queen were very glad to see'
    """
    number = _float32("scale", factor)
    if number.ndim:
        raise TypeError(f"scale needs a number, not an array {list(number.shape)}")

    @_quiet
    def edit(value: np.ndarray, hook: Hook) -> None:
        chosen = _chosen(value, hook, positions, heads, units)
        value[chosen] = value[chosen] * number if number else 0

    return _called(edit, f"scale {factor:g}", positions=positions, heads=heads, units=units)


def add(
    vector: np.ndarray | float, *, positions: Choice = None, heads: Choice = None, units: Choice = None
) -> Edit:
    """Add a vector, as in activation steering (Turner et al. 2023).

    Parameters
    ----------
    vector : array or float
        Anything that NumPy broadcasts to the selection: [n_embd] for the residual stream, for example.
    positions, heads, units
        What to edit: see :mod:`gpt2c.introspection.edits`.

    Raises
    ------
    ValueError
        In a pass: the vector does not fit the selection, or the value lacks what is selected.

    Examples
    --------
    >>> steering = model.embed("a wolf") - model.embed("a king")
    >>> steered = [("blocks.3.hook_resid_post", edits.add(steering))]
    >>> model.generate("The king and the", max_new_tokens=5, edits=steered).text
    ' dog were all dead.'
    """
    vector = _float32("add", vector)

    @_quiet
    def edit(value: np.ndarray, hook: Hook) -> None:
        chosen = _chosen(value, hook, positions, heads, units)
        part = value[chosen]
        try:
            value[chosen] = part + vector
        except ValueError:  # NumPy's message says less
            raise ValueError(
                f"an array {list(vector.shape)} cannot be added to {list(part.shape)} of {hook.name}"
            ) from None

    what = f"an array {list(vector.shape)}" if vector.ndim else f"{vector:g}"
    return _called(edit, f"add {what}", positions=positions, heads=heads, units=units)


def mean(
    *caches: Mapping[str, np.ndarray],
    positions: Choice = None,
    heads: Choice = None,
    units: Choice = None,
) -> Edit:
    """Replace by the mean over all positions of all ``caches``: mean ablation.

    Parameters
    ----------
    *caches : ActivationCache
        At least one, in which the edited values were captured. Scores and patterns have no such mean.
    positions, heads, units
        What to edit: see :mod:`gpt2c.introspection.edits`.

    Raises
    ------
    TypeError
        No cache is given, or one is not an ActivationCache.
    KeyError, ValueError
        In a pass: the value was not captured, or has no such mean.

    Examples
    --------
    >>> logits, cache = model.run_with_cache("The king and the queen lived in a castle.")
    >>> averaged = [("blocks.2.hook_mlp_out", edits.mean(cache))]
    >>> model.generate("The king and the", max_new_tokens=6, edits=averaged).text
    ' king and the king were the'
    """
    if not caches or not all(isinstance(cache, Mapping) for cache in caches):
        raise TypeError("mean needs the ActivationCache of at least one text")
    averages: dict[str, np.ndarray] = {}

    def edit(value: np.ndarray, hook: Hook) -> None:
        if axes(hook.name)[0] != "positions":
            raise ValueError(f"{hook.name} has no mean over positions: its rows attend to different keys")
        if hook.name not in averages:
            whole = np.concatenate([cache[hook.name] for cache in caches])
            averages[hook.name] = whole.mean(axis=0, dtype=np.float64).astype(np.float32)
        chosen = _chosen(value, hook, positions, heads, units)
        value[chosen] = np.broadcast_to(averages[hook.name], value.shape)[chosen]

    what = f"mean of {len(caches)} text{'s' * (len(caches) > 1)}"
    return _called(edit, what, positions=positions, heads=heads, units=units)


def replace(
    source: Mapping[str, np.ndarray] | np.ndarray,
    *,
    positions: Choice = None,
    heads: Choice = None,
    units: Choice = None,
) -> Edit:
    """Replace by the value of another run at the same positions: activation patching.

    Parameters
    ----------
    source : ActivationCache or array
        The run with the value under the same name, or the value itself, for all positions.
    positions, heads, units
        What to edit: see :mod:`gpt2c.introspection.edits`.

    Raises
    ------
    KeyError, ValueError
        In a pass: the value was not captured, or has another shape.

    Examples
    --------
    >>> logits, cache = model.run_with_cache("The wolf and the")
    >>> patched = [("blocks.0.hook_resid_post", edits.replace(cache, positions=1))]
    >>> model.suggest("The king and the", k=1, edits=patched)[0].text
    ' wolf'
    """

    def edit(value: np.ndarray, hook: Hook) -> None:
        other = np.asarray(source[hook.name] if isinstance(source, Mapping) else source)
        axis = axes(hook.name).index("positions")
        needed = [str(size) for size in value.shape]
        needed[axis] = "positions"
        if other.ndim != value.ndim or any(
            a != b for i, (a, b) in enumerate(zip(other.shape, value.shape, strict=True)) if i != axis
        ):
            raise ValueError(
                f"replace needs an array [{', '.join(needed)}] for {hook.name}, not {list(other.shape)}"
            )
        # For the last norm a cache may have only the end of the text.
        first = len(source.token_ids) - other.shape[axis] if hasattr(source, "token_ids") else 0
        chosen = _chosen(value, hook, positions, heads, units)
        wanted = np.asarray(hook.positions, np.intp)[chosen[axis]]
        absent = wanted[(wanted < first) | (wanted >= first + other.shape[axis])]
        if absent.size:
            raise ValueError(
                f"the other {hook.name} has positions {first} to {first + other.shape[axis] - 1}, "
                f"not {absent[0]}"
            )
        value[chosen] = other[(*chosen[:axis], wanted - first, *chosen[axis + 1 :])]

    what = "its value in another run" if isinstance(source, Mapping) else "an array"
    return _called(edit, f"replace by {what}", positions=positions, heads=heads, units=units)


FACTORIES = (add, mean, replace, scale, zero)


def described(config: Config, edits: Iterable[tuple[Any, Edit]]) -> list[str]:
    """The change by each edit: "blocks.3.attn.hook_z: zero, heads 1"."""
    lines = []
    for asked, edit in edits:
        names = matching(config, asked)
        name = asked if isinstance(asked, str) else f"{names[0]}, ..." if names else "nothing"
        where = names[0] if len(names) == 1 else f"{name} ({len(names)} values)"
        lines.append(f"{where}: {getattr(edit, '__name__', shown(edit))}")
    return lines


def _float32(what: str, given: Any) -> np.ndarray:
    """Numbers for an edit's arithmetic. Infinite ones stay infinite: on scores they hide keys."""
    exact = np.asarray(given)
    if exact.dtype.kind in "OSU":
        kinds = "a number or an array of numbers" if what == "add" else "a number"
        raise TypeError(f"{what} needs {kinds}, not {shown(given)}")
    with np.errstate(over="ignore"):
        found = exact.astype(np.float32)
    large = exact[np.isinf(found) & (np.abs(exact) < np.inf)]
    if large.size:
        raise ValueError(f"{what} was given {large[0]:g}, which exceeds float32's maximum, 3.4e38")
    return found


def _called(edit: Any, what: str, **choices: Choice) -> Edit:
    """The edit, with a name that says what it does."""
    parts = [f"{axis} {_written(choice)}" for axis, choice in choices.items() if choice is not None]
    edit.__name__ = edit.__qualname__ = ", ".join([what, *parts])
    return edit


def _written(choice: Choice) -> str:
    """The selection in words: "1, 4", "0 to 5", "from 7 on"."""
    if isinstance(choice, slice):
        return repr(choice) if choice.stop is not None or choice.step else f"from {choice.start or 0} on"
    if isinstance(choice, np.ndarray):
        choice = choice.tolist()
    if isinstance(choice, range | list | tuple):
        listed = list(choice)
        if len(listed) > 2 and listed == list(range(listed[0], listed[-1] + 1)):
            return f"{listed[0]} to {listed[-1]}"
        return shown(listed)[1:-1] if listed else "none"
    return shown(choice)


def _chosen(
    value: np.ndarray, hook: Hook, positions: Choice, heads: Choice, units: Choice
) -> tuple[np.ndarray, ...]:
    """The selection from a value, as an open mesh of indices, one for each axis."""
    names = axes(hook.name)
    if heads is not None and "heads" not in names:
        raise ValueError(f"{hook.name} has no heads; leave heads out")
    choices = {"positions": positions, "heads": heads, "units": units}
    return np.ix_(
        *(
            _indices(choices[name], hook.positions if name == "positions" else range(size), name, hook)
            for name, size in zip(names, value.shape, strict=True)
        )
    )


def _indices(choice: Choice, present: range, what: str, hook: Hook) -> np.ndarray:
    """The indices of the selection in ``present``; positions beyond it belong to another pass."""
    if choice is None:
        return np.arange(len(present))
    whole = f" of {hook.name}"
    most = None if what == "positions" and not hook.complete else present.stop - 1
    if isinstance(choice, slice):
        if (choice.start or 0) < 0 or (choice.stop or 0) < 0:
            raise ValueError(f"{what}{whole}: {choice}; allowed: ends of at least 0")
        if choice.start:  # the slice must not be empty
            check_integer(what + whole, choice.start, 0, most)
        chosen = list(range(present.stop)[choice])
    else:
        several = choice if isinstance(choice, Iterable) and not isinstance(choice, str) else [choice]
        if isinstance(choice, np.ndarray) and choice.dtype.kind == "b":
            raise TypeError(f"{what}{whole} must be indices, not a Boolean mask: use np.flatnonzero of it")
        chosen = [check_integer(f"{what}{whole}", item, 0, most) for item in several]
    return np.array([item - present.start for item in chosen if item in present], np.intp)
