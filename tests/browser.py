"""A headless Chromium for tests, driven through its debugging pipe: real clicks and keys, all complaints.

The protocol is Chrome's DevTools protocol: JSON messages, each ended by a zero byte, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PATIENCE = 30.0  # seconds until an answer has to come
KEYS = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36}
KEYS |= {f"Arrow{name}": 37 + i for i, name in enumerate(("Left", "Up", "Right", "Down"))}


def chromium() -> str | None:
    """The path of a Chromium or Chrome, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One browser with one page.

    Attributes
    ----------
    complaints : list of str
        Errors and warnings of scripts, of the console, of the content security policy, since ``open``.
    requests : list of str
        The addresses that the page asked for, since ``open``.
    """

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="gpt2c-chromium-", ignore_cleanup_errors=True)
        read_commands, self._out = os.pipe()
        self._in, write_answers = os.pipe()
        arguments = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
            *("--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank"),
        ]
        shell = f'exec "$@" 3</proc/self/fd/{read_commands} 4>/proc/self/fd/{write_answers}'
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", chromium(), *arguments],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer, self._number, self._session = b"", 0, None
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def close(self) -> None:
        try:
            self._session = None
            self.call("Browser.close")
        except (OSError, TimeoutError):
            self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    # The protocol

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for what it returns."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            if not ready:
                raise TimeoutError(f"the browser has not answered for {PATIENCE:g} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise OSError("the browser has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(a.get("value", a)) for a in params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
        return message

    # The page

    def open(self, path: Path) -> None:
        """Load a file and wait until its script has run."""
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("location.protocol === 'file:' && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; its exception is an AssertionError."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
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
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
        return at

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click with the mouse on a place of an element; something that covers it gets the click instead."""
        at = self.point(selector, x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other; "Shift+Tab" is possible."""
        for name in keys:
            shift, _, key = name.rpartition("+")
            event: dict[str, Any] = {"key": key, "code": key, "modifiers": 8 * (shift == "Shift")}
            event["windowsVirtualKeyCode"] = KEYS.get(key, ord(key[0]))
            if key in ("Enter", " "):
                event["text"] = "\r" if key == "Enter" else key
            self.call("Input.dispatchKeyEvent", type="keyDown", **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def media(self, *, dark: bool = False, reduced_motion: bool = False) -> None:
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if reduced_motion else "no-preference",
        }
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()]
        )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        options: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """What the page is on paper."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])
