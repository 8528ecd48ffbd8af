"""DRY and the exponential length penalty: as in llama.cpp and transformers (golden/samplers.json)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from data.golden import recipe
from helpers.toys import bundled_tokenizer, random_gpt2
from hypothesis import given
from hypothesis import strategies as st

from gpt2c.generation.options import SamplingOptions
from gpt2c.generation.processors import LogitsProcessors
from gpt2c.tokenizer import gpt2_tokenizer

GOLDEN = json.loads((recipe.FOLDER / "samplers.json").read_text())
MODEL, _ = random_gpt2(0, eos_token_ids=(3, 50))


def process(ids, logits, n_prompt=0, model=MODEL, removed=None, **options):
    processors = LogitsProcessors(model, SamplingOptions(**options))
    return processors(np.asarray(logits, np.float32), np.array(ids, np.int32), n_prompt, removed)


@pytest.fixture(scope="module")
def of_gpt2():
    return random_gpt2(0, n_vocab=50257, tokenizer=gpt2_tokenizer())[0]


@pytest.mark.parametrize("case", GOLDEN["dry"], ids=lambda case: case["text"][:20])
def test_dry_is_that_of_llama_cpp(of_gpt2, case):
    assert of_gpt2.tokenizer.encode(case["text"]) == case["ids"]
    logits = np.zeros(50257, np.float32)
    logits[case["some"]] = case["logits"]
    row = process(case["ids"], logits, model=of_gpt2, **case["options"])
    np.testing.assert_allclose(row[case["some"]], np.array(case["processed"], np.float32), rtol=1e-6)
    others = np.setdiff1d(np.arange(50257), case["some"])
    assert not row[others].any()


@pytest.mark.oracle
def test_live_dry_is_that_recorded():
    """Without breakers, for which llama.cpp needs a vocabulary; and of random texts."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("torch")
    from data.golden import make_samplers

    some = list(range(61))
    for case in GOLDEN["dry"]:
        options = case["options"] | {"dry_sequence_breakers": []}
        live = make_samplers.after_text(None, options, case["ids"], case["some"], np.array(case["logits"]))
        if not case["options"]["dry_sequence_breakers"]:
            np.testing.assert_allclose(live, np.array(case["processed"], np.float32), rtol=1e-6)
        ids = [token % 3 for token in case["ids"]]
        live = make_samplers.after_text(None, options, ids, some, np.zeros(61))
        np.testing.assert_allclose(process(ids, np.zeros(61), **options), live, rtol=1e-6)


def penalties(ids, multiplier, base, allowed, last_n):
    """By the definition, for every token and every place, without breakers."""
    ids = ids if last_n < 0 else ids[len(ids) - min(last_n, len(ids)) :]
    found = {}
    for place in range(1, len(ids)):  # what stands there followed ids[:place]
        n = 0
        while n < place and ids[place - 1 - n] == ids[len(ids) - 1 - n]:
            n += 1
        if n >= allowed:
            found[ids[place]] = max(found.get(ids[place], 0), n)
    return {token: multiplier * base ** (n - allowed) for token, n in found.items()}


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.sampled_from([0.25, 1.0, 3.0]),
    st.sampled_from([1.0, 1.5, 2.0]),
    st.integers(1, 5),
    st.integers(-1, 40),
)
def test_dry_by_its_definition(ids, multiplier, base, allowed, last_n):
    row = process(
        ids, np.zeros(61), dry_multiplier=multiplier, dry_base=base, dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
    )  # fmt: skip
    expected = np.zeros(61, np.float32)
    for token, penalty in penalties(ids, multiplier, base, allowed, last_n).items():
        expected[token] = -penalty
    np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_a_breaker_of_several_tokens_counts_however_it_is_written():
    """What llama.cpp looks up as tokens is looked for as text."""
    model, _ = random_gpt2(0, n_vocab=4096, tokenizer=bundled_tokenizer(), n_ctx=100)
    encode = bundled_tokenizer().encode
    letters = [token for character in "the king" for token in encode(character)]
    ids = [*letters, *encode(" said"), *letters, *encode(" said"), *letters]
    options = dict(dry_multiplier=1.0, dry_base=1.0, dry_allowed_length=3, model=model)
    [after] = np.flatnonzero(process(ids, np.zeros(4096), dry_sequence_breakers=(), **options))
    assert after == encode(" said")[0]
    broken = process(ids, np.zeros(4096), dry_sequence_breakers=["king"], **options)
    assert not broken.any(), "the last token ends a breaker"
    longer = process(ids, np.zeros(4096), dry_sequence_breakers=["the k"], **options)
    assert np.flatnonzero(longer).tolist() == [after], "three tokens stand behind it: i, n, g"
    options["dry_allowed_length"] = 4
    assert not process(ids, np.zeros(4096), dry_sequence_breakers=["the k"], **options).any()


def test_a_breaker_itself_may_always_come_again():
    model, _ = random_gpt2(0, n_vocab=4096, tokenizer=bundled_tokenizer(), n_ctx=100)
    ids = bundled_tokenizer().encode(" the king said: no; the king said")
    [colon] = bundled_tokenizer().encode(":")
    options = dict(dry_multiplier=1.0, model=model)
    assert np.flatnonzero(process(ids, np.zeros(4096), dry_sequence_breakers=(), **options)).tolist() == [
        colon
    ]
    assert not process(ids, np.zeros(4096), **options).any()
    assert process(ids, np.zeros(4096), dry_sequence_breakers="\n", **options)[colon] < 0


def test_a_penalty_is_finite():
    row = process(
        [1] * 1000, np.zeros(61), dry_multiplier=1e6, dry_base=1e6, exponential_decay_length_penalty=(0, 1e6)
    )
    assert row[1] == np.float32(-3.4e38) and np.isfinite(row).all()
    row = process([1] * 1000, np.full(61, 2.0), exponential_decay_length_penalty=(0, 1e6))
    assert row[3] == row[50] == np.float32(3.4e38)


def test_dry_ends_a_loop(bundled):
    plain = bundled.generate("The king had three daughters, and", max_new_tokens=60).token_ids
    free = bundled.generate(
        "The king had three daughters, and", max_new_tokens=60, dry_multiplier=1.0, dry_sequence_breakers=()
    ).token_ids

    def repeated(ids):
        grams = [tuple(ids[i : i + 5]) for i in range(len(ids) - 4)]
        return len(grams) - len(set(grams))

    assert repeated(plain) > 20 > 2 > repeated(free)


@pytest.mark.parametrize(
    "case",
    [case for case in GOLDEN["changed"] if "exponential_decay_length_penalty" in case["options"]],
    ids=lambda case: str(case["options"]["exponential_decay_length_penalty"]),
)
def test_the_end_becomes_more_probable_as_in_transformers(case):
    row = process(case["ids"], case["logits"], case["n_prompt"], **case["options"])
    np.testing.assert_allclose(row, np.array(case["processed"], np.float32), rtol=1e-6)


def test_an_end_that_is_forbidden_stays_forbidden():
    row = process(
        [1, 2, 3], np.ones(61), 1, min_new_tokens=5, exponential_decay_length_penalty=(0, 2.0),
    )  # fmt: skip
    assert row[3] == row[50] == -np.inf and not np.isnan(row).any()


def test_texts_end_sooner(bundled):
    options = dict(max_new_tokens=200, temperature=1.0, seed=1)
    assert bundled.generate("The king", **options).finish_reason == "length"
    ended = bundled.generate("The king", exponential_decay_length_penalty=(20, 1.3), **options)
    assert ended.finish_reason == "eos" and 20 < len(ended.token_ids) < 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dry_multiplier": -1}, "dry_multiplier must be from 0 (none) to 1e6, not -1"),
        ({"dry_base": 0.5}, "dry_base must be from 1 to 1e6, not 0.5"),
        ({"dry_allowed_length": 0}, "dry_allowed_length must be at least 1, not 0"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n must be at least -1 (-1 is the whole text), not -2"),
        (
            {"dry_sequence_breakers": ["a", ""]},
            "dry_sequence_breakers must not hold an empty string: it would match everywhere; leave it out",
        ),
        (
            {"exponential_decay_length_penalty": 3},
            "exponential_decay_length_penalty must be two numbers, the number of new tokens before it "
            "starts and "
            "its factor, such as (30, 1.1), or None, not 3 (int)",
        ),
        (
            {"exponential_decay_length_penalty": (-1, 1.0)},
            "the first number of exponential_decay_length_penalty must be at least 0, not -1",
        ),
        (
            {"exponential_decay_length_penalty": (1, math.inf)},
            "the factor of exponential_decay_length_penalty must be above 0 and at most 1e6, not inf",
        ),
    ],
)
def test_what_is_not_allowed_is_told(options, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        SamplingOptions(**options)
    assert str(caught.value) == message
