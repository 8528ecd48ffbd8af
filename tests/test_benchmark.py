"""The benchmark's arithmetic, and that it measures something; no speed is asserted."""

import argparse
import json

import numpy as np
import pytest

from gpt2c import GPT2, _engine, _ops, benchmark
from gpt2c.config import Config


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark, "ROOF_SECONDS", 0.001)
    monkeypatch.setattr(benchmark, "ROOF_STEPS", 1000)
    monkeypatch.setattr(benchmark, "DECODE", 8)


CONFIG_124M = Config(
    n_layer=12, n_head=12, n_embd=768, n_inner=3072, n_ctx=1024, n_vocab=50257, activation="gelu_new",
    layer_norm_epsilon=1e-5,
)  # fmt: skip
PARAMETERS_124M = 124_439_808


def small(**changes):
    config = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 40,
        "n_inner": 100,
        "n_ctx": 64,
        "n_vocab": 70,
        "activation": "relu",
    }
    return Config(**{**config, **changes})


# Panels of 64 outputs: c_attn 2, c_proj 1, c_fc 2, mlp c_proj 1; head 2. Inputs rounded up to groups.
@pytest.mark.parametrize(
    ("dtype", "layer", "head"),
    [
        ("float32", 4 * 64 * (3 * 40 + 2 * 40 + 100), 4 * 64 * 2 * 40),
        ("bfloat16", 2 * 64 * (3 * 40 + 2 * 40 + 100), 2 * 64 * 2 * 40),
        ("int8", 66 * 64 * (3 * 1 + 2 * 1 + 2), 66 * 64 * 2),  # groups of 64 inputs: 64 weights and a scale
        ("int4", 2 * 18 * 64 * (3 * 1 + 2 * 1 + 2), 66 * 64 * 2),  # of 32: 16 bytes and a scale
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_that_a_call_reads(dtype, layer, head, tied):
    weights = benchmark.random_weights(small(tie_word_embeddings=tied), dtype=dtype, threads=1)
    floats = 2 * (4 * 40 + 120 + 40 + 100 + 40) + 2 * 40  # LayerNorms and biases
    expected = 2 * layer + head + 4 * floats
    assert benchmark.bytes_of_call(weights, []) == expected
    # A head of 20 is padded to 32 in values; keys are read in blocks of 16 positions.
    assert benchmark.bytes_of_call(weights, [(16, 1)]) == expected + 4 * 2 * 2 * (20 * 32 + 32 * 17)
    assert benchmark.bytes_of_call(weights, [(16, 1), (0, 3)]) == expected + 4 * 2 * 2 * (
        20 * 32 + 32 * 17 + 20 * 16 + 32 * 3
    )


def test_operations_of_124m():
    """Against the parameter count: two operations per row and weight of the matrices."""
    matrices = (
        PARAMETERS_124M - 50257 * 768 - 1024 * 768 - 12 * (13 * 768) - 2 * 768
    )  # 13: biases, LayerNorms
    one = benchmark.operations_of_call(CONFIG_124M, "int8", [(0, 1)], 1)
    assert one["int8"] == 2 * (matrices + 50257 * 768)
    prompt = benchmark.operations_of_call(CONFIG_124M, "int4", [(0, 512)], 1)
    assert prompt["int4"] == 2 * 512 * matrices and prompt["int8"] == 2 * 50257 * 768
    row = 12 * (2 * benchmark.NORM * 768 + benchmark.ACTIVATION * 3072)
    pair = 12 * (4 * 768 + 12 * benchmark.SOFTMAX)  # of a query and a key, its own included
    assert one["float32"] == row + pair
    assert prompt["float32"] == 512 * row + 512 * 513 / 2 * pair
    later = benchmark.operations_of_call(CONFIG_124M, "int8", [(100, 1)], 1)
    assert later["float32"] - one["float32"] == 12 * 100 * (4 * 768 + 12 * benchmark.SOFTMAX)
    eight = benchmark.operations_of_call(CONFIG_124M, "float32", [(9, 1)] * 8, 8)
    assert eight == {
        "float32": 8 * benchmark.operations_of_call(CONFIG_124M, "float32", [(9, 1)], 1)["float32"]
    }
    in_parts = [
        benchmark.operations_of_call(CONFIG_124M, "bfloat16", [(n, 1)], n == 9)["float32"] for n in range(10)
    ]
    assert sum(in_parts) == benchmark.operations_of_call(CONFIG_124M, "bfloat16", [(0, 10)], 1)["float32"]


def test_shares_are_of_the_time_that_nothing_could_do_without():
    result = benchmark.Result(
        "x", 2, 4.0, 3.0, 5.0, 30.0, {"float32": 6.0, "int8": 40.0}, 10.0, {"float32": 6.0, "int8": 40.0}
    )
    assert result.read_share == 0.75 and result.arithmetic_share == 0.5
    assert (result.share, result.roof, result.tokens_per_second) == (0.75, "read", 0.5)
    assert result._replace(read=30.0).roof == "arithmetic"


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_bench_reports_rates_beside_roofs(quick, capsys, dtype):
    arguments = argparse.Namespace(
        shape=None,
        model=None,
        dtype=dtype,
        backend="native",
        threads=1,
        revision=None,
        offline=True,
        json=True,
    )
    assert benchmark.main_bench(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["rates"]) == ["pp512", "tg8", "bg8"]
    for rate in result["rates"].values():
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
        assert rate["share"] > 0 and rate["roof"] in ("read", "arithmetic")
    heads = {"int4": ["int8"]}.get(dtype, [])
    assert set(result["roofs"]) == {"read", "float32", dtype, *heads}
    assert min(result["roofs"].values()) > 1e8
    assert result["model"]["load_seconds"] > 0 and result["model"]["dtype"] == dtype
    arguments.json = False
    benchmark.main_bench(arguments)
    text = capsys.readouterr().out
    assert "roofs: reads" in text and "of arithmetic" in text and "Gop/s" in text


def test_a_case_leaves_its_caches_as_they_were():
    model = GPT2.from_pretrained(threads=1)
    case = benchmark.Case("x", model, [5, 3], calls=4)
    assert case.run() > 0
    assert [len(cache) for cache in case.caches] == [5, 3]
    assert case.sequences == [(6.5, 1), (4.5, 1)] and case.tokens == 2
    assert benchmark.Case("x", model, [0], 7, keep=1).run() > 0


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


@pytest.mark.parametrize("isa", _engine.isas())
def test_operations_are_counted(isa):
    wide = isa.startswith(("avx512", "amx"))
    chains = {"float32": 16 if wide else 6, "int8": 16 if wide else 6 if isa == "avxvnni" else 3}
    pairs = 2 if isa == "avx512bf16" else 1
    expected = {
        "float32": 2 * 16 * chains["float32"],
        "bfloat16": 2 * 16 * chains["float32"] * pairs,
        "int8": 8 * 16 * chains["int8"],
        "int4": 8 * 16 * chains["int8"],
    }
    if isa == "amx":  # a step multiplies four tiles of 16 by 16 sums, each of 64 bytes of inputs
        expected |= {
            "bfloat16": 2 * 4 * 16 * 16 * 32,
            "int8": 2 * 4 * 16 * 16 * 64,
            "int4": 2 * 4 * 16 * 16 * 64,
        }
    for dtype in _engine.DTYPES:
        assert _ops.operations(dtype, 1, isa=isa) == expected[dtype]
        assert _ops.operations(dtype, 10, isa=isa, threads=2) == 20 * expected[dtype]
    with pytest.raises(ValueError, match="dtype is 'int2'"):
        _ops.operations("int2", 1)


@pytest.mark.parametrize("isa", _engine.isas())
@pytest.mark.parametrize("n", [1, 15, 64, 65, 1024, 1100])
def test_all_is_read(isa, n):
    x = np.ones(n + 16, np.float32)
    assert _ops.read_all(x[:n], isa=isa) == n
    assert _ops.read_all(x[:n], isa=isa, threads=2) == n
