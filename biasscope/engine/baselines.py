"""Aggregates of the clean model: LMS, SS, ICAT, gaps, shift and slope, by selection of examples, and correlations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine import estimates, subsets
from biasscope.engine.cells import Cells
from biasscope.engine.estimates import Columns
from biasscope.engine.families import Family
from biasscope.engine.measured import BIAS, METRICS, STATISTICS, UNITS, Measured, place, refuse_empty, shares, statistics, table
from biasscope.engine.resampling import MIN_CLUSTERS, Array
from biasscope.engine.types import Example

SHARE = "share_of_men"
"""The metric of the rows that say, per occupation, what target is regressed on: per cent of men, from the labour statistics."""


def baseline(
    scores: pl.DataFrame, examples: Sequence[Example], *, model: str, share_of_men: Mapping[str, float] | None, seed: int = 0
) -> pl.DataFrame:
    """SUMMARY of the clean model's SCORES on one dataset: target's slope, mean and rms, the other metrics' means, correlations.

    Subsets (see `subsets.of_examples`) have the mean of target and sentence, and the slope where they keep 6 clusters. p_family,
    and so a star, stands on the ranking statistic of "all" alone. Correlations are of the occupation means of target with the share
    of *men* (100 − per cent of women): positive is the stereotype. That share stands beside each occupation as metric share_of_men.
    """
    refuse_empty(scores)
    masks = subsets.of_examples(examples, occupations=share_of_men is not None)
    labels = {"model": model, "method": "baseline", "dataset": scores["dataset"][0]}
    names = pl.DataFrame({"subset": list(masks)})
    tables = []
    groups = scores["group"].unique().sort().to_list()
    for metric in scores["metric"].unique(maintain_order=True):
        cells = _subset_cells(scores.filter(pl.col("metric") == metric), groups, examples, masks)
        # one star: that of the headline row
        first = np.array([name == "all" for name in masks])
        found = Measured(names, groups, cells, [Family(first, first)], shares(groups, share_of_men), np.arange(len(groups)))
        for statistic, columns in statistics(metric, found, seed):
            label = {**labels, "metric": metric, "statistic": statistic, "unit": UNITS[statistic]}
            if metric == "competence" and not any(e.unrelated for e in examples):
                columns["p"][:] = np.nan  # the log of a probability mass is never above 0
            tables.append(table(names, columns, label, groups).filter(_shown(metric, statistic)))
        if metric == "target" and share_of_men:
            everything = cells.sites(np.array([name == "all" for name in masks]))
            for name, columns in _correlations(everything, groups, share_of_men, examples, seed):
                tables.append(table(names.head(1), columns, {**labels, "metric": metric, "statistic": name, "unit": "r"}))
    if share_of_men:
        known = pl.DataFrame({"subset": [f"occupation: {group}" for group in groups], "estimate": shares(groups, share_of_men)})
        tables.append(table(known, {}, {**labels, "metric": SHARE, "statistic": "mean", "unit": "%"}))
    return pl.concat(tables).sort(place("subset", list(masks)), place("metric", METRICS), place("statistic", STATISTICS))


def _subset_cells(scores: pl.DataFrame, groups: Sequence[str], examples: Sequence[Example], masks: Mapping[str, Any]) -> Cells:
    """The cells of each subset as if it were a site."""
    index = {e.id: i for i, e in enumerate(examples)}
    scores = scores.filter(pl.col("value").is_finite()).sort("example_id")
    where = np.array([index[i] for i in scores["example_id"]], np.int64)
    cluster = scores["group"].cast(pl.Enum(groups)).to_physical().to_numpy().astype(np.int64)
    subset, row = np.nonzero(np.array([mask[where] for mask in masks.values()]))
    return Cells.of(cluster[row], subset, scores["value"].to_numpy()[row], (len(groups), len(masks)))


def _shown(metric: str, statistic: str) -> pl.Expr:
    """Which rows of the baseline are kept: see its docstring."""
    whole = pl.col("subset") == "all"
    if statistic == "rms":
        return whole & pl.lit(metric == "target")
    if metric not in BIAS:
        return whole
    return whole | (pl.col("clusters") >= MIN_CLUSTERS if statistic == "slope" else pl.col("n") > 0)


def _correlations(
    cells: Cells, groups: Sequence[str], share: Mapping[str, float], examples: Sequence[Example], seed: int
) -> Iterator[tuple[str, Columns]]:
    """Pearson and Spearman of the occupation means with the BLS and the Bergsma share of men."""
    bergsma = {e.group: 100.0 - float(e.meta["bergsma_pct_female"]) for e in examples if "bergsma_pct_female" in e.meta}
    for source, column in (("bls", share), ("bergsma", bergsma)):
        x = shares(groups, column)
        known = np.isfinite(x) & (cells.n[:, 0] > 0)
        for name, ranks in (("pearson", False), ("spearman", True)):
            if known.any():
                yield f"{name}_{source}", estimates.correlation(cells.clusters(known), x[known], seed, ranks=ranks)


def stereoset(triples: pl.DataFrame, *, model: str, dataset: str, seed: int = 0) -> pl.DataFrame:
    """SUMMARY of LMS, SS and ICAT in per cent, as published, and pooled over examples; metric "stereoset".

    lms, ss, icat: unweighted means over target terms, ICAT from those means; a tie counts as anti, and as not related.
    lms_pooled, ss_pooled, icat_pooled: over examples. Subsets: see `subsets.of_triples`; "all" is the published overall.
    """
    triples = triples.filter(pl.all_horizontal(pl.col("stereo", "anti", "unrelated").fill_nan(None).is_not_null()))
    refuse_empty(triples)
    masks = subsets.of_triples(triples)
    stereo, anti, unrelated = (triples[name].to_numpy() for name in ("stereo", "anti", "unrelated"))
    cluster = triples.select(pl.struct("bias_type", "group").rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    subset, row = np.nonzero(np.array(list(masks.values())))

    def cells(score: Array) -> Cells:
        return Cells.of(cluster[row], subset, score[row], (int(cluster.max()) + 1, len(masks)))

    ss = cells(np.where(stereo > anti, 100.0, 0.0))
    lms = cells(np.where(stereo > unrelated, 50.0, 0.0) + np.where(anti > unrelated, 50.0, 0.0))
    tables = []
    labels = {"model": model, "dataset": dataset, "method": "baseline", "metric": "stereoset", "unit": "%"}
    for suffix, likely, preferred in (("", lms.macro(), ss.macro()), ("_pooled", lms, ss)):
        for name, columns in estimates.published(likely, preferred, seed).items():
            counted = columns | {"n": ss.n.sum(0)}
            tables.append(table(pl.DataFrame({"subset": list(masks)}), counted, {**labels, "statistic": name + suffix}))
    return pl.concat(tables).sort(place("subset", list(masks)), maintain_order=True)
