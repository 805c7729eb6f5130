"""A page as PDF, printed by a headless Chromium that is driven through its debugging pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from biasscope.engine.errors import BiasScopeError, UsageError

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120.0
"""Seconds in which an answer has to come."""
FLAGS = (
    *("--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-extensions", "--no-first-run"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the page asks for nothing; so may nothing else
)
START = (
    "import os, sys; read, write = map(int, sys.argv[1:3]); os.dup2(read, 3); os.dup2(write, 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
"""Becomes the browser, which reads commands from 3 and writes answers to 4."""
LINE = "<div style='font:8px sans-serif;width:100%;padding:0 15mm;color:#666;{look}'>{text}</div>"
NUMBERED = "page <span class='pageNumber'></span> of <span class='totalPages'></span>"


def found() -> str | None:
    """The browser of this machine: BIASSCOPE_BROWSER, or one of the usual names; None where there is none."""
    named = os.environ.get("BIASSCOPE_BROWSER")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


def check() -> str:
    """The browser; UsageError, with what to install, where there is none that could print."""
    program = found()
    path = shutil.which(program) if program else None
    if path is None:
        what = (
            f"BIASSCOPE_BROWSER={program} is no program" if program else f"found none of {', '.join(NAMES)}"
        )
        raise UsageError(
            f"--pdf needs Chromium or Chrome: {what}\n"
            "install one (apt install chromium), name it in BIASSCOPE_BROWSER, or print the page by hand"
        )
    if os.name == "nt":
        raise UsageError("--pdf is not offered on Windows; open the page in a browser and print it to PDF")
    return path


def pdf(program: str, page: Path, title: str) -> bytes:
    """The page as A4 PDF, its scripts off: title above, page numbers below, an outline of its headings."""
    with Chromium(program) as browser:
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        features = [{"name": "prefers-color-scheme", "value": "light"}]
        browser.call("Emulation.setEmulatedMedia", media="print", features=features)
        browser.call("Page.navigate", url=page.resolve().as_uri())
        browser.wait("Page.loadEventFired")
        head = LINE.format(look="text-align:left", text=escape(title))
        foot = LINE.format(look="text-align:center", text=NUMBERED)
        printed = browser.call(
            "Page.printToPDF",
            displayHeaderFooter=True,
            headerTemplate=head,
            footerTemplate=foot,
            preferCSSPageSize=True,
            printBackground=True,
            generateTaggedPDF=True,
            generateDocumentOutline=True,
        )
    return base64.b64decode(printed["data"])


class Chromium:
    """A running browser with one empty page; `more`: flags beside the usual ones."""

    def __init__(self, program: str, *more: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="biasscope-")
        # far from 3 and 4, so that moving one there cannot overwrite the other
        ends = [_far(end) for pair in (os.pipe(), os.pipe()) for end in pair]
        self._commands, self._answers = ends[1], ends[2]
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        flags = [*FLAGS, *root, *more, f"--user-data-dir={self.folder}", "about:blank"]
        start = [sys.executable, "-c", START, str(ends[0]), str(ends[3]), program, *flags]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(  # noqa: S603  the user's own browser
            start, pass_fds=(ends[0], ends[3]), stdin=null, stdout=null, stderr=null
        )
        os.close(ends[0])
        os.close(ends[3])
        self._buffer, self._number, self._session = b"", 0, ""

    def __enter__(self) -> Self:
        try:
            self._attach()
        except BaseException:
            self.close()  # a `with` that is not entered is not left
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def _attach(self) -> None:
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Page.enable")

    def close(self) -> None:
        """End the browser and remove what it wrote."""
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, **params: Any) -> Any:
        """The answer of one command; BiasScopeError where it is an error."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        try:
            os.write(self._commands, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise BiasScopeError("the browser ended before it printed; print the page by hand") from None
        answer = self._until(lambda got: got.get("id") == self._number)
        if "error" in answer:
            raise BiasScopeError(
                f"the browser cannot print: {answer['error'].get('message')}; print the page by hand"
            )
        return answer["result"]

    def wait(self, event: str) -> None:
        """Wait for an event."""
        self._until(lambda got: got.get("method") == event)

    def _until(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while not wanted(got := self._read(end)):
            pass
        return got

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._answers, 1 << 16) if ready else b""
            if not part:
                what = "ended" if ready else f"did not answer within {PATIENCE:.0f} s"
                raise BiasScopeError(f"the browser {what} before it printed; print the page by hand")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


def _far(end: int) -> int:
    """The same end of a pipe under a high number."""
    import fcntl

    try:
        return fcntl.fcntl(end, fcntl.F_DUPFD, 20)
    finally:
        os.close(end)
