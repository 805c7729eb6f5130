"""The statistics of per-example values: an estimate with its interval and p per site. No tables; `stats.py` makes the rows.

Every function takes the values of one metric as `Cells` and returns columns over the same sites, NaN where a number does not exist.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from biasscope.engine import resampling, slopes
from biasscope.engine.resampling import MIN_CLUSTERS, Array

Columns = dict[str, Array]
NUMBERS = ("n", "clusters", "estimate", "ci_low", "ci_high", "p", "p_family", "q")
"""The columns every statistic fills, named as in SUMMARY."""
RECOVERED = ("recovered", "recovered_low", "recovered_high")
_FLAT = 1e-20
"""A sum of squares below this share of its own size is rounding, not spread."""


@dataclass(frozen=True)
class Cells:
    """Counts, sums and sums of squares of the values of each cluster at each site, `cluster site`; a cluster may be absent (n = 0)."""

    n: Array
    total: Array
    square: Array

    @classmethod
    def of(cls, cluster: NDArray[np.int64], site: NDArray[np.int64], value: Array, shape: tuple[int, int]) -> "Cells":
        """Cells of values with a cluster number and a site number each; values that are not finite must be left out before."""
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
        found = Cells(*(np.zeros((cluster.max() + 1, self.n.shape[1])) for _ in range(3)))
        for one, other in ((found.n, self.n), (found.total, self.total), (found.square, self.square)):
            np.add.at(one, cluster, other)
        return found

    def macro(self) -> "Cells":
        """Cells in which every cluster counts once, with its mean as its one value."""
        means = np.nan_to_num(self.means())
        return Cells((self.n > 0).astype(float), means, means**2)


def mean(cells: Cells, seed: int, *, tested: bool = True) -> Columns:
    """The mean over examples, the interval from whole clusters; p by sign flips of the cluster sums where `tested`."""
    table = _empty(cells)
    table["estimate"] = _ratio(cells.total, cells.n)
    residual = cells.total - np.nan_to_num(table["estimate"]) * cells.n
    spread = (residual**2).sum(0) > _FLAT * (cells.total**2).sum(0)
    for rows, sites in alike(cells, MIN_CLUSTERS):
        part = np.ix_(rows, sites)
        table["ci_low"][sites], table["ci_high"][sites] = resampling.mean_interval(cells.total[part], cells.n[part], seed)
    if tested:
        _test(table, spread, lambda sites: resampling.flip_p(cells.total[:, sites], seed))
    return table


def rms(cells: Cells, seed: int) -> Columns:
    """√(mean square over examples): the interval is that of the mean square, transformed. It has no p, being never negative."""
    square = mean(replace(cells, total=cells.square), seed, tested=False)
    return square | {name: np.sqrt(np.maximum(square[name], 0)) for name in ("estimate", "ci_low", "ci_high")}


def slope(cells: Cells, x: Array, cluster: NDArray[np.intp], seed: int) -> Columns:
    """The slope of the group means on x, per standard deviation of x over the groups; p by permutation of x.

    x is standardised once (ddof = 0), over all groups, so that every site has the same unit. `cluster` numbers the cluster of each
    group: groups of one cluster are drawn and permuted together.
    """
    z = standard(x)
    y, table = cells.means(), _empty(cells.merged(cluster))
    table["n"], spread = cells.n.sum(0), np.zeros(y.shape[1], bool)
    for rows, sites in alike(cells, at_least=2):
        here, part, labels = z[rows], y[np.ix_(rows, sites)], numbered(cluster[rows])
        # Groups that happen to share one x have no slope.
        if np.ptp(here) == 0:
            continue
        line = slopes.line(here, labels)
        table["estimate"][sites] = line.slope(part)
        spread[sites] = ((part - part.mean(0)) ** 2).sum(0) > _FLAT * (part**2).sum(0)
        if labels.max() + 1 >= MIN_CLUSTERS:
            table["ci_low"][sites], table["ci_high"][sites] = line.interval(part, seed)
    _test(table, spread, lambda sites: resampling.permute_p(z, y[:, sites], seed, cluster))
    return table


def standard(x: Array) -> Array:
    """x with mean 0 and standard deviation 1 (ddof = 0)."""
    return (x - x.mean()) / x.std()


def numbered(cluster: NDArray[np.intp]) -> NDArray[np.intp]:
    """The same clusters, numbered from 0 without gaps."""
    return np.unique(cluster, return_inverse=True)[1]


def recovered(cells: Cells, total: int, x: Array | None, cluster: NDArray[np.intp], seed: int) -> Columns:
    """Effect / total effect of the same statistic, per site, with its interval from whole clusters; `total` is the total's site.

    NaN where a site lacks examples that the total has. `x`: slopes of the group means on it; None: means over examples.
    """
    fits = np.flatnonzero((cells.n == cells.n[:, [total]]).all(0))
    rows = cells.n[:, total] > 0
    table = {name: np.full(cells.n.shape[1], np.nan) for name in RECOVERED}
    labels = numbered(cluster[rows])
    if not rows.any() or labels.max() + 1 < MIN_CLUSTERS:
        return table
    part = cells.clusters(rows)
    if x is None:
        part = part.merged(labels)
        per = np.repeat(part.total[:, [total]], len(fits), 1)
        table["recovered"][fits] = part.total[:, fits].sum(0) / per.sum(0)
        ends = resampling.mean_interval(part.total[:, fits], per, seed, symmetric=True)
    else:
        y = part.means()
        line = slopes.line(standard(x)[rows], labels, per=y[:, total])
        table["recovered"][fits] = line.slope(y[:, fits])
        ends = line.interval(y[:, fits], seed)
    table["recovered_low"][fits], table["recovered_high"][fits] = ends
    return table


def correlation(cells: Cells, x: Array, seed: int, *, ranks: bool) -> Columns:
    """Pearson's r, or Spearman's with `ranks`, of the cluster means with x, for one site that has every cluster; BCa interval."""
    y = cells.means()[:, 0]
    table = _empty(cells)
    table["estimate"][:] = _r(x, y, ranks=ranks) if len(y) > 1 else np.nan
    if len(y) >= MIN_CLUSTERS and np.isfinite(table["estimate"][0]):
        # A draw of one repeated cluster has no r; it counts as 0 and does not void the other draws.
        found = resampling.bca_interval((x, y), lambda a, b, axis: np.nan_to_num(_r(a, b, axis, ranks=ranks)), seed)
        table["ci_low"][:], table["ci_high"][:] = found
        a, b = (rankdata(x), rankdata(y)) if ranks else (x, y)
        z = (a - a.mean()) / a.std()
        _test(table, np.ones(1, bool), lambda sites: resampling.permute_p(z, b[:, None][:, sites], seed))
    return table


def _r(x: Array, y: Array, axis: int = -1, *, ranks: bool) -> Array:
    """The correlation along an axis; NaN where one side does not vary."""
    a, b = (rankdata(x, axis=axis), rankdata(y, axis=axis)) if ranks else (x, y)
    c, d = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
    one, other = (c * c).sum(axis), (d * d).sum(axis)
    varies = (one > _FLAT * (a * a).sum(axis)) & (other > _FLAT * (b * b).sum(axis))
    return np.divide((c * d).sum(axis), np.sqrt(one * other), out=np.full(np.shape(one), np.nan), where=varies)


def published(lms: Cells, ss: Cells, seed: int) -> dict[str, Columns]:
    """LMS, SS and ICAT in per cent, without p; an interval ends at 0 and 100."""
    found = {"lms": mean(lms, seed, tested=False), "ss": mean(ss, seed, tested=False), "icat": _icats(lms, ss, seed)}
    return {name: columns | {end: np.clip(columns[end], 0, 100) for end in ("ci_low", "ci_high")} for name, columns in found.items()}


def _icats(lms: Cells, ss: Cells, seed: int) -> Columns:
    """ICAT = LMS · min(SS, 100 − SS) / 50 per site, from the two ratios; BCa interval over whole clusters, no p."""
    table = _empty(lms)
    table["estimate"] = _icat(_ratio(lms.total, lms.n), _ratio(ss.total, ss.n))
    for site in np.flatnonzero(table["clusters"] >= MIN_CLUSTERS):
        rows = lms.n[:, site] > 0
        columns = tuple(array[rows, site] for array in (lms.total, ss.total, lms.n))
        found = resampling.bca_interval(columns, lambda a, b, n, axis: _icat(_ratio(a, n, axis), _ratio(b, n, axis)), seed)
        table["ci_low"][site], table["ci_high"][site] = found
    return table


def _icat(lms: Array, ss: Array) -> Array:
    return lms * np.minimum(ss, 100 - ss) / 50


def _ratio(total: Array, n: Array, axis: int = 0) -> Array:
    """Σ total / Σ n, NaN where there is nothing."""
    size = n.sum(axis)
    return np.divide(total.sum(axis), size, out=np.full(np.shape(size), np.nan), where=size > 0)


def _empty(cells: Cells) -> Columns:
    """All columns, with n and the number of clusters filled in."""
    table = {name: np.full(cells.n.shape[1], np.nan) for name in NUMBERS}
    return table | {"n": cells.n.sum(0), "clusters": (cells.n > 0).sum(0).astype(float)}


def alike(cells: Cells, at_least: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Cluster numbers and site numbers of sites that have the same clusters: one matrix of draws serves them."""
    patterns, which = np.unique(cells.n > 0, axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        rows, sites = np.flatnonzero(pattern), np.flatnonzero(which == i)
        if len(rows) >= at_least:
            yield rows, sites


def _test(table: Columns, spread: NDArray[np.bool_], p_of: Callable[[NDArray[np.bool_]], tuple[Array, Array]]) -> None:
    """Fills p, p_family and q of the sites that can be tested; the others stand outside the family."""
    sites = spread & (table["clusters"] >= MIN_CLUSTERS)
    if sites.any():
        table["p"][sites], table["p_family"][sites] = p_of(sites)
        table["q"] = resampling.screened(table["p"])


def family_wise(cells: Cells, kinds: NDArray[np.int64], statistic: Callable[[Cells], Columns]) -> Columns:
    """The statistic with every kind of site as a family of its own, in the order of the sites."""
    table = {name: np.full(cells.n.shape[1], np.nan) for name in NUMBERS}
    for kind in np.unique(kinds):
        for name, column in statistic(cells.sites(kinds == kind)).items():
            table[name][kinds == kind] = column
    return table
