"""bench/loading.py: every kind that it makes is the same model, and its arithmetic; no speed is asserted."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers.strategies import random_model

from gpt2c import GPT2, Config
from gpt2c.core import _engine

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "loading.py"
spec = importlib.util.spec_from_file_location("bench_loading", SCRIPT)
loading = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loading)


@pytest.mark.parametrize("kind", loading.KINDS)
def test_every_kind_is_the_model(kind, tmp_path):
    if "torch" in kind or kind == "nanoGPT":
        pytest.importorskip("torch")
    config = Config(3, 2, 8, 32, 16, 131)
    weights = random_model(config, np.random.default_rng(1), 0.4)
    source = loading.KINDS[kind](GPT2(_engine.Weights(config, weights.__getitem__)), tmp_path)
    source = source / "float32.gpt2c" if kind == "packed" else source
    again = GPT2.from_pretrained(source)
    for name, tensor in weights.items():
        expected = tensor.astype(np.float32)
        if "bfloat16" in kind:
            expected = (expected.view(np.uint32) & 0xFFFF0000).view(np.float32)
        assert np.array_equal(again.weights[name][: len(expected)], expected), name


def test_a_process_is_measured(tmp_path):
    model = GPT2.from_pretrained()
    source = loading.KINDS["packed"](model, tmp_path)
    for kind, path in (("safetensors", tmp_path / "model"), ("packed", source)):
        found = loading.loaded(kind, path, "int8")
        assert found["packed"] == GPT2.from_pretrained(dtype="int8").weights.nbytes
        assert found["seconds"] > 0 and found["peak"] >= 0
    found = loading.loaded("safetensors", tmp_path / "model", "float32")
    assert found["peak"] > 0.9 * model.weights.nbytes


def test_ratios():
    def runs(*seconds):
        return {"int8": [{"seconds": s, "peak": 10 * s, "packed": 88} for s in seconds]}

    rows = loading.table({"safetensors": runs(2, 4, 5), "other": runs(3, 4, 10)}, largest=10)
    assert [row["peak_ratio"] for row in rows] == [0.5, 1.0]
    assert [row["time_ratio"]["median"] for row in rows] == [1, 1.5]
    assert rows[1]["seconds"]["median"] == 4
