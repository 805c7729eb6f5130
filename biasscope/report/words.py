"""Findings as sentences, each from the numbers of one run that it names, and no more than they say."""

import shlex
from collections.abc import Sequence
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, TOTAL, number
from biasscope.engine.statistics.cells import SITE
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.inference.resampling import plural
from biasscope.engine.store.seals import Seal
from biasscope.engine.types import SOURCES, Site
from biasscope.report import reliability
from biasscope.report.numbers import digits
from biasscope.report.page.gather import Gathered, Map, Part, ReportRun
from biasscope.report.page.verdict import headline, of

EDITED = (
    "Where a bias could be edited: a site whose replacement changes a score need not be the place to change "
    "it (Hase et al. 2023)."
)
FREE = (
    "That a model is free of bias: a score that is lower, or not shown to differ from 0, is about these "
    "sentences only."
)
NEUTRAL = (
    "A neutral point: a twin has stereotypes of its own; a patched effect is what is specific to a group "
    "against another of its class."
)
NAMED = 4
"""Sites named in a sentence."""


def interval(row: dict[str, Any] | None, unit: str = "") -> str:
    """Estimate, 95 % interval and unit: "0.607 [0.372, 0.843] nats/SD"."""
    if row is None or row["estimate"] is None:
        return NONE
    return f"{number(row['estimate'])} {digits(row) or '(no interval)'}{f' {unit}' if unit else ''}"


def site(row: dict[str, Any]) -> str:
    """A site's short name."""
    return str(Site(row["layer"], row["component"], row["head"]))


def command(name: str, part: Part, more: str = "") -> str:
    """The command that would measure what is missing."""
    call = ["biasscope", name, "--model", part.model_option, "--dataset", part.data_option]
    return shlex.join(call) + more


def limits(parts: Sequence[Part]) -> list[str]:
    """What these runs do not show: of all, of their data, of their groups, and where nothing is testable."""
    caveats = {part.data.name: part.data.source.get("caveat") for part in parts}
    of_data = dict.fromkeys(caveat for caveat in caveats.values() if caveat)
    nouns = " and ".join(dict.fromkeys(plural(part.data.noun) for part in parts))
    others = (
        f"Others than these: intervals are over the {nouns} of the data, as if drawn from more of their kind."
    )
    twins = any(SOURCES[m.source].twin for part in parts for m in part.maps)
    lines = [EDITED, FREE, *of_data, others, *([NEUTRAL] if twins else [])]
    for part in parts:
        groups = max((m.groups for m in part.maps), default=0)
        note = resampling.few_clusters_note(groups, part.data.noun) if groups else None
        lines += [f"{part.name}: where is not testable, {note}."] if note else []
    return lines


def runs(gathered: Gathered) -> str:
    """How many runs a report shows: "1 run", "3 runs"."""
    n = len(gathered.used)
    return f"{n} run{'' if n == 1 else 's'}"


def not_sealed(gathered: Gathered) -> str:
    """Which runs' records are checked against nothing; empty where all are sealed."""
    keys = ", ".join(run.key for run in gathered.used if run.seal is not Seal.SEALED)
    return f"not sealed, made by an older version or copied: {keys}" if keys else ""


def significant(site_map: Map, component: str = "z") -> pl.DataFrame:
    """The starred sites of a component, the largest first."""
    return site_map.sites(component).filter(schemas.starred()).sort(pl.col("estimate").abs(), descending=True)


def found_sites(site_map: Map, beside: Map | None = None) -> str:
    """Which heads are significant, or that none is; of estimates, those that were not measured `beside`."""
    component, kind = ("mlp_out", "MLPs") if site_map.sites("z").is_empty() else ("z", "heads")
    start = f"Run {site_map.run.key} ({site_map.name}{_family(site_map)})"
    if few := resampling.few_clusters_note(site_map.groups, "group"):
        return f"{start}: not testable, {few}."
    passed, every = significant(site_map, component), site_map.sites(component).height
    if not every:
        return f"{start}: no head and no MLP was measured."
    if passed.is_empty():
        least = reliability.detectable(site_map)
        size = f"An effect of {number(least)} {site_map.unit} or more"
        missed = "" if least is None else f" {size} would probably have been found."
        none = f"none of {every} {kind} is" if every > 1 else f"the only one of the {kind} is not"
        return f"{start}: {none} significant.{missed}"
    count = f"{passed.height} of {every} {kind} {'is' if passed.height == 1 else 'are'} significant"
    return f"{start}: {count} ({site_map.statistic}, {site_map.unit}): {_named(passed, beside)}."


def _named(passed: pl.DataFrame, beside: Map | None) -> str:
    """The first sites with their numbers and how many more; a number measured `beside` stands there."""
    measured = passed.clear() if beside is None else beside.ranked.filter(pl.col("estimate").is_not_null())
    own = passed.join(measured, on=SITE, how="anti", nulls_equal=True, maintain_order="left")
    named = [f"{site(row)} {interval(row)}" for row in own.head(NAMED).iter_rows(named=True)]
    named += [f"{own.height - NAMED} more"] if own.height > NAMED else []
    if beside is not None and passed.height > own.height:
        named.append(f"{passed.height - own.height} with measured numbers in run {beside.run.key}")
    return ", ".join(named)


def _family(site_map: Map) -> str:
    """Over which sites p_family is, where not all of them were measured."""
    every, measured = reliability.family_size(site_map)
    return "" if measured >= every else f"; of all {every} sites, {measured} measured"


def families(parts: Sequence[Part]) -> str:
    """The family's size of each shown run: "300 (run 79a2, 20 of them measured), 54 (runs 1f2e, 8c01)"."""
    sizes = {m.run.key: reliability.family_size(m) for part in parts for m in part.shown}
    texts = []
    for every, measured in dict.fromkeys(sizes.values()):
        keys = [key for key, size in sizes.items() if size == (every, measured)]
        extent = f", {measured} of them measured" if measured < every else ""
        texts.append(f"{every} (run{'s' if len(keys) > 1 else ''} {', '.join(keys)}{extent})")
    return ", ".join(texts)


def short_sites(site_map: Map) -> str:
    """Which heads are significant, short enough for a cell of a table."""
    if few := resampling.few_clusters_note(site_map.groups, "group"):
        return f"not testable ({few})"
    passed = significant(site_map)
    names = ", ".join(site(row) for row in passed.head(NAMED).iter_rows(named=True))
    names = f": {names}{', …' if passed.height > NAMED else ''}" if names else ""
    return f"{passed.height} of {_heads(site_map)}{names} ({_how(site_map)})"


def _heads(site_map: Map) -> str:
    """How many heads a map has numbers of: "270 heads", "5 measured heads" where others were left out."""
    heads, left = site_map.sites("z").height, _family(site_map)
    return f"{heads} {'measured ' if left and not site_map.estimated else ''}head{'' if heads == 1 else 's'}"


def _how(site_map: Map) -> str:
    """What a map was made by, over which sites its p are, and its run."""
    return f"{site_map.name}{_family(site_map)}; run {site_map.run.key}"


def where(part: Part) -> str:
    """Which heads of the first map change the number when they are replaced, without their numbers."""
    site_map = part.first
    if site_map is None:
        clean_maps = [m for m in part.maps if not m.given]
        what = "of the clean model" if part.maps and not clean_maps else ""
        return f"{'Heads were not' if clean_maps else 'Not'} measured{f' {what}' if what else ''}."
    if few := resampling.few_clusters_note(site_map.groups, "group"):
        return f"Not testable, {few} (run {site_map.run.key})."
    passed, every, how = significant(site_map), _heads(site_map), _how(site_map)
    names = resampling.listed([site(row) for row in passed.iter_rows(named=True)], NAMED)
    if passed.is_empty():
        return f"No single one of {every} is shown to change this when replaced ({how})."
    change = "is estimated to change" if site_map.estimated else "changes" if passed.height == 1 else "change"
    change = change.replace("is estimated", "are estimated") if passed.height > 1 else change
    return f"{passed.height} of {every} {change} this when replaced: {names} ({how})."


def both(part: Part) -> list[str]:
    """Sentences that say which sites were measured where all were estimated, and which numbers count."""
    lines = []
    for estimates in part.shown:
        if exact := part.measured(estimates):
            chosen, every = (m.ranked.filter(schemas.heads_and_mlps()).height for m in (exact, estimates))
            measured = f"Run {exact.run.key} measured {chosen} chosen sites"
            estimated = f"run {estimates.run.key} estimated {every}"
            counts = "where a site has both numbers, the measured one counts"
            lines.append(f"{measured}, {estimated}: {counts}.")
    return lines


def recovery(site_map: Map) -> str | None:
    """The total effect and what the strongest head recovers of it; None where the source is no twin."""
    whole = total(site_map)
    if whole is None:
        return None
    first = site_map.sites("z").sort(pl.col("recovered").abs(), descending=True, nulls_last=True)
    share = next(first.iter_rows(named=True), None)
    text = f"Run {site_map.run.key}: exchanging the whole prompt for its twin changes it by "
    text += interval(whole, site_map.unit)
    if share is None:
        return text + "."
    if share["recovered"] is None:
        return text + "; no share recovered is given, because that interval holds 0."
    if share["recovered_low"] is not None and share["recovered_low"] <= 0 <= share["recovered_high"]:
        return f"{text}; no single head is shown to recover a share of it."
    how = "is estimated to recover" if site_map.estimated else "alone recovers"
    known = f"{number(share['recovered'])} {digits(share, 'recovered')}".rstrip()
    return f"{text}; {site(share)} {how} {known} of it."


def total(site_map: Map) -> dict[str, Any] | None:
    """The row of the total effect on the ranking statistic, None where there is none."""
    same = {"component": TOTAL, "subset": "all", "metric": "target", "statistic": site_map.statistic}
    return next(site_map.rows.filter(**same).iter_rows(named=True), None)


def clean(part: Part) -> dict[str, Any] | None:
    """The clean model's ranking statistic, None where no baseline was run."""
    return None if part.baseline is None else headline(part.baseline.summary)


def edited(run: ReportRun) -> str:
    """What the model of a baseline prefers while something is replaced, in words."""
    verdict = of(run.summary, run.data, run.folder, run.record.subject)
    start = f"Run {run.key}{run.record.given}"
    return f"{start}: target was not measured." if verdict is None else f"{start}: {verdict.sentence}"
