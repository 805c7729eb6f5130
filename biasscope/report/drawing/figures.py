"""Sites and sets as figures, a function each: rows of SUMMARY, units on the axes. Nothing is measured here;
groups and models: `points`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biasscope.engine import schemas
from biasscope.engine.statistics.circuits import sized
from biasscope.report.drawing import canvas
from biasscope.report.drawing.canvas import (
    COOL,
    DIVERGING,
    INK,
    MUTED,
    NEUTRAL,
    WARM,
    Sheet,
    few_numbers,
    sheet,
    styled,
)

BAR = 0.115
"""Inches of a bar and its gap."""


@styled
def heat_map(rows: pl.DataFrame, *, title: str, largest: float, unit: str) -> Figure:
    """Layers × heads of one statistic, colours from −largest to largest; rings: stars; grey: no number."""
    drawn = _layers(rows.with_columns(across="head", shown="estimate"), title, largest, unit)
    axes = drawn.axes[0]
    axes.set(xlabel="head")
    canvas.whole_numbers(axes.xaxis, 8)
    return drawn.figure


@styled
def bars(rows: pl.DataFrame, *, title: str, unit: str) -> Figure:
    """Estimates and 95 % intervals by layer; full where there is a star, else pale."""
    rows = rows.sort("layer")
    drawn = sheet(title, (max(1.4, BAR * _extent(rows["layer"])),))
    axes = drawn.axes[0]
    for row in rows.with_columns(starred=schemas.starred()).iter_rows(named=True):
        if row["estimate"] is None:
            continue
        look: Any = {"color": WARM if row["estimate"] > 0 else COOL, "alpha": 1.0 if row["starred"] else 0.35}
        axes.barh(row["layer"], row["estimate"], height=0.72, **look)
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [row["layer"]] * 2, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlabel=canvas.spelt(unit), ylabel="layer")
    few_numbers(axes, y=False)
    canvas.whole_numbers(axes.yaxis, 10)
    return drawn.figure


@styled
def positions(rows: pl.DataFrame, *, title: str, shown: str, unit: str) -> Figure:
    """Layer × position of a residual component: the column `shown` (recovered or estimate); rings: stars."""
    columns = rows["position"].unique(maintain_order=True).to_list()
    place = pl.col("position").replace_strict(columns, range(len(columns)))
    shares = shown == "recovered"
    largest = 1.0 if shares else float(np.nanmax(np.abs(_floats(rows, shown)), initial=1e-9))
    rows = rows.with_columns(across=place, shown=shown)
    drawn = _layers(rows, title, largest, "share" if shares else unit)
    drawn.axes[0].set_xticks(range(len(columns)), columns)
    drawn.axes[0].set(xlabel="position in the prompt")
    return drawn.figure


def _layers(rows: pl.DataFrame, title: str, largest: float, unit: str) -> Sheet:
    """A map of the column `shown` by layer, the first at the bottom, and `across`; rings: stars."""
    grid = np.full((_extent(rows["layer"]), _extent(rows["across"])), np.nan)
    grid[rows["layer"].to_numpy(), rows["across"].to_numpy()] = _floats(rows, "shown")
    drawn = sheet(title, (min(6.4, max(1.6, 0.105 * len(grid))),), right=0.9)
    axes = drawn.axes[0]
    scale: Any = {"cmap": DIVERGING, "vmin": -largest, "vmax": largest, "origin": "lower"}
    image = axes.imshow(np.ma.masked_invalid(grid), aspect="auto", interpolation="nearest", **scale)
    stars = rows.filter(schemas.starred())
    ring: Any = {"s": 9, "facecolors": "none", "edgecolors": "black", "linewidths": 0.7}
    axes.scatter(stars["across"], stars["layer"], **ring)
    if stars.height:
        drawn.figure.text(1 - 0.06 / canvas.WIDTH, 0.02, "○ significant", ha="right", va="bottom", size=7)
    axes.set(ylabel="layer")
    canvas.whole_numbers(axes.yaxis, 10)
    canvas.colour_bar(drawn, image, unit)
    return drawn


@styled
def probes(summary: pl.DataFrame, *, title: str) -> Figure:
    """Held-out accuracy by layer, shuffled labels and bag of tokens beside it; below: selectivity."""
    drawn = sheet(title, (1.75, 0.8))
    above, below = drawn.axes
    own, shuffled = (_by_layer(summary, method, "accuracy") for method in ("probe", "shuffled"))
    selective = _by_layer(summary, "within groups", "selectivity")
    if shuffled["ci_low"].is_not_null().any():
        _band(above, shuffled, "layer", MUTED, 0.3)
        above.plot([], [], color=MUTED, alpha=0.4, linewidth=6, label="shuffled labels, 5–95 %")
    _band(above, own, "layer", WARM, 0.25)
    above.plot(own["layer"], _floats(own, "estimate"), color=WARM, linewidth=1.4, label="probe, 95 %")
    for value in summary.filter(method="bag of tokens", statistic="accuracy")["estimate"].drop_nulls():
        above.axhline(value, color=COOL, linewidth=1, linestyle="--", label="bag of tokens")
    above.set(ylabel="held-out accuracy", ylim=(0, 1.0))
    above.tick_params(labelbottom=False)
    above.legend(loc="lower left", ncols=2, columnspacing=1.0, handlelength=1.4)
    below.axhline(0, color=INK, linewidth=0.8)
    gain = _floats(selective, "estimate")
    below.plot(selective["layer"], gain, color=COOL, linewidth=1.4)
    most = max(0.1, 1.1 * np.nanmax(np.abs(gain), initial=0.0))
    below.set(ylabel="selectivity", xlim=above.get_xlim(), ylim=(-most, most))
    below.set(xlabel="row of the residual stream" if "resid" in own["component"] else "layer")
    canvas.whole_numbers(below.xaxis, 8)
    few_numbers(below, x=False, most=3)
    return drawn.figure


@styled
def faithfulness(summary: pl.DataFrame, *, title: str) -> Figure:
    """f of the strongest sites kept alone (above) and removed (below) by number, random sets beside."""
    drawn = sheet(title, (1.35, 1.35))
    for axes, method, name in zip(drawn.axes, ("keep", "remove"), ("kept alone", "removed"), strict=True):
        rows = sized(summary).filter(method=method)
        top, random = (rows.filter(kind=kind).sort("k") for kind in ("top", "random"))
        _band(axes, random, "k", MUTED, 0.35)
        axes.plot([], [], color=MUTED, alpha=0.4, linewidth=6, label="random sets, 5–95 %")
        middle, low, high = (_floats(top, c) for c in ("estimate", "ci_low", "ci_high"))
        axes.vlines(top["k"], low, high, color=WARM, linewidth=1)
        line: Any = {"color": WARM, "markersize": 3.5, "linewidth": 1.2, "label": "strongest sites, 95 %"}
        axes.plot(top["k"], middle, "o-", **line)
        for level in (0, 1):
            axes.axhline(level, color=INK, linewidth=0.6, linestyle=":")
        axes.set(xscale="log", ylabel=f"f, {name}", ylim=_within(np.concatenate([middle, low, high])))
        axes.set_xticks(top["k"].to_list(), [str(k) for k in top["k"]])
        axes.minorticks_off()
    drawn.axes[0].tick_params(labelbottom=False)
    drawn.axes[0].legend(loc="upper left")
    drawn.axes[1].set_xlabel("number of sites")
    return drawn.figure


@styled
def graph(rows: pl.DataFrame, *, title: str) -> Figure:
    """Edges by layer, from below: width by effect, colour by its sign, dashed where only estimated."""
    ends = [rows.select(name=end, x=f"{end}_x", y=f"{end}_y") for end in ("up", "down")]
    nodes = pl.concat(ends).unique(maintain_order=True)
    drawn = sheet(title, (max(1.8, 0.3 * nodes["y"].n_unique()),))
    axes, largest = drawn.axes[0], float(np.abs(_floats(rows, "estimate")).max())
    for row in rows.reverse().iter_rows(named=True):
        size, look = abs(row["estimate"]) / largest, "--" if row["exact"] is None else "-"
        line: Any = {"linestyle": look, "linewidth": 0.4 + 3 * size, "alpha": 0.35 + 0.6 * size}
        line["color"] = WARM if row["estimate"] > 0 else COOL
        axes.plot([row["up_x"], row["down_x"]], [row["up_y"], row["down_y"]], zorder=1, **line)
    for name, x, y in nodes.iter_rows():
        box: Any = {"boxstyle": "round,pad=0.2", "facecolor": NEUTRAL, "edgecolor": MUTED, "linewidth": 0.5}
        axes.text(x, y, name, ha="center", va="center", size=6.5, bbox=box, zorder=2)
    axes.set(xlim=(-0.6, 4.6), ylim=(-0.7, max(nodes["y"].to_list()) + 0.7))
    axes.axis("off")
    return drawn.figure


@styled
def agreement(
    letters: Sequence[str], shared: Mapping[tuple[str, str], tuple[int, float]], *, top: int, title: str
) -> Figure:
    """How many of the `top` heads two rankings share; `shared`: (row, column) → number, chance."""
    size = len(letters)
    grid = np.full((size, size), np.nan)
    for (row, column), (number, _) in shared.items():
        a, b = letters.index(row), letters.index(column)
        grid[max(a, b), min(a, b)] = number
    drawn = sheet(title, (max(1.2, 0.2 * size),), right=0.9)
    axes = drawn.axes[0]
    image = axes.imshow(np.ma.masked_invalid(grid[1:, :-1]), cmap="Purples", vmin=0, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(grid[1:, :-1]):
        if np.isfinite(value):
            colour = "white" if value > 0.6 * top else "black"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, size=7)
    axes.set_xticks(range(size - 1), letters[:-1])
    axes.set_yticks(range(size - 1), letters[1:])
    for side in axes.spines.values():
        side.set_visible(False)
    canvas.colour_bar(drawn, image, f"of the top {top} shared")
    return drawn.figure


def _extent(column: pl.Series) -> int:
    """One more than the largest number in a column."""
    return int(max(column.drop_nulls().to_list(), default=0)) + 1


def _floats(rows: pl.DataFrame, column: str) -> np.ndarray:
    return rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _by_layer(summary: pl.DataFrame, method: str, statistic: str) -> pl.DataFrame:
    return summary.filter(pl.col("layer").is_not_null(), method=method, statistic=statistic).sort("layer")


def _band(axes: Axes, rows: pl.DataFrame, across: str, colour: str, alpha: float) -> None:
    low, high = (_floats(rows, end) for end in ("ci_low", "ci_high"))
    axes.fill_between(rows[across], low, high, color=colour, alpha=alpha, linewidth=0)


def _within(values: np.ndarray) -> tuple[float, float]:
    """Limits that show the values and 0 to 1, but no farther than from −1 to 2."""
    known = values[np.isfinite(values)]
    return max(-1.0, known.min(initial=0.0) - 0.08), min(2.0, known.max(initial=1.0) + 0.08)
