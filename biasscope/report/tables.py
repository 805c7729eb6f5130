"""SUMMARY as tables that people read at 80 columns: which rows and columns, rounded how. Text only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from biasscope.console import safe_text
from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, SMALL, TOTAL, number
from biasscope.engine.statistics.cells import VALUE
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS
from biasscope.engine.statistics.summary import ranking
from biasscope.engine.store.runs import DatasetPart, RunRecord
from biasscope.engine.types import Site
from biasscope.report.numbers import rest

INSIDE = {"q": "queries", "k": "keys", "v": "values", "pattern": "patterns", "neuron": "neurons"}
"""Components inside heads and MLPs, each a family of its own."""
SHOWN = {"heads": 15, "MLPs": 5, "hook points": 5} | dict.fromkeys(INSIDE.values(), 5)
"""Rows shown of each kind of site; the rest is in the file."""
COLUMNS = {
    "recov.": "recov.: effect / total, – where the total's interval holds 0",
    "shift": "shift: mean change of target, nats",
    "rms": "rms: of target, nats",
    "compet.": "compet.: rms of the change of competence, nats",
    "kl": "kl: nats",
    "factual": "factual: rms of the change of target where gender is a fact",
    "specif.": "specif.: share of bias in bias + competence + factual",
}
"""What a column beside the ranked one holds."""
SPARE = ("kl", "rms", "compet.", "shift")
"""Those without which an effect can be read, the least needed first."""


@dataclass(frozen=True)
class Table:
    """What a table shows; sections are divided by a rule."""

    title: str
    columns: list[str]
    sections: list[list[list[str]]]
    notes: list[str]
    spare: tuple[str, ...] = ()
    """Columns that leave first where the screen is too narrow, in this order."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Column → the note on it, which leaves with it."""


def probability(p: float | None) -> str:
    """A p, or "< 1e−4": below that it says how many draws there were."""
    return "< 1e−4" if p is not None and p < SMALL else number(p)


@dataclass(frozen=True)
class Overlap:
    """How many of the `top` are shared, and how many luck gives."""

    shared: float
    top: int
    luck: float

    def __str__(self) -> str:
        return f"{self.shared:.0f} of {self.top}, {self.luck:.1f} by luck"


def overlap(shared: float, top: int, luck: float) -> Overlap | None:
    """How many of the `top` are shared beside luck; None where luck gives more than half."""
    return None if luck > top / 2 else Overlap(shared, top, luck)


def interval(row: dict[str, Any]) -> str:
    """Estimate and 95 % interval in one cell, with the marks of the row."""
    star = schemas.mark(row) or " "
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{number(row['estimate'])}{star} [{NONE}]"
    widest = max(abs(row["ci_low"]), abs(row["ci_high"]))
    places = 3 if widest < 1 else 2 if widest < 10 else 1
    low, high = (f"{row[end]:.{places}f}".replace("-", "−") for end in ("ci_low", "ci_high"))
    return f"{number(row['estimate'])}{star} [{low}, {high}]"


def clean_model(summary: pl.DataFrame, data: DatasetPart, file: str, given: str = "") -> Table:
    """What the clean model, or that of an edit (`given`), prefers: a row a statistic and subset."""
    sections: dict[str, list[list[str]]] = {}
    units: dict[str, dict[str, None]] = {}
    groups = _most(summary.filter(subset="all"), "clusters")
    every = groups >= MIN_CLUSTERS
    single = f"{data.noun}: " if every or data.covariate else None
    shown = [row for row in summary.iter_rows(named=True) if not detail(row, single)]
    for row in shown:
        name = named(row)
        counts = [NONE if row[size] is None else str(row[size]) for size in ("n", "clusters")]
        cells = [name, row["subset"], interval(row), probability(row["p"]), *counts]
        sections.setdefault(row["metric"], []).append(cells)
        units.setdefault(row["unit"], {})[name] = None
    k = f"k: groups (each {data.noun} is one), the unit of intervals and p"
    notes = ["; ".join(f"{', '.join(names)}: {unit}" for unit, names in units.items() if unit != "r"), k]
    notes += schemas.legend(shown)
    notes += [f"… {left} in {file}" for left in rest(summary.height - len(shown), "rows")]
    columns = ["score", "over", "estimate [95 % interval]", "p", "n", "k"]
    title = f"{data.name}: {summary['model'][0]}{given or ', clean'}"
    notes += of_summary(summary, data, [])
    return Table(title, columns, list(sections.values()), notes, ("n", "p", "k"), {"k": k})


def detail(row: dict[str, Any], single: str | None) -> bool:
    """Whether a row stands in the file only: groups one by one (`single`), pooled scores of a part."""
    alone = single is not None and row["subset"].startswith(single)
    return alone or (row["statistic"].endswith("_pooled") and row["subset"] != "all")


def named(row: dict[str, Any]) -> str:
    """A short name of a row's metric and statistic."""
    statistic = row["statistic"]
    if row["metric"] in ("stereoset", "likelihood"):
        name = statistic.upper().replace("_POOLED", " pooled")
        return f"{name}, by likelihood" if row["metric"] == "likelihood" else name
    for name, letter in (("pearson", "r"), ("spearman", "ρ")):
        if statistic.startswith(name):
            source = statistic.removeprefix(name).strip("_")
            return f"{letter} {'BLS' if source == 'bls' else source.title()}".strip()
    if statistic in ("score", "sentence_score"):
        return statistic.replace("_", " ")
    statistic = statistic.replace("_", " ")
    return row["metric"] if statistic == "mean" else f"{row['metric']} {statistic}"


def encoded(dataset: str, file: str) -> Table:
    """What a file of activations holds: one row a component and position."""
    names = ["component", "position", "prompts", "layers", "width"]
    unique = {"prompts": pl.col("example_id").n_unique(), "layers": pl.col("layer").n_unique()}
    counts = unique | {"width": pl.col("values").list.len().max()}
    held = pl.scan_parquet(file).with_columns(pl.col("values").cast(pl.List(pl.Float32)))
    counted = held.group_by("component", "position").agg(**counts).sort("component").select(names).collect()
    rows = [[str(cell) for cell in row] for row in counted.iter_rows()]
    return Table(f"activations of {dataset}", names, [rows], [f"one row per prompt and site in {file}"])


def record(record: RunRecord) -> Table:
    """How a run was made: one line a fact."""
    (part,) = record.datasets
    left = {"not drawn": part.not_drawn, **part.dropped}
    model = NONE
    if record.model is not None:
        model = f"{record.model.name} {record.model.digest[:12]}"
        model += f", {record.model.dtype} on {record.model.device}"
    facts = {
        "command": record.command,
        "created": record.created,
        "model": model,
        "dataset": f"{part.name} {part.digest[:12]}",
        "examples": f"{part.used} of {part.found} in {part.groups} groups",
        "left out": "; ".join(f"{n} × {reason}" for reason, n in left.items() if n) or "nothing",
        "units": f"{part.units}, {part.reused} of them measured before",
        "seconds": ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in record.timing.items()),
        "peak memory": f"{record.peak_rss_bytes / 2**20:.0f} MiB",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "tables": ", ".join(f"{name} {sha256[:12]}" for name, sha256 in part.tables.items()),
        "folder": part.path,
    }
    lines = [f"{name:<12} {value}" for name, value in {"run": part.run_key, **facts}.items()]
    lines += [f"{'warning':<12} {text}" for text in record.warnings]
    lines += [] if record.complete else [f"{'stopped':<12} by Ctrl-C: the command below goes on"]
    return Table("", [], [], [*lines, f"{'again':<12} {record.reproduce}"])


def effects(
    summary: pl.DataFrame, data: DatasetPart, file: str, control: pl.DataFrame | None = None
) -> Table:
    """Effects, largest first: heads, MLPs and hook points; with a control's rows, the specificity."""
    control = summary.clear() if control is None else control
    ranked, total = ranking(summary), _total(summary)
    slopes = ranked["statistic"][0] == "slope"
    values = {name: _by_site(rows) for name, rows in _beside(summary, slopes, control) if rows.height}
    tested = [] if control.height or ranked["p_family"].is_null().all() else ["p_family"]
    sections, more, marked = [], [], [*([total] if total else [])]
    for kind, limit in SHOWN.items():
        rows = [row for row in ranked.iter_rows(named=True) if _kind(row) == kind]
        shown = [row for row in rows if not _again(row, total is not None)][:limit]
        sections += [[_cells(row, tested, values) for row in shown]] if shown else []
        marked += shown
        more += rest(len(rows) - len(shown), kind)
    first = ranked.row(0, named=True)
    title = f"{data.name}: {first['method']}, source {first['source']}, {_most(ranked, 'n')} examples"
    columns = ["site", f"{'slope' if slopes else 'effect'} [95 % interval]", *tested, *values]
    if total:
        tests = [probability(total[name]) for name in tested]
        sections.append([["total", interval(total), *tests, *[""] * len(values)]])
    notes = [*schemas.legend(marked), *([f"… {', '.join(more)} in {file}"] if more else [])]
    notes += of_summary(summary, data, columns)
    return Table(title, columns, sections, notes, SPARE, about(data))


def raced(rows: pl.DataFrame, data: DatasetPart, file: str) -> Table:
    """Sites that were not measured in all groups, the strongest first: their estimates, untested."""
    shown = rows.head(SHOWN["heads"]).to_dicts()
    body = [[str(_site(row)[0]), interval(row), str(row["clusters"])] for row in shown]
    notes = [f"groups: how many of {data.groups} were seen; untested, interval: for other groups"]
    notes += [f"… {left} in {file}" for left in rest(rows.height - len(shown), "sites")]
    what = "slope" if rows["statistic"][0] == "slope" else "effect"
    columns = ["site", f"{what} [95 % interval]", "groups"]
    return Table(f"{data.name}: measured in part, source {rows['source'][0]}", columns, [body], notes)


def _beside(summary: pl.DataFrame, slopes: bool, control: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Header and rows of the columns beside the ranked one."""
    shift = [("shift", "target", "mean")] if slopes else []
    costs = [("compet.", "competence", "rms"), ("kl", "kl", "mean")]
    wanted = [*shift, *([] if control.height else [("rms", "target", "rms")]), *costs]
    whole, ranked = summary.filter(subset="all"), ranking(summary)
    columns = [(name, whole.filter(metric=metric, statistic=of)) for name, metric, of in wanted]
    recovered = ranked.filter(ranked["recovered"].is_not_null().any()).with_columns(estimate="recovered")
    columns.insert(0, ("recov.", recovered))
    if control.height:
        columns += [("factual", control), ("specif.", ranked.with_columns(estimate="specificity"))]
    single = summary.filter(pl.col("subset") != "all").partition_by("subset", maintain_order=True)
    return [*columns, *((rows.select(VALUE).item(0, 0), rows) for rows in single)]


def _total(summary: pl.DataFrame) -> dict[str, Any] | None:
    """The row of the total effect on the ranking statistic."""
    return next(summary.filter(component=TOTAL, subset="all").iter_rows(named=True), None)


def _most(rows: pl.DataFrame, column: str) -> int:
    """The largest number in a column of counts."""
    return max(rows[column].drop_nulls().to_list(), default=0)


def _site(row: dict[str, Any]) -> tuple[Site, str]:
    """The site of a row and the position at which it is replaced."""
    return Site(row["layer"], row["component"], row["head"]), row["position"]


def _by_site(rows: pl.DataFrame) -> dict[tuple[Site, str], float | None]:
    return {_site(row): row["estimate"] for row in rows.iter_rows(named=True)}


def _kind(row: dict[str, Any]) -> str:
    if row["component"] in INSIDE:
        return INSIDE[row["component"]]
    if row["head"] is not None:
        return "heads"
    return "MLPs" if row["component"] == "mlp_out" else "hook points"


def _again(row: dict[str, Any], total: bool) -> bool:
    """Whether a row repeats another: a stream that the layer before left, or the twin's, put in whole."""
    whole = row["position"] == "all" and row["component"].startswith("resid")
    if total and row["method"] == "exact" and whole:
        return True
    return row["component"] == "resid_pre" and row["layer"] > 0


def _cells(
    row: dict[str, Any], tested: list[str], values: dict[str, dict[tuple[Site, str], float | None]]
) -> list[str]:
    site = _site(row)
    name = str(site[0]) + ("" if site[1] == "all" else f" {site[1]}")
    beside = (number(column.get(site)) for column in values.values())
    return [name, interval(row), *(probability(row[column]) for column in tested), *beside]


def about(data: DatasetPart) -> dict[str, str]:
    """What a column beside the ranked one holds."""
    return COLUMNS | {"shift": f"{COLUMNS['shift']}: base rate of {data.sides[0]}"}


def of_summary(summary: pl.DataFrame, data: DatasetPart, columns: Sequence[str]) -> list[str]:
    """A line for each thing that a table of these rows shows, and only for the columns that it has."""
    lines = []
    if (summary["statistic"] == "slope").any():
        lines.append(f"slope: of target on the {data.noun}'s {on(data)}, nats per SD")
    elif summary["component"].is_not_null().any():
        lines.append(f"effect: mean change of target, nats; positive: towards {data.sides[0]}")
    if (summary["component"] == TOTAL).any():
        lines.append("total: the whole prompt exchanged for its twin")
    lines += [text for name, text in about(data).items() if name in columns]
    note = resampling.few_clusters_note(_most(summary.filter(subset="all"), "clusters"), data.noun)
    return [*lines, note] if note else lines


def grows(data: DatasetPart, statistic: str) -> str:
    """What replacing a site of positive effect does to a slope or a mean, whatever that one's sign."""
    first = data.sides[0]
    return f"a larger {on(data)} goes more with {first}" if statistic == "slope" else f"more towards {first}"


def on(data: DatasetPart) -> str:
    """What slopes are on; in records of older versions it has no name."""
    return data.covariate[0] if data.covariate else "covariate"


def escaped(cell: str) -> str:
    """The text of a Markdown cell with nothing in it that Markdown or HTML would act on."""
    text = safe_text(cell).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*[]" else c for c in text)
