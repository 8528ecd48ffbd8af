"""Beam search: against transformers and CTranslate2 (golden/search.json), and against exhaustive search."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from data.golden import recipe
from helpers.strategies import tensor_shapes
from helpers.toys import random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import GPT2, reference
from gpt2c.core import _engine

SCORE_BOUND = 1e-4
SEARCHES = json.loads((recipe.FOLDER / "search.json").read_text())["cases"]
MODELS = {case.name: (case.config, case.weights()) for case in recipe.SEARCH_CASES}


def gpt2_of(name, eos=()):
    config, weights = MODELS[name]
    return GPT2(_engine.Weights(replace(config, eos_token_ids=tuple(eos)), weights.__getitem__), threads=1)


def without(token):
    """CTranslate2 takes probabilities among what is not forbidden."""

    def process(ids, logprobs):
        logprobs[token] = -np.inf
        return logprobs - np.float32(np.log(np.exp(logprobs.astype(np.float64)).sum()))

    return process


def search(case):
    """What gpt2c finds for a recorded search."""
    options = dict(case["options"])
    if "sequence_bias" in options:
        options["sequence_bias"] = {tuple(ids): bias for ids, bias in options["sequence_bias"]}
    if case["engine"] == "CTranslate2":
        options["logits_processor"] = without(case["eos"][0])
    found = gpt2_of(case["model"], case["eos"]).generate(case["prompt"], **options)
    return found if isinstance(found, list) else [found]


def difference(case, found):
    """What is wrong with the texts found, "" for nothing, or "tie" if only the order of equals differs."""
    length_penalty = case["options"]["length_penalty"]
    for mine, score in zip(found, case["scores"], strict=True):
        bound = SCORE_BOUND * max(1, len(mine.token_ids) ** -length_penalty)  # of the sum that was divided
        if abs(mine.score - score) > bound:
            return f"score {mine.score} instead of {score}"
    for mine, text, score in zip(found, case["texts"], case["scores"], strict=True):
        if mine.token_ids != text:
            near = sum(abs(other - score) < 2 * SCORE_BOUND for other in case["scores"])
            return "tie" if near > 1 else f"{mine.token_ids} instead of {text}"
    return ""


def test_the_recorded_searches_are_many_and_of_all_kinds():
    engines = Counter(case["engine"] for case in SEARCHES)
    assert engines["transformers"] >= 200 and engines["CTranslate2"] >= 50
    named = Counter(name for case in SEARCHES for name in case["options"])
    for name in (
        "repetition_penalty",
        "no_repeat_ngram_size",
        "bad_words",
        "suppress_tokens",
        "sequence_bias",
    ):
        assert named[name] >= 30, name
    assert sum(text[-1] in case["eos"] for case in SEARCHES for text in case["texts"]) >= 200


def test_searches_equal_those_of_transformers_and_ctranslate2():
    wrong = {number: difference(case, search(case)) for number, case in enumerate(SEARCHES)}
    wrong = {number: what for number, what in wrong.items() if what}
    ties = [number for number, what in wrong.items() if what == "tie"]
    assert len(wrong) == len(ties), wrong
    assert not ties, "there were none when this was written"


@pytest.mark.oracle
def test_live_searches_equal_those_of_transformers():
    """The recorded searches are what the transformers of today finds."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from data.golden import make_golden, make_search

    for name in MODELS:
        case = next(case for case in recipe.SEARCH_CASES if case.name == name)
        model = make_golden.build(case.values, case.weights(), torch.float32)
        model.generation_config = transformers.GenerationConfig()
        for recorded in SEARCHES:
            if (recorded["engine"], recorded["model"]) == ("transformers", name):
                texts, scores = make_search.ask_transformers(
                    model, recorded["prompt"], recorded["eos"], recorded["options"]
                )
                assert texts == recorded["texts"]
                np.testing.assert_allclose(scores, recorded["scores"], rtol=1e-5, atol=1e-5)


# ---- exhaustive search


def all_texts(model, weights, prompt, tokens, n, length_penalty):
    """(score, text) of all texts of these tokens that end with eos or are n long, the best first."""
    eos = set(model.config.eos_token_ids)
    found = []
    for text in itertools.product(tokens, repeat=n):
        end = next((at + 1 for at, token in enumerate(text) if token in eos), n)
        if any(token != tokens[0] for token in text[end:]):
            continue  # the same text as one that goes on with the first token
        logits = reference.forward(model.config, weights, np.array([*prompt, *text]))
        logprobs = reference.log_softmax(logits)[len(prompt) - 1 : len(prompt) - 1 + end]
        total = logprobs[np.arange(end), list(text[:end])].sum()
        found.append((total / end**length_penalty, list(text[:end])))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
@pytest.mark.parametrize(("k", "n", "eos"), [(3, 4, ()), (2, 6, ()), (3, 4, (7,)), (4, 3, (7, 9))])
def test_with_a_beam_for_every_text_the_search_is_exhaustive(k, n, eos, length_penalty):
    model, weights = random_gpt2(4, n_vocab=32, eos_token_ids=eos)
    tokens, prompt = [7, 9, 20, 3][:k], [1, 2, 3]
    expected = all_texts(model, weights, prompt, tokens, n, length_penalty)
    found = model.generate(
        prompt,
        max_new_tokens=n,
        num_beams=k**n,
        num_return_sequences=k**n,
        length_penalty=length_penalty,
        suppress_tokens=set(range(32)) - set(tokens),
    )
    assert [result.token_ids for result in found] == [text for _, text in expected]
    np.testing.assert_allclose(
        [result.score for result in found], [score for score, _ in expected], atol=1e-4
    )


def test_the_best_text_need_not_begin_with_the_best_token():
    model, _ = random_gpt2(8)
    greedy = model.generate([5], max_new_tokens=5)
    best = model.generate([5], max_new_tokens=5, num_beams=8, length_penalty=0.0)
    assert best.token_ids[0] != greedy.token_ids[0]
    assert sum(best.logprobs) > sum(greedy.logprobs)
    assert best.score == pytest.approx(sum(best.logprobs), abs=1e-4)


# ---- what it does not depend on


@given(
    st.sampled_from(
        [("float32", "float32"), ("int8", "float16"), ("int4", "float32"), ("bfloat16", "float16")]
    ),
    st.sampled_from([1, 2, 15, 16, 17, 33, 127, 128, 130, 160]),
    st.integers(2, 6),
    st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_caches_hold_what_their_texts_say(formats, n_prompt, num_beams, seed):
    """Log-probabilities of every text are those of computing it alone, to the last bit."""
    model, _ = random_gpt2(3, n_ctx=200, dtype=formats[0])
    model.cache_dtype = formats[1]
    prompt = np.random.default_rng(seed).integers(61, size=n_prompt).tolist()
    found = model.generate(prompt, max_new_tokens=24, num_beams=num_beams, num_return_sequences=num_beams)
    for result in found:
        rows = model.forward(prompt + result.token_ids[:-1])[n_prompt - 1 :]
        logprobs = [
            float(row[token]) - _engine.log_sum_exp(row)
            for row, token in zip(rows, result.token_ids, strict=True)
        ]
        assert result.logprobs == logprobs


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 5, "top_k": 20}, {"overflow": "slide"}])
def test_company_changes_nothing(options):
    model, _ = random_gpt2(6, eos_token_ids=(3, 4))
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12} | options
    prompts = [[1], [2, 3, 4], [1], list(range(20)), [9] * 5]
    alone = [result for prompt in prompts for result in model.generate(prompt, **options)]
    for batch_size in (None, 1, 2, 7, 100):
        together = model.generate(prompts, batch_size=batch_size, **options)
        for one, other in zip(alone, together, strict=True):
            assert (one.token_ids, one.logprobs, one.score) == (other.token_ids, other.logprobs, other.score)
        assert [result.prompt_index for result in together] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert [result.sample_index for result in together] == [0, 1] * 5


# ---- drawn searches


def test_continuations_are_drawn_without_replacement():
    """With one step and two beams the result is an unordered pair of different tokens."""
    model, weights = random_gpt2(3, n_vocab=6, std=0.2)
    p = reference.softmax(reference.forward(model.config, weights, np.array([1]))[-1])
    n = 4000
    pairs = Counter()
    for seed in range(n):
        found = model.generate(
            [1], max_new_tokens=1, num_beams=2, num_return_sequences=2, temperature=1.0, seed=seed
        )
        pairs[tuple(sorted(result.token_ids[0] for result in found))] += 1
    statistic = 0.0
    for a, b in itertools.combinations(range(6), 2):
        expected = n * (p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]))
        statistic += (pairs[a, b] - expected) ** 2 / expected
    assert sum(pairs.values()) == n
    assert statistic < 14 + 6 * math.sqrt(28) + 10  # mean of chi-squared with 14 degrees of freedom + 6 sigma


def test_the_best_of_what_was_drawn_live_on_the_best_first():
    """As in transformers: twice as many are drawn as live on, by their scores."""
    model, _ = random_gpt2(2)
    trace = model.generate([1, 2], max_new_tokens=12, num_beams=4, temperature=2.0, seed=4, trace=True).trace
    for step in trace.steps:
        scores = [branch.score for branch in step.branches]
        assert scores == sorted(scores, reverse=True)


def test_a_seed_makes_a_drawn_search_come_out_again():
    model, _ = random_gpt2(2)
    options = dict(num_beams=3, temperature=1.5, max_new_tokens=10)
    first = model.generate([1, 2], **options)
    again = model.generate([1, 2], seed=first.seed, **options)
    assert (first.token_ids, first.score) == (again.token_ids, again.score)
    assert len({tuple(model.generate([1, 2], seed=s, **options).token_ids) for s in range(8)}) > 1
    greedy = model.generate([1, 2], **options | {"temperature": 1.0, "top_k": 1})
    assert greedy.token_ids == model.generate([1, 2], max_new_tokens=10).token_ids


def test_every_beam_and_position_has_noise_of_its_own():
    config = replace(MODELS["search_flat"][0], n_layer=1)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(config).items()}
    model = GPT2(_engine.Weights(config, zeros.__getitem__), threads=1)  # all tokens are equally probable
    same_token_in_both_beams = same_token_twice = 0
    for seed in range(40):
        options = dict(num_beams=2, num_return_sequences=2, temperature=1.0, seed=seed)
        one, other = (result.token_ids for result in model.generate([1], max_new_tokens=2, **options))
        same_token_in_both_beams += one[1] == other[1]
        same_token_twice += one[0] == one[1]
    assert same_token_in_both_beams < 20 and same_token_twice < 20


# ---- ends


def test_the_end_of_text_is_no_part_of_the_text(bundled):
    def end(ids, logprobs):
        if len(ids) > 5:
            logprobs[1:] = -np.inf
        return logprobs

    found = bundled.generate([60, 61, 62], max_new_tokens=9, num_beams=3, logits_processor=end)
    assert found.token_ids[3:] == [0] and found.finish_reason == "eos"
    assert found.text == bundled.tokenizer.decode(found.token_ids[:3])


def test_texts_end_with_a_stop_string(bundled):
    options = dict(max_new_tokens=30, num_beams=4, num_return_sequences=4)
    stops = [",", "daughter"]
    found = bundled.generate("The king had", stop=stops, **options)
    stopped = [result for result in found if result.finish_reason == "stop"]
    assert stopped
    for result in stopped:
        whole = bundled.tokenizer.decode(result.token_ids)
        assert not any(stop in result.text for stop in stops)
        assert any(whole.startswith(result.text + stop) for stop in stops)


def test_a_search_may_find_fewer_texts_than_asked_for():
    model, _ = random_gpt2(1)
    only = set(range(61)) - {5}
    found = model.generate([1], max_new_tokens=3, num_beams=4, num_return_sequences=4, suppress_tokens=only)
    assert [result.token_ids for result in found] == [[5, 5, 5]]


def test_a_search_that_comes_to_nothing_says_so():
    model, _ = random_gpt2(1)

    def dead_end(ids, logits):
        return np.full_like(logits, -np.inf) if len(ids) > 2 else logits

    with pytest.raises(
        ValueError, match="no token can be chosen: all tokens are forbidden for every text of the search"
    ):
        model.generate([1], max_new_tokens=5, num_beams=3, logits_processor=dead_end)


def test_what_cannot_be_searched_is_refused(bundled):
    for options, message in (
        ({"num_beams": 0}, "num_beams must be from 1 to 1024, each with its own cache, not 0"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            r"num_return_sequences \(3\) must not be above num_beams \(2\)",
        ),
        ({"length_penalty": 0.5}, "length_penalty is for beam search: give num_beams above 1"),
        ({"early_stopping": "never"}, "early_stopping is for beam search"),
        (
            {"num_beams": 2, "early_stopping": "often"},
            "early_stopping must be True, False or 'never', not 'often'",
        ),
        ({"num_beams": 2, "length_penalty": math.nan}, "length_penalty must be from -100 to 100, not nan"),
    ):
        with pytest.raises(ValueError, match=message):
            bundled.generate("a", **options)
    with pytest.raises(
        ValueError, match="stream cannot show the text of a beam search before it ends: use generate"
    ):
        bundled.stream("a", num_beams=2)
