"""The walk, the map and the gallery of a page in a real browser: numbers of every layer, head and token."""

import math
import re

import numpy as np
import pytest
from helpers.explained import VIEWS, data_of
from helpers.toys import random_gpt2
from test_explain_browser import CODE_ERROR, PERCENT, opened, panels, rounded, softmax, token_bytes, unharmed

from gpt2c import edits
from gpt2c.introspection.head_scores import opening
from gpt2c.views.pages import explain_page

ANIMAL = "The animal didn't cross the street because it was too tired"
IT, LATER = 8, 11
# How opaque each pixel of a canvas is.
ALPHAS = "[...e.getContext('2d').getImageData(0, 0, e.width, e.height).data].filter((_, i) => i % 4 === 3)"


@pytest.fixture(scope="module")
def animal(bundled):
    return bundled.run_with_cache(ANIMAL)[1]


@pytest.fixture(scope="module")
def page(bundled):
    return explain_page(bundled, ANIMAL, max_new_tokens=2, num_beams=1)


@pytest.fixture
def shown(browser, files, page):
    """The page of ANIMAL, just opened; nobody may have complained in the end."""
    yield opened(browser, files, page)
    unharmed(browser)


def select(browser, name, value):
    """Choose in a list, as its keys do."""
    browser.js(
        f"(list => {{ list.value = {value}; list.dispatchEvent(new Event('change')); }})"
        f"(document.querySelector('{name}'))"
    )


def chosen(browser):
    """What the lists of the walk say: layer, head, token."""
    lists = ("#walk-layer", "#walk-head", "#walk-token")
    return tuple(int(browser.js(f"document.querySelector('{name}').value")) for name in lists)


def scores_of(cache, layer, head):
    q, k = (cache[name, layer][:, head].astype(np.float64) for name in "qk")
    return q @ k.T / math.sqrt(q.shape[1])


# ---- what it opens with, and how that is changed


def test_the_page_opens_with_the_most_telling_head_and_token(shown, animal):
    assert chosen(shown) == tuple(opening(animal))
    options = zip(shown.all("#walk-token option"), shown.all("#walk-key option"), animal.tokens, strict=True)
    assert all(token.strip() in followed and token.strip() in key for followed, key, token in options)
    assert shown.js("document.querySelector('input[name=followed]:checked').value") == f"{chosen(shown)[2]}"
    shown.click("#tab-heads")
    assert shown.all(".asks [aria-pressed=true]", "Number(e.dataset.index)") == [opening(animal).token]
    assert shown.all(".head[aria-pressed=true]") == [f"{opening(animal).head}"]


@pytest.mark.parametrize("way", ["lists", "map", "keyboard"])
def test_layer_head_and_token_are_changed_in_the_walk(shown, animal, way):
    layer, head = 4, 1
    if way == "lists":
        select(shown, "#walk-layer", layer)
        select(shown, "#walk-head", head)
        select(shown, "#walk-token", IT)
    elif way == "map":
        shown.click(f'.cell-head[data-layer="{layer}"][data-head="{head}"]')
        shown.click(f".chips label:nth-child({IT + 1})")
    else:
        shown.focus("[data-part=tokens]")
        shown.press("End", "ArrowLeft", "ArrowLeft", "ArrowLeft")
        shown.press("ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown")
        assert shown.js("document.activeElement.ariaLabel") == "Layer 4, head 1"
        shown.press("Enter")
        shown.focus("input[name=followed]:checked")
        now = int(shown.js("document.activeElement.value"))
        shown.press(*["ArrowLeft"] * (now - IT), *["ArrowRight"] * (IT - now))
    assert chosen(shown) == (layer, head, IT)
    found = shown.all("#walk-softmax tbody tr", "e.querySelectorAll('.number')[3].textContent")
    weights = animal["pattern", layer][head, IT]
    assert all(map(rounded, found[: IT + 1], weights[: IT + 1])) and found[IT + 1 :] == ["0"] * (LATER - IT)


@pytest.mark.parametrize(("layer", "head"), [(0, 3), (5, 0)])
def test_every_layer_and_head_has_its_numbers(shown, animal, layer, head):
    select(shown, "#walk-layer", layer)
    select(shown, "#walk-head", head)
    select(shown, "#walk-token", IT)
    for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        for cells in strips(shown, name, IT):
            assert all(map(rounded, cells, animal[name, layer][IT])), name
    for name in "qkvz":
        for cells in strips(shown, name, IT):
            exact = animal[name, layer][IT, head, : len(cells)]
            assert all(rounded(*each, 0.001) for each in zip(cells, exact, strict=True))
    words = shown.text("#step-projections .words")
    assert words.endswith(f"these are of layer {layer}, head {head}.")


def strips(browser, name, position):
    found = browser.all(
        f'.strip[data-vector="{name}"][data-token="{position}"]',
        "[...e.querySelectorAll('.cell')].map(c => c.textContent)",
    )
    assert found and all(found)
    return found


def test_the_first_number_of_the_query_is_a_row_times_a_column(shown, bundled, animal):
    layer, head, _ = opening(animal)
    select(shown, "#walk-layer", layer)
    select(shown, "#walk-head", head)
    select(shown, "#walk-token", IT)
    weights = bundled.weights
    row = animal["ln1.hook_normalized", layer][IT].astype(float) * weights[f"h.{layer}.ln_1.weight"]
    row += weights[f"h.{layer}.ln_1.bias"]
    column = weights[f"h.{layer}.attn.c_attn.weight"][:, 64 * head]
    bars = shown.all("#step-projections .products rect", "Number(e.dataset.product)")
    assert bars == pytest.approx(row * column, rel=1e-4, abs=1e-6) and len(bars) == 256
    for name, exact in (("row", row), ("column", column), ("product", row * column)):
        cells = shown.all(f"[data-vector=made-{name}] .cell")
        assert all(rounded(cell, number) for cell, number in zip(cells, exact[:8], strict=True)), name
    query = animal["q", layer][IT, head, 0]
    bias = weights[f"h.{layer}.attn.c_attn.bias"][64 * head]
    made = shown.all("#step-projections [data-made]")
    assert all(map(rounded, made, (query - bias, bias, query), [1e-4] * 3))
    select(shown, "#walk-head", (head + 1) % 4)
    assert shown.all("#step-projections [data-made]") == []
    assert f"Layer {layer}, head {head}, with which the page opens" in shown.text("#step-projections")


# ---- attention


@pytest.mark.parametrize("key", [1, LATER])
def test_a_score_is_the_sum_of_the_products_of_query_and_key(shown, animal, key):
    layer, head = 3, 2
    select(shown, "#walk-token", IT)
    select(shown, "#walk-key", key)
    products = animal["q", layer][IT, head].astype(float) * animal["k", layer][key, head]
    bars = shown.all("#step-products .products rect", "Number(e.dataset.product)")
    assert np.abs(bars - products).max() < 0.001 and len(bars) == 64
    up = shown.all("#step-products .products rect", "e.classList.contains('above')")
    assert [bar >= 0 for bar in bars] == up
    heights = np.array(shown.all("#step-products .products rect", "Number(e.getAttribute('height'))"))
    tops = np.array(shown.all("#step-products .products rect", "Number(e.getAttribute('y'))"))
    assert tops == pytest.approx(np.where(products < 0, 48, 48 - heights), abs=0.05)
    assert heights == pytest.approx(48 * np.abs(products) / np.abs(products).max(), abs=0.05)
    total, score = shown.all("#step-products [data-number]")
    assert rounded(total, products.sum(), 1e-4) and rounded(score, products.sum() / 8, 1e-4)
    cells = shown.all("[data-vector=product-product] .cell")
    assert all(rounded(cell, exact, 0.001) for cell, exact in zip(cells, products[:8], strict=True))


def test_the_pair_begins_with_the_key_that_has_most_weight(shown, animal):
    select(shown, "#walk-token", IT)
    best = animal["pattern", opening(animal).layer][opening(animal).head, IT].argmax()
    assert int(shown.js("document.querySelector('#walk-key').value")) == best


def test_the_same_scores_without_a_mask_stand_beside(shown, animal):
    layer, head, _ = opening(animal)
    for position in (IT, LATER):
        select(shown, "#walk-token", position)
        exact = softmax(scores_of(animal, layer, head)[position])
        found = shown.all("#walk-softmax tbody tr", "[...e.querySelectorAll('.number')].at(-1).textContent")
        assert all(map(rounded, found, exact))
        later = shown.all("#step-attention [data-number=later]")
        assert (later != []) == (position == IT)
        assert not later or rounded(later[0], 100 * exact[IT + 1 :].sum(), 1e-4)


def test_all_heads_of_the_layer_are_small_pictures(shown, animal):
    select(shown, "#walk-layer", 2)
    select(shown, "#walk-token", IT)
    pattern = animal["pattern", 2][:, IT]
    bars = np.array(shown.all(".small-head rect", "Number(e.dataset.weight)")).reshape(4, -1)
    assert np.abs(bars - pattern).max() < 1e-5
    best = token_bytes(shown, ".small-head .best .token")
    assert best == [animal.model.token_bytes(int(animal.token_ids[i])) for i in pattern.argmax(axis=1)]
    percents = [re.search(PERCENT, text)[0] for text in shown.all(".small-head span.best")]
    assert all(map(rounded, percents, 100 * pattern.max(axis=1)))
    shown.focus(".small-head[aria-pressed=true]")
    shown.press("Home", "ArrowRight", "Enter")
    assert chosen(shown)[:2] == (2, 1)
    assert shown.js("document.activeElement.dataset.head") == "1"  # the keyboard stays where it was


# ---- logits and sampling


def test_logits_are_called_so_and_scores_are_of_attention(shown, animal):
    for position in (IT, LATER):
        select(shown, "#walk-token", position)
        logits = animal.logits[position]
        best = np.argsort(-logits, kind="stable")[:10]
        rows = shown.all("#walk-logits tbody tr", "[...e.querySelectorAll('td')].map(c => c.textContent)")
        assert token_bytes(shown, "#walk-logits .token") == [
            animal.model.token_bytes(int(token)) for token in best
        ]
        for (logit, row), token in zip(rows, best, strict=True):
            assert rounded(logit, logits[token]) and row == f"row {token:,}"
    for step in ("logits", "sampling"):
        assert "score" not in shown.text(f"#step-{step}")
    for step in ("products", "attention"):
        assert "logit" not in shown.text(f"#step-{step}")


def slide(browser, selector, steps):
    browser.focus(selector)
    browser.press(*["ArrowRight" if steps > 0 else "ArrowLeft"] * abs(steps))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 0.5), (0.7, 5, 0.8), (1.3, 30, 0.9)])
def test_temperature_top_k_and_top_p_are_those_of_generate(shown, bundled, animal, temperature, top_k, top_p):
    select(shown, "#walk-token", LATER)
    slide(shown, "#walk-temperature", round(10 * (temperature - 1)))
    if top_k:
        slide(shown, "#walk-top-k", top_k - 41)
    slide(shown, "#walk-top-p", round(20 * (top_p - 1)))
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": 0, "max_new_tokens": 1}
    [step] = bundled.generate(ANIMAL, trace=True, **how).trace.steps
    candidates = {one.token_id: one for one in step.branches[0].candidates}
    logits = animal.logits[-1].astype(np.float64) / temperature
    order = np.argsort(-logits, kind="stable")
    p = softmax(logits[order[: top_k or None]])
    kept = int(np.searchsorted(np.cumsum(p), top_p)) + 1
    exact = np.zeros(10)
    exact[: min(kept, 10)] = (p[:kept] / p[:kept].sum())[:10]
    rows = shown.all(".distribution tbody tr", "[e.className, e.querySelector('.number').textContent]")
    assert [kind for kind, _ in rows[:10]] == ["" if i < kept else "removed" for i in range(10)]
    assert all(rounded(text, 100 * value) for (_, text), value in zip(rows, exact, strict=False))
    for i in range(10):  # as the generation itself says
        one = candidates.get(int(order[i]))
        assert one is None or bool(one.removed_by) == (i >= kept)
    if kept < 40:
        assert shown.text("#walk-kept").startswith(f"{kept} token{'s' * (kept > 1)} can be drawn")


def test_a_nucleus_beyond_the_known_logits_is_said_to_be_rough(shown, animal):
    select(shown, "#walk-token", LATER)
    slide(shown, "#walk-temperature", 10)
    slide(shown, "#walk-top-p", -1)
    note = shown.text("#walk-kept")
    assert note.startswith("Top p keeps more than the 40 tokens that this page has the logits of")
    p = np.sort(softmax(animal.logits[-1].astype(np.float64) / 2))[::-1]
    kept = int(np.searchsorted(np.cumsum(p), 0.95)) + 1
    exact = p[:10] / p[:kept].sum()
    error = p[39] / 0.95  # as the note says
    rows = shown.all(".distribution tbody .number")[:10]
    for text, value in zip(rows, 100 * exact, strict=True):
        assert rounded(text, value, value * error)


# ---- the map


def test_the_map_has_every_part_and_says_where_one_is(shown):
    assert len(shown.all(".cell-head")) == 24 and len(shown.all(".feed")) == 6
    for part, step in (("embedding", 2), ("logits", 10), ("sampling", 11), ("tokens", 1)):
        shown.click(f"[data-part={part}]")
        assert shown.text("#here").startswith(f"You are here: step {step} of the walk")
        assert shown.all(".map [aria-current]", "e.dataset.part") == [part]
        top = shown.js(f"document.querySelector('#step-{part}').getBoundingClientRect().top")
        assert 0 <= top < 400
    shown.click('.layer[data-layer="2"] .feed')
    assert chosen(shown)[0] == 2
    assert shown.all(".map [aria-current]", "e.ariaLabel") == ["Layer 2, feed-forward"]
    shown.click('.cell-head[data-layer="5"][data-head="3"]')
    assert chosen(shown)[:2] == (5, 3)
    assert shown.text("#here") == "You are here: step 6 of the walk: Score, mask, softmax · layer 5, head 3"


def test_the_map_leaves_a_view_of_heads_open(shown):
    shown.click("#tab-heads")
    shown.click('.cell-head[data-layer="1"][data-head="2"]')
    assert panels(shown) == ["heads"] and shown.text("#here") == "You are here: Heads · layer 1, head 2"
    assert shown.js("document.querySelector('#heads-layer').value") == "1"
    shown.click("[data-part=embedding]")
    assert panels(shown) == ["walk"]
    for view in VIEWS:
        if shown.all(f"#tab-{view}"):
            shown.click(f"#tab-{view}")
            assert len(shown.all(".map [aria-current]")) <= 1


def test_the_map_knows_the_step_that_is_read(shown):
    shown.js("document.querySelector('#step-values').scrollIntoView()")
    shown.wait("document.querySelector('#here').textContent.includes('Values, weighted and summed')")
    shown.click(".here button")
    assert shown.js("scrollY") == 0 and shown.js("document.activeElement.matches('.map button')")
    layer, head, _ = chosen(shown)
    assert shown.js("document.activeElement.ariaLabel") == f"Layer {layer}, head {head}"  # where one was


# ---- the gallery


def test_the_gallery_names_heads_with_their_scores(shown, animal, page):
    shown.click("#tab-gallery")
    scores = animal.head_scores()
    for kind in ("previous_token", "first_token"):
        text = shown.text(f".exhibit[data-kind={kind}] [data-number=score]")
        assert rounded(text, 100 * getattr(scores, kind).max())
        layer, head = np.unravel_index(getattr(scores, kind).argmax(), (6, 4))
        assert shown.text(f".open[data-kind={kind}]") == f"Open layer {layer}, head {head}"
    assert "Not in this text: it takes a token that occurs twice." in shown.text("[data-kind=induction]")
    for one in data_of(page)["gallery"]["heads"]:
        if "layer" in one:
            card = f".exhibit[data-kind={one['kind']}]"
            weight = animal["pattern", one["layer"]][one["head"], one["token"], one["key"]]
            assert rounded(shown.text(f"{card} [data-number=weight]"), 100 * weight)
            ids = [int(animal.token_ids[one[name]]) for name in ("token", "key")]
            assert token_bytes(shown, f"{card} .token") == [animal.model.token_bytes(i) for i in ids]


def test_a_head_of_the_gallery_is_opened_with_its_token(shown, animal, page):
    found = {one["kind"]: one for one in data_of(page)["gallery"]["heads"]}["pronoun"]
    assert animal.tokens[found["token"]] == " it"
    assert animal.tokens[found["key"]] in (" animal", " street", " cross")
    shown.click("#tab-gallery")
    shown.point("h1")
    shown.focus(".open[data-kind=pronoun]")
    shown.press("Enter")
    assert panels(shown) == ["heads"]
    readout = shown.text("#panel-heads .readout")
    assert f"(position {IT})" in readout
    pattern = animal["pattern", found["layer"]][found["head"], IT]
    assert rounded(re.search(PERCENT, readout)[0], 100 * pattern.max(), 100 * CODE_ERROR)
    shown.click("#tab-walk")
    assert chosen(shown) == (found["layer"], found["head"], IT)


def test_the_gallery_shows_the_patterns(shown, animal, page):
    shown.click("#tab-gallery")
    pictures = np.array(shown.all(".exhibit canvas", ALPHAS))
    heads = [one for one in data_of(page)["gallery"]["heads"] if "layer" in one]
    exact = np.stack([animal["pattern", one["layer"]][one["head"]].ravel() for one in heads])
    assert np.abs(pictures - 255 * np.sqrt(exact)).max() <= 1


# ---- beginnings, ends, edits


def test_the_empty_text_is_the_start_token(browser, files, bundled):
    opened(browser, files, explain_page(bundled, "", max_new_tokens=2))
    assert token_bytes(browser, ".chips .token") == [b"<|endoftext|>"]
    assert "begins the text" in browser.text(".chips") and "ends a text" not in browser.text(".chips")
    assert "the text ends there" in browser.text("#step-sampling")
    unharmed(browser)


def test_typed_special_tokens_are_tokens_and_end_a_text(browser, files, bundled):
    typed = "The end.<|endoftext|>Once upon"
    opened(browser, files, explain_page(bundled, typed, special=True, max_new_tokens=2))
    ids = bundled.tokenizer.encode(typed, special=True)
    assert ids[3] == 0 and len(ids) == 6
    assert token_bytes(browser, ".chips .token")[3] == b"<|endoftext|>"
    assert [("ends a text" in chip) for chip in browser.all(".chip")] == [False] * 3 + [True] + [False] * 2
    unharmed(browser)


def test_edited_weights_are_those_of_the_edit(browser, files, bundled):
    changes = [("blocks.2.pattern", edits.scale(3, heads=0))]
    _, cache = bundled.run_with_cache(ANIMAL, "*.hook_pattern", edits=changes)
    opened(browser, files, explain_page(bundled, ANIMAL, layer=2, head=0, edits=tuple(changes), num_beams=1))
    select(browser, "#walk-token", IT)
    found = browser.all("#walk-softmax tbody tr", "e.querySelectorAll('.number')[3].textContent")
    assert all(map(rounded, found[: IT + 1], cache["pattern", 2][0, IT, : IT + 1]))
    unharmed(browser)


# ---- long texts


def test_a_long_text_says_what_it_leaves_out(browser, files, bundled):
    """Of 500 tokens: the largest weights, small pictures, some tokens to follow."""
    ids = np.random.default_rng(2).integers(1, 4096, 500).tolist()
    _, cache = bundled.run_with_cache(ids, "*.hook_pattern")
    html = explain_page(bundled, ids, layer=3, head=1, max_new_tokens=1, num_beams=1)
    kept = data_of(html)["attention"]["kept"]
    opened(browser, files, html)
    assert len(browser.all(".chip")) == 16
    assert "The text has 484 tokens more" in browser.text("#step-tokens .note")
    browser.click("#tab-heads")
    note = f"of each token, this page tells the {kept} largest weights; smaller ones are left out"
    assert note in browser.text("#heads-left-out")
    browser.focus(".asks .side-token[data-index='400']")
    row = np.sort(cache["pattern", 3][1, 400])[::-1]
    found = re.findall(PERCENT, browser.text("#panel-heads .told"))
    step = 27 / 255  # of 8 bits
    for text, exact in zip(found[:5], row, strict=False):
        assert rounded(text, 100 * exact, 100 * max(step / 32, exact * math.expm1(step / 2)))
    assert f"{kept - 5} others together" in browser.text("#panel-heads .told")
    browser.click("#tab-overview")
    size = browser.js("document.querySelector('.thumb canvas').width")
    edges = np.arange(size) * 500 // size
    pooled = np.maximum.reduceat(np.maximum.reduceat(cache["pattern", 3][1], edges, 0), edges, 1)
    [picture] = browser.all(".thumb[data-layer='3'][data-head='1'] canvas", ALPHAS)
    assert np.abs(picture - 255 * np.sqrt(pooled.ravel())).max() <= 1
    unharmed(browser)


def test_layers_of_a_long_text_are_chosen(browser, files, bundled):
    ids = np.random.default_rng(2).integers(1, 4096, 500).tolist()
    html = explain_page(bundled, ids, layer=3, layers=[0, -1], max_new_tokens=1, num_beams=1)
    opened(browser, files, html)
    assert browser.js("performance.now()") < 30_000
    browser.click("#tab-heads")
    assert browser.all("#heads-layer option") == ["0", "3", "5"]
    browser.click("#tab-overview")
    browser.click('.thumb[data-layer="2"][data-head="0"]')  # whose attention is not in the page
    assert panels(browser) == ["walk"] and chosen(browser)[:2] == (2, 0)
    browser.click("#tab-heads")
    assert "all attention of layers 0, 3, 5 only" in browser.text("#heads-left-out")
    unharmed(browser)


def test_multi_query_attention_shares_keys(browser, files):
    model, _ = random_gpt2(n_kv_head=1)
    ids = list(range(9))
    _, cache = model.run_with_cache(ids)
    opened(browser, files, explain_page(model, ids, layer=1, head=1, max_new_tokens=1, num_beams=1))
    select(browser, "#walk-token", 7)
    select(browser, "#walk-key", 3)
    products = cache["q", 1][7, 1].astype(float) * cache["k", 1][3, 0]
    bars = browser.all("#step-products .products rect", "Number(e.dataset.product)")
    assert np.abs(bars - products).max() < 1e-3 * np.abs(products).max() + 1e-4
    unharmed(browser)
