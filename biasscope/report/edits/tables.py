"""The edits of a run as tables: one row an edit judged in full, and what is left at each dose."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, number
from biasscope.engine.statistics.mitigate import AUDIT, CHOOSING, CLEAN, FACTS, JUDGED, TRANSFER
from biasscope.engine.store.runs import DatasetPart
from biasscope.engine.types import Site
from biasscope.report.edits.judged import COST, Judged, Row, edits, loss, sentences
from biasscope.report.numbers import ends, middle, span
from biasscope.report.tables import Table, interval

ABOUT = {
    "random": "random: what random edits of equal cost leave, 5 to 95 % of the draws",
    "factual": "factual: what is left of the gap between male and female nouns where gender is a fact",
    "shift": "shift: mean change of target, nats: the base rate of {side}",
    "kl": "kl: nats, of the next token",
    "nll": "nll: change of the loss per token of prose, nats",
    "fitted": "fitted: what is left in the groups that it was fitted to",
    "there": "there: what is left on {elsewhere}",
}
SPARE = ("fitted", "nll", "there", "kl", "shift")
"""The columns that leave first where the screen is narrow."""


def main(summary: pl.DataFrame) -> list[Judged]:
    """The edits that were judged in full: at their largest dose, or at all."""
    every = edits(summary)
    full = [edit for edit in every if loss(edit) is not None]
    return full or every


def transferred(summary: pl.DataFrame) -> str | None:
    """The data that the edits were judged on too."""
    names = summary.filter(subset=TRANSFER)["dataset"].unique(maintain_order=True).to_list()
    return names[0] if names else None


def verdicts(summary: pl.DataFrame, data: DatasetPart) -> list[tuple[Judged, list[str]]]:
    """Each edit judged in full, and what is said of it."""
    elsewhere = transferred(summary)
    return [(edit, sentences(edit, data, elsewhere)) for edit in main(summary)]


def judged(summary: pl.DataFrame, data: DatasetPart, file: str, *, said: bool = True) -> Table:
    """What each edit leaves and costs on the half that judges, beside random edits; `said`: the verdicts."""
    shown, elsewhere = main(summary), transferred(summary)
    words = {"side": data.sides[0], "elsewhere": elsewhere or ""}
    there = ["there"] if elsewhere else []
    factual = ["factual"] if any(edit.left(FACTS) for edit in shown) else []
    shift = ["shift"] if any(edit.statistic == "slope" for edit in shown) else []
    columns = ["edit", "left [95 %]", "random", *factual, *shift, "kl", "nll", *there, "fitted"]
    body = [[_cells(edit)[name] for name in columns] for edit in shown]
    first = shown[0]
    about = {name: text.format(**words) for name, text in ABOUT.items() if name in columns}
    extent = f"{first.change['n']} examples, {first.change['clusters']} groups"
    title = f"{data.name}: edits of {summary['model'][0]}, judged on {extent}"
    clean = f"{number(first.clean)} {first.change['unit']}"
    notes = [f"left: of the clean {first.statistic} of target, {clean}; heads, means and directions were"]
    notes[0] += " chosen and fitted on the other half"
    notes += [*about.values(), *schemas.legend(edit.change for edit in shown)]
    notes += [f"{edit.name}: {' '.join(text)}" for edit, text in verdicts(summary, data) if said]
    return Table(title, columns, [body], [*notes, f"more in {file}"], SPARE, about)


def _cells(edit: Judged) -> dict[str, str]:
    """The cells of an edit by column."""
    left, mark = edit.left(), schemas.mark(edit.change)
    text = NONE if left is None else span(left).replace(" ", f"{mark} " if mark else "  ", 1)
    band, factual = edit.band(COST), edit.left(FACTS)
    return {
        "edit": edit.name,
        "left [95 %]": text,
        "random": NONE if band is None else ends(band),
        "factual": middle(factual),
        "shift": _number(edit.row(JUDGED, "mean")),
        "kl": _number(edit.row(JUDGED, "mean", "kl")),
        "nll": _number(loss(edit)),
        "there": middle(edit.left(TRANSFER)),
        "fitted": middle(edit.left(CHOOSING)),
    }


def _number(row: Row | None) -> str:
    return NONE if row is None else number(row["estimate"])


def series(shown: Sequence[Judged]) -> dict[str, dict[float, Judged]]:
    """What is edited → dose → the edit."""
    known: dict[str, dict[float, Judged]] = {}
    for edit in shown:
        name, dose = edit.name.split("@")
        known.setdefault(name, {})[float(dose)] = edit
    return known


def curve(summary: pl.DataFrame) -> Table:
    """What is left at each dose on the half that judges."""
    lines = series(edits(summary))
    doses = sorted({dose for line in lines.values() for dose in line})
    body = [[name, *(_dosed(line.get(dose)) for dose in doses)] for name, line in lines.items()]
    notes = ["by dose: left of the clean value, on the judged half"]
    columns = [f"{dose:g}" for dose in doses]
    spare = tuple(f"{dose:g}" for dose in sorted(doses, key=abs))
    return Table("", ["edit", *columns], [body], notes, spare)


def _dosed(edit: Judged | None) -> str:
    return NONE if edit is None else middle(edit.left())


def left_by_dose(summary: pl.DataFrame) -> dict[str, dict[float, float | None]]:
    """What is edited → dose → the share that is left."""

    def share(edit: Judged) -> float | None:
        row = edit.left()
        return None if row is None else float(row["estimate"])

    return {
        name: {dose: share(edit) for dose, edit in sorted(line.items())}
        for name, line in series(edits(summary)).items()
    }


@dataclass(frozen=True)
class Audited:
    """Who carries the bias in a model that was edited, and did before: rows of SUMMARY, strongest first."""

    name: str
    now: Sequence[Row]
    before: Sequence[Row]
    """Of all heads that the run measured."""

    def was(self, row: Row) -> Row:
        """The same head in the model as it is."""
        return next(old for old in self.before if head(old) == head(row))

    @property
    def sentence(self) -> str:
        """What the audit found."""
        first, old = self.now[0], self.before[0]
        return (
            f"Audit of the edited model: heads with a star: {_stars(self.now)} of {len(self.before)} (before "
            f"the edit {_stars(self.before)}); the strongest of {len(self.now)} measured is {head(first)}, "
            f"{cell(first)} {first['unit']} (before {cell(self.was(first))}); the strongest before was "
            f"{head(old)}, {cell(old)}."
        )


def head(row: Row) -> str:
    """The head of a row, as everywhere."""
    return str(Site(row["layer"], row["component"], row["head"]))


def _marked(row: Row) -> str:
    return f"{number(row['estimate'])}{schemas.mark(row) or ' '}"


def _stars(rows: Sequence[Row]) -> int:
    return sum(schemas.mark(row) == schemas.STAR for row in rows)


def cell(row: Row) -> str:
    """Estimate, mark and interval of a row, for running text."""
    return " ".join(interval(row).split())


def audited(summary: pl.DataFrame) -> list[Audited]:
    """The audits of a run, in the order of its edits; none where it was not asked for one."""
    rows = summary.filter(pl.col("subset") == AUDIT, pl.col("estimate").is_not_null())
    by = {str(name): part.to_dicts() for (name,), part in rows.group_by("position", maintain_order=True)}
    before = by.pop(CLEAN, [])
    return [Audited(name, now, before) for name, now in by.items() if before]


def audit(summary: pl.DataFrame, heads: int = 1) -> Table | None:
    """The strongest heads of each edited model, beside what they did before; None where none was audited."""
    audits = audited(summary)
    if not audits:
        return None
    body = []
    for each in audits:
        stars = [each.name, f"{_stars(each.now)} ({_stars(each.before)})"]
        for row in each.now[:heads]:
            body.append([*stars, head(row), interval(row), _marked(each.was(row))])
            stars = ["", ""]
    first = audits[0].before[0]
    shown = [row for each in audits for row in (*each.now[:heads], *map(each.was, each.now[:heads]))]
    notes = [
        f"who carries the {first['statistic']} now: its change, {first['unit']}, when a head of the edited "
        f"model is replaced ({first['source']}), on the judged half",
        f"stars: heads with a star, of {len(audits[0].before)}; in brackets: in the model as it is",
        *schemas.legend(shown),
    ]
    return Table("", ["edit", "stars", "strongest head", "now [95 %]", "before"], [body], notes)
