"""What leaves tokens out of a draw: against llama.cpp and transformers (golden/samplers.json), by formula."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from data.golden import recipe
from helpers.toys import random_gpt2
from hypothesis import given
from hypothesis import strategies as st

from gpt2c.core import _engine
from gpt2c.generation.drawing import Shape
from gpt2c.generation.options import SamplingOptions
from gpt2c.generation.processors import filtered

GOLDEN = json.loads((recipe.FOLDER / "samplers.json").read_text())
MODEL, _ = random_gpt2(0)

ROWS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(
    lambda row: np.array(row, np.float32)
)
EACH = [
    {"typical_p": 0.3},
    {"top_n_sigma": 1.0},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"mirostat": 2, "mirostat_tau": 3.0},
]


def left(row):
    return np.flatnonzero(np.isfinite(row)).tolist()


def drawn(**options):
    return SamplingOptions(temperature=1.0, **options)


def mirostat(case):
    """What is left of each row of the case, where its tokens are chosen."""
    draw = Shape(drawn(**case["options"]), seed=1).draw(0)
    for step in case["steps"]:
        row = draw.row(np.array(step["logits"], np.float32), np.arange(3), None)
        yield left(row)
        draw.observe(row, step["token"])


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: "-".join([case["by"], *case["options"]]))
def test_the_same_tokens_are_left_as_by_llama_cpp_and_transformers(case):
    if "steps" in case:
        assert list(mirostat(case)) == [step["left"] for step in case["steps"]]
        return
    row = filtered(np.array(case["logits"], np.float32), drawn(**case["options"]), coin=0.5)
    assert left(row) == case["left"]


@pytest.mark.oracle
def test_live_samplers_are_those_recorded():
    pytest.importorskip("llama_cpp")
    pytest.importorskip("torch")
    from data.golden import make_samplers

    for case in GOLDEN["cases"]:
        if "steps" in case:
            rows = [np.array(step["logits"], np.float32) for step in case["steps"]]
            assert [step["left"] for step in make_samplers.steps_of_mirostat(case["options"], rows)] == [
                step["left"] for step in case["steps"]
            ]
        else:
            logits = np.array(case["logits"], np.float32)
            assert make_samplers.BY[case["by"]](case["options"], logits) == case["left"]


def test_every_draw_moves_the_limit_of_mirostat():
    """By the formula of the paper, in bits."""
    tau, eta = 2.5, 0.4
    draw = Shape(drawn(mirostat=2, mirostat_tau=tau, mirostat_eta=eta), seed=9).draw(0)
    limit, rng = 2 * tau, np.random.default_rng(1)
    for position in range(1, 40):
        row, removed = (2 * rng.standard_normal(61)).astype(np.float32), {}
        token, _ = draw(row, row, np.zeros(position, np.int32), removed)
        p = np.exp(row.astype(np.float64))
        p /= p.sum()
        p[(-np.log2(p) > limit) & (p < p.max())] = 0
        assert sorted(removed) == np.flatnonzero(p == 0).tolist() and p[token] > 0
        limit -= eta * (-math.log2(p[token] / p.sum()) - tau)


@given(ROWS, st.sampled_from([{"typical_p": 1.0}, {"top_n_sigma": 1e6}, {"xtc_threshold": 0.51}]))
def test_at_their_bounds_they_leave_everything(row, options):
    assert left(filtered(row, drawn(**options, xtc_probability=0.0), coin=0.0)) == left(row)
    assert left(filtered(row, drawn(xtc_probability=1.0, xtc_threshold=0.51), coin=0.0)) == left(row)


@given(ROWS, st.floats(1e-6, 1), st.floats(0, 10), st.floats(1e-3, 1), st.floats(-20, 20))
def test_something_is_always_left(row, typical_p, top_n_sigma, xtc_threshold, most_bits):
    options = drawn(
        typical_p=typical_p, top_n_sigma=top_n_sigma, xtc_probability=1.0, xtc_threshold=xtc_threshold,
        mirostat=2,
    )  # fmt: skip
    result = filtered(row, options, coin=0.0, most_bits=most_bits)
    assert left(result) and all(result[token] == row[token] for token in left(result))


@given(ROWS, st.floats(0.05, 20))
def test_the_spread_of_logits_knows_no_temperature(row, temperature):
    """Of float32 logits in float64: only a token at the very edge could fall on the other side."""
    limit = row.max() - 1.5 * row.astype(np.float64).std()
    if np.abs(row - limit).min() < 1e-6:
        return
    options = SamplingOptions(temperature=temperature, top_n_sigma=1.5)
    assert left(filtered(row, options)) == np.flatnonzero(row >= limit).tolist()


def test_the_filters_come_in_their_order():
    logits = np.log(np.array([0.30, 0.25, 0.20, 0.15, 0.06, 0.04]))
    removed = {}
    options = drawn(top_k=5, typical_p=0.95, xtc_probability=1.0, xtc_threshold=0.2)
    # Of 0.96, all but one of those above 0.2 go; typical_p needs all five to reach 0.95.
    assert left(filtered(logits, options, removed, coin=0.0)) == [2, 3, 4]
    assert removed == {5: "top_k", 0: "xtc", 1: "xtc"}
    removed = {}
    options = drawn(typical_p=0.5, mirostat=2)
    # The entropy is 1.59 nats; -log of 0.20 and 0.25 are next to it, then that of 0.15.
    assert left(filtered(logits, options, removed, most_bits=1.2)) == [1]
    assert removed == {0: "typical_p", 4: "typical_p", 5: "typical_p", 2: "mirostat", 3: "mirostat"}


def test_xtc_takes_part_as_often_as_it_should_and_apart_from_the_draw():
    """Three tokens of 0.3 and one of 0.1, at a threshold of 0.2: with XTC the first two go."""
    draw = Shape(drawn(xtc_probability=0.25, xtc_threshold=0.2), seed=7).draw(3)
    row = np.full(61, -np.inf, np.float32)
    row[[5, 6, 7, 8]] = np.log([0.3, 0.3, 0.3, 0.1])
    n = 20_000
    tokens = [draw(row, row, np.zeros(position, np.int32), None)[0] for position in range(1, n + 1)]
    counts = np.bincount(tokens, minlength=9)[5:9] / n
    expected = [0.75 * 0.3, 0.75 * 0.3, 0.75 * 0.3 + 0.25 * 0.75, 0.75 * 0.1 + 0.25 * 0.25]
    np.testing.assert_allclose(counts, expected, atol=6 * math.sqrt(0.25 / n))


def test_the_coin_is_the_second_word_of_the_block_that_the_draw_takes_the_first_of():
    """A token for each of the 64 highest values of the number it draws by."""
    from gpt2c.generation.drawing import _coin

    even = np.zeros(64, np.float32)
    options = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    for seed, stream, position in ((0, 0, 1), (2**64 - 1, 2**16 - 1, 1024), (5, 7, 300)):
        philox = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=position - 1)
        first, second = philox.random_raw(2).tolist()
        drawn_by = _engine.sample(even, seed=seed, stream=stream, position=position, **options)[0]
        assert drawn_by == first >> 58
        assert _coin(seed, stream, position) == (second >> 11) / 2**53


@pytest.mark.parametrize("options", EACH, ids=str)
def test_a_text_is_the_same_in_any_company_and_by_any_way(bundled, options):
    given = dict(max_new_tokens=24, temperature=1.3, seed=4, **options)
    [alone] = bundled.generate(["The king had"], **given)
    together = bundled.generate(["A wolf", "The king had", "Once upon a time"], **given)
    assert together[1].token_ids == alone.token_ids and together[1].logprobs == alone.logprobs
    assert bundled.generate("The king had", draft="prompt", **given).token_ids == alone.token_ids
    with bundled.stream("The king had", **given) as stream:
        assert "".join(stream) == alone.text
    assert bundled.session("The king had").generate(**given).token_ids == alone.token_ids
    with bundled.scheduler() as scheduler:
        waiting = [scheduler.submit(prompt, **given) for prompt in ("A wolf", "The king had")]
        assert waiting[1].future.result()[0].token_ids == alone.token_ids
    plain = bundled.generate("The king had", max_new_tokens=24, temperature=1.3, seed=4)
    assert plain.token_ids != alone.token_ids
    samples = bundled.generate("The king had", num_return_sequences=2, **given)
    assert samples[0].token_ids == alone.token_ids != samples[1].token_ids


@pytest.mark.parametrize("options", EACH[:3], ids=str)
def test_a_search_that_draws_leaves_out_the_same(bundled, options):
    found = bundled.generate(
        "The king had", max_new_tokens=4, num_beams=2, temperature=1.0, seed=1, trace=True, **options
    )
    [name] = {"xtc" if "xtc_threshold" in options else name for name in options}
    for step in found.trace.steps:
        for branch in step.branches:
            chosen = [candidate for candidate in branch.candidates if candidate.fate]
            assert all(candidate.removed_by is None for candidate in chosen)
    said = {c.removed_by for step in found.trace.steps for branch in step.branches for c in branch.candidates}
    assert said == {None, name}


def test_the_trace_names_what_left_a_token_out(bundled):
    for options in EACH:
        given = dict(options) | ({"xtc_probability": 1.0} if "xtc_threshold" in options else {})
        result = bundled.generate(
            "The king had", max_new_tokens=6, temperature=1.5, trace=True, seed=2, **given
        )
        said = {c.removed_by for step in result.trace.steps for c in step.branches[0].candidates}
        assert said == {None, "xtc" if "xtc_threshold" in options else next(iter(options))}


def test_a_limit_that_swings_far_leaves_the_most_probable():
    """A token of 20 bits, and a correction of a thousand times the error."""
    draw = Shape(drawn(mirostat=2, mirostat_tau=1.0, mirostat_eta=1000.0), seed=1).draw(0)
    row = np.array([20 * math.log(2), 0.0, -1.0], np.float32)
    draw.observe(row, 1)
    assert left(draw.row(row, np.arange(3), None)) == [0]


def test_mirostat_steers_the_surprise(bundled):
    """The mean surprise of 200 tokens, by what they are drawn from, comes near what is asked for."""
    for tau in (2.0, 4.0):
        means = []
        for seed in range(3):
            result = bundled.generate(
                "The king had", max_new_tokens=200, temperature=1.0, mirostat=2, mirostat_tau=tau,
                mirostat_eta=0.3, seed=seed, suppress_tokens=bundled.config.eos_token_ids, eos_token_id=[],
            )  # fmt: skip
            means.append(-np.mean(result.logprobs) / math.log(2))
        # By the raw logits it is a little more: the draw is from what is left of them.
        assert tau - 0.3 < np.mean(means) < tau + 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-40, 1e-200])
@pytest.mark.parametrize("options", EACH, ids=str)
def test_a_very_low_temperature_is_no_special_case(options, temperature):
    """Logits over it are far beyond float32; what is left is drawn as by the compiled sampler."""
    found = MODEL.generate([1, 2], max_new_tokens=8, temperature=temperature, seed=1, **options)
    assert found.token_ids == MODEL.generate([1, 2], max_new_tokens=8).token_ids


@pytest.mark.parametrize("options", EACH, ids=str)
def test_where_all_is_forbidden_it_is_told(options):
    with pytest.raises(ValueError, match="no token can be chosen"):
        MODEL.generate([1], max_new_tokens=2, temperature=1.0, suppress_tokens=range(61), **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused_as_always(bad):
    def processor(ids, logits):
        logits[3] = bad
        return logits

    for options in EACH:
        with pytest.raises(ValueError, match="NaN"):
            MODEL.generate([1], max_new_tokens=4, temperature=1.0, logits_processor=processor, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typical_p": 0.0}, "typical_p must be above 0 and at most 1 (1: no limit), not 0"),
        ({"top_n_sigma": -1}, "top_n_sigma must be from 0 (no limit) to 1e6, not -1"),
        ({"xtc_probability": 1.5}, "xtc_probability must be from 0 (never) to 1 (always), not 1.5"),
        ({"xtc_threshold": 0}, "xtc_threshold must be above 0 and at most 1, not 0"),
        ({"mirostat": 3}, "mirostat must be from 0 to 2 (0 is none, 2 is version 2), not 3"),
        ({"mirostat": 1}, "mirostat must be 0 (none) or 2; version 1 is not supported: use 2"),
        ({"mirostat_tau": 0}, "mirostat_tau must be above 0 and at most 1000, not 0"),
        ({"mirostat_eta": -0.1}, "mirostat_eta must be from 0 to 1000, not -0.1"),
        (
            {"typical_p": 0.5, "temperature": 0},
            "typical_p is for sampling: give a temperature above 0 with it",
        ),
        ({"mirostat": 2, "temperature": 0}, "mirostat is for sampling: give a temperature above 0 with it"),
        ({"mirostat": 2, "num_beams": 2}, "mirostat follows one text: it goes with num_beams=1 only"),
    ],
)
def test_what_is_not_allowed_is_told(options, message):
    with pytest.raises(ValueError) as caught:
        SamplingOptions(**{"temperature": 1.0, **options})
    assert str(caught.value) == message


def test_plain_options_call_nothing_of_this():
    code = """
import sys
from gpt2c import GPT2
model = GPT2.from_pretrained()
for options in ({}, {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "seed": 1}):
    model.generate("The king", max_new_tokens=3, **options)
print([name for name in ("drawing", "dry", "watermark") if f"gpt2c.generation.{name}" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
