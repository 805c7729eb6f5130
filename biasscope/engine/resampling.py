"""Intervals and p values by resampling whole clusters, for all sites at once. Arrays `cluster site`, matrix products, no tables.

A draw is one row of a matrix over clusters, shared by every site, so that a maximum over sites is a maximum within a draw.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap, false_discovery_control

Array = NDArray[np.float64]

MIN_CLUSTERS = 6
"""Below this, clusters are too few for any statement about other clusters."""
DRAWS = 2_000
FLIPS = 20_000
ENUMERATED = 14
"""Up to this many clusters all sign patterns are counted, so that p is exact."""
_BOOTSTRAP, _FLIP, _PERMUTE = 1, 2, 3
_CELLS = 1_000_000
"""Largest `draw site` product held at once (8 MB), so that memory does not grow with the number of sites or draws."""
_TIE = 1e-9
"""Equal statistics that rounding has parted still count as equal."""


def weights(clusters: int, seed: int) -> Array:
    """How often each bootstrap draw takes each cluster, `draw cluster`: drawn with replacement, rows sum to `clusters`."""
    rng = np.random.default_rng((seed, _BOOTSTRAP))
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=DRAWS).astype(float)


def mean_error(total: Array, n: Array) -> Array:
    """The standard error of Σ total / Σ n per site, clusters being the unit: √(k/(k−1) · Σ (total − θ n)²) / |Σ n|; 0 without spread."""
    k, residual = len(total), total - total.sum(0) / n.sum(0) * n
    flat = (residual**2).sum(0) <= 1e-20 * (total**2).sum(0)
    return np.where(flat, 0.0, np.sqrt(k / (k - 1) * (residual**2).sum(0)) / np.abs(n.sum(0)))


def mean_interval(total: Array, n: Array, seed: int, *, symmetric: bool = False) -> tuple[Array, Array]:
    """The 95 % bootstrap-t interval of Σ total / Σ n per site; NaN where there is no spread between clusters.

    The standard error is the linearised one of a ratio, see `mean_error`, anew in every draw. `n` may be any other sum over the
    same clusters: the interval is that of the ratio, and should then be `symmetric` (from |t*|; with a denominator that varies as much
    as its mean, equal tails covered 88 % at k = 10 and 85 % at k = 36 where it varies twice as much, symmetric ones 96 %).
    """
    k = len(total)
    w = weights(k, seed)
    theta = total.sum(0) / n.sum(0)
    residual = total - theta * n
    scale = k / (k - 1)

    def part(sites: slice) -> tuple[Array, Array]:
        e, m = residual[:, sites], n[:, sites]
        size = w @ m
        # Residuals are drawn, not values: the shift from θ comes out directly, and no large sums cancel.
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = (w @ e) / size
            spread = w @ (e * e) - 2 * shift * (w @ (e * m)) + shift**2 * (w @ (m * m))
            return shift, scale * spread / size**2

    return studentised(theta, mean_error(total, n) ** 2, part, symmetric=symmetric)


def studentised(
    estimate: Array, variance: Array, part: Callable[[slice], tuple[Array, Array]], *, symmetric: bool = False
) -> tuple[Array, Array]:
    """The interval estimate − t* · SE, with t* from the draws; NaN unless both ends are finite."""
    low, high = np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    for sites in _slices(estimate.size, DRAWS):
        shift, drawn = part(sites)
        # A draw without spread has an infinite t, not the one that rounding leaves it.
        flat = drawn <= 1e-10 * variance[sites]
        t = np.where(flat, np.copysign(np.inf, shift), shift / np.sqrt(np.where(flat, 1.0, drawn)))
        t = np.abs(t) if symmetric else t
        tail = int((len(t) + 1) * (0.05 if symmetric else 0.025))
        t.partition((tail - 1, len(t) - tail), axis=0)
        upper, lower = t[-tail], -t[-tail] if symmetric else t[tail - 1]
        error = np.sqrt(np.where(variance[sites] > 0, variance[sites], np.nan))
        low[sites], high[sites] = estimate[sites] - error * upper, estimate[sites] - error * lower
    missing = ~(np.isfinite(low) & np.isfinite(high))
    low[missing], high[missing] = np.nan, np.nan
    return low, high


def flip_p(total: Array, seed: int) -> tuple[Array, Array]:
    """Two-sided p and p_family of "the cluster sums are symmetric about 0", per site; every column needs a non-zero sum.

    p_family compares with the largest |Σ S| / √Σ S² over the sites of the same sign pattern.
    """
    unit = total / np.sqrt((total**2).sum(0))
    exact = len(total) <= ENUMERATED
    return _against_draws(np.abs(unit.sum(0)), lambda rows: np.abs(rows @ unit), _signs(len(total), seed), exact)


def _signs(clusters: int, seed: int) -> Array:
    """Sign patterns, `draw cluster`: all of them up to 14 clusters (the first sign fixed: |Σ S| has no sign), else 20,000 drawn."""
    if clusters > ENUMERATED:
        rng = np.random.default_rng((seed, _FLIP))
        return 1.0 - 2.0 * rng.integers(0, 2, (FLIPS, clusters)).astype(float)
    bits = np.arange(2 ** (clusters - 1))[:, None] >> np.arange(clusters) & 1
    return 1.0 - 2.0 * bits.astype(float)


def permute_p(x: Array, y: Array, seed: int, cluster: NDArray[np.intp] | None = None) -> tuple[Array, Array]:
    """Two-sided p and p_family of "x is unrelated to y", per site, by 20,000 permutations of x among all clusters.

    y is NaN where a site lacks a group; |r| is then taken over the k groups it has. p_family: the largest |r| over the
    sites, times √(k−1), which is the same for all unless some lack groups: else those with the fewest would set the maximum.
    """
    present = np.isfinite(y)
    here, size = present.astype(float), present.sum(0)
    centred = np.where(present, y - np.nansum(y, 0) / size, 0.0)
    unit = centred / np.sqrt((centred**2).sum(0))

    def correlation(rows: Array) -> Array:
        spread = (rows * rows) @ here - (rows @ here) ** 2 / size
        return np.where(spread > _TIE, np.abs(rows @ unit) / np.sqrt(np.maximum(spread, _TIE)), 0.0) * np.sqrt(size - 1)

    rows = _permuted(x, np.arange(len(x)) if cluster is None else cluster, seed)
    return _against_draws(correlation(x[None])[0], correlation, rows, exact=False)


def _permuted(x: Array, cluster: NDArray[np.intp], seed: int) -> Array:
    """Draws of x, `draw group`: the x of whole clusters change places with those of as many groups, and within the cluster."""
    rng = np.random.default_rng((seed, _PERMUTE))
    rows = np.tile(x, (FLIPS, 1))
    sizes = np.bincount(cluster)
    for size in np.unique(sizes):
        members = np.stack([np.flatnonzero(cluster == c) for c in np.flatnonzero(sizes == size)])
        order = rng.permuted(np.tile(np.arange(len(members)), (FLIPS, 1)), axis=1)
        drawn = x[members][order]
        rows[:, members.ravel()] = (rng.permuted(drawn, axis=2) if size > 1 else drawn).reshape(FLIPS, -1)
    return rows


def _against_draws(observed: Array, statistic: Callable[[Array], Array], rows: Array, exact: bool) -> tuple[Array, Array]:
    """p and p_family: the share of draws whose statistic, or whose largest statistic, is at least the observed one.

    A drawn (not enumerated) set counts the observed arrangement as one more draw, so that p is never 0.
    """
    reached, largest = np.zeros(observed.size), []
    for part in _slices(len(rows), observed.size):
        drawn = statistic(rows[part])
        reached += (drawn >= observed - _TIE).sum(0)
        largest.append(drawn.max(1))
    top = np.sort(np.concatenate(largest))
    above = len(top) - np.searchsorted(top, observed - _TIE)
    extra = 0 if exact else 1
    return (extra + reached) / (extra + len(rows)), (extra + above) / (extra + len(rows))


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


def bca_interval(columns: tuple[Array, ...], statistic: Callable[..., Array], seed: int) -> tuple[float, float]:
    """The 95 % BCa interval of a statistic of clusters (rows of all columns drawn together); NaN where it has none.

    For statistics without a standard error of their own: correlations, ICAT. `statistic` takes `axis`.
    """
    rng = np.random.default_rng((seed, _BOOTSTRAP))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Clusters that are all alike, or all on one line, have no interval; the NaN that comes back says so.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(columns, statistic, n_resamples=DRAWS, paired=True, vectorized=True, method="BCa", rng=rng)
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else (np.nan, np.nan)
