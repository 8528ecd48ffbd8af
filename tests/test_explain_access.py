"""The page of an explanation for everybody: axe, contrasts, names, forced colours, keyboard, targets."""

import math

import numpy as np
import pytest
from helpers.explained import HEAD, LAYER, NASTY, VIEWS, Page
from helpers.pages import axe, contrasts, opened, together, unharmed

from gpt2c.views.pages import explain_page, fragment

WIDTHS = [360, 1280]
EMOJI = NASTY[5]


# ---- axe


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(screen, files, told, width, dark):
    screen.resize(width, 800)
    screen.media(dark=dark)
    opened(screen, files, told.page)
    together(screen)
    assert axe(screen) == []
    unharmed(screen)


def test_axe_finds_nothing_in_a_short_text_a_nasty_one_and_a_fragment(screen, files, bundled):
    screen.resize(360, 800)
    _, cache = bundled.run_with_cache("The king had three", "blocks.[24].attn.hook_pattern")
    [frame] = Page(fragment(cache)).elements
    options = {"max_new_tokens": 2, "num_beams": 2}
    for html in (
        explain_page(bundled, "", **options),
        explain_page(bundled, EMOJI, **options),
        frame.attributes["srcdoc"],
    ):
        opened(screen, files, html)
        together(screen)
        assert axe(screen) == []


def test_axe_finds_what_is_wrong(screen, files, told):
    opened(screen, files, told.page)
    screen.js("document.querySelector('.brand').style.color = 'silver'")
    screen.js("document.querySelector('#walk-draw').textContent = ''")
    assert {rule for rule, *_ in axe(screen)} == {"color-contrast", "button-name"}


# ---- contrast


# Of every cell of a matrix the contrast of its number, found in its pixels, with its ground.
CELLS = """
(([canvas, cells]) => {
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => (x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const panel = getComputedStyle(canvas.closest(".panel")).backgroundColor.match(/[\\d.]+/g).map(Number);
  const side = canvas.width / cells;
  const found = [];
  for (let row = 0; row < cells; row++) for (let column = 0; column < cells; column++) {
    const part = canvas.getContext("2d").getImageData(column * side, row * side, side, side).data;
    const over = (i, alpha) => [0, 1, 2].map((c) => part[i + c] * alpha + panel[c] * (1 - alpha));
    const at = (i) => light(over(i, part[i + 3] / 255));
    const ground = at(4 * (12 * side + 12));
    let best = 1;
    for (let y = 20; y < side - 20; y++) for (let x = 20; x < side - 20; x++) {
      const ink = at(4 * (y * side + x));
      best = Math.max(best, ink / ground, ground / ink);
    }
    found.push(best);
  }
  return found;
})([document.querySelector("#matrix-STAGE"), T])
"""


@pytest.mark.parametrize("dark", [False, True])
def test_the_numbers_of_a_matrix_can_be_read_on_their_colours(screen, files, told, dark):
    screen.resize(1280, 900, scale=4)
    screen.media(dark=dark)
    opened(screen, files, told.page)
    screen.click("#tab-scores")
    for stage in ("raw", "masked", "weights"):
        found = screen.js(CELLS.replace("STAGE", stage).replace("T])", f"{told.T}])"))
        assert len(found) == told.T**2 and min(found) >= 4.5, stage


# ---- names and values


def names(browser):
    """What a screen reader hears of each element: its role and its name."""
    nodes = browser.call("Accessibility.getFullAXTree", {})["nodes"]
    return [(node["role"]["value"], node["name"]["value"]) for node in nodes if not node["ignored"]]


NAMED = (
    "button",
    "gridcell",
    "columnheader",
    "rowheader",
    "radio",
    "slider",
    "img",
    "combobox",
    "tab",
    "Canvas",
)


def test_no_name_has_a_sign_for_a_space(screen, files, bundled):
    opened(screen, files, explain_page(bundled, "The king  had\n three\x1b", max_new_tokens=3))
    heard = set()
    for view in VIEWS:
        screen.click(f"#tab-{view}")
        for role, name in names(screen):
            if role in NAMED:
                assert name.strip(), role
                assert not set("␣⏎⇥") & set(name), name
                heard.add(name)
    assert {"king", "space", "new line", "ESC"} <= heard


def test_sliders_are_called_by_their_label_and_say_what_their_value_means(screen, files, told):
    opened(screen, files, told.page)
    meaning = ("input[type=range]", "e.getAttribute('aria-valuetext')")
    assert [name for role, name in names(screen) if role == "slider"] == ["Temperature", "Top k", "Top p"]
    assert screen.all(*meaning)[:3] == ["1.0", "all 4,096", "1: off"]
    screen.focus("#walk-temperature")
    screen.press("Home")
    assert screen.all(*meaning)[0] == "0: always the first"
    screen.click("#tab-generation")
    assert [name for role, name in names(screen) if role == "slider"] == ["Step"]
    screen.focus("#generation-step")
    screen.press("ArrowRight", "ArrowRight")
    assert screen.all(*meaning)[-1] == "3 of 8"


def test_boxes_of_a_search_are_described_by_what_stands_before(screen, files, told):
    """Those of one step may have the same token with the same probability to two digits."""
    opened(screen, files, told.page)
    screen.click("#tab-search")
    found = screen.all(".node:not(.root)", "e.firstChild.textContent + ' ' + e.ariaDescription")
    assert len(set(found)) == len(found)
    best = screen.all(".node.best", "e.ariaDescription")[-1]
    assert "after and they were married" in best and best.endswith(", end of text no. 1")


# ---- colours that the reader chose


@pytest.mark.parametrize("dark", [False, True])
def test_forced_colours_leave_what_is_seen_by_colour(screen, files, told, dark):
    screen.media(dark=dark, forced_colors=True)
    opened(screen, files, told.page)
    ground = screen.js("getComputedStyle(document.body).backgroundColor")
    seen = {
        "walk": (".bar span", ".cell"),
        "gallery": (),
        "heads": (),
        "overview": (),
        "scores": (),
        "lens": (".lens td:not(:last-child)",),
        "text": (".word:not([data-position='0'])", ".bar span"),
        "generation": (".key", ".bar span"),
        "search": (),
    }
    for view, coloured in seen.items():
        screen.click(f"#tab-{view}")
        for selector in coloured:
            colours = screen.all(f"#panel-{view} {selector}", "getComputedStyle(e).backgroundColor")
            assert colours and ground not in colours, selector
        found = contrasts(screen)
        assert len(found) > 20 and min(found)[0] >= 4.5, view
    tabs = screen.all("[role=tab]", "getComputedStyle(e).outlineStyle")
    assert tabs == ["none"] * (len(VIEWS) - 1) + ["solid"]
    together(screen)
    assert axe(screen) == []
    unharmed(screen)


# ---- by keyboard and by touch


# What has the focus, if something else is seen in all its corners and its middle.
HIDDEN = """
(() => {
  const e = document.activeElement, box = e.getBoundingClientRect();
  const seen = [[0.5, 0.5], [0.1, 0.2], [0.9, 0.2], [0.1, 0.8], [0.9, 0.8]].map(([x, y]) =>
    document.elementFromPoint(box.x + x * box.width, box.y + y * box.height));
  return seen.some((one) => one && (e.contains(one) || one.contains(e))) ? null : e.outerHTML.slice(0, 200);
})()
"""
GRID = ["ArrowRight"] * 3 + ["ArrowDown"] * 9 + ["ArrowUp"] * 9


@pytest.mark.parametrize("view", VIEWS)
def test_what_has_the_focus_is_never_under_something_else(screen, files, told, view):
    screen.resize(360, 640)
    opened(screen, files, told.page)
    screen.focus(f"#tab-{view}")
    for _ in range(25):
        screen.press("Tab")
        if screen.js("document.activeElement === document.body"):
            break
        assert screen.js(HIDDEN) is None
        for key in GRID if screen.js("document.activeElement.matches('[data-stop]')") else ():
            screen.press(key)
            assert screen.js(HIDDEN) is None, key


STICKY = ".guide, .walk-bar, .readout, .details"


def test_everything_sticky_stands_still_where_little_is_seen(screen, files, told):
    """As when a page of 1,280 by 1,024 is enlarged four times (WCAG 1.4.10)."""
    screen.resize(320, 256)
    opened(screen, files, told.page)
    for view in VIEWS:
        screen.js(f"document.querySelector('#tab-{view}').click()")
        assert set(screen.all(STICKY, "getComputedStyle(e).position")) == {"static"}


SMALL = """
[...document.querySelectorAll("button, select, input, canvas")].filter((e) => e.offsetHeight).map((e) => {
  const box = e.getBoundingClientRect();
  return [Math.min(box.width, box.height), e.outerHTML.slice(0, 120)];
})
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_that_is_pointed_at_is_24_pixels_large(screen, files, told, bundled, width):
    screen.resize(width, 800)
    for html in (told.page, explain_page(bundled, EMOJI)):
        opened(screen, files, html)
        for view in VIEWS:
            screen.click(f"#tab-{view}")
            found = screen.js(SMALL)
            if view == "overview":  # pictures that are smaller, but 24 from middle to middle
                assert min(size for size, text in found if "thumb" not in text) >= 24
                middles = screen.all(
                    ".thumb", "(b => [b.x + b.width / 2, b.y + b.height / 2])(e.getBoundingClientRect())"
                )
                assert min(math.dist(a, b) for i, a in enumerate(middles) for b in middles[:i]) >= 24
            else:
                assert min(found)[0] >= 23.9, (view, min(found))


def test_values_that_count_little_fade_behind_their_numbers(screen, files, told):
    opened(screen, files, told.page)
    weights = told.cache["pattern", LAYER][HEAD, told.T - 1]
    assert weights.max() > 2 * weights.min()
    style = "getComputedStyle(e).{}"
    assert set(screen.all(".faded .strip", style.format("opacity"))) == {"1"}
    ink = screen.js("getComputedStyle(document.body).color")
    assert set(screen.all(".faded .cell", style.format("color"))) == {ink}
    # How strong the most coloured cell of each line is, which all have one of the value itself.
    alpha = "Number(getComputedStyle(c).backgroundColor.match(/[\\d.]+/g)[3])"
    found = screen.all(".faded", f"Math.max(...[...e.querySelectorAll('.cell')].map(c => {alpha}))")
    assert np.argsort(found).tolist() == np.argsort(weights).tolist()
