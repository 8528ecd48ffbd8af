"""Where a text ends, which characters it has, and what a stream gives."""

from __future__ import annotations

import pytest
from helpers.toys import bundled_tokenizer, byte_ids, counted_calls, random_gpt2, recite, reciting_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import TokenizerError
from gpt2c.core import _engine


@pytest.fixture
def calls(monkeypatch):
    return counted_calls(monkeypatch)


# ---- where a text ends


def test_length():
    model = recite("abcdefgh")
    result = model.generate([0], max_new_tokens=3)
    assert (result.text, result.finish_reason, len(result.token_ids)) == ("abc", "length", 3)
    assert str(result) == "abc"


def test_eos_ends_the_text_and_stays_out_of_it():
    result = recite("abc").generate([0], max_new_tokens=4)
    assert (result.text, result.finish_reason) == ("abc", "eos")
    assert result.token_ids == [byte_ids()[ord(c)] for c in "abc"] + [0]
    assert len(result.logprobs) == 4


def test_every_eos_of_the_configuration_counts():
    x = byte_ids()[ord("x")]
    result = recite("abxc", eos=(0, x)).generate([0], max_new_tokens=4)
    assert (result.text, result.finish_reason, result.token_ids[-1]) == ("ab", "eos", x)
    assert recite("abxc", eos=()).generate([0], max_new_tokens=4).text == "abxc"


def test_min_new_tokens_forbids_eos_so_long():
    model = recite("abc")  # would end with the fourth token
    longer = model.generate([0], max_new_tokens=4, min_new_tokens=4)
    assert longer.finish_reason == "length" and 0 not in longer.token_ids
    assert model.generate([0], max_new_tokens=4, min_new_tokens=3).finish_reason == "eos"


@pytest.mark.parametrize("stop", ["cde", ["x", "cde"], ["e", "cde"], "c", "abcd"])
def test_a_stop_string_may_span_tokens(stop):
    result = recite("abcdefgh").generate([0], max_new_tokens=8, stop=stop)
    strings = [stop] if isinstance(stop, str) else stop
    end = min("abcdefgh".find(s) + len(s) for s in strings if s in "abcdefgh")
    seen = "abcdefgh"[:end]
    assert result.finish_reason == "stop"
    assert result.text == seen[: min(seen.find(s) for s in strings if s in seen)]
    assert len(result.token_ids) == end  # all of the stop string's tokens, and none after


def test_a_stop_string_inside_one_token_cuts_the_token():
    once = bundled_tokenizer().encode("Once")
    assert len(once) == 1
    result = reciting_gpt2([0, *once, *once]).generate([0], max_new_tokens=2, stop="nc")
    assert (result.text, result.finish_reason, result.token_ids) == ("O", "stop", once)


def test_the_prompt_cannot_stop_the_text():
    model = reciting_gpt2([0, *[byte_ids()[ord(c)] for c in "abcabc"]])
    prompt = [byte_ids()[ord("c")]]
    result = model.generate(prompt, max_new_tokens=4, stop="ca")
    assert result.text == "ab"


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("ab", min_size=1, max_size=24),
    stop=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_stop_strings_hold_back_no_more_than_needed(text, stop):
    stream = recite(text).stream([0], max_new_tokens=len(text) + 1, stop=stop)
    shown = ""
    for piece in stream:
        assert piece
        shown += piece
    ends = [text.find(s) + len(s) for s in stop if s in text]
    if ends:
        seen = text[: min(ends)]  # the text up to where the first stop string is complete
        assert shown == seen[: min(seen.find(s) for s in stop if s in seen)]
        assert stream.result.finish_reason == "stop"
        assert bundled_tokenizer().decode(stream.result.token_ids) == seen
    else:
        assert shown == text
        assert stream.result.finish_reason == "eos"
    assert stream.result.text == shown


def test_text_is_shown_as_soon_as_it_cannot_begin_a_stop_string():
    pieces = list(recite("aab.xab.y").stream([0], max_new_tokens=10, stop="ab.y"))
    assert pieces == ["a", "ab.x"]


# ---- characters


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12).filter(lambda text: "\ufffd" not in text))
def test_a_stream_never_gives_half_a_character(text):
    n = len(text.encode("utf-8"))
    model = recite(text)
    pieces = list(model.stream([0], max_new_tokens=n + 1))
    assert "".join(pieces) == text
    assert all(
        len(piece) == 1 for piece in pieces
    )  # one byte per token: every character comes when it is whole
    assert model.generate([0], max_new_tokens=n + 1).text == text


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=16), st.booleans())
def test_bytes_that_are_no_utf8_are_replaced(data, end):
    model = recite(data, end=end)
    n = len(data) + end
    expected = data.decode("utf-8", "replace")
    assert model.generate([0], max_new_tokens=n).text == expected
    stream = model.stream([0], max_new_tokens=n)
    assert "".join(stream) == expected == stream.result.text


def test_a_model_without_a_tokenizer_continues_ids_only():
    model, _ = random_gpt2()
    result = model.generate([1, 2], max_new_tokens=5)
    assert result.text == "" and len(result.token_ids) == 5
    assert list(model.stream([1, 2], max_new_tokens=5)) == []
    for attempt in (lambda: model.generate("text"), lambda: model.generate([1], stop="x")):
        with pytest.raises(
            TokenizerError, match="has no tokenizer: pass token ids, or load it with a tokenizer"
        ):
            attempt()


# ---- streams


def test_a_stream_gives_what_generate_gives():
    model = recite("Once upon a time")
    options = {"max_new_tokens": 12, "temperature": 0.3, "seed": 4}
    stream = model.stream([0], **options)
    pieces = list(stream)
    assert len(pieces) == 12
    assert stream.result == model.generate([0], **options)
    assert "".join(pieces) == stream.result.text
    assert stream.first_token_seconds > 0
    assert next(stream, None) is None


def test_a_stream_computes_only_as_far_as_it_is_read(calls):
    stream = recite("abcdef").stream([0], max_new_tokens=6)
    assert calls == []
    assert [next(stream), next(stream)] == ["a", "b"]
    assert len(calls) == 2


def test_a_closed_stream_is_cancelled_and_frees_its_cache(calls):
    stream = recite("abcdef").stream([0], max_new_tokens=6, stop="cx")
    with pytest.raises(RuntimeError, match="the stream has not ended"):
        stream.result  # noqa: B018
    assert [next(stream), next(stream)] == ["a", "b"]
    assert stream._text.cache is not None
    stream.close()
    assert stream._text.cache is None
    assert (stream.result.text, stream.result.finish_reason) == ("ab", "cancelled")
    assert len(stream.result.token_ids) == 2
    stream.close()
    assert list(stream) == [] and len(calls) == 2


def test_what_was_held_back_is_in_a_cancelled_result(monkeypatch):
    stream = recite("xabcd").stream([0], max_new_tokens=5, stop="abcz")
    assert next(stream) == "x"
    forward, done = _engine.forward, []

    def interrupted_later(*arguments, **settings):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(True)
        return forward(*arguments, **settings)

    monkeypatch.setattr(_engine, "forward", interrupted_later)
    with pytest.raises(KeyboardInterrupt):
        next(stream)  # "ab" has come, but could begin the stop string
    assert stream.result.text == "xab" == stream.result.text
    assert len(stream.result.token_ids) == 3


def test_with_closes_a_stream():
    with recite("abcdef").stream([0], max_new_tokens=6) as stream:
        next(stream)
    assert stream.result.finish_reason == "cancelled"
    with recite("abc").stream([0], max_new_tokens=4) as stream:
        assert "".join(stream) == "abc"
    assert stream.result.finish_reason == "eos"


def test_a_stream_that_was_never_read_has_an_empty_result():
    stream = recite("abc").stream([0], max_new_tokens=3)
    stream.close()
    assert (stream.result.text, stream.result.token_ids, stream.result.finish_reason) == ("", [], "cancelled")


def test_an_interrupt_ends_a_stream_and_leaves_the_model_usable(monkeypatch):
    model = recite("abcdef")
    stream = model.stream([0], max_new_tokens=6)
    next(stream)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_engine, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert (stream.result.text, stream.result.finish_reason) == ("a", "cancelled")
    assert stream._text.cache is None
    assert model.generate([0], max_new_tokens=6).text == "abcdef"


def test_streams_may_alternate():
    one, two = recite("abc").stream([0], max_new_tokens=3), recite("xyz").stream([0], max_new_tokens=3)
    assert [next(s) for _ in range(3) for s in (one, two)] == ["a", "x", "b", "y", "c", "z"]


def test_a_stream_takes_one_prompt_and_gives_one_text():
    model, _ = random_gpt2()
    with pytest.raises(TypeError, match="stream continues one prompt, not a list of 2: use generate"):
        model.stream([[1], [2]])
    with pytest.raises(ValueError, match="use generate for num_return_sequences above 1"):
        model.stream([1], num_return_sequences=2)
    with pytest.raises(TypeError, match="temprature"):
        model.stream([1], temprature=1)
    with pytest.raises(ValueError, match="temperature must be"):
        model.stream([1], temperature=-1)  # at once, not with the first piece
