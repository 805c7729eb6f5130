"""The aggregates of a measured table."""

from typing import Any

import polars as pl

from biasscope.engine.experiments.scans.scan import Aggregates, Scan
from biasscope.engine.schemas import RELIABILITY
from biasscope.engine.statistics import baseline, reliability
from biasscope.engine.statistics.summary import doubted, summarise


def aggregated(scan: Scan, table: str, method: str) -> Aggregates:
    """The aggregates of a table of effects: SUMMARY and RELIABILITY."""
    effects, beside = scan.table(table), scan.beside_measured()
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
