"""How far a ranking of sites can be trusted: what it could detect, what a random half repeats, what other sources and methods say.

RELIABILITY rows, one per number and kind of site; `quantity` is one of

- `detectable`, `detectable_family`: the smallest true effect found with power 0.8 at one site, or allowing for all m sites of the kind:
  (t₀.₉₇₅ + t₀.₈₀) · SE with k − 1 degrees of freedom, or t at 1 − 0.025/m; the median over sites;
- `split_spearman`, `split_top10`: Spearman's ρ of the signed site estimates between two halves of the clusters and the share of
  the top 10 that both name, over 100 seeded splits: median, 5 % (`low`) and 95 % (`high`); null below 8 clusters;
- `agreement_spearman`, `agreement_top10`: the same two between this source and the source named by `against`, over the same clusters;
- `calibration_…`: attribution against exact effects, see `calibration`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as student

from biasscope.engine import estimates, resampling, slopes, stats
from biasscope.engine.measured import BIAS, SITE, UNITS, Measured, measured, parts
from biasscope.engine.resampling import MIN_CLUSTERS, Array
from biasscope.engine.types import RELIABILITY, TOTAL, Site

SPLITS = 100
MIN_SPLIT = 8
"""Below this many clusters a half says nothing."""
TOP = 10
_SPLIT, _DRAW = 4, 5


def assess(
    effects: pl.DataFrame | pl.LazyFrame,
    *,
    model: str,
    method: str,
    share_of_men: Mapping[str, float] | None,
    partners: Mapping[str, str] | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """RELIABILITY of EFFECTS: of target's slope (where groups have a share of men) and mean, per dataset, source and kind of site."""
    rows: list[dict[str, Any]] = []
    estimated: dict[tuple[Any, ...], dict[str, pl.DataFrame]] = {}
    for labels, part in parts(effects):
        metric = next(m for m in BIAS if m in set(part.select(pl.col("metric").unique()).collect()["metric"]))
        found = measured(part, metric, share_of_men, partners or {})
        for statistic in _ranking_statistics(found):
            label: dict[str, Any] = {"model": model, "method": method, **labels, "metric": metric, "statistic": statistic}
            for kind in np.unique(found.kinds[(found.sites["component"] != TOTAL).to_numpy()]):
                where = found.kinds == kind
                sites = found.sites.filter(where)
                label |= {"component": sites["component"][0], "heads": sites["head"][0] is not None}
                rows += [label | row for row in _detectable(found, where, statistic)]
                rows += [label | row for row in _split(found, where, statistic, seed)]
                key = tuple(label[name] for name in ("dataset", "metric", "statistic", "component", "heads"))
                estimate = _all_clusters(found, where, statistic)
                estimated.setdefault(key, {})[str(labels["source"])] = sites.with_columns(pl.Series("estimate", estimate))
    for key, by_source in estimated.items():
        same = {"model": model, "method": method, **dict(zip(("dataset", "metric", "statistic", "component", "heads"), key, strict=True))}
        for one, other in itertools.combinations(by_source, 2):
            rows += [{**same, "source": one, "against": other, **row} for row in _agreement(by_source[one], by_source[other])]
    return table(rows)


def table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The rows as RELIABILITY; what is not finite becomes null."""
    whole = pl.DataFrame([{name: row.get(name) for name in RELIABILITY} for row in rows], schema=RELIABILITY)
    floats = [name for name, kind in RELIABILITY.items() if kind == pl.Float64]
    return whole.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats)


def _ranking_statistics(found: Measured) -> list[str]:
    """slope where it exists, and mean, which under a twin is read only where there is no slope."""
    if not found.graded.any():
        return ["mean"]
    return ["slope"] if found.total is not None else ["slope", "mean"]


def _detectable(found: Measured, where: NDArray[np.bool_], statistic: str) -> Iterator[dict[str, Any]]:
    """The two smallest detectable effects; null where there are too few clusters."""
    cells = found.cells.sites(where)
    if statistic == "slope":
        cells, labels = cells.clusters(found.graded), estimates.numbered(found.cluster[found.graded])
    else:
        cells, labels = cells.merged(found.cluster), np.arange(found.cluster.max() + 1)
    error, k, m = np.full(cells.n.shape[1], np.nan), np.zeros(cells.n.shape[1]), cells.n.shape[1]
    for rows, sites in estimates.alike(cells, at_least=2):
        part = np.ix_(rows, sites)
        own = estimates.numbered(labels[rows])
        k[sites] = own.max() + 1
        if statistic == "slope":
            x = estimates.standard(found.x[found.graded])[rows]
            error[sites] = slopes.line(x, own).error(cells.means()[part]) if np.ptp(x) > 0 else np.nan
        else:
            error[sites] = resampling.mean_error(cells.total[part], cells.n[part])
    usable = (error > 0) & (k >= MIN_CLUSTERS)
    for quantity, tail in (("detectable", 0.025), ("detectable_family", 0.025 / m)):
        needed = (student.ppf(1 - tail, k[usable] - 1) + student.ppf(0.8, k[usable] - 1)) * error[usable]
        yield {"quantity": quantity, "unit": UNITS[statistic], "n": m, "estimate": float(np.median(needed)) if usable.any() else None}


def _split(found: Measured, where: NDArray[np.bool_], statistic: str, seed: int) -> Iterator[dict[str, Any]]:
    """What one half of the clusters repeats of the other."""
    cells = found.cells.sites(where)
    cluster = found.cluster
    if statistic == "slope":
        cells, cluster = cells.clusters(found.graded), cluster[found.graded]
    clusters = estimates.numbered(cluster)
    k, m = int(clusters.max()) + 1, cells.n.shape[1]
    rho, share = np.full(SPLITS, np.nan), np.full(SPLITS, np.nan)
    if k >= MIN_SPLIT and m > 2:
        rng = np.random.default_rng((seed, _SPLIT))
        half = rng.permuted(np.tile(np.arange(k) < k // 2, (SPLITS, 1)), axis=1)[:, clusters].astype(float)
        x = estimates.standard(found.x[found.graded]) if statistic == "slope" else None
        one, other = (weighted(cells, w, x) for w in (half, 1 - half))
        rho, share = _spearman(one, other), _shared(one, other)
    for quantity, values, unit in (("split_spearman", rho, "rho"), ("split_top10", share, "share")):
        low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95]) if np.isfinite(values).any() else (np.nan,) * 3
        yield {"quantity": quantity, "unit": unit, "n": SPLITS, "estimate": float(middle), "low": float(low), "high": float(high)}


def weighted(cells: estimates.Cells, w: Array, x: Array | None) -> Array:
    """The statistic of each site when each group counts w times, `draw site`: the slope on x, or the mean over examples."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if x is None:
            return (w @ cells.total) / (w @ cells.n)
        here, y = (cells.n > 0).astype(float), np.nan_to_num(cells.means())
        size, sx, sy = w @ here, w @ (here * x[:, None]), w @ y
        sxy, sxx = w @ (y * x[:, None]), w @ (here * x[:, None] ** 2)
        return (sxy - sx * sy / size) / (sxx - sx**2 / size)


def _all_clusters(found: Measured, where: NDArray[np.bool_], statistic: str) -> Array:
    """The statistic of each site over all clusters."""
    cells = found.cells.sites(where)
    if statistic == "mean":
        return weighted(cells, np.ones((1, len(found.groups))), None)[0]
    known = found.graded
    return weighted(cells.clusters(known), np.ones((1, int(known.sum()))), estimates.standard(found.x[known]))[0]


def _spearman(one: Array, other: Array) -> Array:
    """Spearman's ρ of each row; NaN where a row has fewer than 3 sites or does not vary."""
    found = np.full(len(one), np.nan)
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
            found[i] = np.corrcoef(rankdata(a[both]), rankdata(b[both]))[0, 1]
    return found


def _shared(one: Array, other: Array) -> Array:
    """The share of the 10 largest |values| that each pair of rows has in common; NaN up to 10 sites, where it is 1 by construction."""
    if one.shape[1] <= TOP:
        return np.full(len(one), np.nan)
    first, second = (np.argsort(-np.nan_to_num(np.abs(v)), axis=1, kind="stable")[:, :TOP] for v in (one, other))
    return np.array([len(set(a) & set(b)) / TOP for a, b in zip(first.tolist(), second.tolist(), strict=True)])


def _agreement(one: pl.DataFrame, other: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """How far two rankings of the same sites agree."""
    both = one.join(other, on=SITE, how="inner", nulls_equal=True, maintain_order="left")
    a, b = both["estimate"].to_numpy()[None], both["estimate_right"].to_numpy()[None]
    yield {"quantity": "agreement_spearman", "unit": "rho", "n": both.height, "estimate": float(_spearman(a, b)[0])}
    yield {"quantity": "agreement_top10", "unit": "share", "n": both.height, "estimate": float(_shared(a, b)[0])}


def chosen(summary: pl.DataFrame, n: int, seed: int) -> tuple[list[Site], list[Site]]:
    """The n sites of each kind that a summary ranks first, and n seeded others of each kind: what `--calibrate` measures exactly."""
    ranked = stats.ranking(summary).filter((pl.col("component") != "z") | pl.col("head").is_not_null())
    best: list[Site] = []
    others: list[Site] = []
    rng = np.random.default_rng((seed, _DRAW))
    for (_,), rows in sorted(ranked.group_by("component")):
        order = stats.top(rows, rows.height)
        best += order[:n]
        rest = sorted(order[n:])
        others += [rest[i] for i in sorted(rng.permutation(len(rest))[:n])]
    return best, others


def calibration(estimated: pl.DataFrame, exact: pl.DataFrame, others: Sequence[Site]) -> pl.DataFrame:
    """RELIABILITY of attribution's SUMMARY against the exact SUMMARY of some sites, `others` having been drawn at random.

    `calibration_spearman`, `calibration_sign` (share of equal signs): over the random sites of a kind. `calibration_largest`: the
    largest exact |effect| M among them; with 95 % confidence fewer than `calibration_exceed` = 1 − 0.05^(1/n) of the sites that were
    not ranked first exceed M, at any position (0 where all were measured); n: drawn sites, however many positions each has.
    `calibration_recall10`, only where every site of the kind was swept: how many of the 10 largest exact effects attribution has
    among its 10 largest, as a share.
    """
    drawn = {(s.component, s.layer, s.head) for s in others}
    keys = ["dataset", "metric", "statistic", *SITE]
    both = stats.ranking(estimated).join(stats.ranking(exact).select(*keys, exact="estimate"), on=keys, how="left", nulls_equal=True)
    both = both.filter((pl.col("component") != "z") | pl.col("head").is_not_null())
    rows: list[dict[str, Any]] = []
    for (component,), part in sorted(both.group_by("component", maintain_order=True)):
        first = {name: part[name][0] for name in ("model", "dataset", "source", "metric", "statistic", "component", "method")}
        label = {**first, "heads": component == "z", "against": "exact"}
        known = part.filter(pl.col("exact").is_not_null())
        at_random = known.filter(pl.struct("component", "layer", "head").map_elements(lambda s: tuple(s.values()) in drawn, pl.Boolean))
        a, b, n = at_random["estimate"].to_numpy(), at_random["exact"].to_numpy(), at_random.select(SITE[:3]).n_unique()
        numbers = {"spearman": ("rho", float(_spearman(a[None], b[None])[0]))} if n else {}
        numbers |= {"sign": ("share", float((np.sign(a) == np.sign(b)).mean()))} if n else {}
        numbers |= {"largest": (first["statistic"], float(np.abs(b).max()))} if n else {}
        numbers["exceed"] = ("share", 0.0 if known.height == part.height else 1 - 0.05 ** (1 / n))
        if known.height == part.height:
            every = known["estimate"].to_numpy()[None], known["exact"].to_numpy()[None]
            numbers["recall10"] = ("share", float(_shared(*every)[0]))
        for name, (unit, value) in numbers.items():
            rows.append({**label, "quantity": f"calibration_{name}", "unit": UNITS.get(unit, unit), "n": n, "estimate": value})
    return table(rows)
