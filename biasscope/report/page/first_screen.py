"""The first screen: a verdict for each model and data set, with its picture, where, how certain, what not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from biasscope.engine.schemas import NONE
from biasscope.engine.statistics.inference.resampling import plural
from biasscope.report import reliability, sites, words
from biasscope.report.drawing import points
from biasscope.report.page import verdict
from biasscope.report.page.blocks import Block, Section
from biasscope.report.page.gallery import Gallery, Picture
from biasscope.report.page.gather import Gathered, Map, Part
from biasscope.report.page.odds import odds
from biasscope.report.page.verdict import Verdict
from biasscope.report.tables import Table

NOT_SHOWN = "What this does not show"
LIMITS = (
    "Where a bias could be edited; that any model is free of bias; anything about people, or other texts."
)
"""What no run shows, in few words."""
FREQUENCY = "Words that are compared differ in frequency, so an even number is not neutral."
"""What a mean over fillers does not show either."""


def sections(gathered: Gathered, gallery: Gallery) -> Iterator[Section]:
    """A short overview where there are several, then a verdict for each model and data set."""
    parts = gathered.parts
    found = [(part, of(part)) for part in parts]
    if len(parts) == 1:
        yield Section("What was found", [_block(*found[0], _Beside(parts, gallery), LIMITS)])
        return
    overview = Block("table", "wide", table=_overview(found))
    yield Section("What was found", [overview, Block("limits", NOT_SHOWN, [LIMITS])])
    for part, judged in found:
        beside = _Beside([other for other in parts if other.data.name == part.data.name], gallery)
        yield Section(part.name, [_block(part, judged, beside)], level=3)


def _overview(found: Sequence[tuple[Part, Verdict | None]]) -> Table:
    """One line a model and data set: what was found, how strong, where."""
    rows = []
    for part, judged in found:
        first = part.first
        says = "not measured" if judged is None else judged.title
        strong = NONE if judged is None or judged.row["estimate"] is None else odds(judged.row)
        where = "not measured" if first is None else words.short_sites(first)
        rows.append([part.name, says, strong, where])
    return Table("", ["model, data", "verdict", "odds [95 %]", "where"], [rows], [])


def of(part: Part) -> Verdict | None:
    """The verdict on the clean model; None where it was not measured."""
    run = part.baseline
    return None if run is None else verdict.of(run.summary, run.data, run.folder, run.record.subject)


@dataclass(frozen=True)
class _Beside:
    """What pictures of one part share: the parts on one scale with it, and where they are drawn."""

    parts: Sequence[Part]
    gallery: Gallery


def _block(part: Part, judged: Verdict | None, beside: _Beside, limits: str = "") -> Block:
    """The verdict of one part, with its two pictures and what no run shows."""
    first, groups = part.first, None if judged is None else _groups(part, judged, beside.gallery)
    drawn = [] if groups is None else [groups]
    drawn += [] if first is None else [sites.heat_map(first, beside.parts, beside.gallery)]
    said = [("Where", words.where(part)), ("How certain", _certain(part, judged, first))]
    even = judged is not None and not judged.slope and judged.data.bias and judged.data.compares == "words"
    if limits := " ".join([limits] * bool(limits) + [FREQUENCY] * bool(even)):
        said.append((NOT_SHOWN, limits))
    if judged is None:
        missing = f"Nothing is said of it without {words.command('baseline', part)}."
        return Block("verdict", "The clean model was not measured.", [missing], pictures=drawn, points=said)
    return Block("verdict", judged.title, judged.parts[1:], pictures=drawn, points=said)


def _certain(part: Part, judged: Verdict | None, first: Map | None) -> str:
    """The number with its interval, and whether the first heads come up again in other groups."""
    lines = []
    if judged is not None and part.baseline is not None:
        about = f", for {plural(judged.data.noun)} like these" if judged.row["ci_low"] is not None else ""
        lines.append(f"{judged.nats} (run {part.baseline.key}){about}.")
    if first is not None and (again := reliability.repeated(first)):
        text = f"Of the {again.top} strongest heads {again.shared:.0f} come up again in half of the groups"
        lines.append(f"{text}, {again.luck:.1f} by luck (run {first.run.key}).")
    return " ".join(lines) or NONE


def _groups(part: Part, judged: Verdict, gallery: Gallery) -> Picture | None:
    """The groups against their covariate with the line, or their means from the top; None of a single one."""
    data, run = part.data, part.baseline
    if run is None or judged.means.height < 2:
        return None
    axis = f"target, nats: towards {data.sides[0]}"
    title, name = f"Each {data.noun}: {part.name}", gallery.name("groups", part.model, data.name)
    if judged.slope and judged.x:
        covariate, unit = data.covariate or ("covariate", "")
        known = pl.DataFrame({"group": list(judged.x), "x": list(judged.x.values())})
        means = judged.means.select("group", "n", "ci_low", "ci_high", y="mean")
        dots = known.join(means, on="group", maintain_order="left")
        rows = dots.select("group", "x", "y")
        says = f"Run {run.key}: {rows.height} {plural(data.noun)}; line: the slope, with its 95 % band (HC3)."
        axes = f"{covariate}{f', {unit}' if unit else ''}", axis
        picture = gallery.picture(name, points.scatter, rows, says, title=title, axes=axes)
        return replace(picture, view=f"{run.key}-groups", points=dots)
    ends = (
        ", each with the 95 % interval over its own texts"
        if judged.means["ci_low"].is_not_null().any()
        else ""
    )
    says = (
        f"Run {run.key}: means of {judged.means.height} {plural(data.noun)}{ends}; dashed: the mean of all."
    )
    named: Any = {"title": title, "axis": axis, "overall": judged.row["estimate"] or 0.0}
    return gallery.picture(name, points.dots, judged.means, says, **named)
