"""Content digests: the sha256 of what data says, the same for every container it comes in."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from biasscope.engine.types import Covariate, Example

_NEW = ("anti_prompt", "per_token", "together", "twin")
LATER = {f.name: f.default for f in fields(Example) if f.name in _NEW}
"""Fields that examples did not have when the first digests were published, and their defaults."""


def canonical(content: Any) -> bytes:
    """The one JSON text of the content: keys sorted, no spaces, UTF-8."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(content: Any) -> str:
    """The sha256 of the content's canonical JSON."""
    return hashlib.sha256(canonical(content)).hexdigest()


def of_examples(examples: Iterable[Example], covariates: Sequence[Covariate] = ()) -> str:
    """The content digest of examples, whatever their order and the name of their dataset, and of covariates
    that do not stand in the examples.
    """
    rows: list[Any] = sorted(map(_row, examples), key=lambda row: str(row[0]))
    return digest([rows, [[c.name, c.unit, dict(c.values)] for c in covariates]] if covariates else rows)


def _row(e: Example) -> list[Any]:
    first = [e.id, e.bias_type, e.group, e.prompt, e.stereo, e.anti, e.unrelated, e.suffix]
    row = [*first, e.sentences, e.flaw, dict(e.meta), *([] if e.term is None else [e.term])]
    # a field stands in the digest where it is not its default: published digests do not change with a new one
    different = {name: value for name, default in LATER.items() if (value := getattr(e, name)) != default}
    return [*row, different] if different else row


def of_bytes(content: bytes) -> str:
    """The sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def of_files(folder: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over the names and contents of the files in `folder` that match."""
    matching = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    return digest({file.name: of_file(file) for file in matching})


def of_file(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered(path: Path, memory: Path) -> str:
    """A large file's sha256, hashed once and kept in the folder `memory` by path, size, times, inode."""
    path = path.resolve()
    stat = path.stat()
    seen = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    note = memory / f"{digest(seen)[:32]}.json"
    try:
        known = json.loads(note.read_bytes())
        if known["seen"] == seen and known["check"] == digest([seen, known["sha256"]]):
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    sha256 = of_file(path)
    memory.mkdir(mode=0o700, parents=True, exist_ok=True)
    temp = note.with_name(f".{note.name}.{os.getpid()}.tmp")
    temp.write_bytes(canonical({"seen": seen, "sha256": sha256, "check": digest([seen, sha256])}))
    temp.replace(note)
    return sha256


def misremembered(note: Path) -> str | None:
    """Why a remembered sum is wrong; None if it is right, or the file is gone or changed since."""
    try:
        known = json.loads(note.read_bytes())
        seen, sha256 = known["seen"], known["sha256"]
        if known["check"] != digest([seen, sha256]):
            return "the note is corrupted (checksum mismatch)"
        file = Path(seen[0])
        stat = file.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "the note cannot be read"
    if seen[1:] != [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]:
        return None
    return (
        None if of_file(file) == sha256 else f"{file} is not what was hashed, though its size and times are"
    )
