"""A run's folder under results/: its tables first, its record last. Every file is written whole or not at all."""

import errno
import importlib.metadata
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from biasscope import __version__
from biasscope.engine import digests
from biasscope.engine.errors import BiasScopeError, UsageError
from biasscope.engine.types import EFFECTS, SCORES, SUMMARY, TRIPLES

SCHEMA_VERSION = 1
ALGORITHM_VERSION = 1
"""Raised when the same inputs would give other numbers, so that old runs are not taken for new ones."""
SCHEMAS = {"effects": EFFECTS, "scores": SCORES, "triples": TRIPLES, "summary": SUMMARY}


class Strict(BaseModel):
    """A record that takes no unknown field and no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ModelPart(Strict):
    """Which model ran, and how."""

    name: str
    revision: str | None
    digest: str
    """sha256 of the weights."""
    tokenizer_digest: str
    dtype: str
    device: str
    note: str | None
    packed: bool
    start_token: str | None
    layers: int
    heads: int


class DatasetPart(Strict):
    """What one dataset gave: found = used + not_drawn + Σ dropped. Key and path are filled in when the run is saved."""

    name: str
    digest: str
    source: dict[str, Any]
    found: int
    used: int
    not_drawn: int
    """Examples that --limit left out."""
    dropped: dict[str, int]
    """Reason → number of examples that entered nothing."""
    partly: dict[str, int]
    """Reason → number of used examples that lack `target` (two BLANKs, a token across the filler's edge) but have `sentence`."""
    groups: int
    run_key: str = ""
    path: str = ""


class RunRecord(Strict):
    """Everything that is needed to understand and to repeat a run."""

    schema_version: int = SCHEMA_VERSION
    command: str
    model: ModelPart | None
    """None where no model ran (`baseline --predictions`)."""
    params: dict[str, Any]
    seed: int
    versions: dict[str, str]
    created: str
    reproduce: str
    """The command that gives this run again."""
    timing: dict[str, float]
    """Seconds per phase."""
    peak_rss_bytes: int
    warnings: list[str]
    datasets: list[DatasetPart]


def versions() -> dict[str, str]:
    """The versions that can change a number, without importing anything."""
    packages = ("torch", "transformers", "transformer_lens", "numpy", "scipy", "polars")
    return {"biasscope": __version__, "python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count what the process that started this one held
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))[0]) * 1024
    if platform.system() == "Windows":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def run_key(identity: Mapping[str, Any]) -> str:
    """sha256 of all that decides a run's numbers; equal keys mean equal tables."""
    return digests.digest({**identity, "schema": SCHEMA_VERSION, "algorithm": ALGORITHM_VERSION})


def files_digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over the names and contents of the files in `folder` that match."""
    found = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    return digests.digest({file.name: digests.of_file(file) for file in found})


def safe_name(name: str) -> str:
    """A name that is one plain folder or file name on every system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:100] or "unnamed"


def folder(output_dir: Path, model: str, dataset: str, command: str, key: str) -> Path:
    """results/<model>/<dataset>/<command>/<first 8 of the run key>."""
    return output_dir.joinpath(safe_name(model), safe_name(dataset), safe_name(command), key[:8])


def check_writable(output_dir: Path) -> None:
    """Nothing: raises where `output_dir` cannot hold results. Called before a model is loaded."""
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output-dir {output_dir} is a file; give a folder")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as problem:
        raise BiasScopeError(f"cannot write to {output_dir}: {problem.strerror}; choose another --output-dir") from problem


def save(record: RunRecord, tables: Mapping[str, pl.DataFrame]) -> Path:
    """The folder of a finished run. `record.datasets` holds the one dataset that the tables are of."""
    (part,) = record.datasets
    target = Path(part.path)
    target.mkdir(parents=True, exist_ok=True)
    (target / "run.json").unlink(missing_ok=True)  # a folder with a record is a finished run: not while its tables are replaced
    for name, frame in tables.items():
        write_table(target / f"{name}.parquet", frame, SCHEMAS[name])
    write_json(target / "run.json", record.model_dump(mode="json"))
    return target


def write_table(file: Path, frame: pl.DataFrame, schema: pl.Schema) -> None:
    """Nothing: writes the frame as zstd Parquet, after comparing its columns with the declared ones."""
    if frame.schema != schema:
        raise TypeError(f"{file.name} has columns {dict(frame.schema)}, declared are {dict(schema)}")
    # not polars' own writer: its errors carry no errno, so a full disk could not be told from another fault
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    _replace(file, lambda temp: pq.write_table(table, temp, compression="zstd"), int(frame.estimated_size()))


def write_json(file: Path, value: Any) -> None:
    """Nothing: writes strict JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(file, lambda temp: temp.write_text(text, encoding="utf-8"), len(text))


def _replace(file: Path, write: Callable[[Path], Any], size: int) -> None:
    temp = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(temp)
        with temp.open("rb+") as handle:
            os.fsync(handle.fileno())
        temp.replace(file)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            have = shutil.disk_usage(file.parent).free
            message = f"disk full: need about {size / 1e6:.1f} MB, have {have / 1e6:.1f} MB at {file.parent}; make room and run again"
            raise BiasScopeError(message) from problem
        raise BiasScopeError(f"cannot write {file}: {problem.strerror or problem}; choose another --output-dir") from problem
    finally:
        temp.unlink(missing_ok=True)
    _sync_folder(file.parent)


def _sync_folder(path: Path) -> None:
    """Nothing: makes a rename survive a power cut, where the system can sync folders."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
