"""The rows of the baseline: which examples each is about, and the correlations."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

from biasscope.engine.schemas import SCORES
from biasscope.engine.statistics import baseline, summary
from biasscope.engine.types import Covariate, Dataset, Design, Example


def dataset(examples, **fields):
    return Dataset("d", tuple(examples), "0", len(examples), **fields)


def rows(frame, **wanted):
    return frame.filter(*(pl.col(name) == value for name, value in wanted.items()))


def winogender(n=20):
    """Scores, data and shares of men of n occupations, four examples each; only occupation 0 has a readout
    that tells its two answers apart. The second covariate is the other way round.
    """
    examples, scores, share = [], [], {f"g{j:02d}": float(j * j % 97) for j in range(n)}
    for j, (group, men) in enumerate(share.items()):
        for participant in ("guest", "someone"):
            for answer in ("occupation", "participant"):
                prompt = f"{group} {participant}" + (f" {answer}" if j == 0 else "")
                facts = {
                    "participant": participant,
                    "answer": answer,
                    "case": "nominative" if j % 2 else "possessive",
                }
                name = f"{group}.{participant}.{answer}"
                examples.append(
                    Example(name, "winogender", "gender", group, prompt, " he", " she", meta=facts)
                )
                scores += [
                    (examples[-1].id, group, "winogender", metric, men / 100 + len(participant))
                    for metric in ("target", "competence")
                ]
    covariates = (
        Covariate("share of men", "%", share, "bls"),
        Covariate(
            "share of men in texts", "%", {group: 100 - men for group, men in share.items()}, "bergsma"
        ),
    )
    data = dataset(examples, covariates=covariates, noun="occupation")
    return pl.DataFrame(scores, schema=SCORES, orient="row"), data, share


def test_a_group_without_a_covariate_has_none_and_no_place_in_the_slope():
    scores, data, share = winogender()
    some = {group: men for group, men in share.items() if group > "g03"}
    data = dataset(data.examples, covariates=(Covariate("share of men", "%", some),), noun="occupation")
    frame = baseline.baseline(scores, data, model="m", design=Design(some))
    known = rows(frame, metric="covariate")["estimate"]
    assert known.null_count() == 4 and known.is_nan().sum() == 0
    assert rows(frame, subset="all", metric="target", statistic="slope")["clusters"].item() == 16


def test_baseline_correlations_have_the_sign_of_the_stereotype():
    scores, data, share = winogender()
    noisy = scores.with_columns(
        pl.col("value") + pl.Series(np.random.default_rng(0).normal(0, 0.5, scores.height))
    )
    frame = baseline.baseline(noisy, data, model="m", design=Design(share))
    means = (
        noisy.filter(pl.col("metric") == "target")
        .group_by("group")
        .agg(pl.col("value").mean())
        .sort("group")["value"]
    )
    found = {row["statistic"]: row for row in frame.filter(pl.col("unit") == "r").iter_rows(named=True)}
    assert found["pearson_bls"]["estimate"] == pytest.approx(pearsonr(means, list(share.values()))[0])
    assert found["spearman_bls"]["estimate"] == pytest.approx(spearmanr(means, list(share.values()))[0])
    # The Bergsma statistic of this table is the other way round.
    assert found["pearson_bergsma"]["estimate"] == pytest.approx(-found["pearson_bls"]["estimate"])
    assert all(row["ci_low"] < row["estimate"] < row["ci_high"] for row in found.values())


def test_baseline_starts_with_the_slope_of_all_and_has_the_named_subsets():
    scores, data, share = winogender()
    frame = baseline.baseline(scores, data, model="m", design=Design(share))
    first = summary.headline(frame)
    assert (first["subset"], first["metric"], first["statistic"]) == ("all", "target", "slope")
    names = frame["subset"].unique(maintain_order=True).to_list()
    referents = ["referent: occupation", "referent: participant"]
    assert names[:7] == [
        "all",
        "without someone",
        "someone only",
        "case: nominative",
        "case: possessive",
        *referents,
    ]
    assert names[7:] == [f"occupation: {group}" for group in sorted(share)]
    assert rows(frame, subset="referent: occupation")["n"].to_list() == [2]
    assert rows(frame, subset="someone only", statistic="mean")["n"].to_list() == [40]
    single = (
        rows(frame, subset="occupation: g03").select("metric", "statistic", "n", "clusters", "ci_low").rows()
    )
    assert single == [("target", "mean", 4, 1, None), ("covariate", "mean", None, None, None)]
    assert rows(frame, subset="occupation: g03", metric="covariate")["estimate"].item() == share["g03"]


def test_three_terms_are_shown_one_by_one():
    examples = [Example(str(i), "s", "religion", f"t{i % 3}", "", " a", " b") for i in range(9)]
    scores = pl.DataFrame(
        [(e.id, e.group, "s", "target", float(i)) for i, e in enumerate(examples)],
        schema=SCORES,
        orient="row",
    )
    frame = rows(baseline.baseline(scores, dataset(examples, noun="term"), model="m"), statistic="mean")
    assert frame.select("subset", "estimate").rows() == [
        ("all", 4.0),
        ("term: t0", 3.0),
        ("term: t1", 4.0),
        ("term: t2", 5.0),
    ]


def scored(examples, values, metric="target"):
    """SCORES of examples, in their order."""
    rows = [(e.id, e.group, "d", metric, float(v)) for e, v in zip(examples, values, strict=True)]
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def test_the_joint_slopes_are_those_of_least_squares_over_examples_in_the_order_of_the_prompt():
    shares = {"nurse": 10.0, "baker": 40.0, "cook": 50.0, "guard": 80.0}
    pairs = [(a, b) for a in shares for b in shares if a != b]
    examples = [
        Example(f"{a}.{b}.{turn}", "d", "gender", (b, a)[turn], f"The {a} told the {b} that", " he", " she",
                meta={"other": (a, b)[turn]})
        for a, b in pairs for turn in (0, 1)
    ]  # fmt: skip
    values = [0.3 * shares[a] + 0.7 * shares[b] + 5 for a, b in pairs for _ in (0, 1)]
    data = dataset(examples, covariates=(Covariate("share of men", "%", shares),), rule="roles")
    frame = baseline.baseline(scored(examples, values), data, model="m", design=Design(shares))
    spread = np.std(list(shares.values()))
    joint = {r["statistic"]: r["estimate"] for r in frame.iter_rows(named=True) if r["subset"] == "all"}
    assert joint["slope_first"] == pytest.approx(0.3 * spread)
    assert joint["slope_second"] == pytest.approx(0.7 * spread)


def test_preference_is_what_is_preferred_whatever_is_asked():
    """t(neg) = 1, 3; t(nonneg) = 0, −2, whose sides are exchanged: the contrast is ½(2 + 1), the preference
    ½(2 − 1).
    """
    examples = [
        Example(f"{q}.{p}", "d", "age", q, f"{q} {p}", " a", " b", meta={"polarity": p}, together=q)
        for q in "uv" for p in ("neg", "nonneg")
    ]  # fmt: skip
    frame = baseline.baseline(scored(examples, [1, -0, 3, 2]), dataset(examples), model="m")
    whole = {
        r["statistic"]: r["estimate"]
        for r in rows(frame, subset="all", metric="target").iter_rows(named=True)
    }
    assert (whole["mean"], whole["preference"]) == (1.5, 0.5)
    assert rows(frame, subset="polarity: neg", statistic="mean")["estimate"].to_list() == [2.0]


def test_scores_of_two_prompts_are_shares_of_pairs():
    examples = [
        Example(str(i), "d", "age", f"g{i % 8}", f"A {i}", " x", " x", anti_prompt=f"B {i}",
                meta={"direction": "stereo" if i % 2 else "antistereo"})
        for i in range(16)
    ]  # fmt: skip
    both = [scored(examples, [1] * 12 + [-1] * 4), scored(examples, [2] * 4 + [-2] * 12, "sentence_sum")]
    frame = baseline.baseline(pl.concat(both), dataset(examples), model="m")
    shares = frame.filter(pl.col("unit") == "%")
    assert rows(shares, subset="all").select("statistic", "estimate").rows() == [
        ("score", 75.0),
        ("sentence_score", 25.0),
    ]
    assert shares["p"].null_count() == shares.height and shares["ci_high"].max() <= 100
    assert rows(shares, subset="direction: stereo")["estimate"].to_list() == [75.0, 25.0]
