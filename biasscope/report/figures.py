"""Tables as figures, a function each: rows of SUMMARY, units on the axes. Nothing is measured here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from biasscope.engine import schemas
from biasscope.report.canvas import (
    COOL,
    DIVERGING,
    INK,
    MUTED,
    WARM,
    colour_bar,
    few_numbers,
    labels,
    sheet,
    shortened,
    spelt,
    styled,
    whole_numbers,
)

BAR = 0.115
"""Inches of a bar and its gap."""


@styled
def heat_map(rows: pl.DataFrame, *, title: str, largest: float, unit: str) -> Figure:
    """Layers × heads of one statistic, colours from −largest to largest; rings: stars; grey: no number."""
    layers, heads = _extent(rows["layer"]), _extent(rows["head"])
    grid = np.full((layers, heads), np.nan)
    grid[rows["layer"].to_numpy(), rows["head"].to_numpy()] = rows["estimate"].fill_null(np.nan).to_numpy()
    drawn = sheet(title, (min(6.4, max(1.6, 0.105 * layers)),), right=0.9)
    axes = drawn.axes[0]
    image = axes.imshow(
        np.ma.masked_invalid(grid),
        cmap=DIVERGING,
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    starred = rows.filter(schemas.starred())
    axes.scatter(
        starred["head"], starred["layer"], s=9, facecolors="none", edgecolors="black", linewidths=0.7
    )
    axes.set(xlabel="head", ylabel="layer")
    whole_numbers(axes.xaxis, 8)
    whole_numbers(axes.yaxis, 10)
    colour_bar(drawn, image, unit)
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
        strength = 1.0 if row["starred"] else 0.35
        axes.barh(
            row["layer"],
            row["estimate"],
            height=0.72,
            color=WARM if row["estimate"] > 0 else COOL,
            alpha=strength,
        )
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [row["layer"]] * 2, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xlabel=spelt(unit), ylabel="layer")
    few_numbers(axes, y=False)
    whole_numbers(axes.yaxis, 10)
    return drawn.figure


@styled
def positions(rows: pl.DataFrame, *, title: str, shown: str, unit: str) -> Figure:
    """Layer × position of a residual component: the column `shown` (recovered or estimate); rings: stars."""
    columns = rows["position"].unique(maintain_order=True).to_list()
    layers = _extent(rows["layer"])
    grid = np.full((layers, len(columns)), np.nan)
    for row in rows.iter_rows(named=True):
        grid[row["layer"], columns.index(row["position"])] = np.nan if row[shown] is None else row[shown]
    largest = 1.0 if shown == "recovered" else float(np.nanmax(np.abs(grid), initial=1e-9))
    drawn = sheet(title, (min(6.4, max(1.6, 0.105 * layers)),), right=0.9)
    axes = drawn.axes[0]
    image = axes.imshow(
        np.ma.masked_invalid(grid), cmap=DIVERGING, vmin=-largest, vmax=largest, aspect="auto", origin="lower"
    )
    starred = rows.filter(schemas.starred())
    axes.scatter(
        [columns.index(p) for p in starred["position"]],
        starred["layer"],
        s=9,
        facecolors="none",
        edgecolors="black",
        linewidths=0.7,
    )
    axes.set_xticks(range(len(columns)), columns)
    axes.set(ylabel="layer", xlabel="position in the prompt")
    whole_numbers(axes.yaxis, 10)
    colour_bar(drawn, image, "share" if shown == "recovered" else unit)
    return drawn.figure


@styled
def against_exact(rows: pl.DataFrame, *, title: str, unit: str) -> Figure:
    """Attribution's `estimate` against the `exact` effect, a point a site, by component; line: equal."""
    drawn = sheet(title, (2.5,))
    axes = drawn.axes[0]
    marks = {
        "z": ("o", WARM, "heads"),
        "mlp_out": ("s", COOL, "MLPs"),
        "attn_out": ("^", MUTED, "attention outputs"),
    }
    for (component,), part in rows.group_by("component", maintain_order=True):
        shape, colour, name = marks.get(str(component), ("x", MUTED, str(component)))
        axes.scatter(
            part["exact"],
            part["estimate"],
            s=10,
            marker=shape,
            color=colour,
            alpha=0.7,
            linewidths=0.5,
            label=name,
        )
    ends = [
        rows.select(pl.min_horizontal("exact", "estimate").min()).item(),
        rows.select(pl.max_horizontal("exact", "estimate").max()).item(),
    ]
    axes.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=0)
    axes.set(xlabel=f"exact effect, {unit}", ylabel=f"attribution, {unit}")
    few_numbers(axes)
    axes.legend(loc="upper left")
    return drawn.figure


@styled
def probes(summary: pl.DataFrame, *, title: str) -> Figure:
    """Held-out accuracy by layer, shuffled labels and bag of tokens beside it; below: selectivity."""
    drawn = sheet(title, (1.75, 0.8))
    above, below = drawn.axes
    own = _by_layer(summary, "probe", "accuracy")
    shuffled, selective = (
        _by_layer(summary, "shuffled", "accuracy"),
        _by_layer(summary, "within groups", "selectivity"),
    )
    bag = (
        summary.filter(pl.col("method") == "bag of tokens", pl.col("statistic") == "accuracy")["estimate"]
        .drop_nulls()
        .to_list()
    )
    if shuffled["ci_low"].is_not_null().any():
        above.fill_between(
            shuffled["layer"],
            _floats(shuffled, "ci_low"),
            _floats(shuffled, "ci_high"),
            color=MUTED,
            alpha=0.3,
            linewidth=0,
        )
        above.plot([], [], color=MUTED, alpha=0.4, linewidth=6, label="shuffled labels, 5–95 %")
    above.fill_between(
        own["layer"], _floats(own, "ci_low"), _floats(own, "ci_high"), color=WARM, alpha=0.25, linewidth=0
    )
    above.plot(own["layer"], _floats(own, "estimate"), color=WARM, linewidth=1.4, label="probe, 95 %")
    for value in bag:
        above.axhline(value, color=COOL, linewidth=1, linestyle="--", label="bag of tokens")
    above.set(ylabel="held-out accuracy", ylim=(0, 1.0))
    above.tick_params(labelbottom=False)
    above.legend(loc="lower left", ncols=2, columnspacing=1.0, handlelength=1.4)
    below.axhline(0, color=INK, linewidth=0.8)
    below.plot(selective["layer"], _floats(selective, "estimate"), color=COOL, linewidth=1.4)
    below.set(
        xlabel="row of the residual stream" if _resid(own) else "layer",
        ylabel="selectivity",
        xlim=above.get_xlim(),
    )
    whole_numbers(below.xaxis, 8)
    below.set_ylim(
        *(
            sign * max(0.1, 1.1 * np.nanmax(np.abs(_floats(selective, "estimate")), initial=0.0))
            for sign in (-1, 1)
        )
    )
    few_numbers(below, x=False, most=3)
    return drawn.figure


@styled
def faithfulness(summary: pl.DataFrame, *, title: str) -> Figure:
    """f of the strongest sites kept alone (above) and removed (below) by number, random sets beside."""
    drawn = sheet(title, (1.35, 1.35))
    for axes, method, name in zip(drawn.axes, ("keep", "remove"), ("kept alone", "removed"), strict=True):
        rows = summary.filter(pl.col("method") == method, pl.col("statistic") == "faithfulness")
        rows = rows.with_columns(
            pl.col("subset").str.split(" ").list.get(1).cast(pl.Int64, strict=False).alias("k")
        )
        top, random = (
            rows.filter(pl.col("subset").str.starts_with(kind)).sort("k") for kind in ("top ", "random ")
        )
        axes.fill_between(
            random["k"],
            _floats(random, "ci_low"),
            _floats(random, "ci_high"),
            color=MUTED,
            alpha=0.35,
            linewidth=0,
        )
        axes.plot([], [], color=MUTED, alpha=0.4, linewidth=6, label="random sets, 5–95 %")
        middle, low, high = (_floats(top, c) for c in ("estimate", "ci_low", "ci_high"))
        axes.vlines(top["k"], low, high, color=WARM, linewidth=1)
        axes.plot(
            top["k"], middle, "o-", color=WARM, markersize=3.5, linewidth=1.2, label="strongest sites, 95 %"
        )
        for level in (0, 1):
            axes.axhline(level, color=INK, linewidth=0.6, linestyle=":")
        axes.set(
            xscale="log", ylabel=f"f, {name}", ylim=_within(np.concatenate([middle, low, high]), -1.0, 2.0)
        )
        axes.set_xticks(top["k"].to_list(), [str(k) for k in top["k"]])
        axes.minorticks_off()
    drawn.axes[0].tick_params(labelbottom=False)
    drawn.axes[0].legend(loc="upper left")
    drawn.axes[1].set_xlabel("number of sites")
    return drawn.figure


@styled
def occupations(rows: pl.DataFrame, *, title: str) -> Figure:
    """Mean target of each occupation against its share of men, and their line; the farthest are named."""
    drawn = sheet(title, (2.6,))
    axes = drawn.axes[0]
    x, y = rows["share"].to_numpy(), rows["target"].to_numpy()
    axes.scatter(x, y, s=11, color=WARM, alpha=0.75, linewidths=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    line = np.polyfit(x, y, 1) if np.ptp(x) > 0 else np.array([0.0, y.mean()])
    axes.plot([x.min(), x.max()], np.polyval(line, [x.min(), x.max()]), color=COOL, linewidth=1.3)
    axes.set(
        xlabel="men in the occupation, % (labour statistics)",
        ylabel="target, nats: log p(he) − log p(she)",
        xlim=(-4, 104),
    )
    axes.margins(y=0.1)
    few_numbers(axes)
    off = np.argsort(-np.abs(y - np.polyval(line, x)))
    labels(drawn, [(float(x[i]), float(y[i]), rows["occupation"][int(i)]) for i in off[:8]])
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
    axes.set_yticks(range(len(rows)), [shortened(row["name"], 22) for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=spelt(unit))
    few_numbers(axes, y=False)
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
            axes.text(
                j,
                i,
                f"{value:.0f}",
                ha="center",
                va="center",
                color="white" if value > 0.6 * top else "black",
                size=7,
            )
    axes.set_xticks(range(size - 1), letters[:-1])
    axes.set_yticks(range(size - 1), letters[1:])
    for side in axes.spines.values():
        side.set_visible(False)
    colour_bar(drawn, image, f"of the top {top} shared")
    return drawn.figure


def _extent(column: pl.Series) -> int:
    """One more than the largest number in a column."""
    return int(max(column.drop_nulls().to_list(), default=0)) + 1


def _floats(rows: pl.DataFrame, column: str) -> np.ndarray:
    return rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _by_layer(summary: pl.DataFrame, method: str, statistic: str) -> pl.DataFrame:
    return summary.filter(
        pl.col("method") == method, pl.col("statistic") == statistic, pl.col("layer").is_not_null()
    ).sort("layer")


def _resid(rows: pl.DataFrame) -> bool:
    return rows.height > 0 and rows["component"][0] == "resid"


def _within(values: np.ndarray, least: float, most: float) -> tuple[float, float]:
    """Limits that show the values, but no farther than from least to most."""
    known = values[np.isfinite(values)]
    low, high = (min(0.0, known.min(initial=0.0)), max(1.0, known.max(initial=1.0)))
    return max(least, low - 0.08), min(most, high + 0.08)
