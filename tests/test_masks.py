"""Masks that are filled, and texts scored by masking their tokens in turn: transformers' answers."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from data.bert import faces
from helpers.berts import loader, random_bert
from helpers.toys import same
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import BERT, ConfigError, ContextLengthError, TokenizerError, reference_bert
from gpt2c.core import _engine
from gpt2c.tokenizer.base import Tokenizer

TOLD = json.loads(faces.RECORDED.read_text())
MASKED = [name for name, (_, head, *_) in faces.FACES.items() if head == "ForMaskedLM"]
MASK = 60


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    return loader(tmp_path_factory.mktemp("faces"))


class Numbers(Tokenizer):
    """A token is a number, written with a space before it; 60 is the mask, 50 to 59 go on with a word."""

    name, kind, n_vocab, mask_id = "numbers", "numbers", 61, MASK
    special_tokens = {"60": MASK}  # noqa: RUF012

    def encode(self, text, special=False, *, continued=False):
        return [int(word) for word in text.split() if special or word != "60"]

    def token_bytes(self, token_id):
        return f" {token_id}".encode()

    def begins_word(self, token_id):
        return not 50 <= token_id < 60


def masked_bert(**how):
    return random_bert(tokenizer=Numbers(), **how)


def log_softmax(logits):
    exact = logits.astype(np.float64)
    top = exact.max(axis=-1, keepdims=True)
    return exact - top - np.log(np.exp(exact - top).sum(axis=-1, keepdims=True))


# ---- what transformers says


@pytest.mark.parametrize("name", MASKED)
def test_each_mask_alone(load, name):
    model = load(name)
    texts = [faces.masked(name, text) for text in faces.FILLED]
    for text, expected, found in zip(texts, TOLD[name]["fill"], model.fill(texts), strict=True):
        assert len(found.masks) == len(expected) and len(found) == 5 and not found.truncated
        for mine, theirs in zip(found.masks, expected, strict=True):
            assert [one.token_id for one in mine] == [token for token, *_ in theirs]
            assert np.allclose([one.probability for one in mine], [p for _, p, *_ in theirs], rtol=2e-5)
        if len(expected) == 1:  # else transformers leaves special tokens in the text
            assert [one.tokens[0].token_id for one in found] == [token for token, *_ in expected[0]]
            assert [one.probability for one in found] == [one.probability for one in found.masks[0]]
            if name == "bert":
                assert [one.tokens[0].text for one in found] == [text for _, _, text, _ in expected[0]]
        assert model.fill(text) == found and model.fill(text).masks == found.masks


def test_the_text_is_that_of_the_tokenizer(load):
    said = [text for *_, text in TOLD["bert"]["fill"][0][0]]
    found = [one.text for one in load("bert").fill(faces.masked("bert", faces.FILLED[0]))]
    # transformers leaves special tokens out, such as the [PAD] that is found here.
    assert (
        found[:4]
        == said[:4]
        == ["thes had a son.", "the and had a son.", "the so had a son.", "the v had a son."]
    )
    assert found[4] == "the [PAD] had a son."


@pytest.mark.parametrize("name", MASKED)
def test_pseudo_log_likelihood(load, name):
    model = load(name)
    scores = model.score(list(faces.TEXTS))
    for text, expected, found in zip(faces.TEXTS, TOLD[name]["score"], scores, strict=True):
        assert np.allclose(found.logprobs, expected, rtol=0, atol=5e-5)
        assert math.isclose(found.logprob, sum(expected), rel_tol=1e-5)
        assert math.isclose(found.perplexity, math.exp(-sum(expected) / len(expected)), rel_tol=1e-5)
        assert found.text == text and found.n_chars == len(text)
        assert found.n_bytes == len(text.encode())
        assert found.offsets[0][0] == 0 and found.offsets[-1][1] == len(text)
        n_around = len(model.tokenizer.prefix) + len(model.tokenizer.suffix)
        assert found.contexts.tolist() == [len(expected) + n_around - 1] * len(expected)


# ---- fillings


def brute(model, weights, ids, width, k):
    """The search in words: what the reference says, every text its own order."""
    ways = [(0.0, list(ids), [i for i, token in enumerate(ids) if token == MASK])]
    while ways[0][2]:
        new = {}
        for logprob, text, left in ways:
            logits = reference_bert.forward(model.config, weights, np.array(text), None)
            said = {place: log_softmax(logits[place]) for place in left}
            place = max(left, key=lambda place: (said[place].max(), -place))
            for token in np.argsort(-said[place], kind="stable")[:width].tolist():
                filled = [token if i == place else other for i, other in enumerate(text)]
                key = tuple(filled), tuple(other for other in left if other != place)
                assert key not in new
                new[key] = logprob + said[place][token]
        ranked = sorted(new.items(), key=lambda item: -item[1])[:width]
        ways = [(logprob, list(text), list(left)) for (text, left), logprob in ranked]
    return [(text, math.exp(logprob)) for logprob, text, _ in ways[:k]]


@settings(max_examples=40)
@given(
    length=st.integers(1, 12),
    n_masks=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 6),
    num_beams=st.integers(1, 6),
)
def test_several_masks_together(length, n_masks, seed, k, num_beams):
    model, weights = masked_bert()
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, MASK, length)
    places = sorted(draw.choice(length, min(n_masks, length), replace=False).tolist())
    ids[places] = MASK
    found = model.fill(ids, k, num_beams=num_beams)
    expected = brute(model, weights, ids.tolist(), max(k, num_beams), k)
    assert [[one.token_id for one in way.tokens] for way in found] == [
        [text[place] for place in places] for text, _ in expected
    ]
    assert np.allclose([way.probability for way in found], [p for _, p in expected], rtol=1e-3)
    for way in found:
        assert math.isclose(way.probability, math.prod(one.probability for one in way.tokens), rel_tol=1e-9)
        filled = ids.copy()
        filled[places] = [one.token_id for one in way.tokens]
        assert way.text == "".join(f" {token}" for token in filled)
    # One search is the beginning of another of the same width.
    assert model.fill(ids, 1, num_beams=max(k, num_beams)) == found[:1]
    assert len(found.masks) == len(places) and all(len(each) == k for each in found.masks)


@settings(max_examples=20)
@given(
    texts=st.lists(st.lists(st.integers(0, 59), max_size=30), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(_engine.DTYPES),
    threads=st.integers(1, 4),
)
def test_fillings_are_the_same_in_any_company(texts, seed, dtype, threads):
    model, _ = masked_bert(dtype=dtype, threads=threads)
    draw = np.random.default_rng(seed)
    for text in texts:
        for _ in range(draw.integers(1, 4)):
            text.insert(draw.integers(0, len(text) + 1), MASK)
    together = model.fill(texts, 3)
    model.threads = 1
    for text, found in zip(texts, together, strict=True):
        alone = model.fill(text, 3)
        assert alone == found and alone.masks == found.masks


def test_one_mask_is_exact():
    model, weights = masked_bert()
    ids = [3, MASK, 5, 9]
    found = model.fill(ids, 61)
    exact = log_softmax(model.forward(ids)[1])
    assert [one.tokens[0].token_id for one in found] == np.argsort(-exact, kind="stable").tolist()
    assert np.allclose([one.probability for one in found], np.exp(np.sort(exact)[::-1]), rtol=1e-6)
    assert math.isclose(sum(one.probability for one in found), 1, rel_tol=1e-6)
    reference = reference_bert.forward(model.config, weights, np.array(ids), None)
    assert np.allclose(exact, log_softmax(reference)[1], rtol=0, atol=1e-4)


def test_targets():
    model, _ = masked_bert()
    everything = {one.tokens[0].token_id: one for one in model.fill("3 60 5", 61)}
    found = model.fill("3 60 5", targets=["7", 12, "7", 40])
    assert sorted(one.tokens[0].token_id for one in found) == [7, 12, 40]
    for one in found:
        assert math.isclose(one.probability, everything[one.tokens[0].token_id].probability, rel_tol=1e-6)
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)
    assert len(model.fill("60 60", targets=[1, 2], k=9)) == 4
    assert len(model.fill("60 60", targets=[1, 2], k=3).masks[0]) == 2
    assert model.fill("3 60 5", targets=np.array([7, 40])) == [
        one for one in found if one.tokens[0].token_id != 12
    ]
    for each, whole in zip(
        model.fill("4 60 60", targets=[9, 2, 30]).masks, model.fill("4 60 60", 61).masks, strict=True
    ):
        known = {one.token_id: one.probability for one in whole}
        assert sorted(one.token_id for one in each) == [2, 9, 30]
        assert all(math.isclose(one.probability, known[one.token_id], rel_tol=1e-6) for one in each)
    with pytest.raises(
        ValueError, match="the target '7 8' has 2 tokens, but a mask is one token: give words that"
    ):
        model.fill("60", targets=["7 8"])
    with pytest.raises(ValueError, match="the target '' has 0 tokens"):
        model.fill("60", targets=[""])
    with pytest.raises(ValueError, match="token id 61"):
        model.fill("60", targets=[61])
    for wrong in ("7", [], 3, None.__class__):
        with pytest.raises(TypeError, match="targets must be a list of at least one word or token id"):
            model.fill("60", targets=wrong)


def test_a_mask_may_be_filled_with_a_mask():
    """What is left is known by its place, not by its token."""
    model, _ = masked_bert()
    found = model.fill("60 60", 9, targets=[MASK, 3])
    assert sorted(tuple(one.token_id for one in way.tokens) for way in found) == sorted(
        itertools.product([3, MASK], repeat=2)
    )


def test_wrong_fillings(load):
    model, _ = masked_bert()
    with pytest.raises(ValueError, match=r"text 1 has no mask: put '60' where a token is to be predicted"):
        model.fill(["60", "1 2"])
    with pytest.raises(ValueError, match=r"the text has no mask in its first 2 tokens: put"):
        model.fill("1 2 60", max_tokens=2)
    assert model.fill("60 2 1", max_tokens=2).truncated
    with pytest.raises(TypeError, match="fill takes texts, not pairs of texts:"):
        model.fill([("60", "1")])
    for k in (0, 62):
        with pytest.raises(ValueError, match=f"k must be from 1 to 61, not {k}"):
            model.fill("60", k)
    with pytest.raises(ValueError, match="num_beams must be from 1 to 1024, not 0"):
        model.fill("60", num_beams=0)
    with pytest.raises(ContextLengthError, match="has 161 tokens"):
        model.fill([MASK] * 161)
    with pytest.raises(TypeError, match="fill has no option top_k: k is the number of ways to fill"):
        model.fill("60", top_k=3)
    with pytest.raises(gpt2c.DeadlineError):
        model.fill("60", deadline=1e-9)
    bare, _ = random_bert()
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        bare.fill([MASK])
    no_mask = SimpleNamespace(encode=lambda text: [3], decode=lambda ids: "x")
    with pytest.raises(TokenizerError, match=r"has no mask token that the model knows, such as \[MASK\]"):
        random_bert(tokenizer=gpt2c.as_tokenizer(no_mask))[0].fill([3])
    headless, _ = masked_bert(masked_head=False)
    with pytest.raises(ConfigError, match="has no head that predicts tokens"):
        headless.fill("60")
    assert model.fill([]) == []


def test_logits_that_are_not_finite():
    model, weights = masked_bert()
    weights["wte.weight"] *= 1e38
    broken = BERT(_engine.Weights(model.config, weights.__getitem__), Numbers(), threads=1)
    with pytest.raises(ValueError, match="the logits of a mask hold NaN or infinities"):
        broken.fill("60 1")


# ---- scores


@settings(max_examples=20)
@given(
    texts=st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=30), min_size=1, max_size=6),
    dtype=st.sampled_from(_engine.DTYPES),
    threads=st.integers(1, 4),
    within_word=st.booleans(),
)
def test_scores_are_exact_and_the_same_in_any_company(texts, dtype, threads, within_word):
    model, _ = masked_bert(dtype=dtype, threads=threads)
    together = model.score(texts, within_word=within_word, top=2)
    lazily = list(model.score(iter(texts), within_word=within_word, top=2))
    model.threads = 1
    for text, one, other in zip(texts, together, lazily, strict=True):
        alone = model.score(text, within_word=within_word, top=2)
        for name in ("logprobs", "ranks", "entropies", "variances", "contexts", "top_ids", "top_logprobs"):
            assert same(getattr(one, name), getattr(alone, name)), name
            assert same(getattr(other, name), getattr(alone, name)), name
        for i, token in enumerate(text):
            masked = list(text)
            masked[i] = MASK
            for j in range(i + 1, len(text)):
                if not within_word or not 50 <= text[j] < 60:
                    break
                masked[j] = MASK
            exact = log_softmax(model.forward(masked)[i])
            assert math.isclose(one.logprobs[i], exact[token], rel_tol=1e-5, abs_tol=1e-6)
            assert one.ranks[i] == np.count_nonzero(exact > exact[token])
            assert one.top_ids[i].tolist() == np.argsort(-exact, kind="stable")[:2].tolist()
            assert one.contexts[i] == len(text) - masked.count(MASK)
            p = np.exp(exact)
            assert math.isclose(one.entropies[i], -(p * exact).sum(), rel_tol=1e-4)


def test_a_text_that_takes_several_calls():
    model, _ = masked_bert()
    text = np.random.default_rng(4).integers(0, 60, 150).tolist()  # 22,500 rows
    whole = model.score(text)
    assert len(whole) == 150
    masked = [MASK if i == 77 else token for i, token in enumerate(text)]
    assert math.isclose(whole.logprobs[77], log_softmax(model.forward(masked)[77])[text[77]], rel_tol=1e-5)


def test_an_iterator_is_taken_as_results_are():
    model, _ = masked_bert()
    taken = []

    def texts():
        for i in range(1000):
            taken.append(i)
            yield [1] * 100

    found = model.score(texts())
    assert taken == []
    next(found)
    assert len(taken) <= 2
    broken = model.score(iter([[1, 2], [61]]))
    assert len(next(broken)) == 2
    with pytest.raises(ValueError, match="text 1 has token id 61"):
        next(broken)


def test_texts_that_are_cut(load):
    model = load("bytes")
    text = "the king had a son"
    n = len(model.tokenizer.encode(text))
    found = model.score(text, max_tokens=n - 2)
    assert (
        len(found) == n - 2 and text.startswith(found.text) and found.n_chars == len(found.text) < len(text)
    )
    assert found.token_ids == model.tokenizer.encode(text)[: n - 2]
    assert found.is_greedy in (True, False) and "perplexity" in repr(found)
    rows = found.rows()
    assert "".join(row["text"] for row in rows) == found.text


def test_wrong_scores():
    model, _ = masked_bert()
    with pytest.raises(ValueError, match="text 1 is empty"):
        model.score(["1", ""])
    with pytest.raises(ContextLengthError, match="the text has 161 tokens"):
        model.score([1] * 161)
    with pytest.raises(TypeError, match="score takes texts, not pairs of texts:"):
        model.score([("1", "2")])
    with pytest.raises(TypeError, match="within_word must be True or False"):
        model.score("1", within_word=2)
    with pytest.raises(ValueError, match="top must be from 0 to 61"):
        model.score("1", top=62)
    with pytest.raises(TypeError, match="score has no option stride"):
        model.score("1", stride=3)
    with pytest.raises(gpt2c.DeadlineError):
        model.score("1 2", deadline=1e-9)
    bare, _ = random_bert()
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        bare.score([1])
    assert model.score([]) == []
    assert model.score("1 60 2").token_ids == [1, 2]
    with_mask = model.score("1 60 2", special=True)
    assert with_mask.token_ids == [1, 60, 2] and with_mask.contexts.tolist() == [1, 2, 1]


def close(found, expected):
    """Whether two values of JSON are equal, numbers but for rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return (
        math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-6)
        if type(found) is float
        else found == expected
    )


@pytest.mark.oracle
def test_live_recorded_answers():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from data.bert import make_faces

    assert close(json.loads(json.dumps(make_faces.recorded())), TOLD)
