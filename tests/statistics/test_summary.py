"""Aggregates by hand, the shape and order of SUMMARY, and what must be null."""

import time
from types import MappingProxyType

import numpy as np
import polars as pl
import pytest

from biasscope.engine import schemas
from biasscope.engine.errors import DataError
from biasscope.engine.schemas import EFFECTS, SUMMARY, TOTAL, TRIPLES
from biasscope.engine.statistics import published, reliability
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.summary import (
    chosen,
    estimated,
    headline,
    ranking,
    summarise,
    top,
)
from biasscope.engine.types import Design, Site
from tests.support.tables import shares, table


def summary(effects, share=None, seed=0, subset="all", partners=MappingProxyType({}), **more):
    found = summarise(effects, model="m", method="exact", design=Design(share, partners, seed), **more)
    return found.filter(pl.col("subset").str.starts_with(subset))


def rows(frame, **wanted):
    return frame.filter(*(pl.col(name) == value for name, value in wanted.items()))


def test_shift_weights_examples_and_slope_weights_occupations_by_hand():
    # Occupations a (20 % men; effects 0 and 1: mean ½) and b (80 %; effect 2). Standardised share: −1 and 1.
    # shift = (0 + 1 + 2) / 3 = 1; slope = (2 − ½) / 2 = 0.75; rms = √(5/3).
    frame = summary(table([[0, 1, 2]], groups=["a", "a", "b"]), {"a": 20.0, "b": 80.0})
    assert frame["statistic"].to_list() == ["slope", "mean", "rms"]
    assert frame["estimate"].to_list() == pytest.approx([0.75, 1, np.sqrt(5 / 3)])
    assert frame["unit"].to_list() == ["nats/SD", "nats", "nats"]
    assert frame["n"].to_list() == [3] * 3
    assert frame["clusters"].to_list() == [2] * 3


def test_slope_equals_polyfit_on_standardised_shares():
    values, share = np.random.default_rng(0).normal(size=(3, 20)), shares(20)
    x = np.array([share[f"g{j:02d}"] for j in range(20)])
    found = rows(summary(table(values), share), statistic="slope").sort("head")["estimate"]
    np.testing.assert_allclose(found, np.polyfit((x - x.mean()) / x.std(), values.T, 1)[0])


def test_summary_has_the_schema_and_never_a_nan_or_infinity():
    values = np.random.default_rng(0).normal(size=(6, 20))
    values[1], values[2], values[3], values[4, :17], values[5, 3] = 0, 0.7, np.nan, np.nan, np.inf
    frame = summary(
        pl.concat([table(values, metric=metric) for metric in ("target", "competence", "kl")]), shares(20)
    )
    assert frame.schema == SUMMARY
    for name in ("estimate", "ci_low", "ci_high", "p", "p_family", "q"):
        assert frame[name].is_finite().fill_null(True).all()


@pytest.mark.parametrize("value", [0.0, 0.7, np.nan, np.inf])
@pytest.mark.parametrize("statistic", ["slope", "mean"])
def test_a_sample_without_spread_has_no_p_and_no_interval(value, statistic):
    values = np.random.default_rng(0).normal(0, 1e-3, (4, 20))
    values[2] = value
    frame = rows(summary(table(values), shares(20)), statistic=statistic)
    row = rows(frame, head=2).row(0, named=True)
    assert [row[name] for name in ("ci_low", "ci_high", "p", "p_family", "q")] == [None] * 5
    assert (row["estimate"] is None) == (not np.isfinite(value))
    assert frame["p"].null_count() == 1


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_dead_site_ranks_last(value):
    values = np.random.default_rng(0).normal(0, 1e-3, (4, 20))
    values[2] = value
    assert ranking(summary(table(values), shares(20)))["head"][3] == 2


def test_below_six_clusters_estimates_stand_alone():
    frame = summary(table(np.random.default_rng(0).normal(size=(3, 5))), shares(5))
    assert frame["estimate"].null_count() == 0
    assert all(
        frame[name].null_count() == frame.height for name in ("ci_low", "ci_high", "p", "p_family", "q")
    )
    assert resampling.few_clusters_note(3) == "only 3 terms: no statement about other terms"


def test_examples_of_one_cluster_are_no_evidence_of_their_own():
    once, often = np.random.default_rng(0).normal(0.3, 1, (2, 12)), 50
    groups = [f"g{j:02d}" for j in range(12)]
    one, many = summary(table(once)), summary(table(np.tile(once, often), groups=groups * often))
    assert many["p"].to_list() == one["p"].to_list()
    np.testing.assert_allclose(rows(many, statistic="mean")["ci_low"], rows(one, statistic="mean")["ci_low"])


def test_a_site_that_lacks_examples_is_measured_on_those_it_has():
    values = np.random.default_rng(0).normal(size=(3, 60))
    groups = [f"g{j % 20:02d}" for j in range(60)]
    values[1, [0, 4, 20, 40]] = np.nan
    frame, alone = summary(table(values, groups=groups)), summary(table(values[1:2], groups=groups))
    row, same = (
        rows(part, statistic="mean", head=head).row(0, named=True) for part, head in ((frame, 1), (alone, 0))
    )
    assert (row["n"], row["clusters"]) == (56, 19)
    assert row["estimate"] == pytest.approx(np.nanmean(values[1]))
    assert (row["ci_low"], row["ci_high"], row["p"]) == pytest.approx(
        (same["ci_low"], same["ci_high"], same["p"])
    )


def test_slope_ranks_and_the_other_rows_follow_in_the_same_order_of_sites():
    values = np.random.default_rng(0).normal(size=(4, 20))
    values[2] = np.nan
    effects = pl.concat(
        [table(values * 9, metric="competence"), table(values), table(values**2, metric="kl")]
    )
    frame = summary(effects, shares(20))
    kinds = frame.select("metric", "statistic").unique(maintain_order=True).rows()
    assert kinds == [("target", s) for s in ("slope", "mean", "rms")] + [
        ("competence", s) for s in ("mean", "rms")
    ] + [("kl", "mean")]
    order = frame["head"].to_list()
    assert order == order[:4] * 6
    sizes = frame["estimate"].head(3).abs().to_list()
    assert sizes == sorted(sizes, reverse=True)
    assert frame["estimate"][3] is None


def test_without_labour_statistics_the_mean_ranks():
    frame = summary(table(np.random.default_rng(0).normal(size=(4, 20))), None)
    assert set(ranking(frame)["statistic"]) == {"mean"}
    assert "slope" not in set(frame["statistic"])
    assert headline(frame)["estimate"] == max(ranking(frame)["estimate"], key=abs)


def test_kl_and_rms_have_intervals_but_no_p():
    frame = summary(table(np.random.default_rng(0).uniform(0, 1, (3, 20)), metric="kl"))
    rms = rows(summary(table(np.random.default_rng(0).normal(size=(3, 20)))), statistic="rms")
    for part in (frame, rms):
        assert part["p"].null_count() == part["q"].null_count() == 3
        assert (part["ci_low"] < part["estimate"]).all()
        assert (part["estimate"] < part["ci_high"]).all()


def test_heads_mlps_positions_and_sources_are_one_family_and_containing_hook_points_another():
    values = np.random.default_rng(0).normal(0.3, 1, (30, 12))
    heads, alone = table(values), table(values[:1], heads=False)
    many = pl.concat(
        [
            heads,
            table(values * 1.1, component="mlp_out", heads=False),
            table(-values).with_columns(source=pl.lit("zero")),
        ]
    )
    moved = table(values).with_columns(position=pl.lit("term"))
    one, all_of_them = (
        rows(summary(pl.concat([part, alone])), statistic="mean")
        for part in (heads, pl.concat([many, moved]))
    )
    lowest = [
        part.filter(pl.col("head").is_not_null(), source="mean", position="all").sort("head")["p_family"]
        for part in (one, all_of_them)
    ]
    # the further members are copies of the heads: the maximum is that of the heads, however many there are
    np.testing.assert_allclose(*lowest)
    for part in (one, all_of_them):
        whole = part.filter(pl.col("component") == "z", pl.col("head").is_null())
        assert whole["p_family"].to_list() == whole["p"].to_list()


def test_members_that_were_not_measured_stand_in_the_maximum_and_nowhere_else():
    values = np.random.default_rng(0).normal(0.3, 1, (30, 24))
    effects = table(values)
    chosen, others = effects.filter(pl.col("head") < 3), effects.filter(pl.col("head") >= 3)
    whole, part = summary(effects), summary(chosen, beside=others.lazy())
    assert part.height == 3 * len({"mean", "rms"})
    for name in ("p", "p_family", "ci_low"):
        expected = rows(whole, statistic="mean").filter(pl.col("head") < 3).sort("head")[name]
        np.testing.assert_allclose(rows(part, statistic="mean").sort("head")[name], expected)
    assert (
        rows(summary(chosen), statistic="mean")["p_family"] <= rows(part, statistic="mean")["p_family"]
    ).all()


def test_only_the_ranking_statistic_has_a_family():
    effects = pl.concat(
        [
            table(np.random.default_rng(0).normal(1, 1, (4, 24)), metric=metric)
            for metric in ("target", "competence")
        ]
    )
    frame = summary(effects, shares(24))
    ranks = (pl.col("metric") == "target") & (pl.col("statistic") == "slope")
    assert frame.filter(ranks)["p_family"].null_count() == 0
    assert (
        frame.filter(~ranks)["p_family"].null_count()
        == frame.filter(~ranks)["carried_by"].null_count()
        == frame.filter(~ranks).height
    )
    assert frame.filter(pl.col("statistic") == "mean")["p"].null_count() == 0


def test_what_one_group_carries_is_named_and_has_no_star():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 24))
    values[0] += 3
    share = shares(24)
    x = np.array([share[f"g{j:02d}"] for j in range(24)])
    far = int(x.argmax())
    values[1] = 0.1 * rng.normal(size=24)
    steep = table(np.stack([0.05 * x + rng.normal(size=24), values[1] + 9 * (np.arange(24) == far)]))
    frame = rows(summary(table(values)), statistic="mean")
    assert [schemas.mark(row) for row in frame.iter_rows(named=True)] == ["*", "", ""]
    slopes = {
        row["head"]: row for row in rows(summary(steep, share), statistic="slope").iter_rows(named=True)
    }
    assert (schemas.mark(slopes[0]), slopes[0]["carried_by"]) == ("*", None)
    assert slopes[1]["p_family"] > 0.05 or slopes[1]["carried_by"] == f"g{far:02d}"


def test_intervals_of_unequal_groups_and_of_skewed_values_are_marked():
    rng = np.random.default_rng(0)
    equal, skewed = rng.normal(size=30), rng.normal(size=30)
    skewed[3] = 40.0
    found = (
        rows(summary(table(np.stack([equal, skewed]))), statistic="mean").sort("head")["caution"].to_list()
    )
    assert found == [None, "skewed values"]
    groups = [
        f"g{j:02d}" for j, size in enumerate([1, 1, 2, 2, 3, 3, 4, 5, 8, 20, 40, 80]) for _ in range(size)
    ]
    uneven = summary(table(rng.normal(size=(1, len(groups))), groups=groups))
    assert rows(uneven, statistic="mean")["caution"].to_list() == ["unequal groups"]


def test_order_of_rows_in_does_not_change_a_digit_out():
    effects = table(
        np.random.default_rng(0).normal(size=(5, 60)), groups=[f"g{j % 20:02d}" for j in range(60)]
    )
    assert summary(effects, shares(20)).equals(
        summary(effects.sample(fraction=1, shuffle=True, seed=1), shares(20))
    )


def test_top_takes_heads_of_z_but_never_the_whole_hook_point():
    values = np.random.default_rng(0).normal(size=(3, 20))
    frame = summary(
        pl.concat(
            [
                table(values),
                table(100 * values, heads=False),
                table(10 * values, component="mlp_out", heads=False),
            ]
        )
    )
    strongest = np.argsort(-np.abs(values.mean(1)))
    assert top(frame, 9) == [
        *(Site(int(i), "mlp_out") for i in strongest),
        *(Site(0, "z", int(i)) for i in strongest),
    ]


@pytest.mark.parametrize("share", [None, shares(20)], ids=["mean", "slope"])
@pytest.mark.parametrize("ends", [False, True])
def test_sites_ranked_by_estimates_alone_stand_as_in_the_summary(share, ends):
    values = np.random.default_rng(0).normal(size=(9, 20))
    values[1], values[2, :16], values[3] = values[0], np.nan, 0.0
    effects = table(values)
    whole, alone = ranking(summary(effects, share)), estimated(effects, Design(share), ends=ends)
    columns = ["layer", "component", "head", "statistic", "unit", "estimate"]
    assert alone.select(columns).equals(whole.select(columns))
    assert chosen(alone, 3, 0) == chosen(whole, 3, 0)


def test_nothing_to_summarise_is_an_error():
    for frame, act in (
        (EFFECTS.to_frame(), summary),
        (TRIPLES.to_frame(), lambda f: published.stereoset(f, model="m", dataset="d")),
    ):
        with pytest.raises(DataError, match="0 rows"):
            act(frame)


def triples(*table_rows, split="intrasentence"):
    """TRIPLES of (group, bias type, stereo, anti, unrelated)."""
    return pl.DataFrame(
        [(split, f"{split}{i}", *row) for i, row in enumerate(table_rows)], schema=TRIPLES, orient="row"
    )


THREE = [("a", "race", 3.0, 2.0, 1.0), ("a", "race", 2.0, 2.0, 2.0), ("b", "race", 3.0, 2.5, 2.0)]


def test_lms_ss_icat_by_hand_with_ties_as_published():
    # a: row 1 prefers the stereotype and both related sentences; row 2 is all ties: anti, and not related.
    # LMS 50, SS 50. b: LMS 100, SS 100. Over terms: LMS 75, SS 75, ICAT = 75 · min(75, 25) / 50 = 37.5.
    # Pooled over 3 examples: LMS (100 + 0 + 100) / 3 = 66.7, SS 66.7, ICAT = 66.7 · 33.3 / 50 = 44.4.
    frame = rows(published.stereoset(triples(*THREE), model="m", dataset="d"), subset="all")
    assert frame["statistic"].to_list() == ["lms", "ss", "icat", "lms_pooled", "ss_pooled", "icat_pooled"]
    assert frame["estimate"].to_list() == pytest.approx([75, 75, 37.5, 200 / 3, 200 / 3, 400 / 9])
    assert (frame["n"].to_list(), frame["clusters"].to_list()) == ([3] * 6, [2] * 6)


def test_one_related_sentence_of_two_is_half_of_lms():
    frame = published.stereoset(triples(("a", "race", 3.0, 1.0, 2.0)), model="m", dataset="d")
    assert rows(frame, statistic="lms")["estimate"].to_list() == [50.0]


def test_overall_is_the_mean_over_all_terms_not_of_the_types_and_splits_merge_by_term():
    # gender: one term, SS 0. race: terms a 50, b 100. Overall (0 + 50 + 100) / 3 = 50; the mean of the types
    # would be 37.5. The other split adds one anti example to b: b = 50 over both splits, overall (0 + 50 +
    # 50) / 3.
    one, other = (
        triples(*THREE, ("c", "gender", 1.0, 2.0, 0.0)),
        triples(("b", "race", 1.0, 2.0, 0.0), split="intersentence"),
    )
    found = {
        name: published.stereoset(frame, model="m", dataset="d")
        for name, frame in (("one", one), ("both", pl.concat([one, other])))
    }
    ss = {
        name: dict(rows(frame, statistic="ss").select("subset", "estimate").rows())
        for name, frame in found.items()
    }
    assert ss["one"]["all"] == pytest.approx(50)
    assert ss["one"]["bias type: race"] == pytest.approx(75)
    assert ss["both"]["all"] == pytest.approx(100 / 3)
    assert ss["both"]["intrasentence"] == pytest.approx(50)
    assert ss["both"]["intersentence, bias type: race"] == 0


def test_stereoset_intervals_hold_the_estimate_and_end_at_100_per_cent():
    values = np.random.default_rng(0).normal([0.3, 0, -1], 1, (400, 3))
    frame = published.stereoset(
        triples(*((f"t{i % 20}", "race", *row) for i, row in enumerate(values))), model="m", dataset="d"
    )
    whole = rows(frame, subset="all")
    assert ((whole["ci_low"] < whole["estimate"]) & (whole["estimate"] < whole["ci_high"])).all()
    high = triples(*((f"t{i}", "race", 1.0, 0.0, 0.5 if i < 4 else -1.0) for i in range(8)))
    assert rows(published.stereoset(high, model="m", dataset="d"), statistic="lms")["ci_high"].to_list() == [
        100.0
    ]


def test_below_six_clusters_each_group_has_its_own_mean():
    values = np.random.default_rng(0).normal(size=(2, 6))
    groups = ["a", "a", "b", "c", "c", "c"]
    frame = summary(table(values, groups=groups), subset="term")
    assert frame["subset"].unique().sort().to_list() == ["term: a", "term: b", "term: c"]
    row = rows(frame, subset="term: c", head=1).row(0, named=True)
    assert (row["estimate"], row["n"], row["clusters"]) == (pytest.approx(values[1, 3:].mean()), 3, 1)
    assert frame["ci_low"].null_count() == frame["p"].null_count() == frame.height
    assert set(ranking(summary(table(values, groups=groups), subset=""))["subset"]) == {"all"}


def test_groups_that_are_each_other_s_twin_are_one_cluster_and_keep_their_own_x():
    # 8 groups in 4 pairs and 6 single ones; a pair's effects mirror each other
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 14))
    values[:, 1:8:2] = -values[:, 0:8:2]
    share = {f"g{j:02d}": float(90 - 3 * j if j % 2 else 10 + j) for j in range(14)}
    partners = {f"g{j:02d}": f"g{j ^ 1:02d}" for j in range(8)} | {"g08": "g09", "g10": "elsewhere"}
    alone, merged = (summary(table(values), share, partners=p) for p in ({}, partners))
    for statistic in ("slope", "mean"):
        one, two = (rows(frame, statistic=statistic).sort("head") for frame in (alone, merged))
        # the estimate is over groups whatever the clusters
        np.testing.assert_allclose(one["estimate"], two["estimate"])
        assert (set(one["clusters"]), set(two["clusters"]), set(two["n"])) == ({14}, {10}, {14})
        assert (one["ci_low"] != two["ci_low"]).all()
    # over whole pairs that cancel, the mean's error is that of the six single groups alone
    single = table(values[:, 8:], groups=[f"g{j:02d}" for j in range(8, 14)])
    expected = rows(summary(single), statistic="mean").sort("head")["estimate"] * 6 / 14
    np.testing.assert_allclose(rows(merged, statistic="mean").sort("head")["estimate"], expected)


def with_total(values, total, **more):
    """EFFECTS of sites and of the whole prompt exchanged for its twin."""
    whole = table(np.asarray(total)[None], **more)
    none = pl.lit(None, pl.Int32)
    return pl.concat(
        [table(values, **more), whole.with_columns(component=pl.lit(TOTAL), layer=none, head=none)]
    )


def test_recovered_is_the_share_of_the_total_by_hand_and_null_where_the_total_may_be_zero():
    # six clusters; site 0 recovers exactly half, site 1 has mean 1.5 of a total of mean 3.5
    total = np.array([1.0, 2, 3, 4, 5, 6])
    frame = rows(summary(with_total([total / 2, [1, 1, 1, 2, 2, 2]], total)), statistic="mean")
    found = {row["head"]: row for row in frame.iter_rows(named=True)}
    assert (found[0]["recovered"], found[1]["recovered"]) == (pytest.approx(0.5), pytest.approx(1.5 / 3.5))
    assert found[1]["recovered_low"] < 1.5 / 3.5 < found[1]["recovered_high"]
    assert frame["component"][-1] == TOTAL and set(ranking(frame)["component"]) == {"z"}
    unclear = summary(with_total([total / 2], total * [1, -1, 1, -1, 1, -1]))
    assert unclear["recovered"].null_count() == unclear.height


def test_the_slope_recovered_is_a_ratio_of_slopes_and_a_site_that_lacks_examples_has_none():
    share = shares(20)
    rng = np.random.default_rng(0)
    x = np.array([share[f"g{j:02d}"] for j in range(20)])
    total = 0.02 * x + rng.normal(0, 0.1, 20)
    values = rng.normal(size=(3, 20))
    values[2, 4] = np.nan
    frame = rows(summary(with_total(values, total), share), statistic="slope")
    found = {row["head"]: row["recovered"] for row in frame.iter_rows(named=True) if row["component"] == "z"}
    for head in (0, 1):
        assert found[head] == pytest.approx(np.polyfit(x, values[head], 1)[0] / np.polyfit(x, total, 1)[0])
    assert found[2] is None


def test_720_sites_of_1000_examples_take_seconds():
    values = np.random.default_rng(0).normal(size=(720, 1000))
    groups = [f"g{j % 60:02d}" for j in range(1000)]
    effects = table(values, groups=groups)
    start = time.process_time()
    frame = summary(effects, shares(60))
    trusted = reliability.assess(effects, frame, design=Design(shares(60)))
    assert (frame.height, trusted.height) == (720 * 3, 12)
    assert time.process_time() - start < 20
