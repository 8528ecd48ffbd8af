"""Texts that are JSON following a schema, by a grammar of llguidance."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .http import APIError

if TYPE_CHECKING:
    from ..core.lm import LoadedModel

__all__ = ["bitmask_of"]

MOST_KNOWN = 256  # more than the texts of a request that run at once


class _Vocabulary:
    """A tokenizer with the interface of llguidance."""

    bos_token_id = None

    def __init__(self, model: LoadedModel) -> None:
        self.eos_token_id = model.config.eos_token_ids[0]
        self.tokens = [model.token_bytes(token) for token in range(model.n_text_tokens)]
        self.special_token_ids = [self.eos_token_id]
        self._encode = model.tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=1)  # a server has one model, and its vocabulary takes some tenths of a second
def _tokenizer_of(model: LoadedModel) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Vocabulary(model)))


def bitmask_of(model: LoadedModel, schema: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """The ``token_bitmask`` of ``GPT2.generate`` for JSON of a schema, without extra white space.

    Raises
    ------
    APIError
        llguidance is not installed, the schema is invalid, or the model has no end-of-text token.
    """
    try:
        from llguidance import LLMatcher
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
    except ImportError:
        raise _error("json_schema needs llguidance on the server: pip install llguidance") from None
    if not model.config.eos_token_ids:
        raise _error("json_schema needs an end-of-text token, but this model has none")
    tokenizer = _tokenizer_of(model)
    try:
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(schema), defaults={"whitespace_flexible": False}
        )
    except ValueError as error:
        raise _error(f"json_schema is not supported: {error}") from None
    beginning = LLMatcher(tokenizer, grammar)
    if problem := beginning.get_error():
        raise _error(f"json_schema is not supported: {problem}")
    known: OrderedDict[bytes, Any] = OrderedDict({b"": beginning})  # by the generated tokens

    def allowed(new_ids: np.ndarray) -> np.ndarray:
        before = known.get(new_ids[:-1].tobytes())
        matcher, rest = (beginning, new_ids) if before is None else (before, new_ids[-1:])
        matcher = matcher.deep_copy()  # a search, or another text, may also continue from here
        if len(rest) and not matcher.consume_tokens(rest.tolist()):
            raise _error(f"json_schema: {matcher.get_error()}")
        known[new_ids.tobytes()] = matcher
        if len(known) > MOST_KNOWN:
            known.popitem(last=False)
        mask = allocate_token_bitmask(1, tokenizer.vocab_size)
        fill_next_token_bitmask(matcher, mask)
        row: np.ndarray = mask[0]
        return row

    return allowed


def _error(message: str) -> APIError:
    return APIError(400, message, param="json_schema")
