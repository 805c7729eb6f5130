"""Groups, models and sites as points, a figure each: units on the axes. Nothing is measured here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from biasscope.engine.statistics.groups import band
from biasscope.report.drawing import canvas
from biasscope.report.drawing.canvas import COOL, INK, MUTED, WARM, few_numbers, sheet, styled

ENDS = 8
"""Groups shown at either end where there are many."""
BETWEEN: Any = {"ha": "center", "va": "center", "size": 7, "color": MUTED}


@styled
def against_exact(rows: pl.DataFrame, *, title: str, unit: str) -> Figure:
    """Attribution's `estimate` against the `exact` effect, a point a site, by component; line: equal."""
    drawn = sheet(title, (2.5,))
    axes = drawn.axes[0]
    marks = {"z": ("o", WARM, "heads"), "mlp_out": ("s", COOL, "MLPs")}
    marks |= {"attn_out": ("^", MUTED, "attention outputs")}
    for (component,), part in rows.group_by("component", maintain_order=True):
        shape, colour, name = marks.get(str(component), ("x", MUTED, str(component)))
        look: Any = {"s": 10, "marker": shape, "color": colour, "alpha": 0.7, "linewidths": 0.5}
        axes.scatter(part["exact"], part["estimate"], label=name, **look)
    both: Any = pl.concat([rows["exact"], rows["estimate"]])
    ends = [both.min(), both.max()]
    axes.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=0)
    axes.set(xlabel=f"exact effect, {unit}", ylabel=f"attribution, {unit}")
    few_numbers(axes)
    axes.legend(loc="upper left")
    return drawn.figure


@styled
def scatter(rows: pl.DataFrame, *, title: str, axes: tuple[str, str]) -> Figure:
    """y (mean target) of each group against x (its covariate), and their line with its 95 % band; the
    highest, the lowest and those farthest from the line are named.
    """
    drawn = sheet(title, (2.6,))
    area = drawn.axes[0]
    x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
    area.scatter(x, y, s=11, color=WARM, alpha=0.75, linewidths=0)
    area.axhline(0, color=MUTED, linewidth=0.8)
    line = np.polyfit(x, y, 1) if np.ptp(x) > 0 else np.array([0.0, y.mean()])
    area.plot([x.min(), x.max()], np.polyval(line, [x.min(), x.max()]), color=COOL, linewidth=1.3)
    if (about := band(x, y)) is not None:
        area.fill_between(about.x, about.low, about.high, color=COOL, alpha=0.18, linewidth=0)
    area.set(xlabel=canvas.shortened(axes[0], 56), ylabel=canvas.shortened(axes[1], 44))
    area.margins(x=0.04, y=0.1)
    few_numbers(area)
    off = np.argsort(-np.abs(y - np.polyval(line, x)))
    named = dict.fromkeys([int(y.argmax()), int(y.argmin()), *off[:8].tolist()])
    canvas.labels(drawn, [(float(x[i]), float(y[i]), rows["group"][i]) for i in named])
    return drawn.figure


@styled
def dots(rows: pl.DataFrame, *, title: str, axis: str, overall: float) -> Figure:
    """The mean of each group with its interval, from the top; of many the highest and the lowest alone."""
    rows = rows.sort("mean", descending=True)
    cut = rows.height > 2 * ENDS
    shown = pl.concat([rows.head(ENDS), rows.tail(ENDS)]) if cut else rows
    places = [place + (1 if cut and place >= ENDS else 0) for place in range(shown.height)]
    drawn = sheet(title, (max(0.6, 0.15 * (places[-1] + 1)),), left=1.25)
    area = drawn.axes[0]
    for place, row in zip(places, shown.iter_rows(named=True), strict=True):
        area.plot(row["mean"], place, "o", color=WARM if row["mean"] > 0 else COOL, markersize=3.5)
        if row["ci_low"] is not None:
            area.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=INK, linewidth=0.8)
    if cut:
        area.text(
            0.5, ENDS, f"{rows.height - 2 * ENDS} between", transform=area.get_yaxis_transform(), **BETWEEN
        )
    area.axvline(0, color=INK, linewidth=0.8)
    area.axvline(overall, color=MUTED, linewidth=1, linestyle="--")
    area.set_yticks(places, [canvas.shortened(row["group"], 18) for row in shown.iter_rows(named=True)])
    area.set(ylim=(places[-1] + 0.6, -0.6), xlabel=canvas.shortened(axis, 40))
    few_numbers(area, y=False)
    return drawn.figure


@styled
def overview(rows: Sequence[Mapping[str, Any]], *, title: str, unit: str) -> Figure:
    """Estimates with 95 % intervals, one line each from the top: what the clean models prefer."""
    drawn = sheet(title, (max(0.5, 0.24 * len(rows)),), left=1.5)
    axes = drawn.axes[0]
    for place, row in enumerate(rows):
        axes.plot(row["estimate"], place, "o", color=WARM if row["estimate"] > 0 else COOL, markersize=4.5)
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=INK, linewidth=1)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [canvas.shortened(row["name"], 22) for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=canvas.spelt(unit))
    few_numbers(axes, y=False)
    return drawn.figure
