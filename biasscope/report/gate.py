"""`--fail-if`: which numbers a command has shown are beyond what was allowed, and by how much."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.console import Screen
from biasscope.engine.errors import GateError
from biasscope.engine.gates import Gate
from biasscope.engine.schemas import NONE
from biasscope.engine.store.cache import labelled
from biasscope.engine.store.runs import Result

if TYPE_CHECKING:
    from biasscope.report.page.gather import ReportRun
    from biasscope.report.page.pairing import Pair

ROWS = {"slope": ("target",), "mean": ("target",)} | dict.fromkeys(
    ("ss", "icat", "lms"), ("stereoset", "likelihood")
)
"""Number → the metrics of which it is a statistic."""


@dataclass(frozen=True)
class Reading:
    """A number that was shown, and of whom."""

    who: str
    dataset: str
    number: str
    row: Mapping[str, Any]
    """With estimate, ci_low and ci_high."""


def of_summary(summary: pl.DataFrame, dataset: str, who: str) -> Iterator[Reading]:
    """The numbers of a baseline's SUMMARY."""
    whole = summary.filter(subset="all", method="baseline")
    for number, metrics in ROWS.items():
        rows = whole.filter(pl.col("metric").is_in(metrics), pl.col("statistic") == number)
        for row in rows.iter_rows(named=True):
            yield Reading(who, dataset, number, row)


def of_result(result: Result) -> list[Reading]:
    """The numbers of a finished `baseline`."""
    both = zip(result.record.datasets, result.summaries, strict=True)
    return [
        reading
        for part, summary in both
        for reading in of_summary(summary, part.name, labelled(result.record.name, summary["model"][0]))
    ]


def of_runs(runs: Sequence["ReportRun"], pairs: Sequence["Pair"]) -> list[Reading]:
    """The numbers of the clean models among these runs, and the differences of two models."""
    clean = [run for run in runs if run.record.command == "baseline" and not run.record.given]
    own = (reading for run in clean for reading in of_summary(run.summary, run.data.name, run.model))
    return [*own, *of_pairs(pairs)]


def of_pairs(pairs: Sequence["Pair"]) -> Iterator[Reading]:
    """The difference of each two models: of what ranks."""
    for pair in pairs:
        if (row := pair.headline) is not None:
            first, second = pair.names
            yield Reading(f"{second} − {first}", pair.data.name, "difference", row)


@dataclass(frozen=True)
class Gates:
    """The conditions of one command."""

    conditions: Sequence[Gate] = field(default=())
    untestable: bool = False
    """Whether a number that does not exist fails too."""

    @classmethod
    def parse(cls, texts: Sequence[str] | None, untestable: bool) -> "Gates":
        """The conditions as written. UsageError where one cannot be read."""
        return cls([Gate.parse(text) for text in texts or []], untestable)

    def judge(self, readings: Sequence[Reading], screen: Screen) -> None:
        """Say which conditions cannot be judged. GateError, with each number and by how much, where one holds
        (with `untestable`, or cannot be judged).
        """
        failed = []
        for gate in self.conditions:
            own = [r for r in readings if r.number == gate.number and gate.dataset in (None, r.dataset)]
            known = [r for r in own if r.row[gate.end] is not None]
            failed += [_beyond(gate, r) for r in known if gate.fails(r.row[gate.end])]
            if len(known) == len(own) and own:
                continue
            where = ", ".join(f"{r.who}, {r.dataset}" for r in own if r not in known)
            there = ", ".join(sorted({f"{r.dataset}.{r.number}" for r in readings})) or "nothing"
            what = f"no such number of {where}" if own else f"there is no such number (there are: {there})"
            text = f"not testable: {gate.text}: {what}"
            if self.untestable:
                failed.append(text)
            else:
                screen.warn(text)
        if failed:
            raise GateError("--fail-if: " + "\n".join(failed))


def _beyond(gate: Gate, reading: Reading) -> str:
    """Which number is beyond its limit, and by how much."""
    value, unit = reading.row[gate.end], reading.row["unit"]
    ends = [reading.row[end] for end in ("ci_low", "ci_high")]
    shown = NONE if None in ends else f"[{_plain(ends[0])}, {_plain(ends[1])}]"
    about = f"{reading.dataset}.{reading.number}" + ("" if gate.end == "estimate" else f".{gate.end}")
    number = f"{about} of {reading.who} is {_plain(value)} {unit} {shown}"
    return f"{number}: {gate.sign} {_plain(gate.value)}, by {_plain(abs(value - gate.value))}"


def _plain(number: float) -> str:
    return f"{number:.4g}".replace("-", "−")
