"""Looking inside: a pass over texts that keeps what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .hooks import full_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .model import GPT2

__all__ = ["ActivationCache"]


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
        if name not in self._values:
            name = full_name(self.model.config, *((name,) if isinstance(name, str) else name))
        if name not in self._values:
            raise KeyError(f"{name} was not captured: name it in names_filter")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<ActivationCache of {len(self.token_ids)} tokens: {len(self)} values>"

    @property
    def tokens(self) -> list[str]:
        """The text of each token."""
        return [self.model.token_bytes(token).decode("utf-8", "replace") for token in self.token_ids.tolist()]

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

    def _repr_html_(self) -> str:
        from .pages import fragment

        return fragment(self)
