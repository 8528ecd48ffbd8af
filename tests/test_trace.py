"""The record of a generation tells what happened, to the token."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers.toys import random_gpt2

from gpt2c import reference


def texts_of(trace):
    return [[branch.token_ids for branch in step.branches] for step in trace.steps]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.5, "top_k": 4, "seed": 2}, {"temperature": 9.0, "seed": 1}]
)
def test_every_step_of_one_text(options):
    model, weights = random_gpt2(4, eos_token_ids=(3,))
    penalties = dict(no_repeat_ngram_size=1, suppress_tokens=[8], min_new_tokens=8)
    result = model.generate([1, 2], max_new_tokens=8, trace=True, **penalties, **options)
    plain = model.generate([1, 2], max_new_tokens=8, **penalties, **options)
    assert plain.trace is None
    assert (plain.token_ids, plain.logprobs) == (result.token_ids, result.logprobs), "looking changes nothing"
    assert [step.position for step in result.trace.steps] == list(range(2, 10))
    rows = reference.log_softmax(
        reference.forward(model.config, weights, np.array([1, 2, *result.token_ids]))
    )[1:]
    if options.get("temperature") == 9.0:
        assert any(len(step.branches[0].candidates) == 11 for step in result.trace.steps)
    for at, (step, row) in enumerate(zip(result.trace.steps, rows, strict=False)):
        (branch,) = step.branches
        assert branch.token_ids == result.token_ids[:at] and branch.score is None
        assert branch.greedy == row.argmax()
        shown = [candidate.token_id for candidate in branch.candidates]
        assert set(np.argsort(-row)[:10].tolist()) <= set(shown) and len(shown) <= 11
        assert [c.token_id for c in branch.candidates if c.fate == "chosen"] == [result.token_ids[at]]
        forbidden = {8: "suppress_tokens", 3: "min_new_tokens"}
        forbidden |= dict.fromkeys([1, 2, *result.token_ids[:at]], "no_repeat_ngram_size")
        allowed = [token for token in np.argsort(-row).tolist() if token not in forbidden]
        for candidate in branch.candidates:
            assert candidate.logprob == pytest.approx(row[candidate.token_id], abs=1e-4)
            expected = forbidden.get(candidate.token_id)
            if options.get("top_k") and not expected and candidate.token_id not in allowed[:4]:
                expected = "top_k"
            assert candidate.removed_by == expected


def test_every_step_of_a_search():
    model, _ = random_gpt2(8, eos_token_ids=(3, 30, 41))
    found = model.generate(
        [5], max_new_tokens=6, num_beams=3, num_return_sequences=3, trace=True, suppress_tokens=[9]
    )
    trace = found[0].trace
    assert all(result.trace is trace for result in found)
    live, ended = {0: ([], 0.0)}, []
    for step in trace.steps:
        assert [(branch.token_ids, branch.score) for branch in step.branches] == [
            live[i] for i in range(len(live))
        ]
        following = {}
        for branch in step.branches:
            for candidate in branch.candidates:
                text = [*branch.token_ids, candidate.token_id]
                if candidate.removed_by:
                    assert candidate.token_id == 9 and candidate.score is None and not candidate.fate
                else:
                    assert candidate.score == pytest.approx(branch.score + candidate.logprob, abs=1e-5)
                if candidate.fate == "ended":
                    ended.append((candidate.score / len(text), text))
                elif candidate.fate:
                    following[int(candidate.fate.removeprefix("beam "))] = (text, candidate.score)
        live = following
    ended.sort(reverse=True)
    assert [result.token_ids for result in found] == [text for _, text in ended[:3]]
    assert [result.score for result in found] == [score for score, _ in ended[:3]]


def test_a_trace_is_text_and_json(bundled):
    result = bundled.generate("The king had", max_new_tokens=2, num_beams=2, trace=True, suppress_tokens=[13])
    text = str(result.trace)
    assert text.startswith("position 3\n  beam 0     0.0000  ''\n")
    assert "  greedy would choose it" in text.replace(",", " ") and "ended" in text
    data = json.loads(json.dumps(result.trace.to_dict()))
    assert len(data["steps"]) == 2
    first = data["steps"][0]["branches"][0]["candidates"][0]
    suggestion = bundled.suggest("The king had", k=1)[0]
    assert first["text"] == suggestion.text and first["fate"] == "beam 0"
    assert math.exp(first["logprob"]) == pytest.approx(suggestion.probability, rel=1e-6)


def test_trace_must_be_yes_or_no(bundled):
    with pytest.raises(TypeError, match="trace must be True or False, not 10"):
        bundled.generate("a", trace=10)
