"""What notebooks show: the text itself, escaped, with the numbers of the arrays."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.explained import NASTY, Page
from helpers.toys import random_gpt2, recite

from gpt2c.core.labels import label, labels
from gpt2c.introspection.results import Patching


def escaped(text):
    """As invisible characters are shown."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def strength(element):
    return float(re.search(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", element.attributes["style"])[1])


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("text", ["Once upon a time,\n\tthe king", *NASTY])
def test_a_score_shows_its_text_and_every_number(bundled, text, bos):
    score = bundled.score(text, bos=bos)
    page = Page(score._repr_html_())
    assert {element.tag for element in page.elements} == {"div", "span", "small"}
    assert page.all("div")[0].text == escaped(text)
    spans = [span for span in page.all("span") if "title" in span.attributes]
    told = [
        line for span in spans for line in span.attributes["title"].splitlines() if line.startswith("token ")
    ]
    assert told == [
        f"token {token}: log-probability {logprob:.4f}, rank {rank}, entropy {entropy:.4f}"
        for token, logprob, rank, entropy in zip(
            score.token_ids, score.logprobs, score.ranks, score.entropies, strict=True
        )
    ]
    assert f"perplexity {score.perplexity:.4g}" in page.all("small")[0].text


def test_the_colour_of_a_token_is_its_probability(bundled):
    score = bundled.score("Once upon a time there was")
    strengths = [strength(span) for span in Page(score._repr_html_()).all("span")]
    assert strengths == [pytest.approx(0.65 * math.exp(logprob), abs=5e-4) for logprob in score.logprobs]


def test_tokens_that_share_a_character_are_one_piece_with_their_product(bundled):
    score = bundled.score("a 你")
    spans = Page(score._repr_html_()).all("span")
    assert [span.text for span in spans] == ["a", " ", "你"]
    assert len(spans[2].attributes["title"].splitlines()) == 1 + len(score) - 2
    assert f"probability {math.exp(score.logprobs[2:].sum(dtype=float)):.3g}" in spans[2].attributes["title"]


def test_a_score_of_token_ids_shows_the_ids():
    model, _ = random_gpt2()
    spans = Page(model.score([5, 60, 7])._repr_html_()).all("span")
    assert [span.text.strip() for span in spans] == ["token 5", "token 60", "token 7"]


@pytest.mark.parametrize("text", NASTY)
def test_a_continuation_is_shown_escaped(text):
    result = recite(text).generate([0], max_new_tokens=len(text.encode()) + 1, trace=True)
    page = Page(result._repr_html_())
    assert result.text == text and page.all("div")[0].text == escaped(text)
    assert not {element.tag for element in page.elements} - {
        *("div", "small", "details", "summary", "table", "tbody", "tr", "th", "td", "bdi", "b", "s"),
    }
    assert "ended by eos" in page.all("small")[0].text


def test_the_trace_of_a_continuation_is_a_table(bundled):
    result = bundled.generate("Once upon a", max_new_tokens=4, temperature=1, top_k=5, seed=2, trace=True)
    page = Page(result._repr_html_())
    rows = page.all("tr")
    assert len(rows) == 4
    cells = iter(page.all("td"))
    for step, name in zip(result.trace.steps, page.all("th"), strict=True):
        assert name.text == str(step.position)
        for candidate in step.branches[0].candidates:
            cell = next(cells).text
            assert f"{math.exp(candidate.logprob):.1%}" in cell and ("chosen" in cell) == bool(candidate.fate)
    assert [cell.text for cell in page.all("b")] == [
        f"{bundled.token_bytes(token).decode().replace(' ', chr(0x2423))} {math.exp(logprob):.1%}"
        for token, logprob in zip(result.token_ids, result.logprobs, strict=True)
    ]
    plain = bundled.generate("Once upon a", max_new_tokens=4, seed=2, temperature=1)
    assert Page(plain._repr_html_()).all("table") == [] and "seed 2" in plain._repr_html_()


@pytest.mark.parametrize("text", ["Once upon a time", *NASTY])
def test_the_lens_is_a_table_of_first_choices(bundled, text):
    lens = bundled.run_with_cache(text)[1].logit_lens(3)
    page = Page(lens._repr_html_())
    assert not {element.tag for element in page.elements} - {
        *("div", "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi"),
    }
    heads = [head.text for head in page.all("th")]
    assert heads == ["after", *labels(lens.tokens, lens.input_ids), *reversed(lens.names)]
    cells = iter(page.all("td"))
    for layer in reversed(range(7)):
        for i in range(len(lens.tokens)):
            cell = next(cells)
            best = list(map(label, lens.top_tokens[layer][i], lens.top_ids[layer, i]))
            probabilities = np.exp(lens.top_logprobs[layer, i].astype(float))
            assert cell.text == best[0]
            assert strength(cell) == pytest.approx(0.65 * probabilities[0], abs=5e-4)
            assert cell.attributes["title"].splitlines() == [
                f"{probability:.1%} {name}" for probability, name in zip(probabilities, best, strict=True)
            ]


@pytest.mark.parametrize("text", ["Once upon a time", *NASTY])
def test_a_cache_shows_its_attention_in_a_frame(bundled, text):
    _, cache = bundled.run_with_cache(text, "*.hook_pattern")
    elements = Page(cache._repr_html_()).elements
    assert [element.tag for element in elements] == ["iframe"]
    assert elements[0].attributes["srcdoc"].lower().startswith("<!doctype html>")


def test_tokens_that_look_like_html_are_text(bundled):
    tags = '<b title="x">&amp;</b>'
    score = replace(
        bundled.score("a b"), text=f"{tags} b", offsets=[(0, len(tags)), (len(tags), len(tags) + 2)]
    )
    assert [span.text for span in Page(score._repr_html_()).all("span")] == [tags, " b"]
    lens = bundled.run_with_cache("a")[1].logit_lens(1)
    lens = replace(lens, tokens=[tags], top_tokens=[[[tags]]] * 7, names=[tags] * 7)
    page = Page(lens._repr_html_())
    assert [cell.text for cell in page.all("td")] == [label(tags)] * 7
    assert [cell.attributes["title"].partition("% ")[2] for cell in page.all("td")] == [label(tags)] * 7
    assert [head.text for head in page.all("th")] == ["after", label(tags), *[tags] * 7]


def test_a_cache_without_a_pattern_has_no_picture(bundled):
    _, cache = bundled.run_with_cache("The king", "*.hook_resid_pre")
    assert cache._repr_html_() is None


def tables(page):
    """The texts of each table's cells, row by row."""
    found = []
    for element in page.elements:
        if element.tag == "table":
            found.append([])
        elif element.tag == "tr":
            found[-1].append([])
        elif element.tag in ("td", "th"):
            found[-1][-1].append(element.text)
    return found


@pytest.mark.parametrize("text", ["Once upon a time", *NASTY])
def test_an_attribution_shows_components_and_heads(bundled, text):
    told = bundled.run_with_cache(text)[1].attribution(against=7)
    page = Page(told._repr_html_())
    assert not {element.tag for element in page.elements} - {
        *("div", "table", "caption", "thead", "tbody", "tr", "th", "td", "bdi"),
    }
    parts, heads = tables(page)
    n_layer, n_head = told.heads.shape
    assert parts[0] == ["", "attention", "feed-forward"]
    for layer, row in enumerate(parts[1 : n_layer + 1]):
        values = (told.components[f"{kind} {layer}"] for kind in ("attn", "mlp"))
        assert row == [f"layer {layer}", *(f"{value:+z.2f}" for value in values)]
    for name, row in zip(("embed", "pos_embed", "bias", "rest"), parts[n_layer + 1 :], strict=True):
        assert row == [name, f"{told.components[name]:+z.2f}"]
    assert heads[0] == ["", *map(str, range(n_head))]
    assert [row[1:] for row in heads[1:]] == [[f"{v:+z.2f}" for v in row] for row in told.heads.tolist()]
    first = page.all("div")[0].text + "".join(cell.text for cell in page.all("bdi"))
    assert f"{told.logit:.4g}" in first and label(told.token, told.token_id) in first
    most = max(map(abs, told.components.values()))
    colours = [cell.attributes["style"] for cell in page.all("td")[: 2 * n_layer]]
    kinds = [(f"attn {layer}", f"mlp {layer}") for layer in range(n_layer)]
    for colour, value in zip(colours, (told.components[k] for pair in kinds for k in pair), strict=True):
        base = "70,130,200" if value >= 0 else "205,85,70"
        assert f"rgba({base},{0.65 * abs(value) / most:.3f})" in colour


def test_head_scores_are_a_map_for_each_score(bundled):
    scores = bundled.run_with_cache("the king and the king", "*.hook_pattern")[1].head_scores()
    page = Page(scores._repr_html_())
    names = ["previous token", "duplicate token", "induction", "first token", "entropy (nats)"]
    assert [caption.text for caption in page.all("caption")] == names
    for table, values in zip(tables(page), vars(scores).values(), strict=True):
        assert [row[1:] for row in table[1:]] == [[f"{v:.2f}" for v in row] for row in values.tolist()]
    # Where no token qualifies there is no number and no colour.
    scores = bundled.run_with_cache("a", "*.hook_pattern", logits_to_keep=1)[1].head_scores()
    page = Page(scores._repr_html_())
    assert {cell for row in tables(page)[0][1:] for cell in row[1:]} == {"-"}
    assert "rgba" not in page.all("td")[0].attributes["style"]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_a_trace_alone_is_its_table(bundled, options):
    trace = bundled.generate("Once upon a", max_new_tokens=4, trace=True, **options).trace
    page = Page(trace._repr_html_())
    assert {element.tag for element in page.elements} <= {
        *("div", "table", "tbody", "tr", "th", "td", "bdi", "b", "s"),
    }
    branches = [branch for step in trace.steps for branch in step.branches]
    assert len(page.all("tr")) == len(branches)
    assert len(page.all("td")) == sum(len(branch.candidates) for branch in branches)


@pytest.mark.parametrize(
    "over", [("resid_pre", range(6)), ("z", [0, 5], "all", [1, 3]), ("z", [2], [0, 1], [2])]
)
def test_patches_are_maps(bundled, over):
    texts = ["The king said he was", "The queen said he was"]
    found = bundled.patch(*texts, over if len(over) > 2 else (*over, range(5)), lambda logits: logits[0, 7])
    page = Page(found._repr_html_())
    shown = np.array([[row[1:] for row in table[1:]] for table in tables(page)], float)
    values = found.values if len(over) != 4 or over[2] == "all" else found.values.swapaxes(0, 1)
    assert np.abs(shown - values.reshape(shown.shape)).max() <= 0.005
    assert [row[0] for row in tables(page)[0][1:]] == [f"layer {layer}" for layer in over[1]]
    words = [label(text) for text in ("The", " queen", " said", " he", " was")]
    if len(over) == 2:
        assert tables(page)[0][0][1:] == [f"{i} {word}" for i, word in enumerate(words)]
    elif over[2] == "all":
        assert tables(page)[0][0][1:] == ["head 1", "head 3"]
    else:
        assert [caption.text for caption in page.all("caption")] == [f"z at {i} {words[i]}" for i in (0, 1)]


@pytest.mark.parametrize(
    ("numbers", "strengths"),
    [([-4.0, -2.0], [0, 0.65]), ([-1.0, 2.0], [0.325, 0.65]), ([1.0, 3.0], [0, 0.65])],
)
def test_the_colours_of_patches_go_from_the_least_to_the_most_or_from_0_if_it_lies_between(
    numbers, strengths
):
    found = Patching("z", [0, 1], None, None, np.array([1]), ["a"], np.array(numbers))
    cells = Page(found._repr_html_()).all("td")
    assert [strength(cell) for cell in cells] == strengths
    assert ["205,85,70" in cell.attributes["style"] for cell in cells] == [numbers[0] < 0 < numbers[1], False]
