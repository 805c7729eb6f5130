"""The aggregates of a measured table."""

from typing import TYPE_CHECKING, Any

from biasscope.engine.experiments.scans.scan import Aggregates, Scan
from biasscope.engine.schemas import RELIABILITY
from biasscope.engine.statistics import baseline, reliability
from biasscope.engine.statistics.summary import summarise

if TYPE_CHECKING:
    pass


def aggregated(scan: Scan, table: str, method: str) -> Aggregates:
    """The aggregates of a table of effects: SUMMARY and RELIABILITY."""
    effects, beside = scan.table(table), scan.beside_measured()
    same: dict[str, Any] = {"model": scan.run.slug, "method": method, "design": scan.design, "beside": beside}
    with scan.run.phase("statistics"):
        wanted = scan.run.options.assess
        if wanted and (nothing := baseline.nothing_to_find(effects, scan.ungrouped)):
            scan.warn(nothing)
        whole = summarise(effects, **same)
        if not wanted:
            return whole, RELIABILITY.to_frame()
        return whole, reliability.assess(effects, whole, design=scan.design, beside=beside)
