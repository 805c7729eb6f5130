"""Where data comes from: one Source a module of engine/datasets/. No reading or writing of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class RemoteFile:
    """One file at the source's host."""

    path: str
    """Its path inside the repository."""
    name: str
    """Its name in our own folder."""
    sha256: str
    """The checksum of the file at the host."""


@dataclass(frozen=True)
class Source:
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
        """The source as the records of downloads and runs show it."""
        return {"source": self.name, "credit": self.credit, "licence": self.licence, "url": self.url, "revision": self.revision}


class Gathered(NamedTuple):
    """Verified files of a source, ready to be stored."""

    files: Mapping[str, bytes]
    """File name → bytes."""
    content: Mapping[str, str]
    """Part → content digest."""
