"""What a run has already measured: its units, one shard a table, and the facts decided at its first start.

A run lives in the cache under its key: `key.json` (all that decides its numbers), `journal.jsonl` (one line a
finished unit, with the sha256 of its shards; it only grows) and the shards. A unit is done only if its shards
are what the journal says. One process at a time works on a run.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.errors import DamagedError, unwritable
from biasscope.engine.store import digests, files, shards
from biasscope.engine.store.locks import OURS, held
from biasscope.engine.store.shards import SCHEMA_VERSION

JOURNAL, KEY = "journal.jsonl", "key.json"
ALGORITHM_VERSION = 5
"""Raised when the same inputs would give other numbers, so that old runs are not taken for new ones."""
LIBRARIES = ("torch", "transformers", "transformer_lens")
"""Whose version decides the last bits of a pass."""


@dataclass
class Journal:
    """The units of one run that are done, and what was decided for all. Write only under the run's lock."""

    folder: Path
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    """Unit → table → sha256 of its shard."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the first start decided, and what the finished run says of itself."""
    damaged: list[str] = field(default_factory=list)
    """Corrupted lines and units; they are measured again."""
    seconds: float = 0.0
    """Time spent writing and checking."""
    verified: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Size and time of change of the shards whose sum has been found right."""

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """What the journal says, its lines checked and its shards not yet."""
        journal = cls(folder)
        try:
            lines = (folder / JOURNAL).read_bytes().split(b"\n")
        except FileNotFoundError:
            return journal
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            entry = _checked(line)
            if entry is None:
                # the last line is cut where the process was killed while it wrote: that is no damage
                journal.damaged += [f"line {number} of {JOURNAL}"] if number < len(lines) else []
            elif "unit" in entry:
                journal.units[entry["unit"]] = entry["tables"]
            else:
                journal.facts[entry["fact"]] = entry["value"]
        return journal

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the run's numbers."""
        return dict(json.loads((self.folder / KEY).read_bytes()))

    @property
    def missing(self) -> list[str]:
        """The units of the finished run that are not here: those of other shards."""
        return [unit for unit in self.facts["finished"]["units"] if unit not in self.units]

    @property
    def complete(self) -> bool:
        """Whether every unit of the run is here."""
        return "finished" in self.facts and not self.missing

    def check(self) -> None:
        """Forget the units whose shards are missing or corrupted."""
        begun = time.monotonic()
        for unit, tables in list(self.units.items()):
            if any(self._content(unit, table) is None for table in tables):
                del self.units[unit]
                self.damaged.append(unit)
        self.seconds += time.monotonic() - begun

    def _content(self, unit: str, table: str) -> bytes | None:
        """A shard's bytes, None where missing or corrupted: hashed once, and again if its file changed."""
        file = self.shard(unit, table)
        try:
            now, content = _state(file), file.read_bytes()
        except OSError:
            return None
        if self.verified.get(file) != now:
            if digests.of_bytes(content) != self.units[unit][table]:
                return None
            self.verified[file] = now
        return content

    def shard(self, unit: str, table: str) -> Path:
        """The file of one table of a unit."""
        return self.folder / f"{unit}.{table}.parquet"

    def put(self, unit: str, tables: Mapping[str, pl.DataFrame]) -> None:
        """Write a unit's shards, then its line in the journal."""
        begun = time.monotonic()
        sums = {}
        for name, frame in tables.items():
            file = self.shard(unit, name)
            sums[name] = shards.write_table(file, frame, shards.SCHEMAS[name])
            self.verified[file] = _state(file)
        self._append({"unit": unit, "tables": sums})
        self.units[unit] = sums
        self.seconds += time.monotonic() - begun

    def adopt(self, unit: str, other: "Journal") -> None:
        """Take a unit of another journal of the same run, with the bytes that it has there."""
        for table in other.units[unit]:
            content = other._content(unit, table)
            if content is None:
                raise DamagedError(
                    f"{other.shard(unit, table)} is corrupted (checksum mismatch); measure it again"
                )
            files.write_bytes(self.shard(unit, table), content)
        self._append({"unit": unit, "tables": other.units[unit]})
        self.units[unit] = other.units[unit]

    def get(self, unit: str, table: str) -> pl.DataFrame:
        """A unit's table; DamagedError where its shard changed since it was checked."""
        content = self._content(unit, table)
        if content is None:
            raise DamagedError(
                f"{self.shard(unit, table)} changed while it was read; rerun the command, which measures "
                "that part again"
            )
        return shards.decoded(content, shards.SCHEMAS[table])

    def tables(self, table: str, units: Iterable[str]) -> Iterator[pl.DataFrame]:
        """That table of each of the units that has it, in their order."""
        return (self.get(unit, table) for unit in units if table in self.units[unit])

    def decide(self, fact: str, value: Any) -> Any:
        """The value of a fact: as it was decided at the first start, else this one, now decided."""
        if fact not in self.facts:
            self.set(fact, value)
        return self.facts[fact]

    def set(self, fact: str, value: Any) -> None:
        """Overwrite a fact."""
        self._append({"fact": fact, "value": value})
        self.facts[fact] = value

    def threads(self, now: int) -> list[int]:
        """The numbers of threads with which the run was measured, the present one noted where new."""
        known: list[int] = self.facts.get("threads", [])
        if now not in known:
            self.set("threads", [*known, now])
        return list(self.facts["threads"])

    def rewrite(self) -> None:
        """Rewrite the journal without its damaged lines, and remove the shards that it no longer names."""
        entries = [{"fact": name, "value": value} for name, value in self.facts.items()]
        entries += [{"unit": unit, "tables": tables} for unit, tables in self.units.items()]
        files.write_bytes(self.folder / JOURNAL, b"".join(map(_line, entries)))
        kept = {self.shard(unit, table) for unit, tables in self.units.items() for table in tables}
        for file in set(self.folder.glob("*.parquet")) - kept:
            file.unlink()

    def _append(self, entry: dict[str, Any]) -> None:
        line = _line(entry)
        file = self.folder / JOURNAL
        try:
            with file.open("ab+") as handle:
                handle.seek(0, os.SEEK_END)
                if handle.tell():  # a line that a killed process left unfinished must not swallow this one
                    handle.seek(-1, os.SEEK_END)
                    line = line if handle.read(1) == b"\n" else b"\n" + line
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as problem:
            raise unwritable(problem, file, len(line)) from problem


def _state(file: Path) -> tuple[int, int]:
    """Size and time of change of a file: equal while it is unchanged."""
    now = file.stat()
    return now.st_size, now.st_mtime_ns


def _line(entry: dict[str, Any]) -> bytes:
    """An entry as its line, which can be checked."""
    return digests.canonical({**entry, "check": digests.digest(entry)[:16]}) + b"\n"


def _checked(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, None where the line is corrupted."""
    try:
        entry = json.loads(line)
        check = entry.pop("check")
        return entry if digests.digest(entry)[:16] == check else None
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def opened(
    root: Path, identity: Mapping[str, Any], *, name: str = "", wait: bool = False, fresh: bool = False
) -> Iterator[Journal]:
    """The journal of the run with that identity, locked; with `fresh`, emptied. Shards are not yet checked.

    Its folder is called by the run's key, or by `name`.

    LockedError where another process holds it.
    """
    folder = root / (name or run_key(identity))
    with held(folder, wait=wait):
        if fresh:
            clear(folder)
        files.sweep_leftovers(folder)
        if not (folder / KEY).is_file() or (folder / KEY).read_bytes() != digests.canonical(identity):
            files.write_bytes(folder / KEY, digests.canonical(identity))
        yield Journal.read(folder)


def clear(folder: Path) -> None:
    """Remove all that a run has stored. Call while holding its lock."""
    (folder / JOURNAL).unlink(missing_ok=True)  # first: without it no shard counts
    for path in folder.iterdir():
        if path.name not in OURS:
            path.unlink() if not path.is_dir() else shutil.rmtree(path)
    files.sync_folder(folder)


def nearest(root: Path, identity: Mapping[str, Any]) -> list[str]:
    """The fields in which the most similar stored run of the same command differs; empty if there is none."""
    differing = []
    for folder in folders(root):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            earlier = json.loads((folder / KEY).read_bytes())
            if earlier.get("command") == identity.get("command"):
                differing.append(differences(identity, earlier))
    return min(differing, key=lambda fields: (len(fields), fields), default=[])


def identity(command: str, **parameters: Any) -> dict[str, Any]:
    """All that decides a run's numbers: its parameters, and the versions that compute them."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    code = {"versions": versions, "schema": SCHEMA_VERSION, "algorithm": ALGORITHM_VERSION}
    return {"command": command, **parameters, **code}


def in_turn(threads: Iterable[int]) -> str:
    """What is said of a run that was measured with several numbers of threads."""
    return f"measured with {', '.join(map(str, threads))} threads in turn: last digits depend on it"


def run_key(identity: Mapping[str, Any]) -> str:
    """sha256 of all that decides a run's numbers; equal keys mean equal tables."""
    return digests.digest(dict(identity))


def differences(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """The fields in which two identities differ, as `model.digest`, to explain why nothing is reused."""
    names = []
    for name in sorted({*wanted, *stored}):
        new, old = wanted.get(name), stored.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            names += [f"{name}.{inner}" for inner in differences(new, old)]
        elif new != old:
            names.append(name)
    return names


def folders(root: Path) -> Iterator[Path]:
    """The folders of the store, one a run key."""
    if root.is_dir():
        yield from (
            path for path in sorted(root.iterdir()) if any((path / name).is_file() for name in (KEY, JOURNAL))
        )
