"""Models of type gpt_bigcode: transformers' logits, one head of keys and values, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data.bigcode import models
from helpers import strategies, tolerance
from helpers.command_line import run
from helpers.strategies import random_model
from helpers.tiny_checkpoints import read_safetensors, safetensors_bytes
from helpers.toys import same
from hypothesis import HealthCheck, given, settings

from gpt2c import GPT2, CheckpointError, Config, ConfigError, edits, reference
from gpt2c.checkpoint.hf_config import config_from_hf, config_to_hf
from gpt2c.core import _engine

LOGIT_BOUND = 1e-4
RECORDED = np.load(models.FOLDER / "bigcode.npz")
LANGUAGE_MODELS = [name for name in models.CASES if name not in ("sequence", "token")]
SHARED = ["multi_query", "sizes", "flags"]


def write(folder, name, **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(models.values(name) | changes))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(models.tensors(name)))
    return folder


@pytest.fixture
def load(tmp_path):
    def loaded(name, **how):
        folder = tmp_path / name
        return GPT2.from_pretrained(
            folder if folder.exists() else write(folder, name), **{"threads": 1} | how
        )

    return loaded


def tagged(model, ids):
    return np.array([tag.logits for tag in model.tag(ids).tags])


# ---- what transformers says


@pytest.mark.parametrize("backend", _engine.BACKENDS)
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_logits_are_those_of_transformers(name, backend, load):
    model, ids = load(name, backend=backend), models.ids(name)
    found = model.forward(ids)
    assert np.abs(found - RECORDED[name]).max() <= LOGIT_BOUND
    weights = {name: model.weights[name] for name in model.weights}
    bound = tolerance.model_bound(model.config, weights, ids)
    tolerance.check_logits(found, reference.forward(model, ids), bound)
    assert np.abs(reference.forward(model, ids) - RECORDED[name]).max() <= bound


def test_classifiers(load):
    found = load("sequence").classify(models.ids("sequence"))
    assert np.abs(found.logits - RECORDED["sequence"]).max() <= 1e-5
    assert list(found.probabilities) == ["good", "bad", "ugly"]
    assert np.abs(tagged(load("token"), models.ids("token")) - RECORDED["token"]).max() <= 1e-5
    with pytest.raises(ConfigError, match="has the head of a GPTBigCodeForSequenceClassification: use"):
        load("sequence").tag([1])


@pytest.mark.oracle
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(model=strategies.models(max_ctx=100))
def test_live_random_models(tmp_path_factory, model):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.bigcode import make_bigcode

    config, weights, ids = model
    if not config.is_multi_query:
        return
    values = config_to_hf(config) | {"bos_token_id": None, "eos_token_id": None}
    stored = {
        name if name == "lm_head.weight" else f"transformer.{name}": array.T
        if name.startswith("h.")
        else array
        for name, array in weights.items()
    }
    theirs = make_bigcode.logits(values, {k: np.ascontiguousarray(v) for k, v in stored.items()}, ids)
    exact = reference.forward(config, weights, ids)
    tolerance.check_logits(theirs, exact, tolerance.model_bound(config, weights, ids), what="torch")


@pytest.mark.oracle
@pytest.mark.parametrize("name", models.CASES)
def test_live_recorded_models(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.bigcode import make_bigcode

    today = make_bigcode.logits(models.values(name), models.tensors(name), models.ids(name))
    assert np.abs(today - RECORDED[name]).max() <= 1e-5


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["multi_query", "flags", "multi_head", "sequence"])
def test_transformers_loads_an_export(name, load, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    load(name).export(tmp_path / "out")
    kind = "SequenceClassification" if name == "sequence" else "CausalLM"
    theirs, found = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert not any(found.values())
    with torch.no_grad():
        logits = theirs(torch.from_numpy(models.ids(name).astype(np.int64))[None]).logits[0].numpy()
    assert np.abs(logits - RECORDED[name]).max() <= 1e-5


# ---- the configuration


def test_fields_of_the_configuration():
    config = config_from_hf({"model_type": "gpt_bigcode"})
    assert (config.n_kv_head, config.n_head, config.activation, config.n_qkv) == (
        1,
        12,
        "gelu_new",
        768 + 128,
    )
    assert config_from_hf({"model_type": "gpt_bigcode", "multi_query": False}).n_kv_head == 12
    given = {
        "model_type": "gpt_bigcode", "attention_softmax_in_fp32": False, "num_key_value_heads": 1,
        "pre_allocate_kv_cache": True, "scale_attn_by_inverse_layer_idx": True,
    }  # fmt: skip
    said = {setting.key: (setting.status, setting.note) for setting in config_from_hf(given).report}
    assert ("activation_function", "gelu_pytorch_tanh", "default", "") in config.report
    assert said["multi_query"] == ("default", "all heads share one head of keys and values")
    assert said["attention_softmax_in_fp32"] == ("ignored", "attention is always in float32")
    assert said["num_key_value_heads"] == ("ignored", "given by multi_query")
    assert said["pre_allocate_kv_cache"] == ("ignored", "a choice of transformers' implementation")
    # transformers does not look at it either
    assert said["scale_attn_by_inverse_layer_idx"] == ("unknown", "not a field of GPTBigCode")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"multi_query": 1}, "multi_query is 1; allowed: true or false"),
        ({"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel'; gpt2c runs GPTBigCodeForCausalLM, "),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_hf({"model_type": "gpt_bigcode"} | values)


SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_inner": None, "n_ctx": 40, "n_vocab": 50}


def test_sizes_follow():
    assert Config(**SIZES).n_kv_head == 4 and not Config(**SIZES).is_multi_query
    config = Config(**SIZES, n_kv_head=1)
    assert config.is_multi_query and config.n_qkv == 32 + 2 * 8
    shapes = strategies.tensor_shapes(config)
    assert config.n_parameters == sum(np.prod(shape) for shape in shapes.values())
    with pytest.raises(ConfigError, match=r"n_kv_head is 2; allowed: 4 \(n_head\), or 1 for all heads"):
        Config(**SIZES, n_kv_head=2)
    with pytest.raises(ConfigError, match="n_kv_head is 0; allowed: an integer from 1"):
        Config(**SIZES, n_kv_head=0)
    with pytest.raises(ConfigError, match="scale_attn_by_inverse_layer_idx is true; where all heads"):
        Config(**SIZES, n_kv_head=1, scale_attn_by_inverse_layer_idx=True)


def test_a_tensor_of_another_shape(tmp_path):
    folder = write(tmp_path / "model", "multi_head", multi_query=True)
    with pytest.raises(CheckpointError, match=r"\[32, 48\], that is \[n_embd, n_embd \+ 2 \* head_dim\]"):
        GPT2.from_pretrained(folder)


# ---- files


@pytest.mark.parametrize("name", SHARED)
def test_an_export_is_what_was_loaded(name, load, tmp_path):
    model = load(name)
    model.export(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["model_type"] == "gpt_bigcode" and written["multi_query"] is True
    assert written["architectures"] == ["GPTBigCodeForCausalLM"]
    assert "scale_attn_by_inverse_layer_idx" not in written
    stored = read_safetensors(tmp_path / "out" / "model.safetensors")
    expected = models.tensors(name)
    assert stored.keys() == expected.keys()
    assert all(same(stored[name], expected[name]) for name in expected)
    again = GPT2.from_pretrained(tmp_path / "out", threads=1)
    assert again.config == model.config
    assert same(again.forward([1, 2, 3]), model.forward([1, 2, 3]))


@pytest.mark.parametrize("name", ["multi_head", "one_head", "token"])
def test_where_each_head_has_keys_of_its_own_an_export_is_a_gpt2(name, load, tmp_path):
    model = load(name)
    model.export(tmp_path / "out")
    again = GPT2.from_pretrained(tmp_path / "out", threads=1)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gpt2"
    assert again.config == model.config
    logits = tagged if name == "token" else GPT2.forward
    assert same(logits(again, [1, 2, 3]), logits(model, [1, 2, 3]))


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_packed_files(dtype, load, tmp_path):
    model = load("sizes", dtype=dtype)
    model.save(tmp_path / "model.gpt2c")
    again = GPT2.from_pretrained(tmp_path / "model.gpt2c", threads=1)
    assert again.config == model.config and again.config.n_kv_head == 1
    assert same(again.forward(models.ids("sizes")), model.forward(models.ids("sizes")))
    load("multi_head", dtype=dtype).save(tmp_path / "other.gpt2c")
    assert b"n_kv_head" not in (tmp_path / "other.gpt2c").read_bytes()  # as ever


def adapter(folder, tensors):
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    stored = {f"base_model.model.{name}": array for name, array in tensors.items()}
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def test_adapters_are_those_of_torchs_linear_layers(load, tmp_path):
    rng, module = np.random.default_rng(0), "transformer.h.1.attn.c_attn"
    stored = models.tensors("multi_query")
    n_out, n_in = stored[f"{module}.weight"].shape
    a, b = rng.standard_normal((2, n_in)), rng.standard_normal((n_out, 2))
    pair = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    merged = load("multi_query", adapter=str(adapter(tmp_path / "a", pair)))
    expected = stored[f"{module}.weight"] + 4 / 2 * b.astype(np.float32) @ a.astype(np.float32)
    assert np.abs(merged.weights["h.1.attn.c_attn.weight"].T - expected).max() < 1e-6
    with pytest.raises(
        CheckpointError, match=r"changes h\.1\.attn\.c_attn\.weight of this model of type gpt_"
    ):
        wide = pair | {f"{module}.lora_B.weight": rng.standard_normal((96, 2))}
        load("multi_head", adapter=str(adapter(tmp_path / "b", wide)))
    with pytest.raises(
        CheckpointError, match=r"changes h\.1\.attn\.c_proj\.weight of this model of type gpt_"
    ):
        whole = {"transformer.h.1.attn.c_proj.modules_to_save.weight": rng.standard_normal((32, 32))}
        load("multi_query", adapter=str(adapter(tmp_path / "c", whole)))


def test_info(tmp_path):
    folder = write(tmp_path / "model", "multi_query")
    text = run("info", str(folder)).stdout
    assert "heads of keys and values         1" in text and "multi_query" in text
    assert json.loads(run("info", str(folder), "--json").stdout)["sizes"]["n_kv_head"] == 1
    assert "heads of keys and values" not in run("info", str(write(tmp_path / "other", "multi_head"))).stdout


# ---- the engine


@pytest.mark.parametrize("cache_dtype", _engine.CACHE_DTYPES)
def test_a_cache_holds_one_head(cache_dtype):
    rng = np.random.default_rng(0)
    one, four = (Config(**SIZES, n_kv_head=n) for n in (1, 4))
    caches = [
        _engine.KVCache(_engine.Weights(c, random_model(c, rng).__getitem__), dtype=cache_dtype)
        for c in (one, four)
    ]
    assert 4 * caches[0].nbytes == caches[1].nbytes


def last_logits(config, tensors, ids):
    """Of the last row of a one-layer model, in float64: without the matrix of all patterns."""
    w = {name: array.astype(np.float64) for name, array in tensors.items()}
    x = reference.embed(w, ids)
    h = reference.layer_norm(x, w["h.0.ln_1.weight"], w["h.0.ln_1.bias"], 1e-5)
    q, k, v = np.split(h @ w["h.0.attn.c_attn.weight"] + w["h.0.attn.c_attn.bias"], (32, 40), axis=1)
    weights = reference.softmax(q[-1].reshape(4, 8) @ k.T / np.sqrt(8))
    z = (weights @ v).reshape(1, 32)
    x = x[-1:] + z @ w["h.0.attn.c_proj.weight"] + w["h.0.attn.c_proj.bias"]
    h = reference.layer_norm(x, w["h.0.ln_2.weight"], w["h.0.ln_2.bias"], 1e-5)
    x = x + reference.feed_forward(config, w, 0, h)
    return (reference.layer_norm(x, w["ln_f.weight"], w["ln_f.bias"], 1e-5) @ w["wte.weight"].T)[0]


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_eight_thousand_positions(dtype):
    """The same bytes in pieces, by any number of threads, beside other texts, behind a shared beginning."""
    config = Config(**SIZES | {"n_layer": 1, "n_ctx": 8192}, n_kv_head=1)
    tensors = random_model(config, np.random.default_rng(3))
    weights = _engine.Weights(config, tensors.__getitem__, dtype=dtype)
    ids = np.random.default_rng(4).integers(config.n_vocab, size=8192).astype(np.int32)
    cache = _engine.KVCache(weights)
    expected = _engine.forward(weights, [(cache, ids)], keep=3, threads=2)
    beginning = cache.fork()
    beginning.truncate(8100)
    for threads in (1, 2, 5):
        cache.truncate(8189)
        one_by_one = [
            _engine.forward(weights, [(cache, ids[i : i + 1])], threads=threads) for i in range(8189, 8192)
        ]
        assert same(np.concatenate(one_by_one), expected)
        branch, other = beginning.branch(8192), _engine.KVCache(weights)
        sequences = [(other, ids[:5]), (branch, ids[8100:])]
        assert same(_engine.forward(weights, sequences, keep=[1, 3], threads=threads)[1:], expected)
    if dtype == "float32":
        assert np.abs(expected[-1] - last_logits(config, tensors, ids)).max() <= LOGIT_BOUND
    with pytest.raises(ValueError, match="8192 positions"):
        _engine.forward(weights, [(cache, ids[:1])])


# ---- looking inside


def test_captures_have_the_heads_that_there_are(load):
    model, ids = load("multi_query"), models.ids("multi_query")[:9]
    logits, cache = model.run_with_cache(ids, ("*", "*_input", "*result"))
    shapes = {
        name: cache[name, 1].shape
        for name in ("q", "k", "v", "z", "pattern", "q_input", "k_input", "v_input")
    }
    assert shapes == {
        "q": (9, 4, 8), "k": (9, 1, 8), "v": (9, 1, 8), "z": (9, 4, 8), "pattern": (4, 9, 9),
        "q_input": (9, 4, 32), "k_input": (9, 1, 32), "v_input": (9, 1, 32),
    }  # fmt: skip
    assert same(logits, model.forward(ids))
    with pytest.raises(ValueError, match="this model has no value called 'attn_in'"):
        model.run_with_cache(ids, "attn_in")
    with pytest.raises(ValueError, match=r"heads of blocks.1.attn.hook_k must be 0, not 1|0"):
        model.run_with_cache(ids, edits=[("blocks.1.attn.hook_k", edits.zero(heads=1))])
    found = model.patch(ids, ids[::-1].copy(), ("k", [0, 1], "all", [0]), lambda logits: logits[-1, 0])
    assert found.values.shape == (2, 1)
    with pytest.raises(ValueError, match="one of the heads"):
        model.patch(ids, ids, ("v", [0], "all", [1]), lambda logits: logits[-1, 0])


def test_the_key_of_all_heads_is_shown_for_each(load, tmp_path):
    model = load("multi_query")
    told = model.explain([1, 2, 3, 4], layer=1, head=3).to_dict()
    _, cache = model.run_with_cache([1, 2, 3, 4])
    for name, head in (("q", 3), ("k", 0), ("v", 0), ("z", 3)):
        assert np.array_equal(np.array(told[name], np.float32), cache[name, 1][:, head])
    model.explain([1, 2, 3, 4], layer=1, head=3).save(tmp_path / "page.html")
    assert "of which all heads share key and value" in (tmp_path / "page.html").read_text()
