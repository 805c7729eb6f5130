"""What a finished scan amounts to: SUMMARY and RELIABILITY of its tables of effects."""

import polars as pl

from biasscope.engine import controls, measured, reliability, stats
from biasscope.scan import Scan

Aggregates = tuple[pl.DataFrame, pl.DataFrame]
"""SUMMARY and RELIABILITY."""


def aggregated(scan: Scan, table: str, method: str) -> Aggregates:
    """Those of a table of effects."""
    effects, shares, model, seed = scan.table(table), scan.dataset.share_of_men(), scan.run.slug, scan.run.options.seed
    twins = "twins" in scan.journal.facts["finished"]["units"]
    partners = measured.partners(scan.table("twins").collect()) if twins else None
    with scan.run.phase("statistics"):
        summary = stats.summarise(effects, model=model, method=method, share_of_men=shares, partners=partners, seed=seed)
        trusted = reliability.assess(effects, model=model, method=method, share_of_men=shares, partners=partners, seed=seed)
    return summary, trusted


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
    # chosen by the estimates themselves: they are not a family that p_family could be about
    none = pl.lit(None, pl.Float64)
    exact = aggregated(scan, "exact", "exact")[0].with_columns(p_family=none, q=none)
    _, others = reliability.chosen(summary, n, scan.run.options.seed)
    return pl.concat([summary, exact]), pl.concat([trusted, reliability.calibration(summary, exact, others)])
