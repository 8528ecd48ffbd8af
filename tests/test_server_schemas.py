"""What /v1/completions takes, and the forms of what it gives."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("pydantic")

from helpers import toys
from pydantic import ValidationError

from gpt2c.server import choices
from gpt2c.server.http import APIError
from gpt2c.server.schemas import CompletionRequest


def refused(**fields):
    """The fields that a request is refused for, with what is said of each."""
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate(fields)
    return {error["loc"][0]: error["msg"].removeprefix("Value error, ") for error in caught.value.errors()}


class TestRequests:
    @pytest.mark.parametrize(
        ("given", "prompts"),
        [
            ("a", ["a"]),
            ("", [""]),
            ([1, 2], [[1, 2]]),
            (["a", "b"], ["a", "b"]),
            ([[1], [2, 3]], [[1], [2, 3]]),
            (["a", [1]], ["a", [1]]),
            (None, [""]),
        ],
    )
    def test_prompts_are_strings_or_ids_or_lists_of_either(self, given, prompts):
        assert CompletionRequest.model_validate({"prompt": given}).prompt == prompts

    @pytest.mark.parametrize(
        "given", [[], [[]], 7, True, [True], [1, "a"], ["a", 1], [1.0], {"a": 1}, [[1], []]]
    )
    def test_other_prompts_are_refused(self, given):
        told = refused(prompt=given)["prompt"]
        assert told.startswith("prompt is ") and "allowed: a string, a list of token ids" in told

    def test_as_many_texts_as_openai_allows(self):
        assert len(CompletionRequest(prompt=["a"] * 2048).prompt) == 2048
        assert "2049 texts; allowed: 2048" in refused(prompt=["a"] * 2049)["prompt"]

    def test_the_defaults_are_those_of_openai(self):
        options = CompletionRequest.model_validate({}).options()
        assert options["max_new_tokens"] == 16 and options["temperature"] == 1.0 and options["top_p"] == 1.0
        assert options["num_return_sequences"] == 1 and options["top_logprobs"] == 0

    def test_a_null_stands_for_the_default(self):
        names = [name for name in CompletionRequest.model_fields]
        assert CompletionRequest.model_validate(dict.fromkeys(names)) == CompletionRequest()

    @pytest.mark.parametrize(
        ("fields", "param", "told"),
        [
            ({"suffix": 3}, "suffix", "valid string"),
            ({"suffix": "x", "echo": True}, "echo", "echo goes without suffix"),
            ({"suffix": "x", "heal": True}, "heal", "heal goes without suffix"),
            ({"max_tokens": 0}, "max_tokens", "echo=true only"),
            ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
            ({"max_tokens": 2.5}, "max_tokens", "valid integer"),
            ({"max_tokens": "3"}, "max_tokens", "valid integer"),
            ({"n": 0}, "n", "greater than or equal to 1"),
            ({"n": 3, "best_of": 2}, "best_of", "n (3) or more"),
            ({"best_of": 2, "stream": True}, "best_of", "goes without stream"),
            ({"best_of": 2, "num_beams": 2}, "best_of", "goes without num_beams"),
            ({"n": 3, "num_beams": 2}, "n", "up to num_beams (2)"),
            ({"num_beams": 2, "stream": True}, "num_beams", "goes without stream"),
            ({"num_beams": 2, "logprobs": 1}, "logprobs", "allowed with num_beams: 0"),
            ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true only"),
            ({"stream": True, "stream_options": {"all": 1}}, "stream_options", "Extra inputs"),
            ({"min_tokens": 17}, "min_tokens", "up to max_tokens (16)"),
            ({"heal": True, "logprobs": 0}, "heal", "goes without logprobs"),
            ({"json_schema": {}, "heal": True}, "json_schema", "goes without heal"),
            ({"json_schema": {}, "ignore_eos": True}, "json_schema", "goes without ignore_eos"),
            ({"json_schema": {}, "min_tokens": 2}, "json_schema", "goes without min_tokens"),
            ({"stop": ["a"] * 17}, "stop", "has 17 strings; allowed: 16"),
            ({"stop": ["a", ""]}, "stop", "empty string"),
            ({"stop": 3}, "stop", "a string or a list of strings"),
            ({"logit_bias": {"a": 1}}, "logit_bias", "has the key 'a'; allowed: token ids"),
            ({"logit_bias": {"²": 1}}, "logit_bias", "allowed: token ids"),
            ({"temperature": 5.1}, "temperature", "less than or equal to 5"),
            ({"temperature": True}, "temperature", "valid number"),
            ({"top_p": 0}, "top_p", "greater than 0"),
            ({"seed": -1}, "seed", "greater than or equal to 0"),
            ({"seed": 2**64}, "seed", "less than"),
            ({"stream": 1}, "stream", "valid boolean"),
            ({"logprobs": True}, "logprobs", "valid integer"),
            ({"max_new_tokens": 3}, "max_new_tokens", "Extra inputs"),
        ],
    )
    def test_what_is_refused_is_named(self, fields, param, told):
        found = refused(**fields)
        assert list(found) == [param] and told in found[param]

    def test_a_search_looks_for_the_most_probable_text_unless_a_temperature_is_given(self):
        assert CompletionRequest(num_beams=2).options()["temperature"] == 0.0
        assert CompletionRequest(num_beams=2, temperature=0.5).options()["temperature"] == 0.5

    def test_biases_have_token_ids_as_keys(self):
        asked = CompletionRequest.model_validate({"logit_bias": {"50256": -100, "0": 0.5}})
        assert asked.options()["logit_bias"] == {50256: -100.0, 0: 0.5}

    def test_all_options_are_those_of_generate(self, bundled):
        fields = {"ignore_eos": True, "stop": "x", "max_tokens": 1}
        options = CompletionRequest.model_validate(fields).options()
        assert options["eos_token_id"] == [] and options["stop"] == ["x"]
        bundled.generate("a", **options)


class TestEvents:
    def test_an_event_is_one_line_of_ascii_for_every_reader(self):
        text = "é\u2028\x85\n\r"
        data = choices.event({"text": text})
        assert data == b'data: {"text":"\\u00e9\\u2028\\u0085\\n\\r"}\n\n'
        assert json.loads(data[6:]) == {"text": text}

    def test_what_json_has_not_is_null(self):
        assert choices.event([float("nan"), float("-inf"), 1.5]) == b"data: [null,null,1.5]\n\n"

    @pytest.mark.parametrize(
        ("ended_by", "reason"),
        [
            ("eos", "stop"),
            ("stop", "stop"),
            ("length", "length"),
            ("deadline", "length"),
            ("cancelled", "length"),
            (None, None),
        ],
    )
    def test_ends_are_told_in_the_words_of_openai_and_in_ours(self, ended_by, reason):
        found = choices.choice(3, "x", None, ended_by)
        assert found == {
            "text": "x",
            "index": 3,
            "logprobs": None,
            "finish_reason": reason,
            "ended_by": ended_by,
        }

    def test_usage_adds_up(self):
        assert choices.usage(3, 4) == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        assert choices.usage(3, n_cached=2)["prompt_tokens_details"] == {"cached_tokens": 2}


class TestLogprobs:
    ids = staticmethod(lambda text: [toys.byte_ids()[byte] for byte in text.encode()])

    def test_parts_of_characters_are_told_as_bytes_at_the_place_of_the_character(self, bundled):
        writer = choices.LogprobsWriter(bundled, (), 0)
        found = writer.write(self.ids("aé!"), [-1.0, -2.0, -3.0, -4.0], [])
        assert found["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "!"]
        assert found["text_offset"] == [0, 1, 1, 2]
        assert found["token_logprobs"] == [-1.0, -2.0, -3.0, -4.0]
        assert found["top_logprobs"] == [
            {"a": -1.0},
            {"bytes:\\xc3": -2.0},
            {"bytes:\\xa9": -3.0},
            {"!": -4.0},
        ]

    def test_a_text_in_parts_has_the_same_as_in_one(self, bundled):
        ids = self.ids("xé老y")
        logprobs = [-float(i) for i in range(len(ids))]
        whole = choices.LogprobsWriter(bundled, (5,), 7).write(ids, logprobs, [])
        writer = choices.LogprobsWriter(bundled, (5,), 7)
        parts = [writer.write([token], [logprob], []) for token, logprob in zip(ids, logprobs, strict=True)]
        assert choices.joined(parts) == whole
        assert whole["text_offset"] == [7, 8, 8, 9, 9, 9, 10]

    def test_the_chosen_token_stands_among_the_alternatives_once(self, bundled):
        a, b, c = self.ids("abc")
        top = [[(a, -0.5), (b, -1.5)]]
        write = lambda *of: choices.LogprobsWriter(bundled, (), 0).write(*of)["top_logprobs"]  # noqa: E731
        assert [*write([b], [-1.5], top)[0].items()] == [("a", -0.5), ("b", -1.5)]
        assert [*write([c], [-3.0], top)[0].items()] == [("a", -0.5), ("b", -1.5), ("c", -3.0)]

    def test_the_first_token_of_all_has_nothing_before_it(self, bundled):
        found = choices.LogprobsWriter(bundled, (), 0).write([0, *self.ids("a")], [None, -1.0], [], 1)
        assert found["token_logprobs"] == [None, -1.0] and found["top_logprobs"] == [None, {"a": -1.0}]
        assert found["tokens"][0] == "<|endoftext|>" and found["text_offset"] == [0, 0]

    def test_without_a_tokenizer_tokens_have_their_ids(self):
        model, _ = toys.random_gpt2()
        found = choices.LogprobsWriter(model, (1,), 0).write([7, 8], [-1.0, -2.0], [[(9, -0.5)], [(8, -2.0)]])
        assert found["tokens"] == ["token_id:7", "token_id:8"] and found["text_offset"] == [0, 0]
        assert found["top_logprobs"] == [{"token_id:9": -0.5, "token_id:7": -1.0}, {"token_id:8": -2.0}]


class TestSchemas:
    schema = {  # noqa: RUF012
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 10, "maximum": 99},
            "kind": {"enum": ["king", "miller"]},
        },
        "required": ["age", "kind"],
        "additionalProperties": False,
    }

    def test_texts_are_json_of_the_schema(self, bundled):
        pytest.importorskip("llguidance")
        from gpt2c.server.json_schema import bitmask_of

        allowed = bitmask_of(bundled, self.schema)
        for out in bundled.generate(
            "He was ", num_return_sequences=3, temperature=1.0, seed=1, token_bitmask=allowed
        ):
            found = json.loads(out.text)
            assert out.finish_reason == "eos" and [*found] == ["age", "kind"]
            assert 10 <= found["age"] <= 99 and found["kind"] in ("king", "miller")

    def test_the_tokens_that_may_follow_depend_on_the_text_alone(self, bundled):
        pytest.importorskip("llguidance")
        from gpt2c.server.json_schema import bitmask_of

        ids = np.array(bundled.tokenizer.encode('{"age":12,"kind":"king"}'), np.int32)
        one_by_one = bitmask_of(bundled, self.schema)
        for n in [*range(len(ids) + 1), 3, 1, 0]:
            at_once = bitmask_of(bundled, self.schema)(ids[:n])
            assert one_by_one(ids[:n]).tobytes() == at_once.tobytes()
        with pytest.raises(APIError, match="json_schema: "):
            one_by_one(np.array(bundled.tokenizer.encode("no"), np.int32))

    @pytest.mark.parametrize(
        "schema", [{"type": "nothing"}, {"pattern": "(", "type": "string"}, {"$ref": "#/no"}]
    )
    def test_what_is_no_schema_is_refused(self, bundled, schema):
        pytest.importorskip("llguidance")
        from gpt2c.server.json_schema import bitmask_of

        with pytest.raises(APIError, match="json_schema is not supported: ") as caught:
            bitmask_of(bundled, schema)
        assert (caught.value.status, caught.value.param) == (400, "json_schema")

    def test_a_model_without_an_end_of_text_cannot_end_a_json_text(self):
        pytest.importorskip("llguidance")
        from gpt2c.server.json_schema import bitmask_of

        model, _ = toys.random_gpt2()
        with pytest.raises(APIError, match="needs an end-of-text token"):
            bitmask_of(model, self.schema)

    def test_without_llguidance_the_error_names_the_package(self, bundled, monkeypatch):
        from gpt2c.server.json_schema import bitmask_of

        monkeypatch.setitem(sys.modules, "llguidance", None)
        with pytest.raises(APIError, match="pip install llguidance"):
            bitmask_of(bundled, self.schema)
