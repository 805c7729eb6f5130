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

from biasscope.report.page.chromium import found

__all__ = ("Browser", "found")


class Browser:
    """One page at a time; scripts of the page off, expressions of the test still answered."""

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
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        self.call("Page.enable")

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
        return json.loads(message)

    def open(self, page: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Nothing: loads the page with its scripts off."""
        self.call("Emulation.setScriptExecutionDisabled", value=True)
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
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self.read().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self) -> bytes:
        """A PNG of what is seen."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
