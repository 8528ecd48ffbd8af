"""Watermarks: against transformers (golden/samplers.json), live too, and as texts that are found out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from data.golden import recipe
from helpers.toys import random_gpt2
from hypothesis import given
from hypothesis import strategies as st

from gpt2c import WatermarkingConfig
from gpt2c.generation.drawing import Shape
from gpt2c.generation.options import SamplingOptions
from gpt2c.generation.watermark import Watermark, _first, _is_first

GOLDEN = json.loads((recipe.FOLDER / "samplers.json").read_text())
MARKED = [case for case in GOLDEN["changed"] if "watermarking_config" in case["options"]]
MODEL, _ = random_gpt2(0)
SELF = {"seeding_scheme": "selfhash", "context_width": 3}


def marked(case):
    config = WatermarkingConfig.of(case["options"]["watermarking_config"])
    return Watermark(config, 61).add(np.array(case["logits"], np.float32), np.array(case["ids"]))


@pytest.mark.parametrize("case", MARKED, ids=lambda case: str(case["options"]["watermarking_config"]))
def test_the_same_tokens_are_green_as_in_transformers(case):
    row, expected = marked(case), np.array(case["processed"], np.float32)
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, expected, rtol=1e-6)
    logits = np.array(case["logits"], np.float32)
    assert ((row != logits) == (expected != logits)).all()


@pytest.mark.parametrize("case", GOLDEN["detected"], ids=lambda case: str(case["config"]))
def test_the_detector_counts_as_that_of_transformers(case):
    found = MODEL.detect_watermark(case["ids"], case["config"])
    assert (found.n_tokens, found.n_green) == (case["n_tokens"], case["n_green"])
    assert found.z_score == pytest.approx(case["z_score"], rel=1e-12)
    assert found.p_value == pytest.approx(math.erfc(found.z_score / 2**0.5) / 2)


@pytest.mark.oracle
def test_live_watermarks_are_those_recorded(bundled):
    pytest.importorskip("llama_cpp")
    torch = pytest.importorskip("torch")
    from data.golden import make_samplers

    for case in GOLDEN["changed"]:
        logits = np.array(case["logits"], np.float32)
        row = make_samplers.changed(case["options"], case["ids"], case["n_prompt"], logits)
        np.testing.assert_allclose(row, np.array(case["processed"], np.float32), rtol=1e-6)
    config = make_samplers.transformers.GPT2Config(vocab_size=4096)
    for mark in ({}, SELF):
        text = bundled.generate("The king had", max_new_tokens=40, watermarking_config=mark)
        detector = make_samplers.transformers.WatermarkDetector(
            config, "cpu", make_samplers.transformers.WatermarkingConfig(**mark)
        )
        theirs = detector(torch.tensor([text.token_ids]), return_dict=True)
        ours = bundled.detect_watermark(text.token_ids, mark)
        assert (ours.n_tokens, ours.n_green) == (theirs.num_tokens_scored[0], theirs.num_green_tokens[0])
    for seed, n, k in ((0, 50257, 12564), (2**64 - 2, 4096, 4096), (15_485_863, 1_000_003, 50257)):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
        assert (_first(seed, n, k) == order[:k]).all()


@given(st.integers(0, 2**64), st.integers(1, 50), st.data())
def test_one_token_is_followed_where_all_are_shuffled(seed, n, data):
    k = data.draw(st.integers(1, n))
    first = _first(seed, n, k).tolist()
    assert len(set(first)) == k and set(first) <= set(range(n))
    assert [number for number in range(n) if _is_first(seed, n, k, number)] == sorted(first)


@pytest.mark.parametrize("config", [{}, {"greenlist_ratio": 0.5, "bias": 4.0}, SELF], ids=str)
@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.9, "top_k": 40, "seed": 3}, {"num_beams": 3, "no_repeat_ngram_size": 3}],
    ids=str,
)
def test_a_marked_text_is_found_out(bundled, config, how):
    options = dict(max_new_tokens=120, **how)
    text = bundled.generate("The king had", watermarking_config=config, **options)
    plain = bundled.generate("The king had", **options)
    found = bundled.detect_watermark(text.token_ids, config)
    assert found.z_score > 4 and found.p_value < 1e-4
    assert abs(bundled.detect_watermark(plain.token_ids, config, ignore_repeated_ngrams=True).z_score) < 3.5
    other = WatermarkingConfig.of({**config, "hashing_key": 5})
    assert bundled.detect_watermark(text.token_ids, other, ignore_repeated_ngrams=True).z_score < 3.5


def test_a_text_is_found_out_by_its_words(bundled):
    text = bundled.generate(
        "The king had", max_new_tokens=150, temperature=1.0, seed=1, watermarking_config={}
    )
    assert bundled.detect_watermark(text.text).z_score > 4
    assert bundled.detect_watermark(text.text, WatermarkingConfig()).z_score > 4


def test_repetitions_are_no_evidence(bundled):
    ids = [7, 9] * 20
    once = bundled.detect_watermark(ids, ignore_repeated_ngrams=True)
    assert once.n_tokens == 2 and bundled.detect_watermark(ids).n_tokens == 39


@pytest.mark.parametrize("how", [{}, {"temperature": 1.2, "seed": 4, "top_p": 0.9}], ids=str)
def test_the_mark_comes_after_the_filters_in_any_company(bundled, how):
    options = dict(max_new_tokens=16, watermarking_config=SELF, **how)
    [alone] = bundled.generate(["The king had"], **options)
    together = bundled.generate(["A wolf", "The king had"], **options)
    assert together[1].token_ids == alone.token_ids and together[1].logprobs == alone.logprobs
    with bundled.stream("The king had", **options) as stream:
        assert "".join(stream) == alone.text
    traced = bundled.generate("The king had", trace=True, **options)
    for step in traced.trace.steps:
        assert [c.removed_by for c in step.branches[0].candidates if c.fate == "chosen"] == [None]
    if how:
        # Whatever the bias, no token is drawn that top_p leaves out.
        greenest = {**SELF, "bias": 1000.0}
        text = bundled.generate(
            "The king had", max_new_tokens=16, trace=True, watermarking_config=greenest, **how
        )
        for step in text.trace.steps:
            assert all(c.removed_by is None for c in step.branches[0].candidates if c.fate == "chosen")


@pytest.mark.parametrize("config", [{"bias": 3.0}, {"bias": 3.0, **SELF}], ids=str)
def test_the_bias_is_added_to_what_the_filters_leave(config):
    """By the order of transformers: temperature, filters, mark."""
    mark, ids = Watermark(WatermarkingConfig(**config), 61), np.array([5, 9, 11])
    options = SamplingOptions(temperature=0.5, top_k=12, watermarking_config=config)
    logits = np.random.default_rng(2).standard_normal(61).astype(np.float32)
    row = Shape(options, 1, mark)(logits, ids, 0, None)
    best = np.argsort(-logits)[:12].tolist()
    assert np.flatnonzero(np.isfinite(row)).tolist() == sorted(best)
    added = {token: row[token] - logits[token] / 0.5 for token in best}
    assert {token: round(more, 5) for token, more in added.items()} == {
        token: 3.0 if mark.is_green(ids, token) else 0.0 for token in best
    }
    assert {0.0, 3.0} == {round(more, 5) for more in added.values()}


def test_a_text_shorter_than_the_context_is_not_marked():
    row = np.zeros(61, np.float32)
    for scheme in ("lefthash", "selfhash"):
        mark = Watermark(WatermarkingConfig(context_width=4, seeding_scheme=scheme), 61)
        assert mark.add(row, np.arange(3)) is row
        assert mark.add(row, np.arange(4)).any() and not row.any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"greenlist_ratio": 1.0},
            "greenlist_ratio of watermarking_config must be above 0 and below 1, not 1",
        ),
        ({"bias": math.inf}, "bias of watermarking_config must be from -1e6 to 1e6, not inf"),
        (
            {"hashing_key": -1},
            "hashing_key of watermarking_config must be from 0 to 9223372036854775807, not -1",
        ),
        ({"context_width": 0}, "context_width of watermarking_config must be at least 1, not 0"),
        (
            {"seeding_scheme": "x"},
            "seeding_scheme of watermarking_config must be 'lefthash' or 'selfhash', not 'x'",
        ),
        (
            {"key": 1},
            "watermarking_config has no field 'key'; allowed: greenlist_ratio, bias, hashing_key, "
            "seeding_scheme, context_width",
        ),
        (
            7,
            "watermarking_config must be a WatermarkingConfig, a mapping of its fields, or None, not 7 (int)",
        ),
    ],
)
def test_what_is_not_allowed_is_told(config, message):
    for ask in (
        lambda: SamplingOptions(watermarking_config=config),
        lambda: MODEL.detect_watermark([1, 2, 3], config),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            ask()
        assert str(caught.value) == message


def test_a_text_too_short_to_be_looked_at_is_refused():
    with pytest.raises(ValueError, match="the text has 1 token; detecting a watermark needs at least 2"):
        MODEL.detect_watermark([5])
    with pytest.raises(ValueError, match="the text has 2 tokens; detecting a watermark needs at least 3"):
        MODEL.detect_watermark([5, 6], SELF)


def test_the_names_are_public():
    import gpt2c

    assert gpt2c.WatermarkingConfig is WatermarkingConfig
    assert type(MODEL.detect_watermark([1, 2, 3])) is gpt2c.WatermarkScore
