"""What one prompt's NaN may not do: spread to the prompts that are packed with it (0 × NaN in an attention's sum is NaN).

The fast path pays for a look at its own results. Only where one is not finite, each example of the block is measured alone, and what
is then not finite is that example's own: its own plain pass gives NaN or infinity.
"""

from collections.abc import Callable

import polars as pl

from biasscope.engine.packing import Block

Tables = dict[str, pl.DataFrame]


def soundly(compute: Callable[[Block], Tables], block: Block) -> Tables:
    """The tables of a block; those with a value that is not finite are put together from its examples measured alone, row for row."""
    tables = compute(block)
    bad = [name for name, table in tables.items() if not finite(table)]
    if not bad:
        return tables
    alone = [compute(one) for one in block.alone()]
    return tables | {name: _in_order(pl.concat(part[name] for part in alone), tables[name]) for name in bad}


def finite(table: pl.DataFrame) -> bool:
    """Whether all numbers of a table are finite, those in lists too."""
    numbers = [table[column].explode() for column, kind in table.schema.items() if kind in (pl.Float64, pl.List)]
    return all(bool(column.is_finite().all()) for column in numbers)


def _in_order(table: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """The rows in the order of a table that has the same ones with other numbers."""
    keys = [column for column, kind in like.schema.items() if kind not in (pl.Float64, pl.List)]
    return like.select(keys).join(table, on=keys, how="left", nulls_equal=True, maintain_order="left").select(like.columns)
