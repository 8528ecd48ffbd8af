"""Copies of a model, and models in pickles: what is shared, what is loaded again."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from operator import methodcaller

import pytest
from helpers.toys import random_gpt2, same

from gpt2c import GPT2
from gpt2c.checkpoint import BUNDLED


class Own(GPT2):
    """A class of the user."""


def roundtrip(model):
    data = pickle.dumps(model)
    assert len(data) < 2000, "a pickle holds no weights"
    return pickle.loads(data)


def test_a_pickle_loads_the_model_again(bundled):
    again = roundtrip(bundled)
    assert type(again) is GPT2 and again.weights is not bundled.weights
    assert (again.name, again.numerics, again.threads) == (bundled.name, bundled.numerics, bundled.threads)
    assert same(again.forward([300, 301]), bundled.forward([300, 301]))
    assert (
        again.generate("The king", max_new_tokens=5).text
        == bundled.generate("The king", max_new_tokens=5).text
    )


def test_a_pickle_keeps_how_the_model_was_loaded():
    model = Own.from_pretrained(BUNDLED, dtype="int8", cache_dtype="float16", tokenizer=str(BUNDLED))
    again = roundtrip(model)
    assert type(again) is Own
    assert (again.dtype, again.cache_dtype) == ("int8", "float16")
    assert again.tokenizer.encode("The king") == model.tokenizer.encode("The king")


def test_what_was_set_later_is_kept(bundled):
    model = copy.copy(bundled)
    model.cache_dtype, model.threads = "float16", bundled.threads + 1
    again = roundtrip(model)
    assert (again.cache_dtype, again.threads) == ("float16", bundled.threads + 1)
    assert (bundled.cache_dtype, model.threads - 1) == ("float32", bundled.threads)


def test_the_default_of_threads_is_that_of_the_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, fixed = (pickle.dumps(GPT2.from_pretrained(threads=n)) for n in (None, 2))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (pickle.loads(data).threads, pickle.loads(fixed).threads) == (3, 2)


def test_a_relative_path_is_found_from_another_folder(bundled, tmp_path, monkeypatch):
    bundled.save(tmp_path / "model.gpt2c")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").symlink_to(BUNDLED)
    data = pickle.dumps(GPT2.from_pretrained("model.gpt2c", tokenizer="own"))
    monkeypatch.chdir("/")
    assert same(pickle.loads(data).forward([1]), bundled.forward([1]))


def test_a_pickle_holds_no_access_token():
    assert b"hf_secret" not in pickle.dumps(GPT2.from_pretrained(token="hf_secret"))


def test_spawned_workers_take_a_model(bundled):
    ask = methodcaller("generate", "The king", max_new_tokens=5)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(ask, (bundled,)).token_ids == ask(bundled).token_ids


def test_a_model_from_nowhere_says_how_to_pickle_it(tmp_path):
    model, _ = random_gpt2(0)
    with pytest.raises(TypeError, match=r"not made by from_pretrained.* model\.save\(path\)"):
        pickle.dumps(model)
    model.save(tmp_path / "model.gpt2c")  # the advice
    assert same(roundtrip(GPT2.from_pretrained(tmp_path / "model.gpt2c")).forward([1]), model.forward([1]))


@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy])
def test_copies_share_the_weights_and_nothing_that_can_change(made):
    model, _ = random_gpt2(0)
    model.generation_config = {"a": [1]}
    other = made([model])[0] if made is copy.deepcopy else made(model)
    assert other is not model and other.weights is model.weights
    other.threads, other.cache_dtype, other.name = 2, "float16", "other"
    assert (model.threads, model.cache_dtype, model.name) == (1, "float32", "GPT-2")
    if made is copy.deepcopy:
        other.notes.append("x")
        other.generation_config["a"].append(2)
        assert model.notes == [] and model.generation_config == {"a": [1]}
    other.cache_dtype = "float32"
    assert same(other.forward([1, 2]), model.forward([1, 2]))


def test_a_deep_copy_twice_in_a_list_is_one(bundled):
    one, two = copy.deepcopy([bundled, bundled])
    assert one is two and one.weights is bundled.weights and one.tokenizer is bundled.tokenizer
