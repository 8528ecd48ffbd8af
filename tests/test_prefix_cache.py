"""Beginnings that texts share are computed once: results are the same bytes, whatever is kept or dropped."""

import copy
import os
import pickle
import random
import signal
import threading
import time

import numpy as np
import pytest
from helpers.toys import random_gpt2
from helpers.writing import edited, generation_options, same, same_score

from gpt2c import GPT2, edits
from gpt2c.core import _engine
from gpt2c.session.prefix_cache import PrefixCache

N_CTX = 600


def made(dtype="float32", cache_dtype="float32"):
    model, _ = random_gpt2(1, n_vocab=61, n_ctx=N_CTX, dtype=dtype)
    model.cache_dtype = cache_dtype
    return model


def text(n, seed=0):
    return np.random.default_rng(seed).integers(61, size=n).tolist()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("cache_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("blocks", [1, 3, 100])
def test_results_are_the_same_bytes(dtype, cache_dtype, blocks):
    model, plain = made(dtype, cache_dtype), made(dtype, cache_dtype)
    block = _engine.KVCache(model.weights, 128, cache_dtype).nbytes
    model.prefix_cache = blocks * block + 100
    rng = random.Random(blocks)
    for step in range(40):
        ids = [
            *text(rng.choice([0, 127, 128, 129, 256, 300, 400]), rng.randrange(2)),
            *text(rng.randrange(1, 60), step),
        ]
        options = {"max_new_tokens": 3, "temperature": rng.choice([0, 1.0]), "seed": step}
        if rng.random() < 0.3:
            options |= {"num_beams": 2}
        if rng.random() < 0.3:
            assert repr(model.suggest(ids)) == repr(plain.suggest(ids))
        elif rng.random() < 0.4:
            pairs = [(ids, text(5, step)), (ids, text(9, step)), text(7, step), (text(130), text(3))]
            how = {"bos": rng.choice([True, False]), "top": 2}
            for found, expected in zip(model.score(pairs, **how), plain.score(pairs, **how), strict=True):
                assert found.logprobs.tobytes() == expected.logprobs.tobytes()
                assert found.top_logprobs.tobytes() == expected.top_logprobs.tobytes()
                assert found.ranks.tobytes() == expected.ranks.tobytes()
        else:
            several = [ids, text(rng.randrange(1, 300), rng.randrange(3)), ids]
            assert repr(model.generate(several, **options)) == repr(plain.generate(several, **options))
        assert model.prefix_cache.nbytes <= model.prefix_cache.size
    assert model.prefix_cache.n_reused > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_results_are_the_same_bytes_while_someone_writes(dtype, seed):
    """320 edits of texts that have a few blocks, with room for two."""
    model, plain = (GPT2.from_pretrained(dtype=dtype, threads=1) for _ in range(2))
    model.prefix_cache = 2 * _engine.KVCache(model.weights, 128).nbytes
    rng = random.Random(seed)
    long = "Once upon a time there was a little girl who lived in a house near the woods. " * 16
    text = long
    for step in range(40):
        if len(text) < 700:
            text += long[len(text) :]
        text = edited(text, rng)[:1000]
        if rng.random() < 0.2:  # as many tokens, and the same ones behind
            text = text.replace(*rng.sample([" girl", " king"], 2), 1)
        action = rng.randrange(3)
        if action == 0:
            same(model.suggest(text, 4), plain.suggest(text, 4))
        elif action == 1:
            pairs = [(text, " and then"), (text, " the dog"), text[:200] + " She"]
            for found, expected in zip(model.score(pairs), plain.score(pairs), strict=True):
                same_score(found, expected)
        else:
            options, without_effect = generation_options(rng, step)
            same(model.generate(text, **options, **without_effect), plain.generate(text, **options))
        assert model.prefix_cache.nbytes <= model.prefix_cache.size
    assert model.prefix_cache.n_reused > 128 * 10


def test_what_is_reused_is_told():
    model = made()
    model.prefix_cache = "10MB"
    model.generate(text(300), max_new_tokens=1)
    assert (model.prefix_cache.n_reused, model.prefix_cache.n_computed) == (0, 300)
    model.generate([*text(300), 5], max_new_tokens=1)
    assert (model.prefix_cache.n_reused, model.prefix_cache.n_computed) == (256, 345)
    model.generate(text(256), max_new_tokens=1)  # its last token has to be computed
    assert (model.prefix_cache.n_reused, model.prefix_cache.n_computed) == (384, 473)
    assert "2 blocks" in repr(model.prefix_cache)
    model.prefix_cache.clear()
    assert model.prefix_cache.nbytes == 0
    model.suggest(text(300))
    assert model.prefix_cache.n_computed == 773


def test_the_blocks_of_the_oldest_text_go_first():
    model = made()
    block = _engine.KVCache(model.weights, 128).nbytes
    model.prefix_cache = 4 * block
    for seed in (1, 2):
        model.suggest(text(300, seed))
    model.suggest(text(300, 1))
    assert model.prefix_cache.n_reused == 256
    model.suggest(text(200, 3))  # one block of text 2 goes, its last
    assert model.prefix_cache.nbytes == 4 * block
    model.suggest(text(300, 1))
    assert model.prefix_cache.n_reused == 512
    model.suggest(text(300, 2))
    assert model.prefix_cache.n_reused == 640


def test_the_beginning_of_a_text_that_is_too_large_is_kept():
    model = made()
    model.prefix_cache = 2 * _engine.KVCache(model.weights, 128).nbytes
    for _ in range(2):
        model.suggest(text(550))
    assert model.prefix_cache.n_reused == 256
    model.prefix_cache = 100  # not even one
    for _ in range(2):
        model.suggest(text(550))
    assert (model.prefix_cache.n_reused, model.prefix_cache.nbytes) == (0, 0)


def test_passes_with_edits_do_without_it():
    model = made()
    model.prefix_cache = "10MB"
    expected = model.generate(text(300), max_new_tokens=2)
    changed = [("blocks.0.hook_resid_post", edits.zero(positions=[3]))]
    other = model.generate(text(300), max_new_tokens=2, edits=changed)
    assert other.logprobs == made().generate(text(300), max_new_tokens=2, edits=changed).logprobs
    kept = model.generate(text(300), max_new_tokens=2, names_filter="blocks.0.hook_resid_post")
    assert kept.cache["blocks.0.hook_resid_post"].shape[0] == 301
    assert model.generate(text(300), max_new_tokens=2) == expected


def test_another_number_format_of_caches_is_another_text():
    model = made()
    model.prefix_cache = "10MB"
    exact = model.suggest(text(300))
    model.cache_dtype = "float16"
    plain = made(cache_dtype="float16")
    assert model.suggest(text(300)) == plain.suggest(text(300))
    model.cache_dtype = "float32"
    assert model.suggest(text(300)) == exact


def test_threads_share_it():
    model = made()
    model.prefix_cache = 3 * _engine.KVCache(model.weights, 128).nbytes
    prompts = [[*text(300, seed % 3), *text(5, seed)] for seed in range(24)]
    expected = [made().generate(prompt, max_new_tokens=3) for prompt in prompts]
    found = [None] * len(prompts)

    def work(begin):
        for i in range(begin, len(prompts), 4):
            found[i] = model.generate(prompts[i], max_new_tokens=3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_options_and_copies():
    model = GPT2.from_pretrained(prefix_cache="1.5 MB")
    assert model.prefix_cache.size == 1_500_000
    assert GPT2.from_pretrained().prefix_cache is None
    assert pickle.loads(pickle.dumps(model)).prefix_cache.size == 1_500_000
    assert pickle.loads(pickle.dumps(GPT2.from_pretrained())).prefix_cache is None
    assert copy.copy(model).prefix_cache is model.prefix_cache
    assert copy.deepcopy(model).prefix_cache is model.prefix_cache
    model.prefix_cache = None
    assert model.prefix_cache is None
    for size, expected in (("256MB", 256_000_000), ("1GiB", 2**30), ("2 kb", 2000), (77, 77)):
        assert PrefixCache(size).size == expected
    for wrong in (0, -1, "", "much", "1TB", 1.5, True, b"1MB"):
        with pytest.raises(ValueError, match=r"prefix_cache is .*allowed: a number of bytes"):
            GPT2.from_pretrained(prefix_cache=wrong)


def test_a_prefix_cache_belongs_to_one_model():
    model, other = made(), made()
    model.prefix_cache = cache = PrefixCache("10MB")
    model.suggest(text(300))
    twin = copy.copy(model)
    twin.prefix_cache = cache
    assert twin.suggest(text(300)) == made().suggest(text(300))
    with pytest.raises(
        ValueError, match=r"this PrefixCache belongs to another model, .* give each model its own"
    ):
        other.prefix_cache = cache
    assert other.prefix_cache is None
    with pytest.raises(ValueError, match="this PrefixCache belongs to another model"):
        GPT2.from_pretrained(prefix_cache=cache)


def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent():
    model = made()
    model.prefix_cache = "64MB"
    expected = model.suggest(text(300), 2)
    with model.prefix_cache._lock:  # as another thread would hold it
        pid = os.fork()
        if pid == 0:
            os._exit(0 if model.suggest(text(300), 2) == expected else 1)
        end = time.monotonic() + 20
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.01)
        if ended == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the forked process hangs")
        assert os.waitstatus_to_exitcode(ended[1]) == 0
