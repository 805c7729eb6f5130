"""How much of the whole a set of sites keeps, by hand."""

import numpy as np
import polars as pl
import pytest

from biasscope.engine.schemas import SUMMARY
from biasscope.engine.statistics import circuits as faithfulness
from tests.support.tables import table

RNG = np.random.default_rng


def test_f_and_its_areas_by_hand():
    # m(none) = 0, m(all) = 2: keeping 1 of 4 gives 1 (f = ½), 2 of 4 gives 2 (f = 1); area = ¼·½/2 +
    # ¼·(½+1)/2 + ½·1 = 0.75
    frames = []
    for name, value in (
        ("none", 0.0),
        ("keep-1", 1.0),
        ("keep-2", 2.0),
        ("remove-1", 1.0),
        ("remove-2", 0.0),
    ):
        one = table(np.full((1, 12), value) + 0.01 * RNG(3).normal(size=12)).with_columns(
            component=pl.lit("set"), position=pl.lit(name)
        )
        frames.append(one.with_columns(value="effect", baseline=pl.lit(2.0) + pl.col("effect") * 0))
    effects = pl.concat(frames)
    areas = faithfulness.areas(effects, 4, [1, 2])
    found = faithfulness.curve(faithfulness.of_sets(effects, model="m"), [1, 2], areas)
    ends = found.filter(statistic="area", method="keep").row(0, named=True)
    assert ends["ci_low"] < ends["estimate"] < ends["ci_high"] < ends["estimate"] + 0.02
    values = {(r["method"], r["subset"], r["statistic"]): r["estimate"] for r in found.iter_rows(named=True)}
    assert values["keep", "top 1", "faithfulness"] == pytest.approx(0.5, abs=0.01)
    assert values["keep", "all sizes", "area"] == pytest.approx(0.75, abs=0.01)
    assert values["keep", "all sizes", "area_abs"] == pytest.approx(0.25, abs=0.01)
    # removing 1 of 4 leaves f = ½ at x = ¾, removing 2 leaves 0 at ½: area = ¼·½/2 + ¼·(½+1)/2
    assert values["remove", "all sizes", "area"] == pytest.approx(0.25, abs=0.01)
    assert found.schema == SUMMARY


def test_f_is_null_where_the_whole_and_none_may_be_equal():
    noise = RNG(0).normal(size=(1, 12))
    frames = []
    for name in ("none", "keep-1"):
        one = table(noise).with_columns(
            component=pl.lit("set"), position=pl.lit(name), value="effect", baseline=pl.lit(0.0)
        )
        frames.append(one)
    assert faithfulness.of_sets(pl.concat(frames), model="m")["recovered"].null_count() == 1


@pytest.mark.parametrize(("k", "named"), [(10, 0), (5000, 5000)], ids=["an older run", "a large set"])
def test_the_kind_and_size_of_a_set_are_numbers_and_words_of_their_own(k, named):
    kinds = pl.DataFrame({"subset": [f"{kind} {k}" for kind in faithfulness.KINDS] + ["all sizes"]})
    f = kinds.with_columns(statistic=pl.lit("faithfulness"))
    members = pl.DataFrame({"subset": [f"top {k}"] * named}, schema={"subset": pl.String})
    found = faithfulness.sized(pl.concat([f, members.with_columns(statistic=pl.lit("member"))]))
    assert found.select("kind", "k").rows() == [(kind, k) for kind in faithfulness.KINDS]
