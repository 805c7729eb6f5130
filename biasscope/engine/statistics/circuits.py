"""How much of a statistic sets of sites carry: f of every set, its area over the sizes, random sets.

f = (m(set) − m(none)) / (m(all) − m(none)) of the ranking statistic m: 1 where the kept sites do all that the
model does, 0 where they do what no site does; for removed sets, what is left without them. Null where the
interval of the denominator holds 0. `area` and `area_abs` (of |1 − f|) are trapezoids over the share of sites
kept, with the end points, after MIB's CPR and CMD (Mueller et al. 2025) but over nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine.schemas import SUMMARY, TOTAL
from biasscope.engine.statistics import summary
from biasscope.engine.statistics.cells import measured, standard
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.inference.resampling import Array
from biasscope.engine.statistics.stability import weighted
from biasscope.engine.types import MEMBER, NO_SITE, Design, Site

Interval = tuple[float, float, float]
"""Lower end, estimate, upper end."""
MODES = ("keep", "remove")
KINDS = ("top", "random", "minimal")
AREAS = ("area", "area_abs")
ENDS = ("ci_low", "estimate", "ci_high")
UNNAMED = 1000
"""Largest set looked for in a run of an older version, which does not name its sites."""


def subset(kind: str, k: int) -> str:
    """What SUMMARY calls the sets of that kind and size, for people: "top 10"."""
    return f"{kind} {k}"


def sized(summary: pl.DataFrame) -> pl.DataFrame:
    """The rows of f with the kind and size k of their sets, which are known by their names."""
    most = max(UNNAMED, summary.filter(pl.col("statistic") == MEMBER).height)
    names = [(subset(kind, k), kind, k) for kind in KINDS for k in range(1, most + 1)]
    known = pl.DataFrame(names, schema=["subset", "kind", "k"], orient="row")
    rows = summary.filter(pl.col("statistic") == "faithfulness")
    return rows.join(known, on="subset", how="inner", maintain_order="left")


def relative(effects: pl.DataFrame) -> pl.DataFrame:
    """The EFFECTS of sets with `none` as baseline, and the whole model's as the total effect."""
    effects = effects.unique(["example_id", "position"], maintain_order=True)
    none = effects.filter(pl.col("position") == NO_SITE).select("example_id", none="value")
    rows = effects.join(none, on="example_id", how="inner", maintain_order="left")
    sets, whole = rows.filter(pl.col("position") != NO_SITE), rows.filter(position=NO_SITE)
    whole = whole.with_columns(value="baseline", component=pl.lit(TOTAL), position=pl.lit("all"))
    both = pl.concat([sets, whole]).with_columns(effect=pl.col("value") - pl.col("none"), baseline="none")
    return both.select(effects.columns)


def denominator(effects: pl.DataFrame, *, model: str, design: Design = Design()) -> dict[str, Any]:
    """The SUMMARY row of m(all) − m(none): f is null where its interval is, or holds 0."""
    whole = relative(effects).filter(pl.col("component") == TOTAL)
    rows = summary.summarise(whole, model=model, method="circuit", design=design)
    return rows.filter(pl.col("statistic").is_in(["slope", "mean"]), subset="all").row(0, named=True)


def of_sets(effects: pl.DataFrame, *, model: str, design: Design = Design()) -> pl.DataFrame:
    """SUMMARY of the sets by the ranking statistic; `recovered` is f."""
    return summary.estimated(relative(effects), design, model=model, ends=True)


def estimates_of(effects: pl.DataFrame, design: Design) -> dict[str, float]:
    """Set → f, the estimate alone: what `--minimal` chooses by, on groups that are not reported on."""
    names, f = _drawn(effects, design, draws=False)
    return dict(zip(names, f[0].tolist(), strict=True))


def _drawn(effects: pl.DataFrame, design: Design, *, draws: bool) -> tuple[list[str], Array]:
    """Names of the sets, and f of each over all clusters (first row) and, with `draws`, over drawn ones."""
    site_effects = measured(relative(effects).lazy(), "target", design)
    cells, cluster, x = site_effects.over(site_effects.statistic)
    k = int(cluster.max()) + 1
    w = np.vstack([np.ones((1, k)), *([resampling.weights(k, design.seed)] if draws else [])])[:, cluster]
    m = weighted(cells, w, None if x is None else standard(x))
    with np.errstate(divide="ignore", invalid="ignore"):
        return site_effects.sites["position"].to_list(), m / m[
            :, [site_effects.total(site_effects.sites["source"][0]) or 0]
        ]


def curve(
    sets: pl.DataFrame, sizes: Sequence[int], areas: Mapping[tuple[str, str], Interval]
) -> pl.DataFrame:
    """SUMMARY of `keep` and `remove`: f of "top k", "random k" (median and 5–95 %), and the areas.

    `sets`: from `of_sets`; `areas`: from the function of that name.
    """
    f = {row["position"]: row for row in sets.iter_rows(named=True)}
    first, rows = sets.row(0, named=True), []
    for mode in MODES:
        for k in sizes:
            rows.append({"method": mode, "subset": subset("top", k), **_share(f[f"{mode}-{k}"])})
            names = [f"{mode}-{k}-random-{i:02d}" for i in range(len(f))]
            drawn = [f[name]["recovered"] for name in names if name in f]
            known = [value for value in drawn if value is not None]
            ends = np.quantile(known, [0.05, 0.5, 0.95]).tolist() if known else (None,) * 3
            band = dict(zip(ENDS, ends, strict=True))
            rows.append({"method": mode, "subset": subset("random", k), "n": len(known), **band})
        exists = all(f[f"{mode}-{k}"]["recovered"] is not None for k in sizes)
        for name in AREAS:
            ends = dict(zip(ENDS, areas[mode, name] if exists else (None,) * 3, strict=True))
            of = {"n": first["n"], "clusters": first["clusters"], **ends}
            rows.append({"method": mode, "subset": "all sizes", "statistic": name, **of})
    return _rows(sets, rows)


def minimal(sets: pl.DataFrame, size: int) -> pl.DataFrame:
    """The SUMMARY row of the set `minimal`, kept alone."""
    row = _share(sets.filter(pl.col("position") == "minimal").row(0, named=True))
    return _rows(sets, [{"method": "keep", "subset": subset("minimal", size), **row}])


def members(sets: pl.DataFrame, kind: str, sites: Sequence[Site]) -> pl.DataFrame:
    """SUMMARY rows that name a set's sites, strongest first: statistic `member`. `sets`: from `of_sets`."""
    same = {"method": "keep", "subset": subset(kind, len(sites)), "statistic": MEMBER, "unit": None}
    places = ({"component": s.component, "layer": s.layer, "head": s.head, "position": "all"} for s in sites)
    return _rows(sets, [same | place for place in places])


def _share(row: Mapping[str, Any]) -> dict[str, Any]:
    """f of a set with its interval, from the set's row."""
    ends = (row["recovered_low"], row["recovered"], row["recovered_high"])
    return {"n": row["n"], "clusters": row["clusters"], **dict(zip(ENDS, ends, strict=True))}


def _rows(sets: pl.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The rows as SUMMARY of f, unless they say otherwise, of what the sets are of."""
    same = sets.select("model", "dataset", "source", "metric").row(0, named=True)
    same |= {"statistic": "faithfulness", "unit": "share"}
    whole = [{**same, **row} for row in rows]
    return pl.DataFrame([{name: row.get(name) for name in SUMMARY} for row in whole], schema=SUMMARY)


def areas(
    effects: pl.DataFrame, sites: int, sizes: Sequence[int], design: Design = Design()
) -> dict[tuple[str, str], Interval]:
    """(mode, `area` or `area_abs`) → area ± the 95 % quantile of |area* − area| over drawn clusters."""
    names, f = _drawn(effects, design, draws=True)
    return {
        (mode, name): _interval(
            _area(f[:, [names.index(f"{mode}-{k}") for k in sizes]], [k / sites for k in sizes], mode, name)
        )
        for mode in MODES
        for name in AREAS
    }


def _area(f: Array, x: Sequence[float], mode: str, name: str) -> Array:
    """The trapezoid under each row of f (or |1 − f|) over the share of sites kept, f(0) = 0 and f(1) = 1."""
    kept = np.array([0.0, *(x if mode == "keep" else 1 - np.array(x)), 1.0])
    values = np.hstack([np.zeros((len(f), 1)), f, np.ones((len(f), 1))])
    order = np.argsort(kept, kind="stable")
    values = np.abs(1 - values) if name == "area_abs" else values
    return np.asarray(np.trapezoid(values[:, order], kept[order], axis=1))


def _interval(area: Array) -> Interval:
    """An area and its ends; the first element is the estimate, the others are the draws."""
    drawn = np.abs(area[1:] - area[0])
    reach = float(np.quantile(drawn[np.isfinite(drawn)], 0.95)) if np.isfinite(drawn).any() else np.nan
    return float(area[0] - reach), float(area[0]), float(area[0] + reach)
