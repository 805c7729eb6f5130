"""Racing: the strongest sites of a scan, found by measuring the others on a part of the groups.

The ranking statistic S of the exact effects over all groups is what a full scan gives. S is linear and the
gradient estimates are known for all groups, so S(exact) = S(exact − estimate) + S(estimate), and the first
term alone is uncertain where only some groups are seen. A site is given up once its interval, which holds at
all looks together but for a chance `miss`, ends below the k-th largest of the sites measured whole.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import t as student

from biasscope.engine.schemas import LEVEL
from biasscope.engine.statistics import cells, summary
from biasscope.engine.statistics.cells import Cells, Measured, alike, sites_of, standard
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array
from biasscope.engine.types import Design, Site

METHOD = "raced"
"""The method of SUMMARY rows of sites that were not measured on all groups."""
FIRST, GROWTH = 6, 1.5
"""Groups seen at the first look at all sites, and how many times as many at each later one."""
AHEAD = 2
"""Times k: at most how many sites are measured whole after the first look, to know the k-th largest."""
_DEAL = 31


def looks(groups: int) -> list[int]:
    """How many groups are seen at each look, the last time all; a single look where they are few."""
    seen = [FIRST] if groups >= 2 * FIRST else [groups]
    while seen[-1] < groups:
        seen.append(min(groups, ceil(GROWTH * seen[-1])))
    return seen


def dealt(x: Array, seed: int) -> list[int]:
    """The groups in a seeded order of which each beginning is a fair sample, balanced by their x.

    Groups are cut into strata along x and each takes its turn. NaN: groups of which no slope is, last; all
    NaN: in any order.
    """
    rng = np.random.default_rng((seed, _DEAL))
    known = np.flatnonzero(np.isfinite(x))
    strata = np.array_split(known[np.argsort(x[known], kind="stable")], FIRST)
    turns = itertools.zip_longest(*(rng.permutation(part) for part in strata))
    order = [rng.permutation([group for group in turn if group is not None]) for turn in turns]
    rest = rng.permutation(np.flatnonzero(~np.isfinite(x)))
    return [int(group) for part in [*order, rest] for group in part]


def shares(values: Cells, z: Array | None) -> tuple[Array, Array]:
    """The statistic of each site, and each group's share in its error, `group site`.

    The error is the root of the sum of squared shares: HC3 of a slope on z, the linearised one of a mean
    (None). NaN where fewer than 4 groups are there; 0 for groups that are not.
    """
    estimate, share = np.full(values.n.shape[1], np.nan), np.zeros_like(values.n)
    for rows, sites in alike(values, at_least=4):
        part = values.clusters(np.isin(np.arange(len(values.n)), rows)).sites(
            np.isin(np.arange(len(estimate)), sites)
        )
        if z is None:
            k, size = len(rows), part.n.sum(0)
            estimate[sites] = part.total.sum(0) / size
            residual = part.total - estimate[sites] * part.n
            share[np.ix_(rows, sites)] = np.sqrt(k / (k - 1)) * residual / size
            continue
        d, y = z[rows] - z[rows].mean(), part.means()
        square = (d**2).sum()
        if square <= 0:
            continue
        estimate[sites] = d @ y / square
        residual = y - y.mean(0) - np.outer(d, estimate[sites])
        leverage = 1 / len(d) + d**2 / square
        share[np.ix_(rows, sites)] = (d / square / np.maximum(1 - leverage, 1e-9))[:, None] * residual
    return estimate, share


@dataclass
class Race:
    """Sites that compete for the first k places of a full scan; arrays are over `guess.sites`."""

    guess: Measured
    """The gradient estimates of all sites in all groups."""
    k: int
    miss: float
    """The chance that a site among the k strongest is given up."""
    order: list[int]
    """The groups in the order in which they are measured."""
    racing: NDArray[np.bool_] = field(init=False)
    """Sites that may be among the k strongest and are not measured whole."""
    whole: NDArray[np.bool_] = field(init=False)
    """Sites measured on all groups."""
    estimate: Array = field(init=False)
    half: Array = field(init=False)
    """Half of the interval of what a full scan would give; 0 where all groups were seen."""
    error: Array = field(init=False)
    """The standard error as an estimate of what other groups would give."""
    seen: NDArray[np.intp] = field(init=False)
    """How many groups were seen of each site."""
    examples: NDArray[np.intp] = field(init=False)
    """How many of its examples were measured."""
    guessed: tuple[Array, Array] = field(init=False)
    """`shares` of the estimates over all groups."""
    z: Array | None = None
    """The standardised covariate of each group, NaN where it has none; None: the mean ranks."""
    threshold: float = 0.0
    """The k-th largest size of those measured whole."""
    work: float = 0.0
    """Share of a full scan's measurements that were made."""

    @classmethod
    def of(cls, estimates: pl.DataFrame, design: Design, k: int, miss: float) -> "Race":
        """A race of the sites of these EFFECTS of gradient estimates, none of them measured yet."""
        guess = cells.measured(estimates.lazy(), summary.BIAS[0], design)
        return cls(guess, k, miss, dealt(np.where(guess.graded, guess.x, np.nan), design.seed))

    def __post_init__(self) -> None:
        m, known = self.guess.sites.height, self.guess.graded
        self.racing, self.whole = np.ones(m, bool), np.zeros(m, bool)
        self.estimate, self.half, self.error = np.full((3, m), np.nan)
        self.seen, self.examples = np.zeros((2, m), np.intp)
        if known.any():
            self.z = np.full(len(known), np.nan)
            self.z[known] = standard(self.guess.x[known])
        self.guessed = shares(self._ranked(self.guess.cells), self.z)

    @property
    def looks(self) -> list[int]:
        """How many groups are seen at each look."""
        known = self.guess.graded
        return looks(int(known.sum()) if known.any() else len(known))

    @property
    def unit(self) -> str:
        """The unit of the ranking statistic."""
        return summary.unit(summary.BIAS[0], self.guess.statistic)

    def sites(self, chosen: NDArray[np.bool_]) -> list[Site]:
        """The chosen sites, in the model's order."""
        return sorted(sites_of(self.guess.sites.filter(chosen)))

    def groups(self, first: int, last: int | None = None) -> set[str]:
        """The groups from one place of the order to before another."""
        return {self.guess.groups[group] for group in self.order[first:last]}

    def look(self, exact: pl.DataFrame) -> None:
        """Estimate all sites anew from EFFECTS of what was measured of them so far."""
        rows = exact.lazy().filter(pl.col("effect").is_finite(), metric=summary.BIAS[0])
        every, groups = self.guess.cells, self.guess.groups
        measured = cells.site_cells(rows.with_columns(measured=True), self.guess.sites, groups)
        self.examples, self.work = measured.n.sum(0).astype(int), float(measured.n.sum() / every.n.sum())
        n = np.where(every.n > 0, measured.n, 0.0)
        change = np.nan_to_num(measured.means() - every.means())
        difference, whole = self._ranked(Cells(n, change * n, change**2 * n)), self._ranked(every)
        (base, constant), (beyond, share) = self.guessed, shares(difference, self.z)
        self.seen, self.estimate = (difference.n > 0).sum(0), base + beyond
        self.error = np.sqrt(((share + constant) ** 2).sum(0))
        spread = np.sqrt((share**2).sum(0))
        # no site is taken to be surer than the typical one: few groups may be alike by chance
        known = spread[self.racing & np.isfinite(beyond)]
        floor = np.median(known) if known.size else 0.0
        # a slope is over groups, a mean over examples
        here, all_of = ((c.n > 0 if self.z is not None else c.n).sum(0) for c in (difference, whole))
        left = np.sqrt(1 - here / np.maximum(all_of, here).clip(1))
        wide = self._quantile(self.miss / max(1, len(self.looks) - 1)) * np.maximum(spread, floor)
        self.half = np.where(left > 0, wide * left, 0.0)

    def ahead(self, number: int) -> NDArray[np.bool_]:
        """The racing sites to be measured whole after that look, from 0: the first, then any beyond the k-th
        largest; after the last, all.
        """
        size = np.abs(np.nan_to_num(self.estimate))
        if number == len(self.looks) - 1:
            return self.racing.copy()
        if number:
            return self.racing & (size - self.half > self.threshold)
        first = np.argsort(-size, kind="stable")[: AHEAD * self.k]
        lower = np.sort(np.nan_to_num(size - self.half))[::-1]
        near = size + self.half >= lower[min(self.k, len(lower)) - 1]
        return np.isin(np.arange(len(size)), first) & (near | np.isnan(self.half))

    def settle(self, whole: NDArray[np.bool_]) -> None:
        """Count those sites as measured whole, and give up the sites that cannot be among the first k."""
        self.whole |= whole
        self.racing &= ~whole
        sizes = np.sort(np.abs(np.nan_to_num(self.estimate[self.whole])))[::-1]
        self.threshold = float(sizes[self.k - 1]) if len(sizes) >= self.k else 0.0
        self.racing &= ~(np.abs(self.estimate) + self.half < self.threshold)

    def first(self) -> pl.DataFrame:
        """Layer, component, head, estimate, half and seen of the present first k, the strongest first."""
        order = np.argsort(-np.abs(np.nan_to_num(self.estimate)), kind="stable")[: self.k]
        about = {"estimate": self.estimate, "half": self.half, "seen": self.seen}
        return self.guess.sites.with_columns(**about)[order].select("layer", "component", "head", *about)

    def table(self, chosen: NDArray[np.bool_], labels: Mapping[str, str | None]) -> pl.DataFrame:
        """SUMMARY rows of these sites: the estimate with its interval for other groups, untested; `clusters`
        says how many groups were seen.
        """
        half = np.where(self.seen >= MIN_CLUSTERS, self._quantile(LEVEL) * self.error, np.nan)
        columns = {"estimate": self.estimate, "ci_low": self.estimate - half, "ci_high": self.estimate + half}
        columns |= {"clusters": self.seen.astype(float), "n": self.examples.astype(float)}
        label: dict[str, Any] = {**labels, "method": METHOD, "subset": "all", "metric": summary.BIAS[0]}
        label |= {"statistic": self.guess.statistic, "unit": self.unit}
        rows = summary.table(self.guess.sites, columns, label).filter(chosen)
        return summary.ranked(rows)

    def _quantile(self, level: float) -> Array:
        """The two-sided quantile of t that belongs to the groups seen of each site."""
        free = self.seen - (1 if self.z is None else 2)
        return np.where(free > 0, student.ppf(1 - level / 2, np.maximum(free, 1)), np.nan)

    def _ranked(self, values: Cells) -> Cells:
        """The cells without the groups that the ranking statistic is not over."""
        if self.z is None:
            return values
        known = np.isfinite(self.z)[:, None]
        return Cells(values.n * known, values.total * known, values.square * known)
