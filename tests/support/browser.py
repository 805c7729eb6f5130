"""A headless Chromium driven through its debugging pipe: what a page measures in a real browser, at a given
width.
"""

import base64
import json
from pathlib import Path
from typing import Any

from biasscope.report.drawing.chromium import Chromium, found

__all__ = ("Browser", "found")


class Browser(Chromium):
    """One page at a time, its own scripts on or off; expressions of the test are answered in both."""

    def __init__(self, program: str) -> None:
        super().__init__(program, "--hide-scrollbars")
        self.requests: list[str] = []
        """Addresses that the page has asked for since it was opened, its own first."""
        self.problems: list[str] = []
        """What the console holds since then: errors, exceptions, refused by its content security policy."""

    def _attach(self) -> None:
        super()._attach()
        for domain in ("Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def _read(self, end: float) -> dict[str, Any]:
        message = super()._read(end)
        self.note(message.get("method", ""), message.get("params", {}))
        return message

    def note(self, event: str, about: dict[str, Any]) -> None:
        """Keep what a page does that it should not do."""
        if event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event == "Log.entryAdded":
            self.problems.append(about["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(str(about["exceptionDetails"].get("exception", {}).get("description")))
        elif event == "Runtime.consoleAPICalled":
            self.problems.append(f"console.{about['type']}")

    def open(
        self, page: Path, width: int, height: int, *, dark: bool = False, scripts: bool = False, at: str = ""
    ) -> None:
        """Load the page at a fragment, with its scripts off unless asked."""
        self.call("Page.navigate", url="about:blank")  # a fragment alone would load nothing
        self.wait("Page.loadEventFired")
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.requests.clear()
        self.problems.clear()
        self.call("Page.navigate", url=page.resolve().as_uri() + at)
        self.wait("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of the first element that the selector names."""
        find = f"document.querySelector({json.dumps(selector)})"
        box = f"(e => (e.scrollIntoView({{block: 'center'}}), e.getBoundingClientRect()))({find})"
        x, y = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            where = {"x": x, "y": y, "button": "none" if kind == "mouseMoved" else "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def key(self, name: str) -> None:
        """Press and release a key where the focus is: "Enter", "Escape", "ArrowRight", "Tab", a letter."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38}
        codes |= {"ArrowRight": 39, "ArrowDown": 40}
        text = {"text": "\r"} if name == "Enter" else {"text": name} if len(name) == 1 else {}
        same = {"key": name, "code": name, "windowsVirtualKeyCode": codes.get(name, ord(name[0].upper()))}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **same, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **same)

    def picture(self) -> bytes:
        """A PNG of what is seen."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
