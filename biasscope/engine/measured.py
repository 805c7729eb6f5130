"""Per-example values of one metric, by group and site, and each statistic of them as SUMMARY rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine import estimates
from biasscope.engine.errors import DataError
from biasscope.engine.estimates import Cells, Columns
from biasscope.engine.resampling import Array
from biasscope.engine.types import SUMMARY, TOTAL

BIAS = ("target", "sentence")
"""Metrics whose effects are bias effects; the first one present ranks the sites."""
METRICS = (*BIAS, "competence", "kl")
STATISTICS = ("slope", "mean", "rms", "pearson_bls", "spearman_bls", "pearson_bergsma", "spearman_bergsma")
UNITS = {"slope": "nats/SD", "mean": "nats", "rms": "nats"}
SITE = ["component", "layer", "head", "position"]
Labels = Mapping[str, str | None]


def parts(effects: pl.DataFrame | pl.LazyFrame) -> Iterator[tuple[dict[str, str | None], pl.LazyFrame]]:
    """The dataset and source of each part of EFFECTS, and its rows. DataError where there are none."""
    found = effects.lazy().select("dataset", "source").unique(maintain_order=True).collect()
    refuse_empty(found)
    for dataset, source in found.rows():
        rows = effects.lazy().filter(pl.col("dataset") == dataset, pl.col("source").eq_missing(source))
        yield {"dataset": dataset, "source": source}, rows


@dataclass(frozen=True)
class Measured:
    """The effects on one metric, ready to be aggregated over groups and clusters."""

    sites: pl.DataFrame
    """Component, layer, head and position of each site."""
    groups: list[str]
    cells: Cells
    """`group site`."""
    kinds: NDArray[np.int64]
    """The family's number of each site."""
    x: Array
    """The share of men of each group, NaN where it has none."""
    cluster: NDArray[np.intp]
    """The cluster's number of each group."""

    @property
    def graded(self) -> NDArray[np.bool_]:
        """The groups that have a share of men and an effect; empty where their shares do not differ."""
        known = np.isfinite(self.x) & (self.cells.n.sum(1) > 0)
        return known if len(set(self.x[known])) > 1 else np.zeros_like(known)

    @property
    def total(self) -> int | None:
        """The row of the total effect, if there is one."""
        found = np.flatnonzero((self.sites["component"] == TOTAL).to_numpy())
        return int(found[0]) if len(found) else None


def measured(effects: pl.LazyFrame, metric: str, share: Mapping[str, float] | None, partners: Mapping[str, str]) -> Measured:
    """The effects of one dataset and source on a metric."""
    sites = effects.select(SITE).unique().collect().sort(SITE, nulls_last=True)
    groups = effects.select(pl.col("group").unique().sort()).collect().to_series().to_list()
    cells = _site_cells(effects.filter(pl.col("metric") == metric, pl.col("effect").is_finite()), sites, groups)
    # heads and the whole hook points of a component are two families
    kinds = sites.select(pl.struct("component", pl.col("head").is_null()).rank("dense")).to_series().to_numpy().astype(np.int64)
    return Measured(sites, groups, cells, kinds, shares(groups, share), clusters(groups, partners))


def partners(twins: pl.DataFrame) -> dict[str, str]:
    """Group → the one group it is exchanged for, from TWINS; groups whose prompts draw different partners are left out."""
    each = twins.group_by("group").agg(pl.col("partner").unique())
    return {group: names[0] for group, names in each.rows() if len(names) == 1}


def clusters(groups: Sequence[str], partners: Mapping[str, str]) -> NDArray[np.intp]:
    """The cluster's number of each group: its own, but for two groups that are each other's partner."""
    mutual = {g: min(g, p) for g, p in partners.items() if partners.get(p) == g and p in set(groups)}
    return np.unique([mutual.get(g, g) for g in groups], return_inverse=True)[1]


def _site_cells(effects: pl.LazyFrame, sites: pl.DataFrame, groups: Sequence[str]) -> Cells:
    """The cells of one metric. Only numbers leave polars: copies of the text columns would outweigh all the rest."""
    numbered = effects.join(sites.lazy().with_row_index("site"), on=SITE, how="left", nulls_equal=True)
    cluster, ident = pl.col("group").cast(pl.Enum(groups)).to_physical(), pl.col("example_id").rank("dense")
    coded = numbered.select(cluster.cast(pl.Int64), pl.col("site").cast(pl.Int64), ident, "effect").collect()
    # Summed in the order of the ids, so that the last digit does not depend on the order of a sweep's shards.
    order = np.argsort(coded["example_id"].to_numpy(), kind="stable")
    cluster_of, site_of, effect = (coded[name].to_numpy()[order] for name in ("group", "site", "effect"))
    return Cells.of(cluster_of, site_of, effect, (len(groups), len(sites)))


def statistics(metric: str, found: Measured, seed: int) -> Iterator[tuple[str, Columns]]:
    """Each statistic of a metric with its columns; slope only over groups whose x is known, and only where x varies."""
    kinds, known = found.kinds, found.graded
    if metric in BIAS and known.any():
        x, cluster = found.x[known], estimates.numbered(found.cluster[known])
        yield "slope", estimates.family_wise(found.cells.clusters(known), kinds, partial(estimates.slope, x=x, cluster=cluster, seed=seed))
    cells = found.cells.merged(found.cluster)
    yield "mean", estimates.family_wise(cells, kinds, partial(estimates.mean, seed=seed, tested=metric != "kl"))
    if metric != "kl":
        yield "rms", estimates.family_wise(cells, kinds, partial(estimates.rms, seed=seed))


def shares(groups: Sequence[str], share: Mapping[str, float] | None) -> Array:
    """The statistic of each group, NaN where it has none."""
    return np.array([(share or {}).get(group, np.nan) for group in groups], float)


def place(column: str, order: Sequence[str]) -> pl.Expr:
    """The place of a column's value in an order, strangers last."""
    return pl.col(column).replace_strict(list(order), range(len(order)), default=len(order), return_dtype=pl.Int64)


def table(sites: pl.DataFrame, columns: Columns, labels: Labels) -> pl.DataFrame:
    """SUMMARY rows of sites (or subsets), their columns and what is the same for all of them; not finite becomes null."""
    numbers = pl.DataFrame({name: np.where(np.isfinite(column), column, np.nan) for name, column in columns.items()})
    table = sites.hstack(numbers.with_columns(pl.all().fill_nan(None)))
    table = table.with_columns(pl.lit(labels.get(name)).alias(name) for name in SUMMARY if name not in table.columns)
    return table.select(SUMMARY.names()).cast(SUMMARY)


def refuse_empty(frame: pl.DataFrame) -> None:
    """Nothing: DataError where a table has no rows."""
    if frame.is_empty():
        raise DataError("no example to summarise: the table has 0 rows; see what was dropped and why, or raise --limit")
