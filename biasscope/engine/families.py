"""Which sites a star is about, and how: p of each alone, p_family of the largest of all, and the group that carries a finding."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from biasscope.engine import resampling, slopes
from biasscope.engine.cells import Cells, alike, numbered, ratio, standard
from biasscope.engine.resampling import FEW, MIN_CLUSTERS, Array, Means, Null
from biasscope.engine.schemas import LEVEL

FLAT = 1e-20
"""A sum of squares below this share of its own size is rounding, not spread."""


@dataclass(frozen=True)
class Family:
    """Sites that one star is about; some may only stand in the maximum, because they could have been chosen but were not measured."""

    members: NDArray[np.bool_]
    own: NDArray[np.bool_]
    """Those that are tested."""


@dataclass(frozen=True)
class Tests:
    """What is tested of some sites: their numbers, the test, and what remains of their t without each cluster."""

    sites: NDArray[np.intp]
    null: Null
    without: Callable[[NDArray[np.bool_]], Array] | None
    """t of the sites of a mask, `cluster site`."""
    rows: NDArray[np.intp]
    """The row of `cells` (a cluster, or a group of one) of each cluster of `without`, the first where it has several."""


def mean_tests(cells: Cells, seed: int) -> Iterator[list[Tests]]:
    """The tests of "the mean is 0": the studentised cluster bootstrap, and below 20 clusters sign flips too: the larger p counts."""
    spread = varying(cells, slope=False)
    drawn, flipped = [], []
    for rows, sites in alike(cells, MIN_CLUSTERS):
        sites = sites[spread[sites]]
        if not sites.size:
            continue
        found = Means(cells.total[np.ix_(rows, sites)], cells.n[np.ix_(rows, sites)])
        drawn.append(Tests(sites, found.null(seed), found.without, rows))
        if len(rows) < FEW:
            flipped.append(Tests(sites, resampling.flip_null(found.total, seed), None, rows))
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
    """Fill in p, p_family and who carries a finding, the larger p of several tests; sites of no family are tested alone."""
    for family in families:
        parts = [(each, (family.members & family.own)[each.sites], (family.members & ~family.own)[each.sites]) for each in tests]
        nulls = [(each, own) for each, own, _ in parts if own.any()]
        if not nulls:
            continue
        found = resampling.judged(
            [each.null.sites(own) for each, own in nulls], [each.null.sites(other) for each, _, other in parts if other.any()]
        )
        sites = np.concatenate([each.sites[own] for each, own in nulls])
        table["p"][sites] = np.fmax(table["p"][sites], found.p)
        table["p_family"][sites] = np.fmax(table["p_family"][sites], found.p_family)
        for each, own in nulls:
            _carried(table, each, own, found.critical)
    alone = ~np.any([family.members for family in families], axis=0) if families else np.ones(len(table["p"]), bool)
    for each in tests:
        here = alone[each.sites]
        if here.any():
            table["p"][each.sites[here]] = np.fmax(table["p"][each.sites[here]], resampling.judged([each.null.sites(here)]).p)


def _carried(table: dict[str, Array], tests: Tests, own: NDArray[np.bool_], critical: float) -> None:
    """Note the group without which a site that passes would not."""
    passing = own & (table["p_family"][tests.sites] < LEVEL)
    if tests.without is None or not passing.any():
        return
    sites = tests.sites[passing]
    t = np.sign(table["estimate"][sites]) * tests.without(passing)
    weakest = t.argmin(0)
    table["carried_by"][sites] = np.where(t.min(0) < critical, tests.rows[weakest], np.nan)
