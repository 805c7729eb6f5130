"""Aggregates of effects: each site's slope, mean and rms, with interval, p and recovered share; ranks.

Per example in, one row per site and statistic out (the clean model's: `baseline`). shift is `statistic =
mean`, slope is `statistic = slope`; "significant" means a star (see `schemas.mark`). A number that does not
exist is null, never NaN or infinite.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError
from biasscope.engine.schemas import SUMMARY, TOTAL
from biasscope.engine.statistics.cells import SITE, Measured, measured, ratio, sites_of, subset
from biasscope.engine.statistics.inference import estimates
from biasscope.engine.statistics.inference.estimates import Columns
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array
from biasscope.engine.types import METRICS, Design, Site

BIAS = tuple(name for name, metric in METRICS.items() if metric.bias)
"""Metrics whose effects are bias effects; the first one present ranks the sites."""
STATISTICS = (
    *("slope", "mean", "rms", "preference", "score", "sentence_score", "slope_first", "slope_second"),
    *("pearson", "spearman", "pearson_bls", "spearman_bls", "pearson_bergsma", "spearman_bergsma"),
)
Labels = Mapping[str, str | None]
_DRAW = 5


def unit(metric: str, statistic: str) -> str:
    """The unit of a statistic of a metric; a slope is per standard deviation of the covariate."""
    return f"{METRICS[metric].unit}/SD" if statistic == "slope" else METRICS[metric].unit


def parts(effects: pl.DataFrame | pl.LazyFrame) -> Iterator[tuple[str, list[str | None], pl.LazyFrame]]:
    """Each dataset of EFFECTS, its sources in their order, and its rows. DataError where there are none."""
    pairs = effects.lazy().select("dataset", "source").unique(maintain_order=True).collect()
    refuse_empty(pairs)
    for (dataset,), sources in pairs.group_by("dataset", maintain_order=True):
        yield str(dataset), sources["source"].to_list(), effects.lazy().filter(pl.col("dataset") == dataset)


def statistics(metric: str, site_effects: Measured, seed: int) -> Iterator[tuple[str, Columns]]:
    """Each statistic of a metric with its columns; slope only over groups whose x is known and varies.

    Stars are about the ranking statistic of the first metric of bias alone.
    """
    known, ranks = site_effects.graded, metric == BIAS[0]
    if metric in BIAS and known.any():
        (cells, cluster, _), x = site_effects.over("slope"), site_effects.x[known]
        columns = estimates.slope(cells, x, cluster, seed, site_effects.families if ranks else ())
        yield "slope", estimates.named(columns, np.flatnonzero(known))
    cells = site_effects.cells.merged(site_effects.cluster)
    families = site_effects.families if ranks and not known.any() else ()
    columns = estimates.mean(cells, seed, families if METRICS[metric].signed else None)
    yield "mean", estimates.named(columns, np.unique(site_effects.cluster, return_index=True)[1])
    if METRICS[metric].signed:
        yield "rms", estimates.rms(cells, seed)


def place(column: str, order: Sequence[str]) -> pl.Expr:
    """The place of a column's value in an order, strangers last."""
    return pl.col(column).replace_strict(
        list(order), range(len(order)), default=len(order), return_dtype=pl.Int64
    )


def table(sites: pl.DataFrame, columns: Columns, labels: Labels, groups: Sequence[str] = ()) -> pl.DataFrame:
    """SUMMARY rows of sites (or subsets), their columns and what all share; not finite becomes null.

    `groups`: the names of those that `carried_by` numbers.
    """
    numbers = pl.DataFrame(
        {name: np.where(np.isfinite(column), column, np.nan) for name, column in columns.items()}
    )
    table = sites.hstack(numbers.with_columns(pl.all().fill_nan(None)))
    names: dict[str, dict[float, str]] = {
        "carried_by": {float(i): group for i, group in enumerate(groups)},
        "caution": estimates.CAUTIONS,
    }
    table = table.with_columns(
        pl.col(name).replace_strict(codes, default=None, return_dtype=pl.String)
        for name, codes in names.items()
        if name in table.columns
    )
    table = table.with_columns(
        pl.lit(labels.get(name)).alias(name) for name in SUMMARY if name not in table.columns
    )
    return table.select(SUMMARY.names()).cast(SUMMARY)


def refuse_empty(frame: pl.DataFrame) -> None:
    """Raise DataError where a table has no rows."""
    if frame.is_empty():
        raise DataError(
            "no example to summarise: the table has 0 rows; see what was dropped and why, or raise --limit"
        )


def summarise(
    effects: pl.DataFrame | pl.LazyFrame,
    *,
    model: str,
    method: str,
    design: Design = Design(),
    beside: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """SUMMARY of EFFECTS, one row per site and statistic: slope (where groups have a covariate), mean, rms.

    kl has its mean alone, without p. p_family, q and marks stand on the ranking statistic of target alone:
    slope where it exists, else mean. Its family is all heads and MLPs at all positions under all sources of
    the run, and the hook points that contain them are another; `beside` (EFFECTS of estimates) are members
    that could have been chosen and were not measured. Sites that lack examples are measured on those they
    have (n says how many). The other rows follow with the sites in the same order. Below 6 clusters the means
    of each group stand in rows of their own, subset "term: X".

    Groups that are each other's partner in the design are one cluster. Where there are rows of the total
    effect, `recovered` is filled in; and of target's slope and mean only the slope is read there, because
    swaps go both ways and the mean cancels.
    """
    tables = []
    for dataset, sources, part in parts(effects):
        labels = {"model": model, "method": method, "subset": "all", "dataset": dataset}
        of = partial(measured, part, design=design, beside=beside)
        rows = pl.concat(_site_rows(part, labels, of, design.seed))
        tables += [ranked(rows.filter(pl.col("source").eq_missing(pl.lit(source)))) for source in sources]
    return pl.concat(tables)


def _site_rows(
    effects: pl.LazyFrame, labels: Labels, of: Callable[[str], Measured], seed: int
) -> Iterator[pl.DataFrame]:
    """SUMMARY rows of one dataset, a table per metric and statistic."""
    for metric in effects.select(pl.col("metric").unique()).collect().to_series().sort():
        site_effects = of(metric)
        swapped = (site_effects.sites["component"] == TOTAL).any()
        for statistic, columns in statistics(metric, site_effects, seed):
            if metric in BIAS and swapped and statistic == "mean" and site_effects.graded.any():
                continue
            label = {**labels, "metric": metric, "statistic": statistic, "unit": unit(metric, statistic)}
            if swapped and statistic != "rms":
                columns |= _recovered(site_effects, columns, statistic, seed)
            yield table(site_effects.sites, columns, label, site_effects.groups).filter(
                site_effects.sites["measured"]
            )
            if metric in BIAS and statistic == "mean" and len(set(site_effects.cluster)) < MIN_CLUSTERS:
                yield from _each_group(site_effects, label)


def _recovered(site_effects: Measured, columns: Columns, statistic: str, seed: int) -> Columns:
    """The columns of `recovered`, for each source of which the total effect's interval leaves out 0."""
    cells, cluster, x = site_effects.over(statistic)
    filled: Columns = {name: np.full(site_effects.sites.height, np.nan) for name in estimates.RECOVERED}
    for source in site_effects.sites["source"].unique():
        total = site_effects.total(source)
        if total is None or not columns["ci_low"][total] * columns["ci_high"][total] > 0:
            continue
        here = site_effects.of(source)
        of_source = estimates.recovered(cells.sites(here), int(here[:total].sum()), x, cluster, seed)
        for name, column in of_source.items():
            filled[name][here] = column
    return filled


def _each_group(site_effects: Measured, label: Labels) -> Iterator[pl.DataFrame]:
    """The means of each group alone, without intervals."""
    for i, group in enumerate(site_effects.groups):
        cells = site_effects.cells.clusters(np.arange(len(site_effects.groups)) == i)
        numbers = {"n": cells.n[0], "clusters": (cells.n[0] > 0).astype(float), "estimate": cells.means()[0]}
        yield table(site_effects.sites, numbers, {**label, "subset": subset("term", group)}).filter(
            site_effects.sites["measured"]
        )


def ranked(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one dataset and source: by metric, statistic, then rank of the site; single groups last."""
    size = pl.col("estimate").abs()
    order = ranking(rows).sort(size, *SITE, descending=[True] + [False] * len(SITE), nulls_last=True)
    rows = rows.join(order.select(SITE).with_row_index("rank"), on=SITE, how="left", nulls_equal=True)
    first = (pl.col("subset") != "all", place("metric", list(METRICS)), place("statistic", STATISTICS))
    return rows.sort(*first, "rank", *SITE, "subset", nulls_last=True).drop("rank")


def ranking(summary: pl.DataFrame) -> pl.DataFrame:
    """The rows that rank sites: slope where it exists, else mean, of target (else sentence) over all."""
    whole = summary.filter(
        pl.col("metric").is_in(BIAS), pl.col("statistic").is_in(["slope", "mean"]), pl.col("subset") == "all"
    )
    whole = whole.filter(pl.col("component").ne_missing(TOTAL))
    kind = ["model", "dataset", "method", "source"]
    order = place("metric", BIAS) * 2 + (pl.col("statistic") == "mean")
    return whole.filter(order == order.min().over(kind))


def doubted(summary: pl.DataFrame, floor: float | None) -> pl.DataFrame:
    """SUMMARY in which tested rows below `schemas.FLOORS` noise floors say so, and have no star."""
    if floor is None:
        return summary
    faint = pl.col("p_family").is_not_null() & (pl.col("estimate").abs() < schemas.FLOORS * floor)
    caution = pl.when(faint).then(pl.lit(schemas.BELOW)).otherwise("caution")
    return summary.with_columns(caution=caution)


def estimates_of(site_effects: Measured, statistic: str) -> Array:
    """The slope or mean of each site over all clusters, NaN where it has none."""
    cells, _, x = site_effects.over(statistic)
    return ratio(cells.total, cells.n) if x is None else estimates.slopes_on(x, cells)


def estimated(
    effects: pl.DataFrame, design: Design, *, model: str | None = None, ends: bool = False
) -> pl.DataFrame:
    """The rows of SUMMARY that rank sites, untested and, unless `ends`, with their estimate alone.

    EFFECTS of one dataset and source on target. `ends`: with the interval, and what is recovered of a total.
    """
    refuse_empty(effects)
    site_effects = replace(measured(effects.lazy(), BIAS[0], design), families=None)
    statistic = site_effects.statistic
    columns = {"estimate": estimates_of(site_effects, statistic)}
    if ends:
        _, columns = next(statistics(BIAS[0], site_effects, design.seed))
        columns |= _recovered(site_effects, columns, statistic, design.seed)
    label = {"model": model, "dataset": effects["dataset"][0], "subset": "all", "metric": BIAS[0]}
    label |= {"statistic": statistic, "unit": unit(BIAS[0], statistic)}
    return ranking(ranked(table(site_effects.sites, columns, label)))


def headline(summary: pl.DataFrame) -> dict[str, Any]:
    """The first row of a summary: the strongest site, or the clean model's ranking statistic."""
    refuse_empty(summary)
    return summary.row(0, named=True)


def top(summary: pl.DataFrame, n: int) -> list[Site]:
    """The n sites with the largest |ranking statistic|, if as many have one; no whole `z` is among them."""
    rows = ranking(summary).filter(pl.col("estimate").is_not_null(), schemas.single_sites())
    rows = rows.sort(pl.col("estimate").abs(), descending=True, maintain_order=True)
    return list(dict.fromkeys(sites_of(rows)))[:n]


def chosen(summary: pl.DataFrame, n: int, seed: int) -> tuple[list[Site], list[Site]]:
    """The n sites of each kind that rank first, and n seeded others: what `--calibrate` measures exactly."""
    ranked = ranking(summary).filter(schemas.single_sites())
    best: list[Site] = []
    others: list[Site] = []
    rng = np.random.default_rng((seed, _DRAW))
    for (_,), rows in sorted(ranked.group_by("component")):
        order = top(rows, rows.height)
        best += order[:n]
        rest = sorted(order[n:])
        others += [rest[i] for i in sorted(rng.permutation(len(rest))[:n])]
    return best, others
