"""Groups one by one: by hand, and by simulations in which the truth is known."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from biasscope.engine.schemas import PROMPTS, SCORES
from biasscope.engine.statistics import groups
from biasscope.engine.statistics.cells import Cells
from biasscope.engine.statistics.inference import estimates


def scores(values: dict[str, list[float]]) -> pl.DataFrame:
    rows = [(f"{g}{i}", g, "d", "target", v) for g, all_ in values.items() for i, v in enumerate(all_)]
    return pl.DataFrame(rows, SCORES, orient="row")


def test_a_group_has_the_t_interval_of_its_own_units_and_below_six_none():
    values = [1.0, 3.0, 2.0, 4.0, 0.0, 2.0, 5.0, 7.0, 1.0, 1.0, 3.0, 3.0]
    table = scores({"many": values, "few": [1.0, 2.0]})
    pairs = [{"example_id": f"many{i}", "group": "many", "together": f"unit {i // 2}"} for i in range(12)]
    few, many = groups.means(table, pl.DataFrame(pairs, PROMPTS)).rows(named=True)
    assert (few["n"], few["mean"], few["ci_low"]) == (2, 1.5, None) and many["mean"] == np.mean(values)
    units = np.reshape(values, (6, 2)).mean(1)
    known = stats.t.interval(0.95, 5, units.mean(), stats.sem(units))
    assert (many["ci_low"], many["ci_high"]) == pytest.approx(known)


def test_the_band_holds_the_line_where_spread_grows_with_x():
    rng, x = np.random.default_rng(0), np.linspace(0, 100, 60)
    held = []
    for _ in range(400):
        y = 1.0 + 0.02 * x + rng.normal(size=60) * (0.2 + x / 50)
        band = groups.band(x, y)
        assert band is not None
        held.append((band.low <= 1.0 + 0.02 * band.x) & (1.0 + 0.02 * band.x <= band.high))
    covered = np.mean(held, 0)
    assert covered.min() > 0.92 and covered.max() < 0.985


def test_no_band_where_there_is_no_line():
    assert groups.band(np.arange(5.0), np.arange(5.0)) is None
    assert groups.band(np.ones(9), np.arange(9.0)) is None
    assert groups.band(np.array([0.0] * 8 + [1.0]), np.arange(9.0)) is None  # it hangs on one group


def test_an_effect_of_the_detectable_size_is_found_four_times_in_five():
    rng, k = np.random.default_rng(3), 30
    names = [f"g{i:02}" for i in range(k)]
    noise = rng.normal(size=k)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    least = groups.detectable(scores({name: [v] for name, v in zip(names, noise, strict=True)}), {}, 0)
    assert least is not None
    found = 0
    for _ in range(200):
        y = least + rng.normal(size=k)
        cells = Cells(np.ones((k, 1)), y[:, None], y[:, None] ** 2)
        row = estimates.mean(cells, 0)
        found += bool(row["p"][0] < 0.05)
    assert 0.7 < found / 200 < 0.9


def test_nothing_is_detectable_in_few_groups_or_in_groups_that_are_alike():
    assert groups.detectable(scores({"a": [1.0], "b": [2.0]}), {}, 0) is None
    assert groups.detectable(scores({f"g{i}": [1.0] for i in range(9)}), {}, 0) is None
