"""EFFECTS of sites on a block, a row per example, site and metric; no NaN spreads from its prompt.

A NaN would spread to the prompts that are packed with it (0 × NaN in an attention's sum is NaN). The fast
path pays for a look at its own results. Only where one is not finite, each example of the block is measured
alone, and what is then not finite is that example's own: its own plain pass gives NaN or infinity.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from biasscope.engine.measure.sources import Sweep
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.schemas import EFFECTS, GROUPS, TOTAL
from biasscope.engine.types import EDIT, SET, Site

Place = tuple[Site, str]
"""A site and the position (`types.POSITIONS`) at which it is replaced."""
WHOLE_PROMPT = Site(0, TOTAL)
"""Stands for the prompt exchanged for its twin: layer null in the table."""
NOWHERE = (WHOLE_PROMPT, SET, EDIT)
"""What has no layer."""
Tables = dict[str, pl.DataFrame]


def defined(metric: str, readouts: forward.Readouts) -> np.ma.MaskedArray:
    """The clean metric [example], masked where an example does not have it."""
    values = METRICS[metric].fn(readouts)[0].detach().cpu().numpy()
    return np.ma.MaskedArray(values, mask=~METRICS[metric].defined(readouts).cpu().numpy())


def effects(
    forest: Forest,
    block: Block,
    source: str,
    wanted: Sequence[Place],
    before: Mapping[str, np.ma.MaskedArray],
    after: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """EFFECTS of places on a block: per metric, `before` [example] and `after` [place example].

    Rows in the order place, metric, example, whatever the batch; an example that does not have a metric has
    no row.
    """
    examples, of = forest.members(block)
    metrics, e, m = list(before), len(examples), len(before)

    def of_site(values: list[Any], kind: Any) -> pl.Series:
        return pl.Series(values, dtype=kind)[np.repeat(np.arange(len(wanted)), m * e)]

    def of_example(values: list[str]) -> pl.Series:
        return pl.Series(values, dtype=pl.String)[np.tile(np.arange(e), len(wanted) * m)]

    table = pl.DataFrame(
        {
            "example_id": of_example([x.id for x in examples]),
            "group": of_example([x.group for x in examples]),
            "dataset": of_example([x.dataset for x in examples]),
            "metric": pl.Series(metrics, dtype=pl.String)[np.tile(np.repeat(np.arange(m), e), len(wanted))],
            "component": of_site([s.component for s, _ in wanted], pl.String),
            "layer": of_site([None if s in NOWHERE else s.layer for s, _ in wanted], pl.Int32),
            "head": of_site([s.head for s, _ in wanted], pl.Int32),
            "position": of_site([position for _, position in wanted], pl.String),
            "baseline": np.tile(np.concatenate([before[k].data[of] for k in metrics]), len(wanted)),
            "value": np.stack([after[k][:, of] for k in metrics], axis=1).reshape(-1),
        }
    )
    same = {"source": pl.lit(source), "effect": pl.col("value") - pl.col("baseline")}
    has = np.tile(np.concatenate([~np.ma.getmaskarray(before[k])[of] for k in metrics]), len(wanted))
    return table.with_columns(**same).select(EFFECTS.names()).filter(pl.Series(has))


def total(
    lm: LM, forest: Forest, block: Block, sweep: Sweep, clean: Mapping[str, np.ma.MaskedArray] | None = None
) -> pl.DataFrame:
    """EFFECTS of exchanging a block's prompts for their twins, in the model with the sweep's edit.

    `clean`: the prompts' metrics where known; what the source has read of the twins is not read anew.
    """

    def readouts(b: Block) -> forward.Readouts:
        with torch.no_grad():
            return forward.read(b, forward.run(lm, b, forward.overwrites([sweep.edit.puts(b)])))

    before = clean or {m: defined(m, readouts(block)) for m in sweep.metrics}
    known = None if sweep.edit.at else sweep.source.read
    swapped = known(block) if known else readouts(block.swapped())
    after = {m: METRICS[m].fn(swapped).cpu().numpy() for m in sweep.metrics}
    return effects(forest, block, sweep.source.name, [(WHOLE_PROMPT, "all")], before, after)


def soundly(compute: Callable[[Block], Tables], block: Block) -> Tables:
    """The tables of a block; where a value is not finite, of its examples measured alone, row for row."""
    tables = compute(block)
    bad = [name for name, table in tables.items() if not finite(table)]
    if not bad:
        return tables
    alone = [compute(prompt) for prompt in block.alone()]
    return tables | {name: _in_order(pl.concat(part[name] for part in alone), tables[name]) for name in bad}


def finite(table: pl.DataFrame) -> bool:
    """Whether all numbers of a table are finite, those in lists too."""
    numbers = [
        table[column].explode() for column, kind in table.schema.items() if kind.is_float() or kind == pl.List
    ]
    return all(bool(column.is_finite().all()) for column in numbers)


def _in_order(table: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """The rows in the order of a table that has the same ones with other numbers."""
    keys = [column for column, kind in like.schema.items() if not (kind.is_float() or kind == pl.List)]
    return (
        like.select(keys)
        .join(table, on=keys, how="left", nulls_equal=True, maintain_order="left")
        .select(like.columns)
    )


def summed(
    forest: Forest, block: Block, label: tuple[str, str], values: np.ndarray, has: np.ndarray
) -> pl.DataFrame:
    """GROUPS of a block: scores `example member` summed over the examples that have a target and finite ones.

    `label`: source and position; `has`: which examples have a target.
    """
    examples, of = forest.members(block)
    sound = has & np.isfinite(values).all(1)
    by_group: dict[str, list[int]] = {}
    for e, local in zip(examples, of, strict=True):
        if has[local]:
            by_group.setdefault(e.group, []).extend([local] if sound[local] else [])
    lost = sum(bool(has[local] and not sound[local]) for local in of)
    rows = [
        (group, *label, len(locals_), lost, values[locals_].sum(0)) for group, locals_ in by_group.items()
    ]
    return pl.DataFrame(rows, schema=GROUPS, orient="row")
