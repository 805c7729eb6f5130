"""Content digests: the sha256 of what data says, the same for every container it comes in."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from biasscope.engine.errors import DataError
from biasscope.engine.sources import Source
from biasscope.engine.types import Example


def canonical(content: Any) -> bytes:
    """The one JSON text of the content: keys sorted, no spaces, UTF-8."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(content: Any) -> str:
    """The sha256 of the content's canonical JSON."""
    return hashlib.sha256(canonical(content)).hexdigest()


def of_examples(examples: Iterable[Example]) -> str:
    """The content digest of examples, whatever their order and the name of their dataset."""
    rows = [
        [e.id, e.bias_type, e.group, e.prompt, e.stereo, e.anti, e.unrelated, e.suffix, e.sentences, e.flaw, dict(e.meta)] for e in examples
    ]
    return digest(sorted(rows, key=lambda row: str(row[0])))


def of_bytes(content: bytes) -> str:
    """The sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def of_file(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def confirm(found: str, source: Source, part: str, where: Path, *, dropped: int = 0) -> tuple[str, ...]:
    """A note where dropped records explain that the content differs from the published one; no note where it agrees.

    Raises DataError, naming both digests, where nothing explains the difference.
    """
    expected = source.digests[part]
    if found == expected:
        return ()
    if dropped:
        return (f"{where} is not the published {source.name}: content digest {found[:12]}…, expected {expected[:12]}…",)
    raise DataError(
        f"{where} has content digest {found}, expected {expected}: this is not {source.name} as published;\n"
        f"run `biasscope download {source.name} --fresh`"
    )
