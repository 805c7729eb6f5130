"""Where data come from, and strict reading of foreign text: UTF-8, JSON and TSV, every fault with its file
and line.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from biasscope.engine.errors import DataError

# Half of a surrogate pair, written as an escape: legal JSON, but no text that can be stored or tokenised.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Problem(NamedTuple):
    """Why one record cannot be used."""

    reason: str
    """The same for all records with this fault: what --skip-invalid counts by."""
    where: str
    """Which record it is, and what was found in it."""
    text: str = ""
    """What a message says in the place of the reason, where it can be more exact."""


class Row(NamedTuple):
    """One line of a TSV file."""

    where: str
    """FILE:LINE, for messages."""
    fields: tuple[str, ...]


def read_text(path: Path) -> str:
    """The file's text without a byte order mark; CRLF and CR become LF."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, *, strict: bool = False) -> Any:
    """The file's JSON value: see `parse_json`."""
    return parse_json(read_text(path), path, strict=strict)


def parse_json(text: str, path: Path, line: int | None = None, *, strict: bool = False) -> Any:
    """The JSON value of a text, which is a file or its line of that number.

    NaN and Infinity pass as floats and the last of equal keys stands: the caller says what they would mean;
    with `strict` they are refused.
    """
    place = path if line is None else f"{path}:{line}"

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = Counter(key for key, _ in pairs)
        if len(keys) < len(pairs):
            raise DataError(f"{place}: key {keys.most_common(1)[0][0]!r} stands twice in one object")
        return dict(pairs)

    def constant(name: str) -> float:
        raise DataError(f"{place}: {name} is no number in JSON; leave the key out, or give null")

    try:
        value = json.loads(
            text, object_pairs_hook=once if strict else None, parse_constant=constant if strict else None
        )
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{(line or 1) + error.lineno - 1}: malformed JSON: {error.msg} (column {error.colno})"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: holds half of a surrogate pair (\\ud8xx), which is no text") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: JSON that cannot be read: {error}") from error
    return value


def read_list(path: Path, *, strict: bool = False) -> list[Any]:
    """The file's JSON list; anything else is refused."""
    value = read_json(path, strict=strict)
    if not isinstance(value, list):
        raise DataError(f"{path}: a JSON list is expected, found {kind(value)}")
    return value


def read_tsv(path: Path, header: Sequence[str]) -> list[Row]:
    """The rows below the header, which must be the one given; empty lines are skipped."""
    # Not splitlines(): it would also cut at form feeds and Unicode separators inside a field.
    lines = read_text(path).split("\n")
    if tuple(lines[0].split("\t")) != tuple(header):
        raise DataError(
            f"{path}:1: the header must be {' | '.join(header)} (tab-separated), found {lines[0][:80]!r}"
        )
    rows = [
        Row(f"{path}:{number}", tuple(line.split("\t"))) for number, line in enumerate(lines[1:], 2) if line
    ]
    for row in rows:
        if len(row.fields) != len(header):
            raise DataError(
                f"{row.where}: {len(header)} tab-separated columns are expected, found {len(row.fields)}"
            )
    return rows


def per_cent(text: str, where: str) -> float:
    """The number from 0 to 100 that a field holds."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 100:
        raise DataError(f"{where}: a per cent value from 0 to 100 is expected, found {text!r}")
    return share


def kind(value: Any) -> str:
    """The JSON name of a value's type, for messages."""
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


SHOWN = 20
"""Records that cannot be used that a message names."""


def refuse(problems: Sequence[Problem], where: Path | str, total: int, *, skip: bool) -> Counter[str]:
    """Reason → number of records left out. Without `skip`, DataError that lists the first of them."""
    if problems and not skip:
        shown = "\n".join(f"  {p.where}: {p.text or p.reason}" for p in problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(
            f"{where}: {len(problems)} of {total} records cannot be used; mend them, or leave them out with "
            f"--skip-invalid\n{shown}{more}"
        )
    return Counter(p.reason for p in problems)


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
    """What identifies data: where it is, at which revision, under which licence, and which content it must
    have.
    """

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
    caveat: str = ""
    """What the data cannot show, as a sentence of a report."""

    def record(self) -> dict[str, str]:
        """The origin as the records of downloads and runs show it."""
        return {
            "source": self.name,
            "credit": self.credit,
            "licence": self.licence,
            "url": self.url,
            "revision": self.revision,
        } | ({"caveat": self.caveat} if self.caveat else {})


class Gathered(NamedTuple):
    """Verified files of an origin, ready to be stored."""

    files: Mapping[str, bytes]
    """File name → bytes."""
    content: Mapping[str, str]
    """Part → content digest."""


def stored(origin: Origin, data_dir: Path, *names: str) -> dict[str, Path]:
    """File name → the downloaded file, of all files of an origin or of those named. DataError, naming the
    command, where one is missing.
    """
    wanted = names or tuple(file.name for file in origin.files)
    paths = {name: data_dir / origin.name / name for name in wanted}
    for path in paths.values():
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; run `biasscope download {origin.name} --data-dir {data_dir}`"
            )
    return paths


def copies(folder: Path, origin: Origin, *, all_needed: bool = True) -> dict[str, Path]:
    """File name → its copy in a folder: in itself, in its NAME/ or as in the repository, wherever most are.

    DataError where one is missing, or with `all_needed` false where all are.
    """
    bases = (folder, folder / origin.name)
    layouts = [{file.name: base / file.name for file in origin.files} for base in bases]
    layouts.append({file.name: folder / file.path for file in origin.files})
    paths = max(({n: p for n, p in files.items() if p.is_file()} for files in layouts), key=len)
    missing = [file.name for file in origin.files if file.name not in paths]
    if missing and (all_needed or not paths):
        raise DataError(
            f"{folder} holds no {origin.name}: {', '.join(missing)} must be in it, in {origin.name}/ or "
            f"where {origin.url} has them"
        )
    return paths


def confirm(digest: str, origin: Origin, part: str, where: Path, *, dropped: int = 0) -> tuple[str, ...]:
    """A note where dropped records explain that the content differs from the published one; no note where it
    agrees.

    Raises DataError, naming both digests, where nothing explains the difference.
    """
    expected = origin.digests[part]
    if digest == expected:
        return ()
    if dropped:
        return (
            f"{where} is not the published {origin.name}: content digest {digest[:12]}…, expected "
            f"{expected[:12]}…",
        )
    raise DataError(
        f"{where} has content digest {digest}, expected {expected}: this is not {origin.name} as published;\n"
        f"run `biasscope download {origin.name} --fresh`"
    )
