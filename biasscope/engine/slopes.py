"""Least-squares slopes over groups whose clusters may hold several of them: standard error and interval for all sites at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biasscope.engine.resampling import Array, studentised, weights


@dataclass(frozen=True)
class Line:
    """A least-squares line through groups, whose clusters may hold several groups, ready to be drawn again.

    x is taken as it stands (standardised by the caller, once, not anew in every draw). The standard error allows for unequal
    variances and for groups of one cluster that vary together (HC3: residuals divided by 1 − leverage, a cluster's leverage being the
    sum of its groups'; one group a cluster: the usual HC3).
    """

    x: Array
    cluster: NDArray[np.intp]
    """The cluster's number of each group."""
    per: Array
    """The slope is in units of this column's slope: x itself, or the total effect (for `recovered`)."""

    def sums(self, column: Array) -> Array:
        """The sum of a column, `group …`, over the groups of each cluster."""
        found = np.zeros((self.cluster.max() + 1, *column.shape[1:]))
        np.add.at(found, self.cluster, column)
        return found

    def draws(self, w: Array) -> tuple["_Draws", NDArray[np.bool_]]:
        """What draws of clusters with these weights have in common for all sites, and which of the draws can be used."""
        ones, x, xx, t, xt = (self.sums(c) for c in (np.ones_like(self.x), self.x, self.x**2, self.per, self.x * self.per))
        with np.errstate(divide="ignore", invalid="ignore"):
            size = w @ ones
            centre, level = (w @ x) / size, (w @ t) / size
            spread = xx - 2 * np.outer(centre, x) + np.outer(centre**2, ones)
            sxx = (w * spread).sum(1)
            d, q = x - np.outer(centre, ones), xt - np.outer(centre, t)
            unit = (w * q).sum(1)
            leverage = ones / size[:, None] + spread / sxx[:, None]
            a = w / (unit[:, None] * (1 - leverage)) ** 2
        # A draw without two different x has no slope; neither has one whose slope hangs on a single cluster.
        usable = np.isfinite(a).all(1) & (np.where(w > 0, leverage, 0).max(1) < 1 - 1e-9)
        found = _Draws(*(column[usable] for column in (w, size, centre, unit, a, d, q - level[:, None] * d)))
        return found, usable

    def slope(self, y: Array) -> Array:
        """The slope of each column of y, per unit of `per`'s slope."""
        d = self.x - self.x.mean()
        return (d @ y) / (d @ self.per)

    def error(self, y: Array) -> Array:
        """The standard error of the slope of each column of y; 0 without spread, NaN where it hangs on a single cluster."""
        residual = y - np.outer(self.per, self.slope(y))
        residual = residual - residual.mean(0)
        found, usable = self.draws(np.ones((1, self.cluster.max() + 1)))
        if not usable[0]:
            return np.full(y.shape[1], np.nan)
        flat = (residual**2).sum(0) <= 1e-20 * (y**2).sum(0)
        return np.where(flat, 0.0, np.sqrt(found.deviations(self, residual)[1][0]))

    def interval(self, y: Array, seed: int) -> tuple[Array, Array]:
        """The 95 % bootstrap-t interval of the slope of each column of y, whole clusters drawn; NaN where there is no spread.

        It is symmetric, from |t*|: the error of a slope is nearly symmetric whatever the noise, and equal tails covered only 92 %
        under heavy-tailed noise at k = 60 (this one 95.8 %).
        """
        slope = self.slope(y)
        residual = y - np.outer(self.per, slope)
        residual = residual - residual.mean(0)
        found, _ = self.draws(weights(self.cluster.max() + 1, seed))
        part = lambda sites: found.deviations(self, residual[:, sites])  # noqa: E731
        return studentised(slope, self.error(y) ** 2, part, symmetric=True)


@dataclass(frozen=True)
class _Draws:
    """What is the same for all sites in some draws of clusters: `draw` or `draw cluster`."""

    w: Array
    size: Array
    centre: Array
    unit: Array
    a: Array
    d: Array
    q: Array

    def deviations(self, line: Line, e: Array) -> tuple[Array, Array]:
        """How far each draw's slope of the residuals e `group site` is from 0, and its squared standard error, `draw site`."""
        s, xs = line.sums(e), line.sums(line.x[:, None] * e)
        w, a, d, q, c = self.w, self.a, self.d, self.q, self.centre[:, None]
        shift, level = (w @ xs - c * (w @ s)) / self.unit[:, None], (w @ s) / self.size[:, None]
        # Σ a (xs − c s − level d − shift q)², multiplied out so that only products with `cluster site` matrices are needed
        spread = a @ (xs * xs) - 2 * c * (a @ (xs * s)) + c**2 * (a @ (s * s))
        spread -= 2 * level * ((a * d) @ xs - c * ((a * d) @ s)) + 2 * shift * ((a * q) @ xs - c * ((a * q) @ s))
        both = (a * d * d).sum(1, keepdims=True), (a * d * q).sum(1, keepdims=True), (a * q * q).sum(1, keepdims=True)
        spread += level**2 * both[0] + 2 * level * shift * both[1] + shift**2 * both[2]
        return shift, np.maximum(spread, 0.0)


def line(x: Array, cluster: NDArray[np.intp] | None = None, per: Array | None = None) -> Line:
    """The line of groups with these x: each its own cluster, and slopes per unit of x, unless said otherwise."""
    return Line(x, np.arange(len(x)) if cluster is None else cluster, x if per is None else per)
