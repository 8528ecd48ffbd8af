"""/v1/embeddings, /v1/score and /v1/suggest: their answers are those of the model in this process."""

import base64
import json

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from helpers import toys
from helpers.bodies import ANY_TEXT, bodies
from helpers.served import ask, served
from hypothesis import given
from hypothesis import strategies as st

TEXTS = ["The king had three daughters.", "né 老虎", "a"]


@pytest.fixture(scope="module")
def server(bundled):
    with served(bundled) as found:
        yield found


def answer(server, path, status=200, headers=(), **fields):
    found = ask(server, "POST", path, fields, headers)
    assert found.status == status, found.body
    return found.json


def refusal(server, path, status=400, **fields):
    return answer(server, path, status, **fields)["error"]


class TestEmbeddings:
    @pytest.mark.parametrize("pooling", ["mean", "last"])
    def test_they_are_those_of_the_model(self, server, bundled, pooling):
        found = answer(server, "/v1/embeddings", input=[*TEXTS, [5, 6]], pooling=pooling)
        wanted = bundled.embed([*TEXTS, [5, 6]], pooling=pooling)
        assert found["object"] == "list"
        assert [one["index"] for one in found["data"]] == [0, 1, 2, 3]
        told = np.array([one["embedding"] for one in found["data"]], np.float32)
        assert toys.same(told, wanted)
        n = sum(len(bundled.tokenizer.encode(text)) for text in TEXTS) + 2
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == n

    def test_as_bytes(self, server, bundled):
        [one] = answer(server, "/v1/embeddings", input=TEXTS[0], encoding_format="base64")["data"]
        assert base64.b64decode(one["embedding"]) == bundled.embed(TEXTS[0]).astype("<f4").tobytes()

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"input": "a", "dimensions": 8}, "dimensions"),
            ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
            ({}, "input"),
            ({"input": []}, "input"),
            ({"input": "a", "pooling": "most"}, "pooling"),
        ],
    )
    def test_what_is_wrong_is_named(self, server, fields, param):
        told = refusal(server, "/v1/embeddings", **fields)
        assert told["param"] == param and param in told["message"]

    def test_texts_that_are_empty_or_too_long_are_refused(self, server):
        assert "text 1 is empty" in refusal(server, "/v1/embeddings", input=["a", ""])["message"]
        assert refusal(server, "/v1/embeddings", input=[5] * 513)["code"] == "context_length_exceeded"

    def test_the_client_of_openai(self, bundled):
        openai = pytest.importorskip("openai")
        with (
            served(bundled) as server,
            openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client,
        ):
            found = client.embeddings.create(model="gpt2c", input=TEXTS)
        told = np.array([one.embedding for one in found.data], np.float32)
        assert toys.same(told, bundled.embed(TEXTS))


class TestScores:
    def test_they_are_those_of_the_model(self, server, bundled):
        found = answer(server, "/v1/score", input=TEXTS, top=2, words=True)
        for i, (one, score) in enumerate(
            zip(found["data"], bundled.score(TEXTS, top=2, words=True), strict=True)
        ):
            assert one["index"] == i and one["n_tokens"] == len(score)
            for name in (
                "logprob",
                "perplexity",
                "bits",
                "bits_per_byte",
                "bits_per_char",
                "n_bytes",
                "n_chars",
            ):
                assert one[name] == getattr(score, name)
            for row, ids in zip(one["tokens"], score.top_ids.tolist(), strict=True):
                for text, token in zip(row.pop("top_texts"), ids, strict=True):
                    alone = bundled.tokenizer.decode([token])
                    assert text == alone or ("\ufffd" in alone and text.startswith(r"bytes:\x"))
            assert one["tokens"] == score.rows()
            assert one["words"] == [word._asdict() for word in score.words()]
        assert found["usage"]["total_tokens"] == sum(one["n_tokens"] for one in found["data"])

    def test_behind_a_context(self, server, bundled):
        choices = [" king", " castle"]
        found = answer(server, "/v1/score", input=choices, context="There was a", tokens=False)
        wanted = bundled.score([("There was a", choice) for choice in choices])
        assert [one["logprob"] for one in found["data"]] == [score.logprob for score in wanted]
        assert all("tokens" not in one and "words" not in one for one in found["data"])

    def test_token_ids_and_windows(self, server, bundled):
        ids = [(7 * i) % 4096 for i in range(900)]
        [one] = answer(server, "/v1/score", input=ids, stride=256, bos=False)["data"]
        [wanted] = bundled.score([ids], stride=256, bos=False)
        assert [row["logprob"] for row in one["tokens"]] == wanted.logprobs.tolist()
        assert one["tokens"][0]["text"] is None and one["n_tokens"] == 899

    def test_what_is_wrong_is_told(self, server):
        assert refusal(server, "/v1/score", input=[5] * 600)["code"] == "context_length_exceeded"
        assert refusal(server, "/v1/score", input="a", top=21)["param"] == "top"
        assert refusal(server, "/v1/score", input="a", texts="b")["param"] == "texts"
        assert refusal(server, "/v1/score", input=[5], bos=False)["type"] == "invalid_request_error"


class TestSuggestions:
    def test_tokens(self, server, bundled):
        found = answer(server, "/v1/suggest", prompt="The king and the", k=4)
        wanted = bundled.suggest("The king and the", k=4)
        keys = ("text", "probability", "token_id")
        assert found["data"] == [{key: getattr(one, key) for key in keys} for one in wanted]
        assert found["usage"]["prompt_tokens"] == 4 and found["session"] is None

    def test_words(self, server, bundled):
        found = answer(server, "/v1/suggest", prompt="The king and the qu", kind="words")
        wanted = bundled.suggest_words("The king and the qu")
        assert found["data"] == [one._asdict() for one in wanted]
        assert found["remaining"] == wanted.remaining and found["finished"] is True

    def test_completions(self, server, bundled):
        fields = {"prompt": "The king and the qu", "kind": "completions", "k": 2, "max_tokens": 3}
        found = answer(server, "/v1/suggest", **fields)
        wanted = bundled.session("The king and the qu").complete(2, max_new_tokens=3)
        assert found["data"] == json.loads(json.dumps([one._asdict() for one in wanted]))

    def test_a_session_computes_what_is_new(self, server, bundled):
        typed = "Once upon a time there was a king who"
        for end in range(10, len(typed)):
            found = answer(server, "/v1/suggest", prompt=typed[:end], session="typing")
            wanted = bundled.suggest(typed[:end])
            assert [one["probability"] for one in found["data"]] == [one.probability for one in wanted]
        counts = found["usage"]
        assert counts["prompt_tokens_details"]["cached_tokens"] >= counts["prompt_tokens"] - 2
        assert found["session"] == "typing"

    def test_a_session_goes_from_one_text_to_any_other(self, server, bundled):
        for prompt, special in [("A b", False), ([5, 6, 7], False), ("<|endoftext|>A", True), ("", False)]:
            found = answer(server, "/v1/suggest", prompt=prompt, special=special, session="any")
            wanted = bundled.suggest(prompt, special=special)
            assert [one["token_id"] for one in found["data"]] == [one.token_id for one in wanted]
            assert [one["probability"] for one in found["data"]] == [one.probability for one in wanted]

    def test_sessions_of_one_key_are_out_of_reach_of_others(self, bundled):
        text = "Once upon a time there was a king who"

        def cached(server, key):
            headers = [f"Authorization: Bearer {key}"]
            found = answer(server, "/v1/suggest", headers=headers, prompt=text, session="mine")
            return found["usage"]["prompt_tokens_details"]["cached_tokens"]

        with served(bundled, api_keys=("a" * 32, "b" * 32)) as server:
            assert cached(server, "a" * 32) == 0
            assert cached(server, "b" * 32) == 0
            assert cached(server, "a" * 32) > 0

    def test_the_sessions_that_were_not_used_for_longest_are_dropped(self, server):
        def cached(name):
            found = answer(server, "/v1/suggest", prompt="Once upon a time", session=name)
            return found["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert cached("first") == 0 and cached("first") > 0
        for i in range(63):
            assert cached(f"other {i}") == 0
        assert cached("first") > 0
        for i in range(63):
            cached(f"more {i}")
        assert cached("first") > 0
        for i in range(64):
            cached(f"yet more {i}")
        assert cached("first") == 0

    def test_what_is_wrong_is_named(self, server):
        assert refusal(server, "/v1/suggest", prompt="a", kind="letters")["param"] == "kind"
        assert refusal(server, "/v1/suggest", prompt=["a", "b"])["param"] == "prompt"
        assert refusal(server, "/v1/suggest", prompt="a", session="")["param"] == "session"
        assert "max_tokens goes with" in refusal(server, "/v1/suggest", prompt="a", max_tokens=3)["message"]
        assert refusal(server, "/v1/suggest", prompt=[5] * 600)["code"] == "context_length_exceeded"


def test_chat_is_refused_with_the_reason(server):
    told = refusal(server, "/v1/chat/completions", 404, messages=[{"role": "user", "content": "Hi"}])
    assert "no chat template" in told["message"] and "/v1/completions" in told["message"]


def test_another_model_is_not_found(server):
    for path in ("/v1/embeddings", "/v1/score", "/v1/suggest"):
        fields = {"prompt": "a"} if path == "/v1/suggest" else {"input": "a"}
        assert refusal(server, path, 404, model="gpt-4", **fields)["code"] == "model_not_found"


def test_clients_take_turns(bundled):
    with served(bundled) as server:
        scheduler = server.config.app.state.gpt2c.scheduler
        run, seen = scheduler.run, []

        def recording(*work, client, **options):
            seen.append(client)
            return run(*work, client=client, **options)

        scheduler.run = recording
        answer(server, "/v1/score", input="a")
        answer(server, "/v1/score", input="a", user="me")
        answer(server, "/v1/embeddings", input="a", user="me")
        answer(server, "/v1/suggest", prompt="a", user="me")
        answer(server, "/v1/completions", prompt="a b", echo=True, logprobs=0, max_tokens=0, user="me")
    assert seen == ["127.0.0.1", *["127.0.0.1 me"] * 4]


def test_nothing_in_time_is_an_error(bundled):
    with served(bundled, request_seconds=1e-6) as server:
        for path in ("/v1/embeddings", "/v1/score", "/v1/suggest"):
            fields = {"prompt": "a"} if path == "/v1/suggest" else {"input": "a"}
            assert refusal(server, path, 504, **fields)["code"] == "deadline"


# ---- whatever is asked

FLAG = st.booleans()
INPUT = {"input": ANY_TEXT | st.lists(ANY_TEXT, max_size=3)}
EMBEDDINGS = {
    "encoding_format": st.sampled_from(["float", "base64", "x"]),
    "pooling": st.sampled_from(["mean", "last", "x"]),
    "special": FLAG,
}
SCORE = {
    "context": ANY_TEXT,
    "top": st.integers(-1, 21),
    "words": FLAG,
    "tokens": FLAG,
    "bos": FLAG,
    "special": FLAG,
    "stride": st.integers(0, 41),
}
SUGGEST = {
    "prompt": ANY_TEXT,
    "kind": st.sampled_from(["tokens", "words", "completions", "x"]),
    "k": st.integers(0, 101),
    "max_tokens": st.integers(0, 4),
    "special": FLAG,
    "session": st.sampled_from(["", "a", "b"]),
}
ASKED = st.one_of(
    st.tuples(st.just("/v1/embeddings"), bodies(EMBEDDINGS, **INPUT)),
    st.tuples(st.just("/v1/score"), bodies(SCORE, **INPUT)),
    st.tuples(st.just("/v1/suggest"), bodies(SUGGEST)),
)


@pytest.fixture(scope="module")
def small():
    model, _ = toys.random_gpt2(n_vocab=4096, tokenizer=toys.bundled_tokenizer(), eos_token_ids=(0,), std=1.0)
    with served(model) as server:
        yield server


@given(ASKED)
def test_any_request_is_answered_or_refused(small, asked):
    found = ask(small, "POST", *asked)
    assert found.status < 500, found.body
    assert ("error" in found.json) == (found.status >= 400)


def test_sessions_of_long_texts_are_dropped_earlier():
    from gpt2c.server.sessions import Sessions  # where the extra is installed

    sessions = Sessions(max_tokens=100)
    for n in range(10):
        sessions.named("a", str(n)).n_tokens = 30
    first, last = sessions.named("a", "5"), sessions.named("a", "9")
    assert (first.n_tokens, last.n_tokens) == (0, 30)  # of ten, three and that of the latest call are left
    sessions.named("a", "9").n_tokens = 5000
    assert sessions.named("a", "9").n_tokens == 5000
