"""Aggregates of the clean model: LMS, SS, ICAT, gaps, shift, slope by selection of examples; correlations."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine.statistics import estimates
from biasscope.engine.statistics.cells import Cells, Family, Measured, covariate
from biasscope.engine.statistics.estimates import Columns
from biasscope.engine.statistics.resampling import MIN_CLUSTERS, Array
from biasscope.engine.statistics.summary import BIAS, STATISTICS, place, refuse_empty, statistics, table, unit
from biasscope.engine.types import METRICS, Design, Example

SHARE = "share_of_men"
"""The metric of the rows that say, per occupation, the per cent of men that target is regressed on."""
Mask = NDArray[np.bool_]


def baseline(
    scores: pl.DataFrame, examples: Sequence[Example], *, model: str, design: Design = Design()
) -> pl.DataFrame:
    """SUMMARY of SCORES on one dataset: target's slope, mean and rms, other metrics' means, correlations.

    Subsets (see `of_examples`) have the mean of target and sentence, and the slope where they keep 6
    clusters. p_family, and so a star, stands on the ranking statistic of "all" alone. Correlations are of the
    occupation means of target with the share of *men* (100 − per cent of women): positive is the stereotype.
    That share stands beside each occupation as metric share_of_men.
    """
    refuse_empty(scores)
    masks = of_examples(examples, occupations=design.covariate is not None)
    labels = {"model": model, "method": "baseline", "dataset": scores["dataset"][0]}
    names = pl.DataFrame({"subset": list(masks)})
    tables = []
    groups = scores["group"].unique().sort().to_list()
    for metric in scores["metric"].unique(maintain_order=True):
        cells = _subset_cells(scores.filter(pl.col("metric") == metric), groups, examples, masks)
        # one star: that of the headline row
        first = np.array([name == "all" for name in masks])
        site_effects = Measured(
            names, groups, cells, [Family(first, first)], covariate(groups, design), np.arange(len(groups))
        )
        for statistic, columns in statistics(metric, site_effects, design.seed):
            label = {**labels, "metric": metric, "statistic": statistic, "unit": unit(metric, statistic)}
            if metric == "competence" and not any(e.unrelated for e in examples):
                columns["p"][:] = np.nan  # the log of a probability mass is never above 0
            tables.append(table(names, columns, label, groups).filter(_shown(metric, statistic)))
        if metric == "target" and design.covariate:
            everything = cells.sites(np.array([name == "all" for name in masks]))
            for name, columns in _correlations(everything, groups, design, examples):
                tables.append(
                    table(
                        names.head(1), columns, {**labels, "metric": metric, "statistic": name, "unit": "r"}
                    )
                )
    if design.covariate:
        known = pl.DataFrame(
            {"subset": [f"occupation: {group}" for group in groups], "estimate": covariate(groups, design)}
        )
        tables.append(table(known, {}, {**labels, "metric": SHARE, "statistic": "mean", "unit": "%"}))
    return pl.concat(tables).sort(
        place("subset", list(masks)), place("metric", list(METRICS)), place("statistic", STATISTICS)
    )


def _subset_cells(
    scores: pl.DataFrame, groups: Sequence[str], examples: Sequence[Example], masks: Mapping[str, Any]
) -> Cells:
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
    cells: Cells, groups: Sequence[str], design: Design, examples: Sequence[Example]
) -> Iterator[tuple[str, Columns]]:
    """Pearson and Spearman of the occupation means with the BLS and the Bergsma share of men."""
    bergsma = {
        e.group: 100.0 - float(e.meta["bergsma_pct_female"])
        for e in examples
        if "bergsma_pct_female" in e.meta
    }
    for source, column in (("bls", design.covariate), ("bergsma", bergsma)):
        x = covariate(groups, Design(column))
        known = np.isfinite(x) & (cells.n[:, 0] > 0)
        for name, ranks in (("pearson", False), ("spearman", True)):
            if known.any():
                yield (
                    f"{name}_{source}",
                    estimates.correlation(cells.clusters(known), x[known], design.seed, ranks=ranks),
                )


def stereoset(triples: pl.DataFrame, *, model: str, dataset: str, seed: int = 0) -> pl.DataFrame:
    """SUMMARY of LMS, SS and ICAT in per cent, as published, and pooled over examples; metric "stereoset".

    lms, ss, icat: unweighted means over target terms, ICAT from those means; a tie counts as anti, and as not
    related. lms_pooled, ss_pooled, icat_pooled: over examples. Subsets: see `of_triples`; "all" is the
    published overall.
    """
    triples = triples.filter(
        pl.all_horizontal(pl.col("stereo", "anti", "unrelated").fill_nan(None).is_not_null())
    )
    refuse_empty(triples)
    masks = of_triples(triples)
    stereo, anti, unrelated = (triples[name].to_numpy() for name in ("stereo", "anti", "unrelated"))
    cluster = (
        triples.select(pl.struct("bias_type", "group").rank("dense")).to_series().to_numpy().astype(np.int64)
        - 1
    )
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
            tables.append(
                table(pl.DataFrame({"subset": list(masks)}), counted, {**labels, "statistic": name + suffix})
            )
    return pl.concat(tables).sort(place("subset", list(masks)), maintain_order=True)


def of_examples(examples: Sequence[Example], *, occupations: bool) -> dict[str, Mask]:
    """The selections of one dataset's examples, "all" first; one that would hold every example is left out.

    "bias type: X" · "without someone", "someone only" · "case: X" · "referent: occupation", "referent:
    participant" · "gender: X" · then each group alone: "occupation: X" where `occupations`, else "term: X" in
    a bias type of fewer than 6 terms.
    """
    masks = {"all": np.ones(len(examples), bool)}

    def add(name: str, wanted: Iterable[bool]) -> None:
        mask = np.fromiter(wanted, bool, len(examples))
        if mask.any() and not mask.all():
            masks[name] = mask

    for bias_type in _seen(e.bias_type for e in examples):
        add(f"bias type: {bias_type}", (e.bias_type == bias_type for e in examples))
    if any("participant" in e.meta for e in examples):
        add("without someone", (e.meta.get("participant") != "someone" for e in examples))
        add("someone only", (e.meta.get("participant") == "someone" for e in examples))
    for case in _seen(e.meta.get("case") for e in examples):
        add(f"case: {case}", (e.meta.get("case") == case for e in examples))
    split = _distinguished(examples)
    for answer in _seen(e.meta.get("answer") for e in examples):
        add(f"referent: {answer}", (e.group in split and e.meta.get("answer") == answer for e in examples))
    for gender in _seen(e.meta.get("gender") for e in examples):
        add(f"gender: {gender}", (e.meta.get("gender") == gender for e in examples))
    noun, each = (
        ("occupation", _seen(e.group for e in examples))
        if occupations
        else ("term", _few_terms([(e.bias_type, e.group) for e in examples]))
    )
    for group in each:
        add(f"{noun}: {group}", (e.group == group for e in examples))
    return masks


def _distinguished(examples: Sequence[Example]) -> set[str]:
    """The occupations whose readout says who the pronoun is: its prompts or pronouns differ by the answer.

    In the other occupations both answers are one and the same readout (44 of WinoGender's 60): there is
    nothing to compare.
    """
    readouts: dict[tuple[str, object], dict[object, tuple[str, str, str]]] = defaultdict(dict)
    for e in examples:
        readouts[e.group, e.meta.get("participant")][e.meta.get("answer")] = (e.prompt, e.stereo, e.anti)
    return {group for (group, _), by_answer in readouts.items() if len(set(by_answer.values())) > 1}


def of_triples(triples: pl.DataFrame) -> dict[str, Mask]:
    """The selections of StereoSet triples, "all" first.

    "all" and "bias type: X" take every split there is; with two splits the same follow for each alone, as
    "intrasentence" and "intrasentence, bias type: X". "term: X" stands where a bias type has fewer than 6
    terms.
    """
    masks = _of_split(triples, np.ones(len(triples), bool), "")
    splits = _seen(triples["split"])
    for split in splits if len(splits) > 1 else []:
        masks |= _of_split(triples, (triples["split"] == split).to_numpy(), split)
    return masks


def _of_split(triples: pl.DataFrame, within: Mask, split: str) -> dict[str, Mask]:
    masks = {split or "all": within}
    prefix = f"{split}, " if split else ""
    types = _seen(triples["bias_type"])
    for bias_type in types if len(types) > 1 else []:
        masks[f"{prefix}bias type: {bias_type}"] = within & (triples["bias_type"] == bias_type).to_numpy()
    for term in _few_terms(triples.select("bias_type", "group").rows()):
        masks[f"{prefix}term: {term}"] = within & (triples["group"] == term).to_numpy()
    return {name: mask for name, mask in masks.items() if mask.any()}


def _few_terms(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The terms of bias types that have too few of them for an interval, and more than one."""
    terms: dict[str, set[str]] = defaultdict(set)
    for bias_type, term in pairs:
        terms[bias_type].add(term)
    return sorted(term for of_type in terms.values() if 1 < len(of_type) < MIN_CLUSTERS for term in of_type)


def _seen(values: Iterable[Any]) -> list[Any]:
    """The distinct values that exist, sorted."""
    return sorted({value for value in values if value is not None})
