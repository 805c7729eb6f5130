"""What the cache and the results folder hold: listed, verified, dropped. Never loads a model."""

import contextlib
import json
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biasscope.engine.errors import DamagedError, DataError, UsageError
from biasscope.engine.store import digests, files, journal, locks, reproduce, runs, seals
from biasscope.engine.store.files import CONVERSION, slug
from biasscope.engine.store.seals import Seal

SHORTEST = 4
"""Characters of a key that are enough to name it, if they name one alone."""


@dataclass(frozen=True)
class Entry:
    """One thing in the cache."""

    key: str
    kind: str
    """`run` or `model`."""
    command: str
    model: str
    dataset: str
    units: int
    finished: bool
    bytes: int
    changed: float
    """Seconds since 1970."""
    locked: bool
    path: Path

    @property
    def age_days(self) -> float:
        """Days since the last change."""
        return (time.time() - self.changed) / 86400


def entries(cache: Path) -> list[Entry]:
    """Everything in the cache, the last changed first."""
    entries = [_run(folder) for folder in journal.folders(cache / "runs")] + [
        _model(folder) for folder in _models(cache)
    ]
    return sorted(entries, key=lambda entry: -entry.changed)


def _models(cache: Path) -> Iterator[Path]:
    root = cache / "models"
    if root.is_dir():
        yield from (path for path in sorted(root.iterdir()) if path.is_dir())


def _run(folder: Path) -> Entry:
    try:
        identity = json.loads((folder / journal.KEY).read_bytes())
        model, dataset, command = identity["model"]["name"], identity["dataset"], identity["command"]
    except (OSError, ValueError, KeyError, TypeError):
        command = model = dataset = "?"
    held = journal.Journal.read(folder)
    size, changed = _extent(folder)
    about = (folder.name, "run", command, model, dataset, len(held.units), held.complete)
    return Entry(*about, size, changed, locks.locked(folder), folder)


def _model(folder: Path) -> Entry:
    size, changed = _extent(folder)
    about = (folder.name, "model", "", "", "", 0, (folder / "config.json").is_file())
    return Entry(*about, size, changed, False, folder)


def _extent(folder: Path) -> tuple[int, float]:
    """Bytes of all files, and when the last of them changed."""
    stats = [file.stat() for file in folder.rglob("*") if file.is_file() and file.name not in locks.OURS]
    return sum(s.st_size for s in stats), max((s.st_mtime for s in stats), default=folder.stat().st_mtime)


def chosen(entries: Sequence[Entry], keys: Sequence[str]) -> list[Entry]:
    """The entries that the keys name by first characters. UsageError where one names none or several."""
    return [_named(key, {entry.key: entry for entry in entries}) for key in dict.fromkeys(keys)]


def _named(key: str, by_key: dict[str, Any]) -> Any:
    fits = [name for name in by_key if len(key) >= SHORTEST and name.startswith(key)]
    if len(fits) == 1:
        return by_key[fits[0]]
    known = ", ".join(sorted(name[:8] for name in (fits or by_key))[:10]) or "none"
    what = f"'{key}' names {len(fits)} of them" if fits else f"nothing is called '{key}'"
    raise UsageError(f"{what}; give at least {SHORTEST} characters of one of: {known}")


def damage(cache: Path, *, repair: bool = False) -> list[str]:
    """What is corrupted: journal lines, shards, weights, remembered checksums. `repair` drops all of it."""
    damaged = []
    for folder in journal.folders(cache / "runs"):
        with locks.held(folder) if repair else contextlib.nullcontext():
            held = journal.Journal.read(folder)
            held.check()
            damaged += [f"{folder.name[:8]}: {part}" for part in held.damaged]
            if repair and held.damaged:
                held.rewrite()
    for folder in _models(cache):
        if wrong := wrong_files(folder):
            damaged.append(f"{folder.name[:8]}: {', '.join(wrong)}")
            if repair:
                shutil.rmtree(folder)
    for note in sorted((cache / "digests").glob("*.json")):
        if reason := digests.misremembered(note):
            damaged.append(f"{note.name[:8]}: {reason}")
            if repair:
                note.unlink()
    return damaged


def wrong_files(folder: Path) -> list[str]:
    """The files of a converted model that do not match its manifest; without one none is checked."""
    try:
        sums = json.loads((folder / "manifest.json").read_bytes())
        return [
            name
            for name, sha256 in sums.items()
            if not (folder / name).is_file() or digests.of_file(folder / name) != sha256
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError):
        return ["manifest.json"]


def stale(entries: Sequence[Entry], older_than: float) -> list[Entry]:
    """What is not likely to be needed: untouched for so many days, or another version's; nothing locked."""
    old = [
        e
        for e in entries
        if e.age_days > older_than or (e.kind == "model" and not e.key.endswith(f"-v{CONVERSION}"))
    ]
    return [entry for entry in old if not entry.locked]


def sweep(cache: Path) -> int:
    """Remove the temporary files of killed processes; returns how many there were."""
    return sum(
        len(files.sweep_leftovers(folder))
        for folder in journal.folders(cache / "runs")
        if not locks.locked(folder)
    )


def drop(entry: Entry) -> None:
    """Remove an entry. LockedError where a process works on it."""
    if entry.kind == "model":
        shutil.rmtree(entry.path)
        return
    with locks.held(entry.path):
        journal.clear(entry.path)
    shutil.rmtree(entry.path, ignore_errors=True)


@dataclass(frozen=True)
class Stored:
    """A finished run as it stands in its folder."""

    folder: Path
    record: runs.RunRecord | None
    """None where it was edited, or a table of it is corrupted."""
    seal: Seal

    @property
    def damage(self) -> str:
        """What is wrong with it; empty where nothing is."""
        return (
            ""
            if self.record
            else f"was {self.seal}"
            if self.seal is Seal.EDITED
            else "is corrupted (checksum mismatch)"
        )

    @property
    def model(self) -> tuple[str, str]:
        """What its model is called, and what identifies it: its weights' sha256, or else the folder."""
        place = self.folder.resolve().parent.parent.parent
        used = self.record.model if self.record else None
        if used is None:
            return place.name, digests.digest(str(place))
        folders = {files.safe_name(name): name for name in seals.names(slug(used.name), used.digest)}
        return folders.get(place.name, slug(used.name)), used.digest

    @property
    def named(self) -> tuple[str, str, str]:
        """What a --name is of: its model, and the edit that stands in it."""
        return *self.model, str(self.record.params.get(runs.EDITED) or "") if self.record else ""


def stored(folder: Path, cache: Path | None = None) -> Stored:
    """The run in that folder; `cache`: where its seal is looked for too."""
    seal = seals.state(folder, cache)
    return Stored(folder, None if seal is Seal.EDITED else runs.read(folder), seal)


def load(output: Path, name: str, cache: Path | None = None) -> tuple[Stored, runs.RunRecord]:
    """The run of that name, and its record. UsageError if there is none, DamagedError if corrupted."""
    run = stored(find(output, name), cache)
    if run.record is None:
        raise DamagedError(f"{run.folder} {run.damage}; rerun the command that made it")
    return run, run.record


def whole(output: Path, name: str, cache: Path | None = None) -> tuple[Stored, runs.RunRecord]:
    """`load` of a run to go on from. DataError where Ctrl-C stopped it."""
    run, record = load(output, name, cache)
    if not record.complete:
        raise DataError(
            f"{run.folder} was stopped before it was done; the same command goes on: {record.reproduce}"
        )
    return run, record


def models(stored_runs: Collection[Stored]) -> dict[Path, str]:
    """Folder of a run → its model's name where several are shown: the first of a name keeps it."""
    order = sorted(
        (run for run in stored_runs if run.record), key=lambda run: run.record.created if run.record else ""
    )
    called = seals.distinct(run.model for run in order)
    labels = names(stored_runs)
    return {
        run.folder: labelled(labels.get(run.named), called.get(run.model, run.model[0]))
        for run in stored_runs
    }


def names(stored_runs: Collection[Stored]) -> dict[tuple[str, str, str], str]:
    """Model and edit (`Stored.named`) → what the user calls it: the newest --name of any of its runs is that
    of all.
    """
    named = sorted((run.record.created, run.named, run.record.name) for run in stored_runs if run.record)
    return {model: name for _, model, name in named if name}


def labelled(name: str | None, model: str) -> str:
    """A model with what the user calls it: "before fine-tuning (ckpt)"."""
    return f"{name} ({model})" if name else model


def renamed(folder: Path, record: runs.RunRecord, name: str, entry: Path) -> runs.RunRecord:
    """The record of a finished run with its model's new name: written, sealed in the index and `entry`."""
    part = record.datasets[0].model_copy(update={"path": str(folder)})
    record = record.model_copy(update={"params": record.params | {"name": name}, "datasets": [part]})
    record = record.model_copy(update={"reproduce": reproduce.of(record)})
    seals.seal(folder, runs.digest(record), entry)
    runs.close(record)
    return record


def finished(output: Path, cache: Path | None = None) -> list[Stored]:
    """The runs under results/, the newest first; corrupted ones last."""

    def when(run: Stored) -> tuple[str, str]:
        return "" if run.record is None else run.record.created, str(run.folder)

    each = (stored(file.parent, cache) for file in output.glob(f"*/*/*/*/{runs.RECORD}"))
    return sorted(each, key=when, reverse=True)


def find(output: Path, name: str) -> Path:
    """The run folder of a path or the first characters of a key. UsageError where none or several fit."""
    if (Path(name) / runs.RECORD).is_file():
        return Path(name)
    folder: Path = _named(
        name, {file.parent.name: file.parent for file in output.glob(f"*/*/*/*/{runs.RECORD}")}
    )
    return folder
