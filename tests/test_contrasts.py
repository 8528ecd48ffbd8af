"""Contrastive search, beams in groups, guidance: against transformers (golden/contrasts.json), by formula."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from data.golden import recipe
from helpers.toys import counted_calls, random_gpt2

from gpt2c import GPT2, ContextLengthError, reference
from gpt2c.core import _engine
from gpt2c.generation.options import SamplingOptions

SCORE_BOUND = 1e-4
CASES = json.loads((recipe.FOLDER / "contrasts.json").read_text())["cases"]
MODELS = {case.name: (case.config, case.weights()) for case in recipe.SEARCH_CASES}
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 4}
GROUPS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.8}
GUIDED = {"guidance_scale": 2.0}
EACH = [CONTRASTIVE, GROUPS, GUIDED, {**GUIDED, "negative_prompt": "It was a cold winter, and the"}]


def gpt2_of(name, eos=()):
    config, weights = MODELS[name]
    return GPT2(_engine.Weights(replace(config, eos_token_ids=tuple(eos)), weights.__getitem__), threads=1)


def found_by(case, **more):
    """What gpt2c finds for a recorded set of options."""
    options = dict(case["options"])
    if "sequence_bias" in options:
        options["sequence_bias"] = {tuple(ids): bias for ids, bias in options["sequence_bias"]}
    found = gpt2_of(case["model"], case["eos"]).generate(case["prompt"], **options, **more)
    return found if isinstance(found, list) else [found]


def difference(case):
    """What is wrong with the texts found, or "" for nothing."""
    found = found_by(case, trace=case["kind"] == "guidance")
    texts, scores = [one.token_ids for one in found], case["scores"]
    if case["kind"] == "groups":  # where the first of these stands for all that end a text
        texts = [[*t[:-1], case["eos"][0]] if t[-1] in case["eos"] else t for t in texts]
    if texts != case["texts"]:
        return f"{texts} instead of {case['texts']}"
    if case["kind"] == "groups":
        mine = [one.score for one in found]
        bounds = [SCORE_BOUND * max(1, len(t) ** -case["options"]["length_penalty"]) for t in texts]
    elif case["kind"] == "guidance":
        chosen = [c for step in found[0].trace.steps for c in step.branches[0].candidates if c.fate]
        if case["options"].keys() & {"repetition_penalty"}:
            return ""  # what is recorded is behind it
        mine, bounds = [c.score for c in chosen], [SCORE_BOUND * 20] * len(chosen)
    else:
        return ""
    far = [(a, b) for a, b, bound in zip(mine, scores, bounds, strict=True) if abs(a - b) > bound]
    return f"scores {far}" if far else ""


def test_what_is_recorded_is_of_all_kinds():
    assert min(Counter(case["kind"] for case in CASES).values()) >= 90
    ends = Counter(case["kind"] for case in CASES if any(t[-1] in case["eos"] for t in case["texts"]))
    assert min(ends[kind] for kind in ("contrastive", "groups", "guidance")) >= 30
    options = Counter(name for case in CASES for name in case["options"])
    assert options["negative_prompt"] >= 40 and options["repetition_penalty"] >= 60


@pytest.mark.parametrize("kind", ["contrastive", "groups", "guidance"])
def test_texts_and_scores_equal_those_of_transformers(kind):
    wrong = {i: difference(case) for i, case in enumerate(CASES) if case["kind"] == kind}
    assert not {i: what for i, what in wrong.items() if what}


@pytest.mark.oracle
def test_live_texts_are_those_recorded():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    if tuple(map(int, transformers.__version__.split(".")[:2])) > (4, 49):
        pytest.skip(
            "later versions have some of them as code from the hub only: pip install transformers==4.49.0"
        )
    from data.golden import make_contrasts

    for name in MODELS:
        model = make_contrasts.build(name)
        for case in CASES:
            if case["model"] == name:
                texts, scores = make_contrasts.ask(model, case["prompt"], case["eos"], case["options"])
                assert texts == case["texts"]
                if scores is not None:
                    np.testing.assert_allclose(scores, case["scores"], rtol=1e-5, atol=1e-5)


# ---- contrastive search


def by_the_formula(config, weights, prompt, n, k, alpha):
    """Su et al. 2022, equation 1, in float64."""
    text = list(prompt)
    for _ in range(n):
        p = reference.softmax(reference.forward(config, weights, np.array(text))[-1])
        scores = {}
        for token in np.argsort(-p, kind="stable")[:k]:
            hidden = last_hidden(config, weights, [*text, token])
            hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
            scores[token] = (1 - alpha) * p[token] - alpha * (hidden[:-1] @ hidden[-1]).max()
        text.append(int(max(scores, key=scores.get)))
    return text[len(prompt) :]


def last_hidden(config, weights, ids):
    """What the head multiplies: the reference of a model whose head is the identity."""
    identity = dict(weights, **{"lm_head.weight": np.eye(config.n_embd, dtype=np.float32)})
    own = replace(config, tie_word_embeddings=False)
    return reference.forward(own, identity, np.array(ids))


@pytest.mark.parametrize(("k", "alpha"), [(2, 0.6), (5, 0.3), (8, 1.0), (61, 0.5)])
def test_every_token_is_the_one_of_the_paper(k, alpha):
    model, weights = random_gpt2(5)
    for prompt in ([1], list(range(3, 20))):
        found = model.generate(prompt, max_new_tokens=12, penalty_alpha=alpha, top_k=k)
        assert found.token_ids == by_the_formula(model.config, weights, prompt, 12, k, alpha)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("n_prompt", [1, 15, 16, 17, 100])
def test_caches_of_candidates_hold_what_the_text_says(dtype, n_prompt):
    """Log-probabilities of the text are those of computing it alone, to the last bit."""
    model, _ = random_gpt2(3, n_ctx=200, dtype=dtype)
    prompt = np.random.default_rng(n_prompt).integers(61, size=n_prompt).tolist()
    found = model.generate(prompt, max_new_tokens=40, **CONTRASTIVE)
    rows = model.forward(prompt + found.token_ids[:-1])[n_prompt - 1 :]
    assert found.logprobs == [
        float(row[token]) - _engine.log_sum_exp(row) for row, token in zip(rows, found.token_ids, strict=True)
    ]
    assert len(set(found.token_ids)) > 5


def test_a_step_is_one_pass_of_all_candidates(monkeypatch):
    model, _ = random_gpt2(3)
    calls = counted_calls(monkeypatch)
    model.generate([[1, 2, 3], [4]], max_new_tokens=3, **CONTRASTIVE)
    assert calls == [(2, 4), (8, 8), (8, 8), (8, 8)]


def test_the_last_token_needs_a_position():
    model, _ = random_gpt2(3, n_ctx=20)
    assert len(model.generate([1] * 12, max_new_tokens=8, **CONTRASTIVE).token_ids) == 8
    with pytest.raises(ContextLengthError, match=r"all of them need 21 positions.*at most 7 new tokens fit"):
        model.generate([1] * 13, max_new_tokens=8, **CONTRASTIVE)
    cut = model.generate([*range(13)], max_new_tokens=8, overflow="truncate_left", **CONTRASTIVE)
    assert cut.prompt_token_ids == [*range(1, 13)] and len(cut.token_ids) == 8
    most = model.generate([*range(13)], max_new_tokens=19, overflow="truncate_left", **CONTRASTIVE)
    assert most.prompt_token_ids == [12] and len(most.token_ids) == 19
    with pytest.raises(ContextLengthError, match=r"lower max_new_tokens \(-n\) to at most 19$"):
        model.generate([1], max_new_tokens=20, overflow="truncate_left", **CONTRASTIVE)


def test_forbidden_tokens_are_no_candidates():
    model, _ = random_gpt2(3)
    only = {5, 9}
    options = dict(max_new_tokens=6, suppress_tokens=set(range(61)) - only, **CONTRASTIVE)
    assert set(model.generate([1], **options).token_ids) <= only
    with pytest.raises(ValueError, match="no token can be chosen"):
        model.generate([1], **options | {"suppress_tokens": range(61)})


def test_it_repeats_itself_less(bundled):
    prompt, n = "The king had three daughters, and", 60
    greedy = bundled.generate(prompt, max_new_tokens=n).token_ids
    contrastive = bundled.generate(prompt, max_new_tokens=n, **CONTRASTIVE).token_ids
    assert len(set(pairwise(contrastive))) > len(set(pairwise(greedy)))


# ---- groups


def test_groups_are_searches_that_pay_for_what_others_took():
    """With one beam each and a penalty beyond all, no token comes twice in one place."""
    model, weights = random_gpt2(3)
    p = reference.forward(model.config, weights, np.array([1, 2]))[-1]
    found = model.generate(
        [1, 2],
        max_new_tokens=5,
        num_beams=5,
        num_beam_groups=5,
        num_return_sequences=5,
        diversity_penalty=1e5,
    )
    assert {one.token_ids[0] for one in found} == set(np.argsort(-p)[:5].tolist())
    for step in range(5):
        assert len({one.token_ids[step] for one in found}) == 5


def test_the_first_group_is_the_search_alone():
    model, _ = random_gpt2(6, eos_token_ids=(3, 4))
    alone = model.generate([1, 2], max_new_tokens=9, num_beams=3, num_return_sequences=3)
    found = model.generate(
        [1, 2],
        max_new_tokens=9,
        num_beams=6,
        num_beam_groups=2,
        num_return_sequences=6,
        diversity_penalty=2.0,
    )
    for one in alone:
        assert any((one.token_ids, one.score) == (other.token_ids, other.score) for other in found)


def test_the_trace_follows_beams_of_all_groups():
    model, _ = random_gpt2(6, eos_token_ids=(3, 4))
    [best, *_] = model.generate(
        [1, 2], max_new_tokens=9, num_return_sequences=4, trace=True, **GROUPS
    )  # fmt: skip
    live = {0: [], 1: []}
    for step in best.trace.steps:
        assert [branch.token_ids for branch in step.branches] == [live[i] for i in range(len(live))]
        live = {
            int(c.fate.removeprefix("beam ")): [*branch.token_ids, c.token_id]
            for branch in step.branches
            for c in branch.candidates
            if c.fate.startswith("beam")
        }
    first, second = (
        {c.token_id: c for c in branch.candidates} for branch in best.trace.steps[0].branches
    )  # fmt: skip
    taken = [token for token, c in first.items() if c.fate]
    assert len(taken) == 2
    for token in first.keys() & second.keys():
        cost = first[token].score - second[token].score
        assert cost == pytest.approx(0.8 if token in taken else 0, abs=1e-6)


# ---- guidance


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.5, 4.0])
@pytest.mark.parametrize("negative", [None, [7], [9, 8, 7, 6]])
def test_every_token_is_the_most_probable_after_guidance(scale, negative):
    model, weights = random_gpt2(5)
    prompt = [1, 2, 3]
    found = model.generate(prompt, max_new_tokens=10, guidance_scale=scale, negative_prompt=negative)
    for at, token in enumerate(found.token_ids):
        c, u = (
            reference.log_softmax(reference.forward(model.config, weights, np.array(text)))[-1]
            for text in (prompt + found.token_ids[:at], (negative or prompt[-1:]) + found.token_ids[:at])
        )
        assert token == (u + scale * (c - u)).argmax()
        assert found.logprobs[at] == pytest.approx(c[token], abs=1e-4)


def test_a_step_is_one_pass_for_both_contexts(monkeypatch):
    model, _ = random_gpt2(3)
    calls = counted_calls(monkeypatch)
    model.generate([[1, 2, 3], [4]], max_new_tokens=3, negative_prompt=[5, 6], **GUIDED)
    assert calls == [(4, 8), (4, 4), (4, 4)]


def test_an_empty_negative_prompt_is_the_beginning_of_a_text(bundled):
    options = dict(max_new_tokens=8, **GUIDED)
    found = bundled.generate("The king had", negative_prompt="", **options)
    assert found.token_ids == bundled.generate("The king had", negative_prompt=[0], **options).token_ids


def test_a_guided_draw_is_from_what_is_guided():
    """10,000 first tokens, against the probabilities by the formula."""
    model, weights = random_gpt2(5, n_vocab=8, std=0.2)
    c, u = (
        reference.log_softmax(reference.forward(model.config, weights, np.array(text)))[-1]
        for text in ([1, 2], [2])
    )
    expected = np.exp(reference.log_softmax(u + 3 * (c - u)))
    n = 10_000
    options = dict(max_new_tokens=1, temperature=1.0, guidance_scale=3.0, seed=1)
    found = model.generate([1, 2], num_return_sequences=n, **options)
    counts = np.bincount([one.token_ids[0] for one in found], minlength=8) / n
    np.testing.assert_allclose(counts, expected, atol=6 * math.sqrt(0.25 / n))


def test_the_negative_prompt_needs_room_too():
    model, _ = random_gpt2(3, n_ctx=20)
    with pytest.raises(ContextLengthError, match="the negative prompt has 15 tokens"):
        model.generate([1], max_new_tokens=8, negative_prompt=[2] * 15, **GUIDED)


# ---- all of them


@pytest.mark.parametrize("options", EACH, ids=str)
def test_a_text_is_the_same_in_any_company_and_by_any_way(bundled, options):
    given = dict(max_new_tokens=16, **options)
    [alone] = bundled.generate(["The king had"], **given)
    prompts = ["A wolf", "The king had", "Once upon a time there was a poor man who had"]
    for batch_size in (None, 1, 2, 9):
        together = bundled.generate(prompts, batch_size=batch_size, **given)
        assert together[1].token_ids == alone.token_ids and together[1].logprobs == alone.logprobs
    session = bundled.session("The king had")
    session.suggest()
    assert session.generate(**given).token_ids == alone.token_ids
    assert session.suggest(k=1)[0] == bundled.suggest("The king had", k=1)[0]
    with bundled.scheduler(slice_tokens=3) as scheduler:
        plain = scheduler.submit("Long ago", max_new_tokens=30)
        waiting = [scheduler.submit(prompt, **given) for prompt in prompts]
        assert waiting[1].future.result()[0].logprobs == alone.logprobs
        assert plain.future.result()[0].logprobs == bundled.generate("Long ago", max_new_tokens=30).logprobs
    assert bundled.generate("The king had", max_new_tokens=16).token_ids != alone.token_ids
    if "num_beams" not in options:
        with bundled.stream("The king had", **given) as stream:
            assert "".join(stream) == alone.text
        pieces = bundled.generate(["The king had"], num_return_sequences=2, **given)
        assert [one.token_ids for one in pieces] == [alone.token_ids] * 2


@pytest.mark.parametrize("options", [CONTRASTIVE, GUIDED], ids=str)
def test_the_trace_has_what_tokens_compete_by(bundled, options):
    found = bundled.generate("The king had", max_new_tokens=4, trace=True, **options)
    for step, token in zip(found.trace.steps, found.token_ids, strict=True):
        known = [c for c in step.branches[0].candidates if c.score is not None]
        assert max(known, key=lambda c: c.score).token_id == token
        [chosen] = [c for c in known if c.fate == "chosen"]
        assert chosen.token_id == token
        left_out = {c.removed_by for c in step.branches[0].candidates if c.score is None}
        assert left_out == ({"top_k"} if options is CONTRASTIVE else set())
    assert "removed by top_k" in str(found.trace) or options is GUIDED


@pytest.mark.parametrize("options", EACH[:3], ids=str)
def test_what_a_deadline_leaves_is_whole(bundled, options):
    found = bundled.generate("The king had", max_new_tokens=200, deadline=1e-9, **options)
    assert found.finish_reason == "deadline" and found.token_ids == []


def test_who_is_told_of_steps_hears_of_tokens_alone(bundled):
    steps = []
    with bundled.scheduler() as scheduler:
        scheduler.submit("The king had", max_new_tokens=3, notify=steps.extend, **CONTRASTIVE).future.result()
    assert [len(step.token_ids) for step in steps] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_alpha": 1.1, "top_k": 4}, "penalty_alpha must be from 0 (none) to 1, not 1.1"),
        ({"penalty_alpha": 0.6}, "top_k is 0, allowed: 2 to 1024"),
        ({**CONTRASTIVE, "temperature": 1.0}, "penalty_alpha goes with temperature=0 only"),
        ({**CONTRASTIVE, "num_beams": 2}, "penalty_alpha goes without num_beams"),
        ({**CONTRASTIVE, "draft": "prompt"}, "penalty_alpha goes without draft"),
        ({**CONTRASTIVE, "heal": True}, "penalty_alpha goes without heal"),
        ({**CONTRASTIVE, "names_filter": None}, "penalty_alpha goes without names_filter"),
        ({**CONTRASTIVE, "overflow": "slide"}, "give overflow='error' or 'truncate_left'"),
        ({"guidance_scale": math.inf}, "guidance_scale must be from -1000 to 1000 (1 is none), not inf"),
        ({"negative_prompt": "x"}, "negative_prompt is for guidance: give a guidance_scale"),
        ({**GUIDED, "negative_prompt": ["a", "b"]}, "a token id in negative_prompt must be an integer"),
        ({**GUIDED, "negative_prompt": 7}, "negative_prompt must be one text, token ids, or None"),
        ({**GUIDED, **CONTRASTIVE}, "guidance_scale goes without penalty_alpha"),
        ({**GUIDED, "num_beams": 2}, "guidance_scale goes without num_beams"),
        ({**GUIDED, "draft": "prompt"}, "guidance_scale goes without draft"),
        ({**GUIDED, "heal": True}, "guidance_scale goes without heal"),
        ({**GUIDED, "overflow": "slide"}, "give overflow='error' or 'truncate_left'"),
        (
            {**GROUPS, "num_beam_groups": 3},
            "num_beam_groups is 3; allowed: a divisor of num_beams, which is 4",
        ),
        ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups is 2 and diversity_penalty 0: give both"),
        ({"num_beams": 4, "diversity_penalty": 1}, "num_beam_groups is 1 and diversity_penalty 1: give both"),
        ({**GROUPS, "temperature": 1.0}, "num_beam_groups goes with temperature=0 only"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        SamplingOptions(**options)
    assert message in str(caught.value)


def test_too_many_candidates_for_a_scheduler_are_refused():
    model, _ = random_gpt2(0)
    with model.scheduler(max_texts=1) as scheduler:
        with pytest.raises(ValueError, match="top_k is 4; allowed: 1 to 1"):
            scheduler.submit([1], max_new_tokens=2, **CONTRASTIVE)
        with pytest.raises(ValueError, match="guidance_scale computes 2 texts together; allowed: 1 to 1"):
            scheduler.submit([1], max_new_tokens=2, **GUIDED)


def test_who_does_not_use_them_does_not_import_them():
    code = (
        "import sys; from gpt2c import GPT2; model = GPT2.from_pretrained(); "
        "model.generate('a', max_new_tokens=2, num_beams=2); model.generate('a', max_new_tokens=2); "
        "own = ('hidden', 'contrastive', 'guidance'); "
        "print([name for name in own if f'gpt2c.generation.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
