"""Groups one by one: their means with intervals, the line through them with its band, what would be found."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from biasscope.engine.statistics.cells import standard
from biasscope.engine.statistics.inference.audit import MeanModel, Model, SlopeModel, audit
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array

MEANS = {"group": pl.String, "n": pl.Int64, "mean": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
"""The columns of `means`."""


class Band(NamedTuple):
    """A line through groups and its 95 % band, by x."""

    x: Array
    y: Array
    low: Array
    high: Array


def means(scores: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """The mean of target of each group of SCORES, nats, with a t interval over its own texts (PROMPTS).

    Texts that stand together count as one. The interval is of this group alone, null below 6 such units.
    """
    apart = pl.col("together").replace("", None)
    own = scores.filter(pl.col("value").is_finite(), metric="target")
    units = prompts.select("example_id", unit=apart).unique("example_id")
    own = own.join(units, on="example_id", how="left").with_columns(
        pl.col("unit").fill_null(pl.col("example_id"))
    )
    each = own.group_by("group", "unit").agg(pl.col("value").mean()).group_by("group")
    table = each.agg(k=pl.len(), sd=pl.col("value").std())
    whole = own.group_by("group").agg(n=pl.len(), mean=pl.col("value").mean()).join(table, on="group")
    k = whole["k"].to_numpy().astype(float)
    reach = pl.Series(stats.t.ppf(0.975, np.maximum(k - 1, 1)) / np.sqrt(k)) * whole["sd"]
    known = pl.Series(np.where(k >= MIN_CLUSTERS, 1.0, np.nan)) * reach
    ends = {"ci_low": whole["mean"] - known, "ci_high": whole["mean"] + known}
    return (
        whole.with_columns(**ends)
        .select(*MEANS)
        .with_columns(pl.selectors.float().fill_nan(None))
        .sort("group")
    )


def band(x: Array, y: Array, points: int = 41) -> Band | None:
    """The least-squares line through groups, and where it lies with 95 % confidence at each x, one at a time.

    From HC3 errors and t with k − 2 degrees of freedom; None below 6 groups, or where x does not vary or the
    line hangs on one group.
    """
    if len(x) < MIN_CLUSTERS or np.ptp(x) == 0:
        return None
    design = np.column_stack([np.ones(len(x)), x])
    inverse = np.linalg.inv(design.T @ design)
    line = inverse @ design.T @ y
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    if leverage.max() > 1 - 1e-9:
        return None
    scaled = design * ((y - design @ line) / (1 - leverage))[:, None]
    covariance = inverse @ (scaled.T @ scaled) @ inverse
    at = np.linspace(x.min(), x.max(), points)
    there = np.column_stack([np.ones(points), at])
    error = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", there, covariance, there), 0))
    reach = stats.t.ppf(0.975, len(x) - 2) * error
    return Band(at, there @ line, there @ line - reach, there @ line + reach)


def detectable(scores: pl.DataFrame, x: Mapping[str, float], seed: int) -> float | None:
    """The true slope on x (nats per SD) or, without x, mean (nats) that is found with power 0.8.

    Simulated from the residuals of the groups (see `audit`); None where there is no test or none reaches it.
    """
    own = scores.filter(pl.col("value").is_finite(), metric="target")
    groups = own.group_by("group").agg(n=pl.len(), total=pl.col("value").sum()).sort("group")
    if x:
        groups = groups.filter(pl.col("group").is_in(list(x)))
    n, total = (groups[name].to_numpy().astype(float)[:, None] for name in ("n", "total"))
    values = np.array([x[group] for group in groups["group"]]) if x else np.empty(0)
    if len(n) < MIN_CLUSTERS or np.ptp(total / n) < 1e-12 or (x and np.ptp(values) == 0):
        return None
    model: Model = (
        SlopeModel.of(standard(values), total / n, np.arange(len(n)), seed)
        if x
        else MeanModel.of(total, n, seed)
    )
    heard = audit(model, seed)
    found = np.nan if heard is None else float(heard.alone[0])
    return found if np.isfinite(found) else None
