"""The nouns of a report: a finished run, a map of its sites, all that is known of a model on a dataset, everything found."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.runs import RunRecord
from biasscope.engine.sealing import DEPTH, Seal
from biasscope.engine.types import TOTAL
from biasscope.engine.upkeep import Stored

SIGHT = {
    "corrupt": "twin patched in",
    "clean": "clean run restored",
    "mean": "mean ablation",
    "zero": "zero ablation",
    "resample": "resampled",
}
"""What a source does, in the title of a map."""
ROW = 3
"""Maps in a row of figures."""
LISTED = 10
"""Sites in a list of the strongest."""


@dataclass(frozen=True)
class Found:
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
        """What its model is called: the short name, and the first of its digest where several have that name."""
        return self.label or str(self.summary["model"][0])

    @property
    def file(self) -> str:
        """The file of its summary, from the results folder on."""
        return "/".join([*self.folder.parts[-DEPTH:], "summary.parquet"])

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return self.record.datasets[0].name


@dataclass(frozen=True)
class Map:
    """The effects of one run, method and source: SUMMARY rows."""

    run: Found
    method: str
    source: str
    rows: pl.DataFrame
    ranked: pl.DataFrame
    """The rows that rank sites, single sites alone."""

    @property
    def name(self) -> str:
        """What was done, in words; what was not measured is called estimated."""
        how = "estimated by attribution" if self.estimated else self.method
        given, steps = (self.run.record.params.get(name) for name in ("given", "steps"))
        more = (
            (f" in {steps} steps" if steps else "")
            + (f", with {given} ablated" if given else "")
            + (", chosen sites" if self.partial else "")
        )
        return f"{SIGHT.get(self.source, self.source)}, {how}{more}"

    @property
    def estimated(self) -> bool:
        """Whether the effects are gradient estimates."""
        return self.method == "attribution"

    @property
    def given(self) -> bool:
        """Whether other sites were ablated all the while."""
        return bool(self.run.record.params.get("given"))

    @property
    def partial(self) -> bool:
        """Whether only chosen sites were measured."""
        return any(self.run.record.params.get(name) for name in ("top", "heads", "layers", "adaptive"))

    @property
    def statistic(self) -> str:
        """The ranking statistic."""
        return str(self.ranked["statistic"][0])

    @property
    def unit(self) -> str:
        """Its unit."""
        return str(self.ranked["unit"][0])

    def sites(self, component: str) -> pl.DataFrame:
        """The ranked rows of heads (`z`) or of another component."""
        return self.ranked.filter(pl.col("component") == component)


@dataclass(frozen=True)
class Part:
    """All that is known of one model on one dataset."""

    model: str
    asked: str
    """What --model was."""
    dataset: str
    baseline: Found | None
    maps: list[Map]
    """Maps over all positions, measured ones first."""
    along: list[Map]
    """Maps split by position."""
    probes: list[Found]
    circuits: list[Found]

    @property
    def name(self) -> str:
        """Model and dataset."""
        return f"{self.model}, {self.dataset}"

    @property
    def shown(self) -> list[Map]:
        """The maps that are drawn: no estimates where all of the same sites were measured, and as many as a row has."""
        whole = {m.source for m in self.maps if not (m.estimated or m.partial or m.given)}
        return [m for m in self.maps if not m.estimated or m.source not in whole][:ROW]

    @property
    def first(self) -> Map | None:
        """The map that the first screen, the first figure and the first table are about."""
        return next(iter(self.shown), None)

    def measured(self, found: Map) -> Map | None:
        """The shown map of chosen sites whose measurements stand before these estimates; None where there is none."""
        same = [m for m in self.shown if not m.estimated and not m.given and m.source == found.source]
        return same[0] if found.estimated and same else None


@dataclass(frozen=True)
class Gathered:
    """What was found under results/."""

    parts: list[Part]
    used: list[Found]
    left: list[tuple[Found, str]] = field(default_factory=list)
    """Runs that are not shown, with the reason."""
    damaged: list[Stored] = field(default_factory=list)
    """Runs that are not what was written."""


def total(found: Map) -> dict[str, Any] | None:
    """The row of the total effect on the ranking statistic, None where there is none."""
    rows = found.rows.filter(pl.col("component") == TOTAL, pl.col("subset") == "all", pl.col("metric") == "target")
    rows = rows.filter(pl.col("statistic") == found.statistic)
    return rows.row(0, named=True) if rows.height else None


def clean(part: Part) -> dict[str, Any] | None:
    """The clean model's ranking statistic, None where no baseline was run."""
    if part.baseline is None:
        return None
    rows = part.baseline.summary.filter(
        pl.col("metric") == "target", pl.col("subset") == "all", pl.col("statistic").is_in(["slope", "mean"])
    )
    slopes = rows.filter(pl.col("statistic") == "slope")
    rows = slopes if slopes.height else rows
    return rows.row(0, named=True) if rows.height else None
