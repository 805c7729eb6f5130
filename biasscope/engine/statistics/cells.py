"""Counts and sums of per-example values by cluster and site, and sites with the same clusters. No tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biasscope.engine.statistics.resampling import Array


@dataclass(frozen=True)
class Cells:
    """Counts, sums and sums of squares of values, `cluster site`; a cluster may be absent (n = 0)."""

    n: Array
    total: Array
    square: Array

    @classmethod
    def of(
        cls, cluster: NDArray[np.int64], site: NDArray[np.int64], value: Array, shape: tuple[int, int]
    ) -> "Cells":
        """Cells of finite values with a cluster number and a site number each."""
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
        merged = Cells(*(np.zeros((cluster.max() + 1, self.n.shape[1])) for _ in range(3)))
        for sums, values in ((merged.n, self.n), (merged.total, self.total), (merged.square, self.square)):
            np.add.at(sums, cluster, values)
        return merged

    def macro(self) -> "Cells":
        """Cells in which every cluster counts once, with its mean as its one value."""
        means = np.nan_to_num(self.means())
        return Cells((self.n > 0).astype(float), means, means**2)


def ratio(total: Array, n: Array, axis: int = 0) -> Array:
    """Σ total / Σ n, NaN where there is nothing."""
    size = n.sum(axis)
    return np.divide(total.sum(axis), size, out=np.full(np.shape(size), np.nan), where=size > 0)


def standard(x: Array) -> Array:
    """x with mean 0 and standard deviation 1 (ddof = 0)."""
    return (x - x.mean()) / x.std()


def numbered(cluster: NDArray[np.intp]) -> NDArray[np.intp]:
    """The same clusters, numbered from 0 without gaps."""
    return np.unique(cluster, return_inverse=True)[1]


def alike(cells: Cells, at_least: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Sites grouped by which clusters they have (clusters, sites): a group shares its bootstrap draws."""
    patterns, which = np.unique(cells.n > 0, axis=1, return_inverse=True)
    for i, pattern in enumerate(patterns.T):
        rows, sites = np.flatnonzero(pattern), np.flatnonzero(which == i)
        if len(rows) >= at_least:
            yield rows, sites
