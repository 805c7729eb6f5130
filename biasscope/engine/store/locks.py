"""The lock of a folder in which one process at a time works, and of a file that several change.

The system's locks hold between the processes of one machine. On a network file system they may hold nothing
between hosts, so there a marker file is created as well, which only one host can do. One that a dead process
of this host left is removed; one of another host never, because from here nobody can know that it is dead.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from biasscope.engine.errors import LockedError, unwritable

LOCK, HOLDER = "lock", "holder.json"
MARK = "-host"
"""What a marker's name has after that of the lock beside it."""
OURS = (LOCK, HOLDER, LOCK + MARK)
"""Files of a folder that belong to its lock."""
MOUNTS = Path("/proc/self/mountinfo")
"""Where the system lists what is mounted; absent where it has no such list."""
NETWORKS = (
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs"),
    *("nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "virtiofs", "wekafs"),
)
"""File systems that several hosts may have mounted, also as `fuse.NAME`."""
REMOTE = ("sshfs", "s3fs", "gcsfuse", "rclone", "juicefs", "mountpoint-s3")
PATIENCE = 600.0
"""Seconds after which a file that another host holds is given up."""


def network(folder: Path) -> str:
    """The network file system that a folder lies on, such as "nfs4"; empty where it is local or unknown."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    here, kind, longest = Path(os.path.realpath(folder)), "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        if len(fields := before.split()) < 5 or not after:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        # of two mounts at one point the later covers the earlier
        if here.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = after.split()[0], len(point.parts)
    name = kind.removeprefix("fuse.")
    return kind if name in NETWORKS or (name != kind and name in REMOTE) else ""


def _locks(file: Path, mode: int = 0o600) -> list[BaseFileLock]:
    """What has to be held: the system's lock and, on a network, the marker; also where another host that has
    the folder mounted over a network left one.
    """
    mark = file.with_name(file.name + MARK)
    shared = network(file.parent) or mark.exists()
    return [FileLock(file, mode=mode), *([SoftFileLock(mark, mode=mode)] if shared else [])]


@contextlib.contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the run's lock, creating its folder if needed."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for lock in _locks(folder / LOCK):
                stack.enter_context(lock.acquire(timeout=-1 if wait else 0))
        except Timeout:
            raise LockedError(
                f"another process works on this run: {holder(folder)}; let it finish, or add --wait"
                f"{_gone(folder / LOCK)}"
            ) from None
        except OSError as problem:
            raise unwritable(problem, folder) from problem
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with contextlib.suppress(OSError):  # only for the message to others
            (folder / HOLDER).write_text(json.dumps(own), encoding="utf-8")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold a lock file for a moment, waiting for others. LockedError where another host keeps it for long."""
    with contextlib.ExitStack() as stack:
        for lock in _locks(file, 0o644):
            try:
                stack.enter_context(lock.acquire(timeout=PATIENCE if isinstance(lock, SoftFileLock) else -1))
            except Timeout:
                raise LockedError(f"{file} is held by another host for long{_gone(file)}") from None
        yield


def locked(folder: Path) -> bool:
    """Whether a process works in the folder now."""
    if not (folder / LOCK).exists():
        return False
    try:
        with contextlib.ExitStack() as stack:
            for lock in _locks(folder / LOCK):
                stack.enter_context(lock.acquire(timeout=0))
    except Timeout:
        return True
    return False


def _gone(file: Path) -> str:
    """What to do where the holder is on another host and no longer lives; empty where it is on this one."""
    mark = file.with_name(file.name + MARK)
    return f"; if it no longer runs there, remove {mark}" if mark.exists() else ""


def holder(folder: Path) -> str:
    """Who holds a folder, for people."""
    try:
        process = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {process['pid']} on {process['host']}, since {process['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said which"
