"""The scheduler: many requests at once, each with the text that it would have alone."""

import asyncio
import os
import random
import threading
from concurrent.futures import wait

import numpy as np
import pytest

import gpt2c
from gpt2c import GPT2
from gpt2c.core import _engine
from gpt2c.core.deadline import Deadline
from gpt2c.core.turns import Turns

TEXT = "Once upon a time there was a little girl who lived in a village near the forest. "


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(request):
    return GPT2.from_pretrained(dtype=request.param, threads=2)


def same(one, other):
    """Equal results, floats by their bytes."""
    assert repr(one) == repr(other)
    assert one == other


def options_of(rng):
    """Those of one request."""
    options = {"max_new_tokens": rng.randrange(1, 24), "seed": rng.randrange(1000), "temperature": 0.9}
    more = [
        {},
        {"num_return_sequences": 3},
        {"temperature": 0.0, "num_beams": 3, "num_return_sequences": 2},
        {"stop": ["the", "."], "repetition_penalty": 1.3},
        {"draft": "prompt", "temperature": 0.0},
        {"heal": True, "top_k": 20},
        {"top_logprobs": 3, "min_p": 0.02},
        {"presence_penalty": 0.5, "logit_bias": {5: -100.0}},
        {"overflow": "slide", "hop": 100},
    ]
    return options | rng.choice(more)


@pytest.mark.parametrize("slice_tokens", [1, 7, 128])
def test_texts_do_not_depend_on_their_company(model, slice_tokens):
    rng = random.Random(slice_tokens)
    with model.scheduler(max_texts=9, max_waiting=100, slice_tokens=slice_tokens) as scheduler:
        asked, found = [], []
        for _ in range(40):
            prompt = (TEXT * 6)[: rng.randrange(1, 480)]
            prompt = rng.choice([prompt, [prompt, "The king"], model.encode([prompt])[0]])
            options = options_of(rng)
            asked.append((prompt, options))
            found.append(scheduler.submit(prompt, client=str(rng.randrange(3)), **options))
            if rng.random() < 0.3:
                wait([rng.choice(found).future])
        for (prompt, options), request in zip(asked, found, strict=True):
            expected = model.generate(prompt, **options)
            same(request.future.result(60), expected if isinstance(expected, list) else [expected])
        assert scheduler.counts[:3] == (0, 0, 0)


def test_what_is_told_adds_up_to_the_text(model):
    told = []
    with model.scheduler() as scheduler:
        options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 4, "top_logprobs": 2, "stop": "zzz"}
        request = scheduler.submit(["The king", "A"], notify=told.append, num_return_sequences=2, **options)
        results = request.future.result(60)
    same(results, model.generate(["The king", "A"], num_return_sequences=2, **options))
    for result in results:
        place = (result.prompt_index, result.sample_index)
        steps = [step for steps in told for step in steps if step[:2] == place]
        assert "".join(step.text for step in steps) == result.text
        assert [token for step in steps for token in step.token_ids] == result.token_ids
        assert [value for step in steps for value in step.logprobs] == result.logprobs
        assert [pairs for step in steps for pairs in step.top_logprobs] == result.top_logprobs
        assert [step.finish_reason for step in steps] == [None] * (len(steps) - 1) + [result.finish_reason]
        for pairs, token, value in zip(result.top_logprobs, result.token_ids, result.logprobs, strict=True):
            assert len(pairs) == 2 and pairs[0][1] >= pairs[1][1]
            assert dict(pairs).get(token, value) == value


def test_asyncio(model):
    async def main():
        with model.scheduler() as scheduler:
            prompts = [f"Once upon a time there were {n} kings" for n in range(12)]
            options = {"max_new_tokens": 12, "temperature": 0.8, "seed": 3}
            found = await asyncio.gather(*(scheduler.generate(prompt, **options) for prompt in prompts))
            same(found, [model.generate(prompt, **options) for prompt in prompts])
            pieces = [piece async for piece in scheduler.stream("The king", **options)]
            assert "".join(pieces) == model.generate("The king", **options).text
            assert len(pieces) > 1
            score = await scheduler.call(model.score, TEXT)
            assert score.logprobs.tobytes() == model.score(TEXT).logprobs.tobytes()
            async for _ in scheduler.stream("The king", max_new_tokens=400):
                break
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(scheduler.generate("The king", max_new_tokens=500), 0.02)
            while any(scheduler.counts[:3]):
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_many_threads(model):
    expected = [model.generate(f"{n} kings", max_new_tokens=9) for n in range(16)]
    found = [None] * 16

    def ask(n):
        found[n] = scheduler.submit(f"{n} kings", max_new_tokens=9).future.result(60)[0]

    with model.scheduler(max_texts=5) as scheduler:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    same(found, expected)


def test_a_long_prompt_lets_others_go_on(model):
    long = (TEXT * 30).split(" ")
    long = model.encode([" ".join(long)])[0][:400]
    before, gaps = [], []
    begun = threading.Event()

    def note(steps):
        before.extend(steps)
        begun.set()

    with model.scheduler(slice_tokens=32) as scheduler:
        text = scheduler.submit("The king", notify=note, max_new_tokens=300, eos_token_id=[])
        assert begun.wait(60)
        first = scheduler.submit(long, notify=lambda _: gaps.append(len(before)), max_new_tokens=2)
        n_before = len(before)
        first.future.result(60)
        text.cancel()
        # 400 tokens are 13 slices, after each of which the other text has got a token.
        assert gaps[0] - n_before >= 12


def test_short_prompts_do_not_wait_for_long_ones(model):
    ended, long = [], model.encode([TEXT * 30])[0]
    with model.scheduler(slice_tokens=20) as scheduler:
        requests = [
            scheduler.submit(long[:n], max_new_tokens=1, notify=lambda _, n=n: ended.append(n))
            for n in (500, 480, 20)
        ]
        wait([request.future for request in requests])
    assert ended[0] == 20


def test_clients_take_turns(model):
    ended = []
    with model.scheduler(max_texts=1) as scheduler:
        requests = [
            scheduler.submit("The king", client=client, max_new_tokens=9, seed=number)
            for number, client in enumerate(["many"] * 6 + ["one"])
        ]
        for number, request in enumerate(requests):
            request.future.add_done_callback(lambda _, number=number: ended.append(number))
        wait([request.future for request in requests])
    assert ended.index(6) <= 2


def test_a_request_of_many_texts_takes_turns(model):
    with model.scheduler(max_texts=1) as scheduler:
        many = scheduler.submit(["The king"] * 12, client="many", max_new_tokens=9)
        one = scheduler.submit("The king", client="one", max_new_tokens=9)
        one.future.result(60)
        assert sum(text.done for text in many.texts) <= 3
        same(many.future.result(60), model.generate(["The king"] * 12, max_new_tokens=9))


def test_calls_of_clients_take_turns(model):
    """A call that was cancelled before its turn costs its client nothing."""
    ended, begin = [], threading.Event()

    def work(number, deadline):
        begin.wait(60)
        ended.append(number)

    clients = ["many"] * 6 + ["one"] * 3
    with model.scheduler() as scheduler:
        running = scheduler.run(work, "first")
        while not running.running():
            pass
        futures = [scheduler.run(work, number, client=client) for number, client in enumerate(clients)]
        assert scheduler.counts.waiting == 9
        for number in (1, 6):
            assert futures[number].cancel()
        assert scheduler.counts.waiting == 7
        over = Deadline()
        over.cancel()
        never_begun = scheduler.run(work, "never", client="one", deadline=over)
        begin.set()
        running.result(60)
        wait(futures)
        with pytest.raises(gpt2c.DeadlineError):
            never_begun.result(60)
    assert ended == ["first", 0, 7, 2, 8, 3, 4, 5]


def test_nobody_takes_all_the_room_to_wait(model):
    """Where as many wait as may, a client has room for one."""
    begin, text = threading.Event(), {"max_new_tokens": 400, "eos_token_id": []}
    with model.scheduler(max_texts=1, max_waiting=3) as scheduler:
        running = scheduler.submit("The king", **text), scheduler.run(lambda deadline: begin.wait(60))
        while not (scheduler.counts.running and running[1].running()):
            pass
        for way in (
            lambda client: scheduler.submit("The king", client=client, **text),
            lambda client: scheduler.run(lambda deadline: None, client=client),
        ):
            asked = [way("many") for _ in range(3)]
            with pytest.raises(gpt2c.QueueFullError, match="3 requests waiting, the maximum"):
                way("many")
            asked.append(way("one"))
            with pytest.raises(gpt2c.QueueFullError, match="4 requests waiting"):
                way("one")
            for request in asked:
                request.cancel()
        running[0].cancel()
        begin.set()


def test_a_bounded_queue(model):
    with model.scheduler(max_texts=1, max_waiting=3) as scheduler:
        requests = []
        with pytest.raises(gpt2c.QueueFullError, match="3 requests waiting, the maximum"):
            while True:
                requests += [scheduler.submit("The king", max_new_tokens=300, eos_token_id=[])]
        assert 3 <= len(requests) <= 4
        for request in requests:
            request.cancel()
        for request in requests:
            assert request.future.result(60)[0].finish_reason == "cancelled"
        assert scheduler.submit("The king", max_new_tokens=2).future.result(60)


def test_no_more_room_is_taken_than_there_is(model):
    with model.scheduler(max_tokens=100) as scheduler:
        most = []
        requests = [
            scheduler.submit("The king", max_new_tokens=25, notify=lambda _: most.append(scheduler.counts))
            for _ in range(12)
        ]
        wait([request.future for request in requests])
        assert max(counts.tokens for counts in most) <= 100
        assert max(counts.running for counts in most) == 3
        with pytest.raises(gpt2c.ContextLengthError, match="room for 102 tokens, but the scheduler has room"):
            scheduler.submit("The king", max_new_tokens=100)
        with pytest.raises(ValueError, match=r"num_beams is 65; allowed: 1 to 64"):
            scheduler.submit("The king", max_new_tokens=1, num_beams=65)


def test_no_more_texts_run_than_there_are_places(model):
    most = []
    with model.scheduler(max_texts=2) as scheduler:
        texts = scheduler.submit(
            ["The king"] * 6, max_new_tokens=5, notify=lambda _: most.append(scheduler.counts)
        )
        assert len(texts.future.result()) == 6
    assert max(counts.running for counts in most) == 2


def test_cancelled_within_a_token(model):
    told = []

    def note(steps):
        told.extend(steps)
        if len(told) == 5:
            request.cancel()

    with model.scheduler() as scheduler:
        lock = threading.Lock()
        with lock:
            request = scheduler.submit("The king", notify=note, max_new_tokens=400, eos_token_id=[])
        [result] = request.future.result(60)
    assert result.finish_reason == "cancelled"
    assert len(result.token_ids) <= 6
    expected = model.generate("The king", max_new_tokens=len(result.token_ids), eos_token_id=[])
    assert result.token_ids == expected.token_ids


def test_deadlines_count_from_the_request(model):
    with model.scheduler(max_texts=1) as scheduler:
        first = scheduler.submit("The king", max_new_tokens=500, eos_token_id=[], deadline=0.3)
        second = scheduler.submit("The king", max_new_tokens=500, eos_token_id=[], deadline=0.1)
        assert second.future.result(60)[0].token_ids == []  # it waited until its time was over
        assert not first.future.done()
        assert first.future.result(60)[0].finish_reason in ("deadline", "length")
        assert second.future.result(60)[0].finish_reason == "deadline"


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("n", [1, 3])
def test_an_error_is_that_of_one_request(model, at, n):
    def wrong(ids, logits):
        if len(ids) > at:
            raise ZeroDivisionError(at)
        return logits

    with model.scheduler() as scheduler:
        good = [scheduler.submit("The king", max_new_tokens=20) for _ in range(3)]
        bad = scheduler.submit(
            [[1], [2]], max_new_tokens=20, logits_processor=wrong, num_return_sequences=n, temperature=1.0
        )
        with pytest.raises(ZeroDivisionError):
            bad.future.result(60)
        expected = model.generate("The king", max_new_tokens=20)
        for request in good:
            same(request.future.result(60), [expected])
        assert scheduler.counts[:3] == (0, 0, 0)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_request_cancelled_just_when_its_prompt_was_computed_ends_alone(model, beams):
    others, lock = [], threading.Lock()

    def cancel(ids, logits):  # for the other text, in the pass that has computed the prompt
        with lock:
            for request in others:
                if request.texts[0].prompt.ready:
                    request.cancel()
        return logits

    options = {"max_new_tokens": 300, "eos_token_id": []}
    with model.scheduler() as scheduler:
        first = scheduler.submit("The king", logits_processor=cancel, **options)
        for _ in range(5):
            with lock:
                others.append(scheduler.submit(TEXT, num_beams=beams, **options))
            assert others[-1].future.result(60)[0].finish_reason == "cancelled"
        same(first.future.result(60), [model.generate("The king", **options)])
        assert scheduler.counts[:3] == (0, 0, 0)


def test_the_earlier_texts_of_a_request_end_with_the_error_of_a_later_one(model):
    def wrong(ids, logits):
        if ids[0] == 2 and len(ids) > 4:
            raise ZeroDivisionError
        return logits

    with model.scheduler() as scheduler:
        bad = scheduler.submit([[1], [2]], max_new_tokens=300, eos_token_id=[], logits_processor=wrong)
        with pytest.raises(ZeroDivisionError):
            bad.future.result(60)
        assert scheduler.submit("The king", max_new_tokens=2).future.result(60)
        assert scheduler.counts[:3] == (0, 0, 0)


def test_an_error_of_the_engine_is_that_of_the_texts_that_run(model, monkeypatch):
    with model.scheduler() as scheduler:
        forward = scheduler._shared.forward

        def failing(*args, **options):
            monkeypatch.undo()
            raise MemoryError

        monkeypatch.setattr(scheduler._shared, "forward", failing)
        with pytest.raises(MemoryError):
            scheduler.submit("The king").future.result(60)
        assert scheduler._shared.forward == forward
        assert scheduler.submit("The king", max_new_tokens=2).future.result(60)
        assert scheduler.counts[:3] == (0, 0, 0)


def test_other_work_takes_turns_with_the_texts(model):
    session = model.session("The king and the qu")
    with model.scheduler(slice_tokens=16) as scheduler:
        text = scheduler.submit(TEXT, max_new_tokens=150, eos_token_id=[])
        long = TEXT * 40
        futures = [
            scheduler.run(model.score, long, stride=256),
            scheduler.run(model.embed, [long[:600], "a"]),
            scheduler.run(model.suggest, "The king", 3),
            scheduler.run(session.suggest_words, 2),
            scheduler.run(session.complete, 2, max_new_tokens=3),
        ]
        score, vectors, *others = [future.result(60) for future in futures]
        same(text.future.result(60), [model.generate(TEXT, max_new_tokens=150, eos_token_id=[])])
    assert score.logprobs.tobytes() == model.score(long, stride=256).logprobs.tobytes()
    assert vectors.tobytes() == model.embed([long[:600], "a"]).tobytes()
    fresh = model.session("The king and the qu")
    same(others, [model.suggest("The king", 3), fresh.suggest_words(2), fresh.complete(2, max_new_tokens=3)])


def test_other_work_may_be_cancelled(model):
    with model.scheduler(slice_tokens=1) as scheduler:
        limit = Deadline()
        future = scheduler.run(model.score, TEXT * 200, stride=64, deadline=limit)
        limit.cancel()
        with pytest.raises(gpt2c.DeadlineError):
            future.result(60)
        with pytest.raises(gpt2c.DeadlineError):
            scheduler.run(model.score, TEXT * 200, stride=64, deadline=1e-4).result(60)


def test_who_waits_for_a_cancelled_call_is_told(model):
    gate = threading.Event()
    with model.scheduler() as scheduler:
        scheduler.run(lambda deadline: gate.wait(20))
        waiting = scheduler.run(lambda deadline: None)
        assert waiting.cancel()
        done, _ = wait([waiting], timeout=5)
        gate.set()
    assert done == {waiting}


@pytest.mark.parametrize("rows", [1, 3, 16, 100, 512])
def test_passes_in_turns_are_the_same_passes(model, rows):
    ids = np.arange(300, dtype=np.int32)
    expected = _engine.forward(model.weights, [(model.new_cache(), ids)], threads=2)
    limit = Deadline()
    limit.turns, limit.turn_rows = Turns(), rows
    cache = model.new_cache()
    found = _engine.forward(model.weights, [(cache, ids)], threads=2, deadline=limit)
    assert found.tobytes() == expected.tobytes()
    assert len(cache) == 300


def test_turns_go_round():
    turns, order = Turns(), []

    def work(name):
        turns.take()
        for _ in range(3):
            order.append(name)
            turns.pass_on()
        turns.give()

    turns.take()
    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for n, thread in enumerate(threads, 1):
        thread.start()
        while len(turns._waiting) < n:
            pass
    turns.give()
    for thread in threads:
        thread.join(60)
    assert "".join(order) == "abcabcabc"


def test_a_closed_scheduler(model):
    scheduler = model.scheduler()
    request = scheduler.submit("The king", max_new_tokens=300, eos_token_id=[])
    ended = scheduler.submit("The king", max_new_tokens=3)
    ended.future.result(60)
    scheduler.close()
    assert request.future.result(60)[0].finish_reason in ("cancelled", "length")
    scheduler.close()
    with pytest.raises(RuntimeError, match="the scheduler is closed"):
        scheduler.submit("The king")
    with pytest.raises(RuntimeError, match="the scheduler is closed"):
        scheduler.run(model.score, "a")
    limited = model.scheduler(slice_tokens=1)
    future = limited.run(model.score, TEXT * 300, stride=8)
    limited.close()
    with pytest.raises(gpt2c.DeadlineError):
        future.result(0)
    drained = model.scheduler()
    scored = [drained.run(model.score, TEXT) for _ in range(3)]
    request = drained.submit("The king", max_new_tokens=20)
    drained.close(drain=60)
    same(request.future.result(0), [model.generate("The king", max_new_tokens=20)])
    assert all(
        future.result(0).logprobs.tobytes() == model.score(TEXT).logprobs.tobytes() for future in scored
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": -1}, ValueError, "temperature"),
        ({"unknown": 1}, TypeError, "unknown"),
        ({"edits": [("blocks.0.hook_resid_pre", lambda x: x)]}, ValueError, "takes neither edits nor"),
        ({"names_filter": "*"}, ValueError, "takes neither edits nor"),
        ({"max_new_tokens": 10**6}, gpt2c.ContextLengthError, "shorten the prompt"),
    ],
)
def test_what_is_wrong_is_refused_at_once(model, options, error, message):
    with model.scheduler() as scheduler, pytest.raises(error, match=message):
        scheduler.submit("The king", **options)


def test_one_stream_is_one_text(model):
    async def pieces(prompt, **options):
        with model.scheduler() as scheduler:
            return [piece async for piece in scheduler.stream(prompt, **options)]

    with pytest.raises(TypeError, match="stream continues one prompt"):
        asyncio.run(pieces(["a", "b"]))
    with pytest.raises(ValueError, match="beam search"):
        asyncio.run(pieces("a", num_beams=2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_makes_its_own(model):
    with model.scheduler() as scheduler:
        child = os.fork()
        if not child:
            status = 1
            try:
                scheduler.submit("The king")
            except RuntimeError as error:
                status = 0 if "make one after the fork" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
