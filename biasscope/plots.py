"""Heat maps and bars in the terminal, because people look before they read: colour where there is a terminal, signs everywhere."""

from typing import TYPE_CHECKING, TextIO

import polars as pl

from biasscope.engine import stats
from biasscope.tables import number

if TYPE_CHECKING:
    from rich.console import Console

STEPS = (0.6, 0.3, 0.1)
"""Shares of the largest |effect| from which a cell shows a stronger sign."""
SIGNS = {1: ("++", "+ ", "' "), -1: ("--", "- ", ", ")}
"""Signs of an effect, strongest first."""
WARM, COOL = (200, 90, 30), (40, 100, 190)
"""Colours of positive and negative effects, told apart by the colour-blind too."""
WIDTH = 40
"""Characters of the longest bar."""


def sites(summary: pl.DataFrame, stream: TextIO) -> None:
    """Nothing: draws the heads as layers × heads, and the MLPs as bars, by the ranking statistic; `*`: p_family < 0.05."""
    from rich.text import Text

    ranked = stats.ranking(summary).filter(pl.col("position") == pl.col("position").first())
    heads = ranked.filter(pl.col("component") == "z", pl.col("head").is_not_null())
    console = _console(stream)
    what = f"{ranked['statistic'][0]}, {ranked['unit'][0]}" if ranked.height else ""
    if heads.height:
        cells = {(row["layer"], row["head"]): row for row in heads.iter_rows(named=True)}
        largest = max((abs(row["estimate"] or 0.0) for row in cells.values()), default=0.0)
        columns = range(max(head for _, head in cells) + 1)
        console.print(Text(f"heads: {what}; {SIGNS[1][0]} {SIGNS[-1][0]} from {number(STEPS[0] * largest)}, * significant"))
        console.print(Text("layer " + "".join(f"{head:<3}" for head in columns)))
        for layer in sorted({layer for layer, _ in cells}):
            line = Text(f"{layer:>5} ")
            for head in columns:
                row = cells.get((layer, head))
                text, style = ("  ", "") if row is None else _cell(row["estimate"], row["p_family"], largest)
                line.append(text, style)
                line.append(" ")
            console.print(line)
    mlps = ranked.filter(pl.col("component") == "mlp_out").sort("layer")
    if mlps.height:
        rows = [
            (f"L{r['layer']}.mlp", r["estimate"], r["p_family"] is not None and r["p_family"] < 0.05) for r in mlps.iter_rows(named=True)
        ]
        _bars(rows, f"MLPs: {what}; * significant", stream)


def probes(summary: pl.DataFrame, stream: TextIO) -> None:
    """Nothing: draws held-out accuracy by layer as bars from one half; `*`: above the band of shuffled labels."""
    rows = summary.filter(pl.col("method") == "probe", pl.col("statistic") == "accuracy").sort("layer")
    band = {r["layer"]: r["ci_high"] for r in summary.filter(pl.col("method") == "shuffled").iter_rows(named=True)}
    bars = [
        (f"row {r['layer']}", None if r["estimate"] is None else r["estimate"] - 0.5, (r["estimate"] or 0) > band.get(r["layer"], 1))
        for r in rows.iter_rows(named=True)
    ]
    _bars(bars, "held-out accuracy − ½; * above the 95 % band of shuffled labels", stream)


def _bars(rows: list[tuple[str, float | None, bool]], title: str, stream: TextIO) -> None:
    from rich.text import Text

    console, largest = _console(stream), max((abs(value or 0.0) for _, value, _ in rows), default=0.0)
    console.print(Text(title))
    for name, value, marked in rows:
        length = 0 if value is None or largest == 0 else round(WIDTH * abs(value) / largest)
        colour = WARM if (value or 0) >= 0 else COOL
        line = Text(f"{name:>8} ")
        line.append(("█" if (value or 0) >= 0 else "▒") * length, f"rgb({colour[0]},{colour[1]},{colour[2]})")
        line.append(f" {number(value)}{'*' if marked else ''}")
        console.print(line)


def _cell(value: float | None, p_family: float | None, largest: float) -> tuple[str, str]:
    """Two characters and a style: sign and strength, darker where larger, a star where significant."""
    if value is None or largest == 0:
        return "· ", ""
    share = abs(value) / largest
    step = next((i for i, least in enumerate(STEPS) if share >= least), None)
    text = "· " if step is None else SIGNS[1 if value > 0 else -1][step]
    text = text[0] + "*" if p_family is not None and p_family < 0.05 else text
    red, green, blue = (round(255 - (255 - c) * min(1.0, share)) for c in (WARM if value > 0 else COOL))
    return text, f"{'white' if share > 0.5 else 'black'} on rgb({red},{green},{blue})"


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 200, highlight=False, soft_wrap=True)
