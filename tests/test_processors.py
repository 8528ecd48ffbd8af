"""What changes logits before a token is chosen: against transformers (golden/processors.json), by formula."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from data.golden import recipe
from helpers.toys import bundled_tokenizer, random_gpt2

from gpt2c import reference
from gpt2c.core import _engine
from gpt2c.generation.options import SamplingOptions
from gpt2c.generation.processors import LogitsProcessors, filtered

GOLDEN = json.loads((recipe.FOLDER / "processors.json").read_text())
MODEL, WEIGHTS = random_gpt2(0, eos_token_ids=tuple(GOLDEN["eos"]))


def given_options(values):
    values = dict(values)
    if "sequence_bias" in values:
        values["sequence_bias"] = {tuple(ids): bias for ids, bias in values["sequence_bias"]}
    return SamplingOptions(**values)


def process(ids, logits, *, n_prompt=0, removed=None, model=MODEL, **options):
    processors = LogitsProcessors(model, SamplingOptions(**options))
    return processors(np.asarray(logits, np.float32), np.array(ids, np.int32), n_prompt, removed)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: "-".join(case["options"]))
def test_processors_and_filters_equal_those_of_transformers(case):
    options = given_options(case["options"])
    logits, expected = (np.array(case[key], np.float32) for key in ("logits", "processed"))
    before = logits.copy()
    actual = LogitsProcessors(MODEL, options)(logits, np.array(case["ids"], np.int32), case["n_prompt"])
    assert logits.tobytes() == before.tobytes()
    if "temperature" in case["options"]:
        actual = filtered(actual, options)
    assert np.array_equal(np.isneginf(actual), np.isneginf(expected)), "the same tokens are forbidden"
    finite = np.isfinite(expected)
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-6)


@pytest.mark.oracle
def test_live_processors_are_those_recorded():
    torch = pytest.importorskip("torch")
    from data.golden import make_processors
    from transformers.generation.logits_process import LogitsProcessorList

    for case in GOLDEN["cases"]:
        today = LogitsProcessorList(
            make_processors.processor_of(name, value, case["n_prompt"])
            for name, value in case["options"].items()
        )(torch.tensor([case["ids"]]), torch.tensor([case["logits"]]))
        np.testing.assert_allclose(today[0].numpy(), np.array(case["processed"], np.float32), rtol=1e-6)


def test_presence_and_frequency_count_the_new_tokens():
    logits = np.zeros(61)
    row = process([5, 5, 7, 7, 7, 9], logits, n_prompt=2, presence_penalty=0.5, frequency_penalty=0.25)
    assert {token: row[token] for token in (5, 7, 9, 11)} == {5: 0, 7: -1.25, 9: -0.75, 11: 0}
    row = process([5, 5, 7, 7, 7, 9], logits, n_prompt=2, presence_penalty=-2.0)
    assert (row[7], row[9], row[5]) == (2, 2, 0)


def test_a_text_as_long_as_an_ngram_may_not_repeat_it():
    row = process([5, 5, 5], np.zeros(61), no_repeat_ngram_size=3)  # another 5 would repeat 5 5 5
    assert np.flatnonzero(np.isneginf(row)).tolist() == [5]
    assert np.isfinite(process([5, 5], np.zeros(61), no_repeat_ngram_size=3)).all()


def test_everything_comes_in_its_order():
    """A bias first, so that the penalty of repetition sees it; then the penalties that subtract."""
    row = process(
        [4, 6], np.ones(61), n_prompt=1, logit_bias={6: 2.0}, sequence_bias={(4, 6): 9.0, (6, 6): 1.0},
        repetition_penalty=2.0, presence_penalty=0.5,
    )  # fmt: skip
    assert row[6] == (1 + 1 + 2) / 2 - 0.5
    assert row[4] == 0.5 and row[0] == 1


def test_a_bias_of_a_sequence_waits_for_its_beginning():
    bias = {(1, 2, 3): 5.0, (3,): 1.0, (9, 9): -math.inf}
    assert process([0, 1, 2], np.zeros(61), sequence_bias=bias)[3] == 6
    assert process([1, 2], np.zeros(61), sequence_bias=bias)[3] == 6
    assert process([2], np.zeros(61), sequence_bias=bias)[3] == 1
    assert process([1, 9], np.zeros(61), sequence_bias=bias)[9] == -np.inf


def test_bad_words_are_forbidden_alone_and_after_a_space(bundled):
    text = "The king had"
    likely = [s.text for s in bundled.suggest(text, k=3)]
    word = likely[0].strip()
    for bad in ([word], [bundled.tokenizer.encode(likely[0])], [likely[0]]):
        result = bundled.generate(text, max_new_tokens=1, bad_words=bad)
        assert result.text == likely[1]
    plain = bundled.generate(text, max_new_tokens=8).text
    first_two = " ".join(plain.split()[:2])
    other = bundled.generate(text, max_new_tokens=8, bad_words=[first_two]).text
    assert first_two not in other and other.split()[0] == plain.split()[0], "only its last token is forbidden"


def test_processors_are_called_with_the_text_and_the_logits():
    seen = []

    def watch(ids, logits):
        seen.append((ids.tolist(), ids.dtype, logits.copy()))
        ids[:] = 0  # it is a copy
        return logits

    def force(ids, logits):
        out = np.full(61, -np.inf)
        out[10 + len(ids)] = 0.0
        return out

    result = MODEL.generate([1, 2], max_new_tokens=3, logits_processor=[watch, force], suppress_tokens=[8])
    assert result.token_ids == [12, 13, 14]
    assert [ids for ids, _, _ in seen] == [[1, 2], [1, 2, 12], [1, 2, 12, 13]]
    raw = MODEL.forward([1, 2], logits_to_keep=1)[0]
    raw[8] = -np.inf
    assert seen[0][1] == np.int32 and seen[0][2].tobytes() == raw.tobytes(), "after the other options"
    lines = reference.log_softmax(reference.forward(MODEL.config, WEIGHTS, np.array([1, 2, 12, 13])))[1:]
    np.testing.assert_allclose(result.logprobs, lines[np.arange(3), [12, 13, 14]], atol=1e-4)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (lambda ids, logits: None, r"must return the logits, an array of shape \(61,\), not None"),
        (lambda ids, logits: logits[:5], r"not an array of shape \(5,\)"),
        (lambda ids, logits: logits * np.nan, "returned NaN; to forbid a token, make its logit -inf"),
        (lambda ids, logits: logits - np.inf, "no token can be chosen"),
    ],
)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_processor_that_fails_is_an_error(processor, message, num_beams):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        MODEL.generate([1], max_new_tokens=5, logits_processor=processor, num_beams=num_beams)


def bits(tokens, n_words=2):
    mask = np.zeros(n_words, np.int32)
    for token in tokens:
        mask.view(np.uint32)[token // 32] |= np.uint32(1) << np.uint32(token % 32)
    return mask


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "seed": 1}, {"num_beams": 4}])
def test_a_bitmask_says_what_may_come_next(options):
    asked = []

    def allow(new_ids):
        asked.append(new_ids.tolist())
        return None if len(new_ids) == 2 else bits([31, 32, 60, 3 + len(new_ids)])

    result = MODEL.generate([1, 2], max_new_tokens=6, token_bitmask=allow, min_new_tokens=6, **options)
    for at, token in enumerate(result.token_ids):
        assert at == 2 or token in (31, 32, 60, 3 + at)
    assert asked[0] == [] and all(len(ids) < 6 for ids in asked)
    free = MODEL.generate([1, 2], max_new_tokens=6, token_bitmask=lambda new_ids: bits(range(61)), seed=1)
    assert free.token_ids == MODEL.generate([1, 2], max_new_tokens=6).token_ids


@pytest.mark.parametrize(
    "mask",
    [np.zeros(1, np.int32), np.zeros(2, np.int64), np.zeros(61, bool), np.zeros(2, np.float32)],
    ids=str,
)
def test_a_bitmask_of_another_kind_is_an_error(mask):
    with pytest.raises(ValueError, match="at least 2 int32, a bit for each of 61 tokens"):
        MODEL.generate([1], max_new_tokens=5, token_bitmask=lambda new_ids: mask)


def test_ids_without_a_text_are_never_chosen_whatever_the_mask():
    model, _ = random_gpt2(0, n_vocab=4100, tokenizer=bundled_tokenizer())
    mask = bits(range(4100), 129)
    for options in (
        {},
        {"token_bitmask": lambda new_ids: mask},
        {"token_bitmask": lambda new_ids: mask[:128]},
    ):
        row = process([1], np.zeros(4100), model=model, **options)
        assert np.flatnonzero(np.isneginf(row)).tolist() == [4096, 4097, 4098, 4099]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("suppress_tokens", [61]),
        ("logit_bias", {61: 1.0}),
        ("sequence_bias", {(1, 61): 1.0}),
        ("bad_words", [[61, 1]]),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(option, value):
    with pytest.raises(
        ValueError, match=f"{option} names token 61, but the vocabulary has 61 tokens: 0 to 60"
    ):
        MODEL.generate([1], **{option: value})


def test_what_equals_a_limit_stays():
    """The weights are exp(0), exp(-1), exp(-2); then a spread of one around a mean of one."""
    options = SamplingOptions(temperature=1.0, min_p=float(np.exp(-1.0)))
    assert np.isfinite(filtered(np.array([0, -1, -2], np.float32), options)).tolist() == [True, True, False]
    options = SamplingOptions(temperature=1.0, top_n_sigma=2.0)
    assert np.isfinite(filtered(np.array([2, 0, 2, 0], np.float32), options)).tolist() == [True] * 4


def test_of_equal_logits_the_lowest_ids_stay():
    logits = np.array([1, 2, 0, 2, 2, 2], np.float32)
    for limit in ({"top_k": 2}, {"top_p": 0.4}):
        assert np.flatnonzero(
            np.isfinite(filtered(logits, SamplingOptions(temperature=1.0, **limit)))
        ).tolist() == [1, 3]


@pytest.mark.parametrize(
    "limit", [{"top_k": 2}, {"top_p": 0.4}, {"min_p": 0.1}, {"typical_p": 0.5}, {"top_n_sigma": 1.0}]
)
def test_where_all_is_forbidden_nothing_is_left(limit):
    nothing = np.full(5, -np.inf, np.float32)
    assert np.isneginf(filtered(nothing, SamplingOptions(temperature=1.0, **limit))).all()


def test_what_removed_a_token_is_told():
    removed = {}
    row = process(
        [1, 2, 1], np.arange(61), n_prompt=3, removed=removed, no_repeat_ngram_size=2, min_new_tokens=1,
        suppress_tokens=[7, 2], bad_words=[[9], [1, 10]], logit_bias={11: -math.inf},
    )  # fmt: skip
    assert removed == {
        2: "no_repeat_ngram_size",
        3: "min_new_tokens",
        50: "min_new_tokens",
        7: "suppress_tokens",
        9: "bad_words",
        10: "bad_words",
        11: "logit_bias",
    }
    assert np.flatnonzero(np.isneginf(row)).tolist() == sorted(removed)
    options = SamplingOptions(temperature=1.0, top_k=5, top_p=0.9, min_p=0.2)
    logits = np.log(np.array([0.5, 0.2, 0.15, 0.05, 0.05, 0.05]))
    removed = {}
    kept = filtered(logits, options, removed)
    # 0.5 + 0.2 + 0.15 of 0.95 is less than 0.9 of it, with the fourth it is more; 0.05 is below 0.2 * 0.5
    assert removed == {5: "top_k", 4: "top_p", 3: "min_p"}
    assert np.flatnonzero(np.isfinite(kept)).tolist() == [0, 1, 2]


# ---- draws


def expected_distribution(row, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities after temperature, then top_k, then top_p, then min_p, each renormalised."""
    logits = row.astype(np.float64) / temperature
    order = np.argsort(-logits, kind="stable")
    p = reference.softmax(logits)[order]
    if top_k:
        p[top_k:] = 0
        p /= p.sum()
    if top_p < 1:
        before = np.cumsum(p) - p
        p[before >= top_p] = 0
        p /= p.sum()
    p[p < min_p * p[0]] = 0
    p /= p.sum()
    result = np.empty_like(p)
    result[order] = p
    return result


FILTERS = [
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 2.5},
    {"temperature": 1.5, "top_k": 4},
    {"temperature": 1.5, "top_p": 0.6},
    {"temperature": 1.5, "min_p": 0.2},
    {"temperature": 2.0, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
]


@pytest.mark.parametrize(
    "penalties",
    [{}, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "presence_penalty": 1.0}],
    ids=str,
)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_draws_follow_the_filtered_distribution(filters, penalties):
    ids = np.array([1, 2, 3, 4, 1, 2, 7, 1], np.int32)
    logits = MODEL.forward(ids, logits_to_keep=1)[0]
    options = SamplingOptions(**filters, **penalties)
    row = LogitsProcessors(MODEL, options)(logits, ids, 3)
    n, settings = (
        100_000,
        dict(seed=11, stream=0, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p),
    )
    tokens = [
        _engine.sample(logits, row, temperature=options.temperature, position=position, **settings)[0]
        for position in range(n)
    ]
    expected = expected_distribution(row, **filters)
    counts = np.bincount(tokens, minlength=61)
    assert counts[expected == 0].sum() == 0
    # Pearson's statistic over the tokens of at least 5 expected draws and the others as one; mean + 6 sigma
    common = expected * n >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common] * n, expected[~common].sum() * n)
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    freedom = len(wanted) - 1
    assert statistic < freedom + 6 * math.sqrt(2 * max(freedom, 1)) + 10


def test_filtered_agrees_with_what_is_drawn():
    """The filters of beam search and of the sampler leave the same tokens."""
    rng = np.random.default_rng(3)
    for filters in FILTERS[3:]:
        options = SamplingOptions(**filters)
        for _ in range(20):
            logits = rng.standard_normal(30).astype(np.float32) * 3
            kept = set(np.flatnonzero(np.isfinite(filtered(logits, options))).tolist())
            settings = dict(seed=1, stream=0, top_k=options.top_k, top_p=options.top_p, min_p=options.min_p)
            drawn = Counter(
                _engine.sample(logits, temperature=options.temperature, position=i, **settings)[0]
                for i in range(400)
            )
            assert set(drawn) <= kept
