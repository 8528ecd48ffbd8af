"""The walk, the map, the lens and pairs of texts in the page of a BERT, in a real browser."""

import math
import re

import numpy as np
import pytest
from helpers.berts import random_bert
from helpers.command_line import run
from helpers.explained import data_of
from helpers.pages import axe
from test_explain_browser import CODE_ERROR, PERCENT, opened, panels, rounded, softmax, token_bytes, unharmed
from test_explain_walk import select, strips

from gpt2c.introspection.head_scores import opening

TEXT = "The princess had three [MASK], and she was fair."
MASK = 5
PAIR = ("The king had three [MASK].", "They were fair.")


@pytest.fixture(scope="module")
def cache(masked):
    return masked.run_with_cache(TEXT)[1]


@pytest.fixture(scope="module")
def page(masked):
    return masked.explain(TEXT).html


@pytest.fixture
def shown(browser, files, page):
    """The walk of TEXT; nobody may have complained in the end."""
    opened(browser, files, page)
    browser.click("#tab-walk")
    yield browser
    unharmed(browser)


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (4, 3)])
def test_every_layer_of_a_bert_has_its_numbers(shown, cache, layer, head):
    select(shown, "#walk-layer", layer)
    select(shown, "#walk-head", head)
    select(shown, "#walk-token", MASK)
    of_page = {
        **{
            name: name
            for name in ("resid_pre", "attn_out", "resid_mid", "pre", "post", "mlp_out", "resid_post")
        },
        "normalized": "normalized_resid_mid",
        "normalized2": "normalized_resid_post",
    }
    for name, full in of_page.items():
        found = strips(shown, name, MASK)
        of = [layer] * len(found)
        if name == "resid_pre":  # what enters layer 0 is shown first
            of = [0, *([layer] * (layer > 0)), layer, layer]
        for cells, one in zip(found, of, strict=True):
            assert all(map(rounded, cells, cache[full, one][MASK])), name
    for name in ("embed", "pos_embed", "token_type_embed"):
        assert all(map(rounded, strips(shown, name, MASK)[0], cache[name][MASK])), name
    for name in "qkvz":
        for cells in strips(shown, name, MASK):
            exact = cache[name, layer][MASK, head, : len(cells)]
            assert all(rounded(*each, 0.001) for each in zip(cells, exact, strict=True)), name


def test_a_bert_attends_to_both_sides_in_the_walk(shown, cache):
    for layer, head, token in ((1, 2, MASK), (4, 0, 0)):
        select(shown, "#walk-layer", layer)
        select(shown, "#walk-head", head)
        select(shown, "#walk-token", token)
        q, k = (cache[name, layer][:, head].astype(float) for name in "qk")
        scores = q[token] @ k.T / math.sqrt(q.shape[1])
        rows = shown.all(
            "#walk-softmax tbody tr", "[...e.querySelectorAll('.number')].map(c => c.textContent)"
        )
        assert len(rows) == len(scores)
        for (score, power, weight), exact, share in zip(rows, scores, softmax(scores), strict=True):
            assert rounded(score, exact, 1e-3) and rounded(weight, share, 1e-4)
            assert rounded(power, math.exp(exact - scores.max()), 1e-3)
        assert "mask" not in shown.text("#walk-softmax thead")
        total = shown.text("#step-products [data-number=score]")
        best = cache["pattern", layer][head, token].argmax()
        assert rounded(total, scores[best], 1e-3)


def test_the_walk_ends_with_the_logits_of_the_place(shown, masked, cache):
    select(shown, "#walk-token", MASK)
    best = np.argsort(-cache.logits[MASK], kind="stable")[:10]
    assert token_bytes(shown, "#walk-logits .token") == [masked.token_bytes(int(token)) for token in best]
    numbers = shown.all("#walk-logits tbody tr", "e.querySelector('.number').textContent")
    assert all(map(rounded, numbers, cache.logits[MASK, best]))
    assert all(
        map(rounded, strips(shown, "normalized_last", MASK)[0], cache["ln_final.hook_normalized"][MASK])
    )
    assert all(map(rounded, strips(shown, "resid_last", MASK)[0], cache["normalized_resid_post", -1][MASK]))


def test_the_first_number_of_a_query_is_a_row_times_a_column(shown, masked, cache):
    layer, head, token = opening(cache)
    row, weights = cache["resid_pre", layer][token].astype(float), masked.weights
    column = weights[f"h.{layer}.attn.c_attn.weight"][:, 64 * head]
    bars = shown.all("#step-projections .products rect", "Number(e.dataset.product)")
    assert bars == pytest.approx(row * column, rel=1e-4, abs=1e-6) and len(bars) == 256
    bias = weights[f"h.{layer}.attn.c_attn.bias"][64 * head]
    made = shown.all("#step-projections [data-made]")  # the weights are int4, so the row is rounded
    expected = (bias, (row * column).sum() + bias, cache["q", layer][token, head, 0])
    assert all(map(rounded, made, expected, [1e-3] * 3))


def test_the_walk_of_a_bert_says_nothing_of_a_next_token(browser, files, page):
    opened(browser, files, page)
    for view in ("walk", "lens", "heads", "gallery", "overview", "scores"):
        browser.click(f"#tab-{view}")
        assert not re.search(r"\bnext\b|Keys of later tokens", browser.text(f"#panel-{view}")), view
    assert "next" not in browser.text(".map")
    unharmed(browser)


def test_the_map_of_a_bert_leads_through_its_page(browser, files, page):
    opened(browser, files, page)
    assert panels(browser) == ["masks"]
    browser.click(".cell-head[data-layer='2'][data-head='3']")
    assert panels(browser) == ["walk"]
    assert browser.all("#walk-layer, #walk-head", "Number(e.value)") == [2, 3]
    browser.click("[data-part=logits]")
    assert "step 9 of the walk: The head and its logits" in browser.text("#here")
    unharmed(browser)


def test_the_lens_of_a_bert_is_its_logit_lens(browser, files, page, masked, cache):
    lens = cache.logit_lens(k=5)
    opened(browser, files, page)
    browser.click("#tab-lens")
    assert token_bytes(browser, ".lens thead .token") == [masked.token_bytes(int(i)) for i in lens.token_ids]
    for layer in (0, 3, 5):
        browser.focus(f".lens [data-layer='{layer}'][data-position='{MASK}']")
        told = browser.text("#panel-lens .readout")
        assert "in the place of" in told
        for text, exact in zip(
            re.findall(PERCENT, told), np.exp(lens.top_logprobs[layer, MASK]), strict=False
        ):
            assert rounded(text, 100 * exact, 1e-3)
    unharmed(browser)


def test_weights_are_there_on_a_phone(browser, files, masked, page, bundled):
    try:
        browser.resize(360, 800)
        for html in (page, bundled.explain("The king had three", max_new_tokens=1, num_beams=1).html):
            opened(browser, files, html)
            browser.click("#tab-walk")
            for table in browser.all("#walk-softmax, #walk-beside", "e.id"):
                seen = browser.all(f"#{table} tbody tr", "[...e.children].filter(c => c.offsetWidth).length")
                names = browser.all(f"#{table} thead th", "e.offsetWidth ? e.textContent : ''")
                assert len(set(seen)) == 1 and seen[0] >= 3, table
                assert any("weight" in name or "masked model" in name for name in names), table
    finally:
        browser.resize(1200, 900)
    unharmed(browser)


# ---- pairs of texts


def test_lines_can_be_those_between_two_sentences(browser, files, masked):
    explanation = masked.explain(PAIR)
    _, [cache] = masked.run_with_cache([PAIR])
    assert explanation.token_ids.tolist() == cache.token_ids.tolist()
    second = cache.tokens.index("They")
    layer, head, _ = opening(cache)
    opened(browser, files, explanation.html)
    browser.click("#tab-heads")
    parts = {"A": range(second), "B": range(second, len(cache.tokens))}
    for name, (asks, answers) in {
        "all": ("AB", "AB"),
        **{f"{a} → {b}": (a, b) for a in "AB" for b in "AB"},
    }.items():
        index = browser.all("#panel-heads .choice label").index(name) + 1
        browser.click(f"#panel-heads .choice label:nth-child({index})")
        for token in (2, second + 1):
            browser.focus(f".asks .side-token[data-index='{token}']")
            inside = [key for part in answers for key in parts[part]]
            row = np.zeros(len(cache.tokens))
            if any(token in parts[part] for part in asks):
                row[inside] = cache["pattern", layer][head, token][inside]
            found = re.findall(PERCENT, browser.text("#panel-heads .told"))
            best = np.sort(row[row > 0])[::-1]
            assert len(found) == min(len(best), 6)
            for text, exact in zip(found[:5], best, strict=False):
                assert rounded(text, 100 * exact, 100 * CODE_ERROR)
    unharmed(browser)


def test_a_single_text_has_no_sentences(browser, files, page):
    opened(browser, files, page)
    browser.click("#tab-heads")
    assert browser.all("#panel-heads .choice") == []


@pytest.mark.parametrize("types", [1, 2])
def test_the_second_text_begins_behind_what_is_between_them(types):
    model, _ = random_bert(n_types=types)
    explanation = model.explain(([5, 7, 9], [11, 13]))
    assert data_of(explanation.html)["second"] == 3 == explanation.to_dict()["second"]
    _, [cache] = model.run_with_cache([([5, 7, 9], [11, 13])])
    told = np.array(explanation.to_dict()["pattern"], np.float32)
    place = data_of(explanation.html)["start"]
    assert np.array_equal(told, cache["pattern", place["layer"]][place["head"]])


def test_the_command_takes_a_pair(masked):
    done = run("explain", PAIR[0], "--second", PAIR[1], "-m", "masked", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == masked.explain(PAIR).html
    done = run("explain", PAIR[0], "--second", PAIR[1])
    assert done.returncode == 1 and "--second is for a BERT, which reads pairs of texts" in done.stderr


def test_axe_finds_nothing_in_the_page_of_a_bert(browser, files, masked):
    try:
        for width, dark in ((360, True), (1280, False)):
            browser.resize(width, 800)
            browser.media(dark=dark)
            opened(browser, files, masked.explain(PAIR).html)
            for view in browser.all("[role=tab]", "e.id"):
                browser.click(f"#{view}")
                assert axe(browser) == [], view
                assert browser.js("document.documentElement.scrollWidth") <= width, view
    finally:
        browser.resize(1200, 900)
        browser.media()
    unharmed(browser)
