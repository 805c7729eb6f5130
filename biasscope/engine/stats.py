"""Aggregates of effects: every site's slope, mean and rms, with interval, p and recovered share; which sites rank first.

Per example in, one row per site and statistic out (the clean model's: `baselines`). shift is `statistic = mean`, slope is
`statistic = slope`; "significant" means a star (see `schemas.mark`). A number that does not exist is null, never NaN or infinite.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine import estimates, schemas
from biasscope.engine.cells import numbered
from biasscope.engine.estimates import Columns
from biasscope.engine.measured import (
    BIAS,
    METRICS,
    SITE,
    STATISTICS,
    UNITS,
    Labels,
    Measured,
    measured,
    parts,
    place,
    refuse_empty,
    statistics,
    table,
)
from biasscope.engine.resampling import MIN_CLUSTERS
from biasscope.engine.types import TOTAL, Site


def summarise(
    effects: pl.DataFrame | pl.LazyFrame,
    *,
    model: str,
    method: str,
    share_of_men: Mapping[str, float] | None,
    partners: Mapping[str, str] | None = None,
    beside: pl.LazyFrame | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """SUMMARY of EFFECTS, one row per site and statistic: slope (where groups have a share of men), mean and rms.

    kl has its mean alone, without p. p_family, q and marks stand on the ranking statistic of target alone: slope where it exists, else
    mean. Its family is all heads and MLPs at all positions under all sources of the run, and the hook points that contain them are
    another; `beside` (EFFECTS of estimates) are members that could have been chosen and were not measured. Sites that lack examples are
    measured on those they have (n says how many). The other rows follow with the sites in the same order. Below 6 clusters the means of
    each group stand in rows of their own, subset "term: X".

    `partners` (group → the group it is exchanged for, see `measured.partners`) makes clusters of groups that are each other's twin. Where
    there are rows of the total effect, `recovered` is filled in; and of target's slope and mean only the slope is read there, because
    swaps go both ways and the mean cancels.
    """
    tables = []
    for dataset, sources, part in parts(effects):
        labels = {"model": model, "method": method, "subset": "all", "dataset": dataset}
        of = partial(measured, part, share=share_of_men, partners=partners or {}, beside=beside)
        rows = pl.concat(_site_rows(part, labels, of, seed))
        tables += [_ranked(rows.filter(pl.col("source").eq_missing(pl.lit(source)))) for source in sources]
    return pl.concat(tables)


def _site_rows(effects: pl.LazyFrame, labels: Labels, of: Callable[[str], Measured], seed: int) -> Iterator[pl.DataFrame]:
    """SUMMARY rows of one dataset, a table per metric and statistic."""
    for metric in effects.select(pl.col("metric").unique()).collect().to_series().sort():
        found = of(metric)
        swapped = (found.sites["component"] == TOTAL).any()
        for statistic, columns in statistics(metric, found, seed):
            if metric in BIAS and swapped and statistic == "mean" and found.graded.any():
                continue
            label = {**labels, "metric": metric, "statistic": statistic, "unit": UNITS[statistic]}
            if swapped and statistic != "rms":
                columns |= _recovered(found, columns, statistic, seed)
            yield table(found.sites, columns, label, found.groups).filter(found.sites["measured"])
            if metric in BIAS and statistic == "mean" and len(set(found.cluster)) < MIN_CLUSTERS:
                yield from _each_group(found, label)


def _recovered(found: Measured, columns: Columns, statistic: str, seed: int) -> Columns:
    """The columns of `recovered`, for each source of which the total effect's interval leaves out 0."""
    x = found.x[found.graded] if statistic == "slope" else None
    rows = found.graded if statistic == "slope" else np.ones(len(found.groups), bool)
    cells, cluster = found.cells.clusters(rows), numbered(found.cluster[rows])
    filled: Columns = {name: np.full(found.sites.height, np.nan) for name in estimates.RECOVERED}
    for source in found.sites["source"].unique():
        total = found.total(source)
        if total is None or not columns["ci_low"][total] * columns["ci_high"][total] > 0:
            continue
        here = found.of(source)
        of_source = estimates.recovered(cells.sites(here), int(here[:total].sum()), x, cluster, seed)
        for name, column in of_source.items():
            filled[name][here] = column
    return filled


def _each_group(found: Measured, label: Labels) -> Iterator[pl.DataFrame]:
    """The means of each group alone, without intervals."""
    for i, group in enumerate(found.groups):
        one = found.cells.clusters(np.arange(len(found.groups)) == i)
        numbers = {"n": one.n[0], "clusters": (one.n[0] > 0).astype(float), "estimate": one.means()[0]}
        yield table(found.sites, numbers, {**label, "subset": f"term: {group}"}).filter(found.sites["measured"])


def _ranked(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one dataset and source: by metric, statistic, then the sites by the ranking statistic; single groups follow."""
    size = pl.col("estimate").abs()
    order = ranking(rows).sort(size, *SITE, descending=[True] + [False] * len(SITE), nulls_last=True)
    rows = rows.join(order.select(SITE).with_row_index("rank"), on=SITE, how="left", nulls_equal=True)
    first = (pl.col("subset") != "all", place("metric", METRICS), place("statistic", STATISTICS))
    return rows.sort(*first, "rank", *SITE, "subset", nulls_last=True).drop("rank")


def ranking(summary: pl.DataFrame) -> pl.DataFrame:
    """The rows that rank sites: slope where it exists, else mean, of target (else sentence) over all examples."""
    whole = summary.filter(pl.col("metric").is_in(BIAS), pl.col("statistic").is_in(["slope", "mean"]), pl.col("subset") == "all")
    whole = whole.filter(pl.col("component").ne_missing(TOTAL))
    one = ["model", "dataset", "method", "source"]
    order = place("metric", BIAS) * 2 + (pl.col("statistic") == "mean")
    return whole.filter(order == order.min().over(one))


def headline(summary: pl.DataFrame) -> dict[str, Any]:
    """The first row of a summary: the strongest site, or the clean model's ranking statistic."""
    refuse_empty(summary)
    return summary.row(0, named=True)


def top(summary: pl.DataFrame, n: int, components: Sequence[str] | None = None) -> list[Site]:
    """The n sites with the largest |ranking statistic| among the components, strongest first; fewer where fewer have one.

    `z` means its heads; a whole hook point `z` is never among them.
    """
    rows = ranking(summary).filter(pl.col("estimate").is_not_null(), schemas.single_sites())
    rows = rows if components is None else rows.filter(pl.col("component").is_in(list(components)))
    rows = rows.sort(pl.col("estimate").abs(), descending=True, maintain_order=True).unique(SITE[:3], keep="first", maintain_order=True)
    return [Site(row["layer"], row["component"], row["head"]) for row in rows.head(n).iter_rows(named=True)]


def by_reach(summary: pl.DataFrame) -> list[Site]:
    """The sites by the far end of the interval of their ranking statistic: first those that may be strongest, however uncertain."""
    reach = pl.max_horizontal(pl.col("ci_low", "ci_high", "estimate").abs())
    rows = ranking(summary).filter(schemas.single_sites())
    rows = rows.sort(reach, *SITE, descending=[True] + [False] * len(SITE), nulls_last=True)
    return [Site(row["layer"], row["component"], row["head"]) for row in rows.iter_rows(named=True)]


def few_clusters_note(clusters: int, noun: str = "term") -> str | None:
    """Why a row has no interval and no p, or None where it may have them: "only 3 terms: no statement about other terms"."""
    if clusters >= MIN_CLUSTERS:
        return None
    return f"only {clusters} {noun}{'' if clusters == 1 else 's'}: no statement about other {noun}s"
