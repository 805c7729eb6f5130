"""Per-example values of one metric, by group and site, and each statistic of them as SUMMARY rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine import estimates, schemas
from biasscope.engine.cells import Cells, numbered
from biasscope.engine.errors import DataError
from biasscope.engine.estimates import Columns
from biasscope.engine.families import Family
from biasscope.engine.resampling import Array
from biasscope.engine.types import SUMMARY, TOTAL

BIAS = ("target", "sentence")
"""Metrics whose effects are bias effects; the first one present ranks the sites."""
METRICS = (*BIAS, "competence", "kl")
STATISTICS = ("slope", "mean", "rms", "pearson_bls", "spearman_bls", "pearson_bergsma", "spearman_bergsma")
UNITS = {"slope": "nats/SD", "mean": "nats", "rms": "nats"}
SITE = ["component", "layer", "head", "position"]
SITES = ["measured", "source", *SITE]
Labels = Mapping[str, str | None]


def parts(effects: pl.DataFrame | pl.LazyFrame) -> Iterator[tuple[str, list[str | None], pl.LazyFrame]]:
    """Each dataset of EFFECTS, its sources in their order, and its rows. DataError where there are none."""
    found = effects.lazy().select("dataset", "source").unique(maintain_order=True).collect()
    refuse_empty(found)
    for (dataset,), sources in found.group_by("dataset", maintain_order=True):
        yield str(dataset), sources["source"].to_list(), effects.lazy().filter(pl.col("dataset") == dataset)


@dataclass(frozen=True)
class Measured:
    """The effects on one metric, ready to be aggregated over groups and clusters."""

    sites: pl.DataFrame
    """Source, component, layer, head and position of each site; `measured`: whether it is more than a member of the family."""
    groups: list[str]
    cells: Cells
    """`group site`."""
    families: Sequence[Family]
    """What stars of the ranking statistic are about."""
    x: Array
    """The share of men of each group, NaN where it has none."""
    cluster: NDArray[np.intp]
    """The cluster's number of each group."""

    @property
    def graded(self) -> NDArray[np.bool_]:
        """The groups that have a share of men and an effect; empty where their shares do not differ."""
        known = np.isfinite(self.x) & (self.cells.n.sum(1) > 0)
        return known if len(set(self.x[known])) > 1 else np.zeros_like(known)

    def total(self, source: str | None) -> int | None:
        """The row of a source's total effect, if there is one."""
        rows = np.flatnonzero(self.of(source) & (self.sites["component"] == TOTAL).to_numpy())
        return int(rows[0]) if len(rows) else None

    def of(self, source: str | None) -> NDArray[np.bool_]:
        """The rows of a source."""
        return self.sites.select(pl.col("source").eq_missing(pl.lit(source))).to_series().to_numpy()

    @property
    def statistic(self) -> str:
        """What ranks the sites: the slope where there is one."""
        return "slope" if self.graded.any() else "mean"


def measured(
    effects: pl.LazyFrame,
    metric: str,
    share: Mapping[str, float] | None,
    partners: Mapping[str, str],
    beside: pl.LazyFrame | None = None,
) -> Measured:
    """The effects of one dataset on a metric, all sources; `beside`: of sites that could have been measured and were not."""
    rows = effects.with_columns(measured=True)
    if beside is not None:
        rows = pl.concat([rows, beside.with_columns(measured=False)])
    rows = rows.filter(pl.col("metric") == metric)
    sites = rows.select(SITES).unique().collect().sort(SITES, descending=[True] + [False] * (len(SITES) - 1), nulls_last=True)
    groups = rows.select(pl.col("group").unique().sort()).collect().to_series().to_list()
    cells = _site_cells(rows.filter(pl.col("effect").is_finite()), sites, groups)
    return Measured(sites, groups, cells, _families(sites), shares(groups, share), clusters(groups, partners))


def _families(sites: pl.DataFrame) -> list[Family]:
    """Two: heads and MLPs, and the hook points that contain others."""
    own = sites["measured"].to_numpy()
    single = sites.select(schemas.heads_and_mlps()).to_series().to_numpy()
    whole = ~single & (sites["component"] != TOTAL).to_numpy()
    return [Family(members, own) for members in (single, whole) if members.any()]


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
    numbered = effects.join(sites.lazy().with_row_index("site"), on=SITES, how="left", nulls_equal=True)
    cluster, ident = pl.col("group").cast(pl.Enum(groups)).to_physical(), pl.col("example_id").rank("dense")
    coded = numbered.select(cluster.cast(pl.Int64), pl.col("site").cast(pl.Int64), ident, "effect").collect()
    # Summed in the order of the ids, so that the last digit does not depend on the order of a sweep's shards.
    order = np.argsort(coded["example_id"].to_numpy(), kind="stable")
    cluster_of, site_of, effect = (coded[name].to_numpy()[order] for name in ("group", "site", "effect"))
    return Cells.of(cluster_of, site_of, effect, (len(groups), len(sites)))


def statistics(metric: str, found: Measured, seed: int) -> Iterator[tuple[str, Columns]]:
    """Each statistic of a metric with its columns; slope only over groups whose x is known, and only where x varies.

    Stars are about the ranking statistic of the first metric of bias alone.
    """
    known, ranks = found.graded, metric == BIAS[0]
    if metric in BIAS and known.any():
        x, cluster = found.x[known], numbered(found.cluster[known])
        columns = estimates.slope(found.cells.clusters(known), x, cluster, seed, found.families if ranks else ())
        yield "slope", _named(columns, np.flatnonzero(known))
    cells = found.cells.merged(found.cluster)
    families = found.families if ranks and not known.any() else ()
    columns = estimates.mean(cells, seed, families, tested=metric != "kl")
    yield "mean", _named(columns, np.unique(found.cluster, return_index=True)[1])
    if metric != "kl":
        yield "rms", estimates.rms(cells, seed)


def _named(columns: Columns, groups: NDArray[np.intp]) -> Columns:
    """The columns with `carried_by` as the number of a group, given the group of each row of the cells."""
    carried = columns["carried_by"]
    known = np.isfinite(carried)
    return columns | {"carried_by": np.where(known, groups[np.where(known, carried, 0).astype(int)], np.nan)}


def shares(groups: Sequence[str], share: Mapping[str, float] | None) -> Array:
    """The statistic of each group, NaN where it has none."""
    return np.array([(share or {}).get(group, np.nan) for group in groups], float)


def place(column: str, order: Sequence[str]) -> pl.Expr:
    """The place of a column's value in an order, strangers last."""
    return pl.col(column).replace_strict(list(order), range(len(order)), default=len(order), return_dtype=pl.Int64)


def table(sites: pl.DataFrame, columns: Columns, labels: Labels, groups: Sequence[str] = ()) -> pl.DataFrame:
    """SUMMARY rows of sites (or subsets), their columns and what is the same for all of them; not finite becomes null.

    `groups`: the names of those that `carried_by` numbers.
    """
    numbers = pl.DataFrame({name: np.where(np.isfinite(column), column, np.nan) for name, column in columns.items()})
    table = sites.hstack(numbers.with_columns(pl.all().fill_nan(None)))
    names: dict[str, dict[float, str]] = {"carried_by": {float(i): group for i, group in enumerate(groups)}, "caution": estimates.CAUTIONS}
    table = table.with_columns(
        pl.col(name).replace_strict(codes, default=None, return_dtype=pl.String) for name, codes in names.items() if name in table.columns
    )
    table = table.with_columns(pl.lit(labels.get(name)).alias(name) for name in SUMMARY if name not in table.columns)
    return table.select(SUMMARY.names()).cast(SUMMARY)


def refuse_empty(frame: pl.DataFrame) -> None:
    """Nothing: DataError where a table has no rows."""
    if frame.is_empty():
        raise DataError("no example to summarise: the table has 0 rows; see what was dropped and why, or raise --limit")
