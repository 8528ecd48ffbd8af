"""/v1/completions over HTTP: its answers are those of the model in this process."""

import asyncio
import json
import math
import statistics
import time
from copy import copy

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from helpers import toys
from helpers.bodies import ANY_TEXT, bodies
from helpers.served import ask, connect, request_bytes, served
from hypothesis import given
from hypothesis import strategies as st

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def server(bundled):
    with served(bundled) as found:
        yield found


def answer(server, status=200, **fields):
    found = ask(server, "POST", "/v1/completions", fields)
    assert found.status == status, found.body
    return found.json


def choices(server, **fields):
    return answer(server, **fields)["choices"]


def refusal(server, status=400, **fields):
    return answer(server, status, **fields)["error"]


def events(response):
    """The events of a stream, the last of which says that it is complete."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *lines, end = response.body.split(b"\n\n")
    assert end == b"" and all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    assert lines.pop() == b"data: [DONE]"
    return [json.loads(line[6:]) for line in lines]


def streamed(server, **fields):
    """The choices that the events of a stream add up to, and the events."""
    found = events(ask(server, "POST", "/v1/completions", {**fields, "stream": True}))
    whole = {}
    for event in found:
        for choice in event["choices"]:
            new = {**choice, "text": "", "logprobs": None, "finish_reason": None}
            one = whole.setdefault(choice["index"], new)
            assert one["finish_reason"] is None, "nothing comes after the end"
            one["text"] += choice["text"]
            if choice["logprobs"] is not None:
                one["logprobs"] = one["logprobs"] or {name: [] for name in choice["logprobs"]}
                for name, items in choice["logprobs"].items():
                    one["logprobs"][name] += items
            one |= {name: choice[name] for name in ("finish_reason", "ended_by")}
    return [whole[index] for index in sorted(whole)], found


class TestTexts:
    @pytest.mark.parametrize(
        ("fields", "options"),
        [
            ({"temperature": 0}, {"temperature": 0}),
            ({}, {"temperature": 1.0, "max_new_tokens": 16}),
            ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
            ({"top_k": 5, "min_p": 0.1}, {"top_k": 5, "min_p": 0.1}),
            ({"stop": "the"}, {"stop": "the"}),
            ({"stop": ["and", "king"]}, {"stop": ["and", "king"]}),
            ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
            ({"frequency_penalty": -1}, {"frequency_penalty": -1}),
            ({"logit_bias": {"12": -100, "300": 2.5}}, {"logit_bias": {12: -100, 300: 2.5}}),
            ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
            ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
            ({"typical_p": 0.4, "top_n_sigma": 2}, {"typical_p": 0.4, "top_n_sigma": 2.0}),
            (
                {"xtc_probability": 0.5, "xtc_threshold": 0.05},
                {"xtc_probability": 0.5, "xtc_threshold": 0.05},
            ),
            (
                {"mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.2},
                {"mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.2},
            ),
            # as clients of llama.cpp say that there is none of these
            ({"typical_p": 1, "top_n_sigma": -1, "xtc_probability": 0, "mirostat": 0, "mirostat_tau": 5}, {}),
            (
                {"temperature": 0, "dry_multiplier": 2, "dry_base": 1.5, "dry_allowed_length": 1}
                | {"dry_penalty_last_n": 9, "dry_sequence_breakers": ["."], "max_tokens": 40},
                {"temperature": 0, "dry_multiplier": 2, "dry_base": 1.5, "dry_allowed_length": 1}
                | {"dry_penalty_last_n": 9, "dry_sequence_breakers": ["."], "max_new_tokens": 40},
            ),
            (
                {"exponential_decay_length_penalty": [3, 1.5]},
                {"exponential_decay_length_penalty": (3, 1.5)},
            ),
            ({"watermarking_config": {"bias": 4}}, {"watermarking_config": {"bias": 4.0}}),
            (
                {"penalty_alpha": 0.6, "top_k": 4},
                {"penalty_alpha": 0.6, "top_k": 4, "temperature": 0},
            ),
            (
                {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "n": 2},
                {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7, "temperature": 0},
            ),
            ({"guidance_scale": 1.5}, {"guidance_scale": 1.5}),
            (
                {"guidance_scale": 1.5, "negative_prompt": "Winter"},
                {"guidance_scale": 1.5, "negative_prompt": "Winter"},
            ),
            ({"min_tokens": 3, "max_tokens": 5}, {"min_new_tokens": 3, "max_new_tokens": 5}),
            ({"ignore_eos": True, "logit_bias": {"0": 90}}, {"eos_token_id": [], "logit_bias": {0: 90}}),
            ({"num_beams": 3}, {"num_beams": 3, "temperature": 0}),
            ({"num_beams": 3, "n": 2, "temperature": 0.5}, {"num_beams": 3, "temperature": 0.5}),
            ({"num_beams": 3, "length_penalty": 0}, {"num_beams": 3, "length_penalty": 0, "temperature": 0}),
            ({"heal": True, "prompt": "Then the qu"}, {"heal": True, "prompts": "Then the qu"}),
            ({"special": True, "prompt": "<|endoftext|>A"}, {"special": True, "prompts": "<|endoftext|>A"}),
        ],
    )
    def test_options_are_those_of_generate(self, server, bundled, fields, options):
        n = fields.get("n", 1)
        found = answer(server, **{"prompt": PROMPT, "seed": 3, **fields})
        options = {"prompts": PROMPT, "temperature": 1.0, "max_new_tokens": 16, **options}
        wanted = bundled.generate([options.pop("prompts")], seed=3, num_return_sequences=n, **options)
        assert [one["text"] for one in found["choices"]] == [out.text for out in wanted]
        assert [one["ended_by"] for one in found["choices"]] == [out.finish_reason for out in wanted]
        assert found["usage"]["completion_tokens"] == sum(len(out.token_ids) for out in wanted)

    def test_every_prompt_has_its_n_texts_in_order(self, server, bundled):
        prompts = [PROMPT, "The", [464, 12], ""]
        found = answer(server, prompt=prompts, n=3, seed=5, max_tokens=6)
        wanted = bundled.generate(prompts, num_return_sequences=3, seed=5, max_new_tokens=6, temperature=1.0)
        assert [one["text"] for one in found["choices"]] == [out.text for out in wanted]
        assert [one["index"] for one in found["choices"]] == list(range(12))
        n_prompt = sum(len(out.prompt_token_ids) for out in wanted[::3])
        assert found["usage"]["prompt_tokens"] == n_prompt
        assert found["usage"]["total_tokens"] == n_prompt + sum(len(out.token_ids) for out in wanted)

    def test_more_prompts_than_the_queue_takes_wait_for_each_other(self, bundled):
        with served(bundled, max_texts=2, max_waiting=1) as server:
            prompts = [f"{i} men" for i in range(9)]
            wanted = bundled.generate(prompts, max_new_tokens=3)
            found = choices(server, prompt=prompts, temperature=0, max_tokens=3)
            assert [one["text"] for one in found] == [out.text for out in wanted]
            whole, _ = streamed(server, prompt=prompts, temperature=0, max_tokens=3)
            assert [one["text"] for one in whole] == [out.text for out in wanted]

    def test_a_seed_that_was_not_given_is_told_and_makes_the_text_come_again(self, server):
        found = answer(server, prompt=PROMPT, n=2)
        assert answer(server, prompt=PROMPT, n=2, seed=found["seed"])["choices"] == found["choices"]
        assert answer(server, prompt=PROMPT)["seed"] != found["seed"]
        assert answer(server, prompt=PROMPT, temperature=0)["seed"] is None

    def test_best_of_returns_the_most_probable_per_token(self, server, bundled):
        fields = {"seed": 5, "stop": " the"}
        drawn = bundled.generate(PROMPT, num_return_sequences=8, max_new_tokens=16, temperature=1.0, **fields)
        by_sum = sorted(drawn, key=lambda out: sum(out.logprobs), reverse=True)
        drawn.sort(key=lambda out: statistics.fmean(out.logprobs), reverse=True)
        assert by_sum[:3] != drawn[:3]
        found = answer(server, prompt=PROMPT, n=3, best_of=8, **fields)
        assert [one["text"] for one in found["choices"]] == [out.text for out in drawn[:3]]
        assert [one["index"] for one in found["choices"]] == [0, 1, 2]
        assert found["usage"]["completion_tokens"] == sum(len(out.token_ids) for out in drawn)

    def test_the_answer_has_the_form_of_openai(self, server):
        before = int(time.time())
        found = answer(server, prompt=PROMPT, model="gpt2c", user="me")
        assert found["object"] == "text_completion" and found["id"].startswith("cmpl-")
        assert before <= found["created"] <= time.time()
        assert set(found["choices"][0]) == {"text", "index", "logprobs", "finish_reason", "ended_by"}
        assert found["choices"][0]["logprobs"] is None

    def test_json_of_a_schema(self, server):
        pytest.importorskip("llguidance")
        schema = {"type": "array", "items": {"enum": ["king", "miller"]}, "minItems": 2, "maxItems": 2}
        for one in choices(server, prompt=PROMPT, json_schema=schema, n=3, max_tokens=40):
            assert {*json.loads(one["text"])} <= {"king", "miller"}
            assert (one["finish_reason"], one["ended_by"]) == ("stop", "eos")

    def test_what_was_computed_before_is_told(self, bundled):
        model = copy(bundled)
        model.prefix_cache = "64MB"
        prompts = [[7] * 200, [8] * 300]
        with served(model) as server:
            for stream, n_blocks in ((False, 0), (False, 1 + 2), (True, 1 + 2)):
                before = model.prefix_cache.n_reused
                fields = {"prompt": prompts, "max_tokens": 2, "n": 2}
                if stream:
                    told = streamed(server, **fields, stream_options={"include_usage": True})[1][-1]["usage"]
                else:
                    told = answer(server, **fields)["usage"]
                assert told["prompt_tokens_details"] == {"cached_tokens": 128 * n_blocks}
                assert model.prefix_cache.n_reused - before == 128 * n_blocks


class TestLogprobs:
    @pytest.mark.parametrize("top", [0, 1, 3])
    def test_they_are_those_of_the_model(self, server, bundled, top):
        [one] = choices(server, prompt=PROMPT, seed=4, logprobs=top, max_tokens=12)
        out = bundled.generate(PROMPT, seed=4, temperature=1.0, max_new_tokens=12, top_logprobs=top)
        told = one["logprobs"]
        assert told["token_logprobs"] == out.logprobs
        assert told["tokens"] == [bundled.tokenizer.decode([token]) for token in out.token_ids]
        for i, alternatives in enumerate(told["top_logprobs"]):
            best = out.top_logprobs[i] if top else []
            wanted = {bundled.tokenizer.decode([token]): logprob for token, logprob in best}
            wanted.setdefault(told["tokens"][i], told["token_logprobs"][i])
            assert [*alternatives.items()] == [*wanted.items()]
        assert len(told["top_logprobs"]) == 12

    def test_offsets_count_from_the_beginning_of_the_prompt(self, server):
        [one] = choices(server, prompt=PROMPT, seed=4, logprobs=0, max_tokens=12)
        text = PROMPT + one["text"]
        for offset, token in zip(one["logprobs"]["text_offset"], one["logprobs"]["tokens"], strict=True):
            assert text[offset:].startswith(token)

    def test_echo_tells_the_prompt_and_its_log_probabilities(self, server, bundled):
        ids = bundled.tokenizer.encode(PROMPT)
        score = bundled.score([ids], bos=False, top=2)[0]
        for prompt in (PROMPT, ids):
            [one] = choices(server, prompt=prompt, seed=4, logprobs=2, max_tokens=3, echo=True)
            [new] = choices(server, prompt=prompt, seed=4, logprobs=2, max_tokens=3)
            assert one["text"] == PROMPT + new["text"]
            told, n = one["logprobs"], len(ids)
            assert {name: items[n:] for name, items in told.items()} == new["logprobs"]
            assert told["token_logprobs"][:n] == [None, *score.logprobs.tolist()]
            assert told["tokens"][:n] == [bundled.tokenizer.decode([token]) for token in ids]
            assert told["text_offset"][:n] == [start for start, _ in bundled.tokenizer.offsets(PROMPT, ids)]
            assert told["top_logprobs"][0] is None
            for i, alternatives in enumerate(told["top_logprobs"][1:n]):
                best = [bundled.tokenizer.decode([token]) for token in score.top_ids[i]]
                assert [*alternatives][:2] == best
                assert [*alternatives.values()][:2] == score.top_logprobs[i].tolist()

    def test_no_new_tokens_and_echo_score_the_prompt(self, server, bundled):
        texts = [PROMPT, "The", "a b c"]
        found = answer(server, prompt=texts, echo=True, max_tokens=0, logprobs=0, n=2)
        assert [one["text"] for one in found["choices"]] == [text for text in texts for _ in range(2)]
        for text, one in zip(texts, found["choices"][::2], strict=True):
            ids = bundled.tokenizer.encode(text)
            wanted = bundled.score([ids], bos=False)[0].logprobs.tolist() if len(ids) > 1 else []
            assert one["logprobs"]["token_logprobs"] == [None, *wanted]
            assert one["finish_reason"] == "length"
        assert found["usage"]["completion_tokens"] == 0

    def test_the_beginning_of_a_text_is_a_token_that_the_text_does_not_show(self, server):
        [one] = choices(server, prompt="", echo=True, logprobs=0, max_tokens=2, temperature=0)
        told = one["logprobs"]
        assert told["tokens"][0] == "<|endoftext|>" and told["token_logprobs"][0] is None
        assert told["text_offset"][:2] == [0, 0] and one["text"].startswith(told["tokens"][1])

    def test_what_the_tokenizer_puts_before_a_text_is_told_and_takes_no_room_in_it(self):
        tokenizer = copy(toys.bundled_tokenizer())
        tokenizer.prefix = (300, 301)
        model, _ = toys.random_gpt2(n_vocab=4096, tokenizer=tokenizer)
        with served(model) as server:
            [one] = choices(server, prompt="The king", echo=True, logprobs=0, max_tokens=1)
            told = one["logprobs"]
            assert told["tokens"][:2] == [tokenizer.decode([300]), tokenizer.decode([301])]
            assert told["tokens"][2:4] == ["The", " king"]
            assert told["text_offset"] == [0, 0, 0, 3, 8] and one["text"].startswith("The king")


class TestStreams:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"n": 3, "prompt": [PROMPT, "The"]},
            {"logprobs": 2},
            {"echo": True},
            {"echo": True, "logprobs": 1, "n": 2},
            {"echo": True, "max_tokens": 0},
            {"echo": True, "max_tokens": 0, "logprobs": 1},
            {"stop": "the", "logprobs": 0},
            {"heal": True, "prompt": "The king and the qu"},
        ],
    )
    def test_a_stream_adds_up_to_the_answer(self, server, fields):
        fields = {"prompt": PROMPT, "seed": 6, **fields}
        whole, found = streamed(server, **fields)
        wanted = answer(server, **fields)
        assert whole == wanted["choices"]
        for event in found:
            assert {name: event[name] for name in ("object", "model", "seed")} == {
                name: wanted[name] for name in ("object", "model", "seed")
            }
            assert len({one["id"] for one in found}) == 1 and "usage" not in event

    def test_usage_comes_in_an_event_of_its_own(self, server):
        fields = {"prompt": [PROMPT, "The"], "n": 2, "seed": 6}
        _, found = streamed(server, stream_options={"include_usage": True}, **fields)
        assert found[-1]["choices"] == [] and found[-1]["usage"] == answer(server, **fields)["usage"]
        assert all(event["usage"] is None for event in found[:-1])

    def test_there_are_whole_characters_only(self):
        text = "né 老虎 🐯!"
        with served(toys.recite(text)) as server:
            whole, found = streamed(server, prompt="", max_tokens=17, temperature=0)
            assert whole[0]["text"] == text and whole[0]["finish_reason"] == "stop"
            pieces = [event["choices"][0]["text"] for event in found]
            assert [piece for piece in pieces if piece] == list(text)
            whole, _ = streamed(server, prompt="", max_tokens=17, temperature=0, logprobs=0)
            assert len(whole[0]["logprobs"]["tokens"]) == len(text.encode()) + 1

    def test_what_is_wrong_from_the_start_is_no_stream(self, server):
        told = refusal(server, prompt=PROMPT * 200, stream=True)
        assert told["code"] == "context_length_exceeded"


class TestErrors:
    def test_a_prompt_that_is_too_long_is_never_cut(self, server, bundled):
        n_ctx = bundled.config.n_ctx
        assert choices(server, prompt=[12] * (n_ctx - 3), max_tokens=4)
        for fields in ({"prompt": [12] * (n_ctx - 2), "max_tokens": 4}, {"prompt": ["a", [12] * n_ctx]}):
            told = refusal(server, **fields)
            assert told["code"] == "context_length_exceeded" and f"{n_ctx} positions" in told["message"]
        assert "prompt 1 has 512 tokens and max_tokens is 16" in told["message"]

    def test_another_model_is_not_found(self, server):
        told = refusal(server, 404, prompt=PROMPT, model="gpt-4")
        assert told["code"] == "model_not_found" and told["param"] == "model"

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"suffix": "a"}, "suffix"),
            ({"nn": 2}, "nn"),
            ({"n": 9}, "n"),
            ({"best_of": 9}, "best_of"),
            ({"logprobs": 21}, "logprobs"),
            ({"prompt": {"a": 1}}, "prompt"),
            ({"stop": ["a"] * 17}, "stop"),
        ],
    )
    def test_the_field_that_is_wrong_is_named(self, server, fields, param):
        told = refusal(server, **fields)
        assert told["param"] == param and param in told["message"] and told["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        "fields", [{"prompt": [4096]}, {"logit_bias": {"4096": 1}}, {"repetition_penalty": 0}]
    )
    def test_what_the_model_refuses_is_told_as_it_says(self, server, fields):
        assert refusal(server, **fields)["type"] == "invalid_request_error"

    def test_a_request_ends_in_time_with_what_there_is(self, bundled):
        with served(bundled, request_seconds=0.3) as server:
            one = choices(server, prompt="The", max_tokens=500, n=8, ignore_eos=True)[0]
            assert (one["finish_reason"], one["ended_by"]) == ("length", "deadline") and one["text"]
            whole, _ = streamed(server, prompt="The", max_tokens=500, n=8, ignore_eos=True)
            assert {one["ended_by"] for one in whole} == {"deadline"}

    def test_nothing_in_time_is_an_error(self, bundled):
        with served(bundled, request_seconds=1e-6) as server:
            told = refusal(server, 504, prompt="The")
            assert told["code"] == "deadline"


def scheduled(server):
    """A list to which from now on every request is added that the scheduler of a server gets."""
    scheduler = server.config.app.state.gpt2c.scheduler
    submit, seen = scheduler.submit, []

    def recording(*prompts, **options):
        seen.append(submit(*prompts, **options))
        return seen[-1]

    scheduler.submit = recording
    return seen


class TestClients:
    @pytest.mark.parametrize("stream", [True, False])
    def test_the_texts_of_one_that_goes_end(self, bundled, stream):
        with served(bundled) as server:
            seen = scheduled(server)
            body = {"prompt": "The", "max_tokens": 500, "n": 2, "ignore_eos": True, "stream": stream}
            with connect(server) as connection:
                connection.sendall(request_bytes("POST", "/v1/completions", json.dumps(body).encode()))
                if stream:
                    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
                while not seen:
                    time.sleep(0.001)
            texts = seen[0].future.result(30)
            assert [text.finish_reason for text in texts] == ["cancelled", "cancelled"]

    def test_they_are_told_apart_by_key_or_address_and_user(self, bundled):
        key, fields = "k" * 32, {"prompt": "The", "max_tokens": 1}
        with served(bundled) as server:
            seen = scheduled(server)
            answer(server, **fields)
            answer(server, **fields, user="me")
            assert [request.client for request in seen] == ["127.0.0.1", "127.0.0.1 me"]
        with served(bundled, api_keys=("x" * 32, key)) as server:
            seen = scheduled(server)
            headers = [f"Authorization: Bearer {key}"]
            assert ask(server, "POST", "/v1/completions", fields, headers).status == 200
            assert seen[0].client == "key 1"


# ---- whatever is asked

FIELDS = {
    "model": st.sampled_from(["gpt2c", "other"]),
    "prompt": ANY_TEXT | st.lists(ANY_TEXT, max_size=3),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "echo": st.booleans(),
    "max_tokens": st.integers(-1, 6),
    "num_beams": st.integers(0, 3),
    "n": st.integers(0, 4),
    "best_of": st.integers(0, 5),
    "temperature": st.floats(-0.5, 5.5),
    "top_p": st.floats(-0.1, 1.1),
    "logprobs": st.integers(-1, 21),
    "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=17),
    "presence_penalty": st.floats(-3, 3),
    "frequency_penalty": st.floats(-3, 3),
    "logit_bias": st.dictionaries(st.integers(-1, 4097).map(str), st.floats(-100, 100), max_size=3),
    "seed": st.integers(-1, 2**64),
    "user": st.text(max_size=3),
    "suffix": st.none() | st.text(max_size=3),
    "top_k": st.integers(-1, 5000) | st.integers(2, 4),
    "penalty_alpha": st.floats(-0.1, 1.1),
    "num_beam_groups": st.integers(0, 3),
    "diversity_penalty": st.floats(-0.1, 2),
    "guidance_scale": st.floats(-1, 1001),
    "negative_prompt": st.text(max_size=3) | st.lists(st.integers(-1, 4097), max_size=3),
    "min_p": st.floats(-0.1, 1.1),
    "typical_p": st.floats(-0.1, 1.1),
    "top_n_sigma": st.floats(-2, 3),
    "xtc_probability": st.floats(-0.1, 1.1),
    "xtc_threshold": st.floats(-0.1, 1.1),
    "mirostat": st.integers(0, 3),
    "mirostat_tau": st.floats(-1, 9),
    "mirostat_eta": st.floats(-0.1, 2),
    "dry_multiplier": st.floats(-1, 1e7),
    "dry_base": st.floats(0, 1e7),
    "dry_allowed_length": st.integers(0, 3),
    "dry_penalty_last_n": st.integers(-2, 9),
    "dry_sequence_breakers": st.lists(st.text(max_size=2), max_size=3),
    "exponential_decay_length_penalty": st.lists(st.integers(-1, 3) | st.floats(-1, 2), max_size=3),
    "watermarking_config": st.fixed_dictionaries(
        {}, optional={"bias": st.floats(), "greenlist_ratio": st.floats(0, 1), "x": st.none()}
    ),
    "repetition_penalty": st.floats(0, 3),
    "no_repeat_ngram_size": st.integers(-1, 3),
    "length_penalty": st.floats(-2, 2),
    "min_tokens": st.integers(-1, 7),
    "ignore_eos": st.booleans(),
    "special": st.booleans(),
    "heal": st.booleans(),
    "json_schema": st.sampled_from([{"type": "integer"}, {"type": "no"}, {"enum": ["a"]}]),
}


@pytest.fixture(scope="module")
def small():
    model, _ = toys.random_gpt2(
        n_vocab=4096, n_ctx=40, tokenizer=toys.bundled_tokenizer(), eos_token_ids=(0,), std=1.0
    )
    with served(model) as server:
        yield server


@given(bodies(FIELDS))
def test_any_request_is_answered_or_refused(small, body):
    """There is an answer, or an error that says whose fault it is: the client's."""
    response = ask(small, "POST", "/v1/completions", body)
    if response.status != 200:
        assert 400 <= response.status < 500, response.body
        told = response.error
        assert told["type"] == "invalid_request_error" and told["message"]
    elif body.get("stream"):
        found = events(response)
        assert all("error" not in event for event in found)
    else:
        found = response.json
        assert len(found["choices"]) >= 1
        for one in found["choices"]:
            assert one["finish_reason"] in ("stop", "length")
            told = one["logprobs"]
            if told is not None:
                assert all(value is None or math.isfinite(value) for value in told["token_logprobs"])
                assert len({len(items) for items in told.values()}) == 1


# ---- OpenAI's own client


@pytest.fixture(scope="module")
def address(bundled):
    with served(bundled) as server:
        yield {"base_url": f"http://127.0.0.1:{server.port}/v1", "api_key": "none"}


class TestOpenAI:
    fields = {"model": "gpt2c", "prompt": PROMPT, "max_tokens": 8, "seed": 7}  # noqa: RUF012

    @pytest.fixture
    def wanted(self, bundled):
        return bundled.generate(PROMPT, max_new_tokens=8, seed=7, temperature=1.0)

    def test_completions_and_their_log_probabilities(self, address, wanted):
        openai = pytest.importorskip("openai")
        with openai.OpenAI(**address) as client:
            found = client.completions.create(**self.fields, logprobs=2, extra_body={"top_k": 0})
            assert found.choices[0].text == wanted.text and found.choices[0].finish_reason == "length"
            assert found.choices[0].logprobs.token_logprobs == wanted.logprobs
            assert found.usage.completion_tokens == 8 and found.seed == 7

    def test_streams(self, address, wanted):
        openai = pytest.importorskip("openai")
        with openai.OpenAI(**address) as client:
            chunks = [*client.completions.create(**self.fields, stream=True)]
            assert "".join(chunk.choices[0].text for chunk in chunks) == wanted.text
            assert chunks[-1].choices[0].finish_reason == "length"

    def test_many_at_once_in_asyncio(self, address, bundled):
        openai = pytest.importorskip("openai")
        wanted = [bundled.generate(PROMPT, max_new_tokens=8, seed=i, temperature=1.0).text for i in range(8)]

        async def one(client, i):
            fields = {**self.fields, "seed": i}
            if i % 2:
                return (await client.completions.create(**fields)).choices[0].text
            stream = await client.completions.create(**fields, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

        async def all_of_them():
            async with openai.AsyncOpenAI(**address) as client:
                return await asyncio.gather(*(one(client, i) for i in range(8)))

        assert asyncio.run(all_of_them()) == wanted

    def test_errors_are_those_that_the_client_knows(self, address):
        openai = pytest.importorskip("openai")
        with openai.OpenAI(**address, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError, match="unknown model"):
                client.completions.create(**{**self.fields, "model": "gpt-4"})
            with pytest.raises(openai.BadRequestError) as caught:
                client.completions.create(**{**self.fields, "prompt": PROMPT * 200})
            assert caught.value.code == "context_length_exceeded"
