"""Findings as sentences made from the numbers: never more than the intervals and the family-wise test say."""

import shlex
from typing import Any

import polars as pl

from biasscope.engine import stats
from biasscope.engine.resampling import MIN_CLUSTERS
from biasscope.engine.sealing import Seal
from biasscope.engine.types import Site
from biasscope.reporting.nouns import Found, Gathered, Map, Part, clean, total
from biasscope.tables import NONE, number

NAMED = 4
"""Sites named in a sentence."""

LIMITS = (
    "Where a bias could be edited: a site whose replacement changes a score need not be the place to change it (Hase et al. 2023).",
    "That a model is free of bias: a score that is lower, or not shown to differ from 0, is about these sentences only.",
    "What the data cannot show: StereoSet's pairs have been criticised as a measure of stereotyping (Blodgett et al. 2021; "
    "Pikuliak et al. 2023), its fillers differ in frequency so that 0 is not “unbiased”, and WinoGender asks for two pronouns in English.",
    "Other groups: intervals are over the terms and occupations of the data, as if they were drawn from more of their kind.",
    "A neutral point: a twin has stereotypes of its own; a patched effect is what is specific to the term against another of its class.",
)
"""What no run of this program shows."""


def interval(row: dict[str, Any] | None, unit: str = "") -> str:
    """Estimate, 95 % interval and unit: "0.607 [0.372, 0.843] nats/SD"."""
    if row is None or row["estimate"] is None:
        return NONE
    ends = f" [{number(row['ci_low'])}, {number(row['ci_high'])}]" if row["ci_low"] is not None else " (no interval)"
    return number(row["estimate"]) + ends + (f" {unit}" if unit else "")


def site(row: dict[str, Any]) -> str:
    """A site's short name."""
    return str(Site(row["layer"], row["component"], row["head"]))


def significant(found: Map, component: str = "z") -> pl.DataFrame:
    """The sites of a component with p_family < 0.05, the largest first."""
    rows = found.sites(component).filter(pl.col("p_family") < 0.05)
    return rows.sort(pl.col("estimate").abs(), descending=True)


def main_number(part: Part) -> str:
    """The clean model's ranking statistic with its interval and unit."""
    row = clean(part)
    if row is None:
        return "not measured"
    name = "slope" if row["statistic"] == "slope" else "mean of target"
    return f"{name} {interval(row, row['unit'])}, {row['n']} examples, {row['clusters']} groups"


def clean_model(part: Part) -> str:
    """What the clean model prefers, in a sentence."""
    row = clean(part)
    if row is None:
        return f"The clean model was not measured: {command('baseline', part)}"
    few = stats.few_clusters_note(row["clusters"] or 0, _noun(part))
    if few:
        return f"The clean model's {_statistic(row)} is {interval(row, row['unit'])}; not testable, {few}."
    if row["ci_low"] is None:
        return f"The clean model's {_statistic(row)} is {interval(row, row['unit'])}."
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return f"No preference is shown: the clean model's {_statistic(row)} is {interval(row, row['unit'])}, an interval that holds 0."
    if row["statistic"] == "slope":
        way = "the more men an occupation has, the more the model prefers “he”" if row["estimate"] > 0 else "against the labour statistics"
    else:
        way = "it prefers the stereotype's word" if row["estimate"] > 0 else "it prefers the anti-stereotype's word"
    return f"The clean model's {_statistic(row)} is {interval(row, row['unit'])}: {way}."


def found_sites(found: Map) -> str:
    """Which heads pass the family-wise test, or that none does."""
    heads = found.sites("z")
    kind = "heads"
    if heads.is_empty():
        heads, kind = found.sites("mlp_out"), "MLPs"
    groups = max(found.ranked["clusters"].drop_nulls().to_list(), default=0)
    if groups < MIN_CLUSTERS:
        return f"{found.name}: not testable, {stats.few_clusters_note(groups, 'group')}."
    component = "z" if kind == "heads" else "mlp_out"
    passed = significant(found, component)
    effect = f"change of the {_statistic({'statistic': found.statistic})}, {found.unit}"
    if passed.is_empty():
        least = detectable(found)
        missed = f" An effect below {number(least)} {found.unit} would probably have been missed." if least is not None else ""
        return f"{found.name}: none of {heads.height} {kind} passes the family-wise test.{missed}"
    named = ", ".join(f"{site(row)} {interval(row)}" for row in passed.head(NAMED).iter_rows(named=True))
    more = f" and {passed.height - NAMED} more" if passed.height > NAMED else ""
    return f"{found.name}: {passed.height} of {heads.height} {kind} pass the family-wise test ({effect}): {named}{more}."


def short_sites(found: Map) -> str:
    """The same for a cell of a table."""
    heads = found.sites("z")
    groups = max(found.ranked["clusters"].drop_nulls().to_list(), default=0)
    if groups < MIN_CLUSTERS:
        return f"not testable ({stats.few_clusters_note(groups, 'group')})"
    passed = significant(found)
    names = ", ".join(site(row) for row in passed.head(NAMED).iter_rows(named=True))
    names = f": {names}{', …' if passed.height > NAMED else ''}" if names else ""
    return f"{passed.height} of {heads.height} heads{names} ({found.name})"


def recovery(found: Map) -> str | None:
    """The total effect and what the strongest head recovers of it; None where the source is no twin."""
    whole = total(found)
    if whole is None:
        return None
    first = found.sites("z").sort(pl.col("recovered").abs(), descending=True, nulls_last=True).head(1)
    share = first.row(0, named=True) if first.height else None
    text = f"Exchanging the whole prompt for its twin changes it by {interval(whole, found.unit)}"
    if share is None or share["recovered"] is None:
        return text + "; no share recovered is given, because that interval holds 0."
    if share["recovered_low"] is not None and share["recovered_low"] <= 0 <= share["recovered_high"]:
        return f"{text}; no single head is shown to recover a share of it."
    ends = f" [{number(share['recovered_low'])}, {number(share['recovered_high'])}]" if share["recovered_low"] is not None else ""
    return f"{text}; {site(share)} alone recovers {number(share['recovered'])}{ends} of it."


def detectable(found: Map) -> float | None:
    """The smallest effect found with power 0.8 at one of all heads."""
    row = _trusted(found, "detectable_family")
    return None if row is None else row["estimate"]


def repeated(found: Map) -> str | None:
    """How many of the ten strongest heads a random half of the groups repeats; None where there are too few groups."""
    row = _trusted(found, "split_top10")
    if row is None or row["estimate"] is None:
        return None
    low, middle, high = (f"{10 * (row[name] or 0):.0f}" for name in ("low", "estimate", "high"))
    return f"{middle} of the 10 strongest heads come up again in the other half of the groups (5–95 % of splits: {low} to {high})"


def _trusted(found: Map, quantity: str) -> dict[str, Any] | None:
    table = found.run.reliability
    if table is None:
        return None
    rows = table.filter(quantity=quantity, source=found.source, method=found.method, component="z", statistic=found.statistic)
    rows = rows.filter(pl.col("heads"))
    return rows.row(0, named=True) if rows.height else None


def specific(part: Part) -> str | None:
    """The most and least specific of the significant heads; None without a control."""
    for found in part.maps:
        rows = found.sites("z").filter(pl.col("specificity").is_not_null()).sort("specificity", descending=True)
        if rows.height:
            first, last = rows.row(0, named=True), rows.row(-1, named=True)
            return (
                f"Most specific of the significant heads is {site(first)} ({number(first['specificity'])}), least {site(last)} "
                f"({number(last['specificity'])}): the share of bias in bias, competence and factual gender."
            )
    return None


def sets(circuit: Found) -> str:
    """What keeping the strongest sites alone keeps, against random sets."""
    rows = circuit.summary.filter(pl.col("statistic") == "faithfulness", pl.col("method") == "keep")
    cells = {row["subset"]: row for row in rows.iter_rows(named=True)}
    tops = [row for name, row in cells.items() if name.startswith("top ") and row["estimate"] is not None]
    source = circuit.summary["source"].drop_nulls().to_list()[0]
    if not tops:
        return f"Sets of sites ({SOURCES.get(source, source)}): f is not given, because the whole model and none of it may not differ."
    better = [
        row for row in tops if row["ci_low"] is not None and row["ci_low"] > (cells[row["subset"].replace("top", "random")]["ci_high"] or 0)
    ]
    last = tops[-1]
    kept = f"the {last['subset'].split()[1]} strongest keep f = {interval(last)} of groups that did not choose them"
    beats = f"more than random sets from {better[0]['subset'].split()[1]} sites on" if better else "never more than random sets"
    small = [row for name, row in cells.items() if name.startswith("minimal ")]
    end = ""
    if small:
        row = small[0]
        sure = row["ci_low"] is not None and row["ci_low"] > 0
        end = f" The minimal set of {row['subset'].split()[1]} keeps {interval(row)} there{'' if sure else ', which does not confirm it'}."
    return f"Sets of sites ({SOURCES.get(source, source)}): {kept}; {beats}.{end}"


SOURCES = {"corrupt": "twins", "mean": "mean ablation", "zero": "zero ablation", "resample": "resampled"}


def probe(found: Found) -> str:
    """Where a probe reads best, against shuffled labels and its own control."""
    rows = found.summary.filter(pl.col("method") == "probe", pl.col("statistic") == "accuracy")
    best = rows.filter(pl.col("estimate").is_not_null()).sort("estimate", descending=True, maintain_order=True).head(1)
    against = " against unrelated words" if found.record.params.get("negatives") == "unrelated" else ""
    task = (rows["metric"][0] if rows.height else "?") + against
    where = found.record.params.get("position", "last")
    if best.is_empty():
        return f"Probe for {task} ({where} token): no accuracy."
    row = best.row(0, named=True)
    beside = {name: found.summary.filter(method=name, layer=row["layer"]) for name in ("shuffled", "within groups")}
    band = beside["shuffled"].filter(statistic="accuracy")
    high = band["ci_high"][0] if band.height else None
    selective = beside["within groups"].filter(statistic="selectivity")
    over = "" if high is None else f", shuffled labels reach {number(high)}"
    over += f", selectivity {number(selective['estimate'][0])}" if selective.height else ""
    shown = high is not None and row["ci_low"] is not None and row["ci_low"] > high
    end = "" if shown or high is None else " Its interval is not above the shuffled band: nothing is shown to be readable."
    return f"Probe for {task} ({where} token): at best {interval(row)} in row {row['layer']}{over} (the best of {rows.height} rows).{end}"


def command(name: str, part: Part, more: str = "") -> str:
    """The command that would measure what is missing."""
    return f"{shlex.join(['biasscope', name, '--model', part.asked, '--dataset', part.dataset])}{more}"


def not_sealed(found: Gathered) -> str:
    """Which runs' records are checked against nothing; empty where all are sealed."""
    keys = ", ".join(run.key for run in found.used if run.seal is not Seal.SEALED)
    return f"not sealed, made by an older version or copied: {keys}" if keys else ""


def _statistic(row: dict[str, Any]) -> str:
    return "slope of target on the share of men" if row["statistic"] == "slope" else "mean of target"


def _noun(part: Part) -> str:
    return "term" if part.dataset.startswith("stereoset") else "group"
