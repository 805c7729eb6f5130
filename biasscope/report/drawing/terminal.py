"""Heat maps and bars in the terminal: colour where there is one, signs everywhere."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import number
from biasscope.engine.statistics.summary import ranking
from biasscope.report.probes import readable

if TYPE_CHECKING:
    from rich.console import Console

STEPS = (0.6, 0.3, 0.1)
"""Shares of the largest |effect| from which a cell shows a stronger sign."""
SIGNS = {1: ("++", "+", "'"), -1: ("--", "-", ",")}
"""Signs of an effect, strongest first; a mark follows."""
SMALL, MISSING = "·", "?"
REST = {SMALL: "less", MISSING: "no number"}
MARKS = {
    schemas.STAR: "significant",
    schemas.CARRIED: "significant only with one group",
    schemas.DISPUTED: "passes the test, interval holds 0",
}
"""The marks of a table in few words."""
WARM, COOL, GREY = (200, 90, 30), (40, 100, 190), (128, 128, 128)
"""Colours of positive and negative effects, and of what is not significant."""
WIDTH = 20
"""Characters of the longest bar, to either side of the middle."""


def sites(summary: pl.DataFrame, stream: TextIO) -> None:
    """Draw heads as layers × heads and MLPs as bars on one scale, by the ranking statistic, with marks."""
    ranked = ranking(summary).filter(pl.col("position") == pl.col("position").first())
    what = f"{ranked['statistic'][0]}, {ranked['unit'][0]}" if ranked.height else ""
    heads = ranked.filter(pl.col("head").is_not_null(), component="z")
    mlps = ranked.filter(component="mlp_out").sort("layer")
    if heads.height:
        _heat_map(heads.to_dicts(), what, stream)
    if mlps.height:
        rows = [(f"L{r['layer']}.mlp", r["estimate"], _mark(r)) for r in mlps.iter_rows(named=True)]
        legend = [f"MLPs: {what}", *_explained({mark for _, _, mark in rows})]
        largest = _largest(r["estimate"] for r in [*heads.to_dicts(), *mlps.to_dicts()])
        _bars(rows, "; ".join(legend), largest, stream)


def _heat_map(heads: list[dict[str, Any]], what: str, stream: TextIO) -> None:
    from rich.text import Text

    console, largest = _console(stream), _largest(row["estimate"] for row in heads)
    drawn = {(row["layer"], row["head"]): _cell(row, largest) for row in heads}
    columns = range(max(head for _, head in drawn) + 1)
    signs, marks = ({cell[i] for cell in drawn.values()} for i in (0, 1))
    legend = [f"heads: {what}", *_legend(signs, largest), *_explained(marks)]
    console.print(Text("; ".join(legend)))
    console.print(Text("layer " + "".join(f"{head:<3}" for head in columns)))
    for layer in sorted({layer for layer, _ in drawn}):
        line = Text(f"{layer:>5} ")
        for head in columns:
            sign, mark, style = drawn.get((layer, head), ("", "", ""))
            line.append(f"{sign}{mark}".ljust(3), style)
        console.print(line)


def _legend(signs: set[str], largest: float) -> list[str]:
    """What the signs that are drawn mean, and no others."""
    lines = []
    for step, both in zip(STEPS, zip(*SIGNS.values(), strict=True), strict=True):
        if used := [sign for sign in both if sign in signs]:
            lines.append(f"{' '.join(used)} from {number(step * largest)}")
    return lines + [f"{sign} {meaning}" for sign, meaning in REST.items() if sign in signs]


def _explained(marks: set[str]) -> list[str]:
    return [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in marks]


def _mark(row: Mapping[str, Any]) -> str:
    """The mark of a row that says whether it passes; that its interval is less sure stands in the table."""
    return schemas.mark(row).replace(schemas.UNEVEN, "")


def _largest(values: Iterable[float | None]) -> float:
    return max((abs(value or 0.0) for value in values), default=0.0)


def probes(summary: pl.DataFrame, stream: TextIO) -> None:
    """Draw held-out accuracy by layer as bars from one half; `*`: see `probes.readable`."""
    rows, shuffled = (summary.filter(method=name, statistic="accuracy") for name in ("probe", "shuffled"))
    band = {row["layer"]: row for row in shuffled.iter_rows(named=True)}
    bars = []
    for row in rows.sort("layer").iter_rows(named=True):
        above = None if row["estimate"] is None else row["estimate"] - 0.5
        mark = schemas.STAR if readable(row, band.get(row["layer"])) else ""
        bars.append((f"row {row['layer']}", above, mark))
    _bars(bars, "held-out accuracy − ½; * interval above the band of shuffled labels", 0.5, stream)


def doses(left: Mapping[str, Mapping[float, float | None]], stream: TextIO) -> None:
    """Draw what is left at each dose, a line of bars an edit: a whole bar is the clean value."""
    from rich.text import Text

    console = _console(stream)
    console.print(Text(f"left of the clean value by dose; {'█' * 10} all of it"))
    for name, line in left.items():
        console.print(Text(name))
        for dose, value in line.items():
            length = 0 if value is None else round(10 * min(2.0, max(0.0, value)))
            console.print(Text(f"{dose:>8g} {'█' * length:<20} {number(value)}"))


def _bars(rows: list[tuple[str, float | None, str]], title: str, scale: float, stream: TextIO) -> None:
    """Bars from a middle line, to the right where positive; full and coloured with a star, else pale."""
    from rich.text import Text

    console = _console(stream)
    console.print(Text(f"{title}; a whole side: {number(scale)}; █ with a star, ░ without"))
    for name, value, mark in rows:
        length = 0 if value is None or scale == 0 else round(WIDTH * abs(value) / scale)
        sure, positive = mark == schemas.STAR, (value or 0) >= 0
        colour = GREY if not sure else WARM if positive else COOL
        left, right = (0, length) if positive else (length, 0)
        line, style, letter = Text(f"{name:>8} "), "rgb({},{},{})".format(*colour), "█" if sure else "░"
        line.append(f"{letter * left:>{WIDTH}}", style).append("│")
        line.append(f"{letter * right:<{WIDTH}}", style)
        line.append(f" {number(value)}{mark}")
        console.print(line)


def _cell(row: Mapping[str, Any], largest: float) -> tuple[str, str, str]:
    """Sign and strength, darker where larger, the mark of the row, and a style."""
    value = row["estimate"]
    if value is None or largest == 0:
        return MISSING if value is None else SMALL, "", ""
    share = abs(value) / largest
    step = next((i for i, least in enumerate(STEPS) if share >= least), None)
    sign = SMALL if step is None else SIGNS[1 if value > 0 else -1][step]
    red, green, blue = (round(255 - (255 - c) * min(1.0, share)) for c in (WARM if value > 0 else COOL))
    return sign, _mark(row), f"{'white' if share > 0.5 else 'black'} on rgb({red},{green},{blue})"


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 200, highlight=False, soft_wrap=True)
