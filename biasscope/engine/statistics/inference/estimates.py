"""The statistics of per-example values: estimate, interval and p per site, and what a star is about.

Every function takes the values of one metric as `Cells` and returns columns over the same sites, NaN where a
number does not exist.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, skew

from biasscope.engine.schemas import LEVEL
from biasscope.engine.statistics.cells import Cells, Family, alike, numbered, ratio, standard
from biasscope.engine.statistics.inference import resampling, slopes
from biasscope.engine.statistics.inference.resampling import FEW, MIN_CLUSTERS, Array, Means, Null

FLAT = 1e-20
"""A sum of squares below this share of its own size is rounding, not spread."""
Columns = dict[str, Array]
NUMBERS = ("n", "clusters", "estimate", "ci_low", "ci_high", "p", "p_family", "q", "carried_by", "caution")
"""The columns of every statistic, as in SUMMARY; carried_by is the row of the cells, caution a code."""
UNEQUAL, SKEWED = 1.0, 2.0
CAUTIONS = {UNEQUAL: "unequal groups", SKEWED: "skewed values"}
"""Codes of the column `caution`."""
EVEN, SKEW = 0.6, 2.0
"""Marked: n² / Σ n² below EVEN · k, or |skew| of the clusters above SKEW (docs/method.md)."""
RECOVERED = ("recovered", "recovered_low", "recovered_high")


@dataclass(frozen=True)
class Tests:
    """What is tested of some sites: their numbers, the test, and their t without each cluster."""

    sites: NDArray[np.intp]
    null: Null
    without: Callable[[NDArray[np.bool_]], Array] | None
    """t of the sites of a mask, `cluster site`."""
    rows: NDArray[np.intp]
    """The row of `cells` (a cluster, or its first group) of each cluster of `without`."""


def mean_tests(cells: Cells, seed: int) -> Iterator[list[Tests]]:
    """The tests of "the mean is 0": the studentised bootstrap and, below 20 clusters, also sign flips."""
    spread = varying(cells, slope=False)
    drawn, flipped = [], []
    for rows, sites in alike(cells, MIN_CLUSTERS):
        sites = sites[spread[sites]]
        if not sites.size:
            continue
        means = Means(cells.total[np.ix_(rows, sites)], cells.n[np.ix_(rows, sites)])
        drawn.append(Tests(sites, means.null(seed), means.without, rows))
        if len(rows) < FEW:
            flipped.append(Tests(sites, resampling.flip_null(means.total, seed), None, rows))
    yield from (tests for tests in (drawn, *([t] for t in flipped)) if tests)


def slope_tests(cells: Cells, x: Array, cluster: NDArray[np.intp], seed: int) -> Iterator[list[Tests]]:
    """The test of "no slope": permutations of x against HC3 |t|."""
    z, y = standard(x), cells.means()
    every, tests = slopes.orders(z, cluster, seed), []
    for rows, sites in alike(cells, at_least=2):
        labels, part = numbered(cluster[rows]), y[np.ix_(rows, sites)]
        varied = _spread(part - part.mean(0), part)
        if np.ptp(z[rows]) == 0 or labels.max() + 1 < MIN_CLUSTERS or not varied.any():
            continue
        here = np.isin(np.arange(len(z)), rows)
        part, line = part[:, varied], slopes.line(z[rows], labels)
        null = slopes.null(z[rows], part, labels, (every, here))
        without = partial(_without, line, part)
        tests.append(Tests(sites[varied], null, without, rows[np.unique(labels, return_index=True)[1]]))
    yield from [tests] if tests else []


def _without(line: slopes.Line, y: Array, sites: NDArray[np.bool_]) -> Array:
    return line.without(y[:, sites])


def _spread(residual: Array, values: Array) -> NDArray[np.bool_]:
    """The sites whose values vary by more than rounding."""
    return np.asarray((residual**2).sum(0) > FLAT * (values**2).sum(0))


def varying(cells: Cells, slope: bool) -> NDArray[np.bool_]:
    """The sites that can be tested: their clusters differ by more than rounding."""
    if slope:
        y = cells.means()
        return _spread(np.nan_to_num(y - np.nanmean(y, 0)), np.nan_to_num(y))
    return _spread(cells.total - np.nan_to_num(ratio(cells.total, cells.n)) * cells.n, cells.total)


def judge(table: dict[str, Array], tests: Sequence[Tests], families: Sequence[Family]) -> None:
    """Fill in p, p_family and who carries a finding, the larger p of several tests; p of others alone."""
    for family in families:
        parts = [
            (each, (family.members & family.own)[each.sites], (family.members & ~family.own)[each.sites])
            for each in tests
        ]
        nulls = [(each, own) for each, own, _ in parts if own.any()]
        if not nulls:
            continue
        judged = resampling.judged(
            [each.null.sites(own) for each, own in nulls],
            [each.null.sites(rest) for each, _, rest in parts if rest.any()],
        )
        sites = np.concatenate([each.sites[own] for each, own in nulls])
        table["p"][sites] = np.fmax(table["p"][sites], judged.p)
        table["p_family"][sites] = np.fmax(table["p_family"][sites], judged.p_family)
        for each, own in nulls:
            _carried(table, each, own, judged.critical)
    alone = ~np.any([np.zeros(len(table["p"]), bool), *(family.members for family in families)], axis=0)
    for each in tests:
        here = alone[each.sites]
        if here.any():
            sites, judged = each.sites[here], resampling.judged([each.null.sites(here)])
            table["p"][sites] = np.fmax(table["p"][sites], judged.p)


def _carried(table: dict[str, Array], tests: Tests, own: NDArray[np.bool_], critical: float) -> None:
    """Note the group without which a site that passes would not."""
    passing = own & (table["p_family"][tests.sites] < LEVEL)
    if tests.without is None or not passing.any():
        return
    sites = tests.sites[passing]
    t = np.sign(table["estimate"][sites]) * tests.without(passing)
    weakest = t.argmin(0)
    table["carried_by"][sites] = np.where(t.min(0) < critical, tests.rows[weakest], np.nan)


def mean(cells: Cells, seed: int, families: Sequence[Family] | None = ()) -> Columns:
    """The mean over examples, its interval from whole clusters, and p, unless families is None."""
    table = _empty(cells)
    table["estimate"] = ratio(cells.total, cells.n)
    residual = cells.total - np.nan_to_num(table["estimate"]) * cells.n
    with np.errstate(divide="ignore", invalid="ignore"):
        even = cells.n.sum(0) ** 2 / (cells.n**2).sum(0) / table["clusters"]
    for rows, sites in alike(cells, MIN_CLUSTERS):
        part = np.ix_(rows, sites)
        table["ci_low"][sites], table["ci_high"][sites] = resampling.mean_interval(
            cells.total[part], cells.n[part], seed
        )
        table["caution"][sites] = caution(residual[part], even[sites])
    return table if families is None else _judged(table, mean_tests(cells, seed), families)


def rms(cells: Cells, seed: int) -> Columns:
    """√(mean square over examples), its interval that of the mean square. Never negative, it has no p."""
    square = mean(replace(cells, total=cells.square), seed, None)
    return square | {name: np.sqrt(np.maximum(square[name], 0)) for name in ("estimate", "ci_low", "ci_high")}


def slopes_on(x: Array, cells: Cells) -> Array:
    """The slope of the group means at each site on x, per standard deviation of x over all groups."""
    z, y, estimate = standard(x), cells.means(), np.full(cells.n.shape[1], np.nan)
    for rows, sites in alike(cells, at_least=2):
        # groups that happen to share one x have no slope
        if np.ptp(z[rows]) > 0:
            estimate[sites] = slopes.line(z[rows]).slope(y[np.ix_(rows, sites)])
    return estimate


def slope(
    cells: Cells, x: Array, cluster: NDArray[np.intp], seed: int, families: Sequence[Family] | None = ()
) -> Columns:
    """The slope of the group means on x, per standard deviation of x; p by permutation (see `slope_tests`).

    x is standardised once (ddof = 0), over all groups, so that every site has the same unit. `cluster`
    numbers the cluster of each group: groups of one cluster are drawn and permuted together.
    """
    z, y = standard(x), cells.means()
    table = _empty(cells.merged(cluster)) | {"n": cells.n.sum(0), "estimate": slopes_on(x, cells)}
    for rows, sites in alike(cells, MIN_CLUSTERS):
        here, part, labels = z[rows], y[np.ix_(rows, sites)], numbered(cluster[rows])
        if np.ptp(here) > 0 and labels.max() + 1 >= MIN_CLUSTERS:
            table["ci_low"][sites], table["ci_high"][sites] = slopes.line(here, labels).interval(part, seed)
            residual = part - np.outer(here, table["estimate"][sites])
            table["caution"][sites] = caution(residual, np.ones(len(sites)))
    return table if families is None else _judged(table, slope_tests(cells, x, cluster, seed), families)


def _judged(table: Columns, tests: Iterator[list[Tests]], families: Sequence[Family]) -> Columns:
    """The columns with p and q, and nobody carrying what does not pass."""
    for each in tests:
        judge(table, each, families)
    table["carried_by"][~(table["p_family"] < LEVEL)] = np.nan
    return table | {"q": resampling.screened(np.where(np.isnan(table["p_family"]), np.nan, table["p"]))}


def named(columns: Columns, groups: NDArray[np.intp]) -> Columns:
    """The columns with `carried_by` as the number of a group, given the group of each row of the cells."""
    carried = columns["carried_by"]
    known = np.isfinite(carried)
    return columns | {"carried_by": np.where(known, groups[np.where(known, carried, 0).astype(int)], np.nan)}


def caution(residual: Array, even: Array) -> Array:
    """Why an interval is less sure than it says, as a code; NaN where it is not."""
    with warnings.catch_warnings():
        # of values that are all alike scipy says so; they have no interval either
        warnings.simplefilter("ignore", RuntimeWarning)
        skewed = np.abs(skew(residual, axis=0)) > SKEW
    return np.where(even < EVEN, UNEQUAL, np.where(skewed, SKEWED, np.nan))


def recovered(cells: Cells, total: int, x: Array | None, cluster: NDArray[np.intp], seed: int) -> Columns:
    """Effect / total effect of the same statistic, per site, with its interval; `total`: the total's site.

    NaN where a site lacks examples that the total has. `x`: slopes of the group means on it; None: means over
    examples.
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
    """Pearson's r, or Spearman's, of the cluster means with x, for one site in all clusters; BCa interval."""
    y = cells.means()[:, 0]
    table = _empty(cells)
    table["estimate"][:] = association(x, y, ranks=ranks) if len(y) > 1 else np.nan
    if len(y) >= MIN_CLUSTERS and np.isfinite(table["estimate"][0]):
        # A draw of one repeated cluster has no r; it counts as 0 and does not void the other draws.
        interval = resampling.bca_interval(
            (x, y), lambda a, b, axis: np.nan_to_num(association(a, b, axis, ranks=ranks)), seed
        )
        table["ci_low"][:], table["ci_high"][:] = interval
        a, b = (rankdata(x), rankdata(y)) if ranks else (x, y)
        line = Cells(np.ones_like(cells.n), b[:, None], b[:, None] ** 2)
        for tests in slope_tests(line, a, np.arange(len(a)), seed):
            judge(table, tests, ())
    return table


def association(x: Array, y: Array, axis: int = -1, *, ranks: bool) -> Array:
    """The correlation along an axis; NaN where one side does not vary."""
    a, b = (rankdata(x, axis=axis), rankdata(y, axis=axis)) if ranks else (x, y)
    c, d = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
    x_square, y_square = (c * c).sum(axis), (d * d).sum(axis)
    varies = (x_square > FLAT * (a * a).sum(axis)) & (y_square > FLAT * (b * b).sum(axis))
    return np.divide(
        (c * d).sum(axis), np.sqrt(x_square * y_square), out=np.full(np.shape(x_square), np.nan), where=varies
    )


def published(lms: Cells, ss: Cells, seed: int) -> dict[str, Columns]:
    """LMS, SS and ICAT in per cent, without p; an interval ends at 0 and 100."""
    scores = {"lms": mean(lms, seed, None), "ss": mean(ss, seed, None), "icat": _icats(lms, ss, seed)}
    return {
        name: columns | {end: np.clip(columns[end], 0, 100) for end in ("ci_low", "ci_high")}
        for name, columns in scores.items()
    }


def _icats(lms: Cells, ss: Cells, seed: int) -> Columns:
    """ICAT = LMS · min(SS, 100 − SS) / 50 per site; BCa interval over whole clusters, no p."""
    table = _empty(lms)
    table["estimate"] = icat(ratio(lms.total, lms.n), ratio(ss.total, ss.n))
    for site in np.flatnonzero(table["clusters"] >= MIN_CLUSTERS):
        rows = lms.n[:, site] > 0
        columns = tuple(array[rows, site] for array in (lms.total, ss.total, lms.n))
        interval = resampling.bca_interval(
            columns, lambda a, b, n, axis: icat(ratio(a, n, axis), ratio(b, n, axis)), seed
        )
        table["ci_low"][site], table["ci_high"][site] = interval
    return table


def icat(lms: Array, ss: Array) -> Array:
    """ICAT of LMS and SS, all in per cent."""
    return lms * np.minimum(ss, 100 - ss) / 50


def _empty(cells: Cells) -> Columns:
    """All columns, with n and the number of clusters filled in."""
    table = {name: np.full(cells.n.shape[1], np.nan) for name in NUMBERS}
    return table | {"n": cells.n.sum(0), "clusters": (cells.n > 0).sum(0).astype(float)}
