"""The benchmark's arithmetic, and that it measures something; no speed is asserted."""

import json

import numpy as np
import pytest

from gpt2c import GPT2, GPT2CError
from gpt2c.cli import bench, main, parser
from gpt2c.cli.bench import cases, kernels, load, roofs
from gpt2c.config import Config
from gpt2c.core import _engine, _ops, _roofs


@pytest.fixture
def quick(monkeypatch):
    for module in (cases, roofs, load):
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(roofs, "ROOF_SECONDS", 0.001)
    monkeypatch.setattr(roofs, "ROOF_STEPS", 1000)
    monkeypatch.setattr(roofs, "MEMORY", 1 << 22)
    monkeypatch.setattr(roofs, "PHASES", 100)
    monkeypatch.setattr(kernels, "SECONDS", 1e-4)
    monkeypatch.setattr(kernels, "ROWS", (1, 17))
    monkeypatch.setattr(cases, "DECODE", 8)


def arguments(*words):
    return parser.build_parser().parse_args(["bench", *words])


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


# Panels of 64 outputs: c_attn 2, c_proj 1, c_fc 2, mlp c_proj 1; head 2. Inputs rounded up to groups of 64.
@pytest.mark.parametrize(
    ("dtype", "layer", "head"),
    [
        ("float32", 4 * 64 * (3 * 40 + 2 * 40 + 100), 4 * 64 * 2 * 40),
        ("bfloat16", 2 * 64 * (5 * 64 + 128), 2 * 64 * 2 * 64),  # in steps of 32 inputs
        # each output: a scale and the sum of its weights; 64 weights for each group of 64 inputs
        ("int8", 64 * (5 * (8 + 64) + (8 + 2 * 64)), 64 * 2 * (8 + 64)),
        ("int4", 64 * (5 * (8 + 34) + (8 + 2 * 34)), 64 * 2 * (8 + 64)),  # 32 bytes and two factors
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_that_a_call_reads(dtype, layer, head, tied):
    weights = bench.random_weights(small(tie_word_embeddings=tied), dtype=dtype, threads=1)
    floats = 2 * (4 * 40 + 120 + 40 + 100 + 40) + 2 * 40  # LayerNorms and biases
    expected = 2 * layer + head + 4 * floats
    assert cases.bytes_of_call(weights, []) == expected
    # A head of 20 is padded to 32 in values; keys are read in blocks of 16 positions.
    assert cases.bytes_of_call(weights, [(16, 1)]) == expected + 4 * 2 * 2 * (20 * 32 + 32 * 17)
    assert cases.bytes_of_call(weights, [(16, 1), (0, 3)]) == expected + 4 * 2 * 2 * (
        20 * 32 + 32 * 17 + 20 * 16 + 32 * 3
    )


def test_heads_that_share_keys():
    """Of StarCoderBase-1B the Hugging Face hub says 1,137,207,296 parameters."""
    config = Config(n_inner=None, **bench.SHAPES["starcoderbase-1b"])
    assert (config.n_parameters, config.n_inner, config.n_kv_head) == (1_137_207_296, 8192, 1)
    one = cases.operations_of_call(config, "int8", [(0, 1)], 1)
    vectors = 24 * (2304 + 2048 + 8192 + 5 * 2048) + 2 * 2048  # biases and LayerNorms
    assert one["int8"] == 2 * (config.n_parameters - vectors - 8192 * 2048)
    weights = bench.random_weights(small(n_kv_head=1), threads=1)
    layer, head = 4 * 64 * (3 * 40 + 2 * 40 + 100), 4 * 64 * 2 * 40  # c_attn has 2 panels for 80 outputs, too
    floats = 2 * (4 * 40 + 80 + 40 + 100 + 40) + 2 * 40
    keys = 20 * 32 + 32 * 17
    assert cases.bytes_of_call(weights, [(16, 1)]) == 2 * layer + head + 4 * floats + 4 * 2 * keys


def test_operations_of_124m():
    """Against the parameter count: two operations per row and weight of the matrices."""
    matrices = (
        PARAMETERS_124M - 50257 * 768 - 1024 * 768 - 12 * (13 * 768) - 2 * 768
    )  # 13: biases, LayerNorms
    one = cases.operations_of_call(CONFIG_124M, "int8", [(0, 1)], 1)
    assert one["int8"] == 2 * (matrices + 50257 * 768)
    prompt = cases.operations_of_call(CONFIG_124M, "int4", [(0, 512)], 1)
    assert prompt["int4"] == 2 * 512 * matrices and prompt["int8"] == 2 * 50257 * 768
    row = 12 * (2 * cases.NORM * 768 + cases.ACTIVATION * 3072)
    pair = 12 * (4 * 768 + 12 * cases.SOFTMAX)  # of a query and a key, its own included
    assert one["float32"] == row + pair
    assert prompt["float32"] == 512 * row + 512 * 513 / 2 * pair
    later = cases.operations_of_call(CONFIG_124M, "int8", [(100, 1)], 1)
    assert later["float32"] - one["float32"] == 12 * 100 * (4 * 768 + 12 * cases.SOFTMAX)
    eight = cases.operations_of_call(CONFIG_124M, "float32", [(9, 1)] * 8, 8)
    assert eight == {"float32": 8 * cases.operations_of_call(CONFIG_124M, "float32", [(9, 1)], 1)["float32"]}
    in_parts = [
        cases.operations_of_call(CONFIG_124M, "bfloat16", [(n, 1)], n == 9)["float32"] for n in range(10)
    ]
    assert sum(in_parts) == cases.operations_of_call(CONFIG_124M, "bfloat16", [(0, 10)], 1)["float32"]


def test_shares_are_of_the_time_that_nothing_could_do_without():
    result = bench.Result(
        "x", 2, 4.0, 3.0, 5.0, 30.0, {"float32": 6.0, "int8": 40.0}, 10.0, {"float32": 6.0, "int8": 40.0}
    )
    assert result.read_share == 0.75 and result.arithmetic_share == 0.5
    assert (result.share, result.roof, result.tokens_per_second) == (0.75, "read", 0.5)
    assert result._replace(read=30.0).roof == "arithmetic"


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_bench_reports_rates_beside_roofs(quick, capsys, dtype):
    bench.run(arguments("model", "kernels", "--dtype", dtype, "-t1", "--json"))
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["machine", "model", "kernels", "rates"]
    assert [rate["name"] for rate in result["rates"]] == ["pp512", "tg8", "bg8"]
    for rate in [*result["rates"], *result["kernels"]]:
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
        assert rate["share"] > 0 and rate["roof"] in ("read", "arithmetic")
        assert min(rate["rates"].values()) > 1e8 and rate["read"] > 1e8
    assert result["model"]["dtype"] == dtype and result["machine"]["threads"] == 1
    dense = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "head"]
    others = ["LayerNorm", "gelu_new", "attention, a head", "attention, a head"]
    names = [name for few in dense for name in (few if few == "head" else f"{few}, 6 layers", few)]
    assert [k["name"] for k in result["kernels"]] == [*names, *others]


def test_bench_tells_all_of_a_packed_file(quick, capsys, tmp_path):
    path = str(tmp_path / "small.gpt2c")
    GPT2.from_pretrained(dtype="int8").save(path)
    bench.run(arguments("-m", path, "-t2"))
    text = capsys.readouterr().out
    for words in ("load: a new process, ms", "of it in the page cache", "import gpt2c", "first token",
                  "MiB together", "roofline, by threads", "wait for one another, ns", "mlp.c_fc", "pp512",
                  "of arithmetic"):  # fmt: skip
        assert words in text, words


def test_control_characters_in_names_reach_no_terminal(quick, capsys, tmp_path):
    path = str(tmp_path / "\x1b]0;title\x07\x9b31m.gpt2c")
    GPT2.from_pretrained(dtype="int8").save(path)
    bench.run(arguments("model", "-m", path, "-t1"))
    assert "\\x1b]0;title\\x07\\x9b31m.gpt2c: int8" in capsys.readouterr().out
    bench.run(arguments("model", "-m", path, "-t1", "--json"))
    printed = capsys.readouterr().out
    assert json.loads(printed)["model"]["name"] == path and "\x9b" not in printed


def test_roofs_by_threads(quick):
    one, two, three = roofs.roofline(_engine.default_isa(), 3)
    assert [of["threads"] for of in (one, two, three)] == [1, 2, 3]
    for of in (one, two, three):
        assert list(of) == [
            "threads",
            "read_memory",
            "read_cache",
            "float32",
            "bfloat16",
            "int8",
            "region",
            "phase",
        ]
        assert all(0 <= of[name]["low"] <= of[name]["median"] <= of[name]["high"] for name in list(of)[1:])
    assert roofs.median_and_spread([3.0, 1.0, 7.0]) == {"median": 3.0, "low": 1.0, "high": 7.0}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_empty_phases_end(threads):
    _roofs.phases(0, threads=threads)
    _roofs.phases(300, threads=threads)


def test_what_a_new_process_takes(quick, tmp_path):
    path = str(tmp_path / "small.gpt2c")
    GPT2.from_pretrained(dtype="int8").save(path)
    found = load.load(path, threads=1)
    for state in ("cached", "uncached"):
        of = found[state]
        parts = [of[step]["low"] for step in load.STEPS]
        assert min(parts) > 0 and sum(parts) < of["process"]["high"]
    assert found["cached"]["cached_share"] in (1.0, None)
    memory = found["processes"]
    assert memory["count"] == 4 and memory["private"] < memory["resident"]
    assert memory["private"] < memory["together"] < 4 * memory["resident"]


def test_a_process_that_fails_says_why(quick, tmp_path):
    path = tmp_path / "model.gpt2c"
    GPT2.from_pretrained().save(path)
    with pytest.raises(GPT2CError, match="could not use the model: ValueError: dtype is 'int8'"):
        load.load(str(path), dtype="int8")


def test_what_of_a_file_is_in_the_page_cache(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    load._read([path])
    share = load.cached_share([path])
    if share is None:
        pytest.skip("this file system cannot read without waiting")
    assert share == 1
    load._drop([path])
    assert load.cached_share([path]) <= 1
    (tmp_path / "empty").touch()
    assert load.cached_share([tmp_path / "empty"]) == 1


def test_files_of_models(tmp_path):
    (bundled,) = load.files_of(None)
    assert bundled.name == "model.safetensors"
    GPT2.from_pretrained().save(tmp_path / "packed")
    assert load.files_of(tmp_path / "packed") == [tmp_path / "packed"]


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_a_wrong_dense_layer_is_found(dtype):
    """By less than two standard deviations of one product of the 200, and one output only."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 200), np.float32), rng.standard_normal((200, 70), np.float32)
    packed = _ops.pack(weight, dtype=dtype)
    stored = weight if dtype == "float32" else _ops.unpack(packed, 200, 70, dtype)
    result = _ops.linear(x, packed, 70, dtype=dtype)
    kernels.dense_check(x, stored, result, dtype)
    wrong = result.astype(np.float64)
    wrong[2, 69] += {"float32": 2e-3, "bfloat16": 1.0, "int8": 3.0, "int4": 3.0}[dtype]
    with pytest.raises(RuntimeError, match="speed is meaningless"):
        kernels.dense_check(x, stored, wrong, dtype)
    wrong[2, 69] = np.nan
    with pytest.raises(RuntimeError, match="differs from float64"):
        kernels.dense_check(x, stored, wrong, dtype)


@pytest.mark.parametrize("function", ["layer_norm", "apply", "attention", "linear"])
def test_a_wrong_kernel_gets_no_speed(quick, monkeypatch, function):
    right = getattr(_ops, function)

    def wrong(*args, **how):
        result = right(*args, **how)
        result *= np.float32(1.001)
        return result

    monkeypatch.setattr(_ops, function, wrong)
    with pytest.raises(RuntimeError, match="speed is meaningless"):
        kernels.kernels(small(n_embd=64, n_ctx=300), "float32", isa=_engine.default_isa(), threads=1)


def test_a_case_leaves_its_caches_as_they_were():
    model = GPT2.from_pretrained(threads=1)
    case = bench.Case("x", model, [5, 3], calls=4)
    assert case.run() > 0
    assert [len(cache) for cache in case.caches] == [5, 3]
    assert case.sequences == [(6.5, 1), (4.5, 1)] and case.tokens == 2
    assert bench.Case("x", model, [0], 7, keep=1).run() > 0


def test_wrong_answers_get_no_speed(quick, monkeypatch):
    model = GPT2.from_pretrained(threads=1)
    right = _engine.forward
    monkeypatch.setattr(_engine, "forward", lambda *a, **k: right(*a, **k) + (0.01 if k.get("keep") else 0))
    with pytest.raises(RuntimeError, match="speed is meaningless"):
        cases.rates(model)


def test_unknown_shape():
    with pytest.raises(ValueError, match="shape is '125M'; allowed: 124M, 355M, 774M, 1558M"):
        bench.random_model("125M")
    with pytest.raises(SystemExit):
        arguments("kernel")
    with pytest.raises(ValueError, match="kernels cannot be measured with --backend blas: leave out"):
        bench.run(arguments("kernels", "model", "--backend", "blas"))
    with pytest.raises(ValueError, match="load cannot be measured with --backend blas and --shape"):
        bench.run(arguments("load", "--backend", "blas", "--shape", "124M"))
    with pytest.raises(ValueError, match="not both"):
        bench.run(arguments("--shape", "124M", "-m", "gpt2"))


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
        assert _roofs.operations(dtype, 1, isa=isa) == expected[dtype]
        assert _roofs.operations(dtype, 10, isa=isa, threads=2) == 20 * expected[dtype]
    with pytest.raises(ValueError, match="dtype is 'int2'"):
        _roofs.operations("int2", 1)


@pytest.mark.parametrize("isa", _engine.isas())
@pytest.mark.parametrize("n", [1, 15, 64, 65, 1024, 1100])
def test_all_is_read(isa, n):
    x = np.ones(n + 16, np.float32)
    assert _roofs.read_all(x[:n], isa=isa) == n
    assert _roofs.read_all(x[:n], isa=isa, threads=2) == n


@pytest.mark.parametrize("words", [("--shape", "12Q", "load"), ("-m", "nosuch.gpt2c", "load")])
def test_what_cannot_be_measured_is_refused_before_any_word_of_measuring(words, capsys):
    assert main(["bench", *words]) == 1
    told = capsys.readouterr().err
    assert told.startswith("gpt2c: error: ") and (
        "124M" in told or "no file or directory is named 'nosuch.gpt2c'" in told
    )
    assert "Hub" not in told
