"""How the page of an explanation draws texts: characters in several tokens, marks, what is hidden, paper."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from helpers.explained import TEXT, Page, data_of
from helpers.pages import opened, token_bytes, unharmed
from helpers.toys import random_gpt2

from gpt2c.tokenizer import gpt2_tokenizer
from gpt2c.views.pages import explain_page
from gpt2c.views.pages.parts import json_text

FAMILY, FLAG = "👩\u200d👩\u200d👧", "🇩🇪"
QUICK = {"max_new_tokens": 2, "num_beams": 2}


# ---- characters in several tokens


def groups(browser, where):
    """The characters that lie in several tokens, with the bytes of these."""
    found = browser.all(
        f"{where} .joined", "[e.querySelector('.character').textContent, e.querySelectorAll('.token').length]"
    )
    tokens = iter(token_bytes(browser, f"{where} .joined .token"))
    return [(character, [next(tokens) for _ in range(count)]) for character, count in found]


PLACES = {
    "heads": (".asks", ".answers"),
    "scores": ("#panel-scores .matrix-left", "#panel-scores .matrix-top"),
    "text": (".running",),
}


def test_the_tokens_of_one_character_lie_together_under_it(browser, files, bundled):
    whole = ["国", "王", FAMILY, FLAG]
    text = f"The {''.join(whole[:2])} had {FAMILY} in{FLAG} two"
    opened(browser, files, explain_page(bundled, text, **QUICK))
    expected = [(one, [bytes([byte]) for byte in one.encode()]) for one in whole]
    for view, places in PLACES.items():
        browser.click(f"#tab-{view}")
        for place in places:
            assert groups(browser, place)[: len(whole)] == expected, place
    assert b"".join(token_bytes(browser, ".running .token")) == text.encode()
    browser.click("#tab-generation")
    assert groups(browser, ".sentence") == expected
    assert browser.all(".steps .character") == whole
    unharmed(browser)


def test_the_lens_has_characters_above_their_columns(browser, files, bundled):
    opened(browser, files, explain_page(bundled, "a国b", **QUICK))
    browser.click("#tab-lens")
    row = "[...e.cells].map(c => [c.textContent, c.colSpan])"
    # Above: what is next, of which "a" is not; below: the tokens themselves. The first cell is of the names.
    assert browser.all(".lens thead .characters", row) == [[["", 1], ["国", 3], ["", 2]]]
    assert browser.all(".lens tfoot .characters", row) == [[["", 1], ["", 1], ["国", 3], ["", 1]]]


def test_the_walk_says_which_character_a_token_is_a_part_of(browser, files, bundled):
    opened(browser, files, explain_page(bundled, f"a国{FLAG}", **QUICK))
    note = "e.querySelector('.of-character')"
    chips = f"[parseInt(e.textContent.match(/position (\\d+)/)[1]), {note}?.textContent ?? '']"
    parts = dict(browser.all(".chip", chips))
    assert len(parts) > 4
    for position, part in parts.items():
        assert part == ("" if position == 0 else f"part of {'国' if position < 4 else FLAG}")
    borders = browser.all(".chip .of-character", "getComputedStyle(e).borderTopWidth")
    assert borders == ["0px"] * (len(parts) - 1)


def test_a_token_with_a_space_and_a_part_of_a_character(browser, files):
    """GPT-2's own vocabulary has a space with the first byte, or two, of characters of Chinese."""
    model, _ = random_gpt2(3, n_vocab=50257, tokenizer=gpt2_tokenizer())
    text = "the 国 is é"
    ids = model.encode([text])[0].tolist()
    pieces = [model.token_bytes(one) for one in ids]
    assert b" \xe5\x9b" in pieces or b" \xe5" in pieces
    opened(browser, files, explain_page(model, text, **QUICK))
    browser.click("#tab-text")
    [(character, parts)] = groups(browser, ".running")
    assert character == "␣国" and b"".join(parts) == " 国".encode()
    assert token_bytes(browser, ".running .token") == pieces


@pytest.mark.parametrize("text", ["plain", "\r\n\r\n", b"\xff\xfe\xff", "a\u0301"])
def test_what_is_no_character_in_several_tokens_is_not_grouped(browser, files, bundled, text):
    if isinstance(text, bytes):
        every = [bundled.token_bytes(token) for token in range(bundled.n_text_tokens)]
        text = [every.index(bytes([byte])) for byte in text]
    opened(browser, files, explain_page(bundled, text, **QUICK))
    browser.click("#tab-text")
    assert browser.all(".running .character") == (["a\u0301"] if text == "a\u0301" else [])


# ---- marks

CONTROLS = (
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "⇥", "⏎", "VT", "FF", "CR", "SO", "SI"),
    *(
        "DLE",
        "DC1",
        "DC2",
        "DC3",
        "DC4",
        "NAK",
        "SYN",
        "ETB",
        "CAN",
        "EM",
        "SUB",
        "ESC",
        "FS",
        "GS",
        "RS",
        "US",
    ),
    "DEL",
)


def test_every_control_has_a_picture(browser, files, bundled):
    text = "".join(map(chr, range(32))) + "\x7f"
    opened(browser, files, explain_page(bundled, text, **QUICK))
    browser.click("#tab-text")
    assert browser.all(".running .token") == [*CONTROLS]
    assert b"".join(token_bytes(browser, ".running .token")) == text.encode()
    frames = browser.all(".running .mark.named", "getComputedStyle(e).borderTopStyle")
    assert len(frames) == 31 and set(frames) == {"solid"}


def test_invisible_characters_are_called_by_name_and_emoji_are_whole(browser, files, bundled):
    text = f"a\u00a0b\u200bc\u00add\u200de {FAMILY} ❤\ufe0f 🏴\U000e0067\U000e0062\U000e007f x"
    opened(browser, files, explain_page(bundled, text, **QUICK))
    assert browser.all("h1 .mark") == ["NBSP", "ZWSP", "SHY", "ZWJ"]
    shown = browser.text("h1")
    assert FAMILY in shown and "❤\ufe0f" in shown and "🏴\U000e0067\U000e0062\U000e007f" in shown


# ---- what is left out is said


def read(cache, n_layer, row):
    """What a token reads of each up to itself, averaged over the heads: [n_layer, row + 1]."""
    return np.stack([cache["pattern", layer][:, row, : row + 1].mean(axis=0) for layer in range(n_layer)])


@pytest.mark.parametrize("count", [6, 120])
def test_generation_says_which_lines_it_leaves_out(browser, files, bundled, told, count):
    ids = told.ids if count == 6 else np.random.default_rng(1).integers(1, 4096, count).tolist()
    opened(browser, files, explain_page(bundled, ids, **QUICK))
    _, cache = bundled.run_with_cache(ids, "*.hook_pattern")
    browser.click("#tab-generation")
    weights = read(cache, 6, count - 1)[:, :-1]
    if count > 48:  # the first token, those between in one column, and the last 46
        alone = np.concatenate([weights[:, :1], weights[:, count - 46 :]], axis=1)
        between = weights[:, 1 : count - 46].sum(axis=1, keepdims=True)
        weights = np.concatenate([alone[:, :1], between, alone[:, 1:]], axis=1)
    else:
        alone = weights
    hidden = weights < alone.max(axis=1, keepdims=True) / 50
    # Weights in the page are rounded, so one at the limit may fall on either side.
    unsure = np.abs(weights / (alone.max(axis=1, keepdims=True) / 50) - 1) < 0.06
    drawn = len(browser.all(".reads"))
    assert abs(drawn - (~hidden).sum()) <= unsure.sum()
    note = browser.text("#panel-generation .side-by-side .note")
    if drawn == weights.size:
        assert note == ""
    else:
        said = re.search(r"not drawn: (\d+) of (\d+), with ([\d.]+)% of all", note)
        assert [int(said[1]), int(said[2])] == [weights.size - drawn, weights.size]
        exact = 100 * weights[hidden].sum() / 6
        assert abs(float(said[3]) - exact) <= 0.06 * exact + 100 * weights[unsure].sum() / 6
    labels = browser.all(".under")
    assert len(labels) == min(count, 48)
    if count > 48:
        assert labels[1] == f"… {count - 47} tokens"
        assert browser.text(".sentence").startswith(f"after {count - 40} tokens: …")


def test_a_column_of_many_tokens_reads_as_they_do_together(browser, files, bundled):
    ids = np.random.default_rng(1).integers(1, 4096, 120).tolist()
    page = explain_page(bundled, ids, max_new_tokens=3, num_beams=1)
    grown = [*ids, *data_of(page)["generation"]["token_ids"]]
    _, cache = bundled.run_with_cache(grown[:121], "*.hook_pattern")
    opened(browser, files, page)
    browser.click("#tab-generation")
    browser.click("#generation-next")
    exact = read(cache, 6, 120)
    exact = np.concatenate(
        [exact[:, :1], exact[:, 1:75].sum(axis=1, keepdims=True), exact[:, 75:120]], axis=1
    )
    found = np.array(browser.all(".kv.read", "Number(e.style.getPropertyValue('--v')) ** 2"))
    found = found.reshape(-1, 6).T  # column by column, each from the first layer on
    assert np.abs(found - exact).max() < 74 * 27 / 255 / 32
    assert np.allclose(found, exact, rtol=0.06, atol=1e-5)


def test_search_says_how_much_of_each_step_it_leaves_out(browser, files, told):
    opened(browser, files, told.page)
    browser.click("#tab-search")
    steps = told.found[0].trace.steps
    for step, following in pairwise(steps):
        for branch in step.branches:
            for one in branch.candidates:
                path = [*branch.token_ids, one.token_id]
                if not one.fate or one.fate == "ended":
                    continue
                [after] = [next_ for next_ in following.branches if next_.token_ids == path]
                lives = [c for c in after.candidates if c.fate]
                others = [c for c in after.candidates if not c.fate and not c.removed_by][:2]
                drawn = [*lives, *others]
                browser.focus(f'.node[data-path="{" ".join(map(str, path))}"]')
                said = browser.text("#panel-search .readout")
                assert f"Of 4,096 tokens that could follow, {len(drawn)} are drawn" in said
                share = float(re.search(r"the others have ([\d.]+)% together", said)[1])
                exact = 100 * (1 - sum(math.exp(c.logprob) for c in drawn))
                assert abs(share - exact) <= 0.006 * exact + 1e-3


def test_the_first_choices_that_the_scores_do_not_number_are_said(browser, files, bundled, told):
    opened(browser, files, told.page)
    browser.click("#tab-scores")
    assert browser.text("#panel-scores .note") == ""
    ids = np.random.default_rng(1).integers(1, 4096, 60).tolist()
    opened(browser, files, explain_page(bundled, ids, **QUICK))
    browser.click("#tab-scores")
    assert "The cells are too small for numbers: only colours are drawn." in browser.text(
        "#panel-scores .note"
    )


# ---- branches with the same text


def test_boxes_with_the_same_token_are_told_apart_by_their_way(browser, files, told):
    opened(browser, files, told.page)
    browser.click("#tab-search")
    boxes = browser.all(
        ".node:not(.root)", "[e.style.getPropertyValue('--x'), e.firstChild.textContent, e.dataset.path]"
    )
    twins = {}
    for x, text, path in boxes:
        twins.setdefault((x, text), []).append(path)
    twins = [paths for paths in twins.values() if len(paths) > 1]
    assert twins
    for paths in twins:
        said = set()
        for path in paths:
            browser.focus(f'.node[data-path="{path}"]')
            ids = path.split()
            ways = {" ".join(ids[: n + 1]) for n in range(len(ids))}
            assert {one for one in browser.all(".node.lit", "e.dataset.path") if one} == ways
            assert len(browser.all(".tree path.lit")) == len(ids)
            said.add(browser.text("#panel-search .readout .way"))
        assert len(said) == len(paths)
    numbers = browser.all(".node .place", "[e.textContent, e.parentElement.dataset.path]")
    assert sorted(numbers) == [
        [f"{i + 1}", " ".join(map(str, one.token_ids))] for i, one in enumerate(told.found)
    ]


def test_no_token_of_a_box_is_cut(browser, files, told):
    opened(browser, files, told.page)
    browser.click("#tab-search")
    cut = browser.all(".node .token", "[e.scrollWidth - e.clientWidth, e.textContent]")
    assert len(cut) > 40 and max(cut)[0] == 0


def test_the_same_text_in_other_tokens_is_told_apart(browser, files, told):
    """The second text found is made that of the first, with its first token cut in two."""
    data = data_of(told.page)
    found = data["search"]["found"]
    first = data["pieces"][f"{found[0]['ids'][0]}"]
    data["pieces"] |= {"5000": first[:2], "5001": first[2:]}
    found[1]["ids"] = [5000, 5001, *found[0]["ids"][1:]]
    raw = Page(told.page).text("script", type="application/json", id="data")
    opened(browser, files, told.page.replace(raw, json_text(data)))
    browser.click("#tab-search")
    notes = browser.all(".found .path", "e.querySelector('.note')?.textContent ?? ''")
    assert notes == [
        " the text of no. 2, cut into other tokens",
        " the text of no. 1, cut into other tokens",
        "",
        "",
    ]
    ways = browser.all(".found .way", "[...e.children].map(one => one.textContent)")
    assert ways[0] != ways[1] and "".join(ways[0]) == "".join(ways[1])
    assert set(browser.all(".found .way .token", "getComputedStyle(e).borderTopStyle")) == {"solid"}


# ---- the logit lens


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_last_column_of_the_lens_is_never_cut(screen, files, bundled, width):
    screen.resize(width, 800)
    ids = np.random.default_rng(1).integers(1, 4096, 60).tolist()
    opened(screen, files, explain_page(bundled, ids, **QUICK))
    screen.click("#tab-lens")
    places = "(b => [b.left, b.right])(e.getBoundingClientRect())"
    for scrolled in (0, 500, 1e6):
        screen.js(f"document.querySelector('.lenses').scrollLeft = {scrolled}")
        [[left, right]] = screen.all(".lenses", places)
        for start, end in screen.all("#panel-lens td[data-position='59']", places):
            assert left <= start < end <= right + 0.5
    # What is reached by keyboard does not lie under the first or the last column.
    screen.focus("#panel-lens td[data-layer='6'][data-position='0']")
    last, names = screen.all("td[data-layer='6'][data-position='59'], .lens tbody th", places)[:2][::-1]
    for _ in range(58):
        screen.press("ArrowRight")
        [start, end] = screen.js(f"(e => {places})(document.activeElement)")
        assert names[1] <= start + 1 and end <= last[0] + 1


# ---- paper


def printed(screen, files, html):
    """A page as it is laid out for a sheet of A4."""
    screen.resize(703, 1000)
    screen.media(paper=True)
    opened(screen, files, html)
    screen.js("dispatchEvent(new Event('beforeprint')) && 0")
    return screen


@pytest.fixture
def paper(screen, files, told):
    return printed(screen, files, told.page)


def test_paper_asks_for_no_click(paper):
    said = paper.js("document.body.innerText")
    assert all(name in said for name in ("Walk", "Logit lens", "Search"))
    assert not re.findall(
        r"(?i)\b(?:clicks?|point at|press|arrow keys?|keyboard|mouse|drag|move to)\b.*", said
    )
    assert paper.all(".controls, .tabs, .hint", "e.offsetHeight") and not any(
        paper.all(".controls, .tabs, .hint", "e.offsetHeight")
    )


@pytest.mark.parametrize("text", [TEXT, f"国王{FAMILY} had " * 3, [300, 400, 500, 600, 700] * 16])
def test_nothing_is_cut_at_the_edge_of_the_paper(screen, files, bundled, text):
    paper = printed(screen, files, explain_page(bundled, text))
    ends = paper.all("[role=tabpanel] *", "[e.getBoundingClientRect().right, e.outerHTML.slice(0, 200)]")
    assert len(ends) > 500 and [end for end in ends if end[0] > 704] == []


def test_sheets_are_full(paper):
    """A4, upright, with as many sheets as the height of all that is on them asks for, or hardly more."""
    height = paper.js("document.body.scrollHeight")
    pdf = paper.pdf()
    sizes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]*)\]", pdf)}
    [(_, _, wide, high)] = sizes
    assert abs(wide - 210 / 25.4 * 72) < 1 and abs(high - 297 / 25.4 * 72) < 1
    sheets = len(re.findall(rb"/Type\s*/Page\b", pdf))
    usable = (297 - 24) / 25.4 * 96
    assert height // usable <= sheets <= math.ceil(height / usable) + 1
