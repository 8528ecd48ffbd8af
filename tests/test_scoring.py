"""Scores and suggestions against the reference, and the numbers made from them."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
from helpers import local_tasks
from helpers.strategies import random_model, tensor_shapes
from helpers.toys import bundled_tokenizer, random_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c import (
    GPT2,
    Config,
    ConfigError,
    ContextLengthError,
    Suggestion,
    TokenizerError,
    as_tokenizer,
    reference,
)
from gpt2c.checkpoint import BUNDLED
from gpt2c.core import _engine, batching
from gpt2c.scoring import scoring, vocabulary
from gpt2c.scoring.vocabulary import word_edges
from gpt2c.tokenizer.bpe import BPETokenizer
from gpt2c.tokenizer.postprocessor import Around
from gpt2c.tokenizer.vocabulary import Vocabulary


def expected_score(model, weights, ids, bos):
    context = [model.bos_token_id, *ids] if bos else list(ids)
    logits = reference.forward(model.config, weights, np.array(context[:-1]))
    logp = reference.log_softmax(logits)
    rows = np.arange(len(context) - 1)
    targets = np.array(context[1:])
    ranks = (logits > logits[rows, targets][:, None]).sum(axis=1)
    entropies = -(np.exp(logp) * logp).sum(axis=1)
    variances = (np.exp(logp) * (logp + entropies[:, None]) ** 2).sum(axis=1)
    return logp[rows, targets], ranks, entropies, variances


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("n", [1, 2, 15, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_the_reference(seed, n, bos):
    model, weights = random_gpt2(seed)
    ids = np.random.default_rng(seed).integers(61, size=n + (not bos)).tolist()
    score = model.score(ids, bos=bos)
    logprobs, ranks, entropies, variances = expected_score(model, weights, ids, bos)
    assert len(score) == n and score.token_ids == (ids if bos else ids[1:])
    assert (score.logprobs.dtype, score.ranks.dtype, score.entropies.dtype) == (
        np.float32,
        np.int64,
        np.float32,
    )
    np.testing.assert_allclose(score.logprobs, logprobs, atol=1e-4)
    np.testing.assert_array_equal(score.ranks, ranks)
    np.testing.assert_allclose(score.entropies, entropies, atol=1e-4)
    np.testing.assert_allclose(score.variances, variances, atol=1e-4, rtol=1e-4)


def test_the_numbers_made_from_logprobs(bundled):
    text = "Once upon a time there was a little mouse — très petite."
    score = bundled.score(text)
    total = score.logprobs.astype(np.float64).sum()
    assert score.logprob == pytest.approx(total, rel=1e-12)
    assert score.perplexity == pytest.approx(math.exp(-total / len(score)), rel=1e-12)
    assert score.bits == pytest.approx(-total / math.log(2), rel=1e-12)
    assert score.bits == pytest.approx(score.surprisals.sum(), rel=1e-12)
    assert score.n_bytes == len(text.encode("utf-8")) == len(text) + 3
    assert score.bits_per_byte == pytest.approx(score.bits / score.n_bytes, rel=1e-12)
    assert repr(score).startswith(
        f"Score({len(score)} tokens, perplexity={score.perplexity:.5g}, bits_per_byte="
    )


def test_an_astronomic_perplexity_is_infinite():
    nothing = np.zeros(1, np.int64)
    assert scoring.Score([1], np.array([-1000], np.float32), *[nothing] * 4).perplexity == math.inf


MEASURES = json.loads((Path(__file__).parent / "data" / "golden" / "measures.json").read_text("utf-8"))


@pytest.mark.parametrize("case", MEASURES["curvature"], ids=lambda case: f"{case['text'][:8]}-{case['bos']}")
def test_variances_and_curvature_are_those_of_torch(bundled, case):
    score = bundled.score(case["text"], bos=case["bos"])
    assert score.variances.dtype == np.float32
    np.testing.assert_allclose(score.variances, case["variances"], rtol=1e-4)
    assert score.curvature == pytest.approx(case["curvature"], abs=1e-4)


def test_word_perplexities_are_those_of_lm_eval(bundled):
    """Golden: of its rolling task; it counts an empty word where white space begins or ends a text."""
    golden = json.loads((Path(__file__).parent / "data" / "golden" / "lm_eval.json").read_text("utf-8"))
    texts = [row["text"] for row in local_tasks.documents()]
    words = [len(re.split(r"\s+", text)) for text in texts]
    scores = bundled.score(texts, special=True, stride=512)
    for score, n, (logprob,) in zip(scores, words, golden["answers"]["gpt2c_rolling"], strict=True):
        assert score.word_perplexity(n) == pytest.approx(math.exp(-logprob / n), rel=1e-4)
        if score.text == score.text.strip():
            assert score.word_perplexity() == score.word_perplexity(n)
    together = math.exp(-sum(score.logprob for score in scores) / sum(words))
    assert together == pytest.approx(golden["metrics"]["gpt2c_rolling"]["word_perplexity,none"], rel=1e-4)


def test_the_words_that_word_perplexity_divides_by(bundled):
    text = " The king ,\n\nthat is  , the old one . "
    score = bundled.score(text)
    assert score.word_perplexity() == pytest.approx(math.exp(-score.logprob / 10), rel=1e-12)
    assert score.word_perplexity(n_words=7) == pytest.approx(math.exp(-score.logprob / 7), rel=1e-12)
    with pytest.raises(ValueError, match="n_words must be at least 1, not 0"):
        score.word_perplexity(0)
    with pytest.raises(TypeError, match=r"n_words must be an integer, at least 1, not 7\.5 \(float\)"):
        score.word_perplexity(7.5)
    with pytest.raises(ValueError, match="token ids have no words to count: pass n_words"):
        bundled.score([1, 2]).word_perplexity()
    with pytest.raises(ValueError, match="the text is only white space: pass the number of words, n_words"):
        bundled.score(" \n").word_perplexity()
    nothing = np.zeros(1, np.int64)
    unlikely = scoring.Score([1], np.array([-1000], np.float32), *[nothing] * 4)
    assert unlikely.word_perplexity(1) == math.inf


def strided_inputs(ids, longest, stride):
    done = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + longest, len(ids))
        yield ids[begin:done], ids[done:end]
        if end == len(ids):
            return
        done = end


@pytest.mark.parametrize("case", MEASURES["strided"], ids=lambda case: f"{case['longest']}-{case['stride']}")
def test_the_perplexity_of_overlapping_inputs_is_that_of_transformers(bundled, case):
    sample = (BUNDLED / "sample.txt").read_text("utf-8")
    ids = bundled.tokenizer.encode(sample, special=True)
    assert len(ids) == MEASURES["n_tokens"]
    scores = list(bundled.score(strided_inputs(ids, case["longest"], case["stride"]), bos=False))
    assert [len(score) for score in scores] == [one["judged"] for one in case["inputs"]]
    losses = [-score.logprob / len(score) for score in scores]
    np.testing.assert_allclose(losses, [one["loss"] for one in case["inputs"]], rtol=1e-5)
    counted = [len(score) - (i > 0 and case["stride"] < case["longest"]) for i, score in enumerate(scores)]
    assert counted == [one["counted"] for one in case["inputs"]]
    perplexity = math.exp(np.dot(losses, counted) / sum(counted))
    assert perplexity == pytest.approx(case["perplexity"], rel=1e-5)
    if case["stride"] < case["longest"]:  # the same inputs in one call, but for the last
        whole = bundled.score(ids, bos=False, window=case["longest"] - 1, stride=case["stride"])
        for name in ("logprobs", "contexts"):
            together = np.concatenate([getattr(score, name) for score in scores[:-1]])
            np.testing.assert_array_equal(getattr(whole, name)[: len(together)], together)
        assert len(whole) == sum(map(len, scores))


def test_without_variance_there_is_no_curvature():
    """One token is as probable as another, whatever was there."""
    model, weights = random_gpt2(tie_word_embeddings=False)
    weights["lm_head.weight"] = np.zeros_like(weights["lm_head.weight"])
    alike = GPT2(_engine.Weights(model.config, weights.__getitem__), threads=1).score([1, 2, 3])
    np.testing.assert_array_equal(alike.variances, 0)
    np.testing.assert_allclose(alike.entropies, math.log(61), rtol=1e-6)
    assert math.isnan(alike.curvature)


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_offsets_cover_the_text(text):
    model = text_model()
    score = model.score(text)
    assert len(score.offsets) == len(score)
    covered = "".join(text[i] for i in range(len(text)) if any(a <= i < b for a, b in score.offsets))
    assert covered == text
    for token, (start, end) in zip(score.token_ids, score.offsets, strict=True):
        assert model.tokenizer.token_bytes(token) in text[start:end].encode("utf-8")
    assert score.n_bytes == len(text.encode("utf-8"))


def text_model():
    global _text_model
    if _text_model is None:
        _text_model, _ = random_gpt2(0, n_vocab=4096, n_ctx=256, tokenizer=bundled_tokenizer())
    return _text_model


_text_model = None


def test_without_bos_the_first_token_is_left_out_everywhere(bundled):
    text = "Once upon a time"
    whole, rest = bundled.score(text), bundled.score(text, bos=False)
    assert rest.token_ids == whole.token_ids[1:] and rest.offsets == whole.offsets[1:]
    assert rest.n_bytes == len(" upon a time")
    assert not np.array_equal(
        rest.logprobs, whole.logprobs[1:]
    )  # the beginning of the text is not seen either


def test_bos_is_what_generation_begins_with(bundled):
    """The score of a greedy unconditional text is what the generation reported, to the bit."""
    result = bundled.generate("", max_new_tokens=30)
    score = bundled.score(result.token_ids)
    np.testing.assert_array_equal(score.logprobs, np.array(result.logprobs, np.float32))
    assert score.ranks.max() == 0


def test_token_ids_give_no_offsets_but_bytes_where_there_is_a_tokenizer(bundled):
    ids = bundled.tokenizer.encode("Once upon a time")
    by_ids, by_text = bundled.score(ids), bundled.score("Once upon a time")
    assert by_ids.offsets is None and by_ids.n_bytes == by_text.n_bytes
    np.testing.assert_array_equal(by_ids.logprobs, by_text.logprobs)
    model, _ = random_gpt2()
    score = model.score([1, 2, 3])
    assert score.n_bytes is None and score.bits_per_byte is None and "bits_per_byte" not in repr(score)


@pytest.mark.parametrize(
    ("rows", "expected_calls"),
    [
        (1, [5, 40, 2, 9, 3, 16, 2]),  # a document is never cut
        (16, [5, 40, 14, 16, 2]),
        (61, [59, 18]),
        (77, [77]),
        (2048, [77]),
    ],
)
@pytest.mark.parametrize("bos", [True, False])
def test_company_changes_no_score(monkeypatch, rows, expected_calls, bos):
    model, _ = random_gpt2(2)
    rng = np.random.default_rng(0)
    texts = [rng.integers(61, size=n + (not bos)).tolist() for n in (5, 40, 2, 9, 3, 16, 2)]
    alone = [model.score(text, bos=bos) for text in texts]
    calls = engine_calls(monkeypatch)
    monkeypatch.setattr(scoring, "ROWS_PER_CALL", rows)
    together = model.score(texts, bos=bos)
    assert [sum(rows) for rows in calls] == expected_calls
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        for name in ("logprobs", "ranks", "entropies", "variances"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_a_list_gives_a_list_and_a_text_its_score(bundled):
    assert isinstance(bundled.score(["Once"]), list)
    assert isinstance(bundled.score("Once"), scoring.Score)
    assert [len(score) for score in bundled.score(["Once", "Once upon a", [1, 2]])] == [1, 3, 2]


# ---- pairs

VALUES = ("logprobs", "ranks", "entropies", "variances", "contexts", "top_ids", "top_logprobs")


def same(one, other, first=0):
    """Whether a score is the same, to the bit, as the end of another, from token ``first`` on."""
    assert one.token_ids == other.token_ids[first:]
    for name in VALUES:
        assert getattr(one, name).tobytes() == getattr(other, name)[first:].tobytes(), name
    return True


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(_engine.DTYPES),
    st.booleans(),
    st.sampled_from((1, 20, 50, 2048)),
    st.sampled_from((0, 2**30)),
)
def test_a_continuation_has_the_scores_of_the_whole_text(data, dtype, bos, rows, cache):
    """Whatever shares its context, and whatever is computed with it."""
    model = model_of(dtype)
    ids = st.lists(st.integers(0, 60), max_size=20)
    contexts = data.draw(st.lists(ids, min_size=1, max_size=3))
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(contexts), ids.filter(bool)), min_size=1, max_size=8).filter(
            lambda pairs: bos or all(len(context) + len(rest) > 1 for context, rest in pairs)
        )
    )
    options = {"bos": bos, "top": 3, "mask": np.arange(61) % 3 == 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "ROWS_PER_CALL", rows)
        patch.setattr(batching, "ROWS_PER_CALL", rows)
        patch.setattr(batching, "CACHE_BYTES", cache)
        found = model.score(pairs, **options)
    for (context, rest), one in zip(pairs, found, strict=True):
        assert len(one) == len(rest) - (not bos and not context)
        whole, first = model.score(context + rest, **options), max(0, len(context) - (not bos))
        assert same(one, whole, first) and one.masses.tobytes() == whole.masses[first:].tobytes()


def model_of(dtype):
    if dtype not in _models:
        config = Config(n_layer=2, n_head=2, n_embd=24, n_inner=None, n_ctx=40, n_vocab=61, bos_token_id=0)
        weights = random_model(config, np.random.default_rng(5), 0.4)
        _models[dtype] = GPT2(_engine.Weights(config, weights.__getitem__, dtype=dtype), threads=1)
    return _models[dtype]


_models: dict[str, GPT2] = {}


def engine_calls(monkeypatch):
    """A list to which every call of the engine's score adds the rows of its sequences."""
    calls = []
    score = _engine.score

    def counting(weights, sequences, wanted, **settings):
        calls.append([len(ids) for _, ids in sequences])
        return score(weights, sequences, wanted, **settings)

    monkeypatch.setattr(_engine, "score", counting)
    return calls


@pytest.mark.parametrize("several", [list, iter])
def test_a_context_is_computed_once(monkeypatch, several):
    model, _ = random_gpt2()
    calls = engine_calls(monkeypatch)
    c, d = [1] * 20, [2] * 20
    pairs = [(c, [3, 4, 5]), (c, [6]), (c, [7, 8]), (d, [1]), (d, [2]), [1, 2, 3], ([], [9, 9])]
    found = list(model.score(several(pairs)))
    assert calls == [[21, 21, 3, 2], [2, 1]]  # the begin-of-text token and the context; what is left of each
    assert all(same(one, model.score([pair])[0]) for one, pair in zip(found, pairs, strict=True))
    calls.clear()
    model.score([(c, [token]) for token in range(61)])
    assert calls == [[21]]
    calls.clear()
    model.score([(c, [1, 2]), (d, [1, 2]), (c, [1, 2])])  # no neighbours
    assert calls == [[22, 22, 22]]
    calls.clear()
    model.score(
        [(c, [1, 2]), (c, [3])], words=False, stride=5, window=10
    )  # nor the whole context in a window
    assert calls == [[10, 10]]


def test_many_continuations_take_bounded_memory(monkeypatch):
    model, _ = random_gpt2()
    calls = engine_calls(monkeypatch)
    one = model.new_cache(16).nbytes  # what a continuation has besides the positions that it reads
    monkeypatch.setattr(batching, "CACHE_BYTES", 3 * one)
    pairs = [([1] * 20, [2, 3, 4])] * 8
    model.score(pairs)
    assert calls == [[21], [2] * 3, [2] * 3, [2] * 2]
    calls.clear()
    monkeypatch.setattr(scoring, "ROWS_PER_CALL", 30)
    monkeypatch.setattr(batching, "ROWS_PER_CALL", 30)
    list(model.score(iter(pairs * 4)))  # a context is computed again after 30 rows that follow it
    assert calls == [[21], *[[2] * 3] * 5] * 2 + [[21], [2] * 2]


def test_caches_of_many_short_texts_do_not_live_on(monkeypatch):
    model, _ = random_gpt2()
    made, alive, score = WeakSet(), [], _engine.score
    new_cache = type(model).new_cache

    def noted(self, *how):
        cache = new_cache(self, *how)
        made.add(cache)
        return cache

    def counting(*arguments, **how):
        alive.append(len(made))
        return score(*arguments, **how)

    monkeypatch.setattr(type(model), "new_cache", noted)
    monkeypatch.setattr(_engine, "score", counting)
    monkeypatch.setattr(batching, "CACHE_BYTES", 3 * model.new_cache(2).nbytes)
    model.score([[1, 2, 3]] * 30)
    # Three of a call, and the next, which is made to see whether it fits.
    assert len(alive) == 10 and max(alive) <= 4


def test_context_and_continuation_are_tokenised_apart(bundled):
    tokenizer = bundled.tokenizer
    context, rest = "Once upon a ti", "me there was"
    (one,) = bundled.score([(context, rest)])
    assert one.token_ids == tokenizer.encode(rest)
    assert same(
        one, bundled.score(tokenizer.encode(context) + tokenizer.encode(rest)), len(tokenizer.encode(context))
    )
    assert one.offsets == tokenizer.offsets(rest, one.token_ids) and one.n_bytes == len(rest)
    (mixed,) = bundled.score([(tokenizer.encode(context), rest)])
    assert same(mixed, one) and mixed.offsets == one.offsets
    (ids,) = bundled.score([(np.array(tokenizer.encode(context)), tuple(one.token_ids))])
    assert same(ids, one) and ids.offsets is None


@pytest.mark.parametrize(
    "two", [("a", "b"), ("a", [300, 301]), ((300,), np.array([301])), ("", "b"), ([], (300,))], ids=str
)
def test_a_tuple_of_two_texts_is_ambiguous(bundled, two):
    with pytest.raises(
        TypeError, match=r"two texts, or a context .* score\(\[a, b\]\) .* score\(\[\(a, b\)\]\)"
    ):
        bundled.score(two)
    assert len(bundled.score([two])) == 1


def test_other_tuples_of_two_are_not(bundled):
    assert [len(one) for one in bundled.score((("a", " b"), ("a", " c d")))] == [1, 2]
    assert [len(one) for one in bundled.score(("a", ("a", " c d")))] == [1, 2]
    assert len(bundled.score((300, 301))) == 2


@pytest.mark.parametrize("bos", [True, False])
def test_what_is_a_pair(bundled, bos):
    text, ids = "Once upon a time", (300, 301)
    alone = bundled.score(text, bos=bos)
    assert all(same(one, alone) for one in bundled.score([("", text), ([], text), ((), text)], bos=bos))
    assert alone.offsets == bundled.score([("", text)], bos=bos)[0].offsets
    assert len(bundled.score(ids)) == 2 and [len(s) for s in bundled.score([ids, ids])] == [2, 2]
    assert [len(s) for s in bundled.score([[300, 301], ([300], [301]), text])] == [
        2,
        1,
        len(bundled.score(text)),
    ]


def test_a_long_context_is_cut_by_the_window():
    model, _ = random_gpt2(3)
    ids = np.random.default_rng(0).integers(61, size=100).tolist()
    for n in (1, 3, 20, 60, 95):
        (one,) = model.score([(ids[:-n], ids[-n:])], stride=7)
        sequence, at = [0, *ids], 100 - n  # the row that predicts the first token of the continuation
        while at < 100:
            end = min(100, 40 if at < 40 else at + 7)
            alone = model.score(sequence[max(0, end - 40) : end + 1], bos=False)
            first = at - (100 - n)
            for name in ("logprobs", "ranks", "entropies", "variances"):
                part = getattr(one, name)[first : first + end - at]
                assert part.tobytes() == getattr(alone, name)[at - end :].tobytes()
            at = end
        assert one.contexts.min() >= min(100 - n + 1, 34)
    with pytest.raises(
        ContextLengthError,
        match="text 1 has 1 token after a context of 40, but the model has 40 positions: together at most",
    ):
        model.score([[1], ([1] * 40, [2])])


def test_greedy_means_first_choices(bundled):
    result = bundled.generate("Once upon a", max_new_tokens=8)
    context = bundled.tokenizer.encode("Once upon a")
    other = [*result.token_ids[:-1], 7]
    yes, no = bundled.score([(context, result.token_ids), (context, other)], bos=False)
    assert yes.is_greedy is True and no.is_greedy is False


# ---- iterators


def test_an_iterator_gives_an_iterator(bundled):
    texts = ["Once upon a time", ("The king", " was dead."), [300, 301], "The end."]
    expected = bundled.score(texts)
    found = bundled.score(iter(texts))
    assert iter(found) is found
    for one, other in zip(found, expected, strict=True):
        assert same(one, other) and one.offsets == other.offsets and one.n_bytes == other.n_bytes
    assert list(bundled.score(iter([]))) == []
    assert [len(score) for score in bundled.score(text for text in texts)] == list(map(len, expected))


def test_an_iterator_is_read_as_far_as_it_is_needed():
    model, _ = random_gpt2()
    taken = []

    def texts():
        for i in range(10**9):
            taken.append(i)
            yield [1] * 40

    found = model.score(texts())
    assert taken == []
    next(found)
    first = len(taken)
    assert 2 <= first <= 2048 // 40 + 1
    for _ in range(first):
        next(found)
    assert first < len(taken) <= 2 * first
    found.close()


def test_results_before_an_error_come_first():
    model, _ = random_gpt2()
    found = model.score(iter([[1, 2], [3], [4, 61], [5]]))
    assert len(next(found)) == 2 and len(next(found)) == 1
    with pytest.raises(ValueError, match="text 2 has token id 61"):
        next(found)

    def broken():
        yield [1, 2]
        raise OSError("the disk is gone")

    found = model.score(broken())
    assert len(next(found)) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    with pytest.raises(ValueError, match="stride must be from 1"):  # at once
        model.score(iter([[1]]), stride=0)


@pytest.mark.parametrize(
    ("texts", "bos", "error", "message"),
    [
        ([("a", "")], True, ValueError, "text 0 is empty"),
        ([("a", [])], True, ValueError, "text 0 has no token ids: there is nothing to score"),
        ([("", [3])], False, ValueError, "nothing can be scored; use bos=True, a context or"),
        (["a", ([3, 4096], "a")], True, ValueError, "the context of text 1 has token id 4096"),
        (
            [("a", "b", "c")],
            True,
            TypeError,
            "has two members, each a string or token ids, not ('a', 'b', 'c')",
        ),
        ([(1, "b")], True, TypeError, "text 0 must be a text or a pair (context, continuation)"),
        ("", True, ValueError, "the text is empty: there is nothing to score"),
        (["Once", ""], True, ValueError, "text 1 is empty"),
        (
            "Once",
            False,
            ValueError,
            "the text is a single token, and without bos nothing precedes it: nothing can",
        ),
        (["a b", [3]], False, ValueError, "text 1 is a single token"),
        (
            [1] * 513,
            True,
            ContextLengthError,
            "the text has 513 tokens, but the model has 512 positions: at most 512 tokens",
        ),
        (
            [1] * 514,
            False,
            ContextLengthError,
            "has 514 tokens, but the model has 512 positions: at most 513 tokens",
        ),
        ([1, 4096], True, ValueError, "token id 4096, but the vocabulary has 4096 tokens: 0 to 4095"),
        ([1, 2.5], True, TypeError, "integers only, not 2.5"),
        (5, True, TypeError, "not int"),
        ("Once", 4096, ValueError, "bos must be from 0 to 4095, a token id, or True or False, not 4096"),
        ("Once", "x", TypeError, "bos must be an integer, from 0 to 4095, a token id, or True or False"),
        ("half \ud800", True, TokenizerError, "surrogate"),
    ],
)
def test_bad_texts_are_refused(bundled, texts, bos, error, message):
    with pytest.raises(error) as caught:
        bundled.score(texts, bos=bos)
    assert message in str(caught.value)


def test_texts_may_fill_the_context(bundled):
    assert len(bundled.score([1] * 512)) == 512
    assert len(bundled.score([1] * 513, bos=False)) == 512


def test_without_any_token_for_the_beginning_bos_is_an_error():
    model, _ = random_gpt2(bos_token_id=None)
    with pytest.raises(
        ConfigError, match=r"neither a bos_token_id nor an eos_token_id.*score with bos=False"
    ):
        model.score([1, 2])
    assert len(model.score([1, 2], bos=False)) == 1
    other, _ = random_gpt2(bos_token_id=None, eos_token_ids=(4, 5))
    assert other.bos_token_id == 4


# ---- the most probable tokens, and subsets of the vocabulary


@pytest.mark.parametrize("bos", [True, False])
def test_top_and_masses_equal_the_reference(bos):
    model, weights = random_gpt2(1)
    rng = np.random.default_rng(2)
    ids, mask = rng.integers(61, size=30).tolist(), rng.random(61) < 0.2
    score = model.score(ids, bos=bos, top=5, mask=mask)
    context = np.array([0, *ids] if bos else ids)
    logp = reference.log_softmax(reference.forward(model.config, weights, context[:-1]))
    best = np.argsort(-logp, axis=1, kind="stable")[:, :5]
    assert (score.top_ids.dtype, score.top_logprobs.dtype, score.masses.dtype) == (
        np.int32,
        np.float32,
        np.float32,
    )
    np.testing.assert_array_equal(score.top_ids, best)
    np.testing.assert_allclose(score.top_logprobs, np.take_along_axis(logp, best, 1), atol=1e-4)
    np.testing.assert_allclose(score.masses, np.log(np.exp(logp[:, mask]).sum(axis=1)), atol=1e-4)
    first = score.ranks == 0
    assert np.array_equal(score.top_ids[first, 0], np.array(score.token_ids)[first])
    plain = model.score(ids, bos=bos)
    assert plain.top_ids.shape == plain.top_logprobs.shape == (len(plain), 0) and plain.masses is None
    for name in ("logprobs", "ranks", "entropies", "variances"):  # what else is wanted changes nothing
        assert getattr(plain, name).tobytes() == getattr(score, name).tobytes()


def test_the_top_is_bounded():
    model, _ = random_gpt2(0, n_vocab=5000)
    assert model.score([5, 7], top=4096).top_ids.shape == (2, 4096)
    message = r"top must be from 0 to 4096; model\.forward\(ids\) returns whole rows of logits, not 4097"
    with pytest.raises(ValueError, match=message):
        model.score([5], top=4097)


def test_a_token_id_of_any_size_is_refused():
    for token in (10**400, -(10**400), 10**5000):
        with pytest.raises(ValueError, match=r"has token id .{,80}, but the vocabulary has 61 tokens"):
            random_gpt2(0)[0].score([5, token])


def test_ids_without_text_are_not_in_the_top():
    n_text = bundled_tokenizer().n_vocab
    model, _ = random_gpt2(0, n_vocab=n_text + 100, tokenizer=bundled_tokenizer())
    score = model.score([5, 7], top=n_text, mask=np.arange(n_text + 100) >= n_text, words=True)
    assert [sorted(ids) for ids in score.top_ids.tolist()] == [list(range(n_text))] * 2
    inside = np.exp(score.top_logprobs.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(inside + np.exp(score.masses.astype(np.float64)), 1, atol=1e-5)
    with pytest.raises(ValueError, match=f"top must be from 0 to {n_text}, the size of the vocabulary, not"):
        model.score([5], top=n_text + 1)


@pytest.mark.parametrize(
    "mask", [[True] * 60, np.ones(62, bool), np.ones((1, 61), bool), np.ones(61), list(range(61))]
)
def test_a_mask_is_a_bool_for_every_id(mask):
    model, _ = random_gpt2()
    with pytest.raises(ValueError, match="mask must be an array of 61 bool, one for each token id, not "):
        model.score([1, 2], mask=mask)


def test_rows_are_ready_for_a_table(bundled):
    text = "Très petite"
    score = bundled.score(text, top=2, mask=np.arange(4096) < 100)
    rows = score.rows()
    assert len(rows) == len(score) and "".join(text[r["start"] : r["end"]] for r in rows[-2:]) in text
    for i, row in enumerate(rows):
        assert row == {
            "token_id": score.token_ids[i],
            "text": text[slice(*score.offsets[i])],
            "start": score.offsets[i][0],
            "end": score.offsets[i][1],
            "logprob": float(score.logprobs[i]),
            "surprisal": score.surprisals[i],
            "rank": score.ranks[i],
            "entropy": float(score.entropies[i]),
            "variance": float(score.variances[i]),
            "context": i + 1,
            "mass": float(score.masses[i]),
            "top_ids": score.top_ids[i].tolist(),
            "top_logprobs": score.top_logprobs[i].tolist(),
        }
    (row,) = bundled.score([5]).rows()
    assert (row["text"], row["start"], row["end"]) == (None, None, None) and "mass" not in row
    assert "top_ids" not in row and all(type(value) in (int, float, type(None)) for value in row.values())


# ---- words

PIECES = ["<|end|>", "a", "b", "ab", " a", " b", " ", "\n", "b ", "é", "\u3000c", ",", "a b"]
MIXED = PIECES.index("a b")
ENDS = [0, 4, 5, 6, 7, 10]  # those that begin with white space or end the text


def wordy(seed=0):
    """A model whose tokens are PIECES and some without text, and what follows any ids, in float64."""
    pieces = [piece.encode() for piece in PIECES]
    vocabulary = Vocabulary(
        pieces, {piece: i for i, piece in enumerate(pieces)}, [*range(len(pieces))], [], Around()
    )
    n_vocab = len(PIECES) + 3
    tokenizer = BPETokenizer(vocabulary, name="pieces", kind="pieces", n_ids=n_vocab)
    model, weights = random_gpt2(seed, n_vocab=n_vocab, tokenizer=tokenizer, eos_token_ids=(0,))

    def follows(ids):
        return reference.softmax(reference.forward(model.config, weights, np.array(ids)))[-1]

    return model, follows


def test_probabilities_of_words_add_up():
    """Words of up to three tokens, longer ones, and what is no word have all of the probability."""
    model, follows = wordy()
    before = [0, 1, 4, 2]
    at_once = follows(before)[ENDS].sum()
    inner = [1, 2, 3, 9, 11]  # without white space
    words = [
        [first, *rest]
        for first in (4, 5, 10)
        for n in range(3)
        for rest in itertools.product(inner, repeat=n)
    ]
    scores = model.score([(before[1:], ids) for ids in words], words=True)
    total = 0.0
    for ids, score in zip(words, scores, strict=True):
        (word,) = score.words()
        assert (word.first_token, word.n_tokens) == (0, len(ids))
        assert word.surprisal == pytest.approx(-word.logprob / math.log(2), rel=1e-12)
        p = math.prod(follows(before + ids[:i])[token] for i, token in enumerate(ids))
        here = follows(before + ids)
        assert word.logprob == pytest.approx(math.log(p * here[ENDS].sum() / at_once), abs=1e-4)
        goes_on = here[inner].sum() if len(ids) == 3 else 0.0
        total += math.exp(word.logprob) + p * (goes_on + here[[8, MIXED, -3, -2, -1]].sum()) / at_once
    total += follows(before)[[0, 6, 7]].sum() / at_once
    assert total == pytest.approx(1, abs=1e-4)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, MIXED - 1), max_size=8),
    st.lists(st.integers(0, MIXED - 1), min_size=1, max_size=20),
    st.booleans(),
)
def test_words_by_definition(context, ids, bos):
    """Found in the characters instead of the tokens, and multiplied in float64."""
    if not bos and not context and len(ids) == 1:
        return
    model, follows = wordy(1)
    sequence = [0] * bos + context + ids
    first = max(1, len(sequence) - len(ids))
    blank = ["       ", *PIECES[1:]]  # as if the end of a text were white space
    pieces = [blank[token] for token in sequence]
    text, ends = "".join(pieces[first:]), np.cumsum([len(piece) for piece in pieces[first:]])
    hidden = 0 if len(sequence) - first == len(ids) else len(pieces[0])  # of the text, not scored

    def gain(i):  # of the boundary before token i of the sequence
        nothing_ends = i < len(sequence) and sequence[i] not in ENDS
        if pieces[i - 1][-1].isspace() or nothing_ends:
            return 0.0
        return math.log(follows(sequence[:i])[ENDS].sum())

    expected, begin = [], 0
    for match in re.finditer(r"\S+", text):
        end = int(np.searchsorted(ends, match.end())) + 1
        tokens = range(first + begin, first + end)
        logprob = sum(math.log(follows(sequence[:i])[sequence[i]]) for i in tokens)
        logprob += gain(first + end) - gain(first + begin)
        expected.append((match[0], match.start() + hidden, match.end() + hidden, begin, end - begin, logprob))
        begin = end
    (score,) = model.score([(context, ids)], bos=bos, words=True)
    found = score.words()
    assert [(w.text, w.start, w.end, w.first_token, w.n_tokens) for w in found] == [e[:5] for e in expected]
    np.testing.assert_allclose([w.logprob for w in found], [e[5] for e in expected], atol=2e-4)


def test_words_of_tokens_with_white_space_inside():
    model, _ = wordy()
    (score,) = model.score([[1, MIXED, 2, 4, 9]], words=True)
    assert [(w.text, w.first_token, w.n_tokens) for w in score.words()] == [("aa bb", 0, 3), ("aé", 3, 2)]


def test_white_space_in_pieces_parts_no_words(bundled):
    text = "one\u2009two three"
    assert not any("\u2009" in bundled.token_bytes(i).decode("utf-8", "replace") for i in range(4096))
    assert [word.text for word in bundled.score(text, words=True).words()] == ["one\u2009two", "three"]


def test_corrections_cancel_between_words(bundled):
    text = "The king, who was old, had  three\n\ndaughters — très petites; one was “fair”."
    score = bundled.score(text, words=True)
    words = score.words()
    assert " ".join(word.text for word in words) == " ".join(text.split())
    assert all(text[word.start : word.end] == word.text for word in words)
    assert sum(word.n_tokens for word in words) == len(score)
    starts, _ = word_edges(bundled)
    (_, end) = bundled.score([text, (text, " ")], mask=starts)  # what can follow the text
    total = sum(word.logprob for word in words)
    assert total == pytest.approx(score.logprob + float(end.masses[0]), rel=1e-6)


def test_the_last_word_of_a_text_that_fills_the_window(monkeypatch):
    """What can follow is seen from a window that begins one token later."""
    model, follows = wordy()
    calls = engine_calls(monkeypatch)
    ids = np.random.default_rng(0).integers(1, 4, size=40).tolist()
    score = model.score(ids, words=True)
    (word,) = score.words()
    assert len(score) == 40 and word.n_tokens == 40
    end = math.log(follows(ids)[ENDS].sum())  # without the begin-of-text token
    assert word.logprob == pytest.approx(score.logprob + end, abs=1e-4)
    (short,) = model.score(ids[:39], words=True).words()
    assert short.logprob == pytest.approx(
        model.score(ids[:39]).logprob + math.log(follows([0, *ids[:39]])[ENDS].sum()), abs=1e-4
    )
    assert calls == [[40, 40], [40], [39]]
    long = model.score(ids * 3, stride=7, words=True)
    plain = model.score(ids * 3, stride=7)
    assert same(long, plain) and len(long.words()) == 1


def test_words_are_those_of_minicons(bundled):
    """Golden: minicons takes the tokens that begin with a space for those that begin words."""
    golden = json.loads((Path(__file__).parent / "data" / "golden" / "word_scores.json").read_text("utf-8"))
    model = GPT2.from_pretrained(threads=1)
    space = [model.token_bytes(token).startswith(b" ") for token in range(4096)]
    vocabulary._known[model] = np.array(space), word_edges(bundled)[1]
    for case in golden["texts"]:
        words = model.score(case["text"], words=True).words()
        assert [word.text for word in words] == [text for text, _ in case["words"]]
        np.testing.assert_allclose(
            [word.logprob for word in words], [logprob for _, logprob in case["words"]], atol=1e-4
        )


def test_where_words_cannot_be_told(bundled):
    with pytest.raises(ValueError, match="the text was scored without words: pass words=True"):
        bundled.score("Once upon").words()
    with pytest.raises(TypeError, match="words must be True or False, not 1"):
        bundled.score("Once upon", words=1)
    model, _ = random_gpt2()
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        model.score([1, 2], words=True)

    class Letters:
        """Writes a space between an a and a b."""

        n_vocab, pieces = 3, ("a", "b", "  ")

        def encode(self, text):
            return [1] * len(text)

        def decode(self, ids):
            return "".join(self.pieces[token] for token in ids).replace("ab", "a b")

    model, _ = random_gpt2(n_vocab=3, tokenizer=as_tokenizer(Letters(), n_vocab=3))
    with pytest.raises(TokenizerError, match="does not show which of its tokens start with white space"):
        model.score([0, 1], words=True)
    Letters.pieces = ("a", "b", "c")
    model, _ = random_gpt2(n_vocab=3, tokenizer=as_tokenizer(Letters(), n_vocab=3))
    with pytest.raises(TokenizerError, match=r"no token of .*Letters starts or ends a word"):
        model.score([0, 1], words=True)


# ---- suggestions


@pytest.mark.parametrize("k", [1, 5, 61])
def test_suggestions_equal_the_reference(k):
    model, weights = random_gpt2(1)
    p = reference.softmax(reference.forward(model.config, weights, np.array([3, 1, 4]))[-1])
    suggestions = model.suggest([3, 1, 4], k)
    assert [s.token_id for s in suggestions] == np.argsort(-p, kind="stable")[:k].tolist()
    np.testing.assert_allclose([s.probability for s in suggestions], np.sort(p)[::-1][:k], rtol=1e-4)
    if k == 61:
        assert sum(s.probability for s in suggestions) == pytest.approx(1, abs=1e-12)


def test_of_equal_tokens_the_lowest_id_is_suggested():
    config = Config(n_layer=1, n_head=1, n_embd=4, n_inner=4, n_ctx=8, n_vocab=100, tie_word_embeddings=False)
    weights = random_model(config, np.random.default_rng(0))
    weights["lm_head.weight"] = np.zeros(tensor_shapes(config)["lm_head.weight"], np.float32)
    model = GPT2(_engine.Weights(config, weights.__getitem__), threads=1)
    suggestions = model.suggest([1], k=7)
    assert [s.token_id for s in suggestions] == list(range(7))
    assert all(s.probability == pytest.approx(0.01, rel=1e-12) for s in suggestions)


def test_suggestions_carry_text_and_bytes(bundled):
    first = bundled.suggest("Once upon a", k=1)[0]
    assert isinstance(first, Suggestion)
    assert (first.text, first.bytes) == (" time", b" time") and first.probability > 0.5
    model, _ = random_gpt2()
    assert model.suggest([1], k=1)[0][0] == "" and model.suggest([1], k=1)[0].bytes == b""


def test_several_prompts_give_several_lists(bundled):
    lists = bundled.suggest(["Once upon a", "The", ""], k=3)
    assert lists == [
        bundled.suggest("Once upon a", k=3),
        bundled.suggest("The", k=3),
        bundled.suggest("", k=3),
    ]


def test_ids_without_text_are_not_suggested():
    n_text = bundled_tokenizer().n_vocab
    model, _ = random_gpt2(0, n_vocab=n_text + 100, tokenizer=bundled_tokenizer())
    assert {s.token_id for s in model.suggest([1], k=n_text)} == set(range(n_text))
    with pytest.raises(
        ValueError, match=f"k must be from 1 to {n_text}, the size of the vocabulary, not {n_text + 1}"
    ):
        model.suggest([1], k=n_text + 1)


@pytest.mark.parametrize(
    ("k", "error"),
    [(0, ValueError), (-1, ValueError), (5000, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_bad_k(bundled, k, error):
    with pytest.raises(error, match=r"k must be .*from 1 to 4096"):
        bundled.suggest("a", k=k)


def test_a_prompt_of_the_whole_context_still_has_a_next_token(bundled):
    assert len(bundled.suggest([1] * 512)) == 5
    with pytest.raises(
        ContextLengthError, match="the prompt has 513 tokens, but the model has 512 positions"
    ):
        bundled.suggest([1] * 513)
    with pytest.raises(ContextLengthError, match="prompt 1 has 513 tokens"):
        bundled.suggest([[1], [1] * 513])


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize(("window", "stride"), [(10, 10), (10, 1), (10, 3), (7, 5), (40, 40), (None, 20)])
@pytest.mark.parametrize("n", [1, 9, 10, 11, 12, 39, 40, 41, 150])
def test_long_texts_in_windows(window, stride, n, bos):
    """Every token once, with the numbers of its window alone."""
    model, _ = random_gpt2(3)
    ids = np.random.default_rng(n).integers(61, size=n + (not bos)).tolist()
    size = window or model.config.n_ctx
    sequence = [model.bos_token_id, *ids] if bos else ids
    found = model.score(ids, bos=bos, window=window, stride=stride)
    assert found.token_ids == sequence[1:] and len(found) == n
    at = 0  # tokens scored
    while at < n:
        new = min(n - at, stride if at else size)
        begin = max(0, at + new - size)
        alone = model.score(sequence[begin : at + new + 1], bos=False)
        for name in ("logprobs", "ranks", "entropies", "variances"):
            part = getattr(found, name)[at : at + new]
            assert part.tobytes() == getattr(alone, name)[-new:].tobytes(), (name, at)
        assert found.contexts[at : at + new].tolist() == [at + i + 1 - begin for i in range(new)]
        at += new
    beyond = found.contexts[size:]
    assert np.all(beyond >= size - stride + 1) and np.all(found.contexts <= size)


def by_hand(model, sequence, first, start, *, window, stride, **options):
    """Scores of the tokens of a sequence from the first on: each window a pair, which start begins."""
    scores, done = [], first
    while done < len(sequence):
        end = min(len(sequence), window + 1 if done <= window else done + stride)
        begin = max(0, end - 1 - window)
        before = [*start, *sequence[begin + len(start) : done]] if begin else sequence[:done]
        scores.append(model.score([(before, sequence[done:end])], bos=False, **options)[0])
        assert len(before) + end - done <= window + 1
        done = end
    return scores


def joined(scores, name):
    return np.concatenate([getattr(score, name) for score in scores]).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("window", "stride"), [(10, 10), (10, 1), (10, 3), (7, 5), (1, 1), (40, 40), (40, 20)]
)
@pytest.mark.parametrize("n", [1, 10, 11, 40, 41, 95])
@pytest.mark.parametrize("bos", [True, 7])
def test_what_begins_a_text_before_every_window(window, stride, n, bos, dtype):
    model = model_of(dtype)
    start = [model.bos_token_id if bos is True else bos]
    ids = np.random.default_rng(n).integers(61, size=n).tolist()
    for n_context in (0, 1, 13):
        context, options = ids[:n_context], {"window": window, "stride": stride}
        expected = by_hand(model, start + context + ids, 1 + len(context), start, **options, top=2)
        pairs = [(context, ids)] * 2
        for found in model.score(pairs, bos=bos, repeat_bos=True, top=2, **options):
            assert found.token_ids == ids
            for name in VALUES:
                assert getattr(found, name).tobytes() == joined(expected, name), (name, n_context)
            assert found.contexts.max() <= window
            beyond = max(0, window - len(context))
            assert np.all(found.contexts[beyond:] >= window - stride + 1)
    least = model.score(ids, bos=bos, repeat_bos=True, window=window, min_context=window - stride + 1)
    assert same(least, model.score(ids, bos=bos, repeat_bos=True, window=window, stride=stride))


def test_several_tokens_that_begin_a_text_before_every_window(monkeypatch):
    model, _ = wordy()
    monkeypatch.setattr(model.tokenizer, "prefix", (0, 14, 0))
    ids = np.random.default_rng(0).integers(1, 12, size=50).tolist()
    for window, stride in ((10, 8), (10, 3), (3, 1), (40, 38)):
        expected = by_hand(model, [0, 14, 0, *ids], 3, [0, 14, 0], window=window, stride=stride)
        found = model.score(ids, repeat_bos=True, window=window, stride=stride)
        assert all(getattr(found, name).tobytes() == joined(expected, name) for name in VALUES[:5])
        text = "".join(PIECES[token] for token in ids)
        with_words = model.score(ids, repeat_bos=True, window=window, stride=stride, words=True)
        assert same(with_words, found)
        assert "".join(word.text for word in with_words.words()) == "".join(text.split())
    with pytest.raises(
        ValueError, match="stride must be from 1 to 8, the window and one more, less the 3 tok"
    ):
        model.score(ids, repeat_bos=True, window=10, stride=9)
    with pytest.raises(ValueError, match="window must be from 3 to 40"):
        model.score(ids, repeat_bos=True, window=2, stride=1)
    with pytest.raises(ValueError, match="min_context must be from 3 to 40"):
        model.score(ids, repeat_bos=True, min_context=2)


def test_words_in_windows_that_begin_as_a_text_does():
    """The corrections are those of the windows, too: computed by definition from the last row of each."""
    model, follows = wordy(2)
    ids = [1, 4, 2, 5, 1, 3, 4, 9, 1, 5, 5, 2, 1, 4, 1, 2]
    score = model.score(ids, repeat_bos=True, window=6, stride=2, words=True)
    last = score.words()[-1]
    assert last.n_tokens == 3 and last.first_token == 13
    behind, before = follows([0, *ids[-5:]]), follows([0, *ids[8:13]])
    tokens = score.logprobs[13:].sum(dtype=float)
    expected = tokens + math.log(behind[ENDS].sum()) - math.log(before[ENDS].sum())
    assert last.logprob == pytest.approx(expected, abs=1e-4)


def test_edits_in_windows_that_begin_as_a_text_does():
    model, _ = random_gpt2(3)
    ids = np.random.default_rng(0).integers(1, 61, size=60).tolist()
    edits = [("blocks.0.hook_resid_post", lambda x, where: x * np.float32(1.5))]
    expected = by_hand(model, [0, *ids], 1, [0], window=12, stride=5, edits=edits)
    found = model.score(ids, repeat_bos=True, window=12, stride=5, edits=edits)
    assert all(getattr(found, name).tobytes() == joined(expected, name) for name in VALUES[:5])
    plain = model.score(ids, repeat_bos=True, window=12, stride=5)
    assert not np.array_equal(plain.logprobs, found.logprobs)


def test_what_is_written_out_begins_every_window(bundled):
    story = "Once upon a time there was a king who had three daughters, and the youngest was fair."
    written = bundled.score("<|endoftext|>" + story, special=True, repeat_bos=True, window=8, stride=4)
    assert same(written, bundled.score(story, repeat_bos=True, window=8, stride=4))
    once = bundled.score(story, window=8, stride=4)
    assert same(once, bundled.score(story, repeat_bos=False, window=8, stride=4))
    assert not np.array_equal(once.logprobs, written.logprobs)
    with pytest.raises(
        ValueError,
        match="repeat_bos=True repeats the start token, but bos=False has none: use bos=True or bos=ID",
    ):
        bundled.score(story, bos=False, repeat_bos=True)
    with pytest.raises(TypeError, match="repeat_bos must be True or False, not 1"):
        bundled.score(story, repeat_bos=1)


def test_windows_of_several_texts():
    model, _ = random_gpt2(3)
    rng = np.random.default_rng(0)
    texts = [rng.integers(61, size=n).tolist() for n in (70, 3, 200, 40, 1)]
    together = model.score(texts, stride=17)
    for ids, found in zip(texts, together, strict=True):
        alone = model.score(ids, stride=17)
        for name in ("logprobs", "ranks", "entropies", "variances", "contexts"):
            assert getattr(found, name).tobytes() == getattr(alone, name).tobytes()


@pytest.mark.parametrize("n", [1, 25, 40])
def test_min_context_is_another_way_to_say_stride(n):
    model, _ = random_gpt2(3)
    ids = np.random.default_rng(0).integers(61, size=200).tolist()
    found = model.score(ids, min_context=n)
    assert same(found, model.score(ids, stride=41 - n))
    assert found.contexts[40:].min() == n


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be from 1 to 40, the model's positions, not 0"),
        ({"stride": 41}, "stride must be from 1 to 40, the model's positions, not 41"),
        ({"stride": 9, "window": 8}, "stride must be from 1 to 8, the window, not 9"),
        ({"window": 41}, "window must be from 1 to 40, the model's positions, not 41"),
        ({"window": 0}, "window must be from 1"),
        ({"min_context": 0}, "min_context must be from 1 to 40, the window, not 0"),
        ({"min_context": 9, "window": 8}, "min_context must be from 1 to 8, the window, not 9"),
        ({"min_context": 9, "stride": 9}, "give one of them"),
    ],
)
def test_wrong_windows(options, message):
    model, _ = random_gpt2(3)
    with pytest.raises(ValueError, match=message):
        model.score([1, 2], **options)
    with pytest.raises(ContextLengthError, match="give a stride, or split the text"):
        model.score([1] * 100)
    with pytest.raises(ContextLengthError, match="the window is 8: at most 8 tokens"):
        model.score([1] * 9, window=8)


# ---- columns of tables


class Column(Sequence):
    """A column as of datasets: a sequence of another class."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


def columns_of(values):
    yield Column(values)
    yield np.array(values, object)
    with contextlib.suppress(ImportError):
        import pyarrow as pa

        yield from (pa.array(values), pa.chunked_array([values[:1], values[1:]]))
    with contextlib.suppress(ImportError):
        import pandas as pd

        yield pd.Series(values, index=range(5, 5 + len(values)))


def test_columns_of_tables(bundled):
    texts = ["The king", "Once upon a time", "a"]
    expected = [score.logprob for score in bundled.score(texts)]
    one = bundled.score(texts[0]).logprob
    ids = bundled.tokenizer.encode("Once upon a time")
    written = [found.text for found in bundled.generate(texts, max_new_tokens=3)]
    for column in columns_of(texts):
        assert [score.logprob for score in bundled.score(column)] == expected
        assert [found.text for found in bundled.generate(column, max_new_tokens=3)] == written
    assert [s.logprob for s in bundled.score(np.array(texts))] == expected
    for column in columns_of(["The king", None]):
        with pytest.raises(TypeError, match="text 1 must be a string or token ids"):
            bundled.score(column)
    for column in columns_of(["The king"]):
        assert [score.logprob for score in bundled.score(column)] == [one]
    for column in (Column([]), np.array([], object)):
        assert bundled.score(column) == []
        with pytest.raises(ValueError, match="the column is empty"):
            bundled.generate(column)
    for column in columns_of(ids):
        assert bundled.score(column).token_ids == ids, "integers are the token ids of one text"
