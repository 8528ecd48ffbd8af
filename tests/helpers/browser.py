"""A headless Chromium for tests: real clicks and keys, and everything that it complains about."""

from __future__ import annotations

import base64
import json
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

PATIENCE = 30.0  # seconds until an answer has to come,
LONGEST = 300.0  # and that of a long computation, such as axe's, on a busy machine
KEYS = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36}
KEYS |= {f"Arrow{name}": 37 + i for i, name in enumerate(("Left", "Up", "Right", "Down"))}


def chromium() -> str | None:
    """The path of a Chromium or Chrome, if there is one that can be driven."""
    if not shutil.which("chromedriver"):
        return None
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One browser with one page."""

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService

        options = ChromeOptions()
        options.binary_location = chromium()
        for argument in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "hide-scrollbars",
        ):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
        self._socket = self._connected()
        self._asked = 0
        self.resize(width, height)

    def close(self) -> None:
        self._socket.close()
        self._driver.quit()

    def _connected(self) -> Any:
        """A connection to the page itself: what goes through the driver takes several times as long."""
        from websocket import create_connection  # a dependency of selenium

        address = self._driver.capabilities["goog:chromeOptions"]["debuggerAddress"]
        with urlopen(f"http://{address}/json", timeout=PATIENCE) as answer:
            [page] = [one for one in json.load(answer) if one["type"] == "page"]
        return create_connection(page["webSocketDebuggerUrl"], suppress_origin=True, timeout=LONGEST)

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv())).get("id") != self._asked:
            pass
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of scripts, console and content security policy, not told before."""
        return [entry["message"] for entry in self._driver.get_log("browser") if entry["level"] != "INFO"]

    @property
    def requests(self) -> list[str]:
        """The addresses that the page asked for, not told before."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    # The page

    def open(self, page: Path | str) -> None:
        """Load a file, or what is at an address, and wait until its script has run."""
        self._driver.get("about:blank")
        for kind in ("browser", "performance"):
            self._driver.get_log(kind)
        self._driver.get(page if isinstance(page, str) else page.resolve().as_uri())
        self.wait("location.protocol !== 'about:' && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; its exception is an AssertionError."""
        result = self.call(
            "Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True}
        )
        if "exceptionDetails" in result:
            raise AssertionError(
                result["exceptionDetails"].get("exception", {}).get("description", expression)
            )
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.js(condition):
            if time.monotonic() > end:
                raise AssertionError(f"not within {PATIENCE:g} s: {condition}")
            time.sleep(0.02)

    def all(self, selector: str, expression: str = "e.textContent") -> list[Any]:
        """The value of an expression of ``e`` for each element that a selector finds."""
        return self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => {expression})")

    def focus(self, selector: str) -> None:
        """Move the keyboard's focus to an element."""
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")

    def text(self, selector: str) -> str:
        """The text that an element shows."""
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def point(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Move the mouse over a place of an element, by default its middle; it is scrolled into view."""
        box = self.js(
            f"(e => {{ e.scrollIntoView({{block: 'center', inline: 'center'}}); const b = "
            f"e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        at = box[0] + x * box[2], box[1] + y * box[3]
        self.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": at[0], "y": at[1]})
        return at

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click with the mouse on a place of an element; something that covers it gets the click instead."""
        at = self.point(selector, x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                {"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1},
            )

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other; "Shift+Tab" is possible."""
        for name in keys:
            shift, _, key = name.rpartition("+")
            event: dict[str, Any] = {"key": key, "code": key, "modifiers": 8 * (shift == "Shift")}
            event["windowsVirtualKeyCode"] = KEYS.get(key, ord(key[0]))
            if key in ("Enter", " "):
                event["text"] = "\r" if key == "Enter" else key
            self.call("Input.dispatchKeyEvent", {"type": "keyDown", **event})
            self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def type(self, text: str) -> None:
        """Type characters where the keyboard's focus is, a key for each."""
        for character in text:
            self.call("Input.dispatchKeyEvent", {"type": "keyDown", "key": character, "text": character})
            self.call("Input.dispatchKeyEvent", {"type": "keyUp", "key": character})

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)

    def media(
        self,
        *,
        dark: bool = False,
        reduced_motion: bool = False,
        forced_colors: bool = False,
        paper: bool = False,
    ) -> None:
        """What the page is to take the medium for."""
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if reduced_motion else "no-preference",
            "forced-colors": "active" if forced_colors else "none",
        }
        self.call(
            "Emulation.setEmulatedMedia",
            {
                "media": "print" if paper else "",
                "features": [{"name": name, "value": value} for name, value in features.items()],
            },
        )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        options: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics", {})["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        data = self.call("Page.captureScreenshot", {"format": "png", **options})["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """What the page is on paper, in the size that it asks for."""
        options = {"printBackground": True, "preferCSSPageSize": True}
        return base64.b64decode(self.call("Page.printToPDF", options)["data"])
