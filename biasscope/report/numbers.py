"""Numbers of SUMMARY rows as text: to two places, or to three digits; what does not exist is a dash."""

from collections.abc import Mapping
from typing import Any

from biasscope.engine.schemas import NONE, number

Row = Mapping[str, Any]


def two(value: float | None) -> str:
    """Two decimals, and no minus before a zero."""
    return NONE if value is None else f"{value:.2f}".replace("-", "−").replace("−0.00", "0.00")


def middle(row: Row | None) -> str:
    """The estimate alone, to two places."""
    return NONE if row is None else two(row["estimate"])


def ends(row: Row) -> str:
    """The interval in brackets, to two places."""
    return NONE if row["ci_low"] is None else f"[{two(row['ci_low'])}, {two(row['ci_high'])}]"


def span(row: Row | None) -> str:
    """Estimate and interval, where there is one, to two places."""
    if row is None or row["estimate"] is None:
        return NONE
    return two(row["estimate"]) + ("" if row["ci_low"] is None else f" {ends(row)}")


def digits(row: Row, name: str = "ci") -> str:
    """The interval in brackets, to three digits; empty where there is none. `name`: ci, or recovered."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def rest(n: int, kind: str) -> list[str]:
    """How many are not shown, if any: "1 more head", "20 more heads"."""
    return [f"{n} more {kind.removesuffix('s') if n == 1 else kind}"] if n else []
