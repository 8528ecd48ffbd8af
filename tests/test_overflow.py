"""Texts beyond the model's positions: refused, cut, or continued with a window that slides."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers.toys import random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import ContextLengthError
from gpt2c.core import _engine
from gpt2c.generation.options import SamplingOptions
from gpt2c.tokenizer.characters import CharacterTokenizer

N_CTX = 24


def plain_loop(model, prompt, n, hop, options, sample=0):
    """Compute the whole window anew for every token: the last hop that lets the text fit."""
    ids, logprobs, used = list(prompt), [], []
    for _ in range(n):
        begin = 0
        while len(ids) - begin > N_CTX:
            begin += hop
        row = model.forward(ids[begin:], logits_to_keep=1)[0]
        used.append(len(ids) - begin)
        token, logprob = _engine.sample(
            row, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, min_p=0.0,
            seed=options.seed or 0, stream=sample, position=len(ids))  # fmt: skip
        ids.append(token)
        logprobs.append(logprob)
    assert max(used) <= N_CTX
    return ids[len(prompt) :], logprobs


@given(
    n_prompt=st.integers(1, 80),
    n=st.integers(1, 90),
    hop=st.one_of(st.none(), st.integers(1, N_CTX)),
    dtype=st.sampled_from(["float32", "int8"]),
    options=st.sampled_from(
        [{}, {"temperature": 1.3, "seed": 3}, {"temperature": 1.3, "seed": 3, "top_k": 5}]
    ),
)
@settings(max_examples=50)
def test_a_sliding_window_equals_a_loop_that_recomputes_it(n_prompt, n, hop, dtype, options):
    model, _ = random_gpt2(5, n_ctx=N_CTX, dtype=dtype)
    prompt = np.random.default_rng(n_prompt).integers(61, size=n_prompt).tolist()
    results = model.generate(
        prompt, max_new_tokens=n, overflow="slide", hop=hop, num_return_sequences=2, **options
    )
    for sample, result in enumerate(results):
        ids, logprobs = plain_loop(model, prompt, n, hop or N_CTX // 2, SamplingOptions(**options), sample)
        assert result.token_ids == ids
        assert result.logprobs == logprobs, "to the last bit"
        assert result.prompt_token_ids == prompt


def test_room_is_made_as_the_text_grows():
    model, _ = random_gpt2(5, n_ctx=N_CTX)
    options = dict(overflow="slide", temperature=1.0, seed=4)
    expected = model.generate([1, 2], max_new_tokens=300, **options).token_ids
    tracemalloc.start()
    with model.stream([1, 2], max_new_tokens=10**12, **options) as stream:
        while len(stream._text.logprobs) < 300:
            next(stream._steps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stream.result.token_ids == expected and peak < 2**24


def test_a_text_that_slides_can_be_taken_up_anywhere():
    model, _ = random_gpt2(5, n_ctx=N_CTX)
    options = dict(overflow="slide", hop=7, temperature=1.0, seed=9)
    whole = model.generate([1, 2], max_new_tokens=70, **options)
    for at in (1, 20, 21, 22, 23, 30, 60):
        rest = model.generate([1, 2, *whole.token_ids[:at]], max_new_tokens=70 - at, **options)
        assert rest.token_ids == whole.token_ids[at:] and rest.logprobs == whole.logprobs[at:]


@pytest.mark.parametrize("num_beams", [2, 5])
def test_a_search_slides_too(num_beams):
    model, _ = random_gpt2(5, n_ctx=N_CTX)
    found = model.generate(
        [1, 2, 3],
        max_new_tokens=60,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        overflow="slide",
        hop=9,
    )
    for result in found:
        ids, logprobs = [1, 2, 3], []
        for token in result.token_ids:
            begin = 0
            while len(ids) - begin > N_CTX:
                begin += 9
            row = model.forward(ids[begin:], logits_to_keep=1)[0]
            logprobs.append(float(row[token]) - _engine.log_sum_exp(row))
            ids.append(token)
        assert result.logprobs == logprobs


def test_a_stream_slides_as_generate_does(bundled):
    options = dict(max_new_tokens=40, overflow="slide")
    prompt = bundled.tokenizer.encode("The king had a daughter. " * 90)
    assert len(prompt) > bundled.config.n_ctx - 20
    with bundled.stream(prompt, **options) as stream:
        text = "".join(stream)
    assert text == bundled.generate(prompt, **options).text


def test_the_beginning_of_a_prompt_can_be_left_out():
    model, _ = random_gpt2(5, n_ctx=N_CTX)
    prompt = list(range(40))
    cut = model.generate(prompt, max_new_tokens=10, overflow="truncate_left")
    kept = prompt[-15:]  # with nine of the new ones 24 positions
    assert cut.prompt_token_ids == kept
    assert cut.token_ids == model.generate(kept, max_new_tokens=10).token_ids
    short = model.generate(prompt[:15], max_new_tokens=10, overflow="truncate_left")
    assert short.prompt_token_ids == prompt[:15]


def test_the_beginning_is_left_out_after_the_tokenizers_prefix():
    class Prefixed(CharacterTokenizer):
        prefix = (7,)

    tokenizer = Prefixed([chr(0x30 + i) for i in range(61)], name="characters")
    model, _ = random_gpt2(5, n_ctx=N_CTX, tokenizer=tokenizer)
    cut = model.generate(
        "".join(chr(0x30 + i) for i in range(40)), max_new_tokens=10, overflow="truncate_left"
    )
    assert cut.prompt_token_ids == [7, *range(26, 40)]


def test_what_does_not_fit_is_refused():
    model, _ = random_gpt2(5, n_ctx=N_CTX)
    for options, message in (
        ({"max_new_tokens": 10}, "shorten the prompt to at most 15 tokens, or choose an overflow"),
        ({"max_new_tokens": 25, "overflow": "truncate_left"}, "lower max_new_tokens \\(-n\\) to at most 24"),
    ):
        with pytest.raises(ContextLengthError, match=message):
            model.generate(list(range(40)), **options)
    with pytest.raises(ContextLengthError, match="at most 9 new tokens fit after it: lower max_new_tokens"):
        model.generate(list(range(16)), max_new_tokens=10)
    for options, message in (
        ({"overflow": "wrap"}, "overflow must be one of 'error', 'truncate_left', 'slide', not 'wrap'"),
        ({"overflow": "slide", "hop": 0}, "hop must be at least 1, not 0"),
        ({"overflow": "slide", "hop": 25}, "hop is 25; allowed: 1 to 24, the model's positions"),
        ({"hop": 5}, "hop goes with overflow='slide' only"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate([1], max_new_tokens=3, **options)
