"""Findings as sentences made from the numbers of one run each, which they name: never more than the intervals and the test say."""

import shlex
from typing import Any

import polars as pl

from biasscope.engine import stats
from biasscope.engine.sealing import Seal
from biasscope.engine.types import Site
from biasscope.notes import noun, towards
from biasscope.probe_table import readable
from biasscope.reporting.nouns import Found, Gathered, Part, clean
from biasscope.tables import NONE, number

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


def main_number(part: Part) -> str:
    """The clean model's ranking statistic with its interval and unit."""
    row = clean(part)
    if row is None or part.baseline is None:
        return "not measured"
    name = "slope" if row["statistic"] == "slope" else "mean of target"
    return f"{name} {interval(row, row['unit'])}, {row['n']} examples, {row['clusters']} groups (run {part.baseline.key})"


def clean_model(part: Part) -> str:
    """What the clean model prefers, in a sentence."""
    row = clean(part)
    if row is None or part.baseline is None:
        return f"The clean model was not measured: {command('baseline', part)}"
    measured = f"the clean model's {_statistic(row)} is {interval(row, row['unit'])}"
    return f"Run {part.baseline.key}: {measured}{_verdict(row, part.dataset)}."


def _verdict(row: dict[str, Any], dataset: str) -> str:
    """What an interval says about the clean model, nothing where there is none."""
    if few := stats.few_clusters_note(row["clusters"] or 0, noun(dataset)):
        return f"; not testable, {few}"
    if row["ci_low"] is None:
        return ""
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return ", an interval that holds 0: no preference is shown"
    positive = row["estimate"] > 0
    if row["statistic"] == "slope":
        return f": the more men an occupation has, the more the model prefers {'“he”' if positive else '“she”'}"
    return f": it prefers {towards(dataset)[0 if positive else 1]}"


def sets(circuit: Found) -> str:
    """What keeping the strongest sites alone keeps, against random sets."""
    rows = circuit.summary.filter(pl.col("statistic") == "faithfulness", pl.col("method") == "keep")
    cells = {row["subset"]: row for row in rows.iter_rows(named=True)}
    tops = [row for name, row in cells.items() if name.startswith("top ") and row["estimate"] is not None]
    source = circuit.summary["source"].drop_nulls().to_list()[0]
    start = f"Run {circuit.key}, sets of sites ({SOURCES.get(source, source)})"
    if not tops:
        return f"{start}: f is not given, because the whole model and none of it may not differ."
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
    return f"{start}: {kept}; {beats}.{end}"


SOURCES = {"corrupt": "twins", "mean": "mean ablation", "zero": "zero ablation", "resample": "resampled"}


def probe(found: Found) -> str:
    """Where a probe reads best, against shuffled labels and its own control."""
    rows = found.summary.filter(pl.col("method") == "probe", pl.col("statistic") == "accuracy")
    best = rows.filter(pl.col("estimate").is_not_null()).sort("estimate", descending=True, maintain_order=True).head(1)
    against = " against unrelated words" if found.record.params.get("negatives") == "unrelated" else ""
    start = f"Run {found.key}, probe for {(rows['metric'][0] if rows.height else '?') + against}"
    start += f" ({found.record.params.get('position', 'last')} token)"
    if best.is_empty():
        return f"{start}: no accuracy."
    row = best.row(0, named=True)
    beside = {name: found.summary.filter(method=name, layer=row["layer"]) for name in ("shuffled", "within groups")}
    band = next(beside["shuffled"].filter(statistic="accuracy").iter_rows(named=True), None)
    selective = beside["within groups"].filter(statistic="selectivity")
    over = "" if band is None or band["ci_high"] is None else f", shuffled labels reach {number(band['ci_high'])}"
    over += f", selectivity {number(selective['estimate'][0])}" if selective.height else ""
    return f"{start}: at best {interval(row)} in row {row['layer']}{over} (the best of {rows.height} rows).{_reads(readable(row, band))}"


def _reads(shown: bool | None) -> str:
    """The verdict on a probe in words, of `probe_table.readable`."""
    if shown is None:
        return " Without an interval there is no verdict."
    return "" if shown else " Its interval is not above the shuffled band: nothing is shown to be readable."


def command(name: str, part: Part, more: str = "") -> str:
    """The command that would measure what is missing."""
    return f"{shlex.join(['biasscope', name, '--model', part.asked, '--dataset', part.dataset])}{more}"


def not_sealed(found: Gathered) -> str:
    """Which runs' records are checked against nothing; empty where all are sealed."""
    keys = ", ".join(run.key for run in found.used if run.seal is not Seal.SEALED)
    return f"not sealed, made by an older version or copied: {keys}" if keys else ""


def _statistic(row: dict[str, Any]) -> str:
    """The ranking statistic of a row, in words."""
    return "slope of target on the share of men" if row["statistic"] == "slope" else "mean of target"
