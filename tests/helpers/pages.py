"""Pages in a browser: opened, looked at, and unharmed in the end."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .browser import Browser


def opened(browser: Browser, folder: Path, html: str) -> Browser:
    """The browser with a page of `gpt2c explain`, as it opens from a file."""
    path = folder / "page.html"
    path.write_text(html, "utf-8")
    browser.open(path)
    assert browser.js("document.documentElement.classList.contains('ready')"), browser.complaints
    return browser


def unharmed(browser: Browser) -> None:
    """No error in the console, nothing refused by the content security policy, nothing asked of a network."""
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []


def together(browser: Browser) -> None:
    """All views below each other, each opened once: what is looked for in all of them is looked for once."""
    for tab in browser.all("[role=tab]", "e.id"):
        browser.click(f"#{tab}")
    browser.js("document.querySelectorAll('[role=tabpanel]').forEach((panel) => (panel.hidden = false))")


# The bytes of a token as it is shown: letters are themselves, marks know theirs.
BYTES = """[...e.childNodes].flatMap(node => {
  if (node.nodeType === 3) return [...new TextEncoder().encode(node.data)];
  if (!node.classList.contains("mark")) throw new Error(node.outerHTML);
  return node.dataset.bytes.split(" ").filter(Boolean).map(x => parseInt(x, 16));
})"""


def token_bytes(browser: Browser, selector: str) -> list[bytes]:
    return [bytes(one) for one in browser.all(selector, BYTES)]


# Rules of axe: all of WCAG 2.2 AA, with the one that it leaves out unless it is asked, and its own advice.
AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "rules": {"target-size": {"enabled": True}},
    "resultTypes": ["violations"],
}


@cache
def axe_script() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


def axe(browser: Browser) -> list[list[str]]:
    """What axe finds wrong with the page as it is now: rule, element, reason."""
    if browser.js("typeof axe") == "undefined":
        browser.js(f"{axe_script()};0")
    found = "found.violations.flatMap(rule => rule.nodes.map(one => [rule.id, one.html, one.failureSummary]))"
    return browser.js(f"axe.run(document, {json.dumps(AXE)}).then(found => {found})")


# The contrast of every text that is seen, with the element that it stands in. What is switched off is exempt.
_CONTRASTS = """
(() => {
  const parse = (text) => {
    const by = text.startsWith("color(") ? 255 : 1, [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
    return [r * by, g * by, b * by, a ?? 1];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => (x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const below = e === document.documentElement ? [255, 255, 255] : ground(e.parentElement);
    return over(parse(getComputedStyle(e).backgroundColor), below);
  };
  const opacity = (e) => (e ? getComputedStyle(e).opacity * opacity(e.parentElement) : 1);
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.getBoundingClientRect().height || e.closest(":disabled, noscript")) continue;
    if (![...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const style = getComputedStyle(e), under = ground(e);
    const ink = parse(e instanceof SVGElement ? style.fill : style.color);
    ink[3] *= opacity(e);
    const [a, b] = [light(under), light(over(ink, under))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), `${e.className}: ${e.textContent.slice(0, 20)}`]);
  }
  return found;
})()
"""


def contrasts(browser: Browser) -> list[list[Any]]:
    return browser.js(_CONTRASTS)
