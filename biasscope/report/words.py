"""Findings as sentences, each from the numbers of one run that it names, and no more than they say."""

import shlex
from typing import Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, RELIABILITY, TOTAL, number
from biasscope.engine.statistics import resampling
from biasscope.engine.statistics.resampling import MIN_CLUSTERS
from biasscope.engine.statistics.summary import SITE
from biasscope.engine.store.seals import Seal
from biasscope.engine.types import Site
from biasscope.report import reliability
from biasscope.report.gather import LISTED, Gathered, Map, Part, ReportRun
from biasscope.report.tables import noun, overlap, towards

LIMITS = (
    "Where a bias could be edited: a site whose replacement changes a score need not be the place to change "
    "it (Hase et al. 2023).",
    "That a model is free of bias: a score that is lower, or not shown to differ from 0, is about these "
    "sentences only.",
    "What the data cannot show: StereoSet's pairs have been criticised as a measure of stereotyping "
    "(Blodgett et al. 2021; "
    "Pikuliak et al. 2023), its fillers differ in frequency so that 0 is not “unbiased”, and WinoGender asks "
    "for two pronouns in English.",
    "Other groups: intervals are over the terms and occupations of the data, as if they were drawn from more "
    "of their kind.",
    "A neutral point: a twin has stereotypes of its own; a patched effect is what is specific to the term "
    "against another of its class.",
)
"""What no run of this program shows."""
NAMED = 4
"""Sites named in a sentence."""


def interval(row: dict[str, Any] | None, unit: str = "") -> str:
    """Estimate, 95 % interval and unit: "0.607 [0.372, 0.843] nats/SD"."""
    if row is None or row["estimate"] is None:
        return NONE
    ends = (
        f" [{number(row['ci_low'])}, {number(row['ci_high'])}]"
        if row["ci_low"] is not None
        else " (no interval)"
    )
    return number(row["estimate"]) + ends + (f" {unit}" if unit else "")


def site(row: dict[str, Any]) -> str:
    """A site's short name."""
    return str(Site(row["layer"], row["component"], row["head"]))


def main_number(part: Part) -> str:
    """The clean model's ranking statistic with its interval and unit."""
    row = clean(part)
    if row is None or part.baseline is None:
        return "not measured"
    name = "slope" if row["statistic"] == "slope" else "mean of target"
    return (
        f"{name} {interval(row, row['unit'])}, {row['n']} examples, {row['clusters']} groups (run "
        f"{part.baseline.key})"
    )


def clean_model(part: Part) -> str:
    """What the clean model prefers, in a sentence."""
    row = clean(part)
    if row is None or part.baseline is None:
        return f"The clean model was not measured: {command('baseline', part)}"
    measured = f"the clean model's {_statistic(row)} is {interval(row, row['unit'])}"
    return f"Run {part.baseline.key}: {measured}{_verdict(row, part.dataset)}."


def edited_model(run: ReportRun) -> str:
    """What the model prefers in which something was replaced all the while, in a sentence."""
    row = headline(run)
    if row is None:
        return f"Run {run.key}{run.given}: target was not measured."
    measured = f"Run {run.key}{run.given}: the model's {_statistic(row)} is {interval(row, row['unit'])}"
    return f"{measured}{_verdict(row, run.dataset)}."


def _verdict(row: dict[str, Any], dataset: str) -> str:
    """What an interval says about the clean model, nothing where there is none."""
    if few := resampling.few_clusters_note(row["clusters"] or 0, noun(dataset)):
        return f"; not testable, {few}"
    if row["ci_low"] is None:
        return ""
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return ", an interval that holds 0: no preference is shown"
    positive = row["estimate"] > 0
    if row["statistic"] == "slope":
        return (
            f": the more men an occupation has, the more the model prefers {'“he”' if positive else '“she”'}"
        )
    return f": it prefers {towards(dataset)[0 if positive else 1]}"


def command(name: str, part: Part, more: str = "") -> str:
    """The command that would measure what is missing."""
    return f"{shlex.join(['biasscope', name, '--model', part.model_option, '--dataset', part.dataset])}{more}"


def not_sealed(gathered: Gathered) -> str:
    """Which runs' records are checked against nothing; empty where all are sealed."""
    keys = ", ".join(run.key for run in gathered.used if run.seal is not Seal.SEALED)
    return f"not sealed, made by an older version or copied: {keys}" if keys else ""


def _statistic(row: dict[str, Any]) -> str:
    """The ranking statistic of a row, in words."""
    return "slope of target on the share of men" if row["statistic"] == "slope" else "mean of target"


def significant(site_map: Map, component: str = "z") -> pl.DataFrame:
    """The starred sites of a component, the largest first."""
    return site_map.sites(component).filter(schemas.starred()).sort(pl.col("estimate").abs(), descending=True)


def found_sites(site_map: Map, beside: Map | None = None) -> str:
    """Which heads are significant, or that none is; of estimates, those that were not measured `beside`."""
    component, kind = ("mlp_out", "MLPs") if site_map.sites("z").is_empty() else ("z", "heads")
    start = f"Run {site_map.run.key} ({site_map.name}{_family(site_map)})"
    groups = max(site_map.ranked["clusters"].drop_nulls().to_list(), default=0)
    if groups < MIN_CLUSTERS:
        return f"{start}: not testable, {resampling.few_clusters_note(groups, 'group')}."
    passed, every = significant(site_map, component), site_map.sites(component).height
    if passed.is_empty():
        least = detectable(site_map)
        missed = (
            ""
            if least is None
            else f" An effect of {number(least)} {site_map.unit} or more would probably have been found."
        )
        return f"{start}: none of {every} {kind} is significant.{missed}"
    are = "is" if passed.height == 1 else "are"
    return (
        f"{start}: {passed.height} of {every} {kind} {are} significant ({site_map.statistic}, "
        f"{site_map.unit}): {_named(passed, beside)}."
    )


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
    every = sites_of(site_map)
    return "" if every[1] >= every[0] else f"; of all {every[0]} sites, {every[1]} measured"


def sites_of(site_map: Map) -> tuple[int, int]:
    """How many sites the family has, and how many of them this map holds numbers of."""
    row = _trusted(site_map, "family_sites", kind="single")
    own = site_map.ranked.filter(pl.col("p_family").is_not_null(), schemas.heads_and_mlps()).height
    return (own, own) if row is None else (int(row["estimate"]), row["n"])


def families(gathered: Gathered) -> str:
    """The family's size of each shown run: "300 (run 79a2, 20 of them measured), 54 (runs 1f2e, 8c01)"."""
    runs = {m.run.key: sites_of(m) for part in gathered.parts for m in part.shown}
    sizes: dict[tuple[int, str], list[str]] = {}
    for key, (every, measured) in runs.items():
        sizes.setdefault((every, f", {measured} of them measured" if measured < every else ""), []).append(
            key
        )
    return ", ".join(
        f"{n} (run{'s' if len(keys) > 1 else ''} {', '.join(keys)}{extent})"
        for (n, extent), keys in sizes.items()
    )


def short_sites(site_map: Map) -> str:
    """Which heads are significant, short enough for a cell of a table."""
    heads = site_map.sites("z")
    groups = max(site_map.ranked["clusters"].drop_nulls().to_list(), default=0)
    if groups < MIN_CLUSTERS:
        return f"not testable ({resampling.few_clusters_note(groups, 'group')})"
    passed = significant(site_map)
    names = ", ".join(site(row) for row in passed.head(NAMED).iter_rows(named=True))
    names = f": {names}{', …' if passed.height > NAMED else ''}" if names else ""
    return (
        f"{passed.height} of {heads.height} heads{names} ({site_map.name}{_family(site_map)}; run "
        f"{site_map.run.key})"
    )


def both(part: Part) -> list[str]:
    """Sentences that say which sites were measured where all were estimated, and which numbers count."""
    lines = []
    for estimates in part.shown:
        if exact := part.measured(estimates):
            chosen, every = (m.ranked.filter(schemas.heads_and_mlps()).height for m in (exact, estimates))
            lines.append(
                f"Run {exact.run.key} measured {chosen} chosen sites, run {estimates.run.key} estimated "
                f"{every}: "
                "where a site has both numbers, the measured one counts."
            )
    return lines


def recovery(site_map: Map) -> str | None:
    """The total effect and what the strongest head recovers of it; None where the source is no twin."""
    whole = total(site_map)
    if whole is None:
        return None
    first = site_map.sites("z").sort(pl.col("recovered").abs(), descending=True, nulls_last=True).head(1)
    share = first.row(0, named=True) if first.height else None
    text = (
        f"Run {site_map.run.key}: exchanging the whole prompt for its twin changes it by "
        f"{interval(whole, site_map.unit)}"
    )
    if share is None or share["recovered"] is None:
        return text + "; no share recovered is given, because that interval holds 0."
    if share["recovered_low"] is not None and share["recovered_low"] <= 0 <= share["recovered_high"]:
        return f"{text}; no single head is shown to recover a share of it."
    ends = (
        f" [{number(share['recovered_low'])}, {number(share['recovered_high'])}]"
        if share["recovered_low"] is not None
        else ""
    )
    how = "is estimated to recover" if site_map.estimated else "alone recovers"
    return f"{text}; {site(share)} {how} {number(share['recovered'])}{ends} of it."


def detectable(site_map: Map) -> float | None:
    """The effect found with power 0.8 at one of all heads."""
    row = _trusted(site_map, "detectable_family")
    return None if row is None else row["estimate"]


def repeated(site_map: Map) -> str | None:
    """How many of the ten strongest heads repeat in half of the groups; None where luck gives most."""
    row, chance = _trusted(site_map, "split_top10"), _trusted(site_map, "split_top10_chance")
    if row is None or row["estimate"] is None:
        return None
    luck = (chance and chance["estimate"]) or LISTED / max(1, site_map.sites("z").height)
    text = overlap(LISTED * row["estimate"], LISTED, LISTED * luck)
    return None if text == NONE else text


def certainty(site_map: Map) -> list[str]:
    """What repeats in the other half of the groups, and how often a star would appear without an effect."""
    row, again = _trusted(site_map, "split_top10"), repeated(site_map)
    lines = []
    if row and again:
        count, luck = again.split(", ")
        low, high = (f"{LISTED * (row[name] or 0):.0f}" for name in ("low", "high"))
        text = (
            f"of the {LISTED} strongest heads {count.split()[0]} come up again in the other half of the "
            "groups"
        )
        lines.append(f"Run {site_map.run.key}: {text} (5–95 % of splits: {low} to {high}; {luck}).")
    if site_map.run.reliability is not None and (alarms := reliability.false_alarms(_own(site_map))):
        lines.append(f"Run {site_map.run.key}: {alarms}.")
    return lines


def _own(site_map: Map) -> pl.DataFrame:
    """RELIABILITY of the map's method and source, and what is of all sources together."""
    table = site_map.run.reliability
    return (
        RELIABILITY.to_frame()
        if table is None
        else table.filter(
            (pl.col("source") == site_map.source) | pl.col("source").is_null(), method=site_map.method
        )
    )


def _trusted(site_map: Map, quantity: str, kind: str = "z") -> dict[str, Any] | None:
    """The row of a quantity of heads (`z`), or of heads and MLPs together (`single`)."""
    rows = _own(site_map).filter(
        pl.col("heads") == (kind == "z"), quantity=quantity, component=kind, statistic=site_map.statistic
    )
    return rows.row(0, named=True) if rows.height else None


def total(site_map: Map) -> dict[str, Any] | None:
    """The row of the total effect on the ranking statistic, None where there is none."""
    rows = site_map.rows.filter(
        pl.col("component") == TOTAL, pl.col("subset") == "all", pl.col("metric") == "target"
    )
    rows = rows.filter(pl.col("statistic") == site_map.statistic)
    return rows.row(0, named=True) if rows.height else None


def clean(part: Part) -> dict[str, Any] | None:
    """The clean model's ranking statistic, None where no baseline was run."""
    return None if part.baseline is None else headline(part.baseline)


def headline(run: ReportRun) -> dict[str, Any] | None:
    """A baseline's ranking statistic, None where it has no target."""
    rows = run.summary.filter(
        pl.col("metric") == "target", pl.col("subset") == "all", pl.col("statistic").is_in(["slope", "mean"])
    )
    slopes = rows.filter(pl.col("statistic") == "slope")
    rows = slopes if slopes.height else rows
    return rows.row(0, named=True) if rows.height else None
