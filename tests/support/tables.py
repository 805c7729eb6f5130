"""Tables of effects made of numbers that a test chooses."""

import numpy as np
import polars as pl

from biasscope.engine.schemas import EFFECTS


def table(values, *, groups=None, metric="target", component="z", heads=True):
    """EFFECTS of `site example` values: site i is head i (or layer i), example j is in groups[j]."""
    values = np.asarray(values, float)
    m, n = values.shape
    groups = [f"g{j:02d}" for j in range(n)] if groups is None else groups
    columns = {
        "example_id": np.tile([f"e{j:04d}" for j in range(n)], m),
        "group": np.tile(groups, m),
        "layer": np.repeat(np.zeros(m, int) if heads else np.arange(m), n),
        "head": pl.Series(np.repeat(np.arange(m), n) if heads else [None] * (m * n), dtype=pl.Int32),
        "effect": values.ravel(),
    }
    same = {
        "dataset": "d",
        "source": "mean",
        "metric": metric,
        "component": component,
        "position": "all",
        "baseline": 0.0,
        "value": 0.0,
    }
    return (
        pl.DataFrame(columns)
        .with_columns(pl.lit(v).alias(k) for k, v in same.items())
        .select(EFFECTS.names())
        .cast(EFFECTS)
    )


def shares(n):
    return {f"g{j:02d}": float(j * j % 97) for j in range(n)}
