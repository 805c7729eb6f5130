"""How far a ranking of sites can be trusted: what it could detect, what a random half repeats, what other
sources and methods say.

RELIABILITY rows, one per number and kind of site (or family); `quantity` is one of

- `detectable`, `detectable_family`: the smallest true effect found with power 0.8 at one site, and starred
among all sites of the family,
  by simulation from the run's residuals (see `audit`); the median over the sites of the kind, null where no
  effect reaches 0.8;
- `false_alarms_symmetric`, `false_alarms_resampled`: the share of studies like this one, without any effect,
in which a star appears
  (component `single`: heads and MLPs; `containing`: hook points that contain them); `family_sites`: members
  of that family, n: measured;
- `split_spearman`, `split_top10`: Spearman's ρ of the signed site estimates between two halves of the
clusters and the share of
  the top 10 that both name, over 100 seeded splits: median, 5 % (`low`) and 95 % (`high`); null below 8
  clusters; `split_top10_chance`: the share that two random rankings have in common;
- `agreement_spearman`, `agreement_top10`: the same two between this source and the source named by `against`,
over the same clusters;
- `calibration_…`: attribution against exact effects, see `calibration`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from biasscope.engine import schemas
from biasscope.engine.schemas import RELIABILITY, TOTAL
from biasscope.engine.statistics.audit import MeanModel, Model, SlopeModel, audit
from biasscope.engine.statistics.cells import Cells, alike, numbered, standard
from biasscope.engine.statistics.estimates import Family, varying
from biasscope.engine.statistics.resampling import MIN_CLUSTERS, Array
from biasscope.engine.statistics.summary import BIAS, SITE, Measured, measured, parts, ranking, top, unit
from biasscope.engine.types import Design, Site

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
    design: Design = Design(),
    beside: pl.LazyFrame | None = None,
) -> pl.DataFrame:
    """RELIABILITY of EFFECTS: of target's slope (if any) and mean, per dataset, source and kind of site."""
    rows: list[dict[str, Any]] = []
    for dataset, _, part in parts(effects):
        metric = next(m for m in BIAS if m in set(part.select(pl.col("metric").unique()).collect()["metric"]))
        site_effects = measured(part, metric, design, beside)
        label = {"model": model, "method": method, "dataset": dataset, "metric": metric}
        needed = np.full((2, site_effects.sites.height), np.nan)
        for family in site_effects.families:
            rows += [{**label, **row} for row in _audited(site_effects, family, needed, design.seed)]
        for statistic in _ranking_statistics(site_effects):
            of_kinds = list(_kinds(site_effects))
            for kind, where in of_kinds:
                rows += [
                    {**label, **kind, "statistic": statistic, **row}
                    for row in _of_kind(site_effects, where, statistic, needed, design.seed)
                ]
            for first, second in itertools.combinations(of_kinds, 2):
                if {**first[0], "source": None} == {**second[0], "source": None}:
                    same = {**label, **first[0], "statistic": statistic, "against": second[0]["source"]}
                    rows += [
                        {**same, **row}
                        for row in _agreement(
                            *(_estimates(site_effects, where, statistic) for _, where in (first, second))
                        )
                    ]
    return table(rows)


def _kinds(site_effects: Measured) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Each source and kind of measured site, and its sites; heads and the whole `z` are two kinds."""
    kinds = site_effects.sites.select("source", "component", heads=pl.col("head").is_not_null())
    own = (site_effects.sites["measured"] & (site_effects.sites["component"] != TOTAL)).to_numpy()
    for kind in kinds.filter(own).unique(maintain_order=True).iter_rows(named=True):
        same = kinds.select(
            pl.all_horizontal(pl.col(name).eq_missing(pl.lit(value)) for name, value in kind.items())
        ).to_series()
        yield kind, same.to_numpy() & own


def _audited(site_effects: Measured, family: Family, needed: Array, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a family; fills in `needed`, the effects found at each site alone and among all."""
    single = site_effects.sites.select(schemas.heads_and_mlps()).to_series().to_numpy()
    label = {
        "statistic": site_effects.statistic,
        "component": "single" if (single & family.members).any() else "containing",
        "heads": False,
    }
    own, members = int((family.members & family.own).sum()), int(family.members.sum())
    yield {**label, "quantity": "family_sites", "unit": "sites", "n": own, "estimate": float(members)}
    model, sites = _modelled(site_effects, family, seed)
    heard = None if model is None else audit(model, seed)
    if heard is not None:
        needed[0, sites], needed[1, sites] = heard.alone, heard.family
    for name in ("symmetric", "resampled"):
        share = None if heard is None else getattr(heard, name)
        yield {
            **label,
            "quantity": f"false_alarms_{name}",
            "unit": "share",
            "n": 0 if heard is None else heard.studies,
            "estimate": share,
        }


def _modelled(site_effects: Measured, family: Family, seed: int) -> tuple[Model | None, NDArray[np.intp]]:
    """What studies are drawn from, and its sites: those that vary, in the groups of most; None: no test."""
    slope = site_effects.statistic == "slope"
    cells = (
        site_effects.cells.clusters(site_effects.graded)
        if slope
        else site_effects.cells.merged(site_effects.cluster)
    )
    labels = numbered(site_effects.cluster[site_effects.graded]) if slope else np.arange(len(cells.n))
    varied = varying(cells, slope)
    shared = [(rows, sites[(varied & family.members)[sites]]) for rows, sites in alike(cells, MIN_CLUSTERS)]
    if not any(sites.size for _, sites in shared):
        return None, np.empty(0, np.intp)
    rows, sites = max(shared, key=lambda pair: pair[1].size)
    part = np.ix_(rows, sites)
    if slope:
        x = standard(site_effects.x[site_effects.graded])[rows]
        return SlopeModel.of(x, cells.means()[part], numbered(labels[rows]), seed), sites
    return MeanModel.of(cells.total[part], cells.n[part], seed), sites


def table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The rows as RELIABILITY; what is not finite becomes null."""
    whole = pl.DataFrame([{name: row.get(name) for name in RELIABILITY} for row in rows], schema=RELIABILITY)
    floats = [name for name, kind in RELIABILITY.items() if kind == pl.Float64]
    return whole.with_columns(
        pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats
    )


def _ranking_statistics(site_effects: Measured) -> list[str]:
    """slope where it exists, and mean, which under a twin is read only where there is no slope."""
    if site_effects.statistic == "mean":
        return ["mean"]
    return ["slope"] if (site_effects.sites["component"] == TOTAL).any() else ["slope", "mean"]


def _of_kind(
    site_effects: Measured, where: NDArray[np.bool_], statistic: str, needed: Array, seed: int
) -> Iterator[dict[str, Any]]:
    """What could be detected (of the ranking statistic alone), and what a half of the clusters repeats."""
    for quantity, sites in zip(("detectable", "detectable_family"), needed[:, where], strict=True):
        if statistic == site_effects.statistic:
            known = sites[~np.isnan(sites)]
            middle = float(np.median(known)) if known.size else None
            yield {
                "quantity": quantity,
                "unit": unit(BIAS[0], statistic),
                "n": int(where.sum()),
                "estimate": middle,
            }
    yield from _split(site_effects, where, statistic, seed)


def _split(
    site_effects: Measured, where: NDArray[np.bool_], statistic: str, seed: int
) -> Iterator[dict[str, Any]]:
    """What one half of the clusters repeats of the other."""
    cells = site_effects.cells.sites(where)
    cluster = site_effects.cluster
    if statistic == "slope":
        cells, cluster = cells.clusters(site_effects.graded), cluster[site_effects.graded]
    clusters = numbered(cluster)
    k, m = int(clusters.max()) + 1, cells.n.shape[1]
    rho, share = np.full(SPLITS, np.nan), np.full(SPLITS, np.nan)
    if k >= MIN_SPLIT and m > 2:
        rng = np.random.default_rng((seed, _SPLIT))
        half = rng.permuted(np.tile(np.arange(k) < k // 2, (SPLITS, 1)), axis=1)[:, clusters].astype(float)
        x = standard(site_effects.x[site_effects.graded]) if statistic == "slope" else None
        first, second = (weighted(cells, w, x) for w in (half, 1 - half))
        rho, share = _spearman(first, second), _shared(first, second)
    for quantity, values, of in (("split_spearman", rho, "rho"), ("split_top10", share, "share")):
        low, middle, high = (
            np.nanquantile(values, [0.05, 0.5, 0.95]) if np.isfinite(values).any() else (np.nan,) * 3
        )
        yield {
            "quantity": quantity,
            "unit": of,
            "n": SPLITS,
            "estimate": float(middle),
            "low": float(low),
            "high": float(high),
        }
    yield {
        "quantity": "split_top10_chance",
        "unit": "share",
        "n": m,
        "estimate": TOP / m if m > TOP else None,
    }


def weighted(cells: Cells, w: Array, x: Array | None) -> Array:
    """The statistic of each site when each group counts w times, `draw site`: slope on x, or mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if x is None:
            return (w @ cells.total) / (w @ cells.n)
        here, y = (cells.n > 0).astype(float), np.nan_to_num(cells.means())
        size, sx, sy = w @ here, w @ (here * x[:, None]), w @ y
        sxy, sxx = w @ (y * x[:, None]), w @ (here * x[:, None] ** 2)
        return (sxy - sx * sy / size) / (sxx - sx**2 / size)


def estimated(effects: pl.DataFrame, design: Design) -> pl.DataFrame:
    """The sites of EFFECTS with the estimate of their ranking statistic, and its name: nothing else."""
    site_effects = measured(effects.lazy(), BIAS[0], design)
    return _estimates(
        site_effects, np.ones(site_effects.sites.height, bool), site_effects.statistic
    ).with_columns(statistic=pl.lit(site_effects.statistic))


def _estimates(site_effects: Measured, where: NDArray[np.bool_], statistic: str) -> pl.DataFrame:
    """The statistic of each site over all clusters."""
    cells, x, known = site_effects.cells.sites(where), None, np.ones(len(site_effects.groups), bool)
    if statistic == "slope":
        known, x = site_effects.graded, standard(site_effects.x[site_effects.graded])
    value = weighted(cells.clusters(known), np.ones((1, int(known.sum()))), x)[0]
    return site_effects.sites.filter(where).with_columns(pl.Series("estimate", value).fill_nan(None))


def _spearman(first: Array, second: Array) -> Array:
    """Spearman's ρ of each row; NaN where a row has fewer than 3 sites or does not vary."""
    rho = np.full(len(first), np.nan)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() > 2 and np.ptp(a[both]) > 0 and np.ptp(b[both]) > 0:
            rho[i] = np.corrcoef(rankdata(a[both]), rankdata(b[both]))[0, 1]
    return rho


def _shared(first: Array, second: Array) -> Array:
    """The share of the 10 largest |values| that each two rows have in common; NaN up to 10 sites."""
    if first.shape[1] <= TOP:
        return np.full(len(first), np.nan)
    top_first, top_second = (
        np.argsort(-np.nan_to_num(np.abs(v)), axis=1, kind="stable")[:, :TOP] for v in (first, second)
    )
    return np.array(
        [len(set(a) & set(b)) / TOP for a, b in zip(top_first.tolist(), top_second.tolist(), strict=True)]
    )


def _agreement(first: pl.DataFrame, second: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """How far two rankings of the same sites agree."""
    both = first.join(second, on=SITE, how="inner", nulls_equal=True, maintain_order="left")
    a, b = (both[name].cast(pl.Float64).to_numpy()[None] for name in ("estimate", "estimate_right"))
    yield {
        "quantity": "agreement_spearman",
        "unit": "rho",
        "n": both.height,
        "estimate": float(_spearman(a, b)[0]),
    }
    yield {
        "quantity": "agreement_top10",
        "unit": "share",
        "n": both.height,
        "estimate": float(_shared(a, b)[0]),
    }


def chosen(summary: pl.DataFrame, n: int, seed: int) -> tuple[list[Site], list[Site]]:
    """The n sites of each kind that rank first, and n seeded others: what `--calibrate` measures exactly."""
    ranked = ranking(summary).filter(schemas.single_sites())
    best: list[Site] = []
    others: list[Site] = []
    rng = np.random.default_rng((seed, _DRAW))
    for (_,), rows in sorted(ranked.group_by("component")):
        order = top(rows, rows.height)
        best += order[:n]
        rest = sorted(order[n:])
        others += [rest[i] for i in sorted(rng.permutation(len(rest))[:n])]
    return best, others


def calibration(estimated: pl.DataFrame, exact: pl.DataFrame, others: Sequence[Site]) -> pl.DataFrame:
    """RELIABILITY of attribution's SUMMARY against the exact one of some sites, `others` drawn at random.

    `calibration_spearman`, `calibration_sign` (share of equal signs): over the random sites of a kind.
    `calibration_largest`: the largest exact |effect| M among them; with 95 % confidence fewer than
    `calibration_exceed` = 1 − 0.05^(1/n) of the sites that were not ranked first exceed M, at any position (0
    where all were measured); n: drawn sites, however many positions each has. `calibration_recall10`, only
    where every site of the kind was swept: how many of the 10 largest exact effects attribution has among its
    10 largest, as a share.
    """
    drawn = {(s.component, s.layer, s.head) for s in others}
    keys = ["dataset", "metric", "statistic", *SITE]
    both = ranking(estimated).join(
        ranking(exact).select(*keys, exact="estimate"), on=keys, how="left", nulls_equal=True
    )
    both = both.filter(schemas.single_sites())
    rows: list[dict[str, Any]] = []
    for (component,), part in sorted(both.group_by("component", maintain_order=True)):
        first = {
            name: part[name][0]
            for name in ("model", "dataset", "source", "metric", "statistic", "component", "method")
        }
        label = {**first, "heads": component == "z", "against": "exact"}
        known = part.filter(pl.col("exact").is_not_null())
        at_random = known.filter(
            pl.struct("component", "layer", "head").map_elements(
                lambda s: tuple(s.values()) in drawn, pl.Boolean
            )
        )
        a, b, n = (
            at_random["estimate"].to_numpy(),
            at_random["exact"].to_numpy(),
            at_random.select(SITE[:3]).n_unique(),
        )
        numbers = {"spearman": ("rho", float(_spearman(a[None], b[None])[0]))} if n else {}
        numbers |= {"sign": ("share", float((np.sign(a) == np.sign(b)).mean()))} if n else {}
        numbers |= {"largest": (unit(BIAS[0], first["statistic"]), float(np.abs(b).max()))} if n else {}
        numbers["exceed"] = ("share", 0.0 if known.height == part.height else 1 - 0.05 ** (1 / n))
        if known.height == part.height:
            every = known["estimate"].to_numpy()[None], known["exact"].to_numpy()[None]
            numbers["recall10"] = ("share", float(_shared(*every)[0]))
        for name, (of, value) in numbers.items():
            rows.append({**label, "quantity": f"calibration_{name}", "unit": of, "n": n, "estimate": value})
    return table(rows)
