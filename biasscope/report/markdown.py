"""A summary as a Markdown table to paste: a row a number, with the half width of its interval after ±."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, number
from biasscope.engine.types import MEMBER, Site
from biasscope.report.tables import escaped, named, probability

COLUMNS = (
    "data",
    "source",
    "site",
    "score",
    "over",
    "value",
    " ",
    "95 %",
    "low",
    "high",
    "unit",
    "p",
    "p_family",
)
COUNTS = ("n", "groups")
NEEDED = ("data", "score", "value", " ", "95 %", *COUNTS)
"""Columns that are there even where they hold nothing."""


def of_summary(summary: pl.DataFrame) -> str:
    """The rows of SUMMARY that hold a number, and the columns that say something of any."""
    rows = [_cells(row) for row in summary.iter_rows(named=True) if row["statistic"] != MEMBER]
    told = [c for c in (*COLUMNS, *COUNTS) if c in NEEDED or any(row[c] not in ("", NONE) for row in rows)]
    if all(row["over"] in ("", "all") for row in rows):
        told = [column for column in told if column != "over"]
    return table(told, [[row[column] for column in told] for row in rows])


def plain(rows: pl.DataFrame) -> str:
    """Rows of any columns, those that are empty throughout left out, with readable digits."""
    shown = [name for name in rows.columns if rows[name].null_count() < rows.height]

    def cell(value: Any) -> str:
        return number(value) if isinstance(value, float) else "" if value is None else str(value)

    return table(shown, [[cell(value) for value in row] for row in rows.select(shown).iter_rows()])


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; nothing of a cell acts as Markdown or HTML."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(escaped(cell) for cell in line)} |\n" for line in lines)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["ci_low"], row["ci_high"]
    known = low is not None and high is not None
    where = "" if row["position"] in (None, "", "all") else f" {row['position']}"
    cells = dict(_labels(row), score=named(row), site=f"{_site(row)}{where}", over=row["subset"] or "")
    cells |= {"value": f"{number(row['estimate'])}{schemas.mark(row)}", "unit": row["unit"] or ""}
    cells |= {" ": "±" if known else "", "95 %": number((high - low) / 2) if known else NONE}
    cells |= {"low": number(low), "high": number(high)}
    cells |= {"p": probability(row["p"]), "p_family": probability(row["p_family"])}
    return cells | {"n": _count(row["n"]), "groups": _count(row["clusters"])}


def _labels(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "data", row["dataset"]
    yield "source", row["source"] or ("" if row["method"] in ("baseline", "exact") else row["method"] or "")


def _site(row: dict[str, Any]) -> str:
    if row["component"] is None:
        return ""
    return (
        row["component"] if row["layer"] is None else str(Site(row["layer"], row["component"], row["head"]))
    )


def _count(value: int | None) -> str:
    return NONE if value is None else str(value)
