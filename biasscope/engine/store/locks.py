"""The lock of a folder in which one process at a time works."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from biasscope.engine.errors import LockedError, unwritable

LOCK, HOLDER = "lock", "holder.json"


@contextlib.contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the run's lock, creating its folder if needed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, mode=0o600)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise LockedError(
            f"another process works on this run: {holder(folder)}; let it finish, or add --wait"
        ) from None
    except OSError as problem:
        raise unwritable(problem, folder) from problem
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with contextlib.suppress(OSError):  # only for the message to others
            (folder / HOLDER).write_text(json.dumps(own), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str:
    """Who holds a folder, for people."""
    try:
        process = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {process['pid']} on {process['host']}, since {process['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which"
