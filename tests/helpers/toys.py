"""Models for tests of what stands around the engine: small random ones, and one that recites a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace

import numpy as np

from gpt2c import GPT2, Config
from gpt2c.checkpoint import BUNDLED
from gpt2c.core import _engine
from gpt2c.tokenizer import load_tokenizer
from helpers.strategies import random_model, tensor_shapes


def random_gpt2(
    seed: int = 0,
    *,
    n_vocab: int = 61,
    n_ctx: int = 40,
    tokenizer=None,
    std: float = 0.4,
    dtype: str = "float32",
    **settings,
) -> tuple[GPT2, dict[str, np.ndarray]]:
    """A two-layer model with random weights, and the weights."""
    config = Config(
        n_layer=2,
        n_head=2,
        n_embd=24,
        n_inner=None,
        n_ctx=n_ctx,
        n_vocab=n_vocab,
        **{"bos_token_id": 0, **settings},
    )
    weights = random_model(config, np.random.default_rng(seed), std)
    return GPT2(_engine.Weights(config, weights.__getitem__, dtype=dtype), tokenizer, threads=1), weights


def gpt2(model, *, threads: int = 1, **how) -> GPT2:
    """A model of `strategies.models`: its configuration and weights."""
    config, tensors, _ = model
    return GPT2(_engine.Weights(config, tensors.__getitem__, **how), threads=threads)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal byte for byte."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@cache
def bundled_tokenizer():
    """The byte-level tokenizer of the bundled model: 4,096 tokens, 0 is <|endoftext|>."""
    return load_tokenizer(BUNDLED, SimpleNamespace(n_vocab=4096, bos_token_id=0, eos_token_ids=(0,)))


@cache
def byte_ids() -> list[int]:
    """For each byte, the token that is this byte alone."""
    single = {bundled_tokenizer().token_bytes(token): token for token in range(1, 4096)}
    return [single[bytes([byte])] for byte in range(256)]


def reciting_gpt2(script: Sequence[int], *, eos: tuple[int, ...] = (0,), **settings) -> GPT2:
    """A model that, whatever the prompt says, finds ``script[p]`` most probable as the token at position p.

    Its layers add nothing and its tokens look all the same, so that the final LayerNorm sees the position
    alone, as a one in n_ctx places; the head answers with the token that stands there. Prompts of one token
    leave ``script[0]`` out.
    """
    n_ctx = len(script) + 1
    config = Config(
        n_layer=1,
        n_head=1,
        n_embd=n_ctx,
        n_inner=1,
        n_ctx=n_ctx,
        n_vocab=4096,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_ids=eos,
        **settings,
    )
    weights = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(config).items()}
    weights["wpe.weight"][:] = np.eye(n_ctx)
    weights["ln_f.weight"][:] = 1
    for position, token in enumerate(script[1:]):
        weights["lm_head.weight"][token, position] = 1
    return GPT2(_engine.Weights(config, weights.__getitem__), bundled_tokenizer(), threads=1)


def recite(text: str | bytes, *, end: bool = True, **settings) -> GPT2:
    """A model that continues any one-token prompt with ``text``, byte by byte, and then ends the text."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    return reciting_gpt2([0, *(byte_ids()[byte] for byte in data), *([0] if end else [])], **settings)


def counted_calls(monkeypatch) -> list[tuple[int, int]]:
    """A list to which from now on every ``forward`` of the engine adds (number of sequences, of rows)."""
    seen = []
    forward = _engine.forward

    def counting(weights, sequences, **settings):
        seen.append((len(sequences), sum(len(ids) for _, ids in sequences)))
        return forward(weights, sequences, **settings)

    monkeypatch.setattr(_engine, "forward", counting)
    return seen
