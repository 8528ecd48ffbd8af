"""Takes explain.png, the picture of README.md: the search of a page of `gpt2c explain`.

    python docs/pictures/explain.py

It needs selenium, Chromium and its driver.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from gpt2c import GPT2

HERE = Path(__file__).resolve().parent
TEXT = "The king and the"
WIDTH, HEIGHT = 1330, 1400  # CSS pixels of the window


def draw(path: Path) -> None:
    """A PNG of the view of the search, in light colours."""
    options = ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "hide-scrollbars", f"window-size={WIDTH},{HEIGHT}"):
        options.add_argument(f"--{argument}")
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "page.html"
            GPT2.from_pretrained().explain(TEXT).save(page)
            browser.get(f"{page.as_uri()}#search")
            browser.find_element("id", "panel-search").screenshot(str(path))
    finally:
        browser.quit()


if __name__ == "__main__":
    draw(HERE / "explain.png")
