"""A headless Chromium driven through its debugging pipe: what a page measures in a real browser, at a given
width.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from biasscope.report.drawing.chromium import found

__all__ = ("Browser", "found")


class Browser:
    """One page at a time, its own scripts on or off; expressions of the test are answered in both."""

    def __init__(self, program: str) -> None:
        self.folder = tempfile.mkdtemp()
        (read, self.out), (self.into, write) = os.pipe(), os.pipe()
        flags = [
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={self.folder}",
        ]

        place = (
            "import os, sys; held = [os.dup(int(n)) for n in sys.argv[1:3] + sys.argv[1:3]][2:]; "
            "os.dup2(held[0], 3); os.dup2(held[1], 4)"
        )
        # it reads from 3, writes to 4
        keep = "[os.set_inheritable(n, True) for n in (3, 4)]; os.execv(sys.argv[3], sys.argv[3:])"
        start, null = [sys.executable, "-c", f"{place}; {keep}", str(read), str(write)], subprocess.DEVNULL
        self.process = subprocess.Popen(
            [*start, program, *flags, "about:blank"],
            pass_fds=(read, write),
            stdin=null,
            stdout=null,
            stderr=null,
        )
        os.close(read)
        os.close(write)
        self.buffer, self.number, self.session = b"", 0, None
        self.requests: list[str] = []
        """Addresses that the page has asked for since it was opened, its own first."""
        self.problems: list[str] = []
        """What the console holds since then: errors, exceptions, refused by its content security policy."""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.out)
        os.close(self.into)
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, **params: Any) -> Any:
        """The answer of one command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def read(self) -> Any:
        """The next message."""
        while b"\0" not in self.buffer:
            part = os.read(self.into, 1 << 16)
            assert part, "the browser ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        found = json.loads(message)
        self.note(found.get("method", ""), found.get("params", {}))
        return found

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
        while self.read().get("method") != "Page.loadEventFired":
            pass
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
        while self.read().get("method") != "Page.loadEventFired":
            pass

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
