"""What removing costs, as a section of a report: dose curves, the slope against kl, verdicts, the table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biasscope.engine.statistics.mitigate import FACTS, JUDGED
from biasscope.report.drawing.canvas import COOL, INK, MUTED, WARM, few_numbers, sheet, styled
from biasscope.report.edits import tables
from biasscope.report.edits.judged import COST, Judged, edits
from biasscope.report.page.gather import Part, ReportRun

if TYPE_CHECKING:
    from biasscope.report.page.blocks import Block
    from biasscope.report.page.gallery import Gallery

TICKS = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
HEADS = 3
"""Heads of each edited model that are shown."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


@styled
def trade(summary: pl.DataFrame, *, title: str) -> Figure:
    """What is left by dose (above) and against kl (below), judged half; grey: random edits of equal cost."""
    drawn = sheet(title, (1.7, 1.9))
    above, below = drawn.axes
    lines = tables.series(edits(summary))
    for number, (name, line) in enumerate(lines.items()):
        look: Any = {"marker": MARKS[number % len(MARKS)], "markersize": 3.5, "linewidth": 1.1}
        look["color"] = COOL if name.startswith(("erase", "steer")) else WARM
        look["alpha"] = 1 - 0.6 * (number / max(1, len(lines) - 1))
        doses = sorted(line)
        left = [_value(line[dose]) for dose in doses]
        above.plot(
            [0, *doses] if doses[0] > 0 else doses, [1, *left] if doses[0] > 0 else left, label=name, **look
        )
        costs = [_cost(line[dose]) for dose in doses]
        below.plot(costs, left, **look)
    for edit in tables.main(summary):
        _beside(below, edit)
    for axes in (above, below):
        axes.axhline(0, color=INK, linewidth=0.6, linestyle=":")
        axes.axhline(1, color=INK, linewidth=0.6, linestyle=":")
        axes.set(ylabel="left of the clean value")
    above.set(ylabel="left, by dose")
    costs = [_cost(edit) for line in lines.values() for edit in line.values()]
    known = [cost for cost in costs if cost > 0]
    below.set(xlabel="kl of the next token, nats; circles: factual gender", xscale="log")
    ticks = [t for t in TICKS if known and min(known) / 2 < t < 2 * max(known)]
    below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    below.minorticks_off()
    above.legend(loc="lower left", ncols=3, columnspacing=0.8, handlelength=1.4)
    few_numbers(above)
    return drawn.figure


def _beside(axes: Axes, edit: Judged) -> None:
    """Random edits of equal cost as a grey bar, factual gender as a hollow mark."""
    band, facts, at = edit.band(COST), edit.left(FACTS), _cost(edit)
    if band is not None and band["ci_low"] is not None:
        axes.plot([at, at], [band["ci_low"], band["ci_high"]], color=MUTED, linewidth=4, alpha=0.35)
    if facts is not None:
        axes.plot([at], [facts["estimate"]], "o", color=INK, markersize=3.5, fillstyle="none")


def _value(edit: Judged) -> float:
    row = edit.left()
    return np.nan if row is None else float(row["estimate"])


def _cost(edit: Judged) -> float:
    row = edit.row(JUDGED, "mean", "kl")
    return np.nan if row is None or row["estimate"] is None else float(row["estimate"])


def lines(run: ReportRun) -> list[str]:
    """A sentence for each edit that was judged in full."""
    verdicts = tables.verdicts(run.summary, run.data)
    return [f"Run {run.key}, edit {edit.name}: {' '.join(said)}" for edit, said in verdicts]


def section(parts: Sequence[Part], gallery: "Gallery") -> "Iterator[Block]":
    """What edits of each model leave and cost."""
    from biasscope.report.page.blocks import Block, bullets, pictures

    for part in parts:
        for run in part.mitigations:
            yield bullets(lines(run))
            if any(edit.left() is not None for edit in edits(run.summary)):
                says = "What is left by dose, and against kl; grey: random edits of equal cost."
                title, name = (
                    f"What removing costs: {part.name}",
                    gallery.name("edits", part.model, part.data.name),
                )
                yield from pictures([gallery.picture(name, trade, run.summary, says, title=title)])
            yield Block("table", table=tables.judged(run.summary, run.data, run.file, said=False))
            yield Block("table", table=tables.curve(run.summary))
            if (audit := tables.audit(run.summary, HEADS)) is not None:
                yield Block("table", table=audit)
