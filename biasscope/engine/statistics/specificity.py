"""Whether a site carries the stereotype, breaks the model, or merely knows that fathers are male."""

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.statistics.summary import SITE, ranking

PER = ["source", *SITE]


def specificity(summary: pl.DataFrame, control: pl.DataFrame) -> pl.DataFrame:
    """SUMMARY with `specificity` filled in for the rows that rank sites, followed by the control's rms of target.

    |b| / (|b| + |c| + |f|) in [0, 1] of the effects on bias (the ranking statistic), competence and factual gender (target on
    `definitional`, from the SUMMARY `control` of the same sites and source). c and f are rms over examples, because means vanish under
    mean ablation; each of the three is divided by its median over the sites of the scan. Null where b has no star.
    """
    known = control.filter(pl.col("metric") == "target", pl.col("statistic") == "rms", pl.col("subset") == "all")
    parts = raw(summary, control).with_columns(specific=pl.when(schemas.starred()).then(pl.col("raw")))
    keys = ["dataset", "metric", "statistic", "subset", *PER]
    filled = summary.join(parts.select(*keys, "specific"), on=keys, how="left", nulls_equal=True, maintain_order="left")
    filled = filled.with_columns(specificity=pl.col("specific")).drop("specific")
    return pl.concat([filled, known])


def raw(summary: pl.DataFrame, control: pl.DataFrame) -> pl.DataFrame:
    """The rows that rank sites with their specificity (`raw`), significant or not."""
    rms = pl.col("statistic") == "rms", pl.col("subset") == "all"
    cost = summary.filter(pl.col("metric") == "competence", *rms).select(*PER, c="estimate")
    fact = control.filter(pl.col("metric") == "target", *rms).select(*PER, f="estimate")
    rows = ranking(summary).with_columns(b=pl.col("estimate").abs())
    for column in (cost, fact):
        rows = rows.join(column, on=PER, how="left", nulls_equal=True, maintain_order="left")
    b, c, f = (pl.col(name) / pl.col(name).median().over("source") for name in "bcf")
    return rows.with_columns(raw=b / (b + c + f)).with_columns(raw=pl.when(pl.col("raw").is_finite()).then(pl.col("raw")))
