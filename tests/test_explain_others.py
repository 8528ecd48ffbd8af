"""Explanations of encoder-decoder models and of BERTs: pages in a real browser, text, JSON, the command."""

import json
import re

import numpy as np
import pytest
from helpers.berts import loader, random_bert
from helpers.command_line import run
from helpers.explained import data_of
from test_explain_browser import CODE_ERROR, PERCENT, opened, panels, rounded, token_bytes, unharmed

from gpt2c import EncoderDecoder, edits
from gpt2c.introspection.head_scores import opening
from gpt2c.views import masked_explanation

DATE, WRITTEN = "the third of May, 1984", "1984-05-03"
MASKED = "The [MASK] had [MASK] daughters."


@pytest.fixture(scope="module")
def dates():
    return EncoderDecoder.from_pretrained("dates", threads=1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return loader(tmp_path_factory.mktemp("berts"))("bytes")


# ---- encoder-decoder models


def test_a_target_is_explained_or_what_greedy_decoding_writes(dates):
    _, cache = dates.run_with_cache(DATE, WRITTEN)
    for explanation in (dates.explain(DATE), dates.explain(DATE, WRITTEN)):
        assert explanation.token_ids.tolist() == cache.token_ids.tolist()
    assert dates.explain(DATE, "1999").token_ids.tolist() != cache.token_ids.tolist()


def test_the_page_shows_cross_attention(browser, files, dates):
    _, cache = dates.run_with_cache(DATE, WRITTEN)
    opened(browser, files, dates.explain(DATE, max_new_tokens=2).html)
    assert browser.text("h1") == f"{DATE} \N{RIGHTWARDS ARROW} {WRITTEN}"
    browser.click("#tab-cross")
    sources = dates.encoder.tokenizer.encode(DATE)
    assert token_bytes(browser, ".source .token") == [dates.encoder.token_bytes(i) for i in sources]
    written = [*cache.token_ids[1:].tolist(), int(cache.logits[-1].argmax())]
    assert token_bytes(browser, ".written .token") == [dates.decoder.token_bytes(i) for i in written]
    for layer, head in ((0, 2), (1, 1)):
        for name, value in (("layer", layer), ("head", head)):
            browser.js(
                f"(list => {{ list.value = {value}; list.dispatchEvent(new Event('change')); }})"
                f"(document.querySelector('#cross-{name}'))"
            )
        for row, weights in enumerate(cache["cross_attn.pattern", layer][head]):
            browser.focus(f".written[data-row='{row}']")
            found = re.findall(PERCENT, browser.text("#panel-cross .readout"))
            best = np.sort(weights)[::-1]
            for text, exact in zip(found[:5], best, strict=False):
                assert rounded(text, 100 * exact, 100 * CODE_ERROR)
            rest = found[5] if len(found) > 5 else "0"
            assert rounded(rest, 100 * best[5:].sum(), 600 * CODE_ERROR)
            for text, exact in zip(browser.all(".source .share"), weights, strict=True):
                assert rounded(text, 100 * exact, 100 * CODE_ERROR) if text else exact < best[0] / 20 + 1e-4
    unharmed(browser)


def test_the_walk_goes_through_cross_attention(browser, files, dates):
    _, cache = dates.run_with_cache(DATE, WRITTEN)
    opened(browser, files, dates.explain(DATE, layer=1, head=0, max_new_tokens=1, num_beams=1).html)
    token = int(browser.js("document.querySelector('#walk-token').value"))
    for name in ("resid_mid", "cross_attn_out", "resid_mid_cross", "mlp_out", "resid_post"):
        cells = browser.all(f"#step-feed-forward [data-vector={name}] .cell")
        assert cells and all(map(rounded, cells[:8], cache[name, 1][token])), name
    exact = cache["resid_mid", 1] + cache["cross_attn_out", 1]
    assert np.allclose(exact, cache["resid_mid_cross", 1], atol=1e-5)  # as the page says
    unharmed(browser)


def test_cross_attention_is_printed_and_in_the_json(dates):
    _, cache = dates.run_with_cache(DATE, WRITTEN)
    explanation = dates.explain(DATE, max_new_tokens=1, num_beams=1)
    lines = str(explanation).split("Cross-attention, layer 1, mean of all heads")[1].splitlines()[1:12]
    weights = cache.cross_attention(1).weights
    for line, row in zip(lines, weights, strict=True):
        shares = [int(share) for share in re.findall(r"(\d+)%", line)]
        assert shares == [round(100 * float(share)) for share in np.sort(row)[::-1][:4]]
    told = json.loads(json.dumps(explanation.to_dict()))["cross_attention"]
    assert "".join(told["sources"]) == DATE
    for layer in range(2):
        assert np.array_equal(
            np.array(told["pattern"][layer], np.float32), cache["cross_attn.pattern", layer]
        )


def test_the_command_explains_an_encoder_decoder_model(dates):
    done = run("explain", DATE, "-m", "dates", "-n", "2", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dates.explain(DATE, max_new_tokens=2).html


# ---- BERTs


def test_the_page_of_a_bert_has_the_candidates_of_each_mask(browser, files, bert):
    opened(browser, files, bert.explain(MASKED).html)
    assert panels(browser) == ["masks"]
    masks = [i for i, token in enumerate(bert.explain(MASKED).token_ids) if token == bert.mask_token_id]
    assert len(masks) == 2
    for position, found in zip(masks, bert.fill(MASKED, 10).masks, strict=True):
        browser.click(f".written[data-position='{position}']")
        tokens = token_bytes(browser, "#masks-candidates th .token")
        assert tokens == [one.bytes for one in found]
        numbers = browser.all("#masks-candidates .number")
        assert all(rounded(text, 100 * one.probability) for text, one in zip(numbers, found, strict=True))
    joint = browser.all(".ways .number")
    ways = bert.fill(MASKED, 5)
    assert all(rounded(text, 100 * way.probability) for text, way in zip(joint, ways, strict=True))
    unharmed(browser)


def test_the_page_of_a_bert_shows_both_sides(browser, files, bert):
    _, cache = bert.run_with_cache(MASKED, "attn.hook_pattern")
    opened(browser, files, bert.explain(MASKED).html)
    for position in (0, 4, len(cache.token_ids) - 1):
        browser.focus(f".written[data-position='{position}']")
        found = browser.all("#masks-sides .number")
        for layer in range(2):
            row = cache["pattern", layer][:, position].mean(axis=0)
            exact = row[:position].sum(), row[position + 1 :].sum()
            assert all(
                rounded(text, 100 * share) for text, share in zip(found[2 * layer :], exact, strict=False)
            )
    browser.click("#tab-heads")
    layer, head, token = opening(cache)
    browser.focus(f".asks .side-token[data-index='{token}']")
    best = cache["pattern", layer][head, token].max()
    assert rounded(re.search(PERCENT, browser.text("#panel-heads .told"))[0], 100 * best, 100 * CODE_ERROR)
    for view in ("gallery", "overview", "scores"):
        browser.click(f"#tab-{view}")
        assert panels(browser) == [view] and "null" not in browser.text(f"#panel-{view}")
    unharmed(browser)


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_of_other_models_fit(screen, files, bert, dates, width):
    screen.resize(width, 800)
    for page in (bert.explain(MASKED).html, dates.explain(DATE, max_new_tokens=1, num_beams=1).html):
        opened(screen, files, page)
        for tab in screen.all("[role=tab]", "e.id"):
            screen.click(f"#{tab}")
            assert screen.js("document.documentElement.scrollWidth") <= width, tab
            assert not re.search(r"\bnull\b|undefined|NaN|\[object", screen.text("main")), tab
    unharmed(screen)


def test_a_bert_without_masks_or_without_a_head_for_them_is_explained(browser, files):
    masked, _ = random_bert()
    bare, _ = random_bert(masked_head=False)
    for model, missing in ((masked, False), (bare, True)):
        explanation = model.explain([1, 5, 7, 9, 3])
        assert ("candidates" in data_of(explanation.html)) != missing
        opened(browser, files, explanation.html)
        assert "This text has no mask." in browser.text("#panel-masks")
        assert ("has no head that predicts tokens" in browser.text("#panel-masks")) == missing
        assert "Pattern of layer" in str(explanation)
        unharmed(browser)


def test_a_bert_is_printed_and_in_json_with_the_numbers_of_fill(bert):
    explanation = bert.explain(MASKED, layer=-1, head=0)
    found = bert.fill(MASKED, 5).masks
    printed = str(explanation)
    for candidates in found:
        for one in candidates:
            assert f"{one.probability:8.2%}  " in printed
    told = json.loads(json.dumps(explanation.to_dict()))
    assert (told["layer"], told["head"]) == (1, 0)
    for mask, candidates in zip(told["masks"], found, strict=True):
        assert [one["token_id"] for one in mask["candidates"]] == [one.token_id for one in candidates]
        for one, exact in zip(mask["candidates"], candidates, strict=True):  # fill rounds to float32
            assert one["probability"] == pytest.approx(exact.probability, rel=1e-6)
    _, cache = bert.run_with_cache(MASKED, "attn.hook_pattern")
    assert np.array_equal(np.array(told["pattern"], np.float32), cache["pattern", 1][0])
    assert np.array(told["sides"]).sum(axis=2) == pytest.approx(1, abs=1e-5)


def test_an_edited_bert_says_so(bert):
    changes = [("blocks.0.attn.hook_pattern", edits.scale(0.5))]
    explanation = bert.explain(MASKED, edits=changes)
    assert explanation.edits and data_of(explanation.html)["edits"]["told"] == explanation.edits
    _, cache = bert.run_with_cache(MASKED, "attn.hook_pattern", edits=changes)
    told = data_of(explanation.html)["start"]
    assert (told["layer"], told["head"], told["token"]) == tuple(opening(cache))
    assert repr(explanation) == "<Explanation of 19 tokens, 1 edit: print it, or .save(path) its page>"
    assert f"these edits change what it computes\n  {explanation.edits[0]}\n" in str(explanation)
    mask = explanation.to_dict()["masks"][0]
    logits = cache.logits[mask["position"], : bert.n_text_tokens]
    assert mask["candidates"][0]["token_id"] == logits.argmax()


def test_a_bert_computes_its_pass_once(bert, monkeypatch):
    read, passes = masked_explanation.read_masked, []
    monkeypatch.setattr(masked_explanation, "read_masked", lambda *given: passes.append(0) or read(*given))
    explanation = bert.explain(MASKED)
    assert explanation.html and str(explanation) and explanation.to_dict() and len(passes) == 1


def test_one_text_only(bert):
    with pytest.raises(TypeError, match="explain takes one text, not a list of 2"):
        bert.explain(["one", "two"])


def test_the_command_explains_a_bert(bert, tmp_path):
    done = run("explain", MASKED, "-m", bert.name, "-o", tmp_path / "page.html")
    assert done.returncode == 0 and "page.html: " in done.stderr
    assert (tmp_path / "page.html").read_text("utf-8") == bert.explain(MASKED).html
    assert "The mask at position 4" in run("explain", MASKED, "-m", bert.name).stdout
