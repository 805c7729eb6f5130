"""What an edit leaves and how it ranks among random ones, on numbers worked by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from biasscope.engine.schemas import EDITS, EFFECTS
from biasscope.engine.statistics import mitigate
from biasscope.engine.types import Design, Site

GROUPS = [f"g{i:02d}" for i in range(24)]
X = {group: float(i) for i, group in enumerate(GROUPS)}
DESIGN = Design(X)


def rows(
    name: str, factor: float, dataset: str = "w", metric: str = "target", shift: float = 0.0
) -> pl.DataFrame:
    """EFFECTS of an edit that leaves that share of a slope of 1 per group, on every group."""
    rng = np.random.default_rng(len(GROUPS))
    made = []
    for group, x in X.items():
        before = x + rng.normal(scale=0.3)
        after = factor * before + shift
        made.append(
            (
                f"{group}.0",
                group,
                dataset,
                "mean",
                metric,
                "edit",
                None,
                None,
                name,
                before,
                after,
                after - before,
            )
        )
    return pl.DataFrame(made, EFFECTS, orient="row")


def edit(name: str, role: str = "own", of: str | None = None, used: bool = True) -> dict:
    same = {"name": name, "kind": "mean", "role": role, "of": of or name, "dose": 1.0, "used": used}
    return dict.fromkeys(EDITS) | same


def study(*effects: pl.DataFrame, edits: list[dict]) -> mitigate.Study:
    table = pl.DataFrame(edits, EDITS)
    return mitigate.Study(pl.concat(effects), table, {"w": DESIGN, "o": DESIGN}, frozenset(GROUPS[:12]), "m")


def found(summary: pl.DataFrame, statistic: str, subset: str = "judged", **more) -> dict:
    (row,) = summary.filter(statistic=statistic, subset=subset, metric="target", **more).to_dicts()
    return row


def test_left_is_the_statistic_after_over_before_on_the_half_that_judges():
    chose = rows("mean-1@1", 0.1).filter(pl.col("group").is_in(GROUPS[12:]))
    judges = rows("mean-1@1", 0.4, shift=2.0).filter(pl.col("group").is_in(GROUPS[:12]))
    elsewhere = rows("mean-1@1", 0.6, "o")
    summary = mitigate.summarise(study(chose, judges, elsewhere, edits=[edit("mean-1@1")]))
    assert found(summary, "left")["estimate"] == pytest.approx(0.4)
    assert found(summary, "left", "choosing")["estimate"] == pytest.approx(0.1)
    assert found(summary, "left", "transfer")["estimate"] == pytest.approx(0.6)
    slope = found(summary, "slope")
    assert slope["estimate"] == pytest.approx(-1.5 * found(summary, "value")["estimate"], rel=1e-6)
    assert found(summary, "mean")["estimate"] == pytest.approx(2 - 0.6 * judges["baseline"].mean())
    assert slope["p_family"] < 0.05 and found(summary, "slope", "choosing")["p_family"] is None
    assert set(summary["method"]) == {"mean"} and slope["position"] == "mean-1@1"


def test_left_is_null_where_the_clean_slope_may_be_0():
    flat = rows("mean-1@1", 0.4).with_columns(baseline=pl.col("baseline").shuffle(3))
    flat = flat.with_columns(value=0.4 * pl.col("baseline"), effect=-0.6 * pl.col("baseline"))
    row = found(mitigate.summarise(study(flat, edits=[edit("mean-1@1")])), "left")
    assert row["estimate"] is None and row["ci_low"] is None


def test_a_rank_counts_the_draws_that_take_as_much_and_its_band_is_of_draws():
    factors = [0.3, 0.5, *np.linspace(0.9, 1.1, 18).tolist()]
    drawn = [f"mean-1@1.cost-{i:02d}" for i in range(len(factors))]
    made = [edit("mean-1@1"), *(edit(name, "cost", "mean-1@1") for name in drawn)]
    made.append(edit("mean-1@1.cost-99", "cost", "mean-1@1", used=False))
    effects = [rows("mean-1@1", 0.4), *(rows(n, f) for n, f in zip(drawn, factors, strict=True))]
    summary = mitigate.summarise(study(*effects, edits=made))
    rank, band = found(summary, "rank", source="cost"), found(summary, "random", source="cost")
    assert rank["estimate"] == pytest.approx((1 + 1) / 21) and rank["n"] == 20
    clean = found(summary, "value")["estimate"] / 0.4
    left = mitigate.share([band["ci_low"], band["estimate"], band["ci_high"]], clean)
    assert left == pytest.approx(np.quantile(factors, [0.05, 0.5, 0.95]), abs=1e-6)
    none = [edit("mean-1@1"), edit("mean-1@1.cost-00", "cost", "mean-1@1", used=False)]
    rank = found(mitigate.summarise(study(effects[0], edits=none)), "rank")
    assert rank["n"] == 0 and rank["estimate"] is None


def test_where_the_clean_slope_is_negative_a_rank_is_of_those_that_raise_it():
    turned = [
        r.with_columns(-pl.col("baseline", "value", "effect"))
        for r in (rows("mean-1@1", 0.4), rows("a", 1.2))
    ]
    summary = mitigate.summarise(study(*turned, edits=[edit("mean-1@1"), edit("a", "size", "mean-1@1")]))
    assert found(summary, "rank")["estimate"] == pytest.approx(1 / 2)
    assert found(summary, "left")["estimate"] == pytest.approx(0.4)


def site_rows(head: int, effect: float, sign: float = 1.0) -> pl.DataFrame:
    base = rows("all", 1 + effect).with_columns(component=pl.lit("z"), layer=pl.lit(0, pl.Int32))
    return base.with_columns(pl.col("baseline", "value", "effect") * sign, head=pl.lit(head, pl.Int32))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_heads_rank_by_what_lowers_the_bias_and_not_by_size(sign):
    effects = pl.concat(site_rows(head, e, sign) for head, e in enumerate([0.9, -0.2, -0.5, 0.0]))
    assert mitigate.lowering(effects, DESIGN) == [Site(0, "z", h) for h in (2, 1, 3, 0)]


def test_facts_are_the_share_of_right_pronouns_and_the_gap_between_the_nouns():
    """Eight sentences, both nouns: right in 16 of 16 before, in 14 after; the mean gap of 4 becomes 2."""
    made = []
    for number, group in enumerate(GROUPS[:8]):
        apart, more = 2.0 + (number - 3.5) / 10, 2 * (number < 2)
        for noun, before, after in (("m", apart, apart / 2 + more), ("f", apart, apart / 2 - more)):
            ends = (
                f"{group}.{noun}",
                group,
                "definitional",
                "mean",
                "target",
                "edit",
                None,
                None,
                "mean-1@1",
            )
            made.append((*ends, before, after, after - before))
    facts = pl.DataFrame(made, EFFECTS, orient="row")
    summary = mitigate.summarise(study(rows("mean-1@1", 0.4), facts, edits=[edit("mean-1@1")]))
    own, clean = ({"position": name, "subset": "facts"} for name in ("mean-1@1", "clean"))
    assert found(summary, "accuracy", **own)["estimate"] == pytest.approx(14 / 16)
    assert found(summary, "accuracy", **clean)["estimate"] == 1.0
    assert found(summary, "gap", **clean)["estimate"] == pytest.approx(4.0)
    assert found(summary, "gap", **own)["estimate"] == pytest.approx(2.0)
    assert found(summary, "left", **own)["estimate"] == pytest.approx(0.5)
    assert found(summary, "gap", **own)["clusters"] == 8


def test_the_loss_on_text_is_per_token_and_its_interval_over_paragraphs():
    made = []
    for number, group in enumerate(GROUPS[:8]):
        for token in range(number + 1):
            ends = (f"{group}.{token}", group, "text", "mean", "nll", "edit", None, None, "mean-1@1")
            made.append((*ends, 3.0, 3.0 + number / 10, number / 10))
    text = pl.DataFrame(made, EFFECTS, orient="row")
    summary = mitigate.summarise(study(rows("mean-1@1", 0.4), text, edits=[edit("mean-1@1")]))
    (row,) = summary.filter(statistic="nll").to_dicts()
    assert row["estimate"] == pytest.approx(sum(n * (n + 1) for n in range(8)) / 10 / 36)
    assert (row["n"], row["clusters"], row["unit"]) == (36, 8, "nats per token")
    assert summary.filter(statistic="nll_clean")["estimate"].to_list() == [3.0]


def test_a_head_of_an_edited_model_is_tested_beside_those_that_were_only_estimated():
    rng = np.random.default_rng(1)
    own = [edit("mean-1@1")]

    def head(number: int, slope: float) -> pl.DataFrame:
        made = rows("mean-1@1", 1.0).filter(pl.col("group").is_in(GROUPS[:12]))
        effect = slope * np.array([X[g] for g in made["group"]]) + rng.normal(size=made.height)
        site = {"component": pl.lit("z"), "layer": pl.lit(1, pl.Int32), "head": pl.lit(number, pl.Int32)}
        return made.with_columns(effect=effect, **site)

    base = study(rows("mean-1@1", 0.4), edits=own)
    near, far = head(0, 0.3), pl.concat(head(i, 0.0) for i in range(1, 30))
    alone, beside = (
        mitigate.summarise(replace(base, audit=near, estimates=other)).filter(subset="audit")
        for other in (far.clear(), far)
    )
    (row,), (same,) = beside.to_dicts(), alone.to_dicts()
    assert (row["position"], row["layer"], row["head"], row["method"]) == ("mean-1@1", 1, 0, "mean")
    assert row["estimate"] == pytest.approx(same["estimate"]) and row["clusters"] == 12
    assert same["p_family"] == same["p"] and row["p_family"] > 3 * row["p"]
