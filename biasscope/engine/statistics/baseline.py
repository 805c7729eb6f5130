"""Aggregates of the clean model: LMS, SS, ICAT, gaps, shift, slope by selection of examples; correlations."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine.schemas import SUBSETS
from biasscope.engine.statistics.cells import Cells, Family, Measured, covariate, subset
from biasscope.engine.statistics.inference import estimates
from biasscope.engine.statistics.inference.estimates import Columns
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS
from biasscope.engine.statistics.summary import (
    BIAS,
    STATISTICS,
    estimated,
    place,
    refuse_empty,
    statistics,
    table,
    unit,
)
from biasscope.engine.types import METRICS, Dataset, Design, Example

COVARIATE = "covariate"
"""The metric of the rows that say, per group, what target is regressed on."""
SHOWN = 200
"""As many groups have rows of their own; of more there are none."""
Mask = NDArray[np.bool_]


def baseline(
    scores: pl.DataFrame,
    dataset: Dataset,
    *,
    model: str,
    design: Design = Design(),
    group_by: str | None = None,
) -> pl.DataFrame:
    """SUMMARY of SCORES on one dataset: target's slope, mean and rms, other metrics' means, correlations.

    Subsets (see `of_examples`) have the mean of target and sentence, and the slope where they keep 6
    clusters. p_family, and so a star, stands on the ranking statistic of "all" alone. Correlations are of the
    group means of target with each covariate, which stands beside each group as metric `covariate`.
    """
    refuse_empty(scores)
    masks = of_examples(dataset, group_by)
    labels = {"model": model, "method": "baseline", "dataset": scores["dataset"][0]}
    names = pl.DataFrame({"subset": list(masks)})
    tables = []
    groups = scores["group"].unique().sort().to_list()
    examples = dataset.examples
    for metric in scores["metric"].unique(maintain_order=True):
        own = scores.filter(pl.col("metric") == metric)
        cells = _subset_cells(own, groups, examples, masks)
        # one star: that of the headline row
        first = np.array([name == "all" for name in masks])
        site_effects = Measured(
            names, groups, cells, [Family(first, first)], covariate(groups, design), np.arange(len(groups))
        )
        for statistic, columns in statistics(metric, site_effects, design.seed):
            label = {**labels, "metric": metric, "statistic": statistic, "unit": unit(metric, statistic)}
            if metric == "competence" and not any(e.unrelated for e in examples):
                columns["p"][:] = np.nan  # the log of a probability is never above 0
            tables.append(table(names, columns, label, groups).filter(_shown(metric, statistic)))
        for statistic, measured_in, values in _of_some(metric, own, examples):
            columns = estimates.mean(_subset_cells(values, groups, examples, masks), design.seed, None)
            columns |= {
                end: np.clip(columns[end], 0, 100) for end in ("ci_low", "ci_high") if measured_in == "%"
            }
            label = {**labels, "metric": metric, "statistic": statistic, "unit": measured_in}
            rows = table(names, columns, label).filter(pl.col("n") > 0)
            tables.append(rows.filter(~pl.col("subset").str.starts_with("polarity: ")))  # it takes both
        if metric == "target" and dataset.covariates:
            everything = cells.sites(first)
            associated = _correlations(everything, groups, dataset, design.seed)
            associated |= _joint(own, dataset) if dataset.rule == "roles" else {}
            for name, (measured_in, columns) in associated.items():
                label = {**labels, "metric": metric, "statistic": name, "unit": measured_in}
                tables.append(table(names.head(1), columns, label))
    if dataset.covariates:
        subsets = [subset(dataset.noun, group) for group in groups]
        known = pl.DataFrame({"subset": subsets, "estimate": covariate(groups, design)})
        known = known.with_columns(pl.col("estimate").fill_nan(None))
        label = {**labels, "metric": COVARIATE, "statistic": "mean", "unit": dataset.covariates[0].unit}
        tables.append(table(known, {}, label))
    return pl.concat(tables).sort(
        place("subset", list(masks)), place("metric", list(METRICS)), place("statistic", STATISTICS)
    )


def _of_some(
    metric: str, scores: pl.DataFrame, examples: Sequence[Example]
) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """What only some data have, as means of other values per example: name, unit, scores.

    preference: ½ (t(neg) + t(nonneg)), what is preferred whatever is asked, where the sides are exchanged by
    what is asked. score, sentence_score: per cent of pairs of prompts (of sentences) of which the first is
    likelier.
    """
    polarity = {e.id: e.meta["polarity"] for e in examples if "polarity" in e.meta}
    # a column of that name in a user's file may hold anything
    if metric == "target" and set(polarity.values()) == {"neg", "nonneg"}:
        signs = {name: -1.0 if asked == "nonneg" else 1.0 for name, asked in polarity.items()}
        sign = pl.col("example_id").replace_strict(signs, default=None, return_dtype=pl.Float64)
        yield (
            "preference",
            METRICS[metric].unit,
            scores.with_columns(value=pl.col("value") * sign).drop_nulls("value"),
        )
    shares = {"target": "score", "sentence_sum": "sentence_score"}
    if metric in shares and any(e.anti_prompt is not None for e in examples):
        likelier = (
            pl.when(pl.col("value").is_finite())
            .then(100.0 * (pl.col("value") > 0))
            .otherwise(pl.col("value"))
        )
        yield shares[metric], "%", scores.with_columns(value=likelier)


def _joint(scores: pl.DataFrame, dataset: Dataset) -> dict[str, tuple[str, Columns]]:
    """target on the covariates of the first- and the second-named group of a prompt, fitted together over
    examples, per standard deviation over groups; where every prompt names two. No interval.
    """
    shares = dataset.covariates[0].values
    spread = np.std(list(shares.values()))
    pairs = {e.id: named for e in dataset.examples if (named := _named(e, shares))}
    both = scores.filter(pl.col("value").is_finite() & pl.col("example_id").is_in(pairs))
    if len(pairs) < len(dataset.examples) or len(both) < 3 or not spread:
        return {}
    x = np.array([[1.0, *pairs[i]] for i in both["example_id"]]) / [1.0, spread, spread]
    slopes = np.linalg.lstsq(x, both["value"].to_numpy(), rcond=None)[0][1:]
    size = {"n": np.array([float(len(both))])}
    names = ("slope_first", "slope_second")
    return {
        n: (unit("target", "slope"), size | {"estimate": np.array([s])})
        for n, s in zip(names, slopes, strict=True)
    }


def _named(example: Example, shares: Mapping[str, float]) -> tuple[float, float] | None:
    """The covariates of the two groups that a prompt names, in their order; None where it does not name
    two.
    """
    other = example.meta.get("other")
    if other not in shares or example.group not in shares:
        return None
    places = [example.prompt.lower().find(name.lower()) for name in (example.group, str(other))]
    pair = shares[example.group], shares[str(other)]
    return None if min(places) < 0 else pair if places[0] < places[1] else pair[::-1]


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
    cells: Cells, groups: Sequence[str], dataset: Dataset, seed: int
) -> dict[str, tuple[str, Columns]]:
    """Pearson and Spearman of the group means with each covariate."""
    rows = {}
    for other in dataset.covariates:
        x = covariate(groups, Design(other.values))
        known = np.isfinite(x) & (cells.n[:, 0] > 0)
        for name, ranks in (("pearson", False), ("spearman", True)):
            if known.any():
                columns = estimates.correlation(cells.clusters(known), x[known], seed, ranks=ranks)
                rows[f"{name}_{other.key}" if other.key else name] = ("r", columns)
    return rows


def nothing_to_find(effects: pl.LazyFrame, design: Design) -> str | None:
    """A warning where the interval of the model's own ranking statistic holds 0; None else."""
    # with --given each source has a model, and so a baseline, of its own
    first = pl.col("source").eq_missing(pl.col("source").first())
    clean = (
        effects.filter(pl.col("metric") == "target", first).unique("example_id").sort("example_id").collect()
    )
    columns = {
        "effect": pl.col("baseline"),
        "component": pl.lit("clean"),
        "head": pl.lit(None, pl.Int32),
    }
    row = estimated(clean.with_columns(**columns), design, ends=True).row(0, named=True)
    if row["ci_low"] is None or not row["ci_low"] <= 0 <= row["ci_high"]:
        return None
    ends = f"{row['estimate']:.2g} [{row['ci_low']:.2g}, {row['ci_high']:.2g}] {row['unit']}".replace(
        "-", "−"
    )
    return f"the model's own {row['statistic']} is {ends}: it may be 0, and then there is no place to find"


def of_examples(dataset: Dataset, group_by: str | None = None) -> dict[str, Mask]:
    """The selections of one dataset's examples, "all" first; one that would hold every example is left out.

    "bias type: X" · "without someone", "someone only" · "case: X" · "referent: occupation", "referent:
    participant" · "gender: X", "polarity: X", "direction: X" · by the values of the column `group_by` · then
    each group alone ("occupation: X") where there is a covariate, else in a bias type of fewer than 6 groups.
    """
    examples = dataset.examples
    masks = {"all": np.ones(len(examples), bool)}

    def add(name: str, wanted: Iterable[bool]) -> None:
        mask = np.fromiter(wanted, bool, len(examples))
        if mask.any() and not mask.all():
            masks[name] = mask

    for bias_type in seen(e.bias_type for e in examples):
        add(f"bias type: {bias_type}", (e.bias_type == bias_type for e in examples))
    if any("participant" in e.meta for e in examples):
        add("without someone", (e.meta.get("participant") != "someone" for e in examples))
        add("someone only", (e.meta.get("participant") == "someone" for e in examples))
    for case in seen(e.meta.get("case") for e in examples):
        add(subset("case", case), (e.meta.get("case") == case for e in examples))
    split = _distinguished(examples)
    for answer in seen(e.meta.get("answer") for e in examples):
        add(
            subset("referent", answer),
            (e.group in split and e.meta.get("answer") == answer for e in examples),
        )
    for key in ("gender", "polarity", "direction", *([group_by] if group_by else [])):
        for value in seen(e.meta.get(key) for e in examples):
            add(subset(key, value), (e.meta.get(key) == value for e in examples))
    few = few_groups([(e.bias_type, e.group) for e in examples])
    groups = seen(e.group for e in examples) if dataset.covariates else few
    for group in groups if len(groups) <= SHOWN else []:
        add(subset(dataset.noun, group), (e.group == group for e in examples))
    return masks


def subsets(dataset: Dataset, group_by: str | None = None) -> pl.DataFrame:
    """SUBSETS: the examples of each selection but "all", so that runs can be compared without the data."""
    masks = of_examples(dataset, group_by)
    ids = np.array([example.id for example in dataset.examples], object)
    rows = [(id_, name) for name, mask in masks.items() if name != "all" for id_ in ids[mask]]
    return pl.DataFrame(rows, SUBSETS, orient="row")


def _distinguished(examples: Sequence[Example]) -> set[str]:
    """The occupations whose readout says who the pronoun is: its prompts or pronouns differ by the answer.

    In the other occupations both answers are one and the same readout (44 of WinoGender's 60): there is
    nothing to compare.
    """
    readouts: dict[tuple[str, object], dict[object, tuple[str, str, str]]] = defaultdict(dict)
    for e in examples:
        readouts[e.group, e.meta.get("participant")][e.meta.get("answer")] = (e.prompt, e.stereo, e.anti)
    return {group for (group, _), by_answer in readouts.items() if len(set(by_answer.values())) > 1}


def few_groups(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The terms of bias types that have too few of them for an interval, and more than one."""
    terms: dict[str, set[str]] = defaultdict(set)
    for bias_type, term in pairs:
        terms[bias_type].add(term)
    return sorted(term for of_type in terms.values() if 1 < len(of_type) < MIN_CLUSTERS for term in of_type)


def seen(values: Iterable[Any]) -> list[Any]:
    """The distinct values that exist, sorted."""
    return sorted({value for value in values if value is not None})
