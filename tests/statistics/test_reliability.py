"""What a ranking could detect, repeats and agrees on: by hand, by formula, on noise and on a planted
order.
"""

import numpy as np
import polars as pl
import pytest
from scipy.stats import rankdata

from biasscope.engine.schemas import RELIABILITY, SUMMARY
from biasscope.engine.statistics import reliability
from biasscope.engine.statistics.summary import chosen, summarise
from biasscope.engine.types import Design, Site
from tests.support.tables import shares, table

RNG = np.random.default_rng


def assess(effects, share=None, **more):
    summary = summarise(effects, model="m", method="exact", design=Design(share), **more)
    return reliability.assess(effects, summary, design=Design(share), **more)


def value(frame, quantity, column="estimate", **wanted):
    return frame.filter(pl.col("quantity") == quantity, *(pl.col(k) == v for k, v in wanted.items()))[
        column
    ].item()


def test_reliability_has_its_schema_and_names_the_family():
    effects = table(RNG(0).normal(size=(5, 20)))
    frame = assess(effects.filter(pl.col("head") < 2), beside=effects.filter(pl.col("head") >= 2).lazy())
    assert frame.schema == RELIABILITY
    assert (value(frame, "family_sites"), value(frame, "family_sites", "n")) == (5, 2)


@pytest.mark.parametrize("statistic", ["mean", "slope"])
def test_halves_repeat_a_planted_order_and_not_noise(statistic):
    share = shares(40)
    x = np.array([share[f"g{j:02d}"] for j in range(40)])
    pattern = (x - x.mean()) / x.std() if statistic == "slope" else np.ones(40)
    noise = RNG(0).normal(size=(60, 40))
    real = assess(table(noise + np.linspace(-3, 3, 60)[:, None] * pattern), share)
    none = assess(table(noise), share)
    assert value(real, "split_spearman", statistic=statistic) > 0.95
    assert value(real, "split_top10", statistic=statistic) > 0.6
    assert abs(value(none, "split_spearman", statistic=statistic)) < 0.35
    assert (
        value(none, "split_spearman", "low", statistic=statistic)
        < 0
        < value(none, "split_spearman", "high", statistic=statistic)
    )
    assert value(none, "split_top10", statistic=statistic) == pytest.approx(10 / 60, abs=0.2)


def test_a_split_equals_the_two_halves_by_hand():
    values = RNG(0).normal(size=(12, 9))
    half = RNG((0, 4)).permuted(np.tile(np.arange(9) < 4, (100, 1)), axis=1)
    rho = [np.corrcoef(rankdata(values[:, h].mean(1)), rankdata(values[:, ~h].mean(1)))[0, 1] for h in half]
    frame = assess(table(values))
    assert value(frame, "split_spearman") == pytest.approx(np.median(rho))
    assert value(frame, "split_spearman", "high") == pytest.approx(np.quantile(rho, 0.95))


def test_seven_clusters_are_not_split_and_five_detect_nothing():
    assert value(assess(table(RNG(0).normal(size=(12, 7)))), "split_spearman") is None
    frame = assess(table(RNG(0).normal(size=(12, 5))))
    known = {"family_sites", "split_top10_chance"}
    assert frame.filter(~pl.col("quantity").is_in(known))["estimate"].is_null().all()


def test_agreement_between_sources_is_that_of_their_rankings():
    one = RNG(0).normal(size=(30, 20))
    other = one + RNG(1).normal(0, 1.0, size=(30, 20))
    frame = assess(pl.concat([table(one), table(other).with_columns(source=pl.lit("zero"))]))
    a, b = one.mean(1), other.mean(1)
    assert value(frame, "agreement_spearman") == pytest.approx(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
    shared = set(np.argsort(-abs(a))[:10]) & set(np.argsort(-abs(b))[:10])
    assert value(frame, "agreement_top10") == pytest.approx(len(shared) / 10)
    assert {*frame.filter(pl.col("quantity") == "agreement_top10").select("source", "against").row(0)} == {
        "mean",
        "zero",
    }


def test_a_calibration_takes_the_first_n_and_n_random_others_and_bounds_the_rest():
    guess = RNG(0).normal(size=(40, 20)) + np.linspace(3, 0, 40)[:, None]
    truth = 0.5 * guess
    summary = summarise(table(guess), model="m", method="attribution")
    best, others = chosen(summary, 8, 0)
    order = np.argsort(-abs(guess.mean(1)))
    assert best == [Site(0, "z", int(i)) for i in order[:8]]
    assert len(others) == 8 and not set(best) & set(others)
    assert others != chosen(summary, 8, 1)[1]
    heads = sorted(s.head for s in best + others)
    exact = summarise(table(truth).filter(pl.col("head").is_in(heads)), model="m", method="exact")
    frame = reliability.calibration(summary, exact, others)
    assert value(frame, "calibration_spearman") == pytest.approx(1)
    assert value(frame, "calibration_sign") == 1
    assert value(frame, "calibration_largest") == pytest.approx(
        max(abs(truth[s.head].mean()) for s in others)
    )
    assert value(frame, "calibration_exceed") == pytest.approx(1 - 0.05 ** (1 / 8))
    assert "calibration_recall10" not in set(frame["quantity"])


def test_the_bound_counts_sites_and_not_their_positions():
    guess = RNG(0).normal(size=(40, 20))
    rows = pl.concat(
        [table(guess).with_columns(position=pl.lit(place)) for place in ("term", "between", "readout")]
    )
    summary = summarise(rows, model="m", method="attribution")
    best, others = chosen(summary, 8, 0)
    exact = summary.filter(pl.col("head").is_in([site.head for site in best + others]))
    assert value(reliability.calibration(summary, exact, others), "calibration_exceed") == pytest.approx(
        1 - 0.05 ** (1 / 8)
    )


def test_recall_is_given_only_where_every_site_was_swept():
    values = RNG(0).normal(size=(14, 20))
    summary = summarise(table(values), model="m", method="attribution")
    _, others = chosen(summary, 7, 0)
    frame = reliability.calibration(summary, summarise(table(values), model="m", method="exact"), others)
    assert value(frame, "calibration_recall10") == 1 and value(frame, "calibration_exceed") == 0


def ranked(estimates):
    """SUMMARY of one head an estimate."""
    same = {
        "model": "m",
        "dataset": "d",
        "subset": "all",
        "method": "exact",
        "source": "mean",
        "metric": "target",
    }
    same |= {"statistic": "mean", "component": "z", "layer": 0, "position": "all"}
    columns = {"head": range(len(estimates)), "estimate": estimates}
    frame = pl.DataFrame(columns).with_columns(pl.lit(v).alias(k) for k, v in same.items())
    missing = [pl.lit(None).alias(name) for name in SUMMARY.names() if name not in frame.columns]
    return frame.with_columns(missing).select(SUMMARY.names()).cast(SUMMARY)


def test_the_bound_on_unverified_sites_holds_95_times_in_100():
    rng, studies, misses = RNG(0), 400, 0
    for seed in range(studies):
        truth = rng.standard_t(3, 300)
        guess, exact = ranked(truth + 0.5 * rng.normal(size=300)), ranked(truth)
        best, others = chosen(guess, 20, seed)
        measured = exact.filter(pl.col("head").is_in([site.head for site in best + others]))
        frame = reliability.calibration(guess, measured, others)
        rest = np.delete(np.abs(truth), [site.head for site in best])
        misses += (rest > value(frame, "calibration_largest")).mean() > value(frame, "calibration_exceed")
    assert 0.01 < misses / studies <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / studies)
