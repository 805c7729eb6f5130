"""Two models on one data set: the sentence that answers which is less stereotyped, and the differences."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.schemas import NONE, number
from biasscope.engine.statistics import paired
from biasscope.engine.statistics.inference import resampling
from biasscope.engine.statistics.summary import BIAS
from biasscope.engine.store.runs import DatasetPart
from biasscope.engine.types import Site
from biasscope.report import numbers, tables
from biasscope.report.formats import records
from biasscope.report.page.odds import exact
from biasscope.report.page.pairing import Pair
from biasscope.report.page.runs import ReportRun
from biasscope.report.tables import Table, probability

if TYPE_CHECKING:
    from biasscope.report.page.blocks import Section

SITES = 10
"""Sites shown, those that differ most."""
CASES = {
    "same": "No: the two give the same numbers",
    "weaker": "Yes, on these sentences",
    "stronger": "No, it is the other way round",
    "reversed": "No: it leans the other way now",
    "against_less": "No: what leaned against the stereotype does so less",
    "against_more": "It leans against the stereotype more",
    "neither": "They differ, but neither is shown to lean to a side",
    "open": "Not shown: the interval of the difference holds 0",
    "untestable": "Cannot be said",
}
"""Whether the second model is less stereotyped, in words."""
PLAIN = CASES | {
    "same": "The two give the same numbers",
    "weaker": "Weaker",
    "stronger": "Stronger",
    "reversed": "The other way round",
    "against_less": "Weaker",
    "against_more": "Stronger",
    "open": "No difference is shown: its interval holds 0",
}
"""The same where the data do not say that one side is a stereotype."""


def document(pair: Pair) -> dict[str, Any]:
    """The pair as programs read it."""
    about: dict[str, Any] = {"first": pair.first.key, "second": pair.second.key, "names": list(pair.names)}
    about |= {"dataset": pair.data.name, "kind": pair.kind, **vars(pair.matched)}
    about |= {"case": None if pair.headline is None else case(pair), "sentence": sentence(pair)}
    return {**about, "notes": list(pair.notes), "differences": list(records([pair.differences]))}


def case(pair: Pair) -> str:
    """Which of CASES the headline is. Which way a run leans is said by its own interval: of SS the neutral
    value is 50, of all else 0.
    """
    row = pair.headline
    if row is None or not paired.testable(row):
        return "untestable"
    if row["ci_low"] == row["ci_high"] == 0:
        return "same"
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return "open"
    leans = {_leans(run, row) for run in (pair.first, pair.second)}
    if leans == {0}:
        return "neither"
    if leans == {-1, 1}:
        return "reversed"
    lower = row["estimate"] < 0
    if -1 in leans:
        return "against_more" if lower else "against_less"
    return "weaker" if lower else "stronger"


def _leans(run: ReportRun, row: dict[str, Any]) -> int:
    """1 or −1: the interval of a run's own statistic lies above or below its neutral value; 0: neither."""
    neutral = 50.0 if row["statistic"] == "ss" else 0.0
    own = run.summary.filter(pl.col("component").is_null(), subset="all", metric=row["metric"])
    own = own.filter(pl.col("ci_low").is_not_null(), statistic=row["statistic"])
    if own.is_empty():
        return 0
    low, high = own.select("ci_low", "ci_high").row(0)
    return int(low > neutral) - int(high < neutral)


def sentence(pair: Pair) -> str | None:
    """Whether the second model is less stereotyped than the first, with the interval; None: nothing says."""
    row = pair.headline
    if row is None:
        return None
    which, (first, second) = case(pair), pair.names
    start = (CASES if pair.data.bias else PLAIN)[which]
    clause = "," * bool(pair.second.record.given)  # it ends here
    asked = f"{second} beside {first}: "
    if pair.data.bias:
        asked = f"Is {second}{clause} less stereotyped than {first}? "
    if which == "untestable":
        few = resampling.few_clusters_note(row["clusters"] or 0, pair.data.noun)
        return f"{asked}{start}: {few or 'the difference has no interval'}."
    return f"{asked}{start}. {_change(row, pair.data)}{_cost(pair)}"


def _change(row: dict[str, Any], data: DatasetPart) -> str:
    """What changed, from what to what, with the difference and its interval."""
    first, second = (row[f"{side}_estimate"] for side in ("first", "second"))
    p = "" if row["p"] is None else f", p {_equals(row['p'])}"
    change = f"{number(second)} instead of {number(first)}: a difference of {number(row['estimate'])} "
    change += f"{numbers.digits(row)} {row['unit']}{p}, over {row['n']} examples in {row['clusters']} groups"
    if row["statistic"] == "ss":
        return f"SS (50: neither side preferred) is {change}."
    odds = f"{exact(second)} instead of {exact(first)}"
    if row["statistic"] == "slope":
        with_ = f"each standard deviation more of the {tables.on(data)}"
        return f"The slope is {change}; {with_} multiplies the odds of {data.sides[0]} by {odds}."
    return f"The mean is {change}; the odds of {data.sides[0]} are {odds}."


def _equals(p: float) -> str:
    return probability(p) if p < schemas.SMALL else f"= {probability(p)}"


def _cost(pair: Pair) -> str:
    """What became of the competence, or of LMS, in a sentence; empty where neither was measured."""
    whole = pair.differences.filter(subset="all")
    for metric, statistic, name in (
        ("competence", "mean", "Competence"),
        ("stereoset", "lms", "LMS"),
        ("likelihood", "lms", "LMS"),
    ):
        row = next(whole.filter(metric=metric, statistic=statistic).iter_rows(named=True), None)
        if row is not None and row["ci_low"] is not None and pair.kind == "baseline":
            held = row["ci_low"] <= 0 <= row["ci_high"]
            told = "not shown to change" if held else "changed"
            return f" {name} {told}: {number(row['estimate'])} {numbers.digits(row)} {row['unit']}."
    return ""


def show(pair: Pair) -> list[Table]:
    """The sentence, and the differences as a table that people read."""
    answer = [Table("", [], [], [text])] if (text := sentence(pair)) else []
    return [*answer, _scores(pair) if pair.kind == "baseline" else _site_rows(pair)]


def section(pairs: Sequence[Pair], dataset: str) -> "list[Section]":
    """What is different between models on a data set; none where there is only one."""
    from biasscope.report.page.blocks import Block, Section, paragraph

    blocks = []
    for pair in (pair for pair in pairs if pair.data.name == dataset):
        answer = sentence(pair)
        blocks += [paragraph(answer)] if answer else []
        blocks.append(Block("table", table=show(pair)[-1]))
    return [Section(f"Between models: {dataset}", blocks, level=3)] if blocks else []


def _legend(pair: Pair) -> list[str]:
    letters = [
        f"{letter}: {name}, run {run.key}"
        for letter, name, run in zip("AB", pair.names, (pair.first, pair.second), strict=True)
    ]
    left = [pair.matched.left] if pair.matched.left else []
    return [*letters, *left, *pair.notes]


def _scores(pair: Pair) -> Table:
    """The differences of two clean models, without the groups one by one."""
    single = f"{pair.data.noun}: "
    rows = [row for row in pair.differences.iter_rows(named=True) if not tables.detail(row, single)]
    sections = [
        [_score(row) for row in part] for _, part in itertools.groupby(rows, key=lambda row: row["metric"])
    ]
    columns = ["score", "over", "A", "B", "B − A [95 % interval]", "p", "k"]
    k = f"k: groups (each {pair.data.noun} is one), the unit of intervals and p"
    notes = [*_legend(pair), "B − A: per example, then over groups: what both have in common cancels"]
    notes += [k, *schemas.legend(rows)]
    hidden = pair.differences.height - len(rows)
    notes += [f"… {left} in `{_command(pair)}`" for left in numbers.rest(hidden, "rows")]
    title = f"{pair.data.name}: what is different"
    return Table(title, columns, sections, notes, ("k", "p"), {"k": k})


def _command(pair: Pair) -> str:
    """What gives all differences."""
    return f"biasscope compare {pair.first.key} {pair.second.key} --json"


def _score(row: dict[str, Any]) -> list[str]:
    ends = [number(row[f"{side}_estimate"]) for side in ("first", "second")]
    count = NONE if row["clusters"] is None else str(row["clusters"])
    return [tables.named(row), row["subset"], *ends, tables.interval(row), probability(row["p"]), count]


def _site_rows(pair: Pair) -> Table:
    """The sites that differ most, by the statistic that ranks."""
    own = pair.differences.filter(metric=BIAS[0], subset="all").filter(schemas.single_sites())
    own = own.filter(pl.col("statistic") == pl.col("statistic").first(), pl.col("component") != schemas.TOTAL)
    rows = own.head(SITES).to_dicts()
    tested = own["p_family"].is_not_null().any()
    body = []
    for row in rows:
        ends = [number(row[f"{side}_estimate"]) for side in ("first", "second")]
        test = [probability(row["p_family"])] if tested else []
        source = f" ({row['source']})" if own["source"].n_unique() > 1 else ""
        body.append([f"{place(row, pair.kind)}{source}", *ends, tables.interval(row), *test])
    columns = ["site", "A", "B", "B − A [95 % interval]", *(["p_family"] if tested else [])]
    what = "effects by depth" if pair.kind == "depth" else "effects of sites"
    title = f"{pair.data.name}: {what} that differ most ({own['statistic'][0]}, {own['unit'][0]})"
    starred = own.filter(schemas.starred()).height
    count = f"{starred} of {own.height} differ significantly" if tested else f"{own.height} compared"
    rest = f"; {own.height - len(rows)} more in `{_command(pair)}`" if own.height > len(rows) else ""
    return Table(title, columns, [body], [*_legend(pair), f"{count}{rest}", *schemas.legend(rows)])


def place(row: dict[str, Any], kind: str) -> str:
    """The name of a site, or of the tenth of the depth."""
    if kind == "depth":
        noun = "heads" if row["component"] == "z" else "MLPs"
        return f"{noun}, {10 * row['layer']}–{10 * row['layer'] + 10} % of the depth"
    position = "" if row["position"] in (None, "all") else f" {row['position']}"
    return f"{Site(row['layer'], row['component'], row['head'])}{position}"
