"""Two baselines on the same examples: the paired difference of every statistic of the clean model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import DIFFERENCES
from biasscope.engine.statistics import paired, published
from biasscope.engine.statistics.baseline import COVARIATE
from biasscope.engine.statistics.cells import VALUE, Cells, Family, Measured, covariate, ratio
from biasscope.engine.statistics.inference import estimates, resampling
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array
from biasscope.engine.statistics.paired import Matched
from biasscope.engine.statistics.summary import BIAS, estimates_of, statistics, table, unit
from biasscope.engine.types import METRICS, Design

Curve = Callable[..., Array]
"""A statistic of groups: the values of a run, what both runs share, and the axis of the groups."""
KEY = ["example_id", "group", "dataset", "metric"]
SIGNS = {"polarity: neg": 1.0, "polarity: nonneg": -1.0}
"""Which way the two questions of a pair count for what is preferred whatever is asked."""


@dataclass(frozen=True)
class Clean:
    """What a run of `baseline` left: its per-example tables, and the rows that say what else there is."""

    scores: pl.DataFrame
    triples: pl.DataFrame
    subsets: pl.DataFrame
    covariates: pl.DataFrame
    summary: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Clean":
        """The tables in a run's folder; those that it has none of are empty."""
        named = {"scores": schemas.SCORES, "triples": schemas.TRIPLES}
        named |= {"subsets": schemas.SUBSETS, "covariates": schemas.COVARIATES}
        tables = {"summary": pl.read_parquet(folder / "summary.parquet")}
        for name, schema in named.items():
            file = folder / f"{name}.parquet"
            tables[name] = pl.read_parquet(file) if file.is_file() else schema.to_frame()
        return cls(**tables)

    @property
    def ids(self) -> pl.DataFrame:
        """Example and group of all that it scored."""
        pairs = (frame.select("example_id", "group") for frame in (self.scores, self.triples))
        return pl.concat(pairs).unique(maintain_order=True)

    def values(self, key: str | None = None) -> dict[str, float]:
        """Group → the covariate of that key, or that which slopes are on; empty where there is none."""
        if self.covariates.is_empty():  # of an older version: the first one stands in the summary
            rows = self.summary.filter(pl.col("metric").is_in([COVARIATE, "share_of_men"])).drop_nulls(
                "estimate"
            )
            return dict(rows.select(VALUE, "estimate").iter_rows())
        wanted = self.covariates["key"][0] if key is None else key
        return dict(self.covariates.filter(key=wanted).select("group", "value").iter_rows())


def differences(first: Clean, second: Clean, *, seed: int = 0) -> pl.DataFrame:
    """DIFFERENCES of two baselines over the examples that both have, of the rows that both have.

    Means (scores in per cent, LMS and SS over terms among them) and slopes have the bootstrap-t interval and
    the p of the changes. icat, rms and correlations are no means: a BCa interval of their difference, no p.
    Slopes fitted together have no interval, as in a run. One star: of the ranking statistic over all
    examples. DataError where no example is in both.
    """
    Matched.of(first.ids, second.ids)  # refuses where nothing is shared
    parts = [*_of_triples(first, second, seed), *_of_scores(first, second, seed), _joint(first, second)]
    rows = pl.concat([DIFFERENCES.to_frame(), *parts])
    names = ["subset", "metric", "statistic"]
    order = first.summary.select(names).unique(maintain_order=True).with_row_index("place")
    rows = rows.join(order, on=names, how="inner", maintain_order="left")
    rows = rows.join(second.summary.select(names), on=names, how="semi", maintain_order="left")
    return rows.sort("place", maintain_order=True).drop("place")


def _of_scores(first: Clean, second: Clean, seed: int) -> Iterator[pl.DataFrame]:
    """The differences of what is read of each example, a table a metric and statistic."""
    both = first.scores.join(second.scores, on=KEY, suffix="_second", maintain_order="left")
    both = both.filter(pl.col("value").is_finite(), pl.col("value_second").is_finite()).sort("example_id")
    members = pl.concat([both.select("example_id", subset=pl.lit("all")), first.subsets]).unique(
        maintain_order=True
    )
    design = Design(first.values(), seed=seed)
    for metric in (name for name in METRICS if (both["metric"] == name).any()):
        own = both.filter(metric=metric)
        yield from _means(own, members, design, metric)
        if metric == "target":
            yield from _curved(own, members, first, seed)
        for statistic, measured_in, values in _others(metric, own, first):
            changed, *ends = _measured(values, members, Design(seed=seed))
            label = {"metric": metric, "statistic": statistic, "unit": measured_in}
            columns = estimates.mean(changed.cells, seed)
            yield paired.rows(changed, columns, _ends(ends, "mean"), _labels(own, label))


def _means(both: pl.DataFrame, members: pl.DataFrame, design: Design, metric: str) -> Iterator[pl.DataFrame]:
    """Slope and mean of a metric; of target also what is no mean."""
    changed, *sides = _measured(both, members, design)
    for statistic, columns in statistics(metric, changed, design.seed):
        if statistic != "rms":
            label = {"metric": metric, "statistic": statistic, "unit": unit(metric, statistic)}
            ranks = metric == BIAS[0] and statistic == changed.statistic
            ends = _ends(sides, statistic)
            yield paired.rows(changed, columns, ends, _labels(both, label), ranks=ranks)


def _measured(both: pl.DataFrame, members: pl.DataFrame, design: Design) -> list[Measured]:
    """The changes, the first's and the second's values, with each subset as if it were a site."""
    groups = both["group"].unique().sort().to_list()
    own = members.join(both, on="example_id", how="inner", maintain_order="left")
    names = own["subset"].unique(maintain_order=True).to_list()
    cluster, subset = (
        own[column].cast(pl.Enum(values)).to_physical().to_numpy().astype(np.int64)
        for column, values in (("group", groups), ("subset", names))
    )
    whole = np.array([name == "all" for name in names])
    values = own["value"].to_numpy(), own["value_second"].to_numpy()
    return [
        Measured(
            pl.DataFrame({"subset": names}),
            groups,
            Cells.of(cluster, subset, value, (len(groups), len(names))),
            [Family(whole, whole)],
            covariate(groups, design),
            np.arange(len(groups)),
        )
        for value in (values[1] - values[0], *values)
    ]


def _ends(sides: Sequence[Measured], statistic: str) -> list[Array]:
    return [estimates_of(side, statistic) for side in sides]


def _labels(both: pl.DataFrame, label: dict[str, str]) -> dict[str, str | None]:
    return {"dataset": both["dataset"][0], "method": "baseline", **label}


def _others(metric: str, both: pl.DataFrame, first: Clean) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """What only some data have, as means of other values: see `baseline`."""
    has = set(first.summary.filter(metric=metric)["statistic"])
    columns = ("value", "value_second")
    if "preference" in has:
        asked = first.subsets.filter(pl.col("subset").is_in(list(SIGNS)))
        sign = asked.select(
            "example_id", sign=pl.col("subset").replace_strict(SIGNS, return_dtype=pl.Float64)
        )
        signed = both.join(sign, on="example_id", maintain_order="left")
        yield "preference", METRICS[metric].unit, signed.with_columns(pl.col(columns) * pl.col("sign"))
    for name in has & {"score", "sentence_score"}:
        yield name, "%", both.with_columns(100.0 * (pl.col(column) > 0) for column in columns)


def _curved(both: pl.DataFrame, members: pl.DataFrame, first: Clean, seed: int) -> Iterator[pl.DataFrame]:
    """The differences of rms and of correlations with each covariate, over all examples."""
    sides = _measured(both, members.filter(subset="all"), Design())[1:]
    one, other = (side.cells for side in sides)
    label = _labels(both, {"metric": "target", "statistic": "rms", "unit": METRICS["target"].unit})
    sums = [cells.square[:, 0] for cells in (one, other)]
    yield _difference(_root, sums, [one.n[:, 0]], label, seed)
    for key in first.covariates["key"].unique(maintain_order=True):
        x = covariate(sides[0].groups, Design(first.values(key)))
        known = np.isfinite(x) & (one.n[:, 0] > 0)
        means = [cells.means()[known, 0] for cells in (one, other)]
        for name in ("pearson", "spearman"):
            label = _labels(both, {"metric": "target", "statistic": f"{name}_{key}".strip("_"), "unit": "r"})
            curve = partial(_association, ranks=name == "spearman")
            yield _difference(curve, means, [x[known]], label, seed)


def _root(square: Array, n: Array, axis: int = -1) -> Array:
    return np.sqrt(square.sum(axis) / n.sum(axis))


def _association(y: Array, x: Array, axis: int = -1, *, ranks: bool) -> Array:
    return np.nan_to_num(estimates.association(x, y, axis, ranks=ranks))


def _difference(
    curve: Curve, sides: Sequence[Array], shared: Sequence[Array], label: dict[str, str | None], seed: int
) -> pl.DataFrame:
    """DIFFERENCES of a statistic that is no mean, over groups drawn together: estimate and BCa interval."""
    ends = [np.atleast_1d(curve(side, *shared)) for side in sides]
    k = len(sides[0])
    numbers = {"clusters": float(k), "estimate": ends[1][0] - ends[0][0]}
    if (sides[0] == sides[1]).all():
        numbers |= {"ci_low": 0.0, "ci_high": 0.0}
    elif k >= MIN_CLUSTERS:

        def change(a: Array, b: Array, *rest: Array, axis: int) -> Array:
            return curve(b, *rest, axis=axis) - curve(a, *rest, axis=axis)

        low, high = resampling.bca_interval((*sides, *shared), change, seed)
        numbers |= {"ci_low": low, "ci_high": high}
    columns = {name: np.array([value]) for name, value in numbers.items()}
    return paired.beside(table(pl.DataFrame({"subset": ["all"]}), columns, label), ends)


def _joint(first: Clean, second: Clean) -> pl.DataFrame:
    """The differences of slopes fitted together over examples (see `baseline`); none where these are others.

    A fit is linear in what it fits: the difference of both is the fit of the changes.
    """
    fitted = [
        pl.concat([schemas.SUMMARY.to_frame(), side.summary], how="diagonal").filter(
            pl.col("statistic").str.starts_with("slope_"), pl.col("estimate").is_not_null(), metric="target"
        )
        for side in (first, second)
    ]
    known = [
        set(side.scores.filter(pl.col("value").is_finite(), metric="target")["example_id"])
        for side in (first, second)
    ]
    if known[0] != known[1]:
        return DIFFERENCES.to_frame()
    names = ["subset", "metric", "statistic"]
    ends = fitted[0].select(*names, before="estimate")
    both = fitted[1].join(ends, on=names, how="inner", maintain_order="left")
    about = both.with_columns(estimate=pl.col("estimate") - pl.col("before")).drop("before")
    return paired.beside(about, [both["before"].to_numpy(), both["estimate"].to_numpy()])


def _of_triples(first: Clean, second: Clean, seed: int) -> Iterator[pl.DataFrame]:
    """The differences of LMS, SS and ICAT, per term and pooled, where both have three sentences."""
    keys = ["split", "example_id", "group", "bias_type"]
    both = first.triples.join(second.triples, on=keys, suffix="_second", maintain_order="left")
    if both.is_empty():
        return
    names = ("stereo", "anti", "unrelated")
    known = published.known(both, *names, *(f"{name}_second" for name in names))
    sides = known.select(*keys, *names), known.select(*keys, **{name: f"{name}_second" for name in names})
    (masks, *one), (_, *other) = (published.cells(triples) for triples in sides)
    labels = {"dataset": first.summary["dataset"][0], "method": "baseline", "unit": "%"}
    labels["metric"] = next(m for m in ("stereoset", "likelihood") if (first.summary["metric"] == m).any())
    for suffix in ("", "_pooled"):
        of_terms = [[c.macro() if not suffix else c for c in side] for side in (one, other)]
        yield from _scores(list(masks), of_terms, suffix, labels, seed)


def _scores(
    subsets: list[str], sides: list[list[Cells]], suffix: str, labels: dict[str, str | None], seed: int
) -> Iterator[pl.DataFrame]:
    """The differences of LMS, SS and ICAT; `sides`: LMS and SS of both runs."""
    sites = pl.DataFrame({"subset": subsets})
    for i, name in enumerate(("lms", "ss")):
        one, other = (side[i] for side in sides)
        moved = other.total - one.total
        changed = Cells(one.n, moved, moved**2)
        groups = [str(row) for row in range(len(moved))]
        about = Measured(sites, groups, changed, None, np.full(len(moved), np.nan), np.arange(len(moved)))
        label = {**labels, "statistic": name + suffix}
        columns = estimates.mean(changed, seed) | {"carried_by": np.full(len(subsets), np.nan)}
        yield paired.rows(about, columns, [ratio(c.total, c.n) for c in (one, other)], label)
    columns, ends = _icats(sides[0], sides[1], seed)
    label = {**labels, "statistic": f"icat{suffix}"}
    yield paired.beside(table(sites, columns, label), ends)


def _icats(
    first: Sequence[Cells], second: Sequence[Cells], seed: int
) -> tuple[estimates.Columns, list[Array]]:
    """The second's ICAT − the first's per selection, from LMS and SS of each, and both."""
    sums, n = [cells.total for cells in (*first, *second)], first[0].n
    ends = [estimates.icat(*(ratio(cells.total, n) for cells in side)) for side in (first, second)]
    same = (sums[0] == sums[2]).all(0) & (sums[1] == sums[3]).all(0)
    table = {"n": n.sum(0), "clusters": (n > 0).sum(0).astype(float), "estimate": ends[1] - ends[0]}
    table |= {end: np.where(same, 0.0, np.nan) for end in ("ci_low", "ci_high")}

    def change(*drawn: Array, axis: int) -> Array:
        one, other = ([ratio(total, drawn[4], axis) for total in pair] for pair in (drawn[:2], drawn[2:4]))
        return estimates.icat(*other) - estimates.icat(*one)

    for site in np.flatnonzero((table["clusters"] >= MIN_CLUSTERS) & ~same):
        rows = n[:, site] > 0
        columns = tuple(array[rows, site] for array in (*sums, n))
        table["ci_low"][site], table["ci_high"][site] = resampling.bca_interval(columns, change, seed)
    return table, ends
