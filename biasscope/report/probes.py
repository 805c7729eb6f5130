"""Probes as a table (one row a layer), as a sentence and as a section of a report."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine.schemas import NONE, number
from biasscope.engine.statistics.inference import resampling
from biasscope.report.numbers import ends, middle, span, two
from biasscope.report.page.gather import Part, ReportRun
from biasscope.report.tables import Table
from biasscope.report.words import interval

if TYPE_CHECKING:
    from biasscope.report.page.blocks import Block
    from biasscope.report.page.gallery import Gallery

HELD_OUT = {"kfold": "groups are held out in turn", "holdout": "a fifth of the groups is held out, once"}
WITHOUT = {"bag": "bag of tokens", "chance": "chance"}
"""What is known without the model's activations."""
STREAM = "row k: the residual stream into layer k (the last: out of the last layer); row 0: the embedding"
FIFTH = 5
"""Of a deep model every so many rows are shown in a report."""
REMOVED = "Δ: removing the row's direction, nats; random: 5–95 % of 20 random directions"
SELECTIVITY = (
    "selectivity: accuracy − that for a coin per group or filler, groups on both sides; shuffled: accuracy, "
    "5–95 %"
)


def readable(row: dict[str, Any] | None, band: dict[str, Any] | None) -> bool | None:
    """Whether an accuracy's interval lies above the band of shuffled labels; None where one is missing."""
    if row is None or band is None or row["ci_low"] is None or band["ci_high"] is None:
        return None
    return bool(row["ci_low"] > band["ci_high"])


def probes(summary: pl.DataFrame, of: str, noun: str, file: str, split: str = "kfold") -> Table:
    """Accuracy, AUC and selectivity by layer, shuffled labels, and what is known without the model."""
    rows, removed = summary.filter(pl.col("method") != "removal"), summary.filter(method="removal")
    cells = {(r["method"], r["statistic"], r["layer"]): r for r in rows.iter_rows(named=True)}
    layers = sorted({layer for method, _, layer in cells if method == "probe"})
    task, component = summary["metric"][0], summary.filter(method="probe")["component"][0]
    slopes = removed.filter(statistic="slope").height > 0
    extra = _removal(removed, "slope" if slopes else "mean")
    body, starred = [], False
    for layer in layers:
        accuracy, auc = (cells.get(("probe", name, layer)) for name in ("accuracy", "auc"))
        selectivity = cells.get(("within groups", "selectivity", layer))
        band = cells.get(("shuffled", "accuracy", layer))
        shuffled = NONE if band is None else f"{band['ci_low']:.2f}–{band['ci_high']:.2f}"
        # what removing does takes the place of the AUC: 80 columns hold no more
        beside = [middle(selectivity)] if extra else [span(auc), span(selectivity)]
        star = "*" if readable(accuracy, band) else " "
        starred = starred or star == "*"
        body.append([str(layer), span(accuracy) + star, *beside, shuffled, *extra.get(layer, [])])
    columns = ["row", "accuracy [95 %]", *([] if extra else ["AUC"]), "selectivity", "shuffled"]
    columns += [f"Δ{'slope' if slopes else 'target'}", "random"] if extra else []
    known = []
    for name, method in WITHOUT.items():
        both = [span(cells.get((method, s, None))) for s in ("accuracy", "auc")]
        known.append([name, *both[: 1 if extra else 2], *[""] * (len(columns) - (2 if extra else 3))])
    first = cells["probe", "accuracy", layers[0]]
    title = f"{of}: probes for {task} in {component}, {first['n']} texts, {first['clusters']} groups"
    notes = ["* interval wholly above the shuffled band"] if starred else []
    notes += [STREAM if component == "resid" else "row: layer", SELECTIVITY]
    notes += [REMOVED] if extra else []
    notes.append(
        f"{HELD_OUT[split]}; bag: which tokens the text has; balanced accuracy, log-loss and more in {file}"
    )
    note = resampling.few_clusters_note(first["clusters"], noun)
    notes += [note] if note else []
    return Table(title, columns, [body, known], notes, ("random", "AUC"), {"selectivity": SELECTIVITY})


def _removal(removed: pl.DataFrame, statistic: str) -> dict[int, list[str]]:
    """Row → what removing its direction changes, and random ones. The last row leaves the last layer."""
    by_row: dict[int, list[str]] = {}
    rows = removed.filter(metric="target", statistic=statistic, subset="all")
    for row in rows.iter_rows(named=True):
        at = row["layer"] + (row["component"] == "resid_post")
        cells = by_row.setdefault(at, ["", ""])
        if row["source"] == "probe":
            cells[0] = two(row["estimate"])
        else:
            cells[1] = ends(row)
    return by_row


def sentence(run: ReportRun) -> str:
    """Where a probe reads best, against shuffled labels and its own control."""
    rows = run.summary.filter(method="probe", statistic="accuracy")
    known = rows.filter(pl.col("estimate").is_not_null())
    best = known.sort("estimate", descending=True, maintain_order=True)
    task = (rows["metric"][0] if rows.height else "?") + _against(run)
    start = f"Run {run.key}, probe for {task}"
    start += f" ({run.record.params.get('position', 'last')} token){run.record.given}"
    if best.is_empty():
        return f"{start}: no accuracy."
    row = best.row(0, named=True)
    beside = run.summary.filter(layer=row["layer"])
    band = next(beside.filter(method="shuffled", statistic="accuracy").iter_rows(named=True), None)
    selective = beside.filter(method="within groups", statistic="selectivity")["estimate"]
    reach = None if band is None else band["ci_high"]
    over = "" if reach is None else f", shuffled labels reach {number(reach)}"
    over += f", selectivity {number(selective[0])}" if selective.len() else ""
    place = f"row {row['layer']}{over} (the best of {rows.height} rows)"
    reads = _reads(readable(row, band), _elsewhere(run.summary))
    return f"{start}: at best {interval(row)} in {place}.{reads}"


def _against(run: ReportRun) -> str:
    return " against unrelated words" if run.record.params.get("negatives") == "unrelated" else ""


def _elsewhere(summary: pl.DataFrame) -> list[int]:
    """The rows whose accuracy is `readable`."""
    accuracies, shuffled = (
        {row["layer"]: row for row in summary.filter(method=name, statistic="accuracy").iter_rows(named=True)}
        for name in ("probe", "shuffled")
    )
    return sorted(layer for layer, row in accuracies.items() if readable(row, shuffled.get(layer)))


def _reads(shown: bool | None, rows: Sequence[int]) -> str:
    """The verdict on a probe in words: of its best row (`readable`), and of the others."""
    if shown is None:
        return " Without an interval there is no verdict."
    if shown:
        return ""
    nothing = f"rows above theirs: {', '.join(map(str, rows))}" if rows else "nothing is shown to be readable"
    return f" Its interval is not above the shuffled band: {nothing}."


def section(parts: Sequence[Part], gallery: "Gallery") -> "Iterator[Block]":
    """Probe curves with their chance band, and the table of the first."""
    from biasscope.report.drawing import figures
    from biasscope.report.page.blocks import Block, pictures

    drawn = []
    for part in parts:
        for run in part.probes:
            params, against = run.record.params, _against(run)
            place = f"{part.data.name}, {params.get('site')}, {params.get('position')} token"
            title = f"Probe for {run.summary['metric'][0]}: {part.model}\n{place}"
            title += (f",{against}" if against else "") + run.record.given
            rows = run.summary.filter(pl.col("method") != "removal")
            task = f"{run.summary['metric'][0]}-{params.get('position')}"
            name = gallery.name("probe", part.model, part.data.name, task)
            drawn.append(gallery.picture(name, figures.probes, rows, sentence(run), title=title))
    yield from pictures(drawn)
    for part in parts:
        for run in part.probes[:1]:
            table = probes(
                run.summary, part.name, part.data.noun, run.file, run.record.params.get("split") or "kfold"
            )
            step = FIFTH if len(table.sections[0]) > 2 * FIFTH else 1
            title = f"{table.title}{run.record.given}{' (every fifth row)' if step > 1 else ''}"
            body = [table.sections[0][::step], *table.sections[1:]]
            yield Block("table", table=Table(title, table.columns, body, table.notes))
