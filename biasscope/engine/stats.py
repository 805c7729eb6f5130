"""Aggregate tables: every mean, slope, LMS, SS and ICAT, with its interval and p. The only file that makes SUMMARY rows.

Per example in, one row per site and statistic out. Definitions: shift is `statistic = mean`, slope is `statistic = slope`;
"significant" means p_family < 0.05. A number that does not exist is null; nothing here is ever NaN or infinite.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biasscope.engine import estimates, subsets
from biasscope.engine.errors import DataError
from biasscope.engine.estimates import Cells, Columns
from biasscope.engine.resampling import MIN_CLUSTERS, Array
from biasscope.engine.types import SUMMARY, Example, Site

BIAS = ("target", "sentence")
"""Metrics whose effects are bias effects; the first one present ranks the sites."""
METRICS = (*BIAS, "competence", "kl")
STATISTICS = ("slope", "mean", "rms", "pearson_bls", "spearman_bls", "pearson_bergsma", "spearman_bergsma")
UNITS = {"slope": "nats/SD", "mean": "nats", "rms": "nats"}
SITE = ["component", "layer", "head", "position"]
Labels = Mapping[str, str | None]


def summarise(
    effects: pl.DataFrame | pl.LazyFrame, *, model: str, method: str, share_of_men: Mapping[str, float] | None, seed: int = 0
) -> pl.DataFrame:
    """SUMMARY of EFFECTS, one row per site and statistic: slope (where groups have a share of men), mean and rms.

    kl has its mean alone, without p. A family (of p_family and q) is one dataset, source, metric, statistic and kind of site;
    heads and the whole hook point `z` are two kinds. Sites that lack examples are measured on those they have (n says how many).
    Slope ranks where it exists, else mean; the other rows follow with the sites in the same order.
    """
    parts = effects.lazy().select("dataset", "source").unique(maintain_order=True).collect()
    _refuse_empty(parts)
    tables = []
    for dataset, source in parts.rows():
        labels = {"model": model, "method": method, "subset": "all", "dataset": dataset, "source": source}
        part = effects.lazy().filter(pl.col("dataset") == dataset, pl.col("source").eq_missing(source))
        tables.append(_ranked(pl.concat(_site_rows(part, labels, share_of_men, seed))))
    return pl.concat(tables)


def _site_rows(effects: pl.LazyFrame, labels: Labels, share: Mapping[str, float] | None, seed: int) -> Iterator[pl.DataFrame]:
    """SUMMARY rows of one dataset and source, a table per metric and statistic."""
    sites = effects.select(SITE).unique().collect().sort(SITE, nulls_last=True)
    kinds = sites.select(pl.struct("component", pl.col("head").is_null()).rank("dense")).to_series().to_numpy().astype(np.int64)
    groups = effects.select(pl.col("group").unique().sort()).collect().to_series().to_list()
    x = _shares(groups, share)
    for metric in effects.select(pl.col("metric").unique()).collect().to_series().sort():
        cells = _site_cells(effects.filter(pl.col("metric") == metric, pl.col("effect").is_finite()), sites, groups)
        for statistic, columns in _statistics(metric, cells, kinds, x, seed):
            yield _table(sites, columns, {**labels, "metric": metric, "statistic": statistic, "unit": UNITS[statistic]})


def _site_cells(effects: pl.LazyFrame, sites: pl.DataFrame, groups: Sequence[str]) -> Cells:
    """The cells of one metric. Only numbers leave polars: copies of the text columns would outweigh all the rest."""
    numbered = effects.join(sites.lazy().with_row_index("site"), on=SITE, how="left", nulls_equal=True)
    cluster, ident = pl.col("group").cast(pl.Enum(groups)).to_physical(), pl.col("example_id").rank("dense")
    coded = numbered.select(cluster.cast(pl.Int64), pl.col("site").cast(pl.Int64), ident, "effect").collect()
    # Summed in the order of the ids, so that the last digit does not depend on the order of a sweep's shards.
    order = np.argsort(coded["example_id"].to_numpy(), kind="stable")
    cluster_of, site_of, effect = (coded[name].to_numpy()[order] for name in ("group", "site", "effect"))
    return Cells.of(cluster_of, site_of, effect, (len(groups), len(sites)))


def _statistics(metric: str, cells: Cells, kinds: NDArray[np.int64], x: Array, seed: int) -> Iterator[tuple[str, Columns]]:
    """Each statistic of a metric with its columns; slope only over clusters whose x is known, and only where x varies."""
    known = np.isfinite(x) & (cells.n.sum(1) > 0)
    if metric in BIAS and len(set(x[known])) > 1:
        yield "slope", estimates.family_wise(cells.clusters(known), kinds, partial(estimates.slope, x=x[known], seed=seed))
    yield "mean", estimates.family_wise(cells, kinds, partial(estimates.mean, seed=seed, tested=metric != "kl"))
    if metric != "kl":
        yield "rms", estimates.family_wise(cells, kinds, partial(estimates.rms, seed=seed))


def _shares(groups: Sequence[str], share: Mapping[str, float] | None) -> Array:
    """The statistic of each group, NaN where it has none."""
    return np.array([(share or {}).get(group, np.nan) for group in groups], float)


def _ranked(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of one dataset and source: by metric, statistic, then the sites by the ranking statistic."""
    size = pl.col("estimate").abs()
    order = ranking(table).sort(size, *SITE, descending=[True] + [False] * len(SITE), nulls_last=True)
    table = table.join(order.select(SITE).with_row_index("rank"), on=SITE, how="left", nulls_equal=True)
    return table.sort(_place("metric", METRICS), _place("statistic", STATISTICS), "rank", *SITE, nulls_last=True).drop("rank")


def _place(column: str, order: Sequence[str]) -> pl.Expr:
    """The place of a column's value in an order, strangers last."""
    return pl.col(column).replace_strict(list(order), range(len(order)), default=len(order), return_dtype=pl.Int64)


def _table(sites: pl.DataFrame, columns: Columns, labels: Labels) -> pl.DataFrame:
    """SUMMARY rows of sites (or subsets), their columns and what is the same for all of them; not finite becomes null."""
    numbers = pl.DataFrame({name: np.where(np.isfinite(column), column, np.nan) for name, column in columns.items()})
    table = sites.hstack(numbers.with_columns(pl.all().fill_nan(None)))
    table = table.with_columns(pl.lit(labels.get(name)).alias(name) for name in SUMMARY if name not in table.columns)
    return table.select(SUMMARY.names()).cast(SUMMARY)


def _refuse_empty(frame: pl.DataFrame) -> None:
    if frame.is_empty():
        raise DataError("no example to summarise: the table has 0 rows; see what was dropped and why, or raise --limit")


def baseline(
    scores: pl.DataFrame, examples: Sequence[Example], *, model: str, share_of_men: Mapping[str, float] | None, seed: int = 0
) -> pl.DataFrame:
    """SUMMARY of the clean model's SCORES on one dataset: target's slope, mean and rms, the other metrics' means, correlations.

    Subsets (see `subsets.of_examples`) have the mean of target and sentence, and the slope where they keep 6 clusters. "all" is a
    family of its own; the other subsets are one family together. Correlations are of the occupation means of target with the share
    of *men* (100 − per cent of women): positive is the stereotype.
    """
    _refuse_empty(scores)
    masks = subsets.of_examples(examples, occupations=share_of_men is not None)
    labels = {"model": model, "method": "baseline", "dataset": scores["dataset"][0]}
    names = pl.DataFrame({"subset": list(masks)})
    tables = []
    groups = scores["group"].unique().sort().to_list()
    for metric in scores["metric"].unique(maintain_order=True):
        cells = _subset_cells(scores.filter(pl.col("metric") == metric), groups, examples, masks)
        kinds = np.array([name != "all" for name in masks], np.int64)
        for statistic, columns in _statistics(metric, cells, kinds, _shares(groups, share_of_men), seed):
            label = {**labels, "metric": metric, "statistic": statistic, "unit": UNITS[statistic]}
            tables.append(_table(names, columns, label).filter(_shown(metric, statistic)))
        if metric == "target" and share_of_men:
            everything = cells.sites(np.array([name == "all" for name in masks]))
            for name, columns in _correlations(everything, groups, share_of_men, examples, seed):
                tables.append(_table(names.head(1), columns, {**labels, "metric": metric, "statistic": name, "unit": "r"}))
    table = pl.concat(tables)
    return table.sort(_place("subset", list(masks)), _place("metric", METRICS), _place("statistic", STATISTICS))


def _subset_cells(scores: pl.DataFrame, groups: Sequence[str], examples: Sequence[Example], masks: Mapping[str, Any]) -> Cells:
    """The cells of each subset as if it were a site."""
    place = {e.id: i for i, e in enumerate(examples)}
    scores = scores.filter(pl.col("value").is_finite()).sort("example_id")
    where = np.array([place[i] for i in scores["example_id"]], np.int64)
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
    for source, shares in (("bls", share), ("bergsma", bergsma)):
        x = _shares(groups, shares)
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
    _refuse_empty(triples)
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
            tables.append(_table(pl.DataFrame({"subset": list(masks)}), counted, {**labels, "statistic": name + suffix}))
    return pl.concat(tables).sort(_place("subset", list(masks)), maintain_order=True)


def ranking(summary: pl.DataFrame) -> pl.DataFrame:
    """The rows that rank sites: slope where it exists, else mean, of target (else sentence) over all examples."""
    whole = summary.filter(pl.col("metric").is_in(BIAS), pl.col("statistic").is_in(["slope", "mean"]), pl.col("subset") == "all")
    one = ["model", "dataset", "method", "source"]
    place = _place("metric", BIAS) * 2 + (pl.col("statistic") == "mean")
    return whole.filter(place == place.min().over(one))


def headline(summary: pl.DataFrame) -> dict[str, Any]:
    """The first row of a summary: the strongest site, or the clean model's ranking statistic."""
    _refuse_empty(summary)
    return summary.row(0, named=True)


def top(summary: pl.DataFrame, n: int, components: Sequence[str] | None = None) -> list[Site]:
    """The n sites with the largest |ranking statistic| among the components, strongest first; fewer where fewer have one.

    `z` means its heads; a whole hook point `z` is never among them.
    """
    rows = ranking(summary).filter(pl.col("estimate").is_not_null(), (pl.col("component") != "z") | pl.col("head").is_not_null())
    rows = rows if components is None else rows.filter(pl.col("component").is_in(list(components)))
    rows = rows.sort(pl.col("estimate").abs(), descending=True, maintain_order=True).unique(SITE[:3], keep="first", maintain_order=True)
    return [Site(row["layer"], row["component"], row["head"]) for row in rows.head(n).iter_rows(named=True)]


def few_clusters_note(clusters: int, noun: str = "term") -> str | None:
    """Why a row has no interval and no p, or None where it may have them: "only 3 terms: no statement about other terms"."""
    if clusters >= MIN_CLUSTERS:
        return None
    return f"only {clusters} {noun}{'' if clusters == 1 else 's'}: no statement about other {noun}s"
