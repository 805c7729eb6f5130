"""What a run's own data say of its tests: how often a star would be false, and what would be found.

200 studies of each kind are simulated from the residuals of the run's groups, for all members of the family
at once: with random signs, which keeps variances and the correlation of sites and makes errors symmetric;
with groups drawn again, which keeps their skew too: the hard one; and normal ones with the same covariance of
sites, for power. Each is tested as the run was, with fewer draws.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from biasscope.engine.schemas import LEVEL
from biasscope.engine.statistics.cells import standard
from biasscope.engine.statistics.inference import resampling, slopes
from biasscope.engine.statistics.inference.resampling import FEW, Array, Means, critical

STUDIES = 200
DRAWS = 999
POWER = 0.8
_AUDIT = 6


@dataclass(frozen=True)
class Audit:
    """What 200 studies like the run say, and the smallest effects found with power 0.8 (infinite: none)."""

    symmetric: float
    """Share of studies with random signs in which a star appears."""
    resampled: float
    """Share of studies with groups drawn again in which a star appears."""
    alone: Array
    """Per site: the effect found at that site alone (p below the level)."""
    family: Array
    """Per site: the effect that gets a star among all of the family."""
    studies: int
    """How many of each kind were simulated."""


@dataclass(frozen=True)
class Study:
    """The statistic of every site in a simulated study, and its rest without each cluster, `cluster site`."""

    estimate: Array
    error: Array
    critical: float
    """The |t| that is rare enough among all sites."""
    rest: tuple[Array, Array]
    """Estimate and error without each cluster."""
    least: float = 0.0
    """The |t| that sign flips ask for as well."""

    def passing(self) -> NDArray[np.bool_]:
        """The sites that pass the family-wise test, and pass it without any one cluster."""
        sign = np.sign(self.estimate)
        # a draw of few groups may have no spread; what is not a number does not pass
        with np.errstate(invalid="ignore"):
            held = (sign * self.rest[0] >= self.critical * self.rest[1]).all(0)
        return np.asarray(held & (np.abs(self.estimate) >= max(self.critical, self.least) * self.error))

    def missing(self) -> Array:
        """How far each site's statistic would have to move up, and down, to pass: `2 site`."""
        way = np.array([1.0, -1.0])[:, None]
        whole = max(self.critical, self.least) * self.error - way * self.estimate
        rest = self.critical * self.rest[1] - way[:, :, None] * self.rest[0]
        return np.maximum(whole, rest.max(1))


class Kind(StrEnum):
    """How a study without effects is drawn from residuals."""

    SIGNS = "signs"
    AGAIN = "again"
    NORMAL = "normal"


@dataclass(frozen=True)
class SlopeModel:
    """Group means with no slope on x, `group site`."""

    x: Array
    y: Array
    cluster: NDArray[np.intp]
    index: NDArray[np.intp]
    """Orders of the groups, `draw group`."""
    error: Array
    """The standard error of each site, as the run has it."""

    @classmethod
    def of(cls, x: Array, y: Array, cluster: NDArray[np.intp], seed: int) -> "SlopeModel":
        """The residuals of the run: divided by √(1 − leverage), so that their spread is that of errors."""
        z = standard(x)
        index = slopes.orders(np.arange(len(x), dtype=float), cluster, seed, DRAWS).astype(np.intp)
        line = slopes.line(z, cluster)
        residual = y - y.mean(0) - np.outer(z, line.slope(y))
        leverage = line.sums(1 / len(z) + z**2 / len(z))[cluster]
        return cls(z, residual / np.sqrt(1 - leverage)[:, None], cluster, index, line.error(y - y.mean(0)))

    @cached_property
    def line(self) -> slopes.Line:
        """The line through the groups."""
        return slopes.line(self.x, self.cluster)

    @cached_property
    def permuted(self) -> slopes.Permuted:
        """What the permutation test needs of x, in single precision."""
        return slopes.Permuted.of(self.x[self.index].astype(np.float32), self.cluster)

    @cached_property
    def leaving(self) -> slopes.Draws:
        """What leaving out each cluster needs of x; a slope that hangs on one cluster does not come up."""
        return self.line.draws(1.0 - np.eye(self.cluster.max() + 1))[0]

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return int(self.cluster.max()) + 1

    def study(self, rng: np.random.Generator, kind: Kind) -> tuple[Study, "SlopeModel"]:
        """A study without effects, and its data."""
        if kind is Kind.AGAIN:
            rows = _drawn_again(rng, self.cluster)
            data = replace(self, x=standard(self.x[rows]), y=self.y[rows])
        else:
            data = replace(self, y=_turned(rng, self.y, self.cluster, kind))
            data.__dict__.update(permuted=self.permuted, leaving=self.leaving, line=self.line)
        centred = data.y - data.y.mean(0)
        most = np.sort(data.permuted.t(centred.astype(np.float32)).max(1))
        slope = data.line.slope(centred)
        shift, variance = data.leaving.deviations(data.line, centred - np.outer(data.x, slope))
        rest = (slope + shift, np.sqrt(variance))
        return Study(slope, data.line.error(centred), critical(most), rest), data

    def sure(self, sites: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of these sites have an interval without 0."""
        low, high = self.line.interval(self.y[:, sites], 0, DRAWS)
        return (low > 0) | (high < 0)

    def draws(self) -> Array:
        """|t*| of the run's own test, `draw site`."""
        return self.permuted.t((self.y - self.y.mean(0)).astype(np.float32))


@dataclass(frozen=True)
class MeanModel:
    """Cluster sums whose mean is 0, `cluster site`, and numbers of examples."""

    total: Array
    n: Array
    w: Array
    signs: Array
    error: Array
    """The standard error of each site, as the run has it."""

    @classmethod
    def of(cls, total: Array, n: Array, seed: int) -> "MeanModel":
        """The residuals of the run, times √(k / (k − 1)), so that their spread is that of errors."""
        k = len(total)
        signs = resampling.signs(k, seed)[:DRAWS] if k < FEW else np.empty((0, k))
        residual = Means(total, n).residual * np.sqrt(k / (k - 1))
        return cls(residual, n, resampling.weights(k, seed, DRAWS), signs, resampling.mean_error(total, n))

    @cached_property
    def means(self) -> Means:
        """The ratios."""
        return Means(self.total, self.n)

    @property
    def variance(self) -> Array:
        """The squared standard error of each site's mean."""
        return resampling.mean_error(self.total, self.n) ** 2

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return len(self.total)

    def study(self, rng: np.random.Generator, kind: Kind) -> tuple[Study, "MeanModel"]:
        """A study without effects, and its data."""
        k = len(self.total)
        rows = rng.integers(0, k, k) if kind is Kind.AGAIN else np.arange(k)
        total = self.total[rows] if kind is Kind.AGAIN else _turned(rng, self.total, rows, kind)
        data = replace(self, total=total, n=self.n[rows])
        variance = data.variance
        most = np.sort(np.abs(resampling.ratio(*data.means.single(self.w), variance)).max(1))
        shift, squared = data.means.deviations(1.0 - np.eye(k), slice(None))
        estimate = data.means.estimate
        rest = (estimate + shift, np.sqrt(np.maximum(squared, 0)))
        return Study(estimate, np.sqrt(variance), critical(most), rest, data._flips()), data

    def _flips(self) -> float:
        """The |t| that belongs to the critical value of the sign flips; infinite where they reach none."""
        if not len(self.signs):
            return 0.0
        unit = self.total / np.maximum(np.sqrt((self.total**2).sum(0)), np.finfo(float).tiny)
        u = critical(np.sort(np.abs(self.signs @ unit).max(1)), 0)
        k = len(self.total)
        return float(np.sqrt((k - 1) * u**2 / (k - u**2))) if u**2 < k else np.inf

    def sure(self, sites: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of these sites have an interval without 0."""
        chosen = Means(self.total[:, sites], self.n[:, sites])
        low, high = resampling.studentised(
            chosen.estimate, self.variance[sites], lambda part: chosen.deviations(self.w, part)
        )
        return (low > 0) | (high < 0)

    def draws(self) -> Array:
        """|t*| of the run's own test, `draw site`."""
        return np.abs(resampling.ratio(*self.means.single(self.w), self.variance))


Model = SlopeModel | MeanModel
"""A run's data from which studies without effects can be drawn."""


def audit(model: Model, seed: int) -> Audit:
    """Simulate the studies, on all cores, each with draws of its own: any number of cores gives the same.

    An effect is found where it moves a site of a normal study over what is asked there, once that study has
    the run's own standard error: variances that are uneven make it larger. It grows with the run's own
    critical value where that is higher than the normal one, as it is for skewed effects.
    """
    t = model.draws()
    own = np.quantile(t, 1 - LEVEL, axis=0, method="higher").astype(float)
    most = critical(np.sort(t.max(1)))

    def simulated(job: tuple[Kind, int]) -> tuple[bool, float, Array, Array]:
        kind, number = job
        study, data = model.study(np.random.default_rng((seed, _AUDIT, list(Kind).index(kind), number)), kind)
        if kind is Kind.NORMAL:
            alone = own * study.error + np.outer([-1.0, 1.0], study.estimate)
            return False, study.critical, study.error, np.stack([alone, study.missing()])
        passing = study.passing()
        return bool(passing.any() and data.sure(passing).any()), study.critical, study.error, np.empty(0)

    # one study a core: threads inside products of this size wait for each other more than they work
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        studies = list(pool.map(simulated, [(kind, number) for kind in Kind for number in range(STUDIES)]))
    signs, again, normal = (studies[i : i + STUDIES] for i in range(0, 3 * STUDIES, STUDIES))
    symmetric, resampled = (float(np.mean([alarm for alarm, *_ in part])) for part in (signs, again))
    needed = np.concatenate([part for *_, part in normal], axis=1)
    error = np.median([error for *_, error, _ in normal], axis=0)
    known = (error > 0) & np.isfinite(model.error)
    uneven = np.divide(model.error, error, out=np.ones_like(error), where=known)
    alone, family = np.quantile(needed, POWER, axis=1, method="higher") * uneven
    usual = float(np.median([threshold for _, threshold, *_ in normal]))
    # with few groups the run's own critical value is too uncertain to go by
    harder = max(1.0, most / usual) if model.clusters >= FEW and np.isfinite(usual) else 1.0
    return Audit(symmetric, resampled, alone, family * harder, STUDIES)


def _turned(rng: np.random.Generator, residual: Array, cluster: NDArray[np.intp], kind: Kind) -> Array:
    """Residuals with one random sign a cluster, or normal ones with the same covariance of sites."""
    if kind is Kind.SIGNS:
        return residual * (1.0 - 2.0 * rng.integers(0, 2, cluster.max() + 1))[cluster][:, None]
    return rng.normal(size=(len(residual), len(residual))) @ residual / np.sqrt(len(residual))


def _drawn_again(rng: np.random.Generator, cluster: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of as many clusters, drawn with replacement among those of their size and put in their places."""
    rows, sizes = np.empty(len(cluster), np.intp), np.bincount(cluster)
    for size in np.unique(sizes):
        members = np.stack([np.flatnonzero(cluster == c) for c in np.flatnonzero(sizes == size)])
        rows[members] = members[rng.integers(0, len(members), len(members))]
    return rows
