"""The page of an explanation: what it holds, and, in a real browser, what it shows."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from browser import Browser, chromium
from hypothesis import given
from hypothesis import strategies as st
from toys import random_gpt2

from gpt2c import GPT2, Config
from gpt2c.benchmark.models import random_weights
from gpt2c.pages import codes, explain_page, fragment
from gpt2c.tokenizer import gpt2_tokenizer

TEXT = "The king had three daughters,"
LAYER, HEAD = 3, 1
VIEWS = ["walk", "heads", "overview", "scores", "lens", "text", "generation", "search"]
NASTY = [
    "He said \"hi\" & 'bye'; <b>bold</b> <img src=x onerror=pwned=1> &lt;",
    "</script><script>pwned=1</script><!-- </title>",
    "\u2028 \u2029 \x00 \x1b[31m \\u003c {data} ${pwned=1} `",
    "one\u200btwo\u200dthree\ufeff \u00ad \u202eabc\u202c \u2066x",
    "שלום עולם، مرحبا بالعالم",
    "👩\u200d👩\u200d👧 🇩🇪 😀 e\u0301 \u0301 日本語 naïve",
    "  two  spaces\n\n\ttab\r\nend  ",
    "⟨F0⟩ ␣ ⏎ #12",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts of script and style."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = self.elements[-1]

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts.append((self.inside, data))

    def text(self, tag, **attributes):
        found = [text for (name, given), text in self.texts if name == tag and given == attributes]
        assert [one for one in self.elements if one == (tag, attributes)] == [(tag, attributes)]
        return "".join(found)


def data_of(page):
    return json.loads(Page(page).text("script", type="application/json", id="data"))


@pytest.fixture(scope="module")
def told(bundled):
    """What the page must say of TEXT, straight from the model, and the page."""
    logits, cache = bundled.run_with_cache(TEXT)
    ids = cache.token_ids.tolist()
    options = {"max_new_tokens": 8, "trace": True}
    return SimpleNamespace(
        page=explain_page(bundled, TEXT, layer=LAYER, head=HEAD, seed=5),
        logits=logits.astype(np.float64),
        cache=cache,
        ids=ids,
        T=len(ids),
        score=bundled.score(ids, bos=False, top=5),
        lens=cache.logit_lens(k=5),
        sampled=bundled.generate(ids, temperature=0.8, top_k=40, top_p=0.95, seed=5, **options),
        greedy=bundled.generate(ids, **options),
        found=bundled.generate(ids, num_beams=3, num_return_sequences=3, length_penalty=0.0, **options),
    )


# What the file holds


def test_nothing_is_loaded_and_nothing_foreign_can_run(told):
    page = Page(told.page)
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert not {"src", "srcset", "action", "background", "style"} & set(attributes)
        assert attributes.get("href", "data:,") == "data:,"
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not re.search(
        r"\bimport\b|url\(|@import|innerHTML|insertAdjacent|document\.write|eval\(", told.page
    )
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for rule, text in (("script-src", page.text("script")), ("style-src", page.text("style"))):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_language_title_and_what_made_it(told, bundled):
    from gpt2c import __version__

    page = Page(told.page)
    assert ("html", {"lang": "en"}) in page.elements
    assert page.text("title") == f"{TEXT} · gpt2c explain"
    data = data_of(told.page)
    assert data["version"] == __version__
    assert data["model"]["numerics"] == bundled.numerics and data["model"]["dtype"] == "float32"


@pytest.mark.parametrize("text", NASTY)
def test_a_text_is_only_text(bundled, text):
    html = explain_page(bundled, text, max_new_tokens=1, num_beams=1)
    page = Page(html)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(explain_page(bundled, "a")).elements]
    raw = html[html.index('id="data">') + 10 : html.rindex("</script>\n<script>")]
    assert raw.isascii() and not set("<>&") & set(raw)
    assert data_of(html)["text"] == text


def test_a_long_title_is_cut(bundled):
    text = "word " * 40
    title = Page(explain_page(bundled, text, max_new_tokens=1, num_beams=1)).text("title")
    assert title.startswith("word word") and "…" in title and len(title) < 90


def test_size_for_twelve_layers_of_twelve_heads_and_64_tokens():
    config = Config(
        n_layer=12, n_head=12, n_embd=192, n_inner=768, n_ctx=1024, n_vocab=50257, bos_token_id=50256
    )
    model = GPT2(random_weights(config), gpt2_tokenizer(), name="random")
    ids = np.random.default_rng(0).integers(0, 50257, 64).tolist()
    page = explain_page(model, ids)
    assert len(page.encode("utf-8")) < 1_000_000
    assert set(data_of(page)) >= {"attention", "walk", "lens", "scores", "generation", "search"}
    assert data_of(page)["attention"]["scores"]["layers"] == list(range(12))


def decoded(weights_codes, bits):
    """The inverse of weight_codes by its description: even steps above the knee, even logarithms below."""
    top = 12 + 16 - 1
    place = np.asarray(weights_codes, np.float64) * (top / (2**bits - 1)) - 12
    return np.where(
        weights_codes == 0, 0, np.where(place >= 0, (place + 1) / 16, np.exp(np.minimum(place, 0)) / 16)
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.sampled_from([8, 16]))
def test_weight_codes_are_as_precise_as_promised(weights, bits):
    weights = np.array(weights)
    found = decoded(codes.weight_codes(weights, bits), bits)
    step = 27 / (2**bits - 1)
    allowed = np.where(weights >= 1 / 16, step / 32, weights * math.expm1(step / 2))
    # At the knee the two pieces have one slope; below the smallest code there is nothing.
    assert (np.abs(found - weights) <= allowed * 1.06 + np.exp(-12) / 16).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_weight_codes_of_none_and_all(bits):
    assert codes.weight_codes(np.array([0.0, 1.0]), bits).tolist() == [0, 2**bits - 1]


@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from([90, 65536]))
def test_hidden_scores_lie_between_their_ends(T, seed, levels):
    scores = np.random.default_rng(seed).normal(0, 4, (2, T, T))
    found, ends = codes.hidden_codes(scores, levels)
    later = [scores[:, row, column] for row in range(T) for column in range(row + 1, T)]
    low, high = ends[:, :1], ends[:, 1:]
    decoded = low + found / (levels - 1) * (high - low)
    assert np.abs(decoded - np.stack(later, axis=1)).max() <= (high - low).max() / (levels - 1) / 2 + 1e-5


def test_digits_stand_for_themselves():
    assert len(codes.DIGITS) == 90 and json.dumps(codes.DIGITS) == f'"{codes.DIGITS}"'
    assert (
        codes.digits(np.array([[0, 89], [1, 2]]))["data"]
        == codes.DIGITS[0] + codes.DIGITS[89] + codes.DIGITS[1:3]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 6}, "layer must be from -6 to 5: the model has 6"),
        ({"head": -5}, "head must be from -4 to 3: the model has 4"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
    ],
)
def test_bad_options(bundled, options, message):
    with pytest.raises(ValueError, match=message):
        explain_page(bundled, TEXT, **options)


def test_layers_and_heads_count_from_the_end(bundled):
    assert data_of(explain_page(bundled, TEXT, layer=-1, head=-2))["start"] == {"layer": 5, "head": 2}


def test_a_fragment_needs_a_pattern(bundled):
    _, cache = bundled.run_with_cache(TEXT, "hook_embed")
    with pytest.raises(ValueError, match="no pattern was captured"):
        fragment(cache)


# What a browser shows


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def shown(browser, files, told):
    """The page of TEXT, just opened; nobody may have complained in the end."""
    yield opened(browser, files, told.page)
    unharmed(browser)


def opened(browser, files, html):
    path = files / "page.html"
    path.write_text(html, "utf-8")
    browser.open(path)
    assert browser.js("document.documentElement.classList.contains('ready')"), browser.complaints
    return browser


def unharmed(browser):
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []


def numbers(text):
    return [
        float(x.replace(",", "")) for x in re.findall(r"-?[\d,]*\.?\d+(?:e-?\d+)?", text.replace("−", "-"))
    ]


def rounded(text, exact, error=0.0):
    """Whether the one number in a text is another one, rounded where its digits end, with an error before."""
    text = re.search(r"-?[\d,]*\.?\d+(?:e-?\d+)?", text.replace("−", "-"))[0].replace(",", "")
    digits, _, exponent = text.partition("e")
    places = len(digits.partition(".")[2]) - int(exponent or 0)
    return abs(float(text) - exact) <= 0.5 * 10.0**-places + error + 1e-6 * abs(exact)


CODE_ERROR = 27 / 65535 / 32  # of an attention weight in 16 bits


# The bytes of tokens as they are shown: letters are themselves, marks know theirs.
BYTES = """
[...document.querySelectorAll(SELECTOR)].map(token => {
  const bytes = [];
  for (const node of token.childNodes) {
    if (node.nodeType === 3) bytes.push(...new TextEncoder().encode(node.data));
    else if (node.className === "mark") bytes.push(...node.dataset.bytes.split(" ").filter(Boolean).map(x => parseInt(x, 16)));
    else throw new Error(node.outerHTML);
  }
  return bytes;
})
"""


def token_bytes(browser, selector):
    return [bytes(one) for one in browser.js(BYTES.replace("SELECTOR", json.dumps(selector)))]


def one_panel(browser, view):
    return browser.js(
        "[...document.querySelectorAll('[role=tabpanel]')].filter(p => p.offsetHeight).map(p => p.id)"
    ) == [f"panel-{view}"]


def test_every_view_by_mouse(shown):
    assert one_panel(shown, "walk")
    for view in reversed(VIEWS):
        shown.click(f"#tab-{view}")
        assert one_panel(shown, view)
        assert shown.js(f"document.getElementById('tab-{view}').ariaSelected") == "true"
        assert len(shown.text(f"#panel-{view}")) > 150


def test_every_view_by_keyboard(shown):
    shown.press("Tab")
    for view in [*VIEWS, VIEWS[0]]:
        assert shown.js("document.activeElement.id") == f"tab-{view}"
        assert one_panel(shown, view)
        shown.press("Home" if view == VIEWS[-1] else "ArrowRight")
    shown.press("End")
    assert one_panel(shown, VIEWS[-1])


@pytest.mark.parametrize(
    ("view", "stop"),
    [
        ("walk", "input[name=followed]"),
        ("heads", "#heads-layer"),
        ("heads", ".head"),
        ("heads", ".asks .side-token"),
        ("heads", ".answers .side-token"),
        ("overview", ".thumb"),
        ("scores", "#scores-layer"),
        ("scores", "canvas"),
        ("lens", "td"),
        ("text", ".word"),
        ("generation", "#generation-next"),
        ("generation", "#generation-step"),
        ("search", ".node"),
    ],
)
def test_everything_is_reached_with_the_tab_key(shown, view, stop):
    shown.js(f"document.getElementById('tab-{view}').focus()")
    for _ in range(25):
        shown.press("Tab")
        if shown.js(f"document.activeElement.matches('#panel-{view} {stop}')"):
            break
    else:
        pytest.fail("not reached")
    seen = shown.js(
        "(e => getComputedStyle(e).outlineStyle !== 'none' || getComputedStyle(e.nextElementSibling).outlineStyle !== 'none')"
        "(document.activeElement)"
    )
    assert seen


def strip(browser, name, position):
    selector = f'.strip[data-vector="{name}"][data-token="{position}"]'
    cells = browser.js(
        f"[...document.querySelector({json.dumps(selector)}).querySelectorAll('.cell')].map(c => c.textContent)"
    )
    return [float(cell.replace("−", "-")) for cell in cells]


@pytest.mark.parametrize("position", [5, 2])
def test_walk_shows_the_numbers_of_the_arrays(shown, told, position):
    cache = told.cache
    if position != told.T - 1:
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
        found = strip(shown, name, position)
        assert len(found) == (4 if name == "k" else 4 if name == "v" else 8)
        assert np.abs(np.array(found) - array[position, : len(found)]).max() <= 0.005001, name


@pytest.mark.parametrize("position", [5, 2])
def test_walk_shows_scores_mask_and_softmax(shown, told, position):
    if position != told.T - 1:
        shown.js(f"document.querySelectorAll('input[name=followed]')[{told.T - 1}].focus()")
        shown.press(*["ArrowLeft"] * (told.T - 1 - position))
    q, k = (told.cache[name, LAYER][:, HEAD].astype(np.float64) for name in "qk")
    scores = k @ q[position] / math.sqrt(q.shape[1])
    masked = told.cache["attn_scores", LAYER][HEAD, position]
    weights = told.cache["pattern", LAYER][HEAD, position]
    rows = shown.js(
        "[...document.querySelectorAll('#walk-softmax tbody tr')].map(r => [...r.querySelectorAll('.number')].map(c => c.textContent))"
    )
    assert len(rows) == told.T
    for key, row in enumerate(rows):
        assert abs(numbers(row[0])[0] - scores[key]) < 0.00051
        if key > position:
            assert row[1:] == ["−∞", "0", "0"] and masked[key] == -np.inf and weights[key] == 0
        else:
            assert abs(numbers(row[1])[0] - masked[key]) < 0.00051
            assert abs(numbers(row[2])[0] - np.exp(masked[key] - masked.max())) < 0.00051
            assert abs(numbers(row[3])[0] - weights[key]) < 0.000051


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.7, None), (1.9, 3), (0.1, 40), (0, None)])
def test_walk_samples_live(shown, told, temperature, top_k):
    def slide(selector, to):
        shown.js(f"document.querySelector('{selector}').focus()")
        now = int(shown.js(f"document.querySelector('{selector}').value"))
        shown.press(*(["ArrowRight"] * (to - now) or ["ArrowLeft"] * (now - to)))

    slide("#walk-temperature", round(10 * temperature))
    if top_k:
        slide("#walk-top-k", top_k)
    logits = told.logits[-1].copy()
    best = np.argsort(-logits, kind="stable")
    if top_k:
        logits[best[top_k:]] = -np.inf
    p = softmax(logits / temperature) if temperature else np.eye(len(logits))[best[0]]
    rows = shown.js(
        "[...document.querySelectorAll('.distribution tbody tr')].map(r => r.querySelector('.number').textContent)"
    )
    tokens = token_bytes(shown, ".distribution tbody th .token")
    assert tokens == [told.cache.model.token_bytes(int(token)) for token in best[:10]]
    for row, token in zip(rows, best[:10], strict=False):
        assert rounded(row, 100 * p[token])
    rest = 1 - p[best[:10]].sum()
    assert rounded(rows[10], 100 * rest, 1e-6)
    shown.click("#walk-draw")
    assert shown.text(".drawn").startswith("Drawn: ")


@pytest.mark.parametrize("side", ["asks", "answers"])
def test_heads_show_the_pattern(shown, told, side):
    shown.click("#tab-heads")
    shown.js("document.querySelector('#heads-layer').focus()")
    shown.press("ArrowDown")  # layer 4
    for head in (HEAD, 3):
        shown.click(f'.head[data-head="{head}"]')  # switches 1 off and 3 on
        if head == HEAD:
            assert (
                shown.js(f"document.querySelector('.head[data-head=\"{head}\"]').ariaPressed") == "true"
            )  # the last stays
    pattern = told.cache["pattern", LAYER + 1].astype(np.float64)
    for index in range(told.T):
        shown.point(f".{side} .side-token[data-index='{index}']")
        lines = shown.js("[...document.querySelectorAll('#panel-heads .told')].map(x => x.textContent)")
        assert len(lines) == 2
        for line, head in zip(lines, (HEAD, 3), strict=True):
            weights = pattern[head, index] if side == "asks" else pattern[head, :, index]
            expected = sorted(weights[weights > 0], reverse=True)[:5]
            found = re.findall(r"[\d.e−]+%", line)
            assert all(rounded(a, 100 * b, 100 * CODE_ERROR) for a, b in zip(found, expected, strict=True))
        shares = shown.js(
            f"[...document.querySelectorAll('.{'answers' if side == 'asks' else 'asks'} .share')].map(x => x.textContent)"
        )
        mean = (
            pattern[[HEAD, 3], index].mean(axis=0)
            if side == "asks"
            else pattern[[HEAD, 3], :, index].mean(axis=0)
        )
        for share, weight in zip(shares, mean, strict=True):
            assert rounded(share, 100 * weight, 100 * CODE_ERROR) if share else weight < 0.0051


def test_a_clicked_token_is_kept(shown):
    shown.click("#tab-heads")
    shown.click(".asks .side-token[data-index='2']")
    shown.point("h1")
    assert "position 2" in shown.text("#panel-heads .readout")
    shown.click(".asks .side-token[data-index='2']")
    shown.point("h1")
    assert "No token is chosen" in shown.text("#panel-heads .readout")


def test_all_heads_are_pictures_of_the_pattern(shown, told):
    shown.click("#tab-overview")
    pictures = shown.js(
        "[...document.querySelectorAll('.thumb canvas')].map(c => "
        "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 3))"
    )
    exact = np.stack([told.cache["pattern", layer] for layer in range(6)]).reshape(24, -1)
    assert np.abs(np.array(pictures) - 255 * np.sqrt(exact)).max() <= 1
    shown.click('.thumb[data-layer="4"][data-head="2"]')
    assert one_panel(shown, "heads")
    assert shown.text("#panel-heads .readout").startswith("Layer 4, head 2")
    shown.click("#tab-overview")
    shown.js("document.querySelector('.thumb').focus()")
    shown.press("ArrowDown", "ArrowRight", "Enter")
    assert shown.text("#panel-heads .readout").startswith("Layer 1, head 1")


def test_scores_before_and_after_mask_and_softmax(shown, told):
    shown.click("#tab-scores")
    shown.js("document.querySelector('#matrix-raw').focus()")
    shown.press(*["ArrowUp"] * told.T, *["ArrowLeft"] * told.T)
    q, k = (told.cache[name, LAYER][:, HEAD].astype(np.float64) for name in "qk")
    scores = q @ k.T / math.sqrt(q.shape[1])
    masked, weights = told.cache["attn_scores", LAYER][HEAD], told.cache["pattern", LAYER][HEAD]
    for row in range(told.T):
        for column in range(told.T):
            values = {
                name: shown.text(f"#scores-readout [data-number={name}]")
                for name in ("score", "masked", "weight")
            }
            assert abs(numbers(values["score"])[0] - scores[row, column]) < 0.0061
            if column > row:
                assert values["masked"] == "−∞" and values["weight"] == "0" and masked[row, column] == -np.inf
            else:
                assert values["masked"] == values["score"]
                assert abs(numbers(values["score"])[0] - masked[row, column]) < 0.0061
                assert rounded(values["weight"], weights[row, column], CODE_ERROR)
            shown.press("ArrowRight")
        shown.press("ArrowDown", *["ArrowLeft"] * told.T)


def test_scores_follow_the_mouse(shown, told):
    shown.click("#tab-scores")
    shown.point("#matrix-weights", 1.5 / told.T, 4.5 / told.T)
    weight = told.cache["pattern", LAYER][HEAD, 4, 1]
    assert rounded(shown.text("#scores-readout [data-number=weight]"), weight, CODE_ERROR)


def test_logit_lens(shown, told):
    shown.click("#tab-lens")
    lens, model = told.lens, told.cache.model
    for layer in range(7):
        for position in range(told.T):
            selector = f'#panel-lens td[data-layer="{layer}"][data-position="{position}"]'
            if layer % 2:
                shown.point(selector)
            else:
                shown.js(f"document.querySelector({json.dumps(selector)}).focus()")
            tokens = token_bytes(shown, "#panel-lens .readout .token")
            top, asked = lens.top_ids[layer, position], lens.token_ids[position]
            expected = [told.ids[position], *top, asked]
            assert tokens == [model.token_bytes(int(token)) for token in expected]
            text = shown.text("#panel-lens .readout").split(":", 1)[1]
            percents = re.findall(r"[\d.e−]+%", text)
            exact = [
                *np.exp(lens.top_logprobs[layer, position].astype(np.float64)),
                math.exp(lens.logprobs[layer, position]),
            ]
            assert all(rounded(a, 100 * b) for a, b in zip(percents, exact, strict=True))
            told_numbers = shown.js(
                "[...document.querySelectorAll('#panel-lens .readout .told b')].map(b => b.textContent)"
            )
            assert abs(numbers(told_numbers[0])[0] - lens.entropies[layer, position]) < 0.0051
            assert numbers(told_numbers[1])[0] == lens.ranks[layer, position] + 1
            hit = shown.js(f"document.querySelector({json.dumps(selector)}).classList.contains('hit')")
            assert hit == (top[0] == asked)


def test_text_with_alternatives(shown, told):
    shown.click("#tab-text")
    model = told.cache.model
    for position in range(1, told.T):
        shown.point(f'.word[data-position="{position}"]')
        i = position - 1
        values = {
            name: shown.text(f".details [data-number={name}]") for name in ("probability", "rank", "entropy")
        }
        assert rounded(values["probability"], 100 * math.exp(told.score.logprobs[i]))
        assert numbers(values["rank"])[0] == told.score.ranks[i] + 1
        assert abs(numbers(values["entropy"])[0] - told.score.entropies[i]) < 0.0051
        assert token_bytes(shown, ".details th .token") == [
            model.token_bytes(int(t)) for t in told.score.top_ids[i]
        ]
        rows = shown.js("[...document.querySelectorAll('.details .number')].map(x => x.textContent)")
        exact = np.exp(told.score.top_logprobs[i].astype(np.float64))
        assert all(rounded(a, 100 * b) for a, b in zip(rows, exact, strict=True))
    shown.js("document.querySelector('.word').focus()")
    shown.press("ArrowRight", "ArrowRight")
    assert rounded(shown.text(".details [data-number=probability]"), 100 * math.exp(told.score.logprobs[1]))
    assert f"Perplexity {told.score.perplexity:.5g}" in shown.text("#panel-text")


@pytest.mark.parametrize("by", ["probability", "rank", "entropy"])
def test_text_is_coloured(shown, told, by):
    shown.click("#tab-text")
    shown.click(f"#panel-text .choice label:nth-child({['probability', 'rank', 'entropy'].index(by) + 1})")
    largest = math.log(told.logits.shape[1])
    exact = {
        "probability": -told.score.logprobs / largest,
        "rank": np.log(told.score.ranks + 1) / largest,
        "entropy": told.score.entropies / largest,
    }[by]
    strengths = shown.js(
        "[...document.querySelectorAll('.word')].map(w => Number(w.style.getPropertyValue('--v')))"
    )
    assert strengths[0] == 0
    assert np.abs(np.array(strengths[1:]) - np.minimum(exact, 1)).max() < 0.0001


def test_generation_step_by_step(shown, told, bundled):
    shown.click("#tab-generation")
    ids = [*told.ids, *told.sampled.token_ids]
    _, cache = bundled.run_with_cache(ids[:-1], "*.hook_pattern")
    for step, (choice, logprob) in enumerate(zip(told.sampled.token_ids, told.sampled.logprobs, strict=True)):
        length = told.T + step
        assert b"".join(token_bytes(shown, ".sentence .token")) == b"".join(
            map(bundled.token_bytes, ids[: length + 1])
        )
        assert token_bytes(shown, ".sentence .new .token") == [bundled.token_bytes(choice)]
        candidates = told.sampled.trace.steps[step].branches[0].candidates
        rows = shown.js(
            "[...document.querySelectorAll('#panel-generation .bars tbody tr')].map(r => "
            "[r.className, r.querySelector('.number').textContent, r.querySelector('.note').textContent])"
        )
        for (kind, number, note), candidate in zip(rows, candidates, strict=True):
            assert rounded(number, 100 * math.exp(candidate.logprob))
            assert (kind == "chosen") == (candidate.token_id == choice)
            assert note == (
                "chosen"
                if candidate.token_id == choice
                else f"left out: {candidate.removed_by}"
                if candidate.removed_by
                else ""
            )
        readout = shown.text("#panel-generation .readout")
        assert rounded(re.search(r"\(([\d.]+)%\)", readout)[1], 100 * math.exp(logprob))
        count = lambda kind: shown.js(f"document.querySelectorAll('.kv.{kind}').length")  # noqa: E731
        if step:
            assert f"1 column computed; keys and values of {length - 1} tokens reused" in readout
            assert (count("computed"), count("kept")) == (6, 6 * (length - 1))
        else:
            assert f"{length} columns computed" in readout
            assert (count("computed"), count("kept")) == (6 * length, 0)
        read = shown.js(
            "[...document.querySelectorAll('.kv.read')].map(r => Number(r.style.getPropertyValue('--v')))"
        )
        exact = np.stack(
            [cache["pattern", layer][:, length - 1, : length - 1].mean(axis=0) for layer in range(6)], axis=1
        )
        if step:
            assert np.abs(np.array(read) ** 2 - exact.ravel()).max() < 0.004
            shown.press("Enter") if step % 2 else shown.click("#generation-next")
        else:
            shown.click("#generation-next")
    assert shown.js("document.querySelector('#generation-next').disabled")


def test_search_tree_and_greedy(shown, told, bundled):
    shown.click("#tab-search")
    rows = shown.js(
        "[...document.querySelectorAll('.found tbody tr')].map(r => [r.className, r.querySelector('.number').textContent])"
    )
    paths = [token_bytes(shown, f".found tbody tr:nth-child({i + 1}) .path .token") for i in range(4)]
    for (_, joint), path, result in zip(rows, paths, [*told.found, told.greedy], strict=True):
        assert path == list(map(bundled.token_bytes, result.token_ids))
        assert abs(numbers(joint)[0] - sum(result.logprobs)) < 0.00011
    assert [kind for kind, _ in rows] == ["best", "", "", "greedy"]
    ratio = math.exp(sum(told.found[0].logprobs) - sum(told.greedy.logprobs))
    assert ratio > 1.1 and rounded(shown.text(".verdict"), ratio)
    for step in told.found[0].trace.steps:
        for branch in step.branches:
            for candidate in branch.candidates:
                if not candidate.fate:
                    continue
                path = " ".join(map(str, [*branch.token_ids, candidate.token_id]))
                shown.js(f"document.querySelector('.node[data-path=\"{path}\"]').focus()")
                assert rounded(
                    shown.text(".readout [data-number=probability]"), 100 * math.exp(candidate.logprob)
                )
                assert abs(numbers(shown.text(".readout [data-number=joint]"))[0] - candidate.score) < 0.00051
    for kind, result in (("best", told.found[0]), ("greedy", told.greedy)):
        lit = shown.js(f"[...document.querySelectorAll('.node.{kind}:not(.root)')].map(n => n.dataset.path)")
        assert sorted(lit, key=len) == [
            " ".join(map(str, result.token_ids[: i + 1])) for i in range(len(result.token_ids))
        ]


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_are_shown(browser, files, bundled, text):
    opened(browser, files, explain_page(bundled, text, max_new_tokens=2, num_beams=2))
    for view in VIEWS:
        browser.click(f"#tab-{view}")
    assert b"".join(token_bytes(browser, ".word .token")) == text.encode("utf-8")
    assert b"".join(token_bytes(browser, ".asks .token")) == text.encode("utf-8")
    assert browser.js("typeof pwned") == "undefined"
    assert browser.js("document.querySelectorAll('bdi :not(.mark), script').length") == 2
    # Nothing that is shown is invisible: every token takes room.
    assert browser.js(
        "[...document.querySelectorAll('.word .token')].every(t => t.getBoundingClientRect().width > 1 || t.closest('[hidden]'))"
    )
    unharmed(browser)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_and_can_be_read(browser, files, told, width, dark):
    """No view is wider than the screen; all text has a contrast of 4.5 (WCAG AA)."""
    try:
        browser.resize(width, 800)
        browser.media(dark=dark)
        opened(browser, files, told.page)
        background = numbers(browser.js("getComputedStyle(document.body).backgroundColor"))
        assert (sum(background[:3]) < 200) == dark
        for view in VIEWS:
            browser.click(f"#tab-{view}")
            browser.point("h1")
            assert browser.js("document.documentElement.scrollWidth") <= width, view
            assert browser.js(CONTRAST) == [], view
        unharmed(browser)
    finally:
        browser.resize(1200, 900)
        browser.media()


CONTRAST = """
(() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number), by = c.startsWith("color(") ? 255 : 1;
    return [n[0] * by, n[1] * by, n[2] * by, n[3] ?? 1]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3]));
  const light = c => { const [r, g, b] = c.map(x => x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { const own = parse(getComputedStyle(e).backgroundColor);
    return e === document.documentElement ? over(own, [255, 255, 255]) : over(own, ground(e.parentElement)); };
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.offsetHeight || e.closest(".faded .strip, :disabled, noscript, svg")) continue;
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const under = ground(e), text = over(parse(getComputedStyle(e).color), under);
    const [a, b] = [light(under), light(text)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${e.className} ${e.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return bad.slice(0, 5);
})()
"""


def test_paper_shows_everything_in_light_colours(browser, files, told):
    browser.media(dark=True)
    try:
        opened(browser, files, told.page)
        browser.click("#tab-lens")
        browser.js("dispatchEvent(new Event('beforeprint'))")
        panels = "[...document.querySelectorAll('[role=tabpanel]')].filter(p => p.offsetHeight).length"
        assert browser.js(panels) == len(VIEWS)
        assert sum(numbers(browser.js("getComputedStyle(document.body).backgroundColor"))[:3]) > 600
        drawn = "[...document.querySelectorAll('canvas')].every(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x))"
        assert browser.js(drawn)
        browser.js("dispatchEvent(new Event('afterprint'))")
        assert one_panel(browser, "lens")
        pdf = browser.pdf()
        assert pdf.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", pdf)) >= len(VIEWS)
        assert one_panel(browser, "lens")
        unharmed(browser)
    finally:
        browser.media()


def test_reduced_motion(browser, files, told):
    try:
        for reduced in (False, True):
            browser.media(reduced_motion=reduced)
            opened(browser, files, told.page)
            moving = browser.js(
                "[...document.querySelectorAll('*')].some(e => getComputedStyle(e).transitionDuration !== '0s')"
            )
            assert moving == (not reduced)
    finally:
        browser.media()


def test_a_long_text_stays_usable(browser, files, bundled):
    ids = np.random.default_rng(1).integers(1, 4096, 200).tolist()
    page = explain_page(bundled, ids, layer=2, head=0)
    _, cache = bundled.run_with_cache(ids, "*.hook_pattern")
    opened(browser, files, page)
    try:
        for width in (1200, 360):
            browser.resize(width, 800)
            for view in VIEWS:
                browser.click(f"#tab-{view}")
                assert one_panel(browser, view)
                assert browser.js("document.documentElement.scrollWidth") <= width, view
    finally:
        browser.resize(1200, 900)
    browser.click("#tab-scores")
    browser.click("#panel-scores .choice label:nth-child(3)")
    browser.js("document.querySelector('#matrix-weights').focus()")
    browser.press(*["ArrowRight"] * 60)
    weight = numbers(browser.text("#scores-readout [data-number=weight]"))[0]
    exact = cache["pattern", 2][0, 199, 60]
    assert abs(weight - exact) <= max(0.0034, 0.055 * exact)
    assert b"".join(token_bytes(browser, ".word .token")) == b"".join(map(bundled.token_bytes, ids))
    unharmed(browser)


def test_one_token_and_a_full_context(browser, files, bundled):
    opened(browser, files, explain_page(bundled, ""))
    for view in VIEWS:
        browser.click(f"#tab-{view}")
    unharmed(browser)
    model, _ = random_gpt2(n_vocab=61, n_ctx=12)  # and no tokenizer
    opened(browser, files, explain_page(model, list(range(12))))
    assert browser.js("[...document.querySelectorAll('[role=tab]')].map(t => t.id)") == [
        f"tab-{v}" for v in VIEWS[:6]
    ]
    for view in VIEWS[:6]:
        browser.click(f"#tab-{view}")
    assert browser.js("[...document.querySelectorAll('.word')].map(w => w.textContent)") == [
        f"#{i}" for i in range(12)
    ]
    unharmed(browser)


@pytest.mark.parametrize("causal", [True, False])
def test_fragment(browser, files, bundled, causal):
    _, cache = bundled.run_with_cache(TEXT, "blocks.[24].attn.hook_pattern", causal=causal)
    html = fragment(cache)
    (frame,) = [attributes for tag, attributes in Page(html).elements]
    inside = opened(browser, files, frame["srcdoc"])  # as the frame shows it
    assert inside.js("[...document.querySelector('#heads-layer').options].map(o => o.value)") == ["2", "4"]
    inside.click("#tab-scores")
    inside.js("document.querySelector('#matrix-weights').focus()")
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
