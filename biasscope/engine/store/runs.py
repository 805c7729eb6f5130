"""A run's folder under results/: its tables first, its record last; every file whole or not at all."""

import importlib.metadata
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from biasscope import __version__
from biasscope.engine.errors import PartialError, not_finite
from biasscope.engine.store import digests, files, shards
from biasscope.engine.store.files import safe_name
from biasscope.engine.store.shards import SCHEMA_VERSION
from biasscope.engine.types import Compared, Dataset

RECORD = "run.json"
EDITED = "edited by"
"""The parameter that names the edit of `--edit` and its digest; no option is called so."""


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
    d_model: int | None = None
    """The width of the residual stream; None in runs of older versions."""


class DatasetPart(Strict):
    """What one dataset gave: found = used + not_drawn + Σ dropped. Saving fills in key and path."""

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
    """Reason → number of used examples without `target` (two BLANKs, …) but with `sentence`."""
    groups: int
    noun: str = "group"
    """What a group is called."""
    sides: tuple[str, str] = ("the first side", "the second side")
    """What a positive and a negative target are nearer to, in a sentence."""
    covariate: tuple[str, str] | None = None
    """Name and unit of what slopes are on; null where the data have no covariate."""
    bias: str = ""
    """What leaning to the first side is ("the occupational stereotype"); empty: the data do not say."""
    compares: Compared = "words"
    """What a mean of target compares."""
    per_token: bool = False
    """Whether target is of the mean log p per token."""
    units: int = 0
    """Pieces that the run consists of."""
    reused: int = 0
    """Of these, how many had been measured before."""
    threads: list[int] = []
    """With how many threads its parts were measured; the last digits of a number depend on it."""
    lost: int = 0
    """Values left out of the statistics because they are not finite."""
    noise_floor: float | None = None
    """How large an effect of nothing is, in the unit of the ranking statistic; null where it was not
    measured: in float32, and of estimates.
    """
    attention: str = ""
    """Of which heads and prompts it is known where they look (PATTERNS), and of which not; for people."""
    run_key: str = ""
    path: str = ""
    tables: dict[str, str] = {}
    """Table → sha256 of its file."""


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
    batch_size: int | None = None
    """Tokens × copies of a pass, as decided; null where none was, and in records of older versions."""
    reproduce: str
    """The command that gives this run again; where it is shown, it is built anew from `params`."""
    timing: dict[str, float]
    """Seconds per phase."""
    peak_rss_bytes: int
    warnings: list[str]
    datasets: list[DatasetPart]
    complete: bool = True
    """False where Ctrl-C stopped it; else it stands in no record."""

    @model_serializer(mode="wrap")
    def _shown(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The record as a dictionary."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name != "complete" or not value}

    @property
    def name(self) -> str:
        """What the user calls its model (--name); empty where they do not."""
        return str(self.params.get("name") or "")

    @property
    def given(self) -> str:
        """What was replaced all the while, as a clause of a title; empty where nothing was."""
        return "".join(f", {change}" for change in self._changes)

    @property
    def subject(self) -> str:
        """The model in a sentence, with what was replaced all the while."""
        return " ".join(["the model", *self._changes]) if self._changes else "this model"

    @property
    def _changes(self) -> list[str]:
        sites, edit = self.params.get("given"), self.params.get(EDITED)
        return [f"edited by {edit}"] * bool(edit) + [f"with {sites} ablated"] * bool(sites)


@dataclass(frozen=True)
class Result:
    """What a measuring command found."""

    record: RunRecord
    summaries: list[pl.DataFrame]
    """SUMMARY per dataset, in the order of the record's datasets."""
    reliability: list[pl.DataFrame]
    """RELIABILITY per dataset."""
    rows: list[Path]
    """Files of per-example tables; empty unless asked for."""

    def check(self) -> None:
        """Raise PartialError where values are not finite and were left out of the statistics."""
        if lost := sum(part.lost for part in self.record.datasets):
            raise PartialError(
                f"finished, but {lost} values are not finite and were left out; "
                f"{not_finite(self.record.params['dtype'])}"
            )


def words(data: Dataset) -> dict[str, Any]:
    """What the data set calls its groups, sides and covariate, as the record has them."""
    covariate = next(((c.name, c.unit) for c in data.covariates), None)
    same = ("noun", "sides", "bias", "compares")
    return {"covariate": covariate} | {name: getattr(data, name) for name in same}


def versions() -> dict[str, str]:
    """The versions that can change a number, without importing anything."""
    packages = ("torch", "transformers", "transformer_lens", "numpy", "scipy", "polars")
    return {"biasscope": __version__, "python": platform.python_version()} | {
        p: importlib.metadata.version(p) for p in packages
    }


def now() -> str:
    """The time, in UTC, to the microsecond: runs of one second keep their order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count what the process that started this one held
        return (
            int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))[0])
            * 1024
        )
    if platform.system() == "Windows":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def folder(output_dir: Path, model: str, dataset: str, command: str, key: str) -> Path:
    """results/<model>/<dataset>/<command>/<first 8 of the run key>."""
    return output_dir.joinpath(safe_name(model), safe_name(dataset), safe_name(command), key[:8])


def write(path: Path, name: str, frames: Iterable[pl.DataFrame]) -> Path:
    """The file of a run's table, written from frames that need not fit into memory together.

    A folder with a record is a finished run, so the record goes before a table is replaced.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / RECORD).unlink(missing_ok=True)
    file = path / f"{name}.parquet"
    shards.write_stream(file, frames, shards.SCHEMAS[name])
    return file


def digest(record: RunRecord) -> str:
    """The sha256 of the file that `close` writes."""
    return digests.of_bytes(files.as_json(record.model_dump(mode="json")))


def close(record: RunRecord) -> None:
    """Write run.json, last: its presence marks the run as complete."""
    (part,) = record.datasets
    files.write_json(Path(part.path) / RECORD, record.model_dump(mode="json"))


def read(path: Path) -> RunRecord | None:
    """The record of a finished run; None where there is none, or it or a table of it is corrupted."""
    try:
        record = RunRecord.model_validate_json((path / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None
    (part,) = record.datasets
    intact = all(
        files.verified(path / f"{name}.parquet", sha256) is not None for name, sha256 in part.tables.items()
    )
    return record if intact and part.tables else None
