"""Guessed tokens change the time that a text takes, and not a bit of it."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.toys import counted_calls, random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import GPT2, Deadline
from gpt2c.generation import speculate
from gpt2c.generation.speculate import Costs, Drafter, FromModel, FromText

N_VOCAB = 13


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(request):
    return random_gpt2(3, n_vocab=N_VOCAB, n_ctx=60, std=0.5, dtype=request.param, eos_token_ids=(7,))[0]


@pytest.fixture(scope="module")
def other():
    """A draft that is often wrong."""
    return random_gpt2(4, n_vocab=N_VOCAB, n_ctx=50, std=0.5)[0]


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Guesses are made whether they pay or not."""
    monkeypatch.setattr(Drafter, "_worth", lambda self, kind, most, n_texts: most)


def same(found, expected):
    assert repr(found) == repr(expected)


OPTIONS = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 40)},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.5]),
        "seed": st.integers(0, 5),
        "top_k": st.integers(0, 5),
        "top_p": st.sampled_from([0.6, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "frequency_penalty": st.sampled_from([0.0, 0.5]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "bad_words": st.just([[3, 4], [5]]),
        "min_new_tokens": st.just(1),
        "num_return_sequences": st.integers(1, 3),
        "trace": st.booleans(),
        "overflow": st.sampled_from(["truncate_left", "slide"]),
    },
)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), options=OPTIONS)
def test_texts_are_the_same(model, other, data, options):
    options.setdefault("seed", 1)
    options.setdefault("overflow", "truncate_left")
    prompts = data.draw(
        st.lists(st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=30), min_size=1, max_size=4)
    )
    draft = data.draw(st.sampled_from(["prompt", other, model]))
    calls = []

    def stateful(ids, logits):
        calls.append(ids.tolist())
        logits[len(calls) % N_VOCAB] -= 0.5
        return logits

    several = data.draw(st.booleans())
    if several:
        options["logits_processor"] = stateful
        prompts = prompts[:1]
        options.pop("num_return_sequences", None)
    try:
        expected = model.generate(prompts, **options)
    except ValueError as error:
        assert "every one is forbidden" in str(error)
        with pytest.raises(ValueError, match="every one is forbidden"):
            model.generate(prompts, draft=draft, **options)
        return
    plain, calls = list(calls), []
    found = model.generate(prompts, draft=draft, **options)
    same(found, expected)
    assert calls == plain


def test_right_guesses_save_passes(monkeypatch, model):
    calls = counted_calls(monkeypatch)
    expected = model.generate([1, 2], max_new_tokens=33, eos_token_id=[])
    plain = len(calls)
    calls.clear()
    same(model.generate([1, 2], max_new_tokens=33, eos_token_id=[], draft=model), expected)
    assert plain == 33
    # The draft's passes have a row, or a few where it catches up.
    assert sorted(rows for _, rows in calls if rows > 3) == [1 + speculate.MOST] * 2


def test_a_draft_draws_by_the_same_random_numbers(monkeypatch, model):
    expected = model.generate([1, 2], max_new_tokens=20, temperature=1.0, seed=3, eos_token_id=[])
    right = []
    monkeypatch.setattr(Drafter, "observe", lambda self, n_right, n: right.append((n_right, n)))
    found = model.generate([1, 2], max_new_tokens=20, temperature=1.0, seed=3, eos_token_id=[], draft=model)
    same(found, expected)
    assert all(n_right == n for n_right, n in right)


def test_a_stream_gives_the_same_pieces_together():
    model = GPT2.from_pretrained(threads=1)
    text = "one two three, one two three, one two three, one two"
    plain, guessed = (
        model.stream(text, max_new_tokens=20),
        model.stream(text, max_new_tokens=20, draft="prompt"),
    )
    assert "".join(guessed) == "".join(plain)
    assert guessed.result == plain.result


def test_stop_strings_and_sessions_and_healing():
    model = GPT2.from_pretrained(threads=1)
    text = "the king and the queen, the king and the queen, the ki"
    for options in ({"stop": [" queen"]}, {"heal": True}, {"heal": True, "temperature": 1.0, "seed": 2}):
        expected = model.generate(text, max_new_tokens=20, **options)
        assert model.generate(text, max_new_tokens=20, draft="prompt", **options) == expected
        assert model.session(text).generate(max_new_tokens=20, draft="prompt", **options) == expected


def test_texts_end_at_the_last_position(model):
    for n in range(20, 60):
        ids = [i % 5 for i in range(n)]
        options = {"max_new_tokens": 61 - n, "eos_token_id": []}
        same(model.generate(ids, draft="prompt", **options), model.generate(ids, **options))


# ---- where guesses come from


def test_what_followed_the_longest_run_of_tokens_the_latest_time():
    source = FromText()
    ids = np.array([1, 2, 3, 4, 9, 1, 2, 3, 5, 8, 2, 3], np.int32)
    assert source.guess(ids, 4) == ([5, 8, 2, 3], 2)
    assert source.guess(np.append(ids, 5), 3) == ([8, 2, 3], 3)
    ids = np.array([1, 2, 3, 4, 9, 1, 2, 3], np.int32)
    assert FromText().guess(ids, 2) == ([4, 9], 3)
    assert FromText().guess(np.array([1, 2, 3], np.int32), 4) == ([], 0)
    assert FromText().guess(np.array([1], np.int32), 4) == ([], 0)
    assert FromText().guess(np.array([6, 6, 6, 6], np.int32), 4)[0] == [6]


def test_the_place_is_the_latest_after_most_tokens_in_a_row():
    rng = np.random.default_rng(0)
    text = rng.integers(3, size=200).tolist()
    for n in range(1, 200):
        ids, expected = text[:n], ([], 0)
        for size in range(min(6, n - 1), 0, -1):
            places = [end for end in range(size, n) if ids[end - size : end] == ids[n - size :]]
            if places:
                expected = (ids[places[-1] : places[-1] + 5], size)
                break
        assert FromText().guess(np.array(ids, np.int32), 5) == expected


def test_a_model_guesses_what_it_would_write(other):
    constants = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
    source = FromModel(other, constants, 0, N_VOCAB)
    for ids in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 9], [1, 9]):
        expected = other.generate(ids, max_new_tokens=4, eos_token_id=[]).token_ids
        assert source.guess(np.array(ids, np.int32), 4) == (expected, 0)
    assert source.guess(np.zeros(50, np.int32), 4) == ([], 0)
    assert len(source.guess(np.zeros(48, np.int32), 4)[0]) == 2


# ---- how many


@pytest.fixture
def worth(monkeypatch):
    monkeypatch.undo()  # eager

    def worth(rights, row, n_texts=1, most=15, seconds=0.0):
        costs = Costs()
        for rows in range(1, 17 * n_texts):
            costs.add(rows, 1 + row * (rows - 1))
        drafter = Drafter(FromText(), costs)
        for right, n in rights:
            drafter.observe(right, n)
        return drafter._worth(0, most, n_texts)

    return worth


def test_no_more_is_guessed_than_pays(worth):
    assert worth([(9, 9)] * 5, 0.01) == 15  # always right, and cheap
    assert worth([(9, 9)] * 5, 2.0) == 0  # each row costs more than a pass
    assert worth([(0, 5)] * 60, 0.02) == 0  # always wrong
    assert 0 < worth([(2, 3)] * 30, 0.05) < 8
    assert worth([(2, 3)] * 30, 0.05, n_texts=8) < worth([(2, 3)] * 30, 0.05)


def test_guesses_that_do_not_pay_are_tried_again_at_times(monkeypatch):
    monkeypatch.undo()
    costs = Costs()
    for rows in range(1, 17):
        costs.add(rows, 1 + 0.05 * (rows - 1))
    drafter, made = Drafter(FromText(), costs), 0
    ids = np.array([1, 2] * 20, np.int32)
    for _ in range(1000):
        guesses = drafter.propose(ids, 8, 1)
        made += len(guesses)
        drafter.observe(0, len(guesses))
    assert 0 < made < 150


def test_a_text_that_repeats_nothing_is_looked_at_less_often(monkeypatch):
    monkeypatch.undo()
    costs, looks = Costs(), []
    for rows in range(1, 17):
        costs.add(rows, 1e-4 * (1 + 0.02 * rows))

    class Source(FromText):
        def guess(self, ids, most):
            looks.append(len(ids))
            return super().guess(ids, most)

    drafter = Drafter(Source(), costs)
    for n in range(1, 1000):
        drafter.observe(0, len(drafter.propose(np.arange(n, dtype=np.int32), 8, 1)))
    assert 999 / 17 <= len(looks) < 200
    repeated = np.tile(np.arange(9, dtype=np.int32), 120)
    n = 500
    while n < 1000:  # once it repeats itself, it is looked at again
        guesses = drafter.propose(repeated[:n], 8, 1)
        drafter.observe(len(guesses), len(guesses))
        n += 1 + len(guesses)
    assert len(looks) < 300
    assert len(guesses) == 8


def test_costs_are_those_of_passes():
    costs = Costs()
    assert costs.of(3) == 1.0
    costs.add(1, 2.0)
    assert costs.of(1) == 2.0 and 2.0 < costs.of(5) < 2.5
    costs.add(5, 4.0)
    assert costs.of(5) == 4.0 and costs.of(4) < 2.5
    costs.add(1, 1.0)
    assert costs.of(1) == 1.5


@pytest.mark.parametrize("wrong", ["text", 3, True, b"prompt"])
def test_what_is_no_draft_is_refused(model, wrong):
    with pytest.raises(TypeError, match="draft must be 'prompt', a model, or None"):
        model.generate([1], draft=wrong)


def test_a_draft_needs_the_same_vocabulary(model):
    with pytest.raises(ValueError, match="has a different vocabulary"):
        model.generate([1], draft=random_gpt2(n_vocab=N_VOCAB + 1)[0])
    with pytest.raises(ValueError, match="num_beams=1 only"):
        model.generate([1], draft="prompt", num_beams=2)


def test_a_draft_that_reaches_the_deadline_guesses_nothing(other):
    constants = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
    deadline = Deadline()
    source = FromModel(other, constants, 0, N_VOCAB, deadline)
    ids = np.array([1, 2, 3], np.int32)
    first = source.guess(ids, 3)
    deadline.cancel()
    assert source.guess(np.append(ids, [9, 8]).astype(np.int32), 3) == ([], 0)
    deadline._cancelled = False
    assert source.guess(ids, 3) == first
