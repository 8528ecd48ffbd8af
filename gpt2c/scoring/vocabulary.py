"""The tokens that start and end words, and those that mark the limits of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import TokenizerError

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["text_limits", "word_edges"]

# Computed once per model, over all tokens of the vocabulary.
_known: WeakKeyDictionary[LoadedModel, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()


def word_edges(model: LoadedModel) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that start a word, and those that end with white space: bool [n_vocab] each.

    Both include the tokens that mark the start and the end of a text.

    Raises
    ------
    TokenizerError
        No token starts or ends a word.
    """
    if model in _known:
        return _known[model]
    starts, ends = np.zeros((2, model.config.n_vocab), bool)
    for token in range(model.n_text_tokens):
        starts[token] = model.tokenizer.begins_word(token)
        ends[token] = model.token_text(token)[-1:].isspace()
    if not (starts.any() or ends.any()):
        raise TokenizerError(
            f"no token of {model.tokenizer.name} starts or ends a word, so word boundaries are unknown; "
            "score without words=True"
        )
    limits = list(text_limits(model))
    starts[limits] = ends[limits] = True
    return _known.setdefault(model, (starts, ends))


def text_limits(model: LoadedModel) -> set[int]:
    """The tokens that mark the start and the end of a text."""
    config, tokenizer = model.config, model.tokenizer
    limits = (config.bos_token_id, *config.eos_token_ids, *tokenizer.prefix, *tokenizer.suffix)
    return {token for token in limits if token is not None and token < config.n_vocab}
