"""The aggregates of a measured table."""

from typing import Any

import polars as pl

from biasscope.engine.experiments.scans.scan import Aggregates, Scan
from biasscope.engine.schemas import RELIABILITY
from biasscope.engine.statistics import baseline, reliability
from biasscope.engine.statistics.summary import doubted, summarise


def _beside(scan: Scan, measured: pl.LazyFrame) -> pl.LazyFrame | None:
    """EFFECTS of the estimated sites that were not measured; None where nothing chose among them."""
    if "estimates" not in scan.journal.facts:
        return None
    estimates = pl.concat(scan.journal.tables("effects", scan.journal.facts["estimates"]))
    keys = ["source", "component", "layer", "head"]
    own = measured.select(keys).unique()
    return estimates.lazy().filter(metric="target").join(own, on=keys, how="anti", nulls_equal=True)


def aggregated(scan: Scan, table: str, method: str) -> Aggregates:
    """The aggregates of a table of effects: SUMMARY and RELIABILITY."""
    effects = scan.table(table)
    beside = _beside(scan, effects)
    rounded = any("floor" in tables for tables in scan.journal.units.values())
    nothing = scan.table("floor") if rounded else None
    same: dict[str, Any] = {"model": scan.run.slug, "method": method, "design": scan.design, "beside": beside}
    with scan.run.phase("statistics"):
        wanted = scan.run.options.assess
        if wanted and (warning := baseline.nothing_to_find(effects, scan.ungrouped)):
            scan.warn(warning)
        trusted = reliability.assess(effects, **same) if wanted else RELIABILITY.to_frame()
        if nothing is not None:
            own = {name: same[name] for name in ("model", "method", "design")}
            trusted = pl.concat([trusted, reliability.noise_floor(nothing.collect(), **own)])
        return doubted(summarise(effects, **same), reliability.floor(trusted)), trusted
