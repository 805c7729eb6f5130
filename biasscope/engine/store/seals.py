"""What a results folder remembers: whose weights a model's folder holds, and every record's sha256.

Both stand in `index.json` at its root; the sha256 also stands beside the run's key in the cache. A record
that is in neither is not sealed: it was made by an older version, or copied. One that disagrees with either
was edited.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ValidationError

from biasscope.engine.errors import DamagedError
from biasscope.engine.store import digests, files, locks
from biasscope.engine.store.files import safe_name
from biasscope.engine.store.runs import RECORD

INDEX = "index.json"
DEPTH = 4
"""A run's folder is <results>/<model>/<dataset>/<command>/<key>."""
SHOWN = (4, 8, 16)
"""Characters of the digest that tell models of one name apart: as few as do."""
LONGEST = 80
"""Characters of a name before its digest, so that a folder's name has room for both."""


class Seal(StrEnum):
    """How a record compares with what is remembered of it."""

    SEALED = "sealed"
    NOT_SEALED = "not sealed"
    EDITED = "edited after it was written"


class Index(BaseModel):
    """The content of `index.json`."""

    models: dict[str, str] = {}
    """Folder of a model → sha256 of its weights."""
    runs: dict[str, str] = {}
    """Folder of a run → sha256 of its record."""


def read(output: Path) -> Index:
    """The index of a results folder, empty where there is none yet. DamagedError where it cannot be read."""
    try:
        return Index.model_validate_json((output / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return Index()
    except (OSError, ValidationError) as problem:
        advice = "move it away, and its runs count as not sealed"
        raise DamagedError(
            f"{output / INDEX} is not an index of runs ({str(problem).splitlines()[0]}); {advice}"
        ) from problem


@contextlib.contextmanager
def _changed(output: Path) -> Iterator[Index]:
    """Hold the index of a results folder for a change, which is written whole."""
    output.mkdir(parents=True, exist_ok=True)
    with locks.exclusive(output / f".{INDEX}.lock"):
        index = read(output)
        before = index.model_copy(deep=True)
        yield index
        if index != before:
            files.write_json(output / INDEX, index.model_dump())


def names(name: str, digest: str) -> list[str]:
    """What a model can be called, the shortest first: ckpt, ckpt·9f6e, ckpt·9f6e03aa, …"""
    return [name, *(f"{name[:LONGEST]}·{digest[:n]}" for n in SHOWN)]


def named(name: str, digest: str, taken: dict[str, str]) -> str:
    """The first of these names that no other model has, now the model's. `taken`: folder name → digest."""
    free = (shown for shown in names(name, digest) if taken.setdefault(safe_name(shown), digest) == digest)
    return next(free, name)


def distinct(models: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(name, digest) → what that model is called beside the others; the first of a name keeps it."""
    taken: dict[str, str] = {}
    return {(name, digest): named(name, digest, taken) for name, digest in models}


def claim(output: Path, name: str, digest: str) -> str:
    """Claim a name for the model with these weights under `output`, and make its folder.

    It is the model's from then on, so that two processes that start at once share no folder.
    """
    with _changed(output) as index:
        places = [safe_name(shown) for shown in names(name, digest)]
        taken = {place: owner for place in places if (owner := _owner(output, place, index))}
        shown = named(name, digest, taken)
        (output / safe_name(shown)).mkdir(exist_ok=True)
        index.models[safe_name(shown)] = digest
    return shown


def _owner(output: Path, place: str, index: Index) -> str | None:
    """The digest of the model whose folder that is: as the index says, else that of its earliest run."""
    if not (output / place).is_dir():
        return None
    if place in index.models:
        return index.models[place]
    dated = []
    for file in (output / place).glob(f"*/*/*/{RECORD}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(file.read_bytes())
            dated.append((str(record["created"]), str(record["model"]["digest"])))
    return min(dated)[1] if dated else None


def seal(folder: Path, sha256: str, entry: Path) -> None:
    """Note the sha256 of a record about to be written: in the index and, if any, the run's cache entry."""
    root, place = _place(folder)
    with _changed(root) as index:
        index.runs[place] = sha256
    if entry.is_dir():
        files.write_json(entry / _note(folder), {"folder": str(folder.resolve()), "sha256": sha256})


def state(folder: Path, cache: Path | None = None) -> Seal:
    """How the record in a run's folder compares with what the index, and the cache, remember of it."""
    try:
        root, place = _place(folder)
        sha256 = digests.of_file(folder / RECORD)
    except (OSError, IndexError):
        return Seal.NOT_SEALED
    known = {digest for digest in [read(root).runs.get(place), *_remembered(folder, cache)] if digest}
    return Seal.NOT_SEALED if not known else Seal.SEALED if known == {sha256} else Seal.EDITED


def _place(folder: Path) -> tuple[Path, str]:
    """The results folder that a run's folder is in, and where in it."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100  resolve() would follow links out of the results folder
    return path.parents[DEPTH - 1], "/".join(path.parts[-DEPTH:])


def _note(folder: Path) -> str:
    """The name of the cache's note about a run's folder: the same key may be written to several."""
    return f"sealed-{digests.digest(str(folder.resolve()))[:12]}.json"


def _remembered(folder: Path, cache: Path | None) -> Iterator[str]:
    for note in (
        (cache / "runs").glob(f"{safe_name(folder.resolve().name)}*/{_note(folder)}") if cache else ()
    ):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            yield str(json.loads(note.read_bytes())["sha256"])
