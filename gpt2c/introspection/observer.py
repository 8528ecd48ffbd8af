"""The link between a pass and code that observes it: keeps copies, applies edits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import _engine
from .activations import Captured, output_matrices
from .edits import FACTORIES
from .hooks import OUTSIDE, Hook, axes, heads_of, matching, place_of, table_of

if TYPE_CHECKING:
    from ..config import Config
    from ..core.lm import LoadedModel
    from .edits import Edit

__all__ = ["Observer", "Watch", "checked_edits"]

Project = Callable[[np.ndarray, np.ndarray, np.ndarray, list[int]], np.ndarray]
_Projected = tuple[np.ndarray, np.ndarray, list[int], np.ndarray]  # rows, heads, which of q, k and v, values


class Watch:
    """The values to observe: made once, used for any number of passes.

    Parameters
    ----------
    config : Config
    names : iterable of str
        The values to capture, after the edits.
    edited : iterable of str
        The values that may be edited.
    complete : bool
        Whether each pass is over the rest of its texts.
    """

    def __init__(
        self, config: Config, names: Iterable[str], edited: Iterable[str] = (), *, complete: bool = True
    ) -> None:
        self.complete = complete
        self.names, self.edited = frozenset(names), frozenset(edited)
        self.wanted: set[tuple[str, int]] = set()
        self.flags = np.zeros(config.n_layer + 1, np.uint8)
        for name in self.names | self.edited:
            place, layer = place_of(name)
            self.wanted.add((place, layer or 0))
            effects = table_of(config).effects
            if name in self.edited and place in effects:
                self.wanted.add((effects[place], layer or 0))
            self.flags[-1 if layer is None else layer] |= _engine.UNFUSED
            if place == "cross_pattern" and name in self.edited:
                raise ValueError(
                    f"{name} can be captured, but not edited: edit hook_cross_attn_out of the layer, or give "
                    "the model other states"
                )
            if place in ("attn_scores", "pattern", "cross_pattern"):
                self.flags[layer] |= _engine.OBSERVE_PATTERN | (
                    _engine.EDIT_PATTERN if name in self.edited else 0
                )


class Observer:
    """The observer of one pass (see ``_engine.forward``): keeps copies, and applies edits.

    Parameters
    ----------
    model : LoadedModel
    watch : Watch
    sequences : sequence of (KVCache, ids), or of (KVCache, ids, types)
        The sequences of the pass.
    edits : mapping of str to list of functions, or a list of such mappings
        The edits of each name: the same for all sequences, or one mapping for each.
    keep : int or sequence of int
        The number of last rows of each sequence with logits, 0: all; for all sequences, or for each.

    Attributes
    ----------
    captured : list of dict
        For each sequence: name -> list of one array.
    kept : list of int
        The number of rows of each sequence with logits.
    """

    def __init__(
        self,
        model: LoadedModel,
        watch: Watch,
        sequences: Sequence[tuple[Any, ...]],
        edits: Mapping[str, list[Edit]] | Sequence[Mapping[str, list[Edit]]] = MappingProxyType({}),
        *,
        keep: int | Sequence[int] = 0,
    ) -> None:
        self._model, self._watch, self.flags = model, watch, watch.flags
        self._warnings = np.geterr()
        self._edits = [edits] * len(sequences) if isinstance(edits, Mapping) else edits
        rows = [len(ids) for _, ids, *_ in sequences]
        last = [keep] * len(rows) if isinstance(keep, int) else keep
        self.kept = [min(some, n) if some else n for some, n in zip(last, rows, strict=True)]
        self._ends = {True: np.cumsum(self.kept).tolist(), False: np.cumsum(rows).tolist()}
        self._positions = [range(len(cache), len(cache) + len(ids)) for cache, ids, *_ in sequences]
        self.captured: list[Captured] = [defaultdict(list) for _ in sequences]
        self._projected: list[list[_Projected]] = [[] for _ in sequences]  # until this layer's qkv exists
        # The residual stream, and its part that edits of hook_mlp_in must not change.
        self._stream: tuple[np.ndarray, np.ndarray] | None = None
        self._table = table_of(model.config)

    def wants(self, place: str, layer: int) -> bool:
        return (place, layer) in self._watch.wanted

    @np.errstate(all="ignore")  # edits may produce any numbers
    def see(self, place: str, layer: int, found: Any, source: Any = None) -> None:
        prefix = "" if place in OUTSIDE else f"blocks.{layer}."
        names = [prefix + name for name in self._table.places[place]]
        parts = found if isinstance(found, list) else self._split(found, place)
        if place == "mlp_in" and names[0] in self._watch.edited:
            self._stream = found, found.copy()
        sources = self._split(source, place) if isinstance(source, np.ndarray) else parts
        for index, (part, x) in enumerate(zip(parts, sources, strict=True)):
            if place in ("ln_emb", "ln1", "ln2", "ln_final"):
                self._see_norm(index, place, layer, names, part, x)
            elif place == "attn_in":
                self._see_inputs(index, names, part, source)
            elif place == "attn_out":
                self._see_result(index, layer, names[0], part, x)
                self._touch(index, names[1], part)
            elif place == "qkv":
                config = self._model.config
                ends = config.n_head, config.n_head + config.n_kv_head
                values = np.split(self._heads(part), ends, axis=1)  # views: queries, keys, values
                for rows, heads, which, projected in self._projected[index]:
                    for at, one in enumerate(which):
                        values[one][rows, heads] = projected[:, at]
                self._projected[index].clear()
                for name, value in zip(names, values, strict=True):
                    self._touch(index, name, value)
            elif place == "z":
                self._touch(index, names[0], self._heads(part))
            else:
                self._touch(index, names[0], part)
        if place == self._table.effects["mlp_in"] and self._stream is not None:
            stream, before = self._stream
            stream[...], self._stream = before, None

    def _split(self, rows: np.ndarray, place: str) -> list[np.ndarray]:
        return np.split(rows, self._ends[place == "ln_final"][:-1])

    def _heads(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(len(rows), -1, self._model.config.head_dim)

    def _changes(self, index: int, name: str) -> list[Edit]:
        return self._edits[index].get(name, [])

    def _touch(self, index: int, name: str, value: np.ndarray) -> np.ndarray:
        """Edit a value in place and keep a copy, if wanted; returns the changed rows."""
        changes = self._changes(index, name)
        changed = np.zeros(len(value), bool)
        if changes:
            before = value.copy()
            positions = self._positions[index]
            rows = value.shape[axes(name).index("positions")]  # the last norm may lack positions
            layer = place_of(name)[1]
            hook = Hook(name, layer, positions[len(positions) - rows :], self._watch.complete)
            for edit in changes:
                with np.errstate(**self._warnings):  # the caller sees warnings of its own code
                    new = edit(value, hook)
                if new is None:
                    continue
                if np.shape(new) != value.shape:
                    raise ValueError(
                        f"an edit of {name} returned an array {list(np.shape(new))}; needed: "
                        f"{list(value.shape)}, or None after changing the array given"
                    )
                value[...] = new
            changed = (value != before).reshape(len(value), -1).any(axis=1)
        if name in self._watch.names:
            self.captured[index][name].append(value.copy())
        return changed

    def _see_inputs(self, index: int, names: list[str], x: np.ndarray, project: Project) -> None:
        """The input of each head; projects it if it is not the residual stream."""
        if not any(name in self._watch.names or self._changes(index, name) for name in names):
            return
        config = self._model.config
        shared = np.repeat(x[:, None], config.n_head, axis=1)
        self._touch(index, names[0], shared)
        unedited = []

        def put(value: np.ndarray, which: list[int]) -> None:
            rows, heads = np.nonzero((value != x[:, None]).any(axis=2))
            if which and len(rows):
                self._projected[index].append((rows, heads, which, project(value, rows, heads, which)))

        for which, name in enumerate(names[1:]):
            edited = bool(self._changes(index, name))
            value = shared[:, : heads_of(config, name)]
            value = value.copy() if edited else value
            self._touch(index, name, value)
            if edited:
                put(value, [which])
            else:
                unedited.append(which)
        if self._changes(index, names[0]):
            put(shared, unedited)

    def _see_norm(
        self, index: int, place: str, layer: int, names: list[str], normed: np.ndarray, x: np.ndarray
    ) -> None:
        """LayerNorm: its inside, and its output if that has a name."""
        if any(name in self._watch.names or self._changes(index, name) for name in names[:2]):
            self._see_inside_norm(index, place, layer, names, normed, x)
        for name in names[2:]:
            self._touch(index, name, normed)

    def _see_inside_norm(
        self, index: int, place: str, layer: int, names: list[str], normed: np.ndarray, x: np.ndarray
    ) -> None:
        """Scale and normalized rows; the engine has only the input and the result."""
        last = "ln_head" if self._model.config.is_bert else "ln_f"
        tensor = {"ln1": f"h.{layer}.ln_1", "ln2": f"h.{layer}.ln_2", "ln_emb": "ln_emb"}.get(place, last)
        gain, bias = (self._model.weights[f"{tensor}.{part}"] for part in ("weight", "bias"))
        centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
        variance = (centred**2).mean(axis=1, keepdims=True)
        scale = np.sqrt(variance + self._model.config.layer_norm_epsilon).astype(np.float32)
        changed = self._touch(index, names[0], scale)
        normalized = (centred / scale).astype(np.float32)
        changed |= self._touch(index, names[1], normalized)
        for rows, *_ in self._projected[index]:
            if changed[rows].any():
                raise ValueError(
                    f"{names[0]} or {names[1]} is edited at a position where heads read something other than "
                    "the residual stream, and so have their own LayerNorms: edit one or the other"
                )
        normed[changed] = normalized[changed] * gain + bias

    def _see_result(self, index: int, layer: int, name: str, out: np.ndarray, z: np.ndarray) -> None:
        """Each head's addition; the engine has only the sum."""
        if not (name in self._watch.names or self._changes(index, name)):
            return
        heads = self._heads(z)
        outward = output_matrices(self._model, layer)
        result = np.einsum("thd,hde->the", heads, outward, optimize=True)
        before = result.copy()
        changed = self._touch(index, name, result)
        out[changed] += (result - before)[changed].sum(axis=1)


def checked_edits(model: LoadedModel, edits: Iterable[tuple[str, Edit]]) -> dict[str, list[Edit]]:
    """The edits of each name, in order."""
    changes: dict[str, list[Edit]] = defaultdict(list)
    for pair in edits if isinstance(edits, Iterable) else [edits]:
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
            raise TypeError(
                "edits are pairs of a name and a function, such as "
                f"('blocks.0.attn.hook_z', edits.zero(heads=1)), not {pair!r}"
            )
        if pair[1] in FACTORIES:
            raise TypeError(f"edits.{pair[1].__name__} makes an edit: call it, edits.{pair[1].__name__}(...)")
        for name in matching(model.config, pair[0]):
            changes[name].append(pair[1])
    return changes
