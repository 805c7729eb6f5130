"""A finished run as a report reads it; which runs measure the same, and which of them is shown."""

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from biasscope.engine.schemas import SUMMARY
from biasscope.engine.statistics.racing import METHOD
from biasscope.engine.store import files, reproduce
from biasscope.engine.store.cache import Stored
from biasscope.engine.store.runs import EDITED, DatasetPart, RunRecord
from biasscope.engine.store.seals import DEPTH, Seal

MAPS = ("patch", "ablate")
KIND = (
    *("method", "source", "direction", "steps", "positions", "components", "given", "control", "conditional"),
    EDITED,
    *("task", "negatives", "site", "position", "split"),
)
"""Parameters that make another kind of measurement."""


SIZE = (
    *("heads", "layers", "top", "by", "adaptive", "miss", "calibrate", "causal"),
    *("rounds", "mib", "sizes", "minimal", "target", "run", "group_by"),
    *("kind", "doses", "at", "transfer", "text", "tokens", "random", "all_doses", "audit"),
)
"""Those that make a larger or smaller one of the same kind: the largest, then the newest, is shown."""


@dataclass(frozen=True)
class ReportRun:
    """One finished run with its tables."""

    folder: Path
    record: RunRecord
    summary: pl.DataFrame
    reliability: pl.DataFrame | None
    seal: Seal = Seal.SEALED
    label: str = ""
    """What it is called where another run of its kind has its model's name."""

    @property
    def key(self) -> str:
        """The first characters of the run's key."""
        return self.folder.name

    @property
    def model(self) -> str:
        """Its model's short name, and the first of its digest where several have that name."""
        return self.label or str(self.summary["model"][0])

    @property
    def names(self) -> tuple[str, ...]:
        """What --model may call its model."""
        own = files.safe_name(self.model), self.record.model.name if self.record.model else ""
        return self.model, *own, *([self.record.name] if self.record.name else [])

    @property
    def file(self) -> str:
        """The file of its summary, from the results folder on."""
        return "/".join([*self.folder.parts[-DEPTH:], "summary.parquet"])

    @property
    def data(self) -> DatasetPart:
        """What it was measured on."""
        return self.record.datasets[0]

    @property
    def placed(self) -> DatasetPart:
        """The same with its folder from the results folder on."""
        return self.data.model_copy(update={"path": "/".join(self.folder.parts[-DEPTH:])})


def size(run: ReportRun) -> tuple[int, int, bool, str, str]:
    """What the shown one of a kind has most of: sites, then examples; then it is no race, and the newest."""
    measured = run.summary.filter(pl.col("method").ne_missing(METHOD)).height  # a race estimates the rest
    whole = not run.record.params.get("adaptive")
    return measured, run.data.used, whole, run.record.created, run.key


def kind(run: ReportRun) -> str:
    """What it measures, as text: equal where two runs measured the same."""
    params = {name: run.record.params.get(name) or None for name in KIND}
    if run.record.command == "circuit":
        params["source"] = run.summary["source"].drop_nulls().to_list()[0]
    if run.record.command in MAPS and params["positions"] in ("all", None):
        params["components"] = None  # fewer components of the same map
    return json.dumps([run.record.command, run.model, run.data.name, params], sort_keys=True, default=str)


def read(run: Stored, record: RunRecord, model: str) -> ReportRun:
    """The run with its tables; its model is called so."""
    trusted = run.folder / "reliability.parquet"
    # columns that an older version did not have are null
    summary = pl.concat([SUMMARY.to_frame(), pl.read_parquet(run.folder / "summary.parquet")], how="diagonal")
    summary = summary.with_columns(model=pl.lit(model))
    reliability = pl.read_parquet(trusted) if trusted.is_file() else None
    return ReportRun(run.folder, reproduce.renewed(record, document=True), summary, reliability, run.seal)
