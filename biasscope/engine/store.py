"""Files that are written whole or not at all, and content-addressed folders of Parquet shards. No pickle.

A shard is read only after its sha256 agreed with the journal's: polars and pyarrow read some flipped bits without a word.
"""

import contextlib
import errno
import importlib.metadata
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from biasscope.engine import digests
from biasscope.engine.errors import BiasScopeError
from biasscope.engine.types import (
    ACTIVATIONS,
    BANDS,
    EFFECTS,
    MEANS,
    PREDICTIONS,
    PROBES,
    RELIABILITY,
    SCORES,
    SUMMARY,
    TRIPLES,
    TWINS,
)

SCHEMA_VERSION = 2
ALGORITHM_VERSION = 5
"""Raised when the same inputs would give other numbers, so that old runs are not taken for new ones."""
SCHEMAS = {
    "effects": EFFECTS,
    "exact": EFFECTS,
    "control": EFFECTS,
    "scores": SCORES,
    "triples": TRIPLES,
    "means": MEANS,
    "twins": TWINS,
    "activations": ACTIVATIONS,
    "predictions": PREDICTIONS,
    "bands": BANDS,
    "probes": PROBES,
    "summary": SUMMARY,
    "reliability": RELIABILITY,
}
"""Table → its columns; `exact`: the exact effects that attribution is calibrated with, `control`: effects on the control's prompts."""
LIBRARIES = ("torch", "transformers", "transformer_lens")
"""Whose version decides the last bits of a pass."""


def identity(command: str, **asked: Any) -> dict[str, Any]:
    """All that decides a run's numbers: what was asked, and the versions that computed it."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"command": command, **asked, "versions": versions, "schema": SCHEMA_VERSION, "algorithm": ALGORITHM_VERSION}


def run_key(identity: Mapping[str, Any]) -> str:
    """sha256 of all that decides a run's numbers; equal keys mean equal tables."""
    return digests.digest(dict(identity))


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The fields in which two identities differ, as `model.digest`, so that it can be said why nothing is reused."""
    names = []
    for name in sorted({*wanted, *found}):
        one, other = wanted.get(name), found.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            names += [f"{name}.{inner}" for inner in differences(one, other)]
        elif one != other:
            names.append(name)
    return names


def encoded(frame: pl.DataFrame, schema: pl.Schema, name: str) -> bytes:
    """The frame as the bytes of a zstd Parquet file, after comparing its columns with the declared ones; a list column, if any,
    has lists of one length, which becomes its type."""
    if frame.schema != schema:
        raise TypeError(f"{name} has columns {dict(frame.schema)}, declared are {dict(schema)}")
    # not polars' own writer: its errors carry no errno, so a full disk could not be told from another fault
    sink = pa.BufferOutputStream()
    pq.write_table(_arrow(frame), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _arrow(frame: pl.DataFrame) -> pa.Table:
    for column, kind in frame.schema.items():
        if isinstance(kind, pl.List) and frame.height:
            frame = frame.with_columns(pl.col(column).list.to_array(len(frame[column][0])))
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def write_table(file: Path, frame: pl.DataFrame, schema: pl.Schema) -> str:
    """The sha256 of the Parquet file written."""
    return write_bytes(file, encoded(frame, schema, file.name))


def write_json(file: Path, value: Any) -> None:
    """Nothing: writes strict JSON."""
    write_bytes(file, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(file: Path, content: bytes) -> str:
    """The sha256 of what was written."""
    replace(file, lambda temp: temp.write_bytes(content), len(content))
    return digests.of_bytes(content)


def write_stream(file: Path, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> None:
    """Nothing: writes frames that need not fit into memory together as one Parquet file, a row group each."""

    def write(temp: Path) -> None:
        parts = iter(frames)
        first = next(parts, schema.to_frame())
        # a list column has lists of one length, which only the first frame knows
        with pq.ParquetWriter(temp, _arrow(first).schema, compression="zstd") as writer:
            for frame in itertools.chain([first], parts):
                if frame.schema != schema:
                    raise TypeError(f"{file.name} has columns {dict(frame.schema)}, declared are {dict(schema)}")
                writer.write_table(_arrow(frame))

    replace(file, write, 0)


def replace(file: Path, write: Callable[[Path], Any], size: int) -> None:
    """Nothing: what `write` puts into a temporary file takes the place of `file`, in a way that survives a power cut."""
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


def unwritable(problem: OSError, file: Path, size: int) -> BiasScopeError:
    """What to tell of a failed write."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        have = shutil.disk_usage(file.parent).free
        need = f"need about {max(size, 1) / 1e6:.2g} MB more for {file.name}"
        return BiasScopeError(f"disk full: {need}, have {have / 1e6:.2g} MB at {file.parent}; make room, then the same command goes on")
    return BiasScopeError(f"cannot write {file}: {problem.strerror or problem}; choose another folder (--output-dir, --cache-dir)")


def sync_folder(path: Path) -> None:
    """Nothing: makes a rename survive a power cut, where the system can sync folders."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verified(file: Path, sha256: str) -> bytes | None:
    """The bytes of a file, None where it is not there or not what was written."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return content if digests.of_bytes(content) == sha256 else None


def decoded(content: bytes, schema: pl.Schema) -> pl.DataFrame:
    """The frame of a shard's bytes."""
    frame = pl.from_arrow(pq.read_table(pa.BufferReader(content)), schema_overrides=dict(schema))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - from_arrow gives a Series only for an array
    return frame.cast(dict(schema))  # type: ignore[arg-type]


def sweep_leftovers(folder: Path) -> list[Path]:
    """The temporary files of processes that were killed, now removed."""
    found = []
    for temp in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            temp.unlink()
            found.append(temp)
    return found


def folders(root: Path) -> Iterator[Path]:
    """The folders of the store, one a run key."""
    if root.is_dir():
        yield from (path for path in sorted(root.iterdir()) if (path / "key.json").is_file() or (path / "journal.jsonl").is_file())
