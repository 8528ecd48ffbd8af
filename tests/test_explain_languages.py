"""The page of an explanation in other languages: tables that are complete, and pages without English left."""

import json
import re
from importlib.resources import files

import pytest
from helpers.berts import loader
from helpers.command_line import run
from helpers.explained import TEXT, Page
from helpers.pages import axe, opened, together, unharmed

from gpt2c import EncoderDecoder, edits
from gpt2c.views.pages import explain_page
from gpt2c.views.pages.document import SCRIPTS, WITHOUT_SCRIPT
from gpt2c.views.pages.language import languages

PAGES = files("gpt2c.views.pages")
TABLES = [name for name in languages() if name != "en"]
LITERAL = r'"((?:[^"\\]|\\.)*)"'
# Of plurals the second text is the one of tables.
CALLS = re.compile(
    rf"\b(?:t|mixed)\(\s*(?:{LITERAL}|(?P<computed>[^\s\"]))|\bplural\((?:[^\"]*?), {LITERAL}, {LITERAL}\)"
)
# What is written in Latin letters in Chinese, too: names, and words that have no other. The last line has
# the two texts of a pair, options, models and an arithmetic.
LATIN = """
gpt2c explain softmax logit logits LayerNorm GELU BERT MASK top-k top-p k p e nat exp attention sink layers
A B top_k top_p dates decoder bytes float32 float32-native-4
"""


def texts():
    """Every text that the scripts look up."""
    found = set()
    for script in SCRIPTS:
        for call in CALLS.finditer(PAGES.joinpath(script).read_text("utf-8")):
            if not call["computed"]:
                found.add(json.loads(f'"{call[1] or call[4]}"'))
            else:
                assert script == "language.js", (
                    f"{script}: a text is written where it is looked up: {call[0]}"
                )
    return found


def places(text):
    return sorted(set(re.findall(r"\{\d\}", text)))


def table(name):
    def pairs(found):
        assert len(dict(found)) == len(found), "a text is in the table twice"
        return dict(found)

    text = PAGES.joinpath("languages", f"{name}.json").read_text("utf-8")
    return json.loads(text, object_pairs_hook=pairs)


# ---- tables


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_texts_of_the_page_and_no_other(name):
    assert set(table(name)) == texts() | {WITHOUT_SCRIPT, "Explanation"}


@pytest.mark.parametrize("name", TABLES)
def test_a_translation_has_the_places_of_its_text(name):
    for text, translation in table(name).items():
        forms = [translation] if isinstance(translation, str) else translation.values()
        assert isinstance(translation, str) or "other" in translation, text
        assert all(places(form) == places(text) for form in forms), text


# ---- errors


def test_an_unknown_language_is_an_error_that_names_those_there_are(bundled):
    with pytest.raises(ValueError, match="lang must be one of 'en', 'zh', not 'tlh'"):
        bundled.explain(TEXT, lang="tlh")
    done = run("explain", TEXT, "-o", "-", "--lang", "tlh")
    assert done.returncode == 1 and "lang must be one of 'en', 'zh'" in done.stderr and done.stdout == ""


def test_a_language_without_a_page_is_an_error():
    for form in ([], ["--text", "-o", "-"], ["--json"]):
        done = run("explain", TEXT, "--lang", "zh", *form)
        assert done.returncode == 1 and "--lang is the language of a page" in done.stderr


# ---- the page in Chinese


# What is said, but for tokens, code and the reader's own text: texts, and what a screen reader is told.
SAID = """
[...document.querySelectorAll("body *:not(script, style, noscript)")].flatMap((e) => {
  const own = [...e.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data);
  const names = ["aria-label", "aria-valuetext", "title", "alt"].map((name) => e.getAttribute(name) ?? "");
  const theirs = e.closest("bdi, code, .mark, #walk-token, #walk-key");
  return [...(theirs ? [] : own), ...(e.closest(".mark") ? [] : names)];
})
"""


def english(browser, *allowed):
    """Words in Latin letters that are said, but for those that may be."""
    words = {word for text in browser.js(SAID) for word in re.findall(r"[A-Za-z][A-Za-z0-9_-]*", text)}
    return words - {*LATIN.split(), *allowed}


def views(browser):
    return browser.all("[role=tab]", "e.id.replace('tab-', '')")


OTHERS = {
    "a long text": lambda model, _: explain_page(model, [7, 300] * 150, max_new_tokens=2, lang="zh"),
    "the start token": lambda model, _: model.explain("", lang="zh").html,
    "an edited model": lambda model, _: explain_page(
        model, TEXT, layer=2, edits=(("blocks.2.pattern", edits.scale(3, heads=0)),), lang="zh"
    ),
    "an encoder-decoder model": lambda *_: (
        EncoderDecoder.from_pretrained("dates", threads=1)
        .explain("the third of May, 1984", max_new_tokens=2, lang="zh")
        .html
    ),
    "a BERT": lambda _, bert: bert.explain("The [MASK] had [MASK] daughters.", lang="zh").html,
    "a pair": lambda _, bert: bert.explain(("The king had daughters.", "They were."), lang="zh").html,
    "a BERT without a mask": lambda _, bert: bert.explain("The king had daughters.", lang="zh").html,
}


@pytest.fixture(scope="module")
def chinese(bundled):
    return explain_page(bundled, TEXT, layer=3, head=1, seed=5, lang="zh")


def test_no_english_is_left_in_any_view(browser, files, chinese):
    opened(browser, files, chinese)
    assert browser.js("document.documentElement.lang") == "zh"
    for view in views(browser):
        browser.click(f"#tab-{view}")
        for selector in ("#walk-draw", "#generation-next", ".side-token", ".thumb", ".node.best"):
            if browser.all(f"#panel-{view} {selector}"):
                browser.focus(f"#panel-{view} {selector}")
                if selector != ".thumb":  # which opens another view
                    browser.press("Enter")
        assert english(browser) == set(), view
    described = browser.all(".node:not(.root)", "e.ariaDescription")
    assert all(
        re.fullmatch(r"(第一个|在 .+ 之后)(\uff0c第 \d 条文本的结尾)?", text, re.S) for text in described
    )
    assert Page(chinese).text("noscript").startswith("本页的图")
    together(browser)
    assert axe(browser) == []
    unharmed(browser)


@pytest.mark.parametrize("kind", OTHERS)
def test_no_english_is_left_in_the_page_of(browser, files, bundled, tmp_path, kind):
    opened(browser, files, OTHERS[kind](bundled, loader(tmp_path)("bytes")))
    for view in views(browser):
        browser.click(f"#tab-{view}")
        assert english(browser) == set(), view
    together(browser)
    assert axe(browser) == []
    unharmed(browser)


def test_english_is_found_where_it_is_left(browser, files, told):
    opened(browser, files, told.page)
    assert {"Walk", "Follow", "Map"} <= english(browser)


NUMBERS = ("[data-number]", "td.number:not([data-number])", ".cell")


def test_the_numbers_are_those_of_the_page_in_english(browser, files, told, chinese):
    found = []
    for page in (told.page, chinese):
        opened(browser, files, page)
        for view in views(browser):
            browser.click(f"#tab-{view}")
        found.append([re.findall(r"\d[\d.,]*%?", text) for name in NUMBERS for text in browser.all(name)])
    assert found[0] == found[1] and len(found[0]) > 300


@pytest.mark.parametrize(("text", "count"), [("", "1 token"), ("The king", "2 tokeny"), (TEXT, "6 tokenów")])
def test_a_table_can_have_a_text_for_each_plural(browser, files, bundled, text, count):
    """Polish has three of whole numbers; the browser knows which."""
    forms = {"one": "{0} token", "few": "{0} tokeny", "many": "{0} tokenów", "other": "{0} tokena"}
    page = bundled.explain(text, max_new_tokens=1, num_beams=1).html
    for old, new in (
        ('<html lang="en">', '<html lang="pl">'),
        ('"words":{}', f'"words":{json.dumps({"{0} tokens": forms})}'),
    ):
        assert page.count(old) == 1
        page = page.replace(old, new)
    opened(browser, files, page)
    assert browser.text("#top .made").endswith(f"· {count}")


def test_the_frame_in_a_notebook_has_a_title_in_the_language_of_its_page(bundled):
    explanation = bundled.explain(TEXT, max_new_tokens=1, num_beams=1, lang="zh")
    assert 'title="讲解"' in explanation._repr_html_() and explanation.lang == "zh"


def test_the_command_writes_the_page_of_the_language(bundled):
    done = run("explain", TEXT, "-n", "2", "-o", "-", "--lang", "zh")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == bundled.explain(TEXT, max_new_tokens=2, lang="zh").html
