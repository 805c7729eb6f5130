"""Estimates, tests and intervals of tens of thousands of edges (or neurons) from sums over groups.

The same definitions as `estimates`, as matrix products over all members at once: p and p_family from fewer
draws, intervals of the strongest alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine.schemas import LEVEL
from biasscope.engine.statistics import cells, stability
from biasscope.engine.statistics.cells import Cells, numbered, standard
from biasscope.engine.statistics.inference import estimates, resampling, slopes
from biasscope.engine.statistics.inference.estimates import Columns
from biasscope.engine.statistics.inference.resampling import FEW, MIN_CLUSTERS, Array, Means, Null
from biasscope.engine.statistics.stability import Stars
from biasscope.engine.types import Design

DRAWS = 5_000
"""Draws of the tests: the smallest p is 1 / 5,001."""
STRONGEST = 100
"""Members with an interval, beside those that pass the test."""
FLAT, NOTHING = 1e-10, 1e-12
"""A spread (sum of squares) below these shares of the member's own size, or of the largest member's, is
rounding: scores are single precision.
"""
_AT_ONCE = 16_000_000
"""Largest `draw member` product held at once, in single precision (64 MB)."""


@dataclass(frozen=True)
class Sums:
    """Scores of all members summed over the examples of each group."""

    groups: Sequence[str]
    n: Array
    """Examples of each group."""
    total: Array
    """`group member`."""

    @classmethod
    def of(cls, tables: Sequence[pl.DataFrame], position: str) -> "Sums":
        """The sums of GROUPS tables at one position, groups in the order of their names."""
        rows = pl.concat(tables).filter(position=position)
        names = rows["group"].unique().sort().to_list()
        place = {name: i for i, name in enumerate(names)}
        total = np.zeros((len(names), len(rows["values"][0])))
        n = np.zeros(len(names))
        for group, count, values in rows.select("group", "n", "values").iter_rows():
            total[place[group]] += np.asarray(values, float)
            n[place[group]] += count
        return cls(names, n, total)

    def beside(self, other: "Sums") -> "Sums":
        """The members of both, over the same groups."""
        return replace(self, total=np.hstack([self.total, other.total]))

    def columns(self, members: NDArray[np.intp]) -> "Sums":
        """Some of the members."""
        return replace(self, total=self.total[:, members])

    def rows(self, groups: NDArray[np.bool_]) -> "Sums":
        """Some of the groups."""
        names = [name for name, kept in zip(self.groups, groups, strict=True) if kept]
        return Sums(names, self.n[groups], self.total[groups])

    @property
    def means(self) -> Array:
        """The mean over each group's examples, `group member`."""
        return self.total / self.n[:, None]

    def cells(self) -> Cells:
        """The sums as cells, without squares."""
        n = np.broadcast_to(self.n[:, None], self.total.shape)
        return Cells(n, self.total, np.zeros_like(self.total))


def graded(sums: Sums, design: Design) -> Array | None:
    """The covariate of each group, NaN where it has none; None: there is none, and the mean ranks."""
    x = cells.covariate(sums.groups, design)
    known = np.isfinite(x) & (sums.n > 0)
    return np.where(known, x, np.nan) if len(set(x[known])) > 1 else None


def estimate(sums: Sums, design: Design) -> Array:
    """The ranking statistic of each member: the slope of its group means, else the mean over examples."""
    x = graded(sums, design)
    if x is None:
        return np.asarray(sums.total.sum(0) / sums.n.sum())
    known = np.isfinite(x)
    return slopes.line(standard(x[known])).slope(sums.rows(known).means)


def judged(sums: Sums, design: Design, strongest: int = STRONGEST) -> tuple[str, Columns, float]:
    """The statistic that ranks, the columns of `estimates.NUMBERS` over all members, one family, and the |t|
    from which on p_family is below 0.05 (NaN: too few clusters).
    """
    x = graded(sums, design)
    here = sums.n > 0 if x is None else np.isfinite(x)
    kept = sums.rows(here)
    labels = clustered(kept, design)
    if x is None:
        statistic, (columns, critical) = "mean", _means(kept, labels, design.seed, strongest)
    else:
        line_of = standard(x[np.isfinite(x)]), labels
        statistic, (columns, critical) = "slope", _slopes(kept, line_of, design.seed, strongest)
    return statistic, estimates.named(columns, np.flatnonzero(here)), critical


def clustered(sums: Sums, design: Design) -> NDArray[np.intp]:
    """The number of each group's cluster."""
    return numbered(cells.clusters(list(sums.groups), design.partners))


def _empty(sums: Sums, labels: NDArray[np.intp]) -> Columns:
    members = sums.total.shape[1]
    table = {name: np.full(members, np.nan) for name in estimates.NUMBERS}
    table["n"][:], table["clusters"][:] = sums.n.sum(), labels.max() + 1
    return table


def _varied(residual: Array, values: Array) -> NDArray[np.intp]:
    """The members whose values differ between clusters by more than rounding."""
    size = (values**2).sum(0)
    return np.flatnonzero((residual**2).sum(0) > np.maximum(FLAT * size, NOTHING * size.max()))


def _slopes(
    sums: Sums, line_of: tuple[Array, NDArray[np.intp]], seed: int, strongest: int
) -> tuple[Columns, float]:
    """Columns of slopes on x by clusters: permutations of HC3 |t|, the largest of all members."""
    (x, labels), y = line_of, sums.means
    line, table = slopes.line(x, labels), _empty(sums, labels)
    table["estimate"] = line.slope(y)
    if labels.max() + 1 < MIN_CLUSTERS:
        return table, np.nan
    count = min(DRAWS, resampling.DRAWS)
    centred = (y - y.mean(0)).astype(np.float32)
    varied = _varied(y - y.mean(0), y)
    centred = centred[:, varied]
    orders = slopes.Permuted.of(slopes.orders(x, labels, seed, count).astype(np.float32), labels)
    here = slopes.Permuted.of(x[None].astype(np.float32), labels)
    observed = here.t(centred)[0]
    critical = _judge(table, varied, Null(observed, lambda rows: orders.t(centred, rows), count))
    _settle(table, varied, critical, lambda some: line.without(y[:, some]), labels)
    chosen = _chosen(table, strongest)
    table["ci_low"][chosen], table["ci_high"][chosen] = line.interval(y[:, chosen], seed)
    residual = y[:, chosen] - np.outer(x, table["estimate"][chosen])
    table["caution"][chosen] = estimates.caution(residual, np.ones(len(chosen)))
    return table, critical


def _means(sums: Sums, labels: NDArray[np.intp], seed: int, strongest: int) -> tuple[Columns, float]:
    """Columns of means over examples: the studentised cluster bootstrap, the largest of all members."""
    merged, table = sums.cells().merged(labels), _empty(sums, labels)
    table["estimate"] = sums.total.sum(0) / sums.n.sum()
    k = len(merged.n)
    if k < MIN_CLUSTERS:
        return table, np.nan
    count = min(DRAWS, resampling.DRAWS)
    error = resampling.mean_error(merged.total, merged.n)
    varied = _varied(Means(merged.total, merged.n).residual, merged.total)
    means = Means(merged.total[:, varied], merged.n[:, varied])
    w = resampling.weights(k, seed, count)
    variance = error[varied] ** 2
    observed = np.abs(means.estimate) / error[varied]

    def drawn(rows: slice) -> Array:
        return np.abs(resampling.ratio(*means.single(w[rows]), variance))

    critical = _judge(table, varied, Null(observed, drawn, count))
    if k < FEW:
        _judge(table, varied, resampling.flip_null(means.total, seed))
    every = Means(merged.total, merged.n)

    def without(some: NDArray[np.intp]) -> Array:
        mask = np.zeros(len(error), bool)
        mask[some] = True
        return every.without(mask)

    _settle(table, varied, critical, without, labels)
    chosen = _chosen(table, strongest)
    ends = resampling.mean_interval(merged.total[:, chosen], merged.n[:, chosen], seed)
    table["ci_low"][chosen], table["ci_high"][chosen] = ends
    even = np.full(len(chosen), merged.n[:, 0].sum() ** 2 / (merged.n[:, 0] ** 2).sum() / k)
    table["caution"][chosen] = estimates.caution(every.residual[:, chosen], even)
    return table, critical


def _judge(table: Columns, members: NDArray[np.intp], null: Null) -> float:
    """Fill in p and p_family, the larger of several tests; the |t| from which on p_family is below 0.05."""
    draws = null.draws
    step = max(1, _AT_ONCE // max(1, len(members)))
    reached, top = np.zeros(len(members)), np.empty(draws)
    limit = null.observed * (1 - 1e-6)
    for first in range(0, draws, step):
        t = null.drawn(slice(first, min(draws, first + step)))
        reached += (t >= limit).sum(0)
        top[first : first + len(t)] = t.max(1)
    top, extra = np.sort(top), 0 if null.exact else 1
    above = draws - np.searchsorted(top, limit)
    for name, count in (("p", reached), ("p_family", above)):
        table[name][members] = np.fmax(table[name][members], (extra + count) / (extra + draws))
    return resampling.critical(top, extra)


def _settle(
    table: Columns,
    members: NDArray[np.intp],
    critical: float,
    without: Callable[[NDArray[np.intp]], Array],
    labels: NDArray[np.intp],
) -> None:
    """Fill in who carries what passes, and q."""
    passing = members[table["p_family"][members] < LEVEL]
    if passing.size:
        t = np.sign(table["estimate"][passing]) * without(passing)
        first = np.unique(labels, return_index=True)[1]
        table["carried_by"][passing] = np.where(t.min(0) < critical, first[t.argmin(0)], np.nan)
    table["q"] = resampling.screened(table["p"])


def _chosen(table: Columns, strongest: int) -> NDArray[np.intp]:
    """The members that get an interval: the strongest, and all that pass."""
    order = np.argsort(-np.abs(table["estimate"]), kind="stable")[:strongest]
    return np.union1d(order, np.flatnonzero(table["p_family"] < LEVEL))


def again(sums: Sums, design: Design, columns: Columns, critical: float) -> tuple[float, float, float]:
    """How far the same members have a star when clusters are drawn again: 5 %, median and 95 % of Jaccard.

    Of each draw: those that reach this run's critical |t| there and have a star here, of all that do one of
    both; what was not tested does neither. NaN where none has a star, or there are too few clusters.
    """
    low, high = columns["ci_low"], columns["ci_high"]
    passing = (columns["p_family"] < LEVEL) & ((low > 0) | (high < 0)) & np.isnan(columns["carried_by"])
    x = graded(sums, design)
    kept = sums.rows(sums.n > 0 if x is None else np.isfinite(x))
    stars = Stars(passing, np.isfinite(columns["p_family"]), critical)
    line = None if x is None else x[np.isfinite(x)]
    return stability.again(kept.cells(), clustered(kept, design), line, stars, design.seed)
