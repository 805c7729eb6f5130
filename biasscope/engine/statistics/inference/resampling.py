"""Intervals and p values by resampling whole clusters, for all sites at once: arrays `cluster site`.

A draw is one row of a matrix over clusters, shared by every site, so that a maximum over sites is a maximum
within a draw.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap, false_discovery_control

from biasscope.engine.schemas import LEVEL

Array = NDArray[np.float64]

MIN_CLUSTERS = 6
"""Below this, clusters are too few for any statement about other clusters."""
FEW = 20
"""Below this many clusters a mean must also pass the sign flips, which are exact for symmetric effects."""
DRAWS = 20_000
"""Bootstrap draws of clusters, sign patterns and permutations alike."""
BCA = 2_000
"""Draws of an interval whose statistic is computed anew in each."""
ENUMERATED = 14
"""Up to this many clusters all sign patterns are counted, so that p is exact."""
_BOOTSTRAP, _FLIP = 1, 2
_CELLS = 1_000_000
"""Largest `draw site` product held at once (8 MB): memory grows with neither sites nor draws."""
_TIE = 1e-9
"""Equal statistics that rounding has parted still count as equal."""


def weights(clusters: int, seed: int, draws: int | None = None) -> Array:
    """How often each bootstrap draw takes each cluster, `draw cluster`: with replacement, rows sum to k."""
    count = draws or DRAWS
    # counted in one go: as the multinomial draws that this is, it takes eight times as long
    taken = np.random.default_rng((seed, _BOOTSTRAP)).integers(0, clusters, (count, clusters))
    cells = taken + clusters * np.arange(count)[:, None]
    return np.bincount(cells.ravel(), minlength=count * clusters).reshape(count, clusters).astype(float)


@dataclass(frozen=True)
class Null:
    """What a test compares: |t| of each site, and |t*| of each site in draws in which there is nothing."""

    observed: Array
    drawn: Callable[[slice], Array]
    """`draw site` of a slice of the draws."""
    draws: int
    exact: bool = False
    """Whether the draws are all there are, the observed arrangement among them."""

    def sites(self, columns: NDArray[np.bool_]) -> "Null":
        """The same draws at some of the sites."""
        return Null(self.observed[columns], lambda rows: self.drawn(rows)[:, columns], self.draws, self.exact)


@dataclass(frozen=True)
class Judged:
    """p of each site alone and within its family, and the |t| from which on p_family is below the level."""

    p: Array
    p_family: Array
    critical: float


def judged(nulls: Sequence[Null], beside: Sequence[Null] = ()) -> Judged:
    """p and single-step p_family of the sites of all nulls, one family; those `beside` are not tested.

    p_family compares each |t| with the largest |t*| of the whole family within a draw. A drawn (not
    enumerated) set counts the observed arrangement as one more draw, so that p is never 0.
    """
    observed = np.concatenate([null.observed for null in nulls])
    draws, extra = nulls[0].draws, 0 if nulls[0].exact else 1
    reached, largest = np.zeros(observed.size), []
    for rows in _slices(draws, sum(null.observed.size for null in [*nulls, *beside])):
        drawn = np.hstack([null.drawn(rows) for null in nulls])
        reached += (drawn >= observed * (1 - _TIE)).sum(0)
        largest.append(np.max([drawn.max(1), *(null.drawn(rows).max(1) for null in beside)], axis=0))
    top = np.sort(np.concatenate(largest))
    above = draws - np.searchsorted(top, observed * (1 - _TIE))
    return Judged(
        (extra + reached) / (extra + draws), (extra + above) / (extra + draws), critical(top, extra)
    )


def critical(top: Array, extra: int = 1) -> float:
    """The smallest |t| with p_family below the level, given the sorted maxima of draws; infinite if none."""
    most = int(np.ceil(LEVEL * (extra + len(top)))) - 1 - extra
    return float(top[len(top) - most - 1]) * (1 + 2 * _TIE) if most >= 0 else np.inf


def mean_error(total: Array, n: Array) -> Array:
    """The standard error of Σ total / Σ n per site: √(k/(k−1) · Σ (total − θ n)²) / |Σ n|; 0: no spread."""
    k, residual = len(total), total - total.sum(0) / n.sum(0) * n
    flat = (residual**2).sum(0) <= 1e-20 * (total**2).sum(0)
    return np.where(flat, 0.0, np.sqrt(k / (k - 1) * (residual**2).sum(0)) / np.abs(n.sum(0)))


@dataclass(frozen=True)
class Means:
    """Ratios Σ total / Σ n over clusters, ready to be drawn again with the linearised error of each draw.

    `n` may be any other sum over the same clusters (for `recovered`).
    """

    total: Array
    n: Array

    @property
    def estimate(self) -> Array:
        """The ratio of each site."""
        return np.asarray(self.total.sum(0) / self.n.sum(0))

    @property
    def residual(self) -> Array:
        """A cluster's total less the ratio's share: drawn instead of values, so that no large sums cancel."""
        return self.total - self.estimate * self.n

    def deviations(self, w: Array, sites: slice | NDArray[np.bool_]) -> tuple[Array, Array]:
        """Each draw's ratio less the estimate, and its squared error, `draw site`; w: `draw cluster`."""
        e, m = self.residual[:, sites], self.n[:, sites]
        size, k = w @ m, w.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = (w @ e) / size
            spread = w @ (e * e) - 2 * shift * (w @ (e * m)) + shift**2 * (w @ (m * m))
            return shift, k / (k - 1) * spread / size**2

    def single(self, w: Array) -> tuple[Array, Array]:
        """`deviations` of all sites in single precision, and quicker where all sites have the same n."""
        e, v = self.residual.astype(np.float32), w.astype(np.float32)
        if (self.n != self.n[:, :1]).any():
            return self.deviations(w, slice(None))
        m, k = self.n[:, :1].astype(np.float32), np.float32(len(self.n))
        size = v @ m
        shift = (v @ e) / size
        spread = v @ (e * e) - 2 * shift * ((v * m[:, 0]) @ e) + shift * shift * (v @ (m * m))
        return shift, k / (k - 1) * spread / size**2

    def null(self, seed: int) -> Null:
        """The studentised cluster bootstrap of "the mean is 0": |θ| / SE against |θ* − θ| / SE*."""
        w, variance = weights(len(self.total), seed), mean_error(self.total, self.n) ** 2
        error = np.sqrt(variance)
        observed = np.abs(self.estimate) / np.where(error > 0, error, np.nan)

        def drawn(rows: slice) -> Array:
            return np.abs(ratio(*self.deviations(w[rows], slice(None)), variance))

        return Null(observed, drawn, len(w))

    def without(self, sites: NDArray[np.bool_]) -> Array:
        """t of each of these sites with each cluster left out in turn, `cluster site`."""
        w = 1.0 - np.eye(len(self.total))
        shift, variance = self.deviations(w, sites)
        return (self.estimate[sites] + shift) / np.sqrt(variance)


def mean_interval(total: Array, n: Array, seed: int, *, symmetric: bool = False) -> tuple[Array, Array]:
    """The 95 % bootstrap-t interval of Σ total / Σ n per site; NaN where there is no spread between clusters.

    `symmetric`: from |t*|; with a denominator that varies as much as its mean, equal tails covered 88 % at k
    = 10 and 85 % at k = 36 where it varies twice as much, symmetric ones 96 %.
    """
    means, w = Means(total, n), weights(len(total), seed)
    part = lambda sites: means.deviations(w, sites)  # noqa: E731
    return studentised(means.estimate, mean_error(total, n) ** 2, part, symmetric=symmetric)


def ratio(shift: Array, drawn: Array, variance: Array) -> Array:
    """t* = shift / SE*; a draw without spread has an infinite t, not the one that rounding leaves it."""
    flat = drawn <= 1e-10 * variance
    return np.where(flat, np.copysign(np.inf, shift), shift / np.sqrt(np.where(flat, 1.0, drawn)))


def studentised(
    estimate: Array, variance: Array, part: Callable[[slice], tuple[Array, Array]], *, symmetric: bool = False
) -> tuple[Array, Array]:
    """The interval estimate − t* · SE, with t* from the draws; NaN unless both ends are finite."""
    low, high = np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    for sites in _slices(estimate.size, DRAWS):
        t = ratio(*part(sites), variance[sites])
        t = np.abs(t) if symmetric else t
        tail = int((len(t) + 1) * (LEVEL if symmetric else LEVEL / 2))
        t.partition((tail - 1, len(t) - tail), axis=0)
        upper, lower = t[-tail], -t[-tail] if symmetric else t[tail - 1]
        error = np.sqrt(np.where(variance[sites] > 0, variance[sites], np.nan))
        low[sites], high[sites] = estimate[sites] - error * upper, estimate[sites] - error * lower
    missing = ~(np.isfinite(low) & np.isfinite(high))
    low[missing], high[missing] = np.nan, np.nan
    return low, high


def flip_null(total: Array, seed: int) -> Null:
    """Sign flips of "cluster sums are symmetric about 0", |Σ S| / √Σ S²; every column needs a sum not 0."""
    unit, rows = total / np.sqrt((total**2).sum(0)), signs(len(total), seed)
    return Null(
        np.abs(unit.sum(0)), lambda part: np.abs(rows[part] @ unit), len(rows), len(total) <= ENUMERATED
    )


def signs(clusters: int, seed: int) -> Array:
    """Sign patterns, `draw cluster`: up to 14 clusters all, the first sign fixed; else drawn."""
    if clusters > ENUMERATED:
        rng = np.random.default_rng((seed, _FLIP))
        return 1.0 - 2.0 * rng.integers(0, 2, (DRAWS, clusters)).astype(float)
    bits = np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters) & 1
    return 1.0 - 2.0 * bits.astype(float)


def _slices(length: int, width: int) -> Iterator[slice]:
    """Consecutive slices of `length`, each times `width` within the memory bound."""
    step = max(1, _CELLS // max(1, width))
    yield from (slice(start, start + step) for start in range(0, length, step))


def screened(p: Array) -> Array:
    """q: Benjamini–Hochberg over the p that exist, NaN elsewhere."""
    q, known = np.full_like(p, np.nan), np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def bca_interval(
    columns: tuple[Array, ...], statistic: Callable[..., Array], seed: int
) -> tuple[float, float]:
    """The 95 % BCa interval of a statistic of clusters (rows drawn together); NaN where it has none.

    For statistics without a standard error of their own: correlations, ICAT. `statistic` takes `axis`.
    """
    rng = np.random.default_rng((seed, _BOOTSTRAP))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Clusters that are all alike, or all on one line, have no interval; the NaN that comes back says so.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            columns, statistic, n_resamples=BCA, paired=True, vectorized=True, method="BCa", rng=rng
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else (np.nan, np.nan)


def few_clusters_note(clusters: int, noun: str = "term") -> str | None:
    """Why a row has no interval and no p, if so: "only 3 terms: no statement about other terms"."""
    if clusters >= MIN_CLUSTERS:
        return None
    few = noun if clusters == 1 else plural(noun)
    return f"only {clusters} {few}: no statement about other {plural(noun)}"


def plural(noun: str) -> str:
    """Several of what a group is called: "terms", "pairs of words"."""
    first, of, rest = noun.partition(" of ")
    return f"{first}s{of}{rest}"


def listed(names: Sequence[str], most: int, between: str = ", ") -> str:
    """The first of some names, and how many more there are: "a, b and 4 more", "a; b; 4 more"."""
    last = " and " if between == ", " else between
    return between.join(names[:most]) + (f"{last}{len(names) - most} more" if len(names) > most else "")
