"""Interventions in a pass that TransformerLens and gpt2c are both asked for, as plain data."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from data.golden import recipe

from gpt2c.config import Config
from gpt2c.introspection.hooks import hook_names

INPUTS_OF_HEADS = ("attn_in", "q_input", "k_input", "v_input")
KINDS = ("zero", "mean", "scale", "add", "replace", "tanh")  # tanh stands for a function of the user


class Intervention(NamedTuple):
    """One change of one value. What is not chosen by positions, heads and units stays as it is."""

    name: str
    kind: str
    positions: list[int] | None  # None: all
    heads: list[int] | None
    units: list[int] | None

    @property
    def has_heads(self) -> bool:
        last = self.name.rpartition("hook_")[2]
        return last in ("q", "k", "v", "z", "result", "attn_scores", "pattern", *INPUTS_OF_HEADS)

    @property
    def heads_first(self) -> bool:
        return self.name.rpartition("_")[2] in ("scores", "pattern")

    @property
    def factor(self) -> float:
        return 0.6

    def mask(self, shape: tuple[int, ...]) -> np.ndarray:
        """What is changed of a value of this shape (without a batch dimension), as bool."""
        choices = [self.positions, self.units]
        if self.has_heads:
            choices.insert(0 if self.heads_first else 1, self.heads)
        along = [
            np.ones(size, bool) if choice is None else np.isin(np.arange(size), choice)
            for size, choice in zip(shape, choices, strict=True)
        ]
        return np.logical_and.reduce(np.meshgrid(*along, indexing="ij"))

    def vector(self, size: int) -> np.ndarray:
        """What is added along the last axis: float32 [size]."""
        return (0.3 * recipe.nearly_normal(self.name, (size,))).astype(np.float32)


def interventions(config: Config, n_tokens: int) -> dict[str, list[Intervention]]:
    """Of every name in one of the layers, every kind that makes sense, and some at once.

    What is chosen takes turns, so that every kind meets every choice: positions, heads, units and all.
    """
    last, some = n_tokens - 1, sorted({0, n_tokens // 2})
    two = [0, 1][: min(config.head_dim, config.n_inner, n_tokens)]
    turns = list(product((None, [last], some), (None, [config.n_head - 1]), (None, [0], two)))
    by_short: dict[str, list[str]] = {}
    for name in hook_names(config):
        by_short.setdefault(name.split(".", 2)[-1] if name.startswith("blocks.") else name, []).append(name)
    found = {}
    for number, (short, names) in enumerate(by_short.items()):
        for kind in KINDS:
            name = names[number % len(names)]
            positions, heads, units = turns[(7 * len(found)) % len(turns)]
            one = Intervention(name, kind, positions, None, units)
            if (kind == "zero" and short.endswith("scale")) or (kind == "mean" and one.heads_first):
                continue  # nothing can be divided by 0; rows of a pattern see different keys
            if short.endswith("scale"):
                one = one._replace(units=None)  # there is one
            found[f"{kind} {name}"] = [one._replace(heads=heads) if one.has_heads else one]
    layer = config.n_layer - 1
    found["several"] = [
        Intervention("hook_embed", "replace", [0], None, None),
        Intervention("blocks.0.attn.hook_pattern", "scale", None, [0], None),
        Intervention(f"blocks.{layer}.attn.hook_z", "zero", None, [config.n_head - 1], None),
        Intervention(f"blocks.{layer}.hook_resid_mid", "add", [last], None, None),
        Intervention(f"blocks.{layer}.mlp.hook_post", "mean", None, None, [0]),
    ]
    found["several inputs"] = [
        Intervention("blocks.0.hook_k_input", "replace", None, [0], None),
        Intervention(f"blocks.{layer}.hook_q_input", "add", [last], [config.n_head - 1], None),
        Intervention(f"blocks.{layer}.hook_v_input", "scale", None, [0], None),
        Intervention(f"blocks.{layer}.hook_mlp_in", "zero", some, None, None),
    ]
    return found


class HeadPath(NamedTuple):
    """From one head to the queries, keys or values ("q", "k", "v") of another, in a later layer."""

    sender: tuple[int, int]  # layer and head
    part: str
    receiver: tuple[int, int]


def paths(config: Config) -> list[HeadPath]:
    """One of each part: neighbouring layers, and the first and last."""
    last = config.n_layer - 1
    if last == 0:
        return []
    return [
        HeadPath((0, 0), "q", (last, config.n_head - 1)),
        HeadPath((last - 1, config.n_head - 1), "k", (last, 0)),
        HeadPath((0, config.n_head - 1), "v", (1, 0)),
    ]


def other_ids(key: str, ids: np.ndarray, n_vocab: int) -> np.ndarray:
    """Another text of the same length, to take values from."""
    return (recipe.integers(f"{key} other", len(ids)) % np.uint64(n_vocab)).astype(ids.dtype)


def arguments(one: Intervention) -> dict[str, Any]:
    """Where, as keyword arguments of gpt2c.edits."""
    where = {"positions": one.positions, "heads": one.heads, "units": one.units}
    return {name: chosen for name, chosen in where.items() if chosen is not None}
