"""The benchmark's arithmetic, and that it measures something; no speed is asserted."""

import argparse
import json

import pytest

from gpt2c import GPT2, _ops, benchmark
from gpt2c.config import Config


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(benchmark, "FMA_SECONDS", 0.001)
    monkeypatch.setattr(benchmark, "DECODE", 8)


CONFIG_124M = Config(
    n_layer=12, n_head=12, n_embd=768, n_inner=3072, n_ctx=1024, n_vocab=50257, activation="gelu_new",
    layer_norm_epsilon=1e-5,
)  # fmt: skip


def test_bytes_and_operations_of_124m():
    """Against the parameter count of the 124M model: 124,439,808, of which 786,432 are positions."""
    assert benchmark.bytes_per_token(CONFIG_124M, 0) == 4 * (
        124_439_808 - 786_432 + 2 * 768
    )  # + one embedding row, one position
    assert (
        benchmark.bytes_per_token(CONFIG_124M, 100) - benchmark.bytes_per_token(CONFIG_124M, 0)
        == 12 * 2 * 768 * 100 * 4
    )
    dense = 2 * 12 * 12 * 768 * 768  # per token: two per weight of the layers
    assert benchmark.flop_of_prompt(CONFIG_124M, 1) == dense + 12 * 4 * 768 + 2 * 768 * 50257
    assert (
        benchmark.flop_of_prompt(CONFIG_124M, 512)
        == 512 * dense + 12 * 4 * 768 * 512 * 513 / 2 + 2 * 768 * 50257
    )


def test_bench_reports_rates_beside_roofs(quick, capsys):
    arguments = argparse.Namespace(
        shape=None, model=None, backend="native", threads=1, revision=None, offline=True, json=True
    )
    assert benchmark.main_bench(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["rates"]) == {"pp512", "tg8"}
    for rate in result["rates"].values():
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
        assert rate["share"] > 0
    assert result["roofs"]["read"] > 1e8
    assert result["roofs"]["fma"] > 1e8
    assert result["model"]["load_seconds"] > 0
    arguments.json = False
    benchmark.main_bench(arguments)
    text = capsys.readouterr().out
    assert "of reads" in text
    assert "of multiply-adds" in text


def test_wrong_answers_get_no_speed(quick, monkeypatch):
    model = GPT2.from_pretrained(threads=1)
    right = benchmark._engine.forward
    monkeypatch.setattr(
        benchmark._engine, "forward", lambda *a, **k: right(*a, **k) + (0.01 if k.get("keep") else 0)
    )
    with pytest.raises(RuntimeError, match="its speed means nothing"):
        benchmark.bench(model)


def test_unknown_shape():
    with pytest.raises(ValueError, match="shape is '125M'; allowed: 124M, 355M, 774M, 1558M"):
        benchmark.random_model("125M")
    with pytest.raises(ValueError, match="not both"):
        benchmark.main_bench(argparse.Namespace(shape="124M", model="gpt2"))


def test_operations_are_counted():
    import numpy as np

    for isa in benchmark._engine.isas():
        one = _ops.multiply_add(1, isa=isa)
        assert one in (2 * 6 * 16, 2 * 12 * 16)
        assert _ops.multiply_add(10, isa=isa, threads=2) == 20 * one
        assert _ops.read_all(np.ones(1024, np.float32), isa=isa, threads=2) == 1024
