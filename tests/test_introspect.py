"""Looking inside: every captured number is the engine's own, and looking changes none."""

import functools

import numpy as np
import pytest
from helpers import tolerance
from helpers.kernelwise import kernel_by_kernel, unpacked
from helpers.rounding import narrowed
from helpers.strategies import models, seeds
from helpers.toys import gpt2, random_gpt2, same
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import GPT2, edits, reference
from gpt2c.core import _engine
from gpt2c.introspection.hooks import PLACES, TABLES, full_name, hook_names, matching
from gpt2c.introspection.observer import checked_edits

ISAS = _engine.isas()
EVERYTHING = ("*", "*_in", "*_input", "*result")
U = tolerance.U


# ---- captures ----


@given(models(), st.sampled_from(_engine.DTYPES), st.sampled_from(ISAS), st.integers(1, 3))
@settings(max_examples=100)
def test_captures_are_what_the_kernels_compute(model, dtype, isa, threads):
    config, tensors, ids = model
    ids = ids.astype(np.int32)
    looked = gpt2(model, dtype=dtype, isa=isa, threads=threads)
    logits, cache = looked.run_with_cache(ids, EVERYTHING)
    assert same(logits, looked.forward(ids)), "looking changes no number"
    assert list(cache) == hook_names(config)

    seen = {}
    assert same(logits, kernel_by_kernel(config, tensors, ids, dtype, isa, seen))
    for name, value in seen.items():
        assert same(cache[name], value), name
    assert len(seen) == 2 + 11 * config.n_layer
    check_the_rest(looked, unpacked(config, tensors, dtype), cache)


def check_the_rest(model, tensors, cache):
    """What no kernel gives as such, from what the kernels gave, within its own rounding errors."""
    config, T = model.config, len(cache.token_ids)
    future = np.triu(np.ones((T, T), bool), 1)
    for layer in range(config.n_layer):
        q, k = (cache[name, layer].transpose(1, 0, 2) for name in "qk")
        q = narrowed(q, "bfloat16") if model.cache_dtype == "bfloat16" else q
        q, k = q.astype(np.float64), narrowed(k, model.cache_dtype).astype(np.float64)
        scale = np.float32(config.attention_scale(layer))
        scores, pattern = cache["attn_scores", layer], cache["pattern", layer]
        for head in range(config.n_head):
            keys = k[head * config.n_kv_head // config.n_head]
            exact = q[head] @ keys.T * scale
            bound = tolerance.dense_bound(q[head], keys.T) * abs(scale) + U * np.abs(exact)
            error = np.where(future, 0, scores[head].astype(np.float64) - exact)
            assert (np.abs(error) <= 1.001 * bound + tolerance.TINY).all()
            seen = scores[head].astype(np.float64)
            assert (np.abs(pattern[head] - reference.softmax(seen)) <= tolerance.softmax_bound(seen)).all()
        assert (scores[:, future] == -np.inf).all() and (pattern[:, future] == 0).all()
        assert np.abs(pattern.sum(axis=-1, dtype=np.float64) - 1).max() <= 2 * (T + 4) * U

        heads = cache["z", layer].astype(np.float64)
        matrix = tensors[f"h.{layer}.attn.c_proj.weight"].astype(np.float64)
        matrix = matrix.reshape(config.n_head, config.head_dim, config.n_embd)
        for head in range(config.n_head):
            exact = heads[:, head] @ matrix[head]
            bound = tolerance.dense_bound(heads[:, head], matrix[head], block=None)
            assert (np.abs(cache["result", layer][:, head] - exact) <= bound).all()

    norms = [("ln_final", f"blocks.{config.n_layer - 1}.hook_resid_post", "ln_f")]
    for layer in range(config.n_layer):
        for number, stream in ((1, "pre"), (2, "mid")):
            block = f"blocks.{layer}."
            norms.append((f"{block}ln{number}", f"{block}hook_resid_{stream}", f"h.{layer}.ln_{number}"))
    for name, stream, tensor in norms:
        x = cache[stream].astype(np.float64)
        centred = x - x.mean(axis=1, keepdims=True)
        divisor = np.sqrt((centred**2).mean(axis=1, keepdims=True) + config.layer_norm_epsilon)
        assert np.abs(cache[f"{name}.hook_scale"] / divisor - 1).max() <= 2 * U
        one, none = np.ones(config.n_embd), np.zeros(config.n_embd)
        bound = tolerance.layer_norm_bound(x, one, none, config.layer_norm_epsilon)
        assert (np.abs(cache[f"{name}.hook_normalized"] - centred / divisor) <= bound + 4 * U).all(), tensor


@given(models(), st.sampled_from(["float32", "int8"]), st.sampled_from(_engine.CACHE_DTYPES))
@settings(max_examples=60)
def test_without_a_mask_as_the_reference(model, dtype, cache_dtype):
    config, tensors, ids = model
    looked = gpt2(model, dtype=dtype)
    looked.cache_dtype = cache_dtype
    logits, cache = looked.run_with_cache(ids, EVERYTHING, causal=False)
    assert not cache.causal
    tensors = unpacked(config, tensors, dtype)
    if dtype == cache_dtype == "float32":
        unmasked = functools.partial(reference.forward, causal=False)
        bound = tolerance.model_bound(config, tensors, ids, forward=unmasked)
        tolerance.check_logits(logits, unmasked(config, tensors, ids), bound)
    for layer in range(config.n_layer):
        assert np.isfinite(cache["attn_scores", layer]).all()
        pattern = cache["pattern", layer].astype(np.float64)
        assert np.abs(pattern.sum(axis=-1) - 1).max() <= 2 * (len(ids) + 4) * U
        scores = cache["attn_scores", layer].astype(np.float64)
        assert (np.abs(pattern - reference.softmax(scores)) <= tolerance.softmax_bound(scores)).all()
        values = cache["v", layer].astype(np.float64)
        mixed = np.einsum("hij,jhd->ihd", pattern, values)
        size = np.einsum("hij,jhd->ihd", pattern, np.abs(values))
        # values to 11 bits; values, weights and their sum to 8
        rounding = {"float32": 64 * U, "float16": 2.0**-10, "bfloat16": 4 * 2.0**-8}[cache_dtype]
        assert (np.abs(cache["z", layer] - mixed) <= rounding * size + 1e-30).all()


@given(models(), st.sampled_from(["float32", "int8", "int4"]), st.booleans())
@settings(max_examples=30)
def test_every_isa_captures_the_same_bytes(model, dtype, causal):
    half = [("*.hook_pattern", edits.scale(0.5, heads=0))]
    seen = set()
    for isa in ISAS:
        logits, cache = gpt2(model, dtype=dtype, isa=isa).run_with_cache(model[2], edits=half, causal=causal)
        seen.add(b"".join([logits.tobytes(), *(value.tobytes() for value in cache.values())]))
    assert len(seen) == 1


@given(models(max_ctx=20), seeds)
@settings(max_examples=30)
def test_any_choice_of_names_gives_the_same(model, seed):
    looked, ids = gpt2(model, dtype=_engine.DTYPES[seed % 4], threads=1 + seed % 2), model[2]
    logits, everything = looked.run_with_cache(ids, EVERYTHING)
    names = hook_names(looked.config)
    some = np.random.default_rng(seed).choice(names, size=1 + seed % 4).tolist()
    others, cache = looked.run_with_cache(ids, some)
    assert same(logits, others)
    assert list(cache) == [name for name in names if name in some]
    for name, value in cache.items():
        assert same(value, everything[name]), name


@pytest.mark.parametrize("dtype", _engine.DTYPES)
@pytest.mark.parametrize("cache_dtype", _engine.CACHE_DTYPES)
def test_long_texts_and_several(dtype, cache_dtype):
    """More rows than go through the layers together when nobody looks, and more than one block of keys."""
    model, _ = random_gpt2(n_ctx=700, dtype=dtype)
    model.cache_dtype = cache_dtype
    rng = np.random.default_rng(0)
    texts = [rng.integers(61, size=n).astype(np.int32) for n in (600, 1, 129, 700, 700, 9)]
    names = ["*.hook_pattern", "*.hook_z", "*resid_post", "ln_final*"]
    logits, caches = model.run_with_cache(texts, names)
    for ids, row, cache in zip(texts, logits, caches, strict=True):
        assert same(row, model.forward(ids))
        alone_logits, alone = model.run_with_cache(ids, names)
        assert same(row, alone_logits) and list(alone) == list(cache)
        for name in cache:
            assert same(cache[name], alone[name]), name


def test_blas_can_be_looked_at_too():
    model, tensors = random_gpt2()
    blas = GPT2(_engine.Weights(model.config, tensors.__getitem__, backend="blas"))
    ids = list(range(30))
    logits, cache = blas.run_with_cache(ids, EVERYTHING, edits=[("blocks.0.hook_mlp_out", lambda x, hook: x)])
    assert np.abs(logits - blas.forward(ids)).max() <= 1e-5
    _, native = model.run_with_cache(ids, EVERYTHING)
    for name in native:
        seen = np.isfinite(native[name])  # of scores half are hidden
        assert np.array_equal(seen, np.isfinite(cache[name]))
        assert np.abs(cache[name][seen] - native[name][seen]).max() <= 1e-4, name


def test_how_many_rows_of_logits():
    model, _ = random_gpt2()
    ids = list(range(12))
    whole, everything = model.run_with_cache(ids)
    for keep in (1, 5, 12, 20):
        logits, cache = model.run_with_cache(ids, logits_to_keep=keep)
        assert same(logits, whole[-keep:]) and same(cache.logits, logits)
        for name, value in cache.items():
            rows = everything[name][-keep:] if name.startswith("ln_final") else everything[name]
            assert same(value, rows), name


def test_nobody_else_has_the_arrays():
    model, _ = random_gpt2()
    _, cache = model.run_with_cache([1, 2, 3], EVERYTHING)
    before = {name: value.copy() for name, value in cache.items()}
    _, other = model.run_with_cache([3, 2, 1], EVERYTHING)
    for value in other.values():
        value[...] = 7
    assert all(same(cache[name], before[name]) for name in cache)


# ---- names ----


def test_names_and_their_short_forms():
    model, _ = random_gpt2()
    _, cache = model.run_with_cache([1, 2, 3])
    assert cache["pattern", 1] is cache["blocks.1.attn.hook_pattern"]
    assert cache["pattern", -1] is cache["attn.pattern", 1] is cache["attn.hook_pattern", 1]
    assert cache["embed"] is cache["hook_embed"]
    assert cache["mlp.pre", 0] is cache["pre", 0] is cache["blocks.0.mlp.hook_pre"]
    assert cache["ln1.scale", 0] is cache["blocks.0.ln1.hook_scale"]
    assert cache["ln_final.normalized"] is cache["ln_final.hook_normalized"]
    assert "blocks.1.attn.hook_pattern" in cache and "blocks.1.attn.hook_result" not in cache
    assert ("pattern", 1) in cache and ("patern", 1) not in cache and "pattern" not in cache
    with pytest.raises(KeyError, match=r"blocks.0.attn.hook_result was not captured: name it"):
        cache["result", 0]
    with pytest.raises(KeyError, match=r"blocks.0.attn.hook_result was not captured: name it"):
        cache["blocks.0.attn.hook_result"]
    with pytest.raises(KeyError, match="layer must be from -2 to 1: the model has 2"):
        cache["pattern", 2]
    with pytest.raises(KeyError, match="layer must be from -2 to 1"):
        cache["blocks.9.attn.hook_pattern"]
    for wrong in (3, ("pattern",), ("pattern", 0, 1), ("pattern", 0.0), (0, "pattern"), None):
        assert wrong not in cache
        with pytest.raises(KeyError):
            cache[wrong]
    with pytest.raises(KeyError, match="no value 'patern' in a layer; there are resid_pre, "):
        cache["patern", 0]
    with pytest.raises(
        KeyError, match=r"no value 'pattern' outside layers; .*; in a layer: cache\['pattern', 0\]"
    ):
        cache["pattern"]


def test_names_filters():
    config = random_gpt2()[0].config
    names = hook_names(config)
    assert len(names) == len(set(names)) == 2 + 23 * 2 + 2
    assert matching(config, None) == [
        name for name in names if not name.endswith(("result", "_in", "_input"))
    ]
    assert matching(config, "*") == matching(config, None)
    assert matching(config, EVERYTHING) == matching(config, lambda name: True) == names
    layer = [name for name in names if name.startswith("blocks.1.")]
    alone = ("result", "_in", "_input")
    for wide in ("blocks.1.*", "*.1.hook_*", "*.1.attn.*", "*1*t", "*1.hook_mlp_i?", "*1.hook_[kq]_inpu[t]"):
        try:
            assert not [name for name in matching(config, wide) if name.endswith(alone)], wide
        except ValueError as error:
            assert "this model has no value called" in str(error), wide
    for ending in alone:
        assert matching(config, f"blocks.1.*{ending}") == [name for name in layer if name.endswith(ending)]
    assert matching(config, "blocks.1.hook_[qk]_input") == [f"blocks.1.hook_{part}_input" for part in "qk"]
    touched = checked_edits(random_gpt2()[0], [("blocks.1.*", edits.zero())])
    assert list(touched) == [name for name in layer if not name.endswith(alone)]
    assert matching(config, ["blocks.[1-9].attn.hook_?", "hook_embed"]) == [
        "hook_embed",
        *(f"blocks.1.attn.hook_{name}" for name in "qkvz"),
    ]
    assert matching(config, lambda name: name.endswith("post")) == [
        name for name in names if name.endswith("post")
    ]
    assert matching(config, ()) == []
    with pytest.raises(
        ValueError, match=r"this model has no value called 'blocks.0.hook_patern'; did you mean "
    ):
        matching(config, ["hook_embed", "blocks.0.hook_patern"])
    with pytest.raises(ValueError, match=r"called 'hook_pattern'; did you mean '\*.hook_pattern'\?"):
        matching(config, "hook_pattern")
    with pytest.raises(ValueError, match=r"called 'blocks.2.\*'"):
        matching(config, "blocks.2.*")
    assert full_name(config, "resid_post", -1) == "blocks.1.hook_resid_post"
    with pytest.raises(KeyError, match="layer must be an integer"):
        full_name(config, f"blocks.{'9' * 5000}.z")


def test_names_filters_take_what_the_cache_takes():
    model, _ = random_gpt2()
    config = model.config
    both = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
    for short in ("pattern", "attn.pattern", "attn.hook_pattern"):
        assert matching(config, short) == matching(config, [short]) == both
        assert matching(config, (short, 1)) == matching(config, [(short, -1)]) == both[1:]
    assert matching(config, "blocks.1.pattern") == matching(config, "blocks.1.attn.pattern") == both[1:]
    assert matching(config, ["embed", "ln_final.scale"]) == ["hook_embed", "ln_final.hook_scale"]
    assert matching(config, ("result", 0)) == ["blocks.0.attn.hook_result"]
    _, cache = model.run_with_cache([1, 2], ["pattern", ("ln1.scale", 0)])
    assert list(cache) == ["blocks.0.ln1.hook_scale", *both]
    assert cache["pattern", 1] is cache[both[1]]
    for asked in ("pattern", ("pattern", 1), iter(["pattern"])):
        kept = model.generate([1, 2], max_new_tokens=2, names_filter=asked).cache
        assert list(kept) == (both[1:] if isinstance(asked, tuple) else both)
    off = [("z", edits.zero()), (("mlp.post", 1), edits.zero())]
    full = [("*.hook_z", edits.zero()), ("blocks.1.mlp.hook_post", edits.zero())]
    assert same(model.run_with_cache([1, 2], edits=off)[0], model.run_with_cache([1, 2], edits=full)[0])
    for short in ("scale", ("scale", 0), ("pattern", 2), ("embed", 0)):  # of which norm? no such place
        with pytest.raises(ValueError):
            matching(config, short)


@pytest.mark.parametrize("wrong", [3, [3], ["pattern", 3.5], [b"pattern"], (3, "pattern"), [None]])
def test_names_that_are_no_strings_are_refused(wrong):
    model, _ = random_gpt2()
    with pytest.raises(TypeError, match=r"names_filter is a name, a pair such as \('pattern', 3\), .*, not "):
        model.run_with_cache([1], wrong)
    with pytest.raises(TypeError, match=r"names_filter is a name, a pair such as \('pattern', 3\), .*, not "):
        model.generate([1], max_new_tokens=1, names_filter=wrong)


def test_edits_that_are_no_collection_are_refused():
    model, _ = random_gpt2()
    for attempt in (model.run_with_cache, model.generate):
        with pytest.raises(TypeError, match="edits are pairs of a name and a function"):
            attempt([1], edits=5)


# ---- while generating ----


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3, "top_k": 20}])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_captures_of_a_generation_are_those_of_one_pass(dtype, options):
    model, _ = random_gpt2(n_ctx=200, dtype=dtype)
    prompts = [[5, 9, 2], list(range(60)), [7]]
    plain = model.generate(prompts, max_new_tokens=80, num_return_sequences=2, **options)
    names = [name for name in hook_names(model.config) if not name.endswith("result")]
    found = model.generate(prompts, max_new_tokens=80, num_return_sequences=2, names_filter=names, **options)
    for one, other in zip(plain, found, strict=True):
        assert (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)
        assert one.cache is None
        cache = other.cache
        assert cache.token_ids.tolist() == other.prompt_token_ids + other.token_ids[:-1]
        n_new = len(other.token_ids)
        logits, whole = model.run_with_cache(cache.token_ids, names, logits_to_keep=n_new)
        assert same(cache.logits, logits)
        assert list(cache) == names
        for name in names:
            assert same(cache[name], whole[name]), name


def test_streams_can_be_looked_at():
    model, _ = random_gpt2()
    stream = model.stream([1, 2], max_new_tokens=5, names_filter="*.hook_z")
    next(stream, None)
    stream.close()
    assert stream.result.cache["z", 0].shape == (len(stream.result.token_ids) + 1, 2, 12)


def test_what_cannot_be_captured():
    model, _ = random_gpt2()
    with pytest.raises(ValueError, match=r"names_filter .* num_beams=1"):
        model.generate([1], names_filter=None, num_beams=2)
    with pytest.raises(ValueError, match="names_filter goes with overflow="):
        model.generate([1], names_filter="*.hook_z", overflow="slide")
    with pytest.raises(ValueError, match="this model has no value called 'hook_z'"):
        model.generate([1], names_filter="hook_z")
    with pytest.raises(TypeError, match="causal must be True or False, not 'no'"):
        model.run_with_cache([1], causal="no")
    with pytest.raises(ValueError, match="logits_to_keep must be at least 0"):
        model.run_with_cache([1], logits_to_keep=-1)


def test_continuations_have_arrays_of_their_own():
    model, _ = random_gpt2()
    options = {"max_new_tokens": 1, "num_return_sequences": 2, "names_filter": "*.hook_z"}
    one, other = model.generate([1, 2, 3], **options)
    before = other.cache["z", 0].copy()
    one.cache["z", 0][:] = 7
    assert same(other.cache["z", 0], before)


def test_caches_are_equal_to_themselves():
    model, _ = random_gpt2()
    one, other = (model.generate([1], max_new_tokens=1, names_filter="*.hook_z") for _ in range(2))
    assert one == one and one != other and one in [other, one]
    assert one.cache == one.cache and one.cache != other.cache and hash(one.cache) != hash(other.cache)


# ---- the engine's side ----


def test_places_have_one_order():
    assert tuple(PLACES) == tuple(place for place in _engine.PLACES if place in PLACES)
    assert {place for table in TABLES.values() for place in table.places} == {*_engine.PLACES}


def test_a_pass_can_begin_at_any_layer():
    model, _ = random_gpt2(dtype="int8")
    ids = np.arange(20, dtype=np.int32)
    logits, cache = model.run_with_cache(ids)
    streams = [cache["resid_pre", layer] for layer in range(2)] + [cache["resid_post", 1]]
    for layer, stream in enumerate(streams):
        text = model.new_cache()
        found = _engine.forward(model.weights, [(text, ids)], start=(layer, stream))
        assert same(found, logits) and len(text) == 0
        targets = np.roll(ids, -1)
        scores = _engine.score(
            model.weights, [(text, ids)], [(np.arange(20), targets)], start=(layer, stream)
        )
        plain = _engine.score(model.weights, [(text, ids)], [(np.arange(20), targets)])
        assert all(same(a, b) for a, b in zip(scores, plain, strict=True))
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=rf"cannot start at layer {layer}; allowed: 0 to 2"):
            _engine.forward(model.weights, [(model.new_cache(), ids)], start=(layer, streams[0]))
    with pytest.raises(ValueError, match=r"has the shape \(19, 24\); needed: \(20, 24\)"):
        _engine.forward(model.weights, [(model.new_cache(), ids)], start=(0, stream[1:]))


def test_without_a_mask_a_text_is_computed_at_once():
    model, _ = random_gpt2()
    cache = model.new_cache()
    ids = np.arange(3, dtype=np.int32)
    _engine.forward(model.weights, [(cache, ids)], bidirectional=True)
    assert len(cache) == 0
    _engine.forward(model.weights, [(cache, ids)])
    with pytest.raises(ValueError, match="its cache must be empty"):
        _engine.forward(model.weights, [(cache, ids)], bidirectional=True)
    assert len(cache) == 3
