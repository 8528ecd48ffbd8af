"""The masked model beside GPT-2, in the walk: its weights and both models' guesses, in a real browser."""

import numpy as np
import pytest
from helpers.explained import data_of
from helpers.pages import axe
from helpers.toys import bundled_tokenizer, random_gpt2
from test_explain_browser import opened, rounded, softmax, token_bytes, unharmed
from test_explain_walk import select

from gpt2c.introspection.head_scores import opening
from gpt2c.views.pages import explain_page
from gpt2c.views.pages.beside import masked_for

TEXT = "The princess was sad because her golden ball fell"
HIDDEN = 1  # " princess"
OPTIONS = {"max_new_tokens": 1, "num_beams": 1}


@pytest.fixture(scope="module")
def cache(bundled):
    return bundled.run_with_cache(TEXT)[1]


@pytest.fixture(scope="module")
def page(bundled):
    return explain_page(bundled, TEXT, **OPTIONS)


@pytest.fixture
def shown(browser, files, page):
    """The page, just opened; nobody may have complained in the end."""
    yield opened(browser, files, page)
    unharmed(browser)


def seen(masked, text):
    """What the masked model captures of the text as its own tokenizer reads it."""
    return masked.run_with_cache(text, "attn.hook_pattern")[1]


def numbers(browser, column):
    found = browser.all("#walk-beside tbody tr", "[...e.querySelectorAll('.number')].map(c => c.textContent)")
    return [row[column] for row in found]


@pytest.mark.parametrize("position", [0, HIDDEN, 8])
def test_the_weights_of_both_models_are_side_by_side(shown, masked, cache, position):
    other = seen(masked, TEXT)
    assert other.token_ids.tolist() == [0, *cache.token_ids.tolist(), 0]  # one token before, one behind
    select(shown, "#walk-token", position)
    for layer, head in ((2, 0), (4, 3), (0, 1)):
        select(shown, "#beside-layer", layer)
        select(shown, "#beside-head", head)
        exact = other["pattern", layer][head, position + 1]
        *each, rest = numbers(shown, 1)
        assert all(map(rounded, each, exact[1:-1])) and len(each) == len(exact) - 2
        assert rounded(rest, exact[0] + exact[-1])
        before, behind = shown.all(
            "#step-attention [data-number=before], #step-attention [data-number=behind]"
        )
        assert rounded(before, 100 * exact[: position + 1].sum(), 1e-4)
        assert rounded(behind, 100 * exact[position + 2 :].sum(), 1e-4)
        mine = cache["pattern", opening(cache).layer][opening(cache).head, position]
        assert all(map(rounded, numbers(shown, 0), mine))


def started(browser):
    """The masked model's layer and head."""
    return browser.all("#beside-layer, #beside-head", "Number(e.value)")


def test_the_masked_model_opens_with_the_head_that_looks_behind_the_token(shown, masked, cache):
    other, at = seen(masked, TEXT), opening(cache).token + 1
    behind = np.stack([other["pattern", i][:, at, at + 2 : -1].max(axis=1) for i in range(5)])
    assert tuple(started(shown)) == np.unravel_index(behind.argmax(), behind.shape)


def test_where_nothing_is_behind_the_token_it_opens_with_the_most_telling_head(
    browser, files, bundled, masked
):
    opened(browser, files, explain_page(bundled, "The king had", **OPTIONS))
    assert started(browser) == list(opening(seen(masked, "The king had"))[:2])
    unharmed(browser)


def test_both_models_guess_the_token(shown, bundled, masked, cache):
    select(shown, "#walk-token", HIDDEN)
    ids = [0, *cache.token_ids.tolist(), 0]
    ids[HIDDEN + 1] = masked.mask_token_id
    left = softmax(cache.logits[HIDDEN - 1].astype(float))
    both = softmax(masked.forward(ids)[HIDDEN + 1].astype(float))
    for name, p in (("left", left), ("masked", both)):
        best = np.argsort(-p[:4096], kind="stable")[:5].tolist()
        own = int(cache.token_ids[HIDDEN])
        best += [own] if own not in best else []
        assert token_bytes(shown, f"#beside-{name} .token") == [bundled.token_bytes(token) for token in best]
        found = shown.all(f"#beside-{name} .number")
        assert all(rounded(text, 100 * p[token], 1e-3) for text, token in zip(found, best, strict=True))
        notes = shown.all(f"#beside-{name} td.note")
        assert [token for token, note in zip(best, notes, strict=True) if note] == [own]
    assert both[own] > left[own]  # it is the sides that make the difference


def test_the_first_token_is_guessed_by_the_masked_model_alone(shown):
    select(shown, "#walk-token", 0)
    assert "this model does not guess it" in shown.text("#step-attention")
    assert shown.all("#beside-left") == [] and shown.all("#beside-masked") != []


def test_the_start_of_a_text_is_guessed_by_nobody(browser, files, bundled):
    opened(browser, files, explain_page(bundled, "", **OPTIONS))
    assert browser.all("#beside-masked") == [] and browser.all("#walk-beside") != []
    unharmed(browser)


def test_tokens_around_the_text_are_not_put_there_twice(browser, files, bundled, masked):
    text = "<|endoftext|>The end.<|endoftext|>"
    opened(browser, files, explain_page(bundled, text, special=True, **OPTIONS))
    other = seen(masked, "The end.")
    layer, head = started(browser)
    select(browser, "#walk-token", 1)
    exact = other["pattern", layer][head, 1]
    assert all(map(rounded, numbers(browser, 1), [*exact, 0]))
    unharmed(browser)


def test_of_a_long_text_the_shown_tokens_are_there(browser, files, bundled, masked):
    text = "The king gave his golden ball to the princess. " * 30
    html = explain_page(bundled, text, **OPTIONS)
    data = data_of(html)
    places, other = np.array(data["walk"]["shown"]), seen(masked, text)
    assert len(html.encode()) < 3_000_000 and len(places) == 16
    opened(browser, files, html)
    at = int(browser.js("document.querySelector('#walk-token').value"))
    layer, head = started(browser)
    exact = other["pattern", layer][head, at + 1]
    *each, rest = numbers(browser, 1)
    assert all(map(rounded, each, exact[places + 1])) and rounded(rest, 1 - exact[places + 1].sum(), 1e-4)
    unharmed(browser)


class Swapped:
    """The bundled tokenizer, but for two tokens, which change places."""

    def __getattr__(self, name):
        return getattr(bundled_tokenizer(), name)

    def token_bytes(self, token):
        return bundled_tokenizer().token_bytes({700: 701, 701: 700}.get(token, token))


def test_the_masked_model_is_there_where_all_tokens_mean_the_same():
    ids, found = [5, 7, 9, 11], []
    for n_vocab, tokenizer in ((4096, bundled_tokenizer()), (4096, Swapped()), (4095, bundled_tokenizer())):
        model, _ = random_gpt2(n_vocab=n_vocab, tokenizer=tokenizer)
        found.append(masked_for(model.run_with_cache(ids)[1]) is not None)
    assert found == [True, False, False]


def test_the_masked_model_is_left_out_where_it_cannot_read_the_text(browser, files, bundled):
    without, _ = random_gpt2(n_vocab=61)  # and without a tokenizer
    too_long = "The king " * 255 + "The"
    for model, text in ((without, [5, 7, 9, 11]), (bundled, too_long)):
        html = explain_page(model, text, **OPTIONS)
        assert "beside" not in data_of(html)
        opened(browser, files, html)
        assert browser.all("#walk-beside") == [] and "masked model" not in browser.text("#panel-walk")
        unharmed(browser)


def test_axe_finds_nothing_beside(browser, files, page):
    try:
        for width, dark in ((360, True), (1280, False)):
            browser.resize(width, 800)
            browser.media(dark=dark)
            opened(browser, files, page)
            assert axe(browser) == []
            assert browser.js("document.documentElement.scrollWidth") <= width
    finally:
        browser.resize(1200, 900)
        browser.media()
