"""Errors that the user can mend, one class an exit code (documented in the README, never renumbered), and how
they give sizes.
"""

import errno
import shutil
from pathlib import Path
from typing import Any


def in_bytes(count: float) -> str:
    """A number of bytes for people: 17 MB."""
    power = min(4, max(0, (len(str(int(count))) - 1) // 3))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


class BiasScopeError(Exception):
    """What is wrong, what was found, what to do, in one to three lines. Anything else is a bug and keeps its
    traceback.
    """

    exit_code = 1


class UsageError(BiasScopeError):
    """An option whose value cannot be meant: an unknown dataset, a layer outside the model."""

    exit_code = 2


class PartialError(BiasScopeError):
    """The run finished and its tables stand, but parts of it are missing."""

    exit_code = 3


class DataError(BiasScopeError):
    """Input that cannot be measured: missing, malformed, mislabelled or refused files."""

    exit_code = 4


class NetworkError(BiasScopeError):
    """The network, or credentials for it, are needed."""

    exit_code = 5


class GateError(BiasScopeError):
    """A number is beyond what `--fail-if` allows."""

    exit_code = 6


class LockedError(BiasScopeError):
    """Another process works on the same run."""

    exit_code = 11


class DamagedError(BiasScopeError):
    """The cache holds corrupted files (checksum mismatch)."""

    exit_code = 12


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM where what had been measured until then can be shown; it stands in its folder, marked
    so. `code`: the exit code.
    """

    def __init__(self, result: Any, code: int = 130) -> None:
        super().__init__()
        self.result, self.code = result, code


def unwritable(problem: OSError, file: Path, size: int = 0) -> BiasScopeError:
    """What to tell of a failed write of `size` bytes; 0: not known."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        need = f"{file.name} needs {in_bytes(size)}" if size else f"no room for {file.name}"
        have = (
            f"{in_bytes(shutil.disk_usage(file.parent).free)} free at {file.parent}"
            if file.parent.is_dir()
            else f"at {file.parent}"
        )
        return BiasScopeError(f"disk full: {need}, {have}; make room, then the same command goes on")
    return BiasScopeError(
        f"cannot write {file}: {problem.strerror or problem}; choose another folder (--output-dir, "
        "--cache-dir)"
    )


def not_finite(dtype: str) -> str:
    """What to do where a model gives NaN or infinity, in those numbers."""
    if dtype == "float32":
        return "its weights give NaN or infinity there: look for such numbers in them, or take another copy"
    return f"{dtype} may overflow there; " + (
        "try --dtype bfloat16 or float32" if dtype == "float16" else "try --dtype float32"
    )
