"""Files that are written whole or not at all, and names that are plain on every system. No pickle."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from biasscope.engine.errors import BiasScopeError, UsageError, unwritable
from biasscope.engine.store import digests

CONVERSION = 1  # raise when convert() writes something else, so that old conversions are not read


def as_json(value: Any) -> bytes:
    """The value as the strict JSON of a file."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(file: Path, value: Any) -> None:
    """Write strict JSON."""
    write_bytes(file, as_json(value))


def write_bytes(file: Path, content: bytes) -> str:
    """Write the bytes; returns their sha256."""
    replace(file, lambda temp: temp.write_bytes(content), len(content))
    return digests.of_bytes(content)


def replace(file: Path, write: Callable[[Path], Any], size: int) -> None:
    """Replace `file` atomically by what `write` puts into a temporary file; a power cut leaves one whole."""
    temp = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(temp)
        with temp.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temp, file)
        sync_folder(file.parent)
    except OSError as problem:
        raise unwritable(problem, file, size) from problem
    finally:
        # on a disk that fails even here the leftover is swept at the next start
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make a rename survive a power cut, where the system can sync folders."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verified(file: Path, sha256: str) -> bytes | None:
    """The bytes of a file, None where it is missing or corrupted."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return content if digests.of_bytes(content) == sha256 else None


def sweep_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files of killed processes; returns those removed."""
    removed = []
    for temp in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            temp.unlink()
            removed.append(temp)
    return removed


def safe_name(name: str) -> str:
    """A name that is one plain folder or file name on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:100] or "unnamed"


def check_writable(output_dir: Path) -> None:
    """Raise where `output_dir` cannot hold results. Call before loading a model."""
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output-dir {output_dir} is a file; give a folder")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as problem:
        raise BiasScopeError(
            f"cannot write to {output_dir}: {problem.strerror}; choose another --output-dir"
        ) from problem


def slug(name: str) -> str:
    """A file name for a model: its last part, with only letters, digits, dot, dash and underscore."""
    stem = Path(name).name.removesuffix(".gguf") or "model"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-") or "model"
