"""GPT-2s that attend to the output of an encoder: transformers' logits, company, what is kept and refused."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from data.cross import models
from helpers.command_line import run
from helpers.strategies import configs, random_model, seeds
from helpers.tiny_checkpoints import read_safetensors, safetensors_bytes
from helpers.toys import random_gpt2, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2c import GPT2, ConfigError, edits, reference
from gpt2c.checkpoint.hf_config import config_from_hf, config_to_hf
from gpt2c.core import _engine
from gpt2c.introspection.hooks import hook_names

LOGIT_BOUND = 1e-4
RECORDED = np.load(models.FOLDER / "cross.npz")
N_EMBD = 24
CROSS_NAMES = ["cross_attn.hook_pattern", "hook_cross_attn_out", "hook_resid_mid_cross"]


def write(folder, case, **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(models.values(case) | changes))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(models.tensors(case)))
    return folder


def states(n=7, seed=0, width=N_EMBD):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


@pytest.fixture(scope="module")
def reader():
    return random_gpt2(add_cross_attention=True)[0]


# ---- what transformers says


@pytest.mark.parametrize("backend", _engine.BACKENDS)
@pytest.mark.parametrize("case", range(models.N_CASES))
def test_logits_and_patterns_are_those_of_transformers(case, backend, tmp_path):
    model = GPT2.from_pretrained(write(tmp_path / "m", case), backend=backend, threads=1)
    model = model.given(models.states(case))
    logits = model.forward(models.ids(case))
    assert np.abs(logits - RECORDED[f"logits {case}"]).max() <= LOGIT_BOUND
    seen, cache = model.run_with_cache(models.ids(case), ("cross_attn.pattern", -1))
    assert same(seen, logits) or backend == "blas"
    pattern = cache["cross_attn.pattern", -1][:, -2:]
    assert np.abs(pattern - RECORDED[f"pattern {case}"]).max() <= 1e-5


@pytest.mark.oracle
@pytest.mark.parametrize("case", range(models.N_CASES))
def test_transformers_still_says_so(case):
    from data.cross.make_cross import answers

    logits, pattern = answers(case)
    assert np.abs(logits - RECORDED[f"logits {case}"]).max() <= 1e-5
    assert np.abs(pattern[:, -2:] - RECORDED[f"pattern {case}"]).max() <= 1e-6


@pytest.mark.parametrize("case", range(models.N_CASES))
def test_the_reference_is_transformers_without_rounding(case):
    config = config_from_hf(models.values(case))
    weights = {name.removeprefix("transformer."): w for name, w in models.tensors(case).items()}
    patterns = {}

    def look(name, value):
        patterns[name] = value
        return value

    logits = reference.forward(config, weights, models.ids(case), look, states=models.states(case))
    assert np.abs(logits - RECORDED[f"logits {case}"]).max() <= 1e-4
    pattern = patterns[f"blocks.{config.n_layer - 1}.cross_attn.hook_pattern"]
    assert np.abs(pattern[:, -2:] - RECORDED[f"pattern {case}"]).max() <= 1e-5
    inside = [name for name in hook_names(config) if "cross" in name]
    assert [name for name in patterns if "cross" in name] == inside


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(multi_query=False), seed=seeds, n=st.integers(1, 9), positions=st.integers(1, 140))
def test_captures_are_those_of_the_reference(config, seed, n, positions):
    config = replace(config, add_cross_attention=True)
    rng = np.random.default_rng(seed)
    weights = random_model(config, rng, 0.1)
    model = GPT2(_engine.Weights(config, weights.__getitem__), threads=1)
    ids = rng.integers(0, config.n_vocab, min(n, config.n_ctx))
    rows = rng.standard_normal((positions, config.n_embd)).astype(np.float32)
    exact = {}

    def look(name, value):
        exact[name] = value.copy()
        return value

    reference.forward(config, weights, ids, look, states=rows)
    names = [f"blocks.{i}.{name}" for i in range(config.n_layer) for name in CROSS_NAMES]
    logits, cache = model.given(rows).run_with_cache(ids.tolist(), names)
    assert same(logits, model.given(rows).forward(ids))
    assert sorted(cache) == sorted(names)
    for name in names:
        assert cache[name].shape == exact[name].shape
        scale = max(1, np.abs(exact[name]).max())
        assert np.abs(cache[name] - exact[name]).max() <= 1e-4 * scale, name


# ---- company


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_every_way_gives_the_same_bits(dtype):
    model, _ = random_gpt2(add_cross_attention=True, dtype=dtype)
    views = [model.given(states(n, n)) for n in (1, 7, 16, 150)]
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    alone = [view.forward(ids) for view in views]
    caches = [(view.new_cache(), np.array(ids, np.int32)) for view in views]
    assert same(_engine.forward(model.weights, caches, threads=2), np.concatenate(alone))
    for view, logits in zip(views, alone, strict=True):
        cache = view.new_cache()
        assert same(np.concatenate([view.forward([token], cache) for token in ids]), logits)
        forked = cache.fork()
        assert same(view.forward([7], forked), view.forward([*ids, 7])[-1:])
    assert not same(alone[0], alone[1])


def test_the_methods_use_what_was_given(reader):
    view = reader.given(states())
    prompt = [0, 5, 9]
    greedy = view.generate(prompt, max_new_tokens=6).token_ids
    exact = [*prompt]
    for _ in range(6):
        exact.append(int(reference.forward(view.config, view.weights, exact, states=states())[-1].argmax()))
    assert greedy == exact[3:]
    searched = view.generate(prompt, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    assert searched[0].score >= searched[1].score
    assert view.generate([prompt, [4]], max_new_tokens=6)[0].token_ids == greedy
    stream = view.stream(prompt, max_new_tokens=6)
    assert list(stream) == [] and stream.result.token_ids == greedy
    session = view.session(prompt)
    assert session.generate(max_new_tokens=6).token_ids == greedy
    [score] = view.score([(prompt, greedy)], bos=False)
    logits = reference.forward(view.config, view.weights, exact, states=states())
    wanted = np.take_along_axis(reference.log_softmax(logits)[2:-1], np.array(greedy)[:, None], 1)[:, 0]
    assert np.abs(score.logprobs - wanted).max() < 1e-5
    assert view.suggest(prompt, k=1)[0].token_id == greedy[0]
    assert reader.given(states(seed=1)).forward(prompt).tolist() != view.forward(prompt).tolist()


def test_beams_and_samples_slide_and_draft_with_what_was_given(reader):
    view = reader.given(states())
    for options in ({"num_beams": 2}, {"temperature": 1.0, "seed": 3}, {"penalty_alpha": 0.5, "top_k": 4}):
        alone = view.generate([1, 2], max_new_tokens=5, **options).token_ids
        assert view.generate([[1, 2], [8]], max_new_tokens=5, **options)[0].token_ids == alone
    slid = view.generate([1, 2], max_new_tokens=60, overflow="slide").token_ids
    assert len(slid) == 60
    assert view.generate([1, 2], max_new_tokens=60, overflow="slide", draft="prompt").token_ids == slid


def test_files_keep_the_layers(tmp_path):
    folder = write(tmp_path / "m", 0)
    model = GPT2.from_pretrained(folder, threads=1)
    logits = model.given(models.states(0)).forward(models.ids(0))
    model.export(tmp_path / "exported")
    stored = read_safetensors(tmp_path / "exported" / "model.safetensors")
    written = models.tensors(0)
    assert sorted(stored) == sorted(written) and all(same(stored[name], written[name]) for name in written)
    for dtype in _engine.DTYPES:
        rounded = GPT2.from_pretrained(tmp_path / "exported", dtype=dtype, threads=1)
        rounded.save(tmp_path / f"{dtype}.gpt2c")
        packed = GPT2.from_pretrained(tmp_path / f"{dtype}.gpt2c", threads=1)
        found = packed.given(models.states(0)).forward(models.ids(0))
        assert same(found, rounded.given(models.states(0)).forward(models.ids(0)))
        assert (dtype == "float32") == same(found, logits)


@pytest.mark.parametrize("case", range(6))
def test_the_configuration_survives_the_way_there_and_back(case):
    config = config_from_hf(models.values(case))
    assert config.add_cross_attention and config_from_hf(config_to_hf(config)) == config


def test_masks_of_old_files_are_ignored(tmp_path):
    folder = write(tmp_path / "m", 1)
    mask = {"transformer.h.0.crossattention.bias": np.ones((1, 1, 48, 48), np.float32)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(models.tensors(1) | mask))
    assert GPT2.from_pretrained(folder).given(models.states(1)).forward([1]).shape[0] == 1


# ---- edits


def test_edits_change_what_cross_attention_adds(reader):
    view, ids = reader.given(states()), [0, 4, 8]
    plain, cache = view.run_with_cache(ids)
    other, _ = view.run_with_cache(ids, edits=[("blocks.*.hook_cross_attn_out", edits.zero())])
    assert not same(plain, other)
    stream = [("blocks.1.hook_resid_mid_cross", edits.replace(cache))]
    moved = reader.given(states(seed=5)).run_with_cache(ids, edits=stream)[0]
    assert same(moved, plain)
    scores = view.patch(ids, [0, 4, 9], ("mlp_in", range(2), range(3)), lambda logits: logits[-1, 0])
    for layer in range(2):
        for position in range(3):
            put = edits.replace(cache[f"blocks.{layer}.hook_resid_mid_cross"], positions=[position])
            logits, _ = view.run_with_cache([0, 4, 9], edits=[(f"blocks.{layer}.hook_mlp_in", put)])
            assert scores.values[layer, position] == logits[-1, 0]
    parts = view.run_with_cache(ids)[1].attribution()
    assert abs(parts.components["rest"]) < 1e-4 and "cross_attn 1" in parts.components


def test_the_pattern_is_not_edited(reader):
    with pytest.raises(ValueError, match=r"cross_attn\.hook_pattern can be captured, but not edited:"):
        reader.given(states()).run_with_cache([0], edits=[("blocks.0.cross_attn.hook_pattern", edits.zero())])


def test_other_models_have_no_such_names():
    plain, _ = random_gpt2()
    assert not any("cross" in name for name in hook_names(plain.config))
    with pytest.raises(ValueError, match="this model has no value called"):
        plain.run_with_cache([0], "*cross_attn*")


# ---- the command line


def test_commands_say_what_is_missing(tmp_path):
    folder = write(tmp_path / "m", 4)
    for command in (["generate", "x"], ["suggest", "x"], ["score", "x"], ["serve"], ["explain", "x"]):
        done = run(*command, "-m", folder)
        assert done.returncode == 1 and "but has none: use model.given" in done.stderr
    done = run("info", folder, "--check")
    assert done.returncode == 0 and "logits depend on the output of an encoder" in done.stdout
    done = run("convert", folder, tmp_path / "m.gpt2c", "--dtype", "int8")
    assert done.returncode == 0 and "needs the output of an encoder" in done.stderr
    done = run("export", folder, tmp_path / "out")
    assert done.returncode == 0 and ".given(STATES)" in done.stdout


# ---- what is refused


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.forward([1]),
        lambda model: model.generate([1]),
        lambda model: model.stream([1]),
        lambda model: model.score([1, 2]),
        lambda model: model.suggest([1]),
        lambda model: model.run_with_cache([1]),
        lambda model: model.embed([1, 2]),
        lambda model: model.session(),
        lambda model: model.scheduler(),
        lambda model: model.new_cache(),
    ],
)
def test_nothing_works_without_an_encoder(reader, use):
    with pytest.raises(ConfigError, match=r"but has none: use model\.given"):
        use(reader)


def test_what_makes_no_sense_is_refused(reader, tmp_path):
    view = reader.given(states())
    with pytest.raises(ValueError, match="no prefix cache"):
        view.prefix_cache = "1MB"
    with pytest.raises(ConfigError, match="a scheduler's requests"):
        view.scheduler()
    with pytest.raises(ValueError, match="cannot be saved"):
        view.session([1]).save(tmp_path / "s")
    with pytest.raises(TypeError, match="the output of an encoder cannot be pickled"):
        pickle.dumps(view)
    with pytest.raises(ConfigError, match="has no cross-attention"):
        random_gpt2()[0].given(states())
    with pytest.raises(ConfigError, match="add_cross_attention"):
        view.export(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="states are needed"):
        reference.forward(view, [1])
    assert reader.memory_plan()["cache_full_context"] > 0
    assert same(copy.deepcopy(view).forward([1]), view.forward([1]))


@pytest.mark.parametrize(
    ("given_states", "error"),
    [
        (np.zeros((3, N_EMBD + 1)), ValueError),
        (np.zeros((0, N_EMBD)), ValueError),
        (np.zeros(N_EMBD), ValueError),
        (np.full((2, N_EMBD), np.nan), ValueError),
        (np.full((2, N_EMBD), 1e300), ValueError),
        ([["a"] * N_EMBD], TypeError),
        ([[1.0], [1.0, 2.0]], TypeError),
        (None, TypeError),
        ("text", TypeError),
    ],
)
def test_states_that_are_none(reader, given_states, error):
    with pytest.raises(error, match=r"states must be an array \[positions, 24\]"):
        reader.given(given_states)


@pytest.mark.parametrize(
    "changes",
    [
        {"add_cross_attention": "yes"},
        {"add_cross_attention": 1},
        {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"]},
        {"architectures": ["GPT2ForSequenceClassification"]},
    ],
)
def test_configurations_that_are_refused(changes):
    with pytest.raises(ConfigError, match="add_cross_attention"):
        config_from_hf(models.values(0) | changes)
