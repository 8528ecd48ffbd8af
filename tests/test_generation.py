"""Continuing texts: what is chosen, that company changes nothing, and the limit of the context."""

from __future__ import annotations

import inspect
import math
import pydoc
import signal

import numpy as np
import pytest
from helpers.toys import bundled_tokenizer, counted_calls, random_gpt2

from gpt2c import GPT2, ContextLengthError, reference
from gpt2c.generation import loop
from gpt2c.generation.options import GenerateKwargs

# ---- what is chosen


def expected_greedy(model, weights, prompt, n, *, penalty=1.0, bias=None, forbid_eos_before=0):
    """Greedy continuation, raw log-probabilities and the smallest lead of a choice, by the reference."""
    ids, logprobs, margins = list(prompt), [], []
    for step in range(n):
        raw = reference.forward(model.config, weights, np.array(ids))[-1]
        logits = raw.copy()
        for token in set(ids):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        for token, value in (bias or {}).items():
            logits[token] += value
        if step < forbid_eos_before:
            logits[list(model.config.eos_token_ids)] = -np.inf
        order = np.argsort(-logits, kind="stable")
        ids.append(int(order[0]))
        margins.append(logits[order[0]] - logits[order[1]])
        logprobs.append(reference.log_softmax(raw)[ids[-1]])
    return ids[len(prompt) :], logprobs, min(margins)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"penalty": 1.3},
        {"penalty": 0.7},
        {"bias": {5: 3.0, 9: -2.0}},
        {"penalty": 1.2, "bias": {3: -math.inf}},
    ],
    ids=str,
)
def test_greedy_equals_the_reference(seed, options):
    model, weights = random_gpt2(seed)
    prompt = [3, 1, 4, 1, 5][: seed + 1]
    expected, logprobs, margin = expected_greedy(model, weights, prompt, 12, **options)
    assert margin > 1e-4, "choose another seed: the reference itself is undecided"
    result = model.generate(
        prompt,
        max_new_tokens=12,
        repetition_penalty=options.get("penalty", 1.0),
        logit_bias=options.get("bias"),
    )
    assert result.token_ids == expected
    np.testing.assert_allclose(
        result.logprobs, logprobs, atol=1e-4
    )  # of the raw logits, whatever the options
    assert result.seed is None and result.prompt_token_ids == prompt


def test_min_new_tokens_takes_the_best_token_that_is_no_eos():
    model, weights = random_gpt2(2, eos_token_ids=tuple(range(0, 61, 2)))
    expected, _, margin = expected_greedy(model, weights, [1, 2], 9, forbid_eos_before=9)
    assert margin > 1e-4
    assert model.generate([1, 2], max_new_tokens=9, min_new_tokens=9).token_ids == expected
    free = model.generate([1, 2], max_new_tokens=9)
    assert free.finish_reason == "eos", "without the minimum this text ends"


def test_a_text_may_end_with_its_first_token():
    model, _ = random_gpt2(2, eos_token_ids=(7,))
    for options in ({}, {"num_beams": 2}, {"temperature": 1.0, "seed": 1}):
        found = model.generate([1, 2], max_new_tokens=5, logit_bias={7: 1000.0}, **options)
        assert (found.token_ids, found.finish_reason) == ([7], "eos")


def test_eos_token_id_says_what_ends_this_text():
    model, weights = random_gpt2(2, eos_token_ids=tuple(range(0, 61, 2)))
    ids, _, margin = expected_greedy(model, weights, [1, 2], 12)
    assert margin > 1e-4
    ends = [ids[5], 60 if ids[5] != 60 else 59]
    assert next(i for i, token in enumerate(ids) if token % 2 == 0) < 5, "the model's own would come before"
    upto = min(i for i, token in enumerate(ids) if token in ends) + 1
    for given in (ends[0], np.int64(ends[0]), ends, tuple(ends), np.array(ends), iter(ends)):
        found = model.generate([1, 2], max_new_tokens=12, eos_token_id=given)
        assert (found.token_ids, found.finish_reason) == (ids[:upto], "eos")
    none = model.generate([1, 2], max_new_tokens=12, eos_token_id=[])
    assert (none.token_ids, none.finish_reason) == (ids, "length")
    stream = model.stream([1, 2], max_new_tokens=12, eos_token_id=ends)
    assert list(stream) == [] and stream.result.token_ids == ids[:upto]
    assert model.generate([1, 2], max_new_tokens=12, eos_token_id=None).token_ids != ids


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"min_new_tokens": 7}, {"temperature": 1.0, "seed": 3}], ids=str
)
def test_eos_token_id_does_what_the_configuration_would(options):
    how = {"n_vocab": 4096, "tokenizer": bundled_tokenizer()}
    free, _ = random_gpt2(4, **how)
    options = {"max_new_tokens": 20, **options}
    end = free.generate("It is", **options).token_ids[3]
    own, _ = random_gpt2(4, eos_token_ids=(end,), **how)
    expected = own.generate("It is", **options)
    found = free.generate("It is", eos_token_id=end, **options)
    assert (found.text, found.token_ids, found.finish_reason) == (
        expected.text,
        expected.token_ids,
        expected.finish_reason,
    )
    assert own.generate("It is", eos_token_id=[], **options).text == free.generate("It is", **options).text


def test_an_end_that_is_no_token_of_the_model_is_refused():
    with pytest.raises(ValueError, match="eos_token_id names token 61, but the vocabulary has 61 tokens"):
        random_gpt2(2)[0].generate([1], eos_token_id=[3, 61])


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_p": 1e-30}, {"min_p": 1.0}, {"temperature": 1e-30}], ids=str
)
def test_the_narrowest_filters_are_greedy(options):
    model, _ = random_gpt2(1)
    greedy = model.generate([1, 2], max_new_tokens=15)
    narrow = model.generate([1, 2], max_new_tokens=15, **{"temperature": 1.0, "seed": 5, **options})
    assert narrow.token_ids == greedy.token_ids


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e30},
        {"temperature": 1e300},
        {"temperature": 1e-40},
        {"temperature": 1e-300},
        {"repetition_penalty": 1e6},
        {"repetition_penalty": 1e-6},
        {"top_k": 10**30},
        {"top_p": 1e-300},
        {"min_p": 1e-300},
    ],
    ids=str,
)
def test_extreme_options_are_survived(options):
    model, _ = random_gpt2(1)
    result = model.generate([1, 2], max_new_tokens=15, seed=5, **{"temperature": 1.0, **options})
    assert len(result.token_ids) == 15 and all(math.isfinite(value) for value in result.logprobs)


def test_a_token_forbidden_by_bias_never_comes():
    model, _ = random_gpt2(2)
    favourite = model.generate([1], max_new_tokens=1).token_ids[0]
    results = model.generate(
        [1],
        max_new_tokens=20,
        temperature=2.0,
        num_return_sequences=20,
        seed=1,
        logit_bias={favourite: -math.inf},
    )
    assert not any(favourite in result.token_ids for result in results)


def test_a_bias_outside_the_vocabulary_is_refused():
    model, _ = random_gpt2()
    with pytest.raises(
        ValueError, match=r"logit_bias names token 61, but the vocabulary has 61 tokens: 0 to 60"
    ):
        model.generate([1], logit_bias={61: 1.0})


def test_ids_past_the_tokenizers_end_are_never_written():
    n_text = bundled_tokenizer().n_vocab
    model, _ = random_gpt2(1, n_vocab=n_text + 500, n_ctx=300, tokenizer=bundled_tokenizer())
    drawn = model.generate([1], max_new_tokens=250, temperature=50.0, seed=1, num_return_sequences=2)
    assert max(max(result.token_ids) for result in drawn) < n_text
    assert len({token for result in drawn for token in result.token_ids}) > 300  # it did draw far and wide
    told = model.generate([1], max_new_tokens=30, top_logprobs=5).top_logprobs
    assert len(told) == 30 and all(token < n_text for row in told for token, _ in row)


# ---- seeds and company


def test_a_seed_repeats_a_text_and_another_seed_does_not():
    model, _ = random_gpt2()
    options = {"max_new_tokens": 30, "temperature": 1.0}
    first = model.generate([1, 2, 3], seed=7, **options)
    assert model.generate([1, 2, 3], seed=7, **options) == first
    assert model.generate([1, 2, 3], seed=8, **options).token_ids != first.token_ids
    assert model.generate([1, 2, 3], seed=2**64 - 1, **options).seed == 2**64 - 1


def test_a_fresh_seed_is_reported_and_repeats_the_text():
    model, _ = random_gpt2()
    options = {"max_new_tokens": 30, "temperature": 1.0}
    first, second = model.generate([1], **options), model.generate([1], **options)
    assert first.seed != second.seed and first.token_ids != second.token_ids
    assert model.generate([1], seed=first.seed, **options) == first


def test_a_text_may_be_taken_up_again_where_it_stopped():
    """Chance is keyed by the absolute position: a text continued in two goes is the text continued in one."""
    model, _ = random_gpt2(6)
    options = {"temperature": 1.0, "top_k": 30, "repetition_penalty": 1.2, "seed": 9}
    whole = model.generate([4, 2], max_new_tokens=20, **options).token_ids
    for n in (1, 7, 19):
        first = model.generate([4, 2], max_new_tokens=n, **options).token_ids
        second = model.generate([4, 2, *first], max_new_tokens=20 - n, **options).token_ids
        assert first + second == whole


PROMPTS = [[1], [2, 3, 4, 5, 6, 7, 8, 9], [10, 11], [1], [12] * 17, [13, 14, 15]]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("n", [1, 3])
def test_company_changes_nothing(batch_size, n):
    model, _ = random_gpt2(4, eos_token_ids=tuple(range(1, 60, 6)))
    options = {
        "max_new_tokens": 20,
        "temperature": 1.3,
        "top_k": 20,
        "seed": 3,
        "repetition_penalty": 1.1,
        "num_return_sequences": n,
    }
    together = model.generate(PROMPTS, batch_size=batch_size, **options)
    assert len(together) == len(PROMPTS) * n
    assert len({len(result.token_ids) for result in together}) > 1, "texts should end at different times"
    for index, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], **options)
        for sample in range(n):
            result = together[index * n + sample]
            assert (result.prompt_index, result.sample_index) == (index, sample)
            assert result.token_ids == alone[sample].token_ids
            assert result.logprobs == alone[sample].logprobs  # bit by bit
            assert result.finish_reason == alone[sample].finish_reason


def test_a_sample_does_not_depend_on_how_many_there_are():
    model, _ = random_gpt2(5)
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 3}
    five = model.generate([1, 2], num_return_sequences=5, **options)
    assert len({tuple(result.token_ids) for result in five}) == 5
    assert model.generate([1, 2], num_return_sequences=2, **options) == five[:2]
    assert model.generate([1, 2], **options) == five[0]


@pytest.fixture
def calls(monkeypatch):
    return counted_calls(monkeypatch)


def test_all_texts_advance_in_one_call_and_prompts_are_computed_once(calls):
    model, _ = random_gpt2()
    model.generate([[1, 2, 3], [4], [5, 6]], max_new_tokens=4)
    assert calls == [(3, 6), (3, 3), (3, 3), (3, 3)]
    calls.clear()
    model.generate([[1, 2, 3], [4, 5]], max_new_tokens=3, num_return_sequences=4, temperature=1.0)
    assert calls == [(2, 5), (8, 8), (8, 8)]


def test_a_finished_text_makes_room_for_the_next_prompt(calls):
    model, _ = random_gpt2()
    model.generate([[1, 2, 3], [4, 5], [6]], max_new_tokens=3, batch_size=2)
    assert calls == [(2, 5), (2, 2), (2, 2), (1, 1), (1, 1), (1, 1)]
    calls.clear()
    model.generate([[1, 2, 3]], max_new_tokens=2, num_return_sequences=3, batch_size=2, temperature=1.0)
    assert calls == [(1, 3), (2, 2), (1, 1)]  # the prompt is not computed again for the third


def test_rows_of_one_call_are_bounded(calls, monkeypatch):
    monkeypatch.setattr(loop, "ROWS_PER_CALL", 10)
    model, _ = random_gpt2()
    limited = model.generate([[1] * 6, [2] * 3, [3] * 7, [4] * 15, [5]], max_new_tokens=3)
    assert calls[0] == (2, 9)
    assert (
        max(rows for _, rows in calls) == 15 + 3
    )  # the prompt that is longer than the bound goes in one piece
    monkeypatch.undo()
    assert model.generate([[1] * 6, [2] * 3, [3] * 7, [4] * 15, [5]], max_new_tokens=3) == limited


# ---- the context


def test_a_text_may_fill_the_context_and_not_pass_it(calls):
    model, _ = random_gpt2()  # 40 positions
    assert len(model.generate([1] * 10, max_new_tokens=31).token_ids) == 31
    assert len(model.generate([1] * 40, max_new_tokens=1).token_ids) == 1
    calls.clear()
    with pytest.raises(ContextLengthError) as caught:
        model.generate([1] * 10, max_new_tokens=32)
    assert str(caught.value) == (
        "the prompt has 10 tokens and max_new_tokens is 32: all but the last of them need 41 positions, but "
        "the model has 40; at most 31 new tokens fit after it: lower max_new_tokens (-n), shorten the "
        "prompt, or choose an overflow (--overflow)"
    )
    with pytest.raises(
        ContextLengthError, match=r"prompt 1 has 40 tokens .* at most 1 new token fits after it"
    ):
        model.generate([[1], [1] * 40], max_new_tokens=2)
    with pytest.raises(ContextLengthError, match="shorten the prompt to at most 40 tokens"):
        model.stream([1] * 41, max_new_tokens=1)
    with pytest.raises(ContextLengthError, match="max_new_tokens is 1000000000000"):
        model.generate([1], max_new_tokens=10**12)
    assert calls == []  # nothing was computed in vain


@pytest.mark.parametrize("n_new", [1, 2, 5])
def test_the_last_new_token_needs_no_position(n_new):
    model, weights = random_gpt2(3, n_ctx=12)
    prompt = np.random.default_rng(0).integers(61, size=13 - n_new).tolist()
    expected, logprobs, margin = expected_greedy(model, weights, prompt, n_new)
    assert margin > 1e-4
    found = model.generate(prompt, max_new_tokens=n_new)
    assert found.token_ids == expected
    np.testing.assert_allclose(found.logprobs, logprobs, atol=1e-4)
    with model.stream(prompt, max_new_tokens=n_new) as stream:
        list(stream)
    assert stream.result.token_ids == expected
    options = {"max_new_tokens": n_new, "overflow": "truncate_left"}
    assert model.generate(prompt, **options).prompt_token_ids == prompt, "it fits: nothing is left out"
    drawn = model.generate(prompt, max_new_tokens=n_new, num_return_sequences=2, temperature=1.0, seed=1)
    assert [len(one.token_ids) for one in drawn] == [n_new, n_new]
    best = model.generate(prompt, max_new_tokens=n_new, num_beams=3, num_return_sequences=3)
    assert [len(one.token_ids) for one in best] == [n_new] * 3
    if n_new == 1:
        assert best[0].token_ids == expected
    kept = model.generate(prompt, max_new_tokens=n_new, names_filter="hook_embed", trace=True)
    assert len(kept.cache["embed"]) == 12 and len(kept.trace.steps) == n_new


def test_an_interrupt_inside_the_engine_ends_generate_and_leaves_the_model_usable():
    model, _ = random_gpt2(n_ctx=4000)
    expected = model.generate([1, 2], max_new_tokens=10)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            model.generate([[1] * 2000] * 60, max_new_tokens=2000)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert model.generate([1, 2], max_new_tokens=10) == expected


@pytest.mark.parametrize("name", ["generate", "stream"])
def test_the_signature_names_every_option(bundled, name):
    """Notebooks complete the names of options from it, and help() shows them."""
    signature = inspect.signature(getattr(bundled, name))
    parameters = dict(signature.parameters)
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    own = ["prompts", "num_return_sequences", "batch_size"] if name == "generate" else ["prompt"]
    own.append("session")
    assert list(parameters) == [*own, *GenerateKwargs.__annotations__]
    assert parameters["max_new_tokens"].default == 50 and parameters["temperature"].default == 0
    assert parameters["top_p"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["logit_bias"].default is None and parameters["bad_words"].default == ()
    assert next(iter(inspect.signature(getattr(GPT2, name)).parameters)) == "self"
    assert "top_p: float = 1.0" in pydoc.plain(pydoc.render_doc(getattr(GPT2, name))).replace("'", "")
