"""What edits take away, what they cost, and what random edits of equal size and cost do.

`left` is the statistic after an edit / before it, null where the interval of the clean one holds 0. A random
edit has no interval: its band is of draws, and an edit's rank is how many of them do as much.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from biasscope.engine.schemas import EFFECTS, SUMMARY, TOTAL
from biasscope.engine.statistics import summary
from biasscope.engine.statistics.cells import measured, sites_of
from biasscope.engine.statistics.inference import estimates
from biasscope.engine.types import Design, Site

SUBSETS = ("choosing", "judged", "transfer", "facts", "text", "audit")
"""What the rows of SUMMARY are over."""
CHOOSING, JUDGED, TRANSFER, FACTS, TEXT, AUDIT = SUBSETS
CLEAN = "clean"
"""The position of rows about the model as it is."""
FEWEST = 19
"""Draws below which a rank of 1 / (1 + n) is no longer below the level."""
LOSS = "nll"
FACTUAL = "definitional"
"""The data in which gender is a fact."""
UNTESTED = ("p_family", "q", "carried_by")
ENDS = ("ci_low", "estimate", "ci_high")


@dataclass(frozen=True)
class Study:
    """What a run measured: the effects of its edits, on which groups of which data; what the edits are."""

    effects: pl.DataFrame
    """EFFECTS of component `edit`, position its name."""
    edits: pl.DataFrame
    """EDITS."""
    designs: Mapping[str, Design]
    """Data set → its design; the first is the run's own, the second what the edits are transferred to."""
    judged: frozenset[str]
    """The groups of the run's own data that judge; the others chose."""
    model: str = ""
    audit: pl.DataFrame = field(default_factory=EFFECTS.to_frame)
    """EFFECTS of heads on the groups that judge, position: the edit that stands, or `CLEAN`."""
    estimates: pl.DataFrame = field(default_factory=EFFECTS.to_frame)
    """Those that were estimated, in the edited models."""

    @property
    def own(self) -> list[str]:
        """The names of the own edits."""
        return self.edits.filter(role="own")["name"].to_list()

    def part(self, subset: str) -> pl.DataFrame:
        """The EFFECTS of a subset, own edits and controls."""
        names, prose = list(self.designs), pl.col("metric") == LOSS
        if subset == TEXT:
            return self.effects.filter(prose)
        effects = self.effects.filter(~prose)  # a user's file may be called text too
        if subset == FACTS:
            return effects.filter(dataset=FACTUAL)
        if subset == TRANSFER:
            return effects.filter(dataset=names[1]) if len(names) > 1 else effects.clear()
        rows = effects.filter(dataset=names[0])
        judges = pl.col("group").is_in(list(self.judged))
        return rows.filter(judges if subset == JUDGED else ~judges)

    def design(self, subset: str) -> Design:
        """The design of a subset's groups."""
        designs = list(self.designs.values())
        if subset in (FACTS, TEXT):
            return Design(seed=designs[0].seed)
        return designs[1] if subset == TRANSFER else designs[0]


def lowering(effects: pl.DataFrame, design: Design) -> list[Site]:
    """The sites of EFFECTS, those first whose replacement lowers the clean ranking statistic most.

    By the sign of the clean one: what holds the bias down comes last, and not first as by size.
    """
    rows = summary.estimated(effects, design)
    sign = -1.0 if (clean(effects, design) or 0.0) < 0 else 1.0
    order = rows.filter(pl.col("estimate").is_not_null()).sort(
        pl.col("estimate") * sign, "layer", "head", maintain_order=True
    )
    return sites_of(order)


def clean(effects: pl.DataFrame, design: Design) -> float | None:
    """The clean model's ranking statistic, from the baselines of any one site or edit."""
    keys = ["component", "layer", "head", "position"]
    first = effects.filter(metric="target").select(keys).row(0)
    here = [pl.col(key).eq_missing(pl.lit(value)) for key, value in zip(keys, first, strict=True)]
    rows = effects.filter(*here).with_columns(effect="baseline")
    return summary.estimated(rows, design)["estimate"][0]


def summarise(study: Study) -> pl.DataFrame:
    """SUMMARY of the own edits, a row per edit, subset and statistic, then their controls'.

    method: the kind; position: the edit's name; source: the control, or the kind. Statistics: `slope` (or
    `mean` where there is no covariate): the change; `value`: what stands after it; `left`: its share of the
    clean one; `mean` of target, competence and kl; `accuracy` and `gap` on facts; `nll` on text. Subset
    `audit`: heads that were replaced in the model as it is (position `clean`) and in each edited one.
    """
    tables = [_of_subset(study, subset) for subset in (JUDGED, CHOOSING, TRANSFER)]
    tables += [_facts(study), _text(study), _controls(study), *_audits(study)]
    rows = pl.concat(table for table in tables if table.height)
    order = {name: i for i, name in enumerate(study.own)}
    number = pl.col("position").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    return rows.sort(_subset_order(), number, maintain_order=True)


def _subset_order() -> pl.Expr:
    return summary.place("subset", SUBSETS)


def _of_subset(study: Study, subset: str) -> pl.DataFrame:
    """SUMMARY of the own edits on a subset of the prompts that bias is measured with."""
    rows = study.part(subset).filter(pl.col("position").is_in(study.own))
    if rows.is_empty():
        return SUMMARY.to_frame()
    design = study.design(subset)
    changes = summary.summarise(rows, model=study.model, method="", design=design)
    changes = changes.filter(pl.col("subset") == "all", pl.col("statistic") != "rms")
    if subset != JUDGED:  # one family a run: its own edits on the half that judges
        changes = changes.with_columns(pl.lit(None, SUMMARY[name]).alias(name) for name in UNTESTED)
    return _labelled(pl.concat([changes, *_after(rows, design, study.model)]), subset)


def _after(rows: pl.DataFrame, design: Design, model: str) -> Iterable[pl.DataFrame]:
    """SUMMARY of the ranking statistic after each edit (`value`) and as a share of the clean one (`left`)."""
    target = rows.filter(metric="target")
    for part in target.partition_by("source", maintain_order=True):
        first = part["position"][0]
        whole = part.filter(position=first).with_columns(
            effect="baseline", component=pl.lit(TOTAL), position=pl.lit("all")
        )
        both = pl.concat([part.with_columns(effect="value"), whole])
        values = summary.estimated(both, design, model=model, ends=True)
        left = dict(zip(ENDS, ("recovered_low", "recovered", "recovered_high"), strict=True))
        empty = [pl.lit(None, SUMMARY[name]).alias(name) for name in estimates.RECOVERED]
        yield values.with_columns(*empty, statistic=pl.lit("value"), source=pl.lit(part["source"][0]))
        yield values.with_columns(
            *(pl.col(column).alias(end) for end, column in left.items()),
            statistic=pl.lit("left"),
            unit=pl.lit("share"),
            source=pl.lit(part["source"][0]),
        ).with_columns(*empty, caution=pl.lit(None, pl.String))


def _labelled(rows: pl.DataFrame, subset: str) -> pl.DataFrame:
    """Rows of SUMMARY named after their kind and subset."""
    return rows.with_columns(method="source", subset=pl.lit(subset)).select(SUMMARY.names()).cast(SUMMARY)


def _facts(study: Study) -> pl.DataFrame:
    """SUMMARY where gender is a fact: the share of prompts with the right pronoun, the gap between the nouns.

    The gap, male − female noun of a sentence, is twice the mean of target; clusters are the sentences.
    """
    rows = study.part(FACTS).filter(metric="target")
    if rows.is_empty():
        return SUMMARY.to_frame()
    design = study.design(FACTS)
    first = rows.filter(position=rows["position"][0])
    before = first.with_columns(value="baseline", source=pl.lit(CLEAN), position=pl.lit(CLEAN))
    rows = pl.concat([before, rows])
    right = rows.with_columns(effect=(pl.col("value") > 0).cast(pl.Float64))
    gap = rows.with_columns(effect=2 * pl.col("value"))
    tables = [
        _means(right, design, study.model, "accuracy", "share"),
        _means(gap, design, study.model, "gap", "nats"),
    ]
    after = _after(rows.filter(pl.col("source") != CLEAN), design, study.model)
    tables += [part.filter(statistic="left") for part in after]
    return _labelled(pl.concat(tables), FACTS)


def _means(rows: pl.DataFrame, design: Design, model: str, statistic: str, unit: str) -> pl.DataFrame:
    """SUMMARY of the mean of `effect` over examples, clusters being groups, without p."""
    here = replace(measured(rows.lazy(), rows["metric"][0], design), families=None)
    columns = estimates.mean(here.cells, design.seed, None)
    label = {"model": model, "dataset": rows["dataset"][0], "metric": rows["metric"][0]}
    table = summary.table(here.sites, columns, label | {"statistic": statistic, "unit": unit})
    return table.filter(here.sites["measured"])


def _text(study: Study) -> pl.DataFrame:
    """SUMMARY of the change of the loss per token of prose, clusters being paragraphs; of the clean loss."""
    rows = study.part(TEXT)
    if rows.is_empty():
        return SUMMARY.to_frame()
    first = rows.filter(position=rows["position"][0])
    before = first.with_columns(effect="baseline", source=pl.lit(CLEAN), position=pl.lit(CLEAN))
    unit, design = "nats per token", study.design(TEXT)
    both = [
        _means(before, design, study.model, "nll_clean", unit),
        _means(rows, design, study.model, "nll", unit),
    ]
    return _labelled(pl.concat(both), TEXT)


def _controls(study: Study) -> pl.DataFrame:
    """SUMMARY of each own edit's controls on the judged half: the band of their changes, and its rank."""
    drawn = study.edits.filter(pl.col("role") != "own")
    rows = study.part(JUDGED).filter(metric="target")
    if drawn.is_empty():
        return SUMMARY.to_frame()
    change, design = changes(rows, study.design(JUDGED)), study.design(JUDGED)
    sign = -1.0 if (clean(rows, design) or 0.0) < 0 else 1.0
    statistic = measured(rows.lazy(), "target", design).statistic
    kinds = dict(study.edits.filter(role="own").select("name", "kind").iter_rows())
    same = {"model": study.model, "dataset": rows["dataset"][0], "subset": JUDGED, "metric": "target"}
    table = []
    for (of, role), draws in drawn.group_by("of", "role", maintain_order=True):
        known = [change[name] for name in draws.filter("used")["name"]]
        label = same | {"method": kinds[str(of)], "source": role, "component": "edit", "position": of}
        if not known:  # no draw reached its cost
            table.append(label | {"n": 0, "statistic": "rank", "unit": "share"})
            continue
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95]).tolist()
        band = {"ci_low": low, "estimate": middle, "ci_high": high, "n": len(known)}
        table.append(label | band | {"statistic": "random", "unit": summary.unit("target", statistic)})
        as_low = sum(sign * value <= sign * change[str(of)] for value in known)
        rank = {"n": len(known), "estimate": (1 + as_low) / (1 + len(known))}
        table.append(label | rank | {"statistic": "rank", "unit": "share"})
    return pl.DataFrame([{name: row.get(name) for name in SUMMARY} for row in table], SUMMARY)


def _audits(study: Study) -> Iterable[pl.DataFrame]:
    """SUMMARY of the heads that were replaced in the model as it is, and in each edited one.

    Each model is a study of its own, with a family of all of its heads: those only estimated stand in the
    maximum. method: the kind; source: what replaced a head; position: the edit, or `CLEAN`.
    """
    kinds = dict(study.edits.filter(role="own").select("name", "kind").iter_rows())
    design = study.design(JUDGED)
    for (name,), rows in study.audit.group_by("position", maintain_order=True):
        others = study.estimates.filter(position=name).join(
            rows, on=["layer", "head"], how="anti", nulls_equal=True
        )
        here = measured(rows.lazy(), "target", design, others.lazy())
        statistic, columns = next(summary.statistics("target", here, design.seed))
        label = {"model": study.model, "dataset": rows["dataset"][0], "subset": AUDIT, "metric": "target"}
        label |= {"statistic": statistic, "unit": summary.unit("target", statistic)}
        label |= {"method": kinds.get(str(name), CLEAN)}
        table = summary.table(here.sites, columns, label, here.groups).filter(here.sites["measured"])
        yield table.sort(pl.col("estimate").abs(), descending=True, nulls_last=True, maintain_order=True)


def changes(rows: pl.DataFrame, design: Design) -> dict[str, float]:
    """Edit → the change of the ranking statistic, the estimate alone."""
    here = measured(rows.lazy(), "target", design)
    found = summary.estimates_of(here, here.statistic).tolist()
    return dict(zip(here.sites["position"].to_list(), found, strict=True))


def share(band: Sequence[float | None], clean_value: float | None) -> tuple[float | None, ...]:
    """Changes of the ranking statistic as what is left of the clean one; None where it does not exist."""
    if not clean_value:
        return tuple(None for _ in band)
    return tuple(None if x is None else 1 + x / clean_value for x in band)
