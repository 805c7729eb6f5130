"""Per-example values as counts and sums by group and site; which groups are one cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine import schemas
from biasscope.engine.schemas import COVARIATES, TOTAL
from biasscope.engine.statistics.inference.resampling import Array
from biasscope.engine.types import EDGE, INSIDE, Dataset, Design, Site

VALUE = pl.col("subset").str.replace("^[^:]*: ", "")
"""What the rows of a `subset` of SUMMARY are of: the value in "occupation: nurse"."""
SITE = ["component", "layer", "head", "position"]
SITES = ["measured", "source", *SITE]


def subset(kind: str, value: object) -> str:
    """The `subset` of SUMMARY rows over the examples with that value: "occupation: nurse"."""
    return f"{kind}: {value}"


def sites_of(rows: pl.DataFrame) -> list[Site]:
    """The site of each row."""
    return [Site(*row) for row in rows.select("layer", "component", "head").iter_rows()]


def of_sites(rows: pl.DataFrame, sites: Sequence[Sequence[Any]], *, others: bool = False) -> pl.DataFrame:
    """The rows of these sites (layer, component, head), or of all others."""
    names = ("layer", "component", "head")
    chosen = pl.DataFrame(list(sites), {name: rows.schema[name] for name in names}, orient="row")
    return rows.join(
        chosen, on=names, how="anti" if others else "semi", nulls_equal=True, maintain_order="left"
    )


@dataclass(frozen=True)
class Cells:
    """Counts, sums and sums of squares of values, `cluster site`; a cluster may be absent (n = 0)."""

    n: Array
    total: Array
    square: Array

    @classmethod
    def of(
        cls, cluster: NDArray[np.int64], site: NDArray[np.int64], value: Array, shape: tuple[int, int]
    ) -> "Cells":
        """Cells of finite values with a cluster number and a site number each."""
        index = cluster * shape[1] + site

        def add(x: Array | None) -> Array:
            return np.bincount(index, x, shape[0] * shape[1]).reshape(shape).astype(float)

        return cls(add(None), add(value), add(value**2))

    def clusters(self, rows: NDArray[np.bool_]) -> "Cells":
        """The same sites over some of the clusters."""
        return Cells(self.n[rows], self.total[rows], self.square[rows])

    def sites(self, columns: NDArray[np.bool_]) -> "Cells":
        """The same clusters at some of the sites."""
        return Cells(self.n[:, columns], self.total[:, columns], self.square[:, columns])

    def means(self) -> Array:
        """The mean of each cluster at each site, NaN where it is absent."""
        return np.divide(self.total, self.n, out=np.full_like(self.total, np.nan), where=self.n > 0)

    def merged(self, cluster: NDArray[np.intp]) -> "Cells":
        """The same sites with clusters of several groups, by the cluster's number of each group."""
        merged = Cells(*(np.zeros((cluster.max() + 1, self.n.shape[1])) for _ in range(3)))
        for sums, values in ((merged.n, self.n), (merged.total, self.total), (merged.square, self.square)):
            np.add.at(sums, cluster, values)
        return merged

    def macro(self) -> "Cells":
        """Cells in which every cluster counts once, with its mean as its one value."""
        means = np.nan_to_num(self.means())
        return Cells((self.n > 0).astype(float), means, means**2)


def ratio(total: Array, n: Array, axis: int = 0) -> Array:
    """Σ total / Σ n, NaN where there is nothing."""
    size = n.sum(axis)
    return np.divide(total.sum(axis), size, out=np.full(np.shape(size), np.nan), where=size > 0)


def standard(x: Array) -> Array:
    """x with mean 0 and standard deviation 1 (ddof = 0)."""
    return (x - x.mean()) / x.std()


def numbered(cluster: NDArray[np.intp]) -> NDArray[np.intp]:
    """The same clusters, numbered from 0 without gaps."""
    return np.unique(cluster, return_inverse=True)[1]


def alike(cells: Cells, at_least: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Sites grouped by which clusters they have (clusters, sites): a group shares its bootstrap draws."""
    patterns, which = np.unique(cells.n > 0, axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        rows, sites = np.flatnonzero(pattern), np.flatnonzero(which == i)
        if len(rows) >= at_least:
            yield rows, sites


@dataclass(frozen=True)
class Family:
    """Sites that one star is about; some may only stand in the maximum, as candidates never measured."""

    members: NDArray[np.bool_]
    own: NDArray[np.bool_]
    """Those that are tested."""
    name: str = "single"
    """See `schemas.family`."""


@dataclass(frozen=True)
class Measured:
    """The effects on one metric, ready to be aggregated over groups and clusters."""

    sites: pl.DataFrame
    """Source, component, layer, head, position; `measured`: whether it is more than a family's member."""
    groups: list[str]
    cells: Cells
    """`group site`."""
    families: Sequence[Family] | None
    """What stars of the ranking statistic are about; None: it is not tested."""
    x: Array
    """The share of men of each group, NaN where it has none."""
    cluster: NDArray[np.intp]
    """The cluster's number of each group."""

    @property
    def graded(self) -> NDArray[np.bool_]:
        """The groups that have a share of men and an effect; empty where their shares do not differ."""
        known = np.isfinite(self.x) & (self.cells.n.sum(1) > 0)
        return known if len(set(self.x[known])) > 1 else np.zeros_like(known)

    def over(self, statistic: str) -> tuple[Cells, NDArray[np.intp], Array | None]:
        """The groups that a statistic is over: their cells, clusters and, of a slope, x."""
        if statistic != "slope":
            return self.cells, self.cluster, None
        known = self.graded
        return self.cells.clusters(known), numbered(self.cluster[known]), self.x[known]

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
    effects: pl.LazyFrame, metric: str, design: Design, beside: pl.LazyFrame | None = None
) -> Measured:
    """The effects of one dataset on a metric; `beside`: of sites that were candidates and not measured."""
    rows = effects.with_columns(measured=True)
    if beside is not None:
        rows = pl.concat([rows, beside.with_columns(measured=False)])
    rows = rows.filter(pl.col("metric") == metric)
    sites = (
        rows.select(SITES)
        .unique()
        .collect()
        .sort(SITES, descending=[True] + [False] * (len(SITES) - 1), nulls_last=True)
    )
    groups = rows.select(pl.col("group").unique().sort()).collect().to_series().to_list()
    cells = site_cells(rows.filter(pl.col("effect").is_finite()), sites, groups)
    return Measured(
        sites, groups, cells, _families(sites), covariate(groups, design), clusters(groups, design.partners)
    )


def _families(sites: pl.DataFrame) -> list[Family]:
    """Heads and MLPs, the hook points that contain others, and each component inside them."""
    own, counts = sites["measured"].to_numpy(), (sites["component"] != TOTAL).to_numpy()
    kinds = sites.select(schemas.family()).to_series()
    each = (((kinds == name).to_numpy() & counts, name) for name in ("single", "containing", *INSIDE, EDGE))
    return [Family(members, own, name) for members, name in each if members.any()]


def site_cells(effects: pl.LazyFrame, sites: pl.DataFrame, groups: Sequence[str]) -> Cells:
    """The cells of one metric. Only numbers leave polars: copies of the text columns outweigh the rest."""
    numbered = effects.join(sites.lazy().with_row_index("site"), on=SITES, how="left", nulls_equal=True)
    cluster, ident = pl.col("group").cast(pl.Enum(groups)).to_physical(), pl.col("example_id").rank("dense")
    coded = numbered.select(cluster.cast(pl.Int64), pl.col("site").cast(pl.Int64), ident, "effect").collect()
    # Summed in the order of the ids, so that the last digit does not depend on the order of a sweep's shards.
    order = np.argsort(coded["example_id"].to_numpy(), kind="stable")
    cluster_of, site_of, effect = (coded[name].to_numpy()[order] for name in ("group", "site", "effect"))
    return Cells.of(cluster_of, site_of, effect, (len(groups), len(sites)))


def covariate(groups: Sequence[str], design: Design) -> Array:
    """The value of each group that slopes are on, NaN where it has none."""
    return np.array([(design.covariate or {}).get(group, np.nan) for group in groups], float)


def covariates(dataset: Dataset) -> pl.DataFrame:
    """COVARIATES of a data set, so that runs can be compared without it."""
    rows = [(group, c.name, c.key, value) for c in dataset.covariates for group, value in c.values.items()]
    return pl.DataFrame(rows, COVARIATES, orient="row")


def partners(twins: pl.DataFrame) -> dict[str, str]:
    """Group → the one group it is exchanged for, from TWINS; groups with several partners are left out."""
    each = twins.group_by("group").agg(pl.col("partner").unique())
    return {group: names[0] for group, names in each.rows() if len(names) == 1}


def clusters(groups: Sequence[str], partners: Mapping[str, str]) -> NDArray[np.intp]:
    """The cluster's number of each group: its own, but for two groups that are each other's partner."""
    mutual = {g: min(g, p) for g, p in partners.items() if partners.get(p) == g and p in set(groups)}
    return np.unique([mutual.get(g, g) for g in groups], return_inverse=True)[1]
