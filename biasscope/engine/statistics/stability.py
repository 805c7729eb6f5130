"""What half of the groups repeats, and which members of a family have a star when groups are drawn again or
a template is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from biasscope.engine.statistics.cells import Cells, Family, Measured, alike, numbered, site_cells, standard
from biasscope.engine.statistics.inference import estimates, resampling, slopes
from biasscope.engine.statistics.inference.estimates import Tests
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array, Means

SPLITS = 100
MIN_SPLIT = 8
"""Below this many clusters a half says nothing."""
TOP = 10
_SPLIT = 4
BOOTSTRAPS = 100
DRAWS = 5_000
"""Draws of the critical |t|: the first ones of the test."""


class Quantity(NamedTuple):
    """One number of RELIABILITY."""

    quantity: str
    unit: str
    n: int
    estimate: float | None
    low: float | None = None
    high: float | None = None


def labelled(label: Mapping[str, Any], numbers: Iterable[Quantity]) -> list[dict[str, Any]]:
    """The numbers as rows, with what is the same for all of them."""
    return [{**label, **number._asdict()} for number in numbers]


@dataclass(frozen=True)
class Stars:
    """What the test of a family says of a run's members."""

    starred: NDArray[np.bool_]
    tested: NDArray[np.bool_]
    critical: float
    """The |t| from which on p_family is below 0.05."""

    def shared(self, t: Array) -> Array:
        """Jaccard of what has a star and what reaches the critical |t| elsewhere, per row of t.

        A star there is its t alone: neither interval nor single groups are looked at again.
        """
        with np.errstate(invalid="ignore"):
            there = (np.abs(t) >= self.critical) & self.tested
        return np.asarray((there & self.starred).sum(1) / (there | self.starred).sum(1))

    def lost(self, t: Array) -> NDArray[np.bool_]:
        """The starred members that do not reach the critical |t| there."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.starred & ~(np.abs(t) >= self.critical))


def again(
    cells: Cells, cluster: NDArray[np.intp], x: Array | None, stars: Stars, seed: int
) -> tuple[float, float, float]:
    """Jaccard when clusters are drawn again: 5 %, median and 95 %; NaN where none has a star.

    `x`: of each group, slopes are on it; None: means.
    """
    if not stars.starred.any():
        return np.nan, np.nan, np.nan
    w = resampling.weights(int(cluster.max()) + 1, seed, BOOTSTRAPS)
    low, middle, high = np.quantile(stars.shared(drawn(cells, cluster, x, w)), [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high)


def drawn(cells: Cells, cluster: NDArray[np.intp], x: Array | None, w: Array) -> Array:
    """t of each site when each cluster counts w times, `draw site`; NaN where it has none."""
    t = np.full((len(w), cells.n.shape[1]), np.nan)
    if x is None:
        cells, cluster = cells.merged(cluster), np.arange(cluster.max() + 1)
    for rows, sites in alike(cells, MIN_CLUSTERS):
        part, names = np.ix_(rows, sites), np.unique(cluster[rows])
        if x is None:
            means = Means(cells.total[part], cells.n[part])
            estimate = means.estimate
            shift, variance = means.deviations(w[:, names], slice(None))
            usable = np.ones(len(w), bool)
        elif len(names) < MIN_CLUSTERS or np.ptp(x[rows]) == 0:
            continue
        else:
            line, y = slopes.line(standard(x)[rows], numbered(cluster[rows])), cells.means()[part]
            estimate = line.slope(y)
            residual = y - np.outer(line.per, estimate)
            draws, usable = line.draws(w[:, names])
            shift, variance = draws.deviations(line, residual - residual.mean(0))
        with np.errstate(divide="ignore", invalid="ignore"):
            t[np.ix_(usable, sites)] = (estimate + shift) / np.sqrt(variance)
    return t


def of_sites(site_effects: Measured, starred: NDArray[np.bool_], seed: int) -> Iterator[tuple[str, Stars]]:
    """Each family of sites by its name, with what its test says; `starred`: the sites with a star."""
    cells, cluster, x = site_effects.over(site_effects.statistic)
    if x is None:
        cells, cluster = cells.merged(cluster), np.arange(cluster.max() + 1)
    every = list(
        estimates.mean_tests(cells, seed) if x is None else estimates.slope_tests(cells, x, cluster, seed)
    )
    for family in site_effects.families or ():
        own, critical = np.zeros_like(starred), 0.0
        for tests in every:
            for each in tests:
                own[each.sites[(family.members & family.own)[each.sites]]] = True
            critical = max(critical, _critical(tests, family))
        if own.any():
            yield family.name, Stars(starred & own, own, critical)


def _critical(tests: Sequence[Tests], family: Family) -> float:
    """The |t| that a test asks of the family's members, by its first draws; 0: it has none of them."""
    nulls = [each.null.sites(family.members[each.sites]) for each in tests]
    nulls = [replace(null, draws=min(DRAWS, null.draws)) for null in nulls if null.observed.size]
    if not nulls:
        return 0.0
    critical = resampling.judged(nulls).critical
    if tests[0].without is not None:
        return critical
    k = len(tests[0].rows)  # of sign flips it is |Σ S| / √Σ S², which goes up to √k
    return float(np.sqrt((k - 1) * critical**2 / (k - critical**2))) if critical**2 < k else np.inf


def without_templates(
    effects: pl.LazyFrame, site_effects: Measured, templates: Mapping[str, str]
) -> Iterator[tuple[str, Array]]:
    """Each template, and t of each site over the examples of all others; none where there are fewer than
    three, or each belongs to one group.
    """
    if not templates:
        return
    ids = effects.select("example_id", "group").unique().collect()
    named = pl.col("example_id").replace_strict(templates, default=None, return_dtype=pl.String)
    of = ids.with_columns(template=named)
    groups = of.drop_nulls("template").group_by("template").agg(pl.col("group").n_unique()).sort("template")
    if groups.height < 3 or groups["group"].max() == 1:
        return
    finite = effects.filter(pl.col("effect").is_finite()).with_columns(measured=True)
    for template in groups["template"]:
        rest = of.filter(pl.col("template").ne_missing(pl.lit(template)))["example_id"]
        rows = finite.filter(pl.col("example_id").is_in(rest.implode()))
        part = site_cells(rows, site_effects.sites, site_effects.groups)
        cells, cluster, x = replace(site_effects, cells=part).over(site_effects.statistic)
        yield template, drawn(cells, cluster, x, np.ones((1, int(cluster.max()) + 1)))[0]


def split(cells: Cells, cluster: NDArray[np.intp], x: Array | None, seed: int) -> Iterator[Quantity]:
    """What one half of the clusters repeats of the other."""
    k, m = int(cluster.max()) + 1, cells.n.shape[1]
    rho, share = np.full(SPLITS, np.nan), np.full(SPLITS, np.nan)
    if k >= MIN_SPLIT and m > 2:
        rng = np.random.default_rng((seed, _SPLIT))
        half = rng.permuted(np.tile(np.arange(k) < k // 2, (SPLITS, 1)), axis=1)[:, cluster].astype(float)
        first, second = (weighted(cells, w, x) for w in (half, 1 - half))
        rho, share = spearman(first, second), shared_top(first, second)
    for quantity, values, of in (("split_spearman", rho, "rho"), ("split_top10", share, "share")):
        known = values[np.isfinite(values)]
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95]).tolist() if known.size else (None,) * 3
        yield Quantity(quantity, of, SPLITS, middle, low, high)
    yield Quantity("split_top10_chance", "share", m, TOP / m if m > TOP else None)


def weighted(cells: Cells, w: Array, x: Array | None) -> Array:
    """The statistic of each site when each group counts w times, `draw site`: slope on x, or mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if x is None:
            return (w @ cells.total) / (w @ cells.n)
        here, y = (cells.n > 0).astype(float), np.nan_to_num(cells.means())
        size, sx, sy = w @ here, w @ (here * x[:, None]), w @ y
        sxy, sxx = w @ (y * x[:, None]), w @ (here * x[:, None] ** 2)
        return (sxy - sx * sy / size) / (sxx - sx**2 / size)


def spearman(first: Array, second: Array) -> Array:
    """Spearman's ρ of each row; NaN where a row has fewer than 3 sites or does not vary."""
    rho = np.full(len(first), np.nan)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
            rho[i] = np.corrcoef(rankdata(a[both]), rankdata(b[both]))[0, 1]
    return rho


def shared_top(first: Array, second: Array) -> Array:
    """The share of the 10 largest |values| that each two rows have in common; NaN up to 10 sites."""
    if first.shape[1] <= TOP:
        return np.full(len(first), np.nan)
    top_first, top_second = (
        np.argsort(-np.nan_to_num(np.abs(v)), axis=1, kind="stable")[:, :TOP] for v in (first, second)
    )
    return np.array(
        [len(set(a) & set(b)) / TOP for a, b in zip(top_first.tolist(), top_second.tolist(), strict=True)]
    )
