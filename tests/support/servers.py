"""A host on the loopback that plays the hub and the raw host, and misbehaves on request."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Behaviour = Literal["ok", "error", "cut", "slow"]


class Host(ThreadingHTTPServer):
    """Serves `files` (path → bytes). `plan` is how the next GET requests go; afterwards all go well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.plan: list[Behaviour] = []
        self.always: Behaviour = "ok"
        self.broken_heads = 0
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self) -> int:
        """How many files were asked for."""
        return sum(method == "GET" for method, _, _ in self.seen)


class _Handler(BaseHTTPRequestHandler):
    server: Host

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        self.server.seen.append((method, self.path, dict(self.headers)))
        body = self.server.files.get(self.path)
        behaviour = self.server.plan.pop(0) if method == "GET" and self.server.plan else self.server.always
        if method == "HEAD" and self.server.broken_heads:
            self.server.broken_heads -= 1
            behaviour = "error"
        if body is None or behaviour == "error":
            self.send_response(404 if body is None else 500)
            if body is None and self.path.startswith("/api/"):
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0d66b726809ae46e0cb4aba758f5ee21d9783032")
        self.end_headers()
        if method == "GET":
            self._body(body, behaviour)

    def _body(self, body: bytes, behaviour: Behaviour) -> None:
        if behaviour == "slow":
            for start in range(0, len(body), max(len(body) // 4, 1)):
                self.wfile.write(body[start : start + max(len(body) // 4, 1)])
                self.wfile.flush()
                time.sleep(0.1)
            return
        self.wfile.write(body[: len(body) // 2] if behaviour == "cut" else body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: the tests read `seen`."""


@contextmanager
def host() -> Iterator[Host]:
    """A running host."""
    server = Host()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
