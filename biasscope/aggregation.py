"""What a finished scan amounts to: SUMMARY and RELIABILITY of its tables of effects."""

from typing import Any

import polars as pl

from biasscope.engine import controls, measured, reliability, stats
from biasscope.scan import Scan

Aggregates = tuple[pl.DataFrame, pl.DataFrame]
"""SUMMARY and RELIABILITY."""


def _asked(scan: Scan, method: str) -> dict[str, Any]:
    """What every aggregate of a scan's effects is told."""
    twins = "twins" in scan.journal.facts["finished"]["units"]
    same = {"model": scan.run.slug, "method": method, "share_of_men": scan.dataset.share_of_men(), "seed": scan.run.options.seed}
    return same | {"partners": measured.partners(scan.table("twins").collect()) if twins else None, "beside": scan.beside_measured()}


def aggregated(scan: Scan, table: str, method: str) -> Aggregates:
    """Those of a table of effects."""
    effects, asked = scan.table(table), _asked(scan, method)
    with scan.run.phase("statistics"):
        return stats.summarise(effects, **asked), reliability.assess(effects, **asked)


def controlled(scan: Scan) -> Aggregates:
    """Those of an exact scan with a control: every site's specificity is among them."""
    summary, trusted = aggregated(scan, "effects", "exact")
    effects = scan.table("control")
    with scan.run.phase("statistics"):
        control = stats.summarise(effects, model=scan.run.slug, method="exact", share_of_men=None, seed=scan.run.options.seed)
        return controls.specificity(summary, control), trusted


def calibrated(scan: Scan, n: int) -> Aggregates:
    """Those of estimates, with the exact effects of the first n and n random sites of each kind and how far they agree."""
    summary, trusted = aggregated(scan, "effects", "attribution")
    exact = scan.table("exact")
    with scan.run.phase("statistics"):
        # chosen by the estimates of the same examples: no family that a star could be about
        none = {"p_family": pl.lit(None, pl.Float64), "q": pl.lit(None, pl.Float64), "carried_by": pl.lit(None, pl.String)}
        measured_exactly = stats.summarise(exact, **_asked(scan, "exact")).with_columns(**none)
        _, others = reliability.chosen(summary, n, scan.run.options.seed)
        return pl.concat([summary, measured_exactly]), pl.concat([trusted, reliability.calibration(summary, measured_exactly, others)])
