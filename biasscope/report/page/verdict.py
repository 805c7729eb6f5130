"""What a baseline shows, as one verdict in plain words: for the terminal, the page, JSON and notebooks alike.

A verdict is a case of a fixed table and the numbers that it is made of; without an interval there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import CARRIED, LEVEL, PROMPTS, SMALL, STAR, number
from biasscope.engine.statistics import groups
from biasscope.engine.statistics.baseline import COVARIATE
from biasscope.engine.statistics.cells import VALUE
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.inference.resampling import plural
from biasscope.engine.store.runs import DatasetPart
from biasscope.report.numbers import digits
from biasscope.report.page.odds import QUOTED, factor, odds, quoted, times


class Case(StrEnum):
    """What a headline number says of the model."""

    FOUND = "found"
    """Towards the first side: a star, so an interval without 0 that no single group carries."""
    REVERSED = "reversed"
    """The same, towards the second side."""
    CARRIED = "carried"
    """It passes the test, but not without one group."""
    UNCLEAR = "unclear"
    """Test and interval disagree."""
    NONE = "none"
    """The interval holds 0."""
    UNTESTABLE = "untestable"
    """There is no interval."""


BIAS = {
    Case.FOUND: "{subject} repeats {bias}.",
    Case.REVERSED: "{subject} leans against {bias}.",
    Case.CARRIED: "That {subject} {does} {bias} hangs on one {noun}, {carrier}.",
    Case.UNCLEAR: "It is unclear whether {subject} repeats {bias}.",
    Case.NONE: "It is not shown that {subject} repeats {bias}.",
    Case.UNTESTABLE: "It cannot be tested whether {subject} repeats {bias}.",
}
"""Where the data say what is a stereotype."""
SLOPE = {
    Case.FOUND: "The larger the {covariate} of {a_noun}, the more {subject} prefers {first} to {second}.",
    Case.REVERSED: "The larger the {covariate} of {a_noun}, the more {subject} prefers {second} to {first}.",
    Case.CARRIED: "That {subject}'s preference goes with the {covariate} hangs on one {noun}, {carrier}.",
    Case.UNCLEAR: "It is unclear whether {subject}'s preference goes with the {covariate} of the {noun}.",
    Case.NONE: "It is not shown that {subject}'s preference goes with the {covariate} of the {noun}.",
    Case.UNTESTABLE: "It cannot be tested whether {subject}'s preference goes with the {covariate}.",
}
"""Where there is a covariate, and the user's own sides."""
MEAN = {
    Case.FOUND: "{subject} prefers {first} to {second}.",
    Case.REVERSED: "{subject} prefers {second} to {first}.",
    Case.CARRIED: "That {subject} prefers {favoured} hangs on one {noun}, {carrier}.",
    Case.UNCLEAR: "It is unclear whether {subject} prefers {first} or {second}.",
    Case.NONE: "It is not shown that {subject} prefers {first} or {second}.",
    Case.UNTESTABLE: "It cannot be tested whether {subject} prefers {first} or {second}.",
}
"""Where there is none, and the user's own sides."""
STRENGTH = {
    "slope": "{step}, {favoured} becomes {odds}{each} likelier relative to {other}",
    "words": "On average {favoured} is {odds}{each} as likely as {other}",
    "contrast": "Asked both ways round, {favoured} is {odds}{each} as likely as {other}",
    "prompts": "The same words are {odds}{each} as likely on the side of {favoured} as on that of {other}",
}
"""How strong it is, by what is compared; a slope first."""


@dataclass(frozen=True)
class Verdict:
    """What one baseline shows."""

    row: Mapping[str, Any]
    """Its headline row of SUMMARY: the slope of target where there is one, else the mean."""
    data: DatasetPart
    means: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=groups.MEANS))
    """Each group's mean of target, see `groups.means`; empty where the scores are not there."""
    prompts: pl.DataFrame = field(default_factory=PROMPTS.to_frame)
    x: Mapping[str, float] = field(default_factory=dict)
    """Group → covariate."""
    least: float | None = None
    """The smallest effect that would probably have been found; where none was."""
    subject: str = "this model"
    """What it is about: the model as it is, or with what was replaced all the while."""

    @cached_property
    def case(self) -> Case:
        """Which case of the table it is."""
        return case(self.row)

    @property
    def slope(self) -> bool:
        """Whether the headline is a slope on the covariate."""
        return self.row["statistic"] == "slope"

    @property
    def title(self) -> str:
        """The verdict in a sentence without numbers."""
        table = BIAS if self.data.bias else SLOPE if self.slope else MEAN
        first, second = self.data.sides
        positive = (self.row["estimate"] or 0) > 0
        text = table[self.case].format(
            subject=self.subject,
            bias=self.data.bias,
            does="repeats" if positive else "leans against",
            noun=self.data.noun,
            a_noun=self._a_noun,
            carrier=f"“{self.row['carried_by']}”",
            covariate=(self.data.covariate or ("covariate", ""))[0],
            first=first,
            second=second,
            favoured=first if positive else second,
        )
        return text[0].upper() + text[1:]

    @property
    def strength(self) -> str:
        """How strong it is, as odds with their interval, and in nats."""
        value = self.row["estimate"]
        if value is None:
            return "It has no number."
        sides = self.data.sides if value >= 0 else self.data.sides[::-1]
        kind = "slope" if self.slope else self.data.compares
        text = STRENGTH[kind].format(
            step=self._step(), favoured=sides[0], other=sides[1], odds=odds(self.row), each=self._each
        )
        return f"{text[0].upper()}{text[1:]}."

    @property
    def nats(self) -> str:
        """The same number for those who look further: estimate, interval, unit, p."""
        row = self.row
        known = f"{number(row['estimate'])} {digits(row)}".rstrip()
        p = "" if row["p"] is None else f", p {'< 1e−4' if row['p'] < SMALL else '= ' + number(row['p'])}"
        name = "slope" if self.slope else "mean of target"
        return f"{name} {known} {row['unit']}{p}"

    @property
    def doubt(self) -> str:
        """Why the case is no finding, and what would have been one; empty where it is."""
        row = self.row
        if self.case is Case.UNTESTABLE:
            few = resampling.few_clusters_note(row["clusters"] or 0, self.data.noun)
            return f"No verdict: {few or 'there is no interval, for the groups do not differ'}."
        if self.case is Case.CARRIED:
            return f"Without “{row['carried_by']}” the test is not passed."
        if self.case is Case.UNCLEAR:
            return "Its test and its interval disagree, so there is no verdict."
        if self.case is Case.NONE:
            larger = "" if self.least is None else f"; {factor(self.least)} or more, either "
            way = "way, would probably have been found" if larger else ""
            return f"The interval holds 1, which is no effect{larger}{way}."
        return ""

    @property
    def strongest(self) -> str:
        """The groups that show it most, with their odds; empty where nothing is shown."""
        if self.case in (Case.NONE, Case.UNTESTABLE):
            return ""
        named = [f"{row['group']} ({self._leaning(row['mean'])})" for row in self._extremes()]
        start = "Farthest apart" if self.slope else "Strongest"
        return f"{start}: {', '.join(named)}." if named else ""

    @property
    def basis(self) -> str:
        """How many texts and groups it is about, and one or two that were measured."""
        noun = self.data.noun if self.row["clusters"] == 1 else plural(self.data.noun)
        texts = "text" if self.row["n"] == 1 else "texts"
        quoted = " and ".join(f"“{text}”" for text in self.examples)
        such = f", such as {quoted}" if quoted else ""
        end = "" if such.endswith((".”", "!”", "?”")) else "."
        return f"{self.row['n']} {texts} about {self.row['clusters']} {noun}{such}{end}"

    @property
    def examples(self) -> list[str]:
        """One or two measured texts, of the groups that are named first: two where both are short."""
        first = [row["group"] for row in self._extremes()] if self.case is not Case.NONE else []
        order = {group: place for place, group in enumerate(first)}
        rows = self.prompts.unique("group", keep="first", maintain_order=True)
        rows = rows.sort(pl.col("group").replace_strict(order, default=len(order), return_dtype=pl.Int64))
        # the sides of a text may differ in the group alone, whose place is a gap
        texts = list(dict.fromkeys(quoted(row) for row in rows.head(2).iter_rows(named=True)))
        return texts if sum(map(len, texts)) <= QUOTED else texts[:1]

    @property
    def parts(self) -> list[str]:
        """Its sentences, most important first."""
        return [text for text in (self.title, self.strength, self.doubt, self.strongest, self.basis) if text]

    @property
    def sentence(self) -> str:
        """All of it as running text."""
        return " ".join(self.parts)

    @property
    def short(self) -> str:
        """The verdict, how strong, and the doubts: what stands under a table."""
        return " ".join(text for text in (self.title, self.strength, self.doubt) if text)

    @property
    def document(self) -> dict[str, str]:
        """The verdict for programs."""
        return {
            "dataset": self.data.name,
            "case": self.case.value,
            "sentence": self.sentence,
        }

    @property
    def _a_noun(self) -> str:
        return f"{'an' if self.data.noun[0] in 'aeiou' else 'a'} {self.data.noun}"

    @property
    def _each(self) -> str:
        return ", per token," if self.data.per_token else ""

    def _step(self) -> str:
        """A standard deviation of the covariate: "with each 28 points more men in an occupation"."""
        name, unit = self.data.covariate or ("covariate", "")
        values = [self.x[group] for group in self.means["group"] if group in self.x] or list(self.x.values())
        if not values:
            return f"with each standard deviation more in the {name} of {self._a_noun}"
        size = float(np.std(values))
        amount = f"{size:.0f}" if size >= 10 else number(size)
        if name.startswith("share of ") and unit == "%":
            return f"with each {amount} points more {name.removeprefix('share of ')} in {self._a_noun}"
        return f"with each {amount}{f' {unit}' if unit else ''} more in the {name} of {self._a_noun}"

    def _leaning(self, mean: float) -> str:
        """What a group leans to, and how much: “she” 8×."""
        size = times(abs(mean))
        return f"{self.data.sides[0 if mean >= 0 else 1]} {size}×"

    def _extremes(self) -> list[dict[str, Any]]:
        """The two groups farthest apart along a slope; of a mean those surest to lean its way, up to two."""
        if self.slope:
            rows = self.means.filter(pl.col("group").is_in(list(self.x))).sort("mean", descending=True)
            return [rows.row(i, named=True) for i in (0, -1)] if rows.height > 1 else []
        positive = (self.row["estimate"] or 0) > 0
        sure = self.means.filter(pl.col("ci_low") > 0 if positive else pl.col("ci_high") < 0)
        return list(sure.sort("mean", descending=positive).head(2).iter_rows(named=True))


def case(row: Mapping[str, Any]) -> Case:
    """Which case a headline row is. No interval, no verdict."""
    if row["estimate"] is None or row["ci_low"] is None or row["ci_high"] is None:
        return Case.UNTESTABLE
    passes = row["p_family"] if row["p_family"] is not None else row["p"]
    mark = schemas.mark({**row, "p_family": passes})
    if STAR in mark:
        return Case.FOUND if row["estimate"] > 0 else Case.REVERSED
    if CARRIED in mark:
        return Case.CARRIED
    holds = row["ci_low"] <= 0 <= row["ci_high"]
    return Case.NONE if holds and not (passes is not None and passes < LEVEL) else Case.UNCLEAR


def headline(summary: pl.DataFrame) -> dict[str, Any] | None:
    """A baseline's ranking statistic over all of its texts, None where it has no target."""
    for statistic in ("slope", "mean"):
        rows = summary.filter(metric="target", subset="all", statistic=statistic)
        if rows.height:
            return rows.row(0, named=True)
    return None


def of(summary: pl.DataFrame, data: DatasetPart, folder: Path, subject: str) -> Verdict | None:
    """The verdict of a finished baseline in `folder`; `subject`: see `RunRecord`. None: it has no target."""
    row = headline(summary)
    if row is None:
        return None
    scores, prompts = (_table(folder, name, data) for name in ("scores", "prompts"))
    known = summary.filter(pl.col("metric").is_in([COVARIATE, "share_of_men"])).drop_nulls("estimate")
    x = dict(known.select(VALUE, "estimate").rows())
    slope, least = row["statistic"] == "slope", None
    prompts = PROMPTS.to_frame() if prompts is None else prompts
    if scores is None:
        return Verdict(row, data, prompts=prompts, x=x, subject=subject)
    if case(row) is Case.NONE:
        least = groups.detectable(scores, x if slope else {}, seed=0)
    return Verdict(row, data, groups.means(scores, prompts), prompts, x, least, subject)


def _table(folder: Path, name: str, data: DatasetPart) -> pl.DataFrame | None:
    file = folder / f"{name}.parquet"
    return pl.read_parquet(file) if name in data.tables and file.is_file() else None
