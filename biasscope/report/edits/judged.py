"""What may be said of an edit: fixed sentences, chosen by the numbers of the half that judges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import number
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.mitigate import CHOOSING, FACTS, FEWEST, JUDGED, LOSS, TEXT, TRANSFER, share
from biasscope.engine.store.runs import DatasetPart
from biasscope.report.numbers import digits, span, two

Row = dict[str, Any]
COST = "cost"
"""The control whose band stands beside an edit."""


@dataclass(frozen=True)
class Judged:
    """One own edit of a run, with all that was measured of it."""

    name: str
    kind: str
    rows: Sequence[Row]
    """SUMMARY of it and of its controls."""
    clean: float | None
    """The ranking statistic of the clean model on the judged half."""

    def row(self, subset: str, statistic: str, metric: str = "target") -> Row | None:
        """The row of a statistic, None where it was not measured."""
        found = (
            row
            for row in self.rows
            if (row["subset"], row["statistic"], row["metric"]) == (subset, statistic, metric)
        )
        return next(found, None)

    def left(self, subset: str = JUDGED) -> Row | None:
        """What is left of the ranking statistic (on facts: of factual gender), None without a number."""
        row = self.row(subset, "left")
        return None if row is None or row["estimate"] is None else row

    @property
    def statistic(self) -> str:
        """What ranks: slope or mean."""
        return "slope" if self.row(JUDGED, "slope") else "mean"

    @property
    def change(self) -> Row:
        """The change of the ranking statistic, which a star is about."""
        row = self.row(JUDGED, self.statistic)
        assert row is not None  # noqa: S101  every edit is judged
        return row

    @property
    def ranks(self) -> dict[str, Row]:
        """Control → how many random edits do as much: (1 + those) / (1 + draws)."""
        return {row["source"]: row for row in self.rows if row["statistic"] == "rank"}

    def band(self, role: str) -> Row | None:
        """What random edits leave: median, and 5 to 95 % of the draws."""
        row = next((r for r in self.rows if (r["statistic"], r["source"]) == ("random", role)), None)
        if row is None:
            return None
        clean = self.clean if self.left() else None  # a share of what may be 0 is none
        low, middle, high = share([row[end] for end in ("ci_low", "estimate", "ci_high")], clean)
        ends = [low, high] if low is None or high is None else sorted([low, high])
        return row | {"ci_low": ends[0], "estimate": middle, "ci_high": ends[1]}

    @property
    def shown(self) -> bool:
        """Whether it leaves less than the clean model has, and less than random edits do."""
        left, ranks = self.left(), self.ranks
        if self.untested is not None or left is None:
            return False
        small = left["ci_high"] < 1
        return bool(small and all(rank["estimate"] <= schemas.LEVEL for rank in ranks.values()))

    @property
    def untested(self) -> str | None:
        """Why nothing can be said, None where it can."""
        left, ranks = self.left(), self.ranks
        if left is None or left["ci_low"] is None:
            few = resampling.few_clusters_note(self.change["clusters"] or 0, "group")
            if few or left is None:
                return few or f"the interval of the clean {self.statistic} holds 0"
            return "what is left has no interval: the edit does the same to all groups, or nothing"
        if not ranks:
            return "no random edit was drawn to compare it with"
        if short := [row for row in ranks.values() if row["n"] < FEWEST]:
            fewest = min(short, key=lambda row: int(row["n"]))
            where = " at this cost" if fewest["source"] == COST else f" ({fewest['source']})"
            return f"{fewest['n']} random edits{where} to compare it with, {FEWEST} are needed"
        return None


def edits(summary: pl.DataFrame) -> list[Judged]:
    """The own edits of a run's SUMMARY, in its order."""
    own = summary.filter(pl.col("subset") == JUDGED, pl.col("statistic") == "value")
    rows = summary.to_dicts()
    known = []
    for first in own.iter_rows(named=True):
        change = _change(rows, first["position"])
        clean = None if change is None or first["estimate"] is None else first["estimate"] - change
        known.append(
            Judged(
                first["position"],
                first["method"],
                [row for row in rows if row["position"] == first["position"]],
                clean,
            )
        )
    return known


def _change(rows: Sequence[Row], name: str) -> float | None:
    """The change of an edit's ranking statistic."""
    own = [r for r in rows if (r["position"], r["subset"], r["metric"]) == (name, JUDGED, "target")]
    for statistic in ("slope", "mean"):
        for row in own:
            if row["statistic"] == statistic:
                return None if row["estimate"] is None else float(row["estimate"])
    return None


def noun(edit: Judged, data: DatasetPart) -> str:
    """What the ranking statistic may be called: a stereotype where the data say that one side is, and the
    model leans to that side.
    """
    towards = edit.clean is not None and edit.clean > 0
    return "the stereotype" if data.bias and towards else "what these prompts measure"


def sentences(edit: Judged, data: DatasetPart, elsewhere: str | None = None) -> list[str]:
    """What is said of an edit, in order; `elsewhere`: the data that it was transferred to."""
    if edit.untested is not None:
        shift = [_shift(edit, data)] if edit.kind == "steer" else []
        return [text for text in [*shift, f"Not testable: {edit.untested}."] if text]
    shift = [_shift(edit, data)]
    first = _first(edit)
    more = [_factual(edit, data), *shift, _elsewhere(edit, elsewhere), _fitted(edit, data)]
    said = [first, *(more if edit.shown else shift)]
    if edit.kind == "steer":  # it moves the base rate before anything else
        said = [*shift, *[text for text in said if text not in shift]]
    return [text for text in said if text]


def _first(edit: Judged) -> str:
    """Whether it leaves less than random edits of its cost do."""
    if not edit.shown:
        return f"No smaller {edit.statistic} is shown than random edits of this cost give."
    band, beside = edit.band(COST), ""
    if band is not None and band["estimate"] is not None:
        beside = f" (random edits of equal cost: {span(band)})"
    left = edit.left()
    turned = ": it is turned round" if left is not None and left["ci_high"] < 0 else ""
    return f"The {edit.statistic} that is left is {span(left)} of the clean one{beside}{turned}."


def _factual(edit: Judged, data: DatasetPart) -> str:
    """Whether it takes more of the bias than of gender that is a fact."""
    facts, left = edit.left(FACTS), edit.left()
    if facts is None or left is None or facts["ci_low"] is None:
        return ""
    kept = f"{span(facts)} left"
    if facts["ci_low"] > left["ci_high"]:
        return f"It takes more of {noun(edit, data)} than of factual gender ({kept})."
    if facts["ci_high"] < left["ci_low"]:
        return f"It takes more of factual gender ({kept}) than of {noun(edit, data)}."
    if facts["ci_high"] >= 1:
        return f"Whether it takes factual gender too is not shown ({kept})."
    return f"It takes gender as a whole, factual gender ({kept}) with {noun(edit, data)}."


def _shift(edit: Judged, data: DatasetPart) -> str:
    """Whether it moves the base rate, for all groups alike."""
    row = edit.row(JUDGED, "mean") if edit.statistic == "slope" else None
    if row is None or row["ci_low"] is None or row["ci_low"] <= 0 <= row["ci_high"]:
        return ""
    ends = f"{number(row['estimate'])} {digits(row)}"
    first = edit.kind == "steer"  # it is said before anything else
    return f"It {'' if first else 'also '}moves the base rate of {data.sides[0]} by {ends} nats."


def _elsewhere(edit: Judged, name: str | None) -> str:
    """Whether nothing is shown on other data, or the opposite."""
    left = edit.left(TRANSFER)
    if left is None or left["ci_low"] is None or left["ci_high"] < 1:
        return ""
    says = "nothing is shown" if left["ci_low"] <= 1 else f"it leaves more than there was ({span(left)})"
    return f"On {name or 'the other data'} {says}."


def _fitted(edit: Judged, data: DatasetPart) -> str:
    """Whether it does more on the groups that it was fitted to."""
    own, left = edit.left(CHOOSING), edit.left()
    if own is None or left is None or own["estimate"] >= left["ci_low"]:
        return ""
    groups = f"the {resampling.plural(data.noun)} it was fitted to"
    return f"On {groups} it does more ({two(own['estimate'])} left): expect the judged number elsewhere."


def loss(edit: Judged) -> Row | None:
    """The change of the loss per token of prose."""
    return edit.row(TEXT, LOSS, LOSS)
