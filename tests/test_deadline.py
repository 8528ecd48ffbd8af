"""Deadlines and cancellation: calls end soon, with what they have, and leave everything usable."""

import threading
import time

import numpy as np
import pytest
from helpers.strategies import random_model

import gpt2c
from gpt2c import GPT2, Deadline, DeadlineError
from gpt2c.config import Config
from gpt2c.core import _engine

ALLOWED = r"deadline must be .*seconds above 0 \(or a Deadline, or None for no limit\)"


@pytest.fixture(scope="module")
def model():
    return GPT2.from_pretrained(threads=2)


class AfterTokens(Deadline):
    """One that passes when a number of tokens has been chosen, at whatever speed."""

    def __init__(self, n):
        super().__init__(3600)
        self.left = n

    def count(self, ids, logits):
        self.left -= 1
        if self.left == 0:
            self._end = 0.0
        return logits


def test_texts_end_with_what_they_have(model):
    whole = model.generate("Once upon a time", max_new_tokens=20)
    deadline = AfterTokens(7)
    cut = model.generate(
        "Once upon a time", max_new_tokens=20, deadline=deadline, logits_processor=deadline.count
    )
    assert (cut.finish_reason, cut.token_ids) == ("deadline", whole.token_ids[:7])
    assert cut.logprobs == whole.logprobs[:7]
    assert whole.text.startswith(cut.text)


def test_prompts_that_were_not_begun_end_too(model):
    deadline = AfterTokens(3)
    results = model.generate(
        ["Once", "Once upon", "A dog", "The"],
        max_new_tokens=8,
        batch_size=2,
        deadline=deadline,
        logits_processor=deadline.count,
    )
    assert [result.finish_reason for result in results] == ["deadline"] * 4
    assert [len(result.token_ids) for result in results] == [2, 2, 0, 0]  # a step is finished
    assert [result.text for result in results[2:]] == ["", ""]


def test_a_search_gives_its_best_so_far(model):
    deadline = AfterTokens(1 + 3 * 3)
    found = model.generate(
        "Once upon a time",
        max_new_tokens=12,
        num_beams=3,
        num_return_sequences=3,
        deadline=deadline,
        logits_processor=deadline.count,
    )
    assert [result.finish_reason for result in found] == ["deadline"] * 3
    same = model.generate("Once upon a time", max_new_tokens=4, num_beams=3, num_return_sequences=3)
    assert [result.token_ids for result in found] == [result.token_ids for result in same]
    assert [result.score for result in found] == [result.score for result in same]


def test_a_search_that_has_not_begun_gives_one_empty_text(model):
    deadline = Deadline()
    deadline.cancel()
    [found] = model.generate(["Once"], num_beams=2, num_return_sequences=2, deadline=deadline)
    assert (found.text, found.token_ids, found.finish_reason) == ("", [], "cancelled")


def test_a_stream_gives_the_held_text_at_its_end(model):
    deadline = AfterTokens(5)
    stream = model.stream(
        "Once upon a time",
        max_new_tokens=20,
        stop=[" ,!,never"],
        deadline=deadline,
        logits_processor=deadline.count,
    )
    assert "".join(stream) == stream.result.text
    assert stream.result.finish_reason == "deadline"


def test_a_stream_is_cancelled_from_another_thread(model):
    stream = model.stream("Once upon a time", max_new_tokens=100_000, overflow="slide")
    timer = threading.Timer(0.05, stream.cancel)
    timer.start()
    pieces = list(stream)
    timer.join()
    assert stream.result.finish_reason == "cancelled"
    assert "".join(pieces) == stream.result.text
    assert 0 < len(stream.result.token_ids) < 100_000


def test_a_stream_is_cancelled_without_others_of_its_deadline(model):
    shared = Deadline()
    one, other = (model.stream("Once upon a time", max_new_tokens=8, deadline=shared) for _ in range(2))
    next(one)
    one.cancel()
    assert "".join(one) == "" and one.result.finish_reason == "cancelled"
    assert shared.reason is None
    assert "".join(other) == model.generate("Once upon a time", max_new_tokens=8).text
    assert model.generate("Once", max_new_tokens=1, deadline=shared).finish_reason == "length"


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
def test_a_shared_deadline_ends_all_of_its_streams(model, reason):
    shared = Deadline() if reason == "cancelled" else AfterTokens(2)
    streams = [model.stream("Once upon a time", max_new_tokens=8, deadline=shared) for _ in range(2)]
    next(streams[0])
    shared.cancel() if reason == "cancelled" else [shared.count(None, None) for _ in range(2)]
    for stream in streams:
        list(stream)
        assert stream.result.finish_reason == reason
    with pytest.raises(ValueError, match=ALLOWED):
        model.stream("Once", deadline=-1)


@pytest.mark.parametrize("backend", ["native", "blas"])
def test_a_pass_is_given_up_while_it_is_under_way(backend):
    config = Config(n_layer=8, n_head=8, n_embd=512, n_inner=None, n_ctx=1024, n_vocab=500)
    weights = random_model(config, np.random.default_rng(0), 0.02)
    model = GPT2(_engine.Weights(config, weights.__getitem__, backend=backend), threads=1)
    ids = [i % 500 for i in range(1000)]
    calls = (
        lambda deadline: model.suggest(ids, deadline=deadline),
        lambda deadline: model.score(ids, bos=False, deadline=deadline),
        lambda deadline: model.session(ids).suggest(deadline=deadline),
    )
    for call in calls:
        begin = time.perf_counter()
        with pytest.raises(DeadlineError, match=r"within the deadline of 0\.02 s"):
            call(0.02)
        assert time.perf_counter() - begin < 1  # the whole pass takes far longer; here against hanging
    begin = time.perf_counter()
    cut = model.generate(ids, max_new_tokens=3, deadline=0.02)
    assert (cut.finish_reason, cut.token_ids) == ("deadline", [])
    assert time.perf_counter() - begin < 1


def test_the_time_runs_from_the_first_call(model):
    deadline = Deadline(0.2)
    time.sleep(0.3)
    assert deadline.reason is None
    model.suggest("Once", deadline=deadline)
    time.sleep(0.3)
    assert deadline.reason == "deadline"
    with pytest.raises(DeadlineError):
        model.suggest("Once", deadline=deadline)


def test_a_deadline_error_is_a_timeout():
    assert issubclass(DeadlineError, TimeoutError)
    assert issubclass(DeadlineError, gpt2c.GPT2CError)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "1", True])
def test_what_is_no_deadline_is_refused(model, wrong):
    with pytest.raises(
        (ValueError, TypeError),
        match=ALLOWED,
    ):
        model.generate("Once", deadline=wrong)
    with pytest.raises(
        (ValueError, TypeError),
        match=ALLOWED,
    ):
        model.suggest("Once", deadline=wrong)


def test_300_moments_of_cancelling_leave_everything_usable(model):
    whole = "Once upon a time there was a little girl who " * 8
    session = model.session(whole)
    expected = model.generate(session.text, max_new_tokens=6)
    for i in range(300):
        session.text = whole[: 40 + i % 300] if i % 2 else whole
        deadline = Deadline()
        timer = threading.Timer(i * 1e-4 % 0.02, deadline.cancel)
        timer.start()
        session.generate(max_new_tokens=6, deadline=deadline)
        timer.join()
    session.text = whole
    assert session.generate(max_new_tokens=6) == expected
