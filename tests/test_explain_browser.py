"""The page of an explanation in a real browser: every view by mouse and keyboard, its numbers, its looks."""

import math
import re

import numpy as np
import pytest
from helpers.explained import HEAD, LAYER, NASTY, TEXT, VIEWS, Page
from helpers.pages import contrasts, opened, token_bytes, unharmed
from helpers.toys import random_gpt2

from gpt2c import edits
from gpt2c.views.pages import explain_page, fragment

MINUS = "\N{MINUS SIGN}"
HIDDEN = f"{MINUS}\N{INFINITY}"
PERCENT = rf"[\d.e{MINUS}]+%"
NUMBER = r"-?[\d,]*\.?\d+(?:e-?\d+)?"
CODE_ERROR = 27 / 65535 / 32  # of an attention weight in 16 bits


@pytest.fixture
def shown(browser, files, told):
    """The page of TEXT, just opened; nobody may have complained in the end."""
    yield opened(browser, files, told.page)
    unharmed(browser)


def test_the_browser_tells_what_goes_wrong(browser, files):
    policy = "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\">"
    path = files / "wrong.html"
    path.write_text(f"<!doctype html>{policy}<img src='data:image/gif;base64,'><script>"
                    "console.error('said'); undefined.thrown</script>", "utf-8")  # fmt: skip
    browser.open(path)
    complaints = " ".join(browser.complaints)
    assert "said" in complaints and "thrown" in complaints and "Content Security Policy" in complaints
    path.write_text("<!doctype html><link rel=stylesheet href=wrong.css>", "utf-8")
    browser.open(path)
    assert any(url.endswith("wrong.css") for url in browser.requests)


def numbers(text):
    return [float(x.replace(",", "")) for x in re.findall(NUMBER, text.replace(MINUS, "-"))]


def rounded(text, exact, error=0.0):
    """Whether the first number in a text is another one, rounded where its digits end, after an error."""
    text = re.search(NUMBER, text.replace(MINUS, "-"))[0].replace(",", "")
    digits, _, exponent = text.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    if unit == 1:  # zeros at the end are left out: 4 is 4.0, and 0 is nothing else
        unit = 0.1 * abs(exact)
    return abs(float(text) - exact) <= 0.5 * unit + error + 1e-6 * abs(exact)


def panels(browser):
    """Which views are seen."""
    return [
        view
        for view in browser.all("[role=tabpanel]", "e.offsetHeight && e.id.replace('panel-', '')")
        if view
    ]


def test_every_view_by_mouse(shown):
    assert panels(shown) == ["walk"]
    for view in reversed(VIEWS):
        shown.click(f"#tab-{view}")
        assert panels(shown) == [view]
        assert shown.all("[aria-selected=true]", "e.id") == [f"tab-{view}"]
        assert len(shown.text(f"#panel-{view}")) > 150


def test_every_view_by_keyboard(shown):
    shown.press(*["Tab"] * 3)  # past the map, and the way back to it
    for view in [*VIEWS, VIEWS[0]]:
        assert shown.js("document.activeElement.id") == f"tab-{view}"
        assert panels(shown) == [view]
        shown.press("Home" if view == VIEWS[-1] else "ArrowRight")
    shown.press("End")
    assert panels(shown) == [VIEWS[-1]]


@pytest.mark.parametrize(
    ("view", "stop"),
    [
        ("walk", "input[name=followed]"),
        ("walk", "#walk-temperature"),
        ("walk", "#walk-draw"),
        ("heads", "#heads-layer"),
        ("heads", ".head"),
        ("heads", ".asks .side-token"),
        ("heads", ".answers .side-token"),
        ("overview", ".thumb"),
        ("scores", "#scores-layer"),
        ("scores", "canvas"),
        ("lens", "input"),
        ("lens", "td"),
        ("text", ".word"),
        ("generation", "#generation-next"),
        ("generation", "#generation-step"),
        ("search", ".node"),
    ],
)
def test_everything_is_reached_with_the_tab_key_and_shows_it(shown, view, stop):
    shown.focus(f"#tab-{view}")
    for _ in range(25):
        shown.press("Tab")
        if shown.js(f"document.activeElement.matches('#panel-{view} {stop}')"):
            break
    else:
        pytest.fail("not reached")
    outline = "getComputedStyle({}).outlineStyle"
    own, face = (
        shown.js(outline.format(e))
        for e in ("document.activeElement", "document.activeElement.nextElementSibling ?? document.body")
    )
    assert "solid" in (own, face)


# The walk


@pytest.mark.parametrize("position", [5, 2])
def test_walk_shows_the_numbers_of_the_arrays(shown, told, position):
    cache = told.cache
    shown.click(f".chips label:nth-child({position + 1})")
    vectors = {
        "embed": cache["embed"],
        "pos_embed": cache["pos_embed"],
        "resid_pre": cache["resid_pre", LAYER],
        "normalized": cache["ln1.hook_normalized", LAYER],
        "q": cache["q", LAYER][:, HEAD],
        "k": cache["k", LAYER][:, HEAD],
        "v": cache["v", LAYER][:, HEAD],
        "z": cache["z", LAYER][:, HEAD],
        "attn_out": cache["attn_out", LAYER],
        "resid_mid": cache["resid_mid", LAYER],
        "normalized2": cache["ln2.hook_normalized", LAYER],
        "pre": cache["mlp.hook_pre", LAYER],
        "post": cache["mlp.hook_post", LAYER],
        "mlp_out": cache["mlp_out", LAYER],
        "resid_post": cache["resid_post", LAYER],
        "resid_last": cache["resid_post", -1],
        "normalized_last": cache["ln_final.hook_normalized"],
    }
    for name, array in vectors.items():
        strips = shown.all(
            f'.strip[data-vector="{name}"][data-token="{position}"]',
            "[...e.querySelectorAll('.cell')].map(c => c.textContent)",
        )
        assert strips
        for cells in strips:
            assert len(cells) in (4, 8)
            assert all(map(rounded, cells, array[position])), name


@pytest.mark.parametrize("position", [5, 2])
def test_walk_shows_scores_mask_and_softmax(shown, told, position):
    shown.focus("input[name=followed]:checked")
    now = int(shown.js("document.activeElement.value"))
    shown.press(*["ArrowLeft"] * (now - position), *["ArrowRight"] * (position - now))
    q, k = (told.cache[name, LAYER][:, HEAD].astype(np.float64) for name in "qk")
    scores = k @ q[position] / math.sqrt(q.shape[1])
    masked = told.cache["attn_scores", LAYER][HEAD, position]
    weights = told.cache["pattern", LAYER][HEAD, position]
    unmasked = softmax(scores)
    rows = shown.all("#walk-softmax tbody tr", "[...e.querySelectorAll('.number')].map(c => c.textContent)")
    assert len(rows) == told.T
    for key, row in enumerate(rows):
        assert rounded(row[0], scores[key], 1e-5)
        assert rounded(row.pop(), unmasked[key], 1e-5)
        if key > position:
            assert row[1:] == [HIDDEN, "0", "0"] and masked[key] == -np.inf and weights[key] == 0
        else:
            assert rounded(row[1], masked[key], 1e-5)
            assert rounded(row[2], np.exp(masked[key] - masked.max()), 1e-5)
            assert rounded(row[3], weights[key])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.7, None), (1.9, 3), (0.1, 40), (0, None)])
def test_walk_samples_live(shown, told, temperature, top_k):
    def slide(selector, to):
        shown.focus(selector)
        now = int(shown.js(f"document.querySelector('{selector}').value"))
        shown.press(*["ArrowRight"] * (to - now), *["ArrowLeft"] * (now - to))

    slide("#walk-temperature", round(10 * temperature))
    if top_k:
        slide("#walk-top-k", top_k)
    logits = told.logits[-1].copy()
    best = np.argsort(-logits, kind="stable")
    if top_k:
        logits[best[top_k:]] = -np.inf
    p = softmax(logits / temperature) if temperature else np.eye(len(logits))[best[0]]
    rows = shown.all(".distribution tbody .number")
    tokens = token_bytes(shown, ".distribution tbody th .token")
    assert tokens == [told.cache.model.token_bytes(int(token)) for token in best[:10]]
    assert all(rounded(row, 100 * p[token], 1e-9) for row, token in zip(rows[:10], best[:10], strict=True))
    assert rounded(rows[10], 100 * (1 - p[best[:10]].sum()), 1e-4)
    shown.click("#walk-draw")
    assert shown.text(".drawn").startswith("Drawn: ")


# Attention


@pytest.mark.parametrize("side", ["asks", "answers"])
def test_heads_show_the_pattern(shown, told, side):
    shown.click("#tab-heads")
    shown.focus("#heads-layer")
    shown.press("ArrowDown")  # layer 4
    shown.click(f'.head[data-head="{HEAD}"]')  # the only one cannot be switched off
    shown.click('.head[data-head="3"]')
    assert shown.all(".head[aria-pressed=true]") == [f"{HEAD}", "3"]
    pattern = told.cache["pattern", LAYER + 1][[HEAD, 3]].astype(np.float64)
    if side == "answers":
        pattern = pattern.transpose(0, 2, 1)
    other = "answers" if side == "asks" else "asks"
    for index in range(told.T):
        shown.point(f".{side} .side-token[data-index='{index}']")
        lines = shown.all("#panel-heads .told")
        for line, weights in zip(lines, pattern[:, index], strict=True):
            expected = sorted(weights[weights > 0], reverse=True)
            expected[5:] = [sum(expected[5:])] if expected[5:] else []  # "1 other together"
            found = zip(re.findall(PERCENT, line), expected, strict=True)
            assert all(rounded(text, 100 * weight, 100 * CODE_ERROR) for text, weight in found)
        means = pattern[:, index].mean(axis=0)
        for text, weight in zip(shown.all(f".{other} .share"), means, strict=True):
            least = means.max() / 20 + CODE_ERROR
            assert rounded(text, 100 * weight, 100 * CODE_ERROR) if text else weight < least


def test_a_clicked_token_is_kept(shown):
    shown.click("#tab-heads")
    for kept in ("position 2", "No token is chosen"):
        shown.click(".asks .side-token[data-index='2']")
        shown.js("document.activeElement.blur()")
        shown.point("h1")
        assert kept in shown.text("#panel-heads .readout")


def test_all_heads_are_pictures_of_the_pattern(shown, told):
    shown.click("#tab-overview")
    alphas = (
        "[...e.getContext('2d').getImageData(0, 0, e.width, e.height).data].filter((_, i) => i % 4 === 3)"
    )
    pictures = np.array(shown.all(".thumb canvas", alphas))
    exact = np.stack([told.cache["pattern", layer] for layer in range(6)]).reshape(24, -1)
    assert np.abs(pictures - 255 * np.sqrt(exact)).max() <= 1
    shown.click('.thumb[data-layer="4"][data-head="2"]')
    assert panels(shown) == ["heads"]
    assert shown.text("#here") == "You are here: Heads · layer 4, head 2"
    shown.click("#tab-overview")
    shown.focus(".thumb")
    shown.press("ArrowDown", "ArrowRight", "Enter")
    assert shown.text("#here") == "You are here: Heads · layer 1, head 1"


def test_scores_before_and_after_mask_and_softmax(shown, told):
    shown.click("#tab-scores")
    shown.focus("#matrix-raw")
    shown.press(*["ArrowUp"] * told.T, *["ArrowLeft"] * told.T)
    q, k = (told.cache[name, LAYER][:, HEAD].astype(np.float64) for name in "qk")
    scores = q @ k.T / math.sqrt(q.shape[1])
    masked, weights = told.cache["attn_scores", LAYER][HEAD], told.cache["pattern", LAYER][HEAD]
    for row in range(told.T):
        for column in range(told.T):
            score, after, weight = shown.all("#scores-readout b")
            assert rounded(score, scores[row, column], 0.0005)
            if column > row:
                assert (after, weight) == (HIDDEN, "0") and masked[row, column] == -np.inf
            else:
                assert rounded(after, masked[row, column], 0.0005)
                assert rounded(weight, weights[row, column], CODE_ERROR)
            shown.press("ArrowRight")
        shown.press("ArrowDown", *["ArrowLeft"] * told.T)


def test_scores_follow_the_mouse(shown, told):
    shown.click("#tab-scores")
    shown.point("#matrix-weights", 1.5 / told.T, 4.5 / told.T)
    weight = told.cache["pattern", LAYER][HEAD, 4, 1]
    assert rounded(shown.text("#scores-readout [data-number=weight]"), weight, CODE_ERROR)


# The logit lens and the text


def test_logit_lens(shown, told):
    shown.click("#tab-lens")
    lens, model = told.lens, told.cache.model
    for layer in range(7):
        for position in range(told.T):
            cell = f'#panel-lens td[data-layer="{layer}"][data-position="{position}"]'
            shown.point(cell) if layer % 2 else shown.focus(cell)
            top, asked = lens.top_ids[layer, position], lens.token_ids[position]
            expected = [told.ids[position], *top, asked]
            tokens = token_bytes(shown, "#panel-lens .readout .token")
            assert tokens == [model.token_bytes(int(token)) for token in expected]
            found = re.findall(PERCENT, shown.text("#panel-lens .readout").split(":", 1)[1])
            best = np.exp(lens.top_logprobs[layer, position])
            exact = [*best, 1 - best.sum(), np.exp(lens.logprobs[layer, position])]
            assert all(rounded(a, 100 * b, 1e-4) for a, b in zip(found, exact, strict=True))
            entropy, rank = shown.all("#panel-lens .readout .told b")
            assert rounded(entropy, lens.entropies[layer, position])
            assert numbers(rank) == [lens.ranks[layer, position]]
            assert shown.all(cell, "e.classList.contains('hit')") == [top[0] == asked]


def test_text_with_alternatives(shown, told):
    shown.click("#tab-text")
    score, model = told.score, told.cache.model
    for i in range(len(score)):
        shown.point(f'.word[data-position="{i + 1}"]')
        probability, rank, entropy = shown.all(".details p b")
        assert rounded(probability, 100 * math.exp(score.logprobs[i]))
        assert numbers(rank) == [score.ranks[i]]
        assert rounded(entropy, score.entropies[i])
        shares = dict(zip(score.top_ids[i].tolist(), np.exp(score.top_logprobs[i]), strict=True))
        shares[told.ids[i + 1]] = math.exp(score.logprobs[i])  # a row of its own, if it is not among the best
        tokens = token_bytes(shown, ".details th .token")
        assert tokens == list(map(model.token_bytes, shares))
        expected = [*shares.values(), 1 - sum(shares.values())]
        rows = zip(shown.all(".details .number"), expected, strict=True)
        assert all(rounded(text, 100 * p, 1e-4) for text, p in rows)
        assert f"all others{4096 - len(shares):,} tokens" in "".join(
            shown.all(".details .others :not(.number)")
        )
    shown.focus(".word")
    shown.press("ArrowRight", "ArrowRight")
    assert rounded(shown.text(".details [data-number=probability]"), 100 * math.exp(score.logprobs[1]))
    assert f"Perplexity {score.perplexity:.5g}" in shown.text("#panel-text")


@pytest.mark.parametrize(("by", "place"), [("probability", 1), ("rank", 2), ("entropy", 3)])
def test_text_is_coloured(shown, told, by, place):
    shown.click("#tab-text")
    shown.click(f"#panel-text .choice label:nth-child({place})")
    exact = {
        "probability": -told.score.logprobs,
        "rank": np.log(told.score.ranks + 1),
        "entropy": told.score.entropies,
    }[by] / math.log(told.logits.shape[1])
    first, *strengths = shown.all(".word", "Number(e.style.getPropertyValue('--v'))")
    assert first == 0
    assert np.abs(strengths - np.minimum(exact, 1)).max() < 0.0001


# Generation and search


def test_generation_step_by_step(shown, told, bundled):
    shown.click("#tab-generation")
    ids = [*told.ids, *told.sampled.token_ids]
    _, cache = bundled.run_with_cache(ids[:-1], "*.hook_pattern")
    for step, record in enumerate(told.sampled.trace.steps):
        length, choice = told.T + step, told.sampled.token_ids[step]
        assert token_bytes(shown, ".sentence .token") == list(map(bundled.token_bytes, ids[: length + 1]))
        assert token_bytes(shown, ".sentence .new .token") == [bundled.token_bytes(choice)]

        rows = shown.all(
            "#panel-generation .bars tbody tr",
            "[e.className, e.querySelector('.number').textContent, e.querySelector('.note').textContent]",
        )
        candidates = record.branches[0].candidates
        kind, number, note = rows.pop()
        rest = 1 - sum(math.exp(one.logprob) for one in candidates)
        assert kind == "others" and note == f"{4096 - len(candidates):,} tokens"
        assert rounded(number, 100 * rest, 1e-4)
        for (kind, number, note), one in zip(rows, candidates, strict=True):
            assert rounded(number, 100 * math.exp(one.logprob))
            assert (kind == "chosen") == (one.token_id == choice)
            removed = f"left out: {one.removed_by}" if one.removed_by else ""
            assert note == ("chosen" if one.token_id == choice else removed)

        readout = shown.text("#panel-generation .readout")
        probability = re.search(r"\(([\d.]+%)\)", readout)[1]
        assert rounded(probability, 100 * math.exp(told.sampled.logprobs[step]))
        boxes = [len(shown.all(f".kv.{kind}")) for kind in ("computed", "kept")]
        if step:
            assert f"1 column computed; keys and values of {length - 1} tokens reused" in readout
            assert boxes == [6, 6 * (length - 1)]
            rows = [cache["pattern", layer][:, length - 1, : length - 1].mean(axis=0) for layer in range(6)]
            read = shown.all(".kv.read", "Number(e.style.getPropertyValue('--v')) ** 2")
            assert np.abs(read - np.stack(rows, axis=1).ravel()).max() < 27 / 255 / 32 + 1e-6
        else:
            assert f"{length} columns computed" in readout
            assert boxes == [6 * length, 0]
        shown.press("Enter") if step % 2 else shown.click("#generation-next")
    assert shown.js("document.querySelector('#generation-next').disabled")


def test_generation_by_slider(shown):
    shown.click("#tab-generation")
    shown.focus("#generation-step")
    shown.press("ArrowRight", "ArrowRight")
    assert shown.text("#panel-generation .readout").startswith("Step 3")


def test_search_tree_and_greedy(shown, told, bundled):
    shown.click("#tab-search")
    results = [*told.found, told.greedy]
    for i, (result, kind) in enumerate(zip(results, ["best", "", "", "greedy"], strict=True)):
        row = f".found tbody tr:nth-child({i + 1})"
        assert shown.all(row, "e.className") == [kind]
        assert token_bytes(shown, f"{row} .path .token") == list(map(bundled.token_bytes, result.token_ids))
        assert rounded(shown.text(f"{row} [data-number=joint]"), sum(result.logprobs))
    ratio = math.exp(sum(told.found[0].logprobs) - sum(told.greedy.logprobs))
    assert ratio > 1.1 and rounded(shown.text(".verdict"), ratio)
    for step in told.found[0].trace.steps:
        for branch in step.branches:
            for one in branch.candidates:
                if one.fate:
                    path = " ".join(map(str, [*branch.token_ids, one.token_id]))
                    shown.focus(f'.node[data-path="{path}"]')
                    probability, joint = shown.all("#panel-search .readout b")
                    assert rounded(probability, 100 * math.exp(one.logprob))
                    assert rounded(joint, one.score)
    for kind, result in (("best", told.found[0]), ("greedy", told.greedy)):
        lit = shown.all(f".node.{kind}:not(.root)", "e.dataset.path.split(' ').map(Number)")
        assert lit == [result.token_ids[: i + 1] for i in range(len(result.token_ids))]


# Any text, any screen


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_are_shown(browser, files, bundled, text):
    opened(browser, files, explain_page(bundled, text, max_new_tokens=2, num_beams=2))
    for view in VIEWS:
        browser.click(f"#tab-{view}")
    assert b"".join(token_bytes(browser, ".word .token")) == text.encode("utf-8")
    assert b"".join(token_bytes(browser, ".asks .token")) == text.encode("utf-8")
    assert browser.js("typeof pwned") == "undefined"
    assert len(browser.all("script")) == 2 and browser.all("bdi :not(.mark)") == []
    browser.click("#tab-text")
    assert min(browser.all(".word .token", "e.getBoundingClientRect().width")) > 1  # nothing is invisible
    unharmed(browser)


# What sticks out of its panel, but for what can be scrolled.
OUTSIDE = """
[...document.querySelectorAll("[role=tabpanel]")].filter((panel) => panel.offsetHeight).flatMap((panel) => {
  const edge = panel.getBoundingClientRect().right;
  return [...panel.querySelectorAll("*")].filter((e) =>
    e.offsetWidth && !e.closest(".scroll") && e.getBoundingClientRect().right > edge
  ).map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}`);
})
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, 360, 700, 800, 1000, 1280])
def test_fits_and_can_be_read(screen, files, told, width, dark):
    """No view is wider than the screen; text has a contrast of 4.5 (WCAG AA)."""
    screen.resize(width, 800)
    screen.media(dark=dark)
    opened(screen, files, told.page)
    background = numbers(screen.js("getComputedStyle(document.body).backgroundColor"))
    assert (sum(background[:3]) < 200) == dark
    for view in VIEWS:
        screen.click(f"#tab-{view}")
        assert screen.js("document.documentElement.scrollWidth") <= width, view
        assert screen.js(OUTSIDE) == [], view
        found = contrasts(screen)
        assert len(found) > 20 and min(found)[0] >= 4.5, view
    unharmed(screen)


def test_paper_shows_everything_in_light_colours(screen, files, told):
    screen.media(dark=True)
    opened(screen, files, told.page)
    screen.click("#tab-lens")
    screen.js("dispatchEvent(new Event('beforeprint')) && 0")
    assert panels(screen) == VIEWS
    assert sum(numbers(screen.js("getComputedStyle(document.body).backgroundColor"))[:3]) > 600
    inks = screen.all("canvas", "e.getContext('2d').getImageData(0, 0, e.width, e.height).data.some(x => x)")
    assert len(inks) > 24 and all(inks)
    screen.js("dispatchEvent(new Event('afterprint')) && 0")
    assert panels(screen) == ["lens"]
    pdf = screen.pdf()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1  # the lens alone takes one
    assert panels(screen) == ["lens"]
    unharmed(screen)


def test_reduced_motion(screen, files, told):
    for reduced in (False, True):
        screen.media(reduced_motion=reduced)
        opened(screen, files, told.page)
        moving = screen.all("*", "getComputedStyle(e).transitionDuration !== '0s'")
        assert any(moving) == (not reduced)


def test_a_long_text_stays_usable(screen, files, bundled):
    ids = np.random.default_rng(1).integers(1, 4096, 200).tolist()
    _, cache = bundled.run_with_cache(ids, "*.hook_pattern")
    opened(screen, files, explain_page(bundled, ids, layer=2, head=0))
    for width in (360, 1200):
        screen.resize(width, 800)
        for view in VIEWS:
            screen.click(f"#tab-{view}")
            assert panels(screen) == [view]
            assert screen.js("document.documentElement.scrollWidth") <= width, view
    screen.click("#tab-scores")
    screen.click("#panel-scores .choice label:nth-child(3)")
    screen.focus("#matrix-weights")
    for column in range(20):
        exact = float(cache["pattern", 2][0, 199, column])
        error = max(27 / 255 / 32, exact * math.expm1(27 / 255 / 2))  # of 8 bits
        assert rounded(screen.text("#scores-readout [data-number=weight]"), exact, error)
        screen.press("ArrowRight")
    assert b"".join(token_bytes(screen, ".word .token")) == b"".join(map(bundled.token_bytes, ids))
    unharmed(screen)


def test_one_token_and_a_full_context(browser, files, bundled):
    opened(browser, files, explain_page(bundled, ""))
    for view in VIEWS:
        browser.click(f"#tab-{view}")
    unharmed(browser)
    model, _ = random_gpt2(n_vocab=61, n_ctx=12)  # and no tokenizer
    opened(browser, files, explain_page(model, list(range(12))))
    assert browser.all("[role=tab]", "e.id") == [f"tab-{view}" for view in VIEWS[:7]]
    for view in VIEWS[:7]:
        browser.click(f"#tab-{view}")
    assert browser.all(".word") == [f"#{i}" for i in range(12)]
    unharmed(browser)


@pytest.mark.parametrize("causal", [True, False])
def test_fragment(browser, files, bundled, causal):
    _, cache = bundled.run_with_cache(TEXT, "blocks.[24].attn.hook_pattern", causal=causal)
    html = fragment(cache)
    (frame,) = Page(html).elements
    assert frame.tag == "iframe" and frame.attributes["sandbox"] == "allow-scripts"
    inside = opened(browser, files, frame.attributes["srcdoc"])  # as the frame shows it
    assert inside.all("#heads-layer option", "e.value") == ["2", "4"]
    inside.click("#tab-scores")
    inside.js("(list => { list.value = 2; list.dispatchEvent(new Event('change')); })"
              "(document.querySelector('#scores-layer'))")  # fmt: skip
    inside.focus("#matrix-weights")
    inside.press(*["ArrowUp"] * 6, *["ArrowLeft"] * 6)
    head = int(inside.js("document.querySelector('#scores-head').value"))
    for column in range(len(cache.token_ids)):
        weight = inside.text("#scores-readout [data-number=weight]")
        assert rounded(weight, cache["pattern", 2][head, 0, column], CODE_ERROR)
        inside.press("ArrowRight")
    unharmed(inside)
    path = files / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{html}", "utf-8")
    browser.open(path)
    unharmed(browser)


# ---- edits


def test_a_page_of_an_edited_model_says_so(bundled, browser, files):
    changes = [("blocks.3.attn.hook_z", edits.zero(heads=1)), ("blocks.2.pattern", edits.scale(3, heads=0))]
    opened(browser, files, explain_page(bundled, TEXT, layer=2, head=0, edits=tuple(changes)))
    note = browser.text("#top [role=note]")
    assert note.startswith("This is not the model as it is: edits change what it computes.")
    assert browser.all("#top [role=note] li") == [
        "blocks.3.attn.hook_z: zero, heads 1",
        "blocks.2.attn.hook_pattern: scale 3, heads 0",
    ]
    assert "Here they were edited: the weights do not follow" in browser.text("#panel-walk")
    browser.click("#tab-scores")
    seen = "!e.hidden && e.querySelector('figcaption').textContent"
    assert [name for name in browser.all("#panel-scores figure", seen) if name] == ["after the softmax"]
    assert "Scores or weights of this layer were edited" in browser.text("#panel-scores .note")
    browser.focus("#scores-layer")
    browser.press("ArrowDown")
    assert len([name for name in browser.all("#panel-scores figure", seen) if name]) == 3
    assert browser.text("#panel-scores .note") == ""
    for view in VIEWS:
        browser.click(f"#tab-{view}")
        assert panels(browser) == [view]
    unharmed(browser)


def test_a_page_of_the_model_as_it_is_says_nothing_of_edits(shown):
    assert shown.all("#top [role=note]") == [] and "edited" not in shown.js("document.body.innerText")


def test_the_frame_in_a_notebook_shows_the_page_and_lets_nothing_out(bundled, browser, files):
    """Its script runs inside the frame alone: the page around it keeps its title, style and variables."""
    explanation = bundled.explain(TEXT, max_new_tokens=1, num_beams=1)
    path = files / "notebook.html"
    path.write_text(
        f"<!doctype html><title>mine</title><body><p>before</p>{explanation._repr_html_()}", "utf-8"
    )
    browser.open(path)
    assert browser.all("iframe", "e.offsetHeight") == [720]
    outside = "[document.title, document.scripts.length, document.styleSheets.length, typeof data]"
    assert browser.js(outside) == ["mine", 0, 0, "undefined"]
    assert browser.js("document.querySelector('iframe').contentDocument") is None  # another origin
    unharmed(browser)


@pytest.mark.parametrize("text", ["The king", "The king had three daughters, and the"])
def test_the_frame_of_a_cache_has_room_for_its_tokens(bundled, screen, files, text):
    """All tokens are seen in a narrow notebook too, above what is told of the chosen one."""
    [frame] = Page(fragment(bundled.run_with_cache(text, names_filter="pattern")[1])).elements
    screen.resize(820, int(re.search(r"height:(\d+)px", frame.attributes["style"])[1]))
    opened(screen, files, frame.attributes["srcdoc"])
    last = screen.all(".asks .side-token", "e.getBoundingClientRect().bottom")[-1]
    assert last <= screen.all("#panel-heads .readout", "e.getBoundingClientRect().top")[0] + 1
    unharmed(screen)
