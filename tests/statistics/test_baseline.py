"""The rows of the baseline: which examples each is about, and the correlations."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

from biasscope.engine.schemas import SCORES
from biasscope.engine.statistics import baseline, summary
from biasscope.engine.types import Design, Example


def rows(frame, **wanted):
    return frame.filter(*(pl.col(name) == value for name, value in wanted.items()))


def winogender(n=20):
    """Examples and scores of n occupations, four each; only occupation 0 has a readout that tells its two
    answers apart.
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
                meta = {**facts, "bls_pct_female": 100 - men, "bergsma_pct_female": men}
                examples.append(
                    Example(
                        f"{group}.{participant}.{answer}",
                        "winogender",
                        "gender",
                        group,
                        prompt,
                        " he",
                        " she",
                        meta=meta,
                    )
                )
                scores += [
                    (examples[-1].id, group, "winogender", metric, men / 100 + len(participant))
                    for metric in ("target", "competence")
                ]
    return pl.DataFrame(scores, schema=SCORES, orient="row"), examples, share


def test_baseline_correlations_have_the_sign_of_the_stereotype():
    scores, examples, share = winogender()
    noisy = scores.with_columns(
        pl.col("value") + pl.Series(np.random.default_rng(0).normal(0, 0.5, scores.height))
    )
    frame = baseline.baseline(noisy, examples, model="m", design=Design(share))
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
    scores, examples, share = winogender()
    frame = baseline.baseline(scores, examples, model="m", design=Design(share))
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
    assert single == [("target", "mean", 4, 1, None), ("share_of_men", "mean", None, None, None)]
    assert rows(frame, subset="occupation: g03", metric="share_of_men")["estimate"].item() == share["g03"]


def test_three_terms_are_shown_one_by_one():
    examples = [Example(str(i), "s", "religion", f"t{i % 3}", "", " a", " b") for i in range(9)]
    scores = pl.DataFrame(
        [(e.id, e.group, "s", "target", float(i)) for i, e in enumerate(examples)],
        schema=SCORES,
        orient="row",
    )
    frame = rows(baseline.baseline(scores, examples, model="m"), statistic="mean")
    assert frame.select("subset", "estimate").rows() == [
        ("all", 4.0),
        ("term: t0", 3.0),
        ("term: t1", 4.0),
        ("term: t2", 5.0),
    ]
