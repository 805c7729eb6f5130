"""How much of a statistic sets of sites carry: f of every set, its area over the sizes, random sets beside it.

f = (m(set) − m(none)) / (m(all) − m(none)) of the ranking statistic m: 1 where the kept sites do all that the model does, 0 where they
do what no site does; for removed sets, what is left without them. Null where the interval of the denominator holds 0. `area` and
`area_abs` (of |1 − f|) are trapezoids over the share of sites kept, with the end points, after MIB's CPR and CMD (Mueller et al. 2025)
but over nodes.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from biasscope.engine import stats
from biasscope.engine.circuits import NONE
from biasscope.engine.types import SUMMARY, TOTAL


def relative(effects: pl.DataFrame) -> pl.DataFrame:
    """The EFFECTS of sets with `none` as baseline, and the whole model's as the total effect."""
    effects = effects.unique(["example_id", "position"], maintain_order=True)
    none = effects.filter(pl.col("position") == NONE).select("example_id", none="value")
    joined = effects.filter(pl.col("position") != NONE).join(none, on="example_id", how="inner", maintain_order="left")
    whole = effects.filter(pl.col("position") == NONE).join(none, on="example_id", how="inner", maintain_order="left")
    whole = whole.with_columns(value="baseline", component=pl.lit(TOTAL), position=pl.lit("all"))
    both = pl.concat([joined, whole]).with_columns(effect=pl.col("value") - pl.col("none"), baseline="none")
    return both.select(effects.columns)


def of_sets(
    effects: pl.DataFrame, *, model: str, share_of_men: Mapping[str, float] | None, partners: Mapping[str, str] | None = None, seed: int = 0
) -> pl.DataFrame:
    """SUMMARY of the sets by the ranking statistic; `recovered` is f."""
    whole = stats.summarise(relative(effects), model=model, method="circuit", share_of_men=share_of_men, partners=partners, seed=seed)
    return stats.ranking(whole)


def curve(summary: pl.DataFrame, sites: int, sizes: Sequence[int]) -> pl.DataFrame:
    """SUMMARY rows of method `keep` and `remove`, statistic `faithfulness`: subset "top k", "random k" (median and 5–95 %), and areas.

    `summary`: of the sets, from `of_sets`.
    """
    f = {row["position"]: row for row in summary.iter_rows(named=True)}
    first = summary.row(0, named=True)
    base = {name: first[name] for name in ("model", "dataset", "source", "metric")} | {"unit": "share"}
    rows = []
    for mode in ("keep", "remove"):
        line = []
        for k in sizes:
            row = f[f"{mode}-{k}"]
            ends = {"ci_low": row["recovered_low"], "ci_high": row["recovered_high"]}
            numbers = {"n": row["n"], "clusters": row["clusters"], "estimate": row["recovered"], **ends}
            rows.append({**base, "method": mode, "subset": f"top {k}", "statistic": "faithfulness", **numbers})
            drawn = [r["recovered"] for name, r in f.items() if re.fullmatch(rf"{mode}-{k}-random-\d+", name)]
            known = [v for v in drawn if v is not None]
            low, middle, high = np.quantile(known, [0.05, 0.5, 0.95]).tolist() if known else (None,) * 3
            band = {"n": len(known), "estimate": middle, "ci_low": low, "ci_high": high}
            rows.append({**base, "method": mode, "subset": f"random {k}", "statistic": "faithfulness", **band})
            line.append((k / sites, row["recovered"]))
        for name, value in _areas(line, mode).items():
            rows.append({**base, "method": mode, "subset": "all sizes", "statistic": name, "n": len(line), "estimate": value})
    return pl.DataFrame([{name: row.get(name) for name in SUMMARY} for row in rows], schema=SUMMARY)


def _areas(line: Sequence[tuple[float, float | None]], mode: str) -> dict[str, float | None]:
    """The areas under f and |1 − f| over the share of sites kept; null where an f is."""
    if any(f is None for _, f in line):
        return {"area": None, "area_abs": None}
    kept = [(x if mode == "keep" else 1 - x, float(f or 0.0)) for x, f in line]
    whole = sorted([(0.0, 0.0), *kept, (1.0, 1.0)])
    x, f = np.array(whole).T
    return {"area": float(np.trapezoid(f, x)), "area_abs": float(np.trapezoid(np.abs(1 - f), x))}


def minimal(summary: pl.DataFrame, name: str, size: int) -> pl.DataFrame:
    """The SUMMARY row of the set of that name, kept alone, as subset "minimal k"."""
    row = summary.filter(pl.col("position") == name).row(0, named=True)
    keep = {key: row[key] for key in ("model", "dataset", "source", "metric", "n", "clusters")}
    ends = {"ci_low": row["recovered_low"], "ci_high": row["recovered_high"], "estimate": row["recovered"]}
    found = {**keep, **ends, "method": "keep", "subset": f"minimal {size}", "statistic": "faithfulness", "unit": "share"}
    return pl.DataFrame([{key: found.get(key) for key in SUMMARY}], schema=SUMMARY)
