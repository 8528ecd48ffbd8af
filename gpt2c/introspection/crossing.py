"""The positions of an encoder's output that a decoder attends to while generating."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.checks import check_index
from ..core.display import Displayed
from ..core.labels import columns, fitted, label

if TYPE_CHECKING:
    from .activations import Activations

__all__ = ["CrossAttention", "cross_attention"]

_WIDTH = 110  # of a table
_CELL = 12  # columns of a token in it, at most


@dataclass(frozen=True, eq=False, repr=False)
class CrossAttention(Displayed):
    """Cross-attention of a layer; ``str()`` is a table of shares in percent.

    T is the number of tokens that the decoder has read, S the number of positions of the encoder's output.

    Attributes
    ----------
    layer : int
    head : int or None
        None: the mean of all heads.
    weights : np.ndarray, float32 [T, S]
        Each row sums to 1: the model's attention when it predicts the next token.
    written : list of str, T
        That next token: the text's own, and in the last row the most probable one.
    sources : list of str, S
        The text of each token that the encoder has read; numbers if it is unknown.
    """

    layer: int
    head: int | None
    weights: np.ndarray
    written: list[str]
    sources: list[str]

    @property
    def title(self) -> str:
        """The title, for plots."""
        which = "mean of all heads" if self.head is None else f"head {self.head}"
        return f"cross-attention, layer {self.layer}, {which}"

    def __repr__(self) -> str:
        return f"<CrossAttention of {len(self.written)} tokens to {len(self.sources)}: {self.title}>"

    def __str__(self) -> str:
        """A row for each generated token, a column for each of the source."""
        return "\n".join([f"{self.title}, in percent", *self._lines()])

    def _lines(self) -> Iterator[str]:
        first = min(max(map(columns, self.written)), _CELL)
        for band in self._bands(first):
            widths = [_width(self.sources[at]) for at in band]
            heads = (fitted(self.sources[at], width) for at, width in zip(band, widths, strict=True))
            yield f"{'':{first}}  {' '.join(heads)}".rstrip()
            for name, row in zip(self.written, self.weights[:, band].tolist(), strict=True):
                cells = (f"{100 * share:{width}.0f}" for share, width in zip(row, widths, strict=True))
                yield f"{fitted(name, first)}  {' '.join(cells)}"

    def _bands(self, first: int) -> Iterator[list[int]]:
        """The columns that fit side by side."""
        band: list[int] = []
        left = _WIDTH - first - 1
        for at, name in enumerate(self.sources):
            width = 1 + _width(name)
            if width > left and band:
                yield band
                band, left = [], _WIDTH - first - 1
            band.append(at)
            left -= width
        yield band


def _width(name: str) -> int:
    return min(max(columns(name), 3), _CELL)


def cross_attention(cache: Activations, layer: int = -1, head: int | None = None) -> CrossAttention:
    """See :meth:`gpt2c.introspection.passes.ActivationCache.cross_attention`."""
    model = cache.model
    layer = check_index("layer", layer, model.config.n_layer)
    pattern = cache["cross_attn.pattern", layer]  # [n_head, T, S]
    if head is not None:
        head = check_index("head", head, len(pattern))
    weights = pattern.mean(axis=0) if head is None else pattern[head]
    following = int(cache.logits[-1, : model.n_text_tokens].argmax())
    ids = [*cache.token_ids[1:].tolist(), following]
    given = model.cross.tokens if model.cross else None
    names = [""] * weights.shape[1] if given is None else given
    sources = [label(name) if name else str(at) for at, name in enumerate(names)]
    written = [label(model.token_text(token), token) for token in ids]
    return CrossAttention(layer, head, weights, written, sources)
