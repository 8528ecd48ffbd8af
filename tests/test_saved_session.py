"""Sessions as files: the same bytes afterwards, and refused where they would not be."""

import numpy as np
import pytest
from helpers.toys import random_gpt2

from gpt2c import GPT2, CheckpointError


@pytest.fixture(scope="module")
def model():
    return GPT2.from_pretrained(threads=1)


@pytest.fixture
def saved(model, tmp_path):
    session = model.session("Once upon a time there was a little gi")
    session.suggest()
    session.save(tmp_path / "a.session")
    return tmp_path / "a.session"


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("cache_dtype", ["float32", "float16", "bfloat16"])
def test_a_saved_session_goes_on_where_it_was(dtype, cache_dtype, tmp_path):
    model = GPT2.from_pretrained(dtype=dtype, cache_dtype=cache_dtype, threads=1)
    for text in ("", "Once", "Once upon a time there was a little girl who lived in a house near the woods"):
        session = model.session(text)
        session.suggest()
        session.save(tmp_path / "a")
        again = GPT2.from_pretrained(dtype=dtype, cache_dtype=cache_dtype, threads=2).open_session(
            tmp_path / "a"
        )
        assert (again.text, again.token_ids) == (session.text, session.token_ids)
        again.text += " with"
        session.text += " with"
        assert again.suggest() == session.suggest()
        assert (again.n_reused, again.n_computed) == (session.n_reused, session.n_computed)
        assert again.generate(max_new_tokens=4) == session.generate(max_new_tokens=4)
        assert again.complete(2) == session.complete(2)


def test_what_was_not_computed_is_not_there(model, tmp_path):
    model.session("Once upon").save(tmp_path / "a")
    again = model.open_session(tmp_path / "a")
    assert again.text == "Once upon"
    assert again.suggest() == model.suggest("Once upon")


def test_token_ids_stay_token_ids(model, tmp_path):
    session = model.session([5, 7, 9])
    session.suggest()
    session.save(tmp_path / "a")
    assert model.open_session(tmp_path / "a").token_ids == [5, 7, 9]
    special = model.session("a<|endoftext|>", special=True)
    special.save(tmp_path / "b")
    again = model.open_session(tmp_path / "b")
    assert again.special and again.token_ids == special.token_ids


def test_files_hold_nothing_of_other_texts(model, tmp_path):
    """Memory is used again by caches, so what is not filled must not be written."""
    for n in (3, 17, 40):
        model.session("the dog and the cat " * n).suggest()
        session = model.session("Once upon a time")
        session.suggest()
        session.save(tmp_path / str(n))
    first, *others = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert all(other == first for other in others)


def test_another_model_or_arithmetic_is_refused(model, saved):
    for other in (
        GPT2.from_pretrained(dtype="int8"),
        GPT2.from_pretrained(cache_dtype="float16"),
        GPT2.from_pretrained(backend="blas"),
    ):
        with pytest.raises(
            CheckpointError, match="another model or arithmetic: its numerics is 'float32-native"
        ):
            other.open_session(saved)
    with pytest.raises(CheckpointError, match="another model or arithmetic: its weights is"):
        random_gpt2(n_ctx=64)[0].open_session(saved)


def test_a_model_that_came_from_no_file(tmp_path):
    one, other = random_gpt2(1)[0], random_gpt2(1)[0]
    session = one.session([1, 2, 3])
    session.suggest()
    session.save(tmp_path / "a")
    assert other.open_session(tmp_path / "a").suggest() == one.suggest([1, 2, 3])
    with pytest.raises(CheckpointError, match="another model"):
        random_gpt2(2)[0].open_session(tmp_path / "a")


def test_damaged_files_are_named(model, saved):
    data = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    for size in [*rng.integers(len(data), size=40).tolist(), 0, 8, len(data) - 1]:
        saved.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"a\.session"):
            model.open_session(saved)
    header = 8 + int.from_bytes(data[:8], "little")
    for at in [*range(header), *rng.integers(len(data), size=200).tolist()]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"a\.session"):
            model.open_session(saved)
    with pytest.raises(CheckpointError, match=r"is not a session: session\.save writes those"):
        model.save(saved)
        model.open_session(saved)
    with pytest.raises(CheckpointError):
        model.open_session(saved.parent / "none")


def test_a_session_replaces_a_file_once_it_is_complete(model, saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("gpt2c.session.saving.write_tensors", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.session("x").save(saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["a.session"]


@pytest.mark.parametrize("setting", [{"layer_norm_epsilon": 1e-2}, {"activation": "relu"}])
def test_the_same_weights_in_another_configuration_are_refused(setting, tmp_path):
    one, _ = random_gpt2(1)
    other, _ = random_gpt2(1, **setting)
    session = one.session([5, 6, 7])
    session.suggest()
    session.save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="another model or arithmetic: its config is"):
        other.open_session(tmp_path / "saved")
