"""Activation patching: which value, moved from one run to another, changes the answer.

After Vig et al. (2020) and Meng et al. (2022): a clean text and a corrupted one, of the same length, differ
in what matters. Each patch runs the corrupted text with one value of the clean one. Everything before a
patch, in the text and in the layers, is unchanged and not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..core import _engine
from ..core.batching import CACHE_BYTES, calls_of
from ..core.checks import check_integer
from ..core.roles import check_predicts_tokens
from ..errors import counted
from .edits import replace
from .hooks import axes, full_name, heads_of, table_of
from .observer import Observer, Watch
from .passes import capture, encoded
from .results import Patching

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["Metric", "patch"]

Metric = Callable[[np.ndarray], float]


class _Patch(NamedTuple):
    """The patch in each layer, and the place of its answer: ``at`` in the result's other axes."""

    at: tuple[int, ...]
    positions: int | None  # None: all
    heads: int | None
    first: int  # position to compute again


def patch(
    model: LoadedModel,
    clean: Any,
    corrupted: Any,
    over: tuple[Any, ...],
    metric: Metric,
    *,
    types: Sequence[Any] | None = None,
    logits_to_keep: int | None = None,
    progress: bool = False,
) -> Patching:
    """See :meth:`gpt2c.GPT2.patch`; also used by :class:`gpt2c.BERT`."""
    check_predicts_tokens(model.config, model.name)
    usual = 0 if model.config.is_bert else 1
    keep = usual if logits_to_keep is None else check_integer("logits_to_keep", logits_to_keep, 0)
    (clean_ids, corrupted_ids), kinds = encoded(model, [clean, corrupted], types)
    return _patched(model, clean_ids, corrupted_ids, kinds, over, metric, keep, progress)


def _patched(
    model: LoadedModel,
    clean: np.ndarray,
    corrupted: np.ndarray,
    types: Sequence[np.ndarray | None],
    over: tuple[Any, ...],
    metric: Metric,
    logits_to_keep: int,
    progress: bool,
) -> Patching:
    """The same for token ids, int32 [T] each."""
    if len(clean) != len(corrupted):
        raise ValueError(
            f"the clean text has {counted(len(clean), 'token')} and the corrupted one {len(corrupted)}; both "
            "must have the same number, so that every position has a counterpart"
        )
    if not callable(metric):
        raise TypeError(f"metric must be a function of the logits, not {type(metric).__name__}")
    name, layers, positions, heads = _checked(model, over, len(clean))
    places = [full_name(model.config, name, layer) for layer in layers]
    streams = [full_name(model.config, "resid_pre", layer) for layer in layers]
    source = _values(model, clean, types[0], places)
    cache = model.new_cache(len(corrupted))
    sequences = [(cache, corrupted, types[1])]
    observer = Observer(model, Watch(model.config, streams), sequences)
    logits = _engine.forward(
        model.weights, sequences, keep=logits_to_keep, threads=model.threads, observer=observer
    )

    chosen = [[None] if several is None else several for several in (positions, heads)]
    patches = [
        _Patch(
            tuple(i for i, several in ((i, positions), (j, heads)) if several is not None),
            position,
            head,
            0 if model.config.is_bert else position or 0,
        )
        for i, position in enumerate(chosen[0])
        for j, head in enumerate(chosen[1])
    ]
    shape = [len(layers), *(len(several) for several in (positions, heads) if several is not None)]
    result = np.empty(shape, np.float64)
    at_once = max(1, CACHE_BYTES // cache.nbytes)  # each patch continues from its own start
    with tqdm(total=result.size, desc="patching", delay=1.5, leave=False, disable=not progress) as bar:
        for begin in range(0, len(patches), at_once):
            group = patches[begin : begin + at_once]
            caches = [_beginning(model, cache, one.first) for one in group]
            for i, layer in enumerate(layers):
                start = layer, observer.captured[0][streams[i]][0]
                for part in calls_of([len(corrupted) - one.first for one in group]):
                    answers = _run(
                        model, group[part], caches[part], corrupted, start, places[i], source, logits_to_keep
                    )
                    for one, answer in zip(group[part], answers, strict=True):
                        whole = logits.copy()
                        whole[len(whole) - len(answer) :] = answer
                        result[(i, *one.at)] = _number(metric(whole))
                        bar.update()
    texts = [model.token_text(token) for token in corrupted.tolist()]
    return Patching(name, layers, positions, heads, corrupted, texts, result)


def _checked(
    model: LoadedModel, over: Any, length: int
) -> tuple[str, list[int], list[int] | None, list[int] | None]:
    if not (isinstance(over, tuple) and 2 <= len(over) <= 4 and isinstance(over[0], str)):
        raise TypeError(
            "over must be a tuple (name, layers), (name, layers, positions) or (name, layers, positions, "
            f"heads), such as ('resid_pre', range(12), range(15)), not {over!r}"
        )
    name, *choices = over
    config = model.config
    full = full_name(config, name, 0)
    has_heads, n_heads = "heads" in axes(full), heads_of(config, full)
    if len(choices) == 3 and not has_heads:
        raise ValueError(f"{name} has no heads: leave them out of over")
    positions, heads = [*choices[1:], "all", "all"][:2]
    return (
        name,
        _indices("layers", choices[0], config.n_layer),
        None
        if isinstance(positions, str) and positions == "all"
        else _indices("positions", positions, length),
        None if isinstance(heads, str) and heads == "all" else _indices("heads", heads, n_heads),
    )


def _indices(what: str, choice: Any, size: int) -> list[int]:
    """The selected layers, positions or heads, counted from 0."""
    if isinstance(choice, str) or not isinstance(choice, Iterable):
        together = "" if what == "layers" else ", or 'all' for all at once"
        raise TypeError(f"{what} must be a list or range of integers{together}, not {choice!r}")
    low = 0 if what == "positions" else -size  # layers and heads may be counted from the end
    chosen = [check_integer(f"one of the {what}", item, low, size - 1) % size for item in choice]
    if not chosen:
        raise ValueError(f"there are no {what} to patch: the list is empty")
    return chosen


def _values(
    model: LoadedModel, ids: np.ndarray, types: np.ndarray | None, places: list[str]
) -> dict[str, np.ndarray]:
    """A text's values at one place of each layer. Values that all heads read are kept only once."""
    config = model.config
    short = places[0].split(".", 2)[2]
    copies = table_of(config).copies
    kept = [place.removesuffix(short) + copies.get(short, short) for place in places]
    [found] = capture(model, [ids], kept, types=[types], logits_to_keep=1)
    values = [found[name] for name in kept]
    if short in copies and "heads" in axes(short):
        shape = len(ids), heads_of(config, short), config.n_embd
        values = [np.broadcast_to(value[:, None], shape) for value in values]
    return dict(zip(places, values, strict=True))


def _number(answer: Any) -> float:
    if np.ndim(answer) or not isinstance(answer, Real | np.number | np.ndarray):
        raise TypeError(f"metric must return one number, not {type(answer).__name__} {answer!r}"[:200])
    return float(answer)


def _beginning(model: LoadedModel, cache: _engine.KVCache, n: int) -> _engine.KVCache:
    """The first ``n`` positions of a cache, with room for the rest."""
    if n == 0:
        return model.new_cache(cache.n_ctx)
    beginning = cache.fork()
    beginning.truncate(n)
    return beginning


def _run(
    model: LoadedModel,
    patches: Sequence[_Patch],
    caches: Sequence[_engine.KVCache],
    ids: np.ndarray,
    start: tuple[int, np.ndarray],
    place: str,
    source: Mapping[str, np.ndarray],
    keep: int,
) -> list[np.ndarray]:
    """The logits of each patch, from a layer on."""
    layer, stream = start
    sequences = [(cache, ids[one.first :]) for one, cache in zip(patches, caches, strict=True)]
    edits = [{place: [replace(source, positions=one.positions, heads=one.heads)]} for one in patches]
    observer = Observer(model, Watch(model.config, (), [place]), sequences, edits, keep=keep)
    rows = np.concatenate([stream[one.first :] for one in patches])
    logits = _engine.forward(
        model.weights, sequences, keep=keep, threads=model.threads, observer=observer, start=(layer, rows)
    )
    return np.split(logits, np.cumsum(observer.kept)[:-1])
