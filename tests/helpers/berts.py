"""BERTs for tests: with random weights, and those of data/bert/faces.py with their tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data.bert import faces

from gpt2c import BERT
from gpt2c.checkpoint import names
from gpt2c.config import Config
from gpt2c.core import _engine


def random_bert(
    seed=0, *, dtype="float32", backend="native", threads=1, head=None, tokenizer=None, **settings
):
    """A two-layer BERT with random weights, and the weights."""
    masked = head is None
    sizes = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 24,
        "n_inner": 40,
        "n_ctx": 160,
        "n_vocab": 61,
        "n_types": 2,
    }
    config = Config(
        **sizes | {"activation": "gelu", "model_type": "bert", "masked_head": masked, "head": head} | settings
    )
    draw = np.random.default_rng(seed)
    weights = {}
    for name, _, shape in names.expected(config):
        is_gain = name.startswith("ln_") or ".ln_" in name
        numbers = draw.normal(float(is_gain and name.endswith("weight")), 0.4, shape)
        weights[name] = numbers.astype(np.float32)
    built = _engine.Weights(config, weights.__getitem__, dtype=dtype, backend=backend)
    return BERT(built, tokenizer, threads=threads), weights


def loader(root: Path) -> Callable[..., BERT]:
    """Loads a model of faces.py, whose tokenizer may need the library tokenizers."""

    def load(name, **how):
        if name != "bytes":
            pytest.importorskip("tokenizers")
        folder = root / name
        if not folder.exists():
            faces.write(folder, name)
        return BERT.from_pretrained(folder, threads=1, **how)

    return load
