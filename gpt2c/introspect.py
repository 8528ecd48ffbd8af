"""Looking inside: passes over texts that keep what they compute, or change it on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _engine
from .edits import FACTORIES
from .generation import calls_of
from .hooks import OUTSIDE, PLACES, Hook, NamesFilter, axes, full_name, matching, place_of
from .prompts import check_lengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .config import Config
    from .edits import Edit
    from .lens import Attribution, HeadScores, LogitLens
    from .model import GPT2

__all__ = ["ActivationCache", "Observer", "Watch", "checked_edits", "joined", "run_with_cache"]

Captured = dict[str, list[np.ndarray]]


class ActivationCache(Mapping[str, np.ndarray]):
    """What was captured of one text: a mapping of names (see :mod:`gpt2c.hooks`) to float32 arrays.

    ``cache["blocks.3.attn.hook_pattern"]`` and, shorter, ``cache["pattern", 3]`` are the same; layers may be
    counted from the end: ``cache["resid_post", -1]``.

    Attributes
    ----------
    model : GPT2
    token_ids : np.ndarray
        The text, int32 [T].
    logits : np.ndarray
        float32 [kept, n_vocab]: of the last ``kept`` tokens.
    causal : bool
        Whether later tokens were hidden.
    """

    def __init__(
        self,
        model: GPT2,
        token_ids: np.ndarray,
        values: Mapping[str, np.ndarray],
        logits: np.ndarray,
        *,
        causal: bool = True,
    ) -> None:
        self.model, self.token_ids, self.logits, self.causal = model, token_ids, logits, causal
        self._values = dict(values)

    def __getitem__(self, name: str | tuple[str, int]) -> np.ndarray:
        key = (name,) if isinstance(name, str) else name
        if not (isinstance(key, tuple) and len(key) in (1, 2) and isinstance(key[0], str)):
            raise KeyError(f"{name!r} is neither a name nor a pair (name, layer)")
        full = full_name(self.model.config, *key)
        if full not in self._values:
            raise KeyError(f"{full} was not captured: name it in names_filter")
        return self._values[full]

    __eq__ = object.__eq__  # arrays have no equality of their own
    __hash__ = object.__hash__

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<ActivationCache of {len(self.token_ids)} tokens: {len(self)} values>"

    @property
    def tokens(self) -> list[str]:
        """The text of each token."""
        return [self.model.token_text(token) for token in self.token_ids.tolist()]

    def logit_lens(self, k: int = 5, tokens: int | Sequence[int] | None = None) -> LogitLens:
        """What the model would say next if it ended after each layer.

        The residual stream before the first layer and after every layer is what this needs captured.

        Parameters
        ----------
        k : int
            How many of the most probable tokens, 1 to the size of the vocabulary.
        tokens : int or sequence of int, optional
            The tokens whose probabilities and ranks are wanted: one for each position, or one for all. By
            default the text's own next ones, and in the end the model's most probable.

        Returns
        -------
        gpt2c.lens.LogitLens
        """
        from .lens import logit_lens

        return logit_lens(self, k, tokens)

    def attribution(
        self, token: int | None = None, against: int | None = None, position: int = -1
    ) -> Attribution:
        """What each component of the model, and each head, adds to a logit (direct logit attribution).

        Parameters
        ----------
        token : int, optional
            Whose logit; the most probable one by default.
        against : int, optional
            The difference of two logits instead: that of ``token`` minus that of this one.
        position : int
            Which token of the text it comes after; negative ones count from the end.

        Returns
        -------
        gpt2c.lens.Attribution

        Raises
        ------
        ValueError
            The position has no logits, for only the last ones were kept.
        """
        from .lens import attribution

        return attribution(self, token, against, position)

    def head_scores(self) -> HeadScores:
        """How much each head attends to the token before, to earlier occurrences of the token, and so on.

        Returns
        -------
        gpt2c.lens.HeadScores
            With what the scores are, and where they come from.
        """
        from .lens import head_scores

        return head_scores(self)

    def plot(self, layer: int, head: int | None = None, *, ax: Axes | None = None) -> Figure:
        """Draw the attention pattern: who attends to whom, grey where the mask hides the key.

        Parameters
        ----------
        layer : int
            Counted from 0, negative ones from the end. Its attn.hook_pattern must have been captured.
        head : int, optional
            The same; by default all heads of the layer, one map each.
        ax : matplotlib axes, optional
            To draw one head into, instead of a new figure.

        Returns
        -------
        matplotlib.figure.Figure
            It is not shown: that is ``matplotlib.pyplot.show()``, or a notebook's affair.

        Raises
        ------
        ImportError
            There is no matplotlib: ``pip install "gpt2c[plot]"``.
        """
        from .plots import plot_attention

        return plot_attention(self, layer, head, ax)

    def _repr_html_(self) -> str | None:
        if not any(name.endswith("hook_pattern") for name in self):
            return None  # there is nothing to draw: notebooks show the repr
        from .pages import fragment

        return fragment(self)


def run_with_cache(
    model: GPT2,
    prompts: Sequence[np.ndarray],
    names_filter: NamesFilter = None,
    edits: Iterable[tuple[str, Edit]] = (),
    *,
    causal: bool = True,
    logits_to_keep: int = 0,
) -> list[ActivationCache]:
    """What :meth:`gpt2c.GPT2.run_with_cache` does, for token ids, int32 [at least 1] each."""
    if not isinstance(causal, bool | np.bool_):
        raise TypeError(f"causal must be True or False; got {causal!r}")
    names, changes = matching(model.config, names_filter), checked_edits(model, edits)
    check_lengths(prompts, model.config.n_ctx)
    watch = Watch(model.config, names, changes)
    found = []
    for part in calls_of([len(ids) for ids in prompts]):
        group = prompts[part]
        sequences = [(model.new_cache(len(ids)), ids) for ids in group]
        observer = Observer(model, watch, sequences, changes, keep=logits_to_keep)
        logits = _engine.forward(
            model.weights,
            sequences,
            keep=logits_to_keep,
            threads=model.threads,
            observer=observer,
            both_ways=not causal,
        )
        kept = np.split(logits, np.cumsum(observer.kept)[:-1])
        found += [
            ActivationCache(
                model, ids, {name: value for name, [value] in captured.items()}, rows, causal=causal
            )
            for ids, captured, rows in zip(group, observer.captured, kept, strict=True)
        ]
    return found


def checked_edits(model: GPT2, edits: Iterable[tuple[str, Edit]]) -> dict[str, list[Edit]]:
    """The edits of each name, in their order."""
    changes: dict[str, list[Edit]] = defaultdict(list)
    for pair in edits:
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
            raise TypeError(
                "edits are pairs of a name and a function, such as "
                f"('blocks.0.attn.hook_z', edits.zero(heads=1)); got {pair!r}"
            )
        if pair[1] in FACTORIES:
            raise TypeError(f"edits.{pair[1].__name__} makes an edit: call it, edits.{pair[1].__name__}(...)")
        for name in matching(model.config, pair[0]):
            changes[name].append(pair[1])
    return changes


def joined(captured: Captured) -> dict[str, np.ndarray]:
    """What was captured in several steps as if it had been in one pass: earlier rows lack the later keys."""
    return {name: _joined(name, parts) for name, parts in captured.items()}


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    if axes(name)[0] != "heads":
        return np.concatenate(parts)
    n_keys = parts[-1].shape[2]
    hidden = -np.inf if name.endswith("attn_scores") else 0
    wide = [
        np.pad(part, ((0, 0), (0, 0), (0, n_keys - part.shape[2])), constant_values=hidden) for part in parts
    ]
    return np.concatenate(wide, axis=1)


class Watch:
    """What is to be seen of passes: made once, used for any number of them.

    Parameters
    ----------
    config : Config
    names : iterable of str
        What is captured, after the edits.
    edited : iterable of str
        What may be edited.
    complete : bool
        Whether each pass is over the rest of its texts.
    """

    def __init__(
        self, config: Config, names: Iterable[str], edited: Iterable[str] = (), *, complete: bool = True
    ) -> None:
        self.complete = complete
        self.names, edited = frozenset(names), frozenset(edited)
        self.wanted: set[tuple[str, int]] = set()
        self.flags = np.zeros(config.n_layer + 1, np.uint8)
        for name in self.names | edited:
            place, layer = place_of(name)
            self.wanted.add((place, layer or 0))
            self.flags[-1 if layer is None else layer] |= _engine.APART
            if place in ("attn_scores", "pattern"):
                self.flags[layer] |= _engine.SEE_PATTERN | (_engine.CHANGE_PATTERN if name in edited else 0)


class Observer:
    """What the engine calls during one pass (see ``_engine.forward``): keeps copies, and applies edits.

    Parameters
    ----------
    model : GPT2
    watch : Watch
    sequences : sequence of (KVCache, ids)
        Those of the pass.
    edits : mapping of str to list of functions, or a list of such mappings
        The edits of each name: the same for all sequences, or those of each.
    keep : int
        How many last rows of each sequence have logits; 0: all.

    Attributes
    ----------
    captured : list of dict
        Of each sequence: name -> list of one array.
    kept : list of int
        How many rows of each sequence have logits.
    """

    def __init__(
        self,
        model: GPT2,
        watch: Watch,
        sequences: Sequence[tuple[_engine.KVCache, np.ndarray]],
        edits: Mapping[str, list[Edit]] | Sequence[Mapping[str, list[Edit]]] = MappingProxyType({}),
        *,
        keep: int = 0,
    ) -> None:
        self._model, self._watch, self.flags = model, watch, watch.flags
        self._edits = [edits] * len(sequences) if isinstance(edits, Mapping) else edits
        rows = [len(ids) for _, ids in sequences]
        self.kept = [min(keep, n) if keep else n for n in rows]
        self._ends = {True: np.cumsum(self.kept).tolist(), False: np.cumsum(rows).tolist()}
        self._positions = [range(len(cache), len(cache) + len(ids)) for cache, ids in sequences]
        self.captured: list[Captured] = [defaultdict(list) for _ in sequences]

    def wants(self, place: str, layer: int) -> bool:
        return (place, layer) in self._watch.wanted

    def see(self, place: str, layer: int, found: Any, source: np.ndarray | None = None) -> None:
        prefix = "" if place in OUTSIDE else f"blocks.{layer}."
        names = [prefix + name for name in PLACES[place]]
        parts = found if isinstance(found, list) else self._split(found, place)
        sources = parts if source is None else self._split(source, place)
        for index, (part, x) in enumerate(zip(parts, sources, strict=True)):
            if place in ("ln1", "ln2", "ln_final"):
                self._see_norm(index, layer, names, part, x)
            elif place == "attn_out":
                self._see_result(index, layer, names[0], part, x)
                self._touch(index, names[1], part)
            elif place == "qkv":
                for name, value in zip(names, self._heads(part, 3), strict=True):
                    self._touch(index, name, value)
            elif place == "z":
                self._touch(index, names[0], self._heads(part, 1)[0])
            else:
                self._touch(index, names[0], part)

    def _split(self, rows: np.ndarray, place: str) -> list[np.ndarray]:
        return np.split(rows, self._ends[place == "ln_final"][:-1])

    def _heads(self, rows: np.ndarray, n: int) -> np.ndarray:
        config = self._model.config
        return rows.reshape(len(rows), n, config.n_head, config.head_dim).swapaxes(0, 1)

    def _changes(self, index: int, name: str) -> list[Edit]:
        return self._edits[index].get(name, [])

    def _touch(self, index: int, name: str, value: np.ndarray) -> np.ndarray:
        """Edit a value in place and keep a copy, as far as wanted; returns which rows have changed."""
        changes = self._changes(index, name)
        changed = np.zeros(len(value), bool)
        if changes:
            before = value.copy()
            positions = self._positions[index]
            rows = value.shape[axes(name).index("positions")]  # of the last norm not all positions
            layer = place_of(name)[1]
            hook = Hook(name, layer, positions[len(positions) - rows :], self._watch.complete)
            for edit in changes:
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

    def _see_norm(self, index: int, layer: int, names: list[str], normed: np.ndarray, x: np.ndarray) -> None:
        """LayerNorm, of which the engine has the input and the result alone."""
        if not any(name in self._watch.names or self._changes(index, name) for name in names):
            return
        tensor = {"ln1": f"h.{layer}.ln_1", "ln2": f"h.{layer}.ln_2"}.get(names[0].split(".")[-2], "ln_f")
        gain, bias = (self._model.weights.tensors[f"{tensor}.{part}"] for part in ("weight", "bias"))
        centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
        variance = (centred**2).mean(axis=1, keepdims=True)
        scale = np.sqrt(variance + self._model.config.layer_norm_epsilon).astype(np.float32)
        changed = self._touch(index, names[0], scale)
        normalized = (centred / scale).astype(np.float32)
        changed |= self._touch(index, names[1], normalized)
        normed[changed] = normalized[changed] * gain + bias

    def _see_result(self, index: int, layer: int, name: str, out: np.ndarray, z: np.ndarray) -> None:
        """What each head adds, of which the engine has the sum alone."""
        if not (name in self._watch.names or self._changes(index, name)):
            return
        heads = self._heads(z, 1)[0]
        result = np.einsum("thd,hde->the", heads, self._model.weights.output_projection(layer), optimize=True)
        before = result.copy()
        changed = self._touch(index, name, result)
        out[changed] += (result - before)[changed].sum(axis=1)
