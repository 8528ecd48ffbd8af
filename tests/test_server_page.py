"""The page of ``gpt2c serve`` in a real browser, on a real server."""

import base64
import contextlib
import hashlib
import json
import math
import re
import time

import pytest
from helpers.explained import Page
from helpers.pages import axe
from helpers.served import ask, served

KEY = "sk-a-key"
TEXT = "Once upon a time there was a king who had three daugh"
SIZES = [(320, 640), (360, 780), (1280, 860)]


@pytest.fixture(scope="module")
def server(bundled):
    with served(bundled) as server:
        yield server


@pytest.fixture(scope="module")
def locked(bundled):
    with served(bundled, api_keys=(KEY,)) as server:
        yield server


@pytest.fixture
def page(browser, server):
    """The page, just opened; nobody may have complained in the end, and nobody else was asked."""
    browser.resize(1280, 860)
    browser.media()
    yield opened(browser, server)
    assert browser.complaints == []
    own = f"http://127.0.0.1:{server.port}/"
    assert [url for url in browser.requests if not url.startswith((own, "data:", "about:"))] == []


def opened(browser, server):
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.wait("document.documentElement.classList.contains('ready')")
    browser.focus("#text")
    return browser


def value(page):
    return page.js("document.querySelector('#text').value")


def ghost(page):
    """What is offered behind the cursor, once there is something."""
    page.wait("Boolean(document.querySelector('.ghost'))")
    return page.js("document.querySelector('.ghost').textContent")


def offers(page):
    """The words that are offered, once there are some."""
    page.wait("Boolean(document.querySelector('.offers button:not(:disabled)'))")
    return page.all(".offers button:not(:disabled) bdi")


def colour(page):
    page.click("#coloured")
    page.focus("#text")
    page.wait("Boolean(document.querySelector('.piece'))")


def fields(page, **values):
    for name, given in values.items():
        page.js(f"document.querySelector('[name={name}]').value = {json.dumps(str(given))}")


def write(page):
    """Continue the text to the end."""
    page.click("#write")
    page.wait("document.querySelector('#status').textContent.includes('seed')")
    page.wait("document.querySelector('#write').textContent === 'Continue'")


# ---- the document


def test_the_document_needs_nobody_and_runs_nothing_else(server, bundled):
    answer = ask(server, "GET", "/")
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    document = answer.body.decode()
    found = Page(document)
    for element in found.elements:
        assert not {name for name in element.attributes if name.startswith("on") or name == "style"}
        assert element.attributes.get("src") is None
        assert element.attributes.get("href") in (None, "data:,")
    assert found.all("h1")[0].text == f"{ask(server, 'GET', '/health').json['model']} {bundled.dtype}"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    scripts = [element.text for element in found.all("script") if not element.attributes]
    for kind, [source] in (("script-src", scripts), ("style-src", [one.text for one in found.all("style")])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert policy[kind] == f"'sha256-{digest}'"
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in document


def test_it_opens_without_a_key_and_tells_none(locked):
    answer = ask(locked, "GET", "/")
    assert answer.status == 200 and KEY not in answer.body.decode()
    assert ask(locked, "POST", "/v1/suggest", {"prompt": "a"}).status == 401


# ---- typing


def test_the_ghost_is_the_most_probable_text_and_tab_takes_it(page, bundled):
    page.type(TEXT)
    [best] = bundled.session(TEXT).complete(1, max_new_tokens=8)
    offered = ghost(page)
    assert offered == best.text.split("\n")[0] == "ters."
    assert page.text("#spoken") == "Suggested: ters."
    page.press("Tab")
    assert value(page) == TEXT + offered
    assert page.js("document.activeElement.id") == "text"
    page.js("document.execCommand('undo')")
    assert value(page) == TEXT


def test_arrows_and_escape(page):
    page.type(TEXT)
    offered = ghost(page)
    page.press("ArrowLeft")
    page.wait("!document.querySelector('.ghost')")
    page.press("ArrowRight")
    assert value(page) == TEXT
    assert ghost(page) == offered
    page.press("Escape")
    assert not page.js("Boolean(document.querySelector('.ghost'))")
    page.press("ArrowRight")
    assert value(page) == TEXT
    page.press("Tab")
    assert page.js("document.activeElement.closest('.offers') !== null")
    page.focus("#text")
    page.type("t")
    ghost(page)
    page.press("ArrowRight")
    assert value(page).startswith(TEXT + "t") and len(value(page)) > len(TEXT) + 1


def test_from_right_to_left(page):
    text = "The king\nمرحبا بالعالم هذا"  # noqa: RUF001
    page.call("Input.insertText", {"text": text})
    offered = ghost(page)
    page.press("ArrowRight")
    assert value(page) == text
    page.press("End")
    page.focus("#text")
    page.js("document.querySelector('#text').setSelectionRange(99, 99)")
    assert ghost(page) == offered
    page.press("ArrowLeft")
    assert value(page) == text + offered


def test_a_tap_on_the_ghost_takes_it(page):
    page.type(TEXT)
    offered = ghost(page)
    page.click(".mirror", 0.5, 0.9)  # below the text: the cursor stays at its end
    assert ghost(page) == offered
    page.click(".mirror", 0.01, 0.1)
    assert value(page) == TEXT
    page.js("document.querySelector('#text').setSelectionRange(999, 999)")
    assert ghost(page) == offered
    page.click(".ghost")
    assert value(page) == TEXT + offered


def test_who_types_what_is_offered_keeps_the_rest(page):
    page.type(TEXT)
    assert ghost(page) == "ters."
    page.type("te")
    assert page.js("document.querySelector('.ghost').textContent") == "rs."
    page.type("x")
    assert not page.js("Boolean(document.querySelector('.ghost'))")


def test_words_with_their_probabilities(page, bundled):
    text = "The king and the qu"
    page.type(text)
    found = [word for word in bundled.session(text).suggest_words(6) if word.text][:5]
    assert offers(page) == [word.word for word in found]
    shown = [float(one.rstrip("%")) / 100 for one in page.all(".offers small")]
    assert all(math.isclose(p, word.probability, rel_tol=6e-3) for p, word in zip(shown, found, strict=True))
    page.click(".offers button:nth-child(2)")
    assert value(page) == text + found[1].text
    assert page.js("document.activeElement.id") == "text"


def test_words_come_where_the_cursor_is(page):
    page.type("The king and the qu of the land")
    page.js("document.querySelector('#text').setSelectionRange(19, 19)")
    page.wait("document.querySelector('.offers bdi')?.textContent === 'queen'")
    assert not page.js("Boolean(document.querySelector('.ghost'))")
    page.click(".offers button")
    assert value(page) == "The king and the queen of the land"


def test_answers_that_come_too_late_are_ignored(page):
    # A server that is slow with what is asked first, and a request that cannot be aborted.
    page.js("""(() => {
      const real = window.fetch;
      window.asked = window.late = 0;
      window.fetch = async (path, options) => {
        const { prompt } = JSON.parse(options.body);
        if (prompt.endsWith("daugh")) window.asked++;
        const answer = await real(path, { ...options, signal: undefined });
        if (prompt.endsWith("daugh")) {
          await new Promise((done) => setTimeout(done, 800));
          window.late++;
        }
        return answer;
      };
    })()""")
    page.type(TEXT)
    page.wait("window.asked === 2")
    page.type("t and a qu")
    before = ghost(page), offers(page)
    page.wait("window.late === 2")
    time.sleep(0.1)
    assert (ghost(page), offers(page)) == before
    assert not any(word.startswith("daugh") for word in before[1])


def test_an_input_method_is_left_alone(page):
    page.type(TEXT)
    ghost(page)
    page.call("Input.imeSetComposition", {"text": "t", "selectionStart": 1, "selectionEnd": 1})
    time.sleep(0.6)
    assert not page.js("Boolean(document.querySelector('.ghost'))")
    page.call("Input.insertText", {"text": "ters and"})
    assert value(page) == TEXT + "ters and"
    assert ghost(page)


# ---- probabilities


def test_tokens_are_coloured_and_told(page, bundled):
    text = "The king ☃ had naïve daughters, and"
    page.call("Input.insertText", {"text": text})
    colour(page)
    score = bundled.score(text, top=5)
    shared = sum(one == other for one, other in zip(score.offsets, score.offsets[1:], strict=False))
    assert shared
    assert "".join(page.all(".piece")) == text
    assert len(page.all(".piece")) == len(score) - shared
    page.press("End")  # the last token
    page.wait("Boolean(document.querySelector('#details .bars'))")
    told = page.text("#details")
    assert f"rank {score.ranks[-1]:,}" in told
    shown = float(re.search(r"probability ([\d.]+)%", told)[1]) / 100
    assert math.isclose(shown, math.exp(score.logprobs[-1]), rel_tol=6e-3)
    alternatives = [bundled.tokenizer.decode([i]).replace(" ", "␣") for i in score.top_ids[-1].tolist()]
    assert page.all("#details th") == alternatives
    page.point(".piece")
    page.wait("document.querySelector('#details p').textContent.startsWith('The')")
    assert f"rank {score.ranks[0]:,}" in page.text("#details")
    page.click("#coloured")
    assert page.all(".piece") == [] and page.text("#details") == ""


def test_colours_follow_the_text(page, bundled):
    page.type("The king had")
    colour(page)
    page.type(" three sons")
    page.wait("document.querySelector('.mirror').textContent.startsWith('The king had three sons')")
    page.wait(
        f"document.querySelectorAll('.piece').length === {len(bundled.score('The king had three sons'))}"
    )


# ---- continuing


def test_a_text_is_streamed(page, bundled):
    page.type(TEXT)
    page.js("""(() => {
      window.parts = new Set();
      new MutationObserver(() => {
        const coming = document.querySelector(".coming");
        if (coming) window.parts.add(coming.textContent);
      }).observe(document.querySelector("#mirror"), { childList: true });
    })()""")
    fields(page, temperature=0.7, top_k=20, max_tokens=24, seed=3)
    write(page)
    wanted = bundled.generate(TEXT, max_new_tokens=24, temperature=0.7, top_k=20, seed=3, heal=True)
    assert value(page) == TEXT + wanted.text
    assert len(page.js("[...window.parts]")) > 10
    assert page.text("#status") == "24 tokens · seed 3"
    assert page.text("#error") == ""
    page.js("(document.querySelector('#text').focus(), document.execCommand('undo'))")
    assert value(page) == TEXT


def test_it_can_be_stopped(page, server):
    for stop in (lambda: page.click("#write"), lambda: page.press("Escape")):
        page.js("document.querySelector('#text').select()")
        page.call("Input.insertText", {"text": TEXT})
        fields(page, max_tokens=400, temperature=1, seed=3)
        page.click("#write")
        page.wait("document.querySelector('.coming')?.textContent.length > 20")
        assert page.text("#write") == "Stop" and page.js("document.querySelector('#text').readOnly")
        stop()
        page.wait("document.querySelector('#write').textContent === 'Continue'")
        assert page.text("#status").startswith("Stopped · seed ")
        assert len(value(page)) > len(TEXT) + 20
        assert not page.js("document.querySelector('#text').readOnly")
        for _ in range(100):
            if b"\ngpt2c_running 0.0" in ask(server, "GET", "/metrics").body:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the server goes on")


def test_by_keyboard_alone(page):
    page.type("The king")
    ghost(page), offers(page)
    page.press("Escape")
    seen = ["text"]
    for _ in range(20):
        page.press("Tab")
        seen.append(page.js("(e => e.id || e.name || e.parentElement.id)(document.activeElement)"))
        if seen[-1] == "coloured":
            break
        assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    names = ["temperature", "top_k", "max_tokens", "seed", "write", "coloured"]
    assert [*dict.fromkeys(seen)] == ["text", "offers", *names]
    page.press(" ")
    page.wait("Boolean(document.querySelector('.piece'))")
    page.focus("[name=seed]")
    page.type("5")
    page.press("Enter")
    page.wait("document.querySelector('#status').textContent.includes('seed 5')")


# ---- what goes wrong


def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser, locked):
    page = opened(browser, locked)
    page.type("The king")
    page.wait("document.querySelector('#error').textContent.includes('wants an API key')")
    for given, said in (("sk-wrong", "does not know this API key"), ("sk-ключ", "ASCII")):
        page.js(f"document.querySelector('#key').value = {json.dumps(given)}")
        page.click("#entrance button")
        page.wait(f"document.querySelector('#error').textContent.includes({json.dumps(said)})")
    page.js("document.querySelector('#key').value = ''")
    page.focus("#key")
    page.type(KEY)
    page.press("Enter")
    assert offers(page)
    page.wait("document.querySelector('#error').textContent === ''")
    assert page.js("Object.values(sessionStorage)") == [KEY]
    assert page.js("localStorage.length") == 0 and page.js("document.cookie") == ""
    assert KEY not in page.js("location.href")
    opened(browser, locked)
    page.type("The king")
    assert offers(page)
    assert all("401" in line for line in browser.complaints)


def test_what_the_server_refuses_is_told(page):
    page.call("Input.insertText", {"text": "word " * 600})
    assert offers(page)
    page.click("#write")
    page.wait("document.querySelector('#error').textContent.includes('positions')")
    assert page.text("#write") == "Continue" and value(page) == "word " * 600
    fields(page, temperature=9)
    page.click("#write")
    assert page.js("document.querySelector('[name=temperature]').matches(':invalid')")
    assert any("400" in line for line in page.complaints)


def test_a_text_that_breaks_off_is_kept_and_told(page):
    page.js("""(() => {
      const real = window.fetch;
      window.fetch = async (path, options) => {
        const answer = await real(path, options);
        if (path !== "/v1/completions") return answer;
        return new Response((await answer.text()).replace(/.DONE.*/s, ""));
      };
    })()""")
    page.type(TEXT)
    ghost(page)
    fields(page, seed=3, max_tokens=10)
    write(page)
    assert len(value(page)) > len(TEXT)
    assert ghost(page), offers(page)
    assert page.text("#error") == "The connection broke off before the text was complete."


def test_a_server_that_has_gone_is_told(browser, bundled):
    with contextlib.ExitStack() as stack:
        page = opened(browser, stack.enter_context(served(bundled)))
        page.type("The king")
        assert offers(page)
        stack.close()
    page.type(" and")
    page.wait("document.querySelector('#error').textContent.startsWith('The server does not answer')")
    assert browser.complaints


# ---- how it looks


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_jumps_and_nothing_is_cut(page, width, height):
    page.resize(width, height)
    places = ".sheet, .offers, #status, form, .tools > *", "e.offsetTop"
    before = page.all(*places)
    page.type(TEXT)
    ghost(page), offers(page)
    assert page.all(*places) == before
    last = f"""(() => {{
      const range = document.createRange();
      range.setStart(document.querySelector("#mirror").firstChild, {len(TEXT) - 1});
      range.setEnd(document.querySelector("#mirror").firstChild, {len(TEXT)});
      return range.getBoundingClientRect().toJSON();
    }})()"""
    with_ghost = page.js(last)
    page.press("Escape")
    assert page.js(last) == with_ghost
    colour(page)
    page.press("End")
    page.wait("Boolean(document.querySelector('#details .bars'))")
    fields(page, max_tokens=60, seed=3)
    write(page)
    assert page.all(*places) == before
    assert page.js("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.js("document.querySelector('#text').scrollHeight") == page.js(
        "document.querySelector('#mirror').offsetHeight"
    )
    cut = page.all("button:not(:disabled), label, h1, p:not(.spoken)", "e.scrollWidth - e.clientWidth")
    assert max(cut) <= 1


CONTRAST = """(element => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const over = (top, below) => top.rgb.map((x, i) => x * top.a + below[i] * (1 - top.a));
  const paint = (e) => parse(getComputedStyle(e).backgroundColor);
  const ground = (e) => (e ? over(paint(e), ground(e.parentElement)) : [255, 255, 255]);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(element.matches(".piece") ? document.querySelector("#text") : element);
  const [a, b] = [light(over(parse(style.color), ground(element))), light(ground(element))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})"""


@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_read(page, dark):
    page.media(dark=dark)
    page.type(TEXT)
    colour(page)
    ghost(page), offers(page)
    page.press("End")
    page.wait("Boolean(document.querySelector('#details .bars'))")
    page.js("document.querySelector('#error').textContent = 'wrong'")
    shown = ".brand, h1, small, label, p, .ghost, .piece, bdi, .mark, #write, td.number, input, caption, b"
    ratios = page.all(f":is({shown}):not(#spoken)", f"[{CONTRAST}(e), e.outerHTML.slice(0, 80)]")
    assert len(ratios) > 40
    assert [one for one in ratios if one[0] < 4.5] == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), SIZES[1:])
def test_axe_finds_nothing(page, width, height, dark):
    page.resize(width, height)
    page.media(dark=dark)
    assert axe(page) == []
    page.type(TEXT)
    colour(page)
    ghost(page), offers(page)
    page.press("End")
    page.wait("Boolean(document.querySelector('#details .bars'))")
    page.js("document.querySelector('#error').textContent = 'wrong'")
    assert axe(page) == []


def test_axe_finds_nothing_where_a_key_is_asked_for(browser, locked):
    page = opened(browser, locked)
    assert page.js("!document.querySelector('#entrance').hidden") and axe(page) == []


def test_forced_colours_leave_the_colours_of_tokens(page):
    page.media(forced_colors=True)
    page.type(TEXT)
    colour(page)
    page.press("End")
    page.wait("Boolean(document.querySelector('#details .bars'))")
    ground = page.js("getComputedStyle(document.body).backgroundColor")
    for selector in (".piece", "#details .bar span", ".ramp"):
        paint = "getComputedStyle(e)[e.matches('.ramp') ? 'backgroundImage' : 'backgroundColor']"
        paints = page.all(selector, paint)
        assert paints and not {ground, "none"} & set(paints), selector
    assert axe(page) == []
