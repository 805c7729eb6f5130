"""What lies between sites, as tables that people read at 80 columns: edges, and what removed sites hid."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, TOTAL
from biasscope.engine.store.runs import DatasetPart
from biasscope.engine.types import Edge, Site
from biasscope.report import tables
from biasscope.report.tables import Table

SHOWN = 25
"""Rows of the table; the rest is in the file."""
BEHIND = 12
"""Rows of the table of a conditional scan."""


def ends(row: Mapping[str, Any]) -> Edge:
    """The edge of a row of EDGES."""
    up, down = (Site(*(row[f"{end}_{n}"] for n in ("layer", "component", "head"))) for end in ("up", "down"))
    return Edge(up, down)


def strongest(summary: pl.DataFrame, edges: pl.DataFrame, part: DatasetPart) -> Table:
    """The strongest edges: estimate and interval, and what path patching gave where it was measured."""
    rows = edges.head(SHOWN).to_dicts()
    exact = edges["exact"].is_not_null().any()
    first, slopes = rows[0], rows[0]["statistic"] == "slope"
    total = next(summary.filter(component=TOTAL).iter_rows(named=True), None)
    columns = ["edge", f"{'slope' if slopes else 'effect'} [95 % interval]", "p_family"]
    columns += ["exact [95 % interval]"] if exact else []
    sections = [[_cells(row, exact=bool(exact)) for row in rows]]
    if total is not None:
        cells = ["total", tables.interval(total), tables.probability(total["p_family"])]
        sections.append([[*cells, *([""] if exact else [])]])
    notes = [*schemas.legend(rows), f"… {edges.height - len(rows)} more edges in {part.path}/edges.parquet"]
    notes.append(
        "edge: what an input reads of a head, an MLP or the embedding, directly; estimated by gradients"
    )
    notes += ["exact: by path patching, where measured"] if exact else []
    notes += tables.of_summary(summary, part, columns)
    title = f"{part.name}: edges, source {first['source']}, {first['n']} examples, {stars(edges)}"
    return Table(title, columns, sections, notes, ("p_family",))


def stars(edges: pl.DataFrame) -> str:
    """How many of all edges have a star."""
    return f"{edges.filter(schemas.starred()).height} of {edges.height} edges with a star"


def _cells(row: dict[str, Any], *, exact: bool) -> list[str]:
    name = str(ends(row)) + ("" if row["position"] == "all" else f" {row['position']}")
    measured = {"estimate": row["exact"], "ci_low": row["exact_low"], "ci_high": row["exact_high"]}
    plain = {"p_family": None, "carried_by": None, "caution": None}
    path = NONE if row["exact"] is None else tables.interval(measured | plain)
    return [name, tables.interval(row), tables.probability(row["p_family"]), *([path] if exact else [])]


def hidden(found: pl.DataFrame, rows: pl.DataFrame, part: DatasetPart) -> Table:
    """The sites whose effects change most once another is gone; `rows`: their SUMMARY."""
    known = found.filter(pl.col("estimate").is_not_null())
    shown = known.sort(pl.col("estimate").abs(), descending=True).head(BEHIND).to_dicts()
    slopes = rows["statistic"][0] == "slope"
    cells = [_change(row) for row in shown]
    new = found.filter("star", ~pl.col("alone_star").fill_null(value=False)).height
    gone = found.select("gone_layer", "gone_component", "gone_head").n_unique()
    change = f"change of {'slope' if slopes else 'effect'} [95 %]"
    columns = ["site", "behind", "round", "alone", change, "p_family"]
    title = f"{part.name}: once others are gone, source {rows['source'][0]}, {gone} sites removed in turn"
    notes = [*schemas.legend(shown)]
    notes.append("change: effect with the site behind which it stands zeroed − effect alone; all one family")
    notes.append(f"{new} changes have a star at sites without one alone; in {part.path}/conditional.parquet")
    notes += tables.of_summary(rows, part, columns)
    return Table(title, columns, [cells], notes, ("p_family", "round"))


def _change(row: dict[str, Any]) -> list[str]:
    places = (Site(*(row[f"{end}{n}"] for n in ("layer", "component", "head"))) for end in ("", "gone_"))
    alone = schemas.number(row["alone"]) + (schemas.STAR if row["alone_star"] else " ")
    cells = [*map(str, places), str(row["round"]), alone]
    return [*cells, tables.interval(row), tables.probability(row["p_family"])]
