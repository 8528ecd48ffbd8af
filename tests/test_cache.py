"""Caches that share a prefix, and caches that follow one another: logits stay the same bytes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from helpers.strategies import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import Config
from gpt2c.core import _engine

CONFIG = Config(n_layer=2, n_head=3, n_embd=24, n_inner=None, n_ctx=330, n_vocab=97)
FORMATS = [(dtype, cache) for dtype in _engine.DTYPES for cache in _engine.CACHE_DTYPES]


@functools.cache
def weights_of(dtype="float32", seed=0):
    tensors = random_model(CONFIG, np.random.default_rng(seed), 0.4)
    return _engine.Weights(CONFIG, tensors.__getitem__, dtype=dtype)


def text(n, seed=0):
    return np.random.default_rng(seed).integers(CONFIG.n_vocab, size=n).astype(np.int32)


def fed(weights, ids, dtype="float32", **settings):
    cache = _engine.KVCache(weights, dtype=dtype, **settings)
    if len(ids):
        _engine.forward(weights, [(cache, ids)])
    return cache


def from_scratch(weights, ids, dtype):
    return _engine.forward(weights, [(_engine.KVCache(weights, dtype=dtype), ids)])


lengths = st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 143, 144, 145, 255, 256, 260]))


@given(
    st.sampled_from(FORMATS), lengths, st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 2)
)
@settings(max_examples=60)
def test_texts_with_a_common_prefix_read_it_in_place(formats, n_prefix, tails, threads):
    dtype, cache_dtype = formats
    weights, start = weights_of(dtype), text(n_prefix)
    prefix = fed(weights, start, cache_dtype)
    caches = [_engine.KVCache(weights, n_prefix + n + 1, cache_dtype, prefix=prefix) for n in tails]
    own = [text(n + 1, seed) for seed, n in enumerate(tails)]
    assert [len(cache) for cache in caches] == [n_prefix] * len(tails)
    together = _engine.forward(
        weights, [(c, t[:-1]) for c, t in zip(caches, own, strict=True)], threads=threads
    )
    steps = _engine.forward(weights, [(c, t[-1:]) for c, t in zip(caches, own, strict=True)], threads=threads)
    done = 0
    for tail, step in zip(own, steps, strict=True):
        expected = from_scratch(weights, np.concatenate((start, tail)), cache_dtype)[n_prefix:]
        assert together[done : done + len(tail) - 1].tobytes() == expected[:-1].tobytes()
        assert step.tobytes() == expected[-1].tobytes()
        done += len(tail) - 1


@given(
    st.sampled_from(FORMATS),
    st.one_of(st.none(), lengths),
    st.integers(0, 30),
    st.integers(1, 30),
    st.integers(1, 30),
)
@settings(max_examples=60)
def test_a_cache_follows_another_from_where_they_part(formats, n_prefix, n_common, n_mine, n_other):
    dtype, cache_dtype = formats
    weights = weights_of(dtype)
    start, common = text(n_prefix or 0), text(n_common, 1)
    prefix = None if n_prefix is None else fed(weights, start, cache_dtype)
    mine, other = (
        fed(weights, np.concatenate((common, text(n, seed))), cache_dtype, prefix=prefix)
        for n, seed in ((n_mine, 2), (n_other, 3))
    )
    mine.follow(other, len(start) + n_common)
    third = other.fork()
    assert len(mine) == len(third) == len(start) + n_common + n_other
    last = text(2, 4)
    expected = from_scratch(weights, np.concatenate((start, common, text(n_other, 3), last)), cache_dtype)[
        -2:
    ]
    for cache in (mine, third, other):
        assert _engine.forward(weights, [(cache, last)]).tobytes() == expected.tobytes()


def test_a_prefix_cannot_change_while_others_read_it():
    weights = weights_of()
    prefix = fed(weights, text(20))
    child = _engine.KVCache(weights, prefix=prefix)
    for change in (
        lambda: _engine.forward(weights, [(prefix, text(1))]),
        lambda: prefix.truncate(3),
    ):
        with pytest.raises(
            ValueError, match=r"prefix of others and cannot change while they exist; use a fork\(\)"
        ):
            change()
    assert (len(prefix), len(child)) == (20, 20)
    copy = prefix.fork()
    _engine.forward(weights, [(copy, text(1)), (child, text(1))])
    assert (len(copy), len(child)) == (21, 21)
    second = child.fork()
    assert prefix.branches == 2
    del child
    with pytest.raises(ValueError, match="while they exist"):
        prefix.truncate(3)
    del second
    assert prefix.branches == 0
    prefix.truncate(3)
    logits = _engine.forward(weights, [(prefix, text(4, 2))])
    expected = from_scratch(weights, np.concatenate((text(20)[:3], text(4, 2))), "float32")[3:]
    assert logits.tobytes() == expected.tobytes()


def test_a_child_shrinks_to_what_it_shares():
    weights = weights_of()
    child = _engine.KVCache(weights, prefix=fed(weights, text(20)))
    _engine.forward(weights, [(child, text(5, 1))])
    child.truncate(16)
    logits = _engine.forward(weights, [(child, text(3, 2))])
    expected = from_scratch(weights, np.concatenate((text(20)[:16], text(3, 2))), "float32")[16:]
    assert logits.tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match=r"truncate\(15\); allowed: 16 to 19.*a prefix holds the others"):
        child.truncate(15)


def test_caches_that_do_not_fit_are_refused():
    weights, other = weights_of(), weights_of(seed=1)
    prefix = fed(weights, text(40))
    for unfit in (
        dict(weights=other),
        dict(weights=weights, dtype="float16"),
    ):
        with pytest.raises(ValueError, match="of the same model and dtype"):
            _engine.KVCache(prefix=prefix, **unfit)
    with pytest.raises(ValueError, match="n_ctx of a cache is 39, but its prefix has 40 positions"):
        _engine.KVCache(weights, 39, prefix=prefix)
    child = _engine.KVCache(weights, 60, prefix=prefix)
    with pytest.raises(ValueError, match="have none itself"):
        _engine.KVCache(weights, prefix=child)
    alone = fed(weights, text(45))
    for cannot in (child, alone, fed(weights, text(25, 1), prefix=prefix)):
        with pytest.raises(
            ValueError, match="can only follow one with the same model, dtype, prefix and enc"
        ):
            child.follow(cannot, 40)
    twin = child.fork()
    with pytest.raises(ValueError, match="n is 31; allowed: 32 to 40"):
        child.follow(twin, 31)
