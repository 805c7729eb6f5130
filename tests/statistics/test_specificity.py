"""Specificity by hand."""

import polars as pl
import pytest

from biasscope.engine.schemas import SUMMARY
from biasscope.engine.statistics import comparison


def test_specificity_by_hand():
    # b: 4, 2, 1 (median 2) → 2, 1, ½; c: 3, 1, 1 (median 1) → 3, 1, 1; f: 0, 2, 4 (median 2) → 0, 1, 2
    # 2 / 5, 1 / 3, 0.5 / 3.5; the second is not significant
    base = {
        "model": "m",
        "dataset": "d",
        "subset": "all",
        "method": "exact",
        "source": "mean",
        "component": "z",
        "layer": 0,
    }
    base |= {"position": "all"}

    def rows(metric, statistic, values, **more):
        each = [
            {**base, "metric": metric, "statistic": statistic, "head": i, "estimate": v, **more}
            for i, v in enumerate(values)
        ]
        return pl.DataFrame(each, schema=SUMMARY)

    ends = {"ci_low": pl.col("estimate") - 0.5, "ci_high": pl.col("estimate") + 0.5}
    bias = rows("target", "slope", [-4.0, 2.0, 1.0]).with_columns(
        p_family=pl.Series([0.01, 0.2, 0.04]), **ends
    )
    summary = pl.concat(
        [bias, rows("competence", "rms", [3.0, 1.0, 1.0]), rows("target", "rms", [9.0, 9.0, 9.0])]
    )
    found = comparison.specificity(summary, rows("target", "rms", [0.0, 2.0, 4.0], dataset="definitional"))
    assert found["specificity"].head(3).to_list() == [pytest.approx(2 / 5), None, pytest.approx(0.5 / 3.5)]
    assert found["specificity"].tail(-3).null_count() == found.height - 3
    assert comparison.raw_specificity(summary, rows("target", "rms", [0.0, 2.0, 4.0]))["raw"].to_list()[
        1
    ] == pytest.approx(1 / 3)
