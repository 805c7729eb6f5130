"""Two runs on the same examples: the paired difference of effects at sites, second − first.

Per example first: what is aggregated is the second's value − the first's, so that whatever is common to both
(hard prompts, odd groups) cancels. Intervals, tests and families are those of any other values (see
`estimates`); where no example changed at all the difference is 0, with p = 1. Clean models: `paired_scores`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError
from biasscope.engine.schemas import DIFFERENCES, TOTAL
from biasscope.engine.statistics.cells import SITE, Cells, Measured, measured
from biasscope.engine.statistics.inference.estimates import Columns
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS, Array
from biasscope.engine.statistics.summary import BIAS, estimates_of, statistics, table, unit
from biasscope.engine.types import METRICS, Design

EFFECT = ["example_id", "group", "dataset", "source", "metric", *SITE]
"""What names an effect: the other columns of EFFECTS are its numbers."""
TENTHS = 10
"""Slices of relative depth in which models of other shapes are compared."""


@dataclass(frozen=True)
class Matched:
    """How many examples and groups two runs share, and how many are in one alone."""

    examples: int
    examples_first_only: int
    examples_second_only: int
    groups: int
    groups_first_only: int
    groups_second_only: int

    @classmethod
    def of(cls, first: pl.DataFrame, second: pl.DataFrame) -> "Matched":
        """The counts, of tables with example and group. DataError where nothing is shared."""
        counts = []
        for name in ("example_id", "group"):
            one, other = set(first[name]), set(second[name])
            counts += [len(one & other), len(one - other), len(other - one)]
        if not counts[0]:
            raise DataError(
                f"no example is in both runs, of {counts[1]} and {counts[2]}; compare runs on the same data, "
                "with the same --limit and --seed"
            )
        return cls(*counts)

    @property
    def left(self) -> str:
        """What is in one run alone, and so in no difference, in words; empty where there is nothing."""
        texts = []
        for noun in ("examples", "groups"):
            first, second = (getattr(self, f"{noun}_{side}_only") for side in ("first", "second"))
            texts += [f"{noun} left out: {first} only in the first, {second} only in the second"] * bool(
                first or second
            )
        return "; ".join(texts)


def rows(
    changed: Measured,
    columns: Columns,
    ends: Sequence[Array],
    label: Mapping[str, str | None],
    *,
    ranks: bool = False,
) -> pl.DataFrame:
    """DIFFERENCES of one statistic: columns of the changes, and both runs' own estimates (`ends`).

    Where nothing changed the difference is 0, its interval too, and p = 1; `ranks`: p_family as well, where
    it has a family.
    """
    same = _unchanged(changed.cells)
    tested = np.any([f.members & f.own for f in changed.families or ()], axis=0) if ranks else False
    fixed = {"estimate": 0.0, "ci_low": 0.0, "ci_high": 0.0, "p": 1.0}
    columns = columns | {name: np.where(same, value, columns[name]) for name, value in fixed.items()}
    columns["p_family"] = np.where(same & tested, 1.0, columns["p_family"])
    about = table(changed.sites.select(pl.exclude("measured")), columns, label, changed.groups)
    return beside(about, ends).filter(pl.Series(changed.cells.n.sum(0) > 0))


def beside(about: pl.DataFrame, ends: Sequence[Array]) -> pl.DataFrame:
    """DIFFERENCES, of rows of SUMMARY about changes and both runs' own estimates."""
    own = {
        name: pl.Series(name, values, pl.Float64).fill_nan(None)
        for name, values in zip(("first_estimate", "second_estimate"), ends, strict=True)
    }
    return about.with_columns(**own).select(DIFFERENCES.names()).cast(DIFFERENCES)


def _unchanged(cells: Cells) -> Any:
    """The sites at which no example changed at all."""
    return (cells.square.sum(0) == 0) & (cells.n.sum(0) > 0)


def sites(
    first: pl.LazyFrame,
    second: pl.LazyFrame,
    design: Design,
    *,
    metrics: Sequence[str] = tuple(METRICS),
    tested: bool = True,
) -> pl.DataFrame:
    """DIFFERENCES of effects (EFFECTS) at the sites and on the examples that both runs have; one family.

    The family is as in a run: all heads and MLPs, at all positions and under all sources (the hook points
    that contain them are another). `tested`: False where these examples chose the sites: a star needs the
    family that they were chosen from. DataError where nothing is shared.
    """
    both = first.join(second, on=EFFECT, suffix="_second", nulls_equal=True).filter(
        pl.col("effect").is_finite(),
        pl.col("effect_second").is_finite(),
        pl.col("metric").is_in(list(metrics)),
    )
    both = both.collect().lazy()
    known = both.select(pl.col("metric").unique()).collect().to_series().to_list()
    if not known:
        raise DataError(
            "the runs share no effect: of other sites, sources or examples; compare like with like"
        )
    tables = [
        part for metric in METRICS if metric in known for part in _of_metric(both, metric, design, tested)
    ]
    size = pl.col("estimate").abs()
    return pl.concat(
        part.sort(size, *SITE, descending=[True, *[False] * 4], nulls_last=True) for part in tables
    )


def _of_metric(both: pl.LazyFrame, metric: str, design: Design, tested: bool) -> list[pl.DataFrame]:
    """DIFFERENCES of one metric, a table a statistic."""
    changes = both.with_columns(effect=pl.col("effect_second") - pl.col("effect"))
    frames = (changes, both, both.with_columns(effect="effect_second"))
    changed, *ends = (measured(frame, metric, design) for frame in frames)
    changed = changed if tested else replace(changed, families=None)
    swapped = (changed.sites["component"] == TOTAL).any()
    tables = []
    for statistic, columns in statistics(metric, changed, design.seed):
        # swaps go both ways: their mean says nothing where there is a slope
        cancels = swapped and statistic == "mean" and metric in BIAS and changed.graded.any()
        if statistic == "rms" or cancels:
            continue
        label = {"subset": "all", "metric": metric, "statistic": statistic, "unit": unit(metric, statistic)}
        label["dataset"] = both.select("dataset").first().collect().item()
        ranks = metric == BIAS[0] and statistic == changed.statistic
        own = [estimates_of(end, statistic) for end in ends]
        tables.append(rows(changed, columns, own, label, ranks=ranks))
    return tables


def by_depth(effects: pl.LazyFrame, layers: int) -> pl.LazyFrame:
    """EFFECTS of tenths of the depth: per example, the mean effect of the heads, or MLPs, of a tenth.

    The tenth stands as the layer (and 0 as the head), so that models of other shapes have the same sites.
    """
    tenth = (pl.col("layer") * TENTHS // max(1, layers)).cast(pl.Int32)
    single = effects.filter(schemas.heads_and_mlps(), pl.col("position") == "all")
    key = [name for name in EFFECT if name not in ("layer", "head")]
    numbers = [pl.col(name).mean() for name in ("baseline", "value", "effect")]
    means = single.with_columns(tenth=tenth).group_by(*key, "tenth").agg(numbers)
    head = pl.when(pl.col("component") == "z").then(0).cast(pl.Int32)
    return means.with_columns(layer="tenth", head=head).select(schemas.EFFECTS.names())


def headline(differences: pl.DataFrame) -> dict[str, Any] | None:
    """The row that says whether the second model differs: of target's slope, else its mean, else of SS."""
    whole = differences.filter(pl.col("subset") == "all", pl.col("component").is_null())
    order = (("target", "slope"), ("target", "mean"), ("stereoset", "ss"), ("likelihood", "ss"))
    found = (whole.filter(metric=metric, statistic=statistic) for metric, statistic in order)
    return next((part.row(0, named=True) for part in found if part.height), None)


def testable(row: Mapping[str, Any]) -> bool:
    """Whether a difference can be told from none: enough groups, and an interval."""
    return row["ci_low"] is not None and (row["clusters"] or 0) >= MIN_CLUSTERS
