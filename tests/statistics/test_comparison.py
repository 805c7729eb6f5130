"""Agreement of rankings by hand, against chance and by relative depth."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import hypergeom

from biasscope.engine.statistics import comparison
from biasscope.engine.statistics.summary import summarise
from biasscope.engine.types import Design
from tests.support.tables import shares, table

RNG = np.random.default_rng


def summary(values, component="z", model="m", dataset="d") -> pl.DataFrame:
    heads = component == "z"
    found = summarise(
        table(values, heads=heads, component=component),
        model=model,
        method="exact",
        design=Design(shares(20)),
    )
    return found.with_columns(dataset=pl.lit(dataset))


def test_agreement_of_two_runs_by_hand_and_against_chance():
    share = shares(20)
    x = np.array([share[f"g{j:02d}"] for j in range(20)])
    x = (x - x.mean()) / x.std()
    slopes = np.array([5.0, 4, 3, 2, 1, 0.1, 0.2, 0.3, 0.4, 0.5])
    other = np.array([5.0, 4, 0.1, 2, 1, 3, 0.2, 0.3, 0.4, 0.5])
    noise = RNG(0).normal(0, 1.0, (10, 20))
    found = [
        r
        for i, v in enumerate((slopes, other))
        for r in comparison.rankings(f"r{i}", 12, summary(v[:, None] * x + noise))
    ]
    (row,) = comparison.pairs(found, 3)
    assert (row["first"], row["second"], row["sites"], row["shared"], row["expected"]) == (
        "r0",
        "r1",
        10,
        2,
        0.9,
    )
    assert row["p_shared"] == pytest.approx(hypergeom(10, 3, 3).sf(1))
    names = [r["site"] for r in comparison.common(found)]
    assert names[:2] == ["L0H0", "L0H1"] and "L0H2" not in names
    assert row["significant_both"] == len(names)


def test_models_are_compared_by_relative_depth():
    small, large = (
        np.repeat(np.linspace(0.1, 3, n)[:, None], 20, 1) * np.linspace(-1, 1, 20) for n in (12, 36)
    )
    found = [
        comparison.rankings("a", 12, summary(small, "mlp_out", "m1"))[0],
        comparison.rankings("b", 36, summary(large, "mlp_out", "m2"))[0],
    ]
    assert comparison.pairs(found, 5) == []
    (row,) = comparison.depths(found)
    assert (row["slices"], row["spearman"]) == (10, pytest.approx(1.0))
