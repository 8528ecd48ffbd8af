"""Which tokens begin and end words, and which stand for the limits of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import TokenizerError

if TYPE_CHECKING:
    from ..config import Config
    from ..core.lm import LoadedModel

__all__ = ["text_limits", "word_edges"]

# Found once per model: all tokens of a vocabulary are looked at.
_known: WeakKeyDictionary[LoadedModel, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()


def word_edges(model: LoadedModel) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens begin with white space, and which end with it: bool [n_vocab] each.

    Both hold for the tokens that stand for the beginning and the end of a text, too.

    Raises
    ------
    TokenizerError
        No token begins with white space.
    """
    if model in _known:
        return _known[model]
    starts, ends = np.zeros((2, model.config.n_vocab), bool)
    for token in range(model.n_text_tokens):
        text = model.token_text(token)
        starts[token], ends[token] = text[:1].isspace(), text[-1:].isspace()
    if not starts.any():
        raise TokenizerError(
            f"no token of {model.tokenizer.name} begins with white space: where words begin cannot be told; "
            "score without words=True"
        )
    limits = list(text_limits(model.config))
    starts[limits] = ends[limits] = True
    return _known.setdefault(model, (starts, ends))


def text_limits(config: Config) -> set[int]:
    """The tokens that stand for the beginning and the end of a text."""
    return {token for token in (config.bos_token_id, *config.eos_token_ids) if token is not None}
