"""Two runs on the same examples: the difference is the planted one, its interval holds it 95 times in 100."""

import numpy as np
import polars as pl
import pytest

from biasscope.engine.errors import DataError
from biasscope.engine.schemas import EFFECTS, SCORES, SUMMARY, TRIPLES
from biasscope.engine.statistics import baseline, paired, paired_scores
from biasscope.engine.statistics.cells import covariates
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.paired_scores import Clean
from biasscope.engine.types import Covariate, Dataset, Design, Example

K, EACH = 30, 4


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 999)
    monkeypatch.setattr(resampling, "BCA", 499)


def ids(k: int = K) -> list[tuple[str, str]]:
    """Example and group of k groups of four examples."""
    return [(f"e{g}.{i}", f"g{g:02}") for g in range(k) for i in range(EACH)]


def rows_of(metric: str, statistics: list[str]) -> pl.DataFrame:
    """A SUMMARY that says which statistics a run has."""
    named = pl.DataFrame({"subset": "all", "metric": metric, "statistic": statistics, "dataset": "d"})
    return pl.concat([SUMMARY.to_frame(), named], how="diagonal")


def clean(values: np.ndarray, names: list[tuple[str, str]], *, slope: bool = False) -> Clean:
    """A baseline of target alone, with a covariate per group or none."""
    rows = [(e, g, "d", "target", float(v)) for (e, g), v in zip(names, values, strict=True)]
    groups = sorted({g for _, g in names})
    covariates = pl.DataFrame(
        {"group": groups, "name": "x", "key": "", "value": np.linspace(0, 100, len(groups))}
    )
    statistics = ["mean", "rms", *(["slope", "pearson"] if slope else [])]
    summary = rows_of("target", statistics)
    empty = pl.DataFrame(schema={"example_id": pl.String, "subset": pl.String})
    table = pl.DataFrame(rows, SCORES, orient="row")
    return Clean(table, TRIPLES.to_frame(), empty, covariates.clear() if not slope else covariates, summary)


def row(table: pl.DataFrame, statistic: str) -> dict:
    """The one row of a statistic."""
    return table.filter(statistic=statistic, subset="all").row(0, named=True)


def test_what_is_common_to_both_cancels_and_the_second_minus_the_first_is_left():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 5, K * EACH)
    first, second = (clean(common + shift, ids()) for shift in (0.5, 0.2))
    mean = row(paired_scores.differences(first, second), "mean")
    assert mean["estimate"] == pytest.approx(-0.3)
    assert (mean["first_estimate"], mean["second_estimate"]) == pytest.approx(
        (common.mean() + 0.5, common.mean() + 0.2)
    )
    noisy = clean(common + 0.2 + rng.normal(0, 0.1, K * EACH), ids())
    noise = row(paired_scores.differences(first, noisy), "mean")
    assert noise["ci_low"] < -0.3 < noise["ci_high"] < 0  # 5 nats of noise that both have are not in it
    assert noise["p"] < 0.01


@pytest.mark.parametrize("slope", [False, True])
def test_a_run_against_itself_is_0_with_p_1_and_no_star(slope):
    one = clean(np.random.default_rng(1).normal(size=K * EACH), ids(), slope=slope)
    table = paired_scores.differences(one, one)
    assert table.height == (4 if slope else 2)
    assert table.select(pl.col("estimate", "ci_low", "ci_high") == 0).to_numpy().all()
    ranks = row(table, "slope" if slope else "mean")
    assert (ranks["p"], ranks["p_family"]) == (1.0, 1.0)


def test_examples_and_groups_of_one_run_alone_are_left_out_and_counted():
    values = np.random.default_rng(2).normal(size=K * EACH)
    first, second = clean(values, ids()), clean(values[6:] + 1, ids()[6:])
    matched = paired.Matched.of(first.ids, second.ids)
    assert (matched.examples, matched.examples_first_only, matched.examples_second_only) == (114, 6, 0)
    assert (matched.groups, matched.groups_first_only) == (29, 1)
    assert "6 only in the first" in matched.left
    mean = row(paired_scores.differences(first, second), "mean")
    assert mean["n"] == 114 and mean["first_estimate"] == pytest.approx(values[6:].mean())
    with pytest.raises(DataError, match="no example is in both runs"):
        paired_scores.differences(first, clean(values[:4], [(f"x{i}", "g") for i in range(4)]))


def test_ss_of_two_runs_by_hand():
    """Terms a to f: SS 50 each, then 100 in a and 50 else: 300/6 → 350/6."""
    rows = [(f"{t}{i}", t) for t in "abcdef" for i in range(2)]

    def run(wins: set[str]) -> Clean:
        triples = [("s", e, t, "race", 1.0 if e in wins else -1.0, 0.0, -2.0) for e, t in rows]
        names = ["lms", "ss", "icat"]
        empty, summary = clean(np.zeros(len(rows)), rows), rows_of("stereoset", names)
        table = pl.DataFrame(triples, TRIPLES, orient="row")
        return Clean(SCORES.to_frame(), table, empty.subsets, empty.covariates, summary)

    half = {f"{t}0" for t in "abcdef"}
    table = paired_scores.differences(run(half), run(half | {"a1"}))
    ss, icat, lms = (row(table, name) for name in ("ss", "icat", "lms"))
    assert (ss["first_estimate"], ss["second_estimate"]) == pytest.approx((50, 350 / 6))
    assert ss["estimate"] == pytest.approx(50 / 6) and icat["estimate"] == pytest.approx(-2 * 50 / 6)
    assert (lms["estimate"], lms["p"]) == (0, 1.0)


def test_slopes_fitted_together_differ_by_the_fit_of_the_changes_and_only_over_the_same_examples():
    shares = {"nurse": 10.0, "baker": 40.0, "cook": 50.0, "guard": 80.0}
    pairs = [(a, b) for a in shares for b in shares if a != b]
    examples = [
        Example(f"{a}.{b}", "d", "gender", b, f"The {a} told the {b} that", " he", " she", meta={"other": a})
        for a, b in pairs
    ]
    covariate = Covariate("share of men", "%", shares)
    data = Dataset("d", tuple(examples), "", len(pairs), covariates=(covariate,), rule="roles")
    rng = np.random.default_rng(6)

    def run(values: np.ndarray) -> Clean:
        rows = [(e.id, e.group, "d", "target", float(v)) for e, v in zip(examples, values, strict=True)]
        scores = pl.DataFrame(rows, SCORES, orient="row")
        table = baseline.baseline(scores, data, model="m", design=Design(shares))
        return Clean(scores, TRIPLES.to_frame(), baseline.subsets(data), covariates(data), table)

    first, second = rng.normal(size=(2, len(pairs)))
    found = paired_scores.differences(run(first), run(second))
    wanted = run(second - first).summary
    for name in ("slope_first", "slope_second"):
        assert row(found, name)["estimate"] == pytest.approx(row(wanted, name)["estimate"])
        assert row(found, name)["first_estimate"] == row(run(first).summary, name)["estimate"]
    second[0] = np.nan
    assert "slope_first" not in paired_scores.differences(run(first), run(second))["statistic"]


def effects(change: np.ndarray, x: np.ndarray) -> tuple[pl.LazyFrame, pl.LazyFrame, Design]:
    """EFFECTS of two models at sites whose difference is `change`, `group site`."""
    frames = []
    for values in (np.zeros_like(change), change):
        rows = [
            (f"e{g}", f"g{g:02}", "d", "mean", "target", "z", 0, h, "all", 0.0, 0.0, float(v) + 1)
            for g, line in enumerate(values)
            for h, v in enumerate(line)
        ]
        frames.append(pl.DataFrame(rows, EFFECTS, orient="row").lazy())
    design = Design({f"g{g:02}": float(v) for g, v in enumerate(x)})
    return frames[0], frames[1], design


def test_differences_of_sites_are_one_family_and_chosen_sites_have_no_star():
    rng, x = np.random.default_rng(4), np.linspace(-1.7, 1.7, 40)
    change = rng.normal(size=(40, 12)) * 0.3
    change[:, 3] += 0.5 * x
    change[:, 5] = 0
    first, second, design = effects(change, x)
    table = paired.sites(first, second, design).filter(statistic="slope")
    assert table["head"][0] == 3 and table["p_family"][0] < 0.05
    assert (table["p_family"] >= table["p"]).all() and table.filter(head=5)["p_family"][0] == 1
    chosen = paired.sites(first, second, design, tested=False)
    assert chosen["p_family"].is_null().all() and chosen["ci_low"].is_not_null().any()


def test_models_of_other_shapes_share_tenths_of_the_depth():
    first, second, _ = effects(np.ones((8, 4)), np.arange(8.0))
    deep = second.with_columns(layer=pl.lit(19, pl.Int32))
    tenths = [paired.by_depth(frame, layers).collect() for frame, layers in ((first, 1), (deep, 20))]
    assert set(tenths[0]["layer"]) == {0} and set(tenths[1]["layer"]) == {9}
    assert tenths[1]["effect"].unique().to_list() == [2.0] and tenths[1].height == 8


def test_the_paired_interval_covers_and_the_test_keeps_its_size():
    """Studies as sites: 1,500 of 30 groups whose spread in the difference grows with the covariate."""
    rng, x = np.random.default_rng(5), np.linspace(-1.7, 1.7, K)
    for statistic, truth in (("mean", 0.4), ("slope", 0.0)):
        change = rng.normal(size=(K, 1500)) * (0.5 + np.abs(x))[:, None] + truth
        first, second, design = effects(change, x)
        used = design if statistic == "slope" else Design()
        table = paired.sites(first, second, used, tested=False).filter(statistic=statistic)
        covered = ((table["ci_low"] <= truth) & (truth <= table["ci_high"])).mean()
        assert 0.93 <= covered <= 0.97, statistic
    first, second, design = effects(rng.normal(size=(K, 1500)) * (0.5 + np.abs(x))[:, None], x)
    for used, statistic in ((design, "slope"), (Design(), "mean")):
        p = paired.sites(first, second, used).filter(statistic=statistic)["p"]
        assert 0.03 <= (p < 0.05).mean() <= 0.07, statistic
