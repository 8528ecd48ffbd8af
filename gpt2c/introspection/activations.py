"""Captured activations of a text, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import counted
from .hooks import axes, full_name

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["Activations", "Captured", "joined", "of_head", "output_matrices"]

Captured = dict[str, list[np.ndarray]]
"""Name -> one array per pass."""


class Activations(Mapping[str, np.ndarray]):
    """The captured activations of one text: a mapping of names (see hooks.py) to float32 arrays.

    ``cache["blocks.3.attn.hook_pattern"]`` and the shorter ``cache["pattern", 3]`` are the same; layers may
    be counted from the end: ``cache["resid_post", -1]``.

    Attributes
    ----------
    model : LoadedModel
    token_ids : np.ndarray
        The text, int32 [T].
    logits : np.ndarray
        float32 [kept, n_vocab]: of the last ``kept`` tokens.
    causal : bool
        Whether later tokens were hidden.
    """

    def __init__(
        self,
        model: LoadedModel,
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

    __eq__ = object.__eq__  # arrays have no simple equality
    __hash__ = object.__hash__

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        n_tokens, n_values = counted(len(self.token_ids), "token"), counted(len(self), "value")
        return f"<{type(self).__name__} of {n_tokens}: {n_values}>"

    @property
    def tokens(self) -> list[str]:
        """The text of each token."""
        return [self.model.token_text(token) for token in self.token_ids.tolist()]


def joined(captured: Captured) -> dict[str, np.ndarray]:
    """Captures of several steps, as of one pass: earlier rows lack the later keys."""
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


def of_head(cache: Activations, name: str, layer: int, head: int) -> np.ndarray:
    """A value of one head, [T, units]: for keys and values, which heads may share, those that it reads."""
    values = cache[name, layer]
    return values[:, head * values.shape[1] // cache.model.config.n_head]


def output_matrices(model: LoadedModel, layer: int) -> np.ndarray:
    """The matrices from each head's values to the stream: [n_head, d_head, n_embd]."""
    config = model.config
    return model.weights[f"h.{layer}.attn.c_proj.weight"].reshape(
        config.n_head, config.head_dim, config.n_embd
    )
