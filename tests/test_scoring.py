"""Scores and suggestions against the reference, and the numbers made from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import random_model, tensor_shapes
from toys import bundled_tokenizer, random_gpt2

from gpt2c import (
    GPT2,
    Config,
    ConfigError,
    ContextLengthError,
    Suggestion,
    TokenizerError,
    _engine,
    reference,
    scoring,
)


@pytest.fixture(scope="module")
def bundled():
    return GPT2.from_pretrained(threads=1)


def expected_score(model, weights, ids, bos):
    context = [model.bos_token_id, *ids] if bos else list(ids)
    logits = reference.forward(model.config, weights, np.array(context[:-1]))
    logp = reference.log_softmax(logits)
    rows = np.arange(len(context) - 1)
    targets = np.array(context[1:])
    ranks = (logits > logits[rows, targets][:, None]).sum(axis=1)
    return logp[rows, targets], ranks, -(np.exp(logp) * logp).sum(axis=1)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("n", [1, 2, 15, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_the_reference(seed, n, bos):
    model, weights = random_gpt2(seed)
    ids = np.random.default_rng(seed).integers(61, size=n + (not bos)).tolist()
    score = model.score(ids, bos=bos)
    logprobs, ranks, entropies = expected_score(model, weights, ids, bos)
    assert len(score) == n and score.token_ids == (ids if bos else ids[1:])
    assert (score.logprobs.dtype, score.ranks.dtype, score.entropies.dtype) == (
        np.float32,
        np.int64,
        np.float32,
    )
    np.testing.assert_allclose(score.logprobs, logprobs, atol=1e-4)
    np.testing.assert_array_equal(score.ranks, ranks)
    np.testing.assert_allclose(score.entropies, entropies, atol=1e-4)


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
    assert scoring.Score([1], np.array([-1000], np.float32), nothing, nothing, nothing).perplexity == math.inf


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
    calls = []
    score = _engine.score

    def counting(weights, sequences, targets, **settings):
        calls.append(sum(len(ids) for _, ids in sequences))
        return score(weights, sequences, targets, **settings)

    monkeypatch.setattr(_engine, "score", counting)
    monkeypatch.setattr(scoring, "ROWS_PER_CALL", rows)
    together = model.score(texts, bos=bos)
    assert calls == expected_calls
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        for name in ("logprobs", "ranks", "entropies"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_a_list_gives_a_list_and_a_text_its_score(bundled):
    assert isinstance(bundled.score(["Once"]), list)
    assert isinstance(bundled.score("Once"), scoring.Score)
    assert [len(score) for score in bundled.score(["Once", "Once upon a", [1, 2]])] == [1, 3, 2]


# ---- pairs

VALUES = ("logprobs", "ranks", "entropies", "contexts")


def same(one, other, first=0):
    """Whether a score is the same, to the bit, as the end of another, from token ``first`` on."""
    assert one.token_ids == other.token_ids[first:]
    for name in VALUES:
        assert getattr(one, name).tobytes() == getattr(other, name)[first:].tobytes(), name
    return True


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(_engine.DTYPES), st.booleans(), st.sampled_from((1, 20, 50, 2048)))
def test_a_continuation_has_the_scores_of_the_whole_text(data, dtype, bos, rows):
    """Whatever shares its context, and whatever is computed with it."""
    model = model_of(dtype)
    ids = st.lists(st.integers(0, 60), max_size=20)
    contexts = data.draw(st.lists(ids, min_size=1, max_size=3))
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(contexts), ids.filter(bool)), min_size=1, max_size=8).filter(
            lambda pairs: bos or all(len(context) + len(rest) > 1 for context, rest in pairs)
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "ROWS_PER_CALL", rows)
        found = model.score(pairs, bos=bos)
    for (context, rest), one in zip(pairs, found, strict=True):
        assert len(one) == len(rest) - (not bos and not context)
        assert same(one, model.score(context + rest, bos=bos), max(0, len(context) - (not bos)))


def model_of(dtype):
    if dtype not in _models:
        config = Config(n_layer=2, n_head=2, n_embd=24, n_inner=None, n_ctx=40, n_vocab=61, bos_token_id=0)
        weights = random_model(config, np.random.default_rng(5), 0.4)
        _models[dtype] = GPT2(_engine.Weights(config, weights.__getitem__, dtype=dtype), threads=1)
    return _models[dtype]


_models: dict[str, GPT2] = {}


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


@pytest.mark.parametrize("bos", [True, False])
def test_what_is_a_pair(bundled, bos):
    text, ids = "Once upon a time", (300, 301)
    alone = bundled.score(text, bos=bos)
    assert all(same(one, alone) for one in bundled.score([("", text), ([], text), ((), text)], bos=bos))
    assert alone.offsets == bundled.score([("", text)], bos=bos)[0].offsets
    assert len(bundled.score((text, text))) == 2  # two texts
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
            for name in ("logprobs", "ranks", "entropies"):
                part = getattr(one, name)[first : first + end - at]
                assert part.tobytes() == getattr(alone, name)[at - end :].tobytes()
            at = end
        assert one.contexts.min() >= min(100 - n + 1, 34)
    with pytest.raises(
        ContextLengthError,
        match="text 1 has 1 tokens after a context of 40, but the model has 40 positions: together at most",
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
        ([("a", [])], True, ValueError, "text 0 is empty"),
        ([("", [3])], False, ValueError, "nothing can be scored; use bos=True, a context or"),
        (["a", ([3, 4096], "a")], True, ValueError, "the context of text 1 has token id 4096"),
        ([("a", "b", "c")], True, TypeError, "text 0 must hold integers only; got 'a'"),
        ([(1, "b")], True, TypeError, "text 0 must hold integers only; got 'b'"),
        ("", True, ValueError, "the text is empty: there is nothing to score"),
        (["Once", ""], True, ValueError, "text 1 is empty"),
        ([], True, ValueError, "empty list"),
        ("Once", False, ValueError, "the text is a single token, and without bos nothing stands before it"),
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
        ([1, 2.5], True, TypeError, "integers only; got 2.5"),
        (5, True, TypeError, "got int"),
        ("Once", 1, TypeError, "bos must be True or False; got 1"),
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
        ValueError, match=f"k must be from 1 to {n_text}, the size of the vocabulary; got {n_text + 1}"
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
        for name in ("logprobs", "ranks", "entropies"):
            part = getattr(found, name)[at : at + new]
            assert part.tobytes() == getattr(alone, name)[-new:].tobytes(), (name, at)
        assert found.contexts[at : at + new].tolist() == [at + i + 1 - begin for i in range(new)]
        at += new
    beyond = found.contexts[size:]
    assert np.all(beyond >= size - stride + 1) and np.all(found.contexts <= size)


def test_windows_of_several_texts():
    model, _ = random_gpt2(3)
    rng = np.random.default_rng(0)
    texts = [rng.integers(61, size=n).tolist() for n in (70, 3, 200, 40, 1)]
    together = model.score(texts, stride=17)
    for ids, found in zip(texts, together, strict=True):
        alone = model.score(ids, stride=17)
        for name in ("logprobs", "ranks", "entropies", "contexts"):
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
        ({"stride": 0}, "stride must be from 1 to 40, the window; got 0"),
        ({"stride": 41}, "stride must be from 1 to 40, the window; got 41"),
        ({"stride": 9, "window": 8}, "stride must be from 1 to 8, the window; got 9"),
        ({"window": 41}, "window must be from 1 to 40, the model's positions; got 41"),
        ({"window": 0}, "window must be from 1"),
        ({"min_context": 0}, "min_context must be from 1 to 40, the window; got 0"),
        ({"min_context": 9, "window": 8}, "min_context must be from 1 to 8, the window; got 9"),
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
