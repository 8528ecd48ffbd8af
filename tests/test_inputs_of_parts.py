"""What a part of the model reads can be changed for that part alone: path patching."""

import numpy as np
import pytest
from helpers.strategies import models
from helpers.toys import gpt2, random_gpt2, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpt2c import GPT2, edits
from gpt2c.core import _engine
from gpt2c.introspection import patching
from gpt2c.introspection.hooks import matching

INPUTS = ("attn_in", "q_input", "k_input", "v_input")
EVERYTHING = ("*", "*_in", "*_input", "*result")


def moved(model, names, edit, ids, **how):
    """What is computed with one edit of places in layer 1, by short names."""
    pairs = [(f"blocks.1.hook_{name}", edit) for name in names]
    return model.run_with_cache(ids, EVERYTHING, edits=pairs, **how)[1]


@given(
    models(max_ctx=30),
    st.sampled_from(_engine.DTYPES),
    st.sampled_from(_engine.isas()),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=60)
def test_all_heads_that_read_the_same_are_attention_over_another_stream(model, dtype, isa, threads, causal):
    config, _, ids = model
    assume(config.n_layer > 1)
    looked = gpt2(model, dtype=dtype, isa=isa, threads=threads)
    steer = edits.add(np.random.default_rng(0).standard_normal(config.n_embd))
    _, plain = looked.run_with_cache(ids, EVERYTHING, causal=causal)
    stream = moved(looked, ["resid_pre"], steer, ids, causal=causal)
    shared = config.n_kv_head < config.n_head
    for names in (INPUTS[1:],) if shared else (["attn_in"], INPUTS[1:]):
        inputs = moved(looked, names, steer, ids, causal=causal)
        assert same(inputs["resid_pre", 1], plain["resid_pre", 1])
        assert same(inputs["ln1.normalized", 1], plain["ln1.normalized", 1])
        for name in ("q", "k", "v", "attn_scores", "z", "attn_out"):
            assert same(inputs[name, 1], stream[name, 1]), name
        assert same(inputs["resid_mid", 1], plain["resid_pre", 1] + stream["attn_out", 1])


@given(models(max_ctx=30), st.sampled_from(_engine.DTYPES), st.sampled_from(_engine.isas()), st.data())
@settings(max_examples=60)
def test_what_one_head_reads_changes_what_is_made_of_it_alone(model, dtype, isa, data):
    config, _, ids = model
    assume(config.n_layer > 1)
    looked = gpt2(model, dtype=dtype, isa=isa)
    head, position = data.draw(st.integers(0, config.n_head - 1)), data.draw(st.integers(0, len(ids) - 1))
    part = data.draw(st.sampled_from("qkv"))
    n_heads = {"q": config.n_head, "k": config.n_kv_head, "v": config.n_kv_head}
    head %= n_heads[part]
    vector = np.random.default_rng(1).standard_normal(config.n_embd)
    one = edits.add(vector, heads=head, positions=position)
    _, plain = looked.run_with_cache(ids, EVERYTHING)
    stream = moved(looked, ["resid_pre"], edits.add(vector, positions=position), ids)
    changed = moved(looked, [f"{part}_input"], one, ids)
    for name in "qkv":
        expected = plain[name, 1].copy()
        if name == part:
            expected[position, head] = stream[name, 1][position, head]
        assert same(changed[name, 1], expected), name
    for name in INPUTS if config.n_kv_head == config.n_head else INPUTS[1:]:
        expected = np.repeat(plain["resid_pre", 1][:, None], n_heads.get(name[0], config.n_head), axis=1)
        if name[0] == part:
            expected[position, head] = stream["resid_pre", 1][position]
        assert same(changed[name, 1], expected), name


@given(models(max_ctx=30), st.sampled_from(_engine.DTYPES), st.sampled_from(_engine.isas()))
@settings(max_examples=40)
def test_what_feed_forward_reads_leaves_the_stream_alone(model, dtype, isa):
    config, _, ids = model
    assume(config.n_layer > 1)
    looked = gpt2(model, dtype=dtype, isa=isa)
    steer = edits.add(np.random.default_rng(0).standard_normal(config.n_embd))
    _, plain = looked.run_with_cache(ids, EVERYTHING)
    stream, changed = (moved(looked, [name], steer, ids) for name in ("resid_mid", "mlp_in"))
    assert same(changed["mlp_in", 1], stream["resid_mid", 1])
    assert same(changed["resid_mid", 1], plain["resid_mid", 1])
    for name in ("ln2.scale", "ln2.normalized", "pre", "post", "mlp_out"):
        assert same(changed[name, 1], stream[name, 1]), name
    assert same(changed["resid_post", 1], plain["resid_mid", 1] + stream["mlp_out", 1])


def test_the_input_of_one_layer_is_not_put_into_another():
    model, _ = random_gpt2()
    ids = list(range(9))
    whole, everything = model.run_with_cache(ids, EVERYTHING)
    logits, cache = model.run_with_cache(ids, [("mlp_in", 0), ("ln2.scale", 1)])
    assert same(logits, whole) and same(cache["mlp_in", 0], everything["resid_mid", 0])
    pairs = [("blocks.0.hook_mlp_in", edits.scale(1.0)), ("blocks.1.ln2.hook_scale", edits.scale(1.0))]
    assert same(model.run_with_cache(ids, edits=pairs)[0], whole)
    once = [("blocks.0.hook_q_input", edits.add(1.0, units=0))]
    again = [*once, ("blocks.1.attn.hook_q", edits.scale(1.0))]
    assert same(*(model.run_with_cache(ids, (), edits=pairs)[0] for pairs in (once, again)))


@pytest.mark.parametrize("name", [*INPUTS, "mlp_in"])
def test_an_edit_is_the_same_whoever_looks(name):
    model, _ = random_gpt2()
    pairs = [(f"*.hook_{name}", edits.add(np.arange(24), positions=3))]
    logits = [model.run_with_cache(list(range(9)), names, edits=pairs)[0] for names in ((), None, EVERYTHING)]
    assert same(logits[0], logits[1]) and same(logits[0], logits[2])
    assert not same(logits[0], model.forward(list(range(9))))


def test_what_attention_reads_comes_first_and_its_parts_begin_as_it_became():
    model, _ = random_gpt2()
    order = []

    def note(value, hook):
        order.append((hook.name, value.copy()))
        value += len(order)

    _, plain = model.run_with_cache([1, 2, 3], EVERYTHING)
    names = [f"blocks.1.hook_{name}" for name in INPUTS]
    _, cache = model.run_with_cache([1, 2, 3], EVERYTHING, edits=[(names, note)])
    assert [name for name, _ in order] == names
    stream = np.repeat(plain["resid_pre", 1][:, None], 2, axis=1)
    assert same(order[0][1], stream) and same(cache["attn_in", 1], stream + 1)
    for number, name in enumerate(INPUTS[1:], 2):
        assert same(order[number - 1][1], stream + 1)
        assert same(cache[name, 1], (stream + 1) + number)
    # Two edits that undo each other: nobody reads anything else.
    half, twice = (edits.scale(factor, heads=1) for factor in (0.5, 2.0))
    pairs = [("blocks.*.hook_attn_in", half), *((f"*.hook_{name}", twice) for name in INPUTS[1:])]
    assert same(model.run_with_cache([1, 2, 3], edits=pairs)[0], plain.logits)


@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_more_rows_than_are_projected_at_a_time(dtype):
    model, _ = random_gpt2(n_ctx=600, dtype=dtype)
    rng = np.random.default_rng(0)
    texts = [rng.integers(61, size=n).astype(np.int32) for n in (600, 1, 333)]
    vector = rng.standard_normal(24)

    def steer(value, hook):  # one head reads the stream as it is at position 100: blocks are not all alike
        kept = value[100:101, 0].copy()
        value += np.float32(vector)
        value[100:101, 0] = kept

    names = "blocks.1.attn.hook_[qkv]"
    _, plain = model.run_with_cache(texts, names)
    _, caches = model.run_with_cache(texts, names, edits=[("blocks.1.hook_attn_in", steer)])
    _, stream = model.run_with_cache(texts, names, edits=[("blocks.1.hook_resid_pre", edits.add(vector))])
    for before, inputs, expected in zip(plain, caches, stream, strict=True):
        for name, value in expected.items():
            value[100:101, 0] = before[name][100:101, 0]
            assert same(inputs[name], value), name


@pytest.mark.parametrize("cache_dtype", _engine.CACHE_DTYPES)
@pytest.mark.parametrize("dtype", _engine.DTYPES)
def test_while_generating(dtype, cache_dtype):
    """Every step is what one pass over the whole text would be."""
    model, _ = random_gpt2(n_ctx=60, dtype=dtype)
    model.cache_dtype = cache_dtype
    steer = np.random.default_rng(0).standard_normal(24)
    pairs = [
        ("blocks.1.hook_attn_in", edits.add(steer, positions=slice(2, None), heads=0)),
        ("*.hook_k_input", edits.scale(0.5, heads=1)),
        ("blocks.0.hook_v_input", edits.zero(units=range(5))),
        ("*.hook_mlp_in", edits.add(-steer, positions=slice(1, 30))),
    ]
    prompts = [[5, 6, 7], [8]]
    names = ["*_input", "*_in", "*.hook_[qkv]", "*resid_post"]
    plain = model.generate(prompts, max_new_tokens=40)
    found = model.generate(prompts, max_new_tokens=40, edits=pairs, names_filter=names)
    for one, other in zip(plain, found, strict=True):
        assert one.token_ids != other.token_ids
        logits, cache = model.run_with_cache(other.cache.token_ids, names, edits=pairs)
        assert same(logits[-len(other.token_ids) :], other.cache.logits)
        assert list(cache) == list(other.cache) == matching(model.config, names)
        assert all(same(cache[name], other.cache[name]) for name in cache)


def test_with_blas():
    model, tensors = random_gpt2()
    blas = GPT2(_engine.Weights(model.config, tensors.__getitem__, backend="blas"))
    ids = list(range(30))
    plain = blas.run_with_cache(ids, EVERYTHING)
    again = blas.run_with_cache(ids, EVERYTHING, edits=[(EVERYTHING, edits.scale(1.0))])
    assert same(plain[0], again[0]) and all(same(plain[1][name], again[1][name]) for name in plain[1])
    for name in (*INPUTS, "mlp_in"):
        heads = 1 if name in INPUTS else None
        pairs = [(f"*.hook_{name}", edits.scale(-0.5, positions=[0, 3, 29], units=range(9), heads=heads))]
        logits, cache = blas.run_with_cache(ids, EVERYTHING, edits=pairs)
        native = model.run_with_cache(ids, EVERYTHING, edits=pairs)
        assert np.abs(logits - native[0]).max() <= 1e-4 < np.abs(logits - plain[0]).max()
        for value in ("q", "k", "v", name):
            assert np.abs(cache[value, 1] - native[1][value, 1]).max() <= 1e-4


@pytest.mark.parametrize("norm", ["scale", "normalized"])
@pytest.mark.parametrize("name", INPUTS)
def test_the_norm_of_the_stream_is_not_that_of_a_head(name, norm):
    model, _ = random_gpt2()
    ids = list(range(6))
    read = (f"blocks.1.hook_{name}", edits.add(np.arange(24.0), positions=2, heads=0))
    freeze = [(f"blocks.1.ln1.hook_{norm}", edits.scale(0.5, positions=at)) for at in ([2, 4], [1, 4])]
    with pytest.raises(ValueError, match=r"blocks.1.ln1.* edited at a position where heads .*: edit one"):
        model.run_with_cache(ids, edits=[read, freeze[0]])
    # At other positions they do not meet, and in other layers neither.
    _, both = model.run_with_cache(ids, EVERYTHING, edits=[read, freeze[1]])
    _, frozen = model.run_with_cache(ids, EVERYTHING, edits=[freeze[1]])
    _, changed = model.run_with_cache(ids, EVERYTHING, edits=[read])
    for part in "qkv":
        expected = frozen[part, 1].copy()
        expected[2] = changed[part, 1][2]
        assert same(both[part, 1], expected)
    model.run_with_cache(ids, edits=[read, (f"blocks.0.ln1.hook_{norm}", edits.scale(0.5))])


def test_they_are_kept_by_name_alone():
    model, _ = random_gpt2()
    inputs = [f"blocks.{layer}.hook_{name}" for layer in (0, 1) for name in (*INPUTS, "mlp_in")]
    assert [n for n in matching(model.config, EVERYTHING) if n.endswith(("_in", "_input"))] == inputs
    assert not set(inputs) & set(matching(model.config, None))
    _, cache = model.run_with_cache([1, 2, 3], "q_input")
    assert {name: value.shape for name, value in cache.items()} == {
        f"blocks.{layer}.hook_q_input": (3, 2, 24) for layer in (0, 1)
    }
    assert model.run_with_cache([1, 2, 3], ("mlp_in", 1))[1]["mlp_in", 1].shape == (3, 24)
    with pytest.raises(ValueError, match=r"blocks.0.hook_mlp_in has no heads"):
        model.run_with_cache([1], edits=[("blocks.0.hook_mlp_in", edits.zero(heads=0))])


def test_patches_keep_what_heads_read_once(monkeypatch):
    model, _ = random_gpt2()
    kept = []

    def capture(model, prompts, names, *rest, **how):
        kept.extend(names)
        return original(model, prompts, names, *rest, **how)

    original = patching.capture
    monkeypatch.setattr(patching, "capture", capture)
    model.patch([1, 2], [3, 4], ("k_input", [0, 1], "all", [0]), lambda logits: logits[0, 0])
    assert kept == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
