"""The meaning of SUMMARY rows, defined once: which rows are single sites, what a star may mean (marks),
and how its numbers are written. No torch.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

LEVEL = 0.05
"""Family-wise level of a star, and one minus the coverage of every interval."""
STAR, CARRIED, DISPUTED, UNEVEN = "*", "°", "†", "~"
LEGENDS = {
    STAR: "* p_family < 0.05, an interval without 0, and not the work of one group",
    CARRIED: "° passes the family-wise test, but not without one group",
    DISPUTED: "† passes the family-wise test, but its interval holds 0",
    UNEVEN: "~ interval less sure: groups of very unequal size, or very skewed values",
}
"""The line that explains a mark, for those a table shows."""
NONE = "–"
"""Stands for a number that does not exist."""
SMALL = 1e-4
"""Below this a number is written with an exponent, and a p as "below": it is near the floor of its draws."""


def single_sites() -> pl.Expr:
    """Rows of heads, MLPs and other hook points, but not of a whole `z`, whose heads stand for themselves."""
    return (pl.col("component") != "z") | pl.col("head").is_not_null()


def heads_and_mlps() -> pl.Expr:
    """Rows of heads and MLPs. The other hook points contain them, and are a family of their own."""
    return (pl.col("component") == "mlp_out") | ((pl.col("component") == "z") & pl.col("head").is_not_null())


def starred() -> pl.Expr:
    """Rows whose mark is a star: "significant" means this, everywhere."""
    return (
        (pl.col("p_family") < LEVEL)
        & ((pl.col("ci_low") > 0) | (pl.col("ci_high") < 0))
        & pl.col("carried_by").is_null()
    ).fill_null(value=False)


def mark(row: Mapping[str, Any]) -> str:
    """The marks of a SUMMARY row: `*`, `°` or `†` where it passes the family-wise test, then `~` where its
    interval is less sure.
    """
    passes = row["p_family"] is not None and row["p_family"] < LEVEL
    sure = (
        row["ci_low"] is not None and row["ci_high"] is not None and (row["ci_low"] > 0 or row["ci_high"] < 0)
    )
    first = "" if not passes else DISPUTED if not sure else CARRIED if row["carried_by"] else STAR
    return first + (UNEVEN if row["caution"] and row["ci_low"] is not None else "")


def legend(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines that explain the marks of these rows, and no others; `°` names the groups."""
    rows = list(rows)
    shown = {sign for row in rows for sign in mark(row)}
    carriers = sorted({row["carried_by"] for row in rows if CARRIED in mark(row)})
    lines = {sign: line for sign, line in LEGENDS.items() if sign in shown}
    if carriers:
        lines[CARRIED] += f": {', '.join(carriers)}"
    return list(lines.values())


def number(value: float | None) -> str:
    """Three significant digits, and a dash for what does not exist."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0.000"
    if abs(value) >= SMALL:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 4)}f}".replace("-", "−")
    return f"{value:.0e}".replace("-", "−")
