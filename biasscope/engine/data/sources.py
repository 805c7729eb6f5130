"""Where data come from: one Origin a module of engine/data/datasets/. No reading or writing of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from biasscope.engine.errors import DataError


@dataclass(frozen=True)
class RemoteFile:
    """One file at the origin's host."""

    path: str
    """Its path inside the repository."""
    name: str
    """Its name in our own folder."""
    sha256: str
    """The checksum of the file at the host."""


@dataclass(frozen=True)
class Origin:
    """What identifies data: where it is, at which revision, under which licence, and which content it must have."""

    name: str
    """The folder under the data directory, and what `biasscope download` takes."""
    credit: str
    """The authors and the paper."""
    licence: str
    host: Literal["hub", "raw", "package", "file"]
    """`hub` and `raw` can be downloaded; `package` ships with biasscope; `file` is the user's own."""
    url: str = ""
    repo: str = ""
    revision: str = ""
    files: tuple[RemoteFile, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    """Part → content digest that every container of it must give."""

    def record(self) -> dict[str, str]:
        """The origin as the records of downloads and runs show it."""
        return {"source": self.name, "credit": self.credit, "licence": self.licence, "url": self.url, "revision": self.revision}


class Gathered(NamedTuple):
    """Verified files of an origin, ready to be stored."""

    files: Mapping[str, bytes]
    """File name → bytes."""
    content: Mapping[str, str]
    """Part → content digest."""


def confirm(digest: str, origin: Origin, part: str, where: Path, *, dropped: int = 0) -> tuple[str, ...]:
    """A note where dropped records explain that the content differs from the published one; no note where it agrees.

    Raises DataError, naming both digests, where nothing explains the difference.
    """
    expected = origin.digests[part]
    if digest == expected:
        return ()
    if dropped:
        return (f"{where} is not the published {origin.name}: content digest {digest[:12]}…, expected {expected[:12]}…",)
    raise DataError(
        f"{where} has content digest {digest}, expected {expected}: this is not {origin.name} as published;\n"
        f"run `biasscope download {origin.name} --fresh`"
    )
